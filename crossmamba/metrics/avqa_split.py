"""Which test file a published row of MUSIC-AVQA accuracies was measured on (spec §4.3).

An accuracy is k / n with a whole k. With two decimals and n about 1,000 only one value in eight can be such a fraction,
so 13 columns tell the files apart without doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from crossmamba.errors import UsageError
from crossmamba.metrics.avqa import COLUMNS, KINDS

__all__ = ["SPLIT_SIZES", "SplitFit", "SplitGuess", "identify_split"]

SPLIT_SIZES: dict[str, tuple[int, ...]] = {
    "json test": (1022, 601, 1199, 1228, 995, 927, 1274, 1115, 824),
    "json_update test": (1017, 594, 1197, 1225, 988, 920, 1265, 1101, 822),
    "json val": (515, 299, 600, 614, 499, 462, 635, 557, 414),
    "json_update val": (511, 295, 600, 613, 495, 461, 633, 549, 411),
    "v2.0 balance test": (1382, 643, 1505, 1338, 1223, 920, 1740, 1101, 967),
    "v2.0 bias test": (1022, 607, 1222, 1230, 901, 920, 1292, 1101, 824),
}
"""Questions of each type, in the order of `avqa.KINDS` (spec §3.1, §3.2)."""

_FEWEST = 4  # columns; fewer fit some file by chance
_GROUPS: dict[str, tuple[int, ...]] = {"A": (0, 1), "V": (2, 3), "AV": (4, 5, 6, 7, 8), "All": tuple(range(9))}


@dataclass(frozen=True)
class SplitFit:
    """How a row fits one file.

    Attributes:
        name: of the file, see `SPLIT_SIZES`.
        swapped: the row was read with Cnt before Loc, as some papers print it.
        correct: whole number of correct answers for each column, None where no whole number gives the value.
        fits: columns that a whole number explains. given: columns that the row has.
        wrong_averages: averages that are not the micro average of their parts, where all parts fit.
    """

    name: str
    swapped: bool
    correct: tuple[int | None, ...]
    fits: int
    given: int
    wrong_averages: tuple[str, ...]


@dataclass(frozen=True)
class SplitGuess:
    """The answer of `identify_split`.

    Attributes:
        name: the only file that fits (at most one column of 12 or more may fail); None if none or several do.
        fits: all files, best first.
    """

    name: str | None
    fits: tuple[SplitFit, ...]

    @property
    def best(self) -> SplitFit:
        """The best fit, whether it convinces or not."""
        return self.fits[0]

    @property
    def text(self) -> str:
        """For a terminal."""
        best = self.best
        if self.name is None:
            lines = [f"no file is the only one that explains this row; best is {best.name}:"]
        else:
            lines = [f"{self.name}" + (" (with Cnt before Loc)" if best.swapped else "")]
        best_of = {fit.name: fit for fit in reversed(self.fits)}  # the better of both orders
        ranked = sorted(best_of.values(), key=lambda fit: -fit.fits)
        lines += [f"  {fit.name:18} {fit.fits:2} of {fit.given} columns" for fit in ranked]
        if self.name is not None:
            counts = [f"{name} {'-' if k is None else k}" for name, k in zip(COLUMNS, best.correct, strict=True)]
            lines.append(f"  correct answers: {', '.join(counts)}")
        for name in best.wrong_averages if self.name else ():
            lines.append(f"  {name} is not the micro average of its parts")
        return "\n".join(lines)


def identify_split(row: str | Sequence[float | str | None]) -> SplitGuess:
    """Finds the test file that a row of accuracies belongs to.

    Args:
        row: 13 values in percent in the order of `avqa.COLUMNS`, as numbers (two decimals) or as text, whose decimals
            count; None or "-" where a column is not known. A string is split at blanks, commas and bars.

    Raises:
        UsageError: not 13 values, fewer than 4 known ones, or no percentage.
    """
    cells = row.replace(",", " ").replace("|", " ").split() if isinstance(row, str) else list(row)
    if len(cells) != len(COLUMNS):
        raise UsageError(f"{len(cells)} values; a row has {len(COLUMNS)}: {' '.join(COLUMNS)}")
    values = [_value(cell, name) for cell, name in zip(cells, COLUMNS, strict=True)]
    if sum(value is not None for value in values) < _FEWEST:
        raise UsageError(f"fewer than {_FEWEST} known columns; they would fit any file by chance")
    found = []
    for name, sizes in SPLIT_SIZES.items():
        straight = _fit(name, sizes, values, swapped=False)
        turned = _fit(name, sizes, _swap(values), swapped=True)
        found += [straight, turned]
    found.sort(key=lambda fit: (-fit.fits, fit.swapped))  # stable: files in the order of the table
    convincing = [fit for fit in found if fit.given - fit.fits <= (1 if fit.given >= 12 else 0)]
    names = {fit.name for fit in convincing}
    return SplitGuess(names.pop() if len(names) == 1 else None, tuple(found))


def _swap(values: list[tuple[float, int] | None]) -> list[tuple[float, int] | None]:
    at, other = COLUMNS.index("Loc"), COLUMNS.index("Cnt")
    turned = list(values)
    turned[at], turned[other] = turned[other], turned[at]
    return turned


def _value(cell: float | str | None, name: str) -> tuple[float, int] | None:
    """(percent, decimals) of a cell, None if it is not known."""
    if cell is None or (isinstance(cell, str) and cell.strip() in ("", "-", "?")):
        return None
    text = cell.strip().rstrip("%") if isinstance(cell, str) else f"{cell:.2f}"
    try:
        value = float(text)
    except ValueError as error:
        raise UsageError(f"{name} is {cell!r}, which is no number; write '-' for what is not known") from error
    if not 0 <= value <= 100:
        raise UsageError(f"{name} is {value}; expected percent, 0 to 100")
    return value, len(text.partition(".")[2])


def _fit(name: str, sizes: Sequence[int], values: list[tuple[float, int] | None], swapped: bool) -> SplitFit:
    correct: dict[str, int | None] = {}
    wrong = []
    for column, value in zip(COLUMNS, values, strict=True):
        parts = _GROUPS.get(column)
        total = sum(sizes[i] for i in parts) if parts else sizes[KINDS.index(column)]
        correct[column] = None if value is None else _whole(value, total)
        if parts and value is not None:
            hits = _sum(correct, [KINDS[i] for i in parts])
            if hits is None and column == "All":
                hits = _sum(correct, ["A", "V", "AV"])
            if hits is not None:
                if _explains(hits, total, value):
                    correct[column] = hits  # of several whole numbers with this rounding, the one that adds up
                else:
                    wrong.append(column)
    fits = sum(k is not None for k in correct.values())
    given = sum(value is not None for value in values)
    return SplitFit(name, swapped, tuple(correct[column] for column in COLUMNS), fits, given, tuple(wrong))


def _sum(correct: dict[str, int | None], columns: Sequence[str]) -> int | None:
    """Correct answers of these columns together, None if one of them is not known."""
    counts = [correct[column] for column in columns]
    return None if None in counts else sum(count for count in counts if count is not None)


def _whole(value: tuple[float, int], total: int) -> int | None:
    """The whole number k with 100 k / total = value after rounding, None if there is none."""
    near = value[0] * total / 100
    return next((k for k in (round(near), math.floor(near), math.ceil(near)) if _explains(k, total, value)), None)


def _explains(k: int, total: int, value: tuple[float, int]) -> bool:
    """Rounding a half up or down both count."""
    return 0 <= k <= total and abs(100 * k / total - value[0]) <= 0.5 * 10 ** -value[1] + 1e-9
