"""`bench scan` from end to end on tiny shapes: which rows come, that they are kept, and what is measured of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from crossmamba.benchmarking import limits, own, scan
from crossmamba.benchmarking.fresh import extra_memory
from crossmamba.benchmarking.limits import Limits
from crossmamba.benchmarking.problems import SHAPES, Shape, clip_shape
from crossmamba.benchmarking.rows import Row
from crossmamba.benchmarking.scan import PARTS, Job, Options, run
from crossmamba.cli import bench, main
from crossmamba.errors import UsageError

TINY = {
    "d": Shape("d", 1, 9, 8, 2, gate=True),
    "b1": Shape("b1", 1, 10, 8, 1, grids=((2, 1, 3), (1, 2, 2))),
}


def measured(options: Options, out: list[Path] | None = None) -> list[Row]:
    shown: list[str] = []
    report = run(options, "crossmamba bench scan", out or [], shown.append)
    assert report.finished
    assert sum(line.startswith("| ") for line in shown) == len(report.rows) + 1, "every row is shown"
    return report.rows


def test_every_part_gives_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(own, "clip_shape", lambda name, *rest: Shape(name, 1, 10, 8, 2, grids=TINY["b1"].grids))
    monkeypatch.setattr(own, "extra_memory", lambda *arguments: 12.5)
    monkeypatch.setattr(limits, "machine_limits", lambda threads: Limits(1e10, 1e11, 1e10, 1e10))
    options = Options(pairs=1, sizes=TINY, backends=["portable"])
    rows = measured(options, [tmp_path / "t.json", tmp_path / "t.md"])
    assert not [row for row in rows if row.note.startswith("failed")]
    kinds = {row.what for row in rows}
    for passes in ("forward", "forward + backward"):
        assert {
            passes,
            *(f"{passes}, {part}" for part in ("routes", "time-invariant", "extra memory", "threads")),
        } <= kinds
    assert {"error of the output", "error of the gradients", "step update"} <= kinds
    assert {"forward, share of the limits", "backward, share of the limits"} <= kinds
    shares = [row for row in rows if row.what == "backward, share of the limits"]
    assert [row.theirs for row in shares if row.goal] == ["limit: largest of exp, FMA, bytes", "limit: exp then FMA"]
    assert all(row.value == pytest.approx(100 * row.theirs_ms / row.ours_ms) for row in shares)
    assert {row.theirs for row in rows if row.what == "forward"} >= {"transformers", "associative_scan"}
    kept = json.loads((tmp_path / "t.json").read_text())
    assert len(kept["rows"]) == len(rows)
    assert kept["finished"]
    assert "Interrupted" not in (tmp_path / "t.md").read_text()


def test_goals_are_those_of_full_size() -> None:
    rows = measured(Options(pairs=1, sizes=TINY, backends=["portable"], parts=["peers"]))
    goals = {(row.theirs, row.what, row.shape[:2]): row.goal for row in rows}
    assert goals["transformers", "forward", "d:"] == scan.OVER_PEERS_ON_D
    assert goals["transformers", "forward", "b1"] == scan.OVER_PEERS
    assert goals["associative_scan", "forward + backward", "d:"] == scan.OVER_PARALLEL_SCANS
    assert goals["crossmamba reference", "forward", "d:"] is None
    cut = [row for row in rows if row.theirs == "transformers" and row.what == "forward + backward"]
    assert all(row.goal is None for row in cut), "a loop's O(L^2) backward is no yardstick"


def test_an_interrupted_run_keeps_its_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt() -> Row:
        raise KeyboardInterrupt

    jobs = [Job("first", lambda: Row("first", value=1.0)), Job("second", interrupt)]
    monkeypatch.setattr(scan, "plan", lambda *arguments: jobs)
    file = tmp_path / "t.json"
    with pytest.raises(KeyboardInterrupt):
        run(Options(backends=["portable"], parts=["step"]), "command", [file], lambda text: None)
    kept = json.loads(file.read_text())
    assert [row["what"] for row in kept["rows"]] == ["first"]
    assert not kept["finished"]


def test_a_measurement_that_breaks_does_not_cost_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job("bad", lambda: 1 // 0), Job("good", lambda: Row("good"))]  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(scan, "plan", lambda *arguments: jobs)
    rows = measured(Options(backends=["portable"], parts=["step"]))
    assert [row.what for row in rows] == ["bad", "good"]
    assert "ZeroDivisionError" in rows[0].note


def test_errors_against_float64_name_every_gradient() -> None:
    found = own.scan_errors(TINY["d"], "portable")
    assert set(found) == {"y", "u", "delta", "A", "B", "C", "D", "z", "delta_bias"}
    assert 0 < max(found.values()) < 1e-5
    assert set(own.scan_errors(TINY["b1"], "portable")) == set(found) - {"z"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc")
def test_memory_counts_the_output_and_not_the_inputs() -> None:
    shape = Shape("x", 1, 512, 1024, 1)  # 2 MiB for each of u, delta and the output
    mib = extra_memory(shape, "reference", "forward", 1, [])
    assert mib > 2
    assert extra_memory(Shape("x", 1, 4, 1024, 1), "reference", "forward", 1, []) < mib


def test_a_side_that_does_not_exist_cannot_be_measured() -> None:
    row = own.memory(Shape("d", 1, 4, 8, 1), "no such side", "forward + backward", True, [])
    assert row.met is None
    assert "not on this machine" in row.note


def test_without_the_kernel_library_there_are_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(threads: int) -> Limits:
        raise RuntimeError("no native kernels")

    monkeypatch.setattr(limits, "machine_limits", absent)
    rows = [*own.machine(2), *own.share_of_limits(TINY["d"], "portable", 1, 1.0)]
    assert all("no native kernels" in row.note and row.met is None for row in rows)
    assert sum(row.goal is not None for row in rows) == 2


def test_a_limit_is_the_best_that_was_measured() -> None:
    assert limits.fastest(Limits(1, 4, 2, 2), Limits(3, 1, 2, 5)) == Limits(3, 4, 2, 5)


def test_absent_back_ends_give_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "list_backends", lambda: {"portable": None, "native-avx512": "no such processor"})
    row = own.avx2_against_avx512(TINY["d"], "forward", 1, 1.0)
    assert "no such processor" in row.note
    with pytest.raises(UsageError, match="unknown back end"):
        scan.usable_backends(["no_such"])
    assert "reference" not in scan.usable_backends([])


def test_the_command_measures_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(scan, "SHAPES", TINY)
    chosen = "--shapes d --parts errors step --backends portable --pairs 1"
    arguments = ["bench", "scan", *chosen.split()]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["command"] == f"crossmamba {' '.join(arguments)} --json"
    assert [row["what"] for row in report["rows"]][-1] == "step update"
    file = tmp_path / "t.md"
    assert main([*arguments, "--out", str(file)]) == 0
    assert "| step update |" in capsys.readouterr().out
    assert "| step update |" in file.read_text()


@pytest.mark.parametrize(
    "arguments",
    [["--out", "t.txt"], ["--out", "no_such_folder/t.md"], ["--backends", "no_such"], ["--peer", "x"]],
    ids=" ".join,
)
def test_wrong_usage_is_told_before_anything_is_measured(arguments: list[str]) -> None:
    assert main(["bench", "scan", "--shapes", "d", "--quick", *arguments]) == 2


def test_the_command_offers_what_there_is() -> None:
    assert tuple(SHAPES) == bench.SHAPES
    assert PARTS == bench.PARTS
    assert clip_shape("b1", 5, 256, 1) == SHAPES["b1"]
    assert SHAPES["b1"].length == 5145
