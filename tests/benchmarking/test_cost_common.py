"""What the cost scripts share: rows, exponents, and cells that are measured once and kept."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from crossmamba.benchmarking.steps import measure_step


@pytest.fixture
def common(benchmark_script):
    return benchmark_script("cost_common")


def test_numbers_and_rows(common) -> None:
    row = {"seconds": 0.004, "peak_mib": 7.0}
    assert (common.number(row, "ms"), common.number(row, "ms", samples=4), common.number(row, "mib")) == (4.0, 1.0, 7.0)
    assert common.number({"failed": "over 4 GiB"}, "ms") == "over 4 GiB"
    assert common.table_row("a", "b", numbers=[1234.5, "over 4 GiB", 0.0123], last="-") == (
        "| a | b | 1,234 | over 4 GiB | 0.0123 | - |"
    )
    assert common.table_row("a", numbers=[1.0]) == "| a | 1.00 |"


def test_the_exponent_is_of_the_last_two_sizes(common) -> None:
    assert common.exponent([5.0, 1.0, 8.0], [1, 2, 4]) == "3.00"
    assert common.exponent([1.0], [1]) == "-"
    assert common.exponent([1.0, "over 4 GiB"], [1, 2]) == "-"
    assert common.exponent([0.0, 1.0], [1, 2]) == "-"


def test_a_cell_is_measured_once(common, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(common, "measure_in_child", lambda script, cell, args: asked.append(cell["n"]) or cell)
    args = argparse.Namespace(out=tmp_path / "cost", fresh=False)
    cells = [{"n": 1}, {"n": 2}]
    key = lambda cell: str(cell["n"])  # noqa: E731
    common.measure_cells("x.py", cells[:1], key, args, "it")
    assert common.measure_cells("x.py", cells, key, args, "it") == {"1": {"n": 1}, "2": {"n": 2}}
    assert asked == [1, 2]
    assert json.loads((tmp_path / "cost.json").read_text())["machine"] == "it"
    with pytest.raises(SystemExit, match="another machine"):
        common.measure_cells("x.py", cells, key, args, "that")
    args.fresh = True
    common.measure_cells("x.py", cells, key, args, "that")
    assert asked == [1, 2, 1, 2]


def test_long_steps_are_run_once() -> None:
    for long, calls in ((60.0, 4), (0.0, 1)):
        called: list[int] = []
        found = measure_step(lambda called=called: called.append(1), budget=0.0, cuda=False, long=long)
        assert (len(called), found["steps"]) == (calls, max(1, calls - 1))
