"""What a check of a data set found: problems, which make it unfit, and notes; and how they are told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

__all__ = ["Finding", "Findings"]


@dataclass(frozen=True)
class Finding:
    """Something wrong or odd.

    Attributes:
        kind: a short name, the same for the same trouble: `missing`, `unreadable`, `size`, `mask values`, `sound`,
            `unsafe pickle`, `index`, `counts`, `overlap`, `extra`, ...
        path: of the file.
        message: what is wrong, with the path.
    """

    kind: str
    path: str
    message: str


class Findings:
    """The part of a report that holds findings; the report is a dataclass and has the two lists as its last fields.

    Attributes:
        problems: make the set unfit. notes: worth knowing.
        shown: findings of one kind in the text.
    """

    problems: list[Finding]
    notes: list[Finding]
    shown: ClassVar[int] = 8

    @property
    def ok(self) -> bool:
        """True if there is no problem; notes do not count."""
        return not self.problems

    def problem(self, kind: str, path: Path | str, message: str) -> None:
        """Adds one."""
        self.problems.append(Finding(kind, str(path), message))

    def note(self, kind: str, path: Path | str, message: str) -> None:
        """Adds one."""
        self.notes.append(Finding(kind, str(path), message))

    def told(self) -> list[str]:
        """The last lines of the report's text: findings by kind, long lists cut, then how many there are."""
        lines = [*self._listed("PROBLEM", self.problems), *self._listed("note", self.notes)]
        what = f"{len(self.problems)} problems" if self.problems else "no problem"
        return [*lines, f"{what}, {len(self.notes)} notes"]

    def _listed(self, title: str, findings: Sequence[Finding]) -> Iterator[str]:
        by_kind: dict[str, list[Finding]] = defaultdict(list)
        for finding in findings:
            by_kind[finding.kind].append(finding)
        for kind, members in by_kind.items():
            yield from (f"  {title} {kind}: {member.message}" for member in members[: self.shown])
            if len(members) > self.shown:
                yield f"  {title} {kind}: ... and {len(members) - self.shown} more (--json lists all)"
