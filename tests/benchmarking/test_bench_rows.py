"""Rows, goals, tables, the arithmetic of floors, and the timing's bookkeeping. No time is asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossmamba.benchmarking.limits import Limits, backward_work, floors, forward_work
from crossmamba.benchmarking.problems import SHAPES, Shape
from crossmamba.benchmarking.rows import COLUMNS, Goal, Report, Row, ratio_row
from crossmamba.benchmarking.timing import Times, alone, interleave

TIMES = Times(theirs=[6.0, 9.0, 8.0], ours=[2.0, 2.0, 4.0], theirs_min=5.0, ours_min=2.0)


def test_ratios_are_of_pairs() -> None:
    assert TIMES.ratio() == 3.0  # of 3, 4.5, 2
    assert TIMES.robust_ratio() == 2.5
    row = ratio_row("forward", "x", "peer", "ours", TIMES, Goal(3))
    assert (row.theirs_ms, row.ours_ms, row.value, row.robust, row.met) == (8000, 2000, 3.0, 2.5, True)
    slower = ratio_row("forward", "x", "wide", "narrow", TIMES, Goal(0.3, at_most=True), slower=True)
    assert slower.value == pytest.approx(1 / 3)
    assert slower.met is False


def test_a_row_without_a_value_meets_and_misses_nothing() -> None:
    row = Row("step", goal=Goal(60, at_most=True), unit="µs", note="not on this machine: x")
    assert row.met is None
    assert "not measured" in row.cells()
    assert "≤ 60 µs" in row.cells()
    assert Row("step", value=1.0).met is None, "no goal, no verdict"


def test_the_table_has_one_cell_per_column_and_survives_a_bar() -> None:
    report = Report("crossmamba bench scan", {"cores": 2}, [Row("a|b", note="c|d")], ["VMamba: not installed"])
    text = report.markdown()
    assert "a\\|b" in text
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") == len(COLUMNS) + 1 for line in lines)
    assert "Interrupted" in text
    assert "VMamba: not installed" in text
    report.finished = True
    assert "Interrupted" not in report.markdown()


def test_files_are_written_whole(tmp_path: Path) -> None:
    paths = [tmp_path / "t.json", tmp_path / "t.md"]
    report = Report("command", {}, [Row("forward", value=2.0, goal=Goal(1))])
    report.write(paths)
    (row,) = json.loads(paths[0].read_text())["rows"]
    assert row["met"] is True
    assert row["goal"] == {"bound": 1, "at_most": False}
    assert paths[1].read_text() == report.markdown()
    assert sorted(tmp_path.iterdir()) == sorted(paths), "no temporary file stays"


def test_the_verdict_names_what_was_missed() -> None:
    rows = [Row("a", value=1.0, goal=Goal(2)), Row("b", value=3.0, goal=Goal(2)), Row("c", goal=Goal(2)), Row("d")]
    verdict = Report("command", {}, rows).verdict()
    assert "1 met, 1 not met, 1 not measured" in verdict
    assert "Not met: a" in verdict


def test_the_work_of_a_small_scan_counted_by_hand() -> None:
    shape = Shape("x", 1, 10, 4, 2)  # 40 elements, 80 states
    work = forward_work(shape)
    assert work.exps == 80 + 40
    assert work.multiplies == 7 * 80 + (2 + 3) * 40
    assert work.bytes == 4 * (3 * 40 + 2 * 20)
    assert work.updates == 80
    assert backward_work(shape).multiplies == 14 * 80 + (4 + 3) * 40


def test_the_floor_of_shape_d_is_near_the_measured_roofline() -> None:
    # Rates of a two-core Zen 4, and the floors worked out from them: exp 2.8 ms for the states, FMA 6.5 ms backward.
    limits = Limits(exps=18.1e9, flops=2 * 16 * 7.27e9, bytes=27.5e9, updates=13.8e9)
    forward, backward = (floors(work(SHAPES["d"]), limits) for work in (forward_work, backward_work))
    assert forward["exp"] == pytest.approx(2.8e-3 * 18 / 16, rel=0.02)
    assert backward["FMA"] == pytest.approx(6.5e-3, rel=0.1)
    assert forward["largest of exp, FMA, bytes"] == max(forward["exp"], forward["FMA"], forward["bytes"])
    assert forward["exp then FMA"] > forward["largest of exp, FMA, bytes"]


def test_floors_are_not_counted_for_routes() -> None:
    with pytest.raises(ValueError, match="without routes"):
        forward_work(SHAPES["b1"])


def test_pairs_and_the_budget() -> None:
    calls: list[str] = []
    times = interleave(lambda: calls.append("theirs"), lambda: calls.append("ours"), 3, budget=60.0)
    assert len(times.theirs) == len(times.ours) == 3
    assert calls == (["theirs"] * 4 + ["ours"] * 4) * 3
    assert len(interleave(lambda: None, lambda: None, 100, budget=0.0).ours) == 1, "at least one pair"
    assert len(alone(lambda: None, 5, budget=60.0)) == 5
