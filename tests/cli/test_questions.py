"""`crossmamba questions make|check` from end to end: files, exit codes, an endpoint that works, one that does not."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from crossmamba.cli import main
from crossmamba.data.epic.annotations import COLUMNS
from crossmamba.data.epic.classes import ClassTable
from tests.questions.fake_endpoint import Handler, endpoint
from tests.questions.toy import NOUNS, ROWS, VERBS


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Annotations of the toy rows beside its class tables."""

    def write(name: str, header: tuple[str, ...], rows: list[tuple]) -> None:
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([header, *rows])

    def classes(table: ClassTable) -> None:
        rows = [(n, key, list(table.instances[n]), table.categories[n]) for n, key in enumerate(table.keys)]
        write(f"EPIC_100_{table.kind}_classes.csv", ("id", "key", "instances", "category"), rows)

    classes(VERBS)
    classes(NOUNS)
    rows = []
    for n, row in enumerate(ROWS):
        times = ("00:00:01.000", f"00:00:0{n}.50", f"00:00:0{n + 1}.50", 60 * n + 30, 60 * n + 90)
        words = (row.narration, row.verb, row.verb_class, row.noun, row.noun_class, list(row.all_nouns))
        rows.append((row.narration_id, "P01", "P01_01", *times, *words, [NOUNS.number(w) for w in row.all_nouns]))
    write("train.csv", COLUMNS, rows)
    write("test.csv", COLUMNS[:8], [row[:8] for row in rows])
    return tmp_path


def make(root: Path, *options: str, annotations: str = "train.csv", out: str = "q.jsonl") -> int:
    return main(["questions", "make", "--annotations", str(root / annotations), "--out", str(root / out), *options])


def check(root: Path, *options: str, annotations: str = "train.csv") -> int:
    return main(["questions", "check", str(root / "q.jsonl"), "--annotations", str(root / annotations), *options])


def test_templates(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(root, "--source", "oracle") == 0
    assert "question source: ORACLE" in capsys.readouterr().out
    first = (root / "q.jsonl").read_bytes()
    assert check(root) == 0
    assert "all well" in capsys.readouterr().out
    assert make(root, "--source", "oracle") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert make(root, "--source", "oracle", "--overwrite", "--json") == 0
    assert json.loads(capsys.readouterr().out)["makers"] == {"template": 5}
    assert (root / "q.jsonl").read_bytes() == first
    assert make(root, "--source", "oracle", out="train.jsonl") == 0
    assert check(root, "--train", str(root / "train.jsonl"), "--train-annotations", str(root / "train.csv")) == 0


def test_test_rows(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(root, "--source", "oracle", annotations="test.csv") == 3
    assert "no classes" in capsys.readouterr().err
    assert make(root, "--source", "generic", annotations="test.csv") == 0
    lines = ["narration_id,verb_class,noun_class", *(f"{row.narration_id},1,2" for row in ROWS)]
    (root / "p.csv").write_text("\n".join(lines), encoding="utf-8")
    predicted = ("--source", "predicted", "--predicted", str(root / "p.csv"), "--overwrite")
    assert make(root, *predicted, annotations="test.csv") == 0
    assert check(root, annotations="test.csv") == 0
    assert check(root, "--json") == 0  # the same rows with labels
    out = capsys.readouterr().out
    assert json.loads(out[out.index("{\n") :])["agreement"]["verb"] == 0.4


def test_a_leak_is_exit_code_3(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(root, "--source", "oracle")
    text = (root / "q.jsonl").read_text(encoding="utf-8").replace("<mask>", "tap")
    (root / "q.jsonl").write_text(text, encoding="utf-8")
    capsys.readouterr()
    assert check(root) == 3
    assert "still name an answer" in capsys.readouterr().out


def test_endpoint(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--source", "oracle", "--writer", "endpoint", "--model", "m", "--concurrency", "2")
    with endpoint(lambda handler, number, body: handler.good(body)) as server:
        url = ("--url", server.url)
        assert make(root, *options, *url, "--dry-run") == 0
        assert "would ask 8 times" in capsys.readouterr().out
        assert not server.seen
        assert not (root / "q.jsonl").exists()
        assert make(root, *options, *url) == 0
        assert "8 answers of m, 0 out of the cache; 80 tokens in, 40 out" in capsys.readouterr().out
        first = (root / "q.jsonl").read_bytes()
        assert make(root, *options, *url, "--overwrite") == 0
        assert len(server.seen) == 8
        assert (root / "q.jsonl").read_bytes() == first
        assert make(root, *options, *url, "--overwrite", "--dry-run", "--json") == 0
    assert check(root) == 0


def test_an_endpoint_that_never_answers(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--source", "oracle", "--writer", "endpoint", "--model", "m", "--timeout", "0.2", "--retries", "0")
    with endpoint(lambda handler, number, body: handler.stall()) as server:
        assert make(root, *options, "--url", server.url) == 3
    assert "within 0.2 s" in capsys.readouterr().err
    lines = [json.loads(line) for line in (root / "q.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["source"] for line in lines] == ["template_fallback"] * 5
    assert check(root) == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_command_goes_on_where_it_was(root: Path, how: signal.Signals) -> None:
    def behave(handler: Handler, number: int, body: dict) -> None:
        if number < 4 or patient.is_set():
            handler.good(body)
        else:
            handler.stall()

    patient = threading.Event()
    options = ("--source", "oracle", "--writer", "endpoint", "--model", "m", "--concurrency", "1")
    files = ("--annotations", str(root / "train.csv"), "--out", str(root / "q.jsonl"))
    with endpoint(behave) as server:
        command = [sys.executable, "-m", "crossmamba", "questions", "make", *files, *options, "--url", server.url]
        heed = partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        )  # a job in the background inherits that it is ignored
        stopped = subprocess.Popen(command, stderr=subprocess.PIPE, preexec_fn=heed)
        while len(server.seen) < 5 and stopped.poll() is None:
            time.sleep(0.02)
        start = time.monotonic()
        stopped.send_signal(how)
        stopped.communicate(timeout=30)
        assert time.monotonic() - start < 10  # though a request would wait 60 s
        assert stopped.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
        assert not (root / "q.jsonl").exists()
        patient.set()
        assert make(root, *options, "--url", server.url) == 0
        assert len(server.seen) == 5 + 4  # two of four prompts were kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--source", "predicted"), "--predicted"),
        (("--source", "oracle", "--predicted", "p.csv"), "--predicted"),
        (("--source", "oracle", "--dry-run"), "--dry-run"),
        (("--source", "oracle", "--writer", "endpoint"), "--model"),
        (("--source", "oracle", "--writer", "endpoint", "--model", "m"), "--url"),
        (("--source", "oracle", "--writer", "endpoint", "--model", "m", "--url", "ftp://x"), "http"),
        (("--source", "generic", "--writer", "endpoint", "--model", "m", "--url", "http://x"), "generic"),
    ],
)
def test_wrong_calls(root: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(root, *options) == 2
    assert message in capsys.readouterr().err
    assert not (root / "q.jsonl").exists()
