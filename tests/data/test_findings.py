"""What all checks of data sets share: findings are listed by kind, long lists are cut, notes do no harm."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from crossmamba.data.findings import Finding, Findings


@dataclass
class Report(Findings):
    root: str
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    shown: ClassVar[int] = 2


def test_findings_are_told_by_kind_and_cut() -> None:
    report = Report("r")
    assert report.told() == ["no problem, 0 notes"]
    report.note("odd", "a", "a is odd")
    assert report.ok
    for name in ("x", "y", "z"):
        report.problem("missing", Path(name), f"{name} is missing")
        report.problem("size", name, f"{name} is large")
    assert not report.ok
    assert report.problems[0] == Finding("missing", "x", "x is missing")
    assert report.told() == [
        "  PROBLEM missing: x is missing",
        "  PROBLEM missing: y is missing",
        "  PROBLEM missing: ... and 1 more (--json lists all)",
        "  PROBLEM size: x is large",
        "  PROBLEM size: y is large",
        "  PROBLEM size: ... and 1 more (--json lists all)",
        "  note odd: a is odd",
        "6 problems, 1 notes",
    ]
