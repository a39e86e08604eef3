"""Every verb: its help, its example, its exit codes."""

from __future__ import annotations

import importlib
import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from crossmamba import __version__
from crossmamba.cli import VERBS, main
from crossmamba.errors import CheckpointError, CrossmambaError, DataError, MediaError, UsageError


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example_that_parses(
    verb: str, parses: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([verb, "--help"])
    except SystemExit as end:  # argparse's way
        code = end.code
    assert code == 0
    text = capsys.readouterr().out
    module = importlib.import_module(f"crossmamba.cli.{verb}")
    examples = [line.strip() for line in module.EXAMPLE.replace("\\\n", " ").splitlines()]
    for example in examples:
        assert " ".join(example.split()) in " ".join(text.replace("\\\n", " ").split()), (
            f"crossmamba {verb} --help shows no example"
        )
        assert example.startswith(f"crossmamba {verb}")
        parses(shlex.split(example)[1:])


@pytest.mark.parametrize(
    "arguments",
    [["data", "synth"], ["data", "verify"], ["configs", "ls"], ["configs", "cp"], ["configs", "validate"]],
    ids=" ".join,
)
def test_actions_have_help_with_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--help"])
    assert end.value.code == 0
    assert f"crossmamba {' '.join(arguments)}" in capsys.readouterr().out.split("example:")[1]


def test_the_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in VERBS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["models", "--nonsense"], ["data"], ["data", "synth", "x", "y"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError, 2),
        (DataError, 3),
        (MediaError, 3),
        (CheckpointError, 3),
        (CrossmambaError, 1),
        (KeyboardInterrupt, 130),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: type[BaseException], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> int:
        raise error("first line\nsecond line")

    monkeypatch.setattr("crossmamba.cli.models.run", fail)
    assert main(["models"]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossmamba.cli.models.run", lambda args: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["models"])


def test_models_lists_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "avs_mamba_small", "--params", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["name"] == "avs_mamba_small"
    from crossmamba import create_model

    assert entry["parameters"] == sum(parameter.numel() for parameter in create_model("avs_mamba_small").parameters())
    assert main(["models", "nothing_like_this"]) == 2


def test_doctor_finds_a_working_machine(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--json"])
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["media"]["level"] == "ok"
    assert findings["scan: portable"]["level"] == "ok"
    assert findings["scan: reference"]["level"] == "ok"
    assert 'backend="auto" takes ' in findings["scan on cpu"]["text"]
    assert findings["python"]["level"] == "ok"


def test_doctor_says_which_scan_auto_takes_and_why_others_do_not_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from crossmamba.ops import backends

    class Absent(type(backends.registered_backend("portable"))):  # type: ignore[misc]
        name, priority = "absent", 50

        def why_not(self, device: object, dtype: object) -> str:
            return "this processor has no such instruction"

    def scan_findings() -> dict[str, dict[str, str]]:
        main(["doctor", "--json"])
        found = json.loads(capsys.readouterr().out)["findings"]
        return {finding["name"]: finding for finding in found if finding["name"].startswith("scan")}

    chosen = {name: backends.registered_backend(name) for name in ("portable", "reference")}
    monkeypatch.setattr(backends, "_BACKENDS", {**chosen, "absent": Absent()})
    monkeypatch.delenv("CROSSMAMBA_REQUIRE_FAST", raising=False)
    found = scan_findings()
    assert found["scan on cpu"]["level"] == "note"
    assert found["scan: absent"]["text"] == "does not run here: this processor has no such instruction"
    monkeypatch.setenv("CROSSMAMBA_BACKEND", "reference")
    assert "takes reference, named by CROSSMAMBA_BACKEND=reference" in scan_findings()["scan on cpu"]["text"]
    monkeypatch.setenv("CROSSMAMBA_BACKEND", "auto")
    monkeypatch.setenv("CROSSMAMBA_REQUIRE_FAST", "1")
    found = scan_findings()
    assert found["scan on cpu"]["level"] == "bad"
    assert "no such instruction" in found["scan on cpu"]["text"]


def test_doctor_notices_a_wrong_scan(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("crossmamba.cli.doctor.scan_error", lambda name, device: 0.5)
    assert main(["doctor"]) == 1
    assert "bad " in capsys.readouterr().out


def test_configs_are_listed_copied_and_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs", "ls", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert "avs/demo" in {row["name"] for row in rows}
    assert all(row["about"] for row in rows), "every configuration starts with a comment that says what it is for"
    target = tmp_path / "mine.yaml"
    assert main(["configs", "cp", "avs/demo", str(target)]) == 0
    assert main(["configs", "cp", "avs/demo", str(target)]) == 2, "nothing is overwritten unasked"
    assert main(["configs", "cp", "avs/no_such", str(target)]) == 2
    capsys.readouterr()
    assert main(["configs", "validate", "--json"]) == 0, capsys.readouterr().out


def test_a_wrong_key_in_a_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from crossmamba.cli.configs import find_config

    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(find_config("avs/demo").read_text() + "\nwidht: 3\n")
    assert main(["configs", "validate", str(wrong)]) == 2
    assert "widht" in capsys.readouterr().out
