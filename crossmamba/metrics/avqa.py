"""MUSIC-AVQA's table of 13 accuracies, and 4-way accuracy by question type for AVQA (spec §4.1, §5).

    A-Cnt A-Cmp A | V-Cnt V-Loc V | Exist Loc Cnt Cmp Temp AV | All

Nine columns are question types; A, V, AV and All are micro averages: sum of correct over sum of questions, not means of
the types' accuracies. The type travels with the question; the official code reads it from a fixed file by position.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from crossmamba.errors import UsageError
from crossmamba.metrics.avs import batch_positions

__all__ = [
    "AVQA_TYPES",
    "COLUMNS",
    "KINDS",
    "AVQAMetric",
    "AccuracyTable",
    "ChoiceMetric",
    "accuracy_table",
    "format_table",
]

COLUMNS: tuple[str, ...] = (
    *("A-Cnt", "A-Cmp", "A", "V-Cnt", "V-Loc", "V"),
    *("Exist", "Loc", "Cnt", "Cmp", "Temp", "AV", "All"),
)
"""The 13 columns. Papers disagree on Loc and Cnt: here Loc comes first."""

KINDS: tuple[str, ...] = tuple(name for name in COLUMNS if name not in ("A", "V", "AV", "All"))
"""The nine question types in the order of a `kind` index (the order of `data.qa.templates.TYPES`)."""

_PARTS: dict[str, tuple[int, ...]] = {
    **{name: (KINDS.index(name),) for name in KINDS},
    "A": (0, 1),
    "V": (2, 3),
    "AV": (4, 5, 6, 7, 8),
    "All": tuple(range(9)),
}

AVQA_TYPES: tuple[str, ...] = (*("Which", "Come From", "Happening", "Where", "Why", "Before Next", "When", "Used For"),)
"""The question types of AVQA (spec §3.2)."""


@dataclass(frozen=True)
class AccuracyTable:
    """Correct answers and questions for each column.

    Attributes:
        columns: names.
        correct, total: one a column.
    """

    columns: tuple[str, ...]
    correct: tuple[int, ...]
    total: tuple[int, ...]

    @property
    def percent(self) -> dict[str, float]:
        """Column -> percent; NaN where there are no questions."""
        rows = zip(self.columns, self.correct, self.total, strict=True)
        return {name: 100 * hits / total if total else math.nan for name, hits, total in rows}

    def to_json(self) -> dict[str, dict[str, float | int | None]]:
        """Column -> percent (None without questions), correct, total."""
        percent = self.percent
        return {
            name: {"percent": None if math.isnan(percent[name]) else percent[name], "correct": hits, "total": total}
            for name, hits, total in zip(self.columns, self.correct, self.total, strict=True)
        }

    @property
    def text(self) -> str:
        """Header and one line."""
        return format_table({"accuracy": self})


def accuracy_table(predicted: Tensor, answer: Tensor, kind: Tensor) -> AccuracyTable:
    """The 13 columns.

    Args:
        predicted, answer: int (N,), positions in the list of answers.
        kind: int (N,), positions in `KINDS`.

    Raises:
        UsageError: other shapes, a kind outside 0..8, or an answer below 0 (that is: not known).
    """
    hits, groups = _checked(predicted, answer, kind, len(KINDS))
    return _table_of(_counts(hits, groups, len(KINDS)), _counts(torch.ones_like(hits), groups, len(KINDS)))


def _table_of(correct: Sequence[int], total: Sequence[int]) -> AccuracyTable:
    return AccuracyTable(
        COLUMNS,
        tuple(sum(correct[i] for i in _PARTS[name]) for name in COLUMNS),
        tuple(sum(total[i] for i in _PARTS[name]) for name in COLUMNS),
    )


def format_table(tables: Mapping[str, AccuracyTable]) -> str:
    """A header and one line a table, percent with two decimals, "-" where there are no questions.

    Args:
        tables: name of the line -> table, all with the same columns, such as all / head / tail of MUSIC-AVQA-R.

    Raises:
        UsageError: no table, or different columns.
    """
    columns = {table.columns for table in tables.values()}
    if len(columns) != 1:
        raise UsageError(f"{len(tables)} tables with {len(columns)} sets of columns; give tables of one kind")
    names = columns.pop()
    widths = [max(6, len(name)) for name in names]
    left = max(len(name) for name in tables)
    lines = [" ".join([" " * left, *(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))])]
    for title, table in tables.items():
        values = table.percent.values()
        cells = [f"{'-' if math.isnan(v) else f'{v:.2f}':>{width}}" for v, width in zip(values, widths, strict=True)]
        lines.append(" ".join([f"{title:<{left}}", *cells]))
    return "\n".join(lines)


def _counts(flags: Tensor, groups: Tensor, count: int) -> list[int]:
    """How many flags are set in each group."""
    return torch.bincount(groups[flags.bool()], minlength=count).tolist()


def _checked(predicted: Tensor, answer: Tensor, kind: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """(hit bool (N,), kind int64 (N,)) on the CPU."""
    shapes = [tuple(t.shape) for t in (predicted, answer, kind)]
    if predicted.ndim != 1 or len(set(shapes)) != 1:
        raise UsageError(f"predicted, answer and kind have shapes {shapes}; expected (N,) three times")
    if any(t.is_floating_point() for t in (predicted, answer, kind)):
        raise UsageError("predicted, answer and kind must be whole numbers; take the argmax of logits first")
    predicted, answer, kind = (t.detach().to("cpu", torch.int64) for t in (predicted, answer, kind))
    if len(answer) and int(answer.min()) < 0:
        raise UsageError(f"answer holds {int(answer.min())}: questions without a known answer cannot be judged")
    if len(kind) and not (int(kind.min()) >= 0 and int(kind.max()) < kinds):
        raise UsageError(f"kind reaches from {int(kind.min())} to {int(kind.max())}; allowed: 0 to {kinds - 1}")
    return predicted == answer, kind


class _Accuracy(Metric):
    """Gathers hit and type of each question under its position, so that questions given twice count once."""

    full_state_update = True  # otherwise forward() would count the questions from 0 in each batch
    higher_is_better = True
    kinds = 0
    seen: Tensor
    position: list[Tensor] | Tensor
    hit: list[Tensor] | Tensor
    kind: list[Tensor] | Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in ("position", "hit", "kind"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("seen", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, answer: Tensor, kind: Tensor, *, index: Tensor | None = None) -> None:
        """Judges a batch.

        Args:
            predicted, answer: int (B,).
            kind: int (B,), the question's type.
            index: int (B,) positions in the split; None counts up, which one process alone may do.

        Raises:
            UsageError: other shapes, unknown answers or types, or several processes without `index`.
        """
        hits, kinds = _checked(predicted, answer, kind, self.kinds)
        index = batch_positions(index, len(hits), int(self.seen))
        self.seen += len(hits)
        for name, value in (("position", index), ("hit", hits), ("kind", kinds)):
            getattr(self, name).append(value.to(self.device))

    def counts(self) -> tuple[list[int], list[int]]:
        """(correct, total) of each type; of this process only, outside `compute`."""
        if isinstance(self.hit, list) and not self.hit:
            return [0] * self.kinds, [0] * self.kinds
        position, hit, kind = (dim_zero_cat(getattr(self, name)).cpu() for name in ("position", "hit", "kind"))
        order = torch.argsort(position, stable=True)
        position, hit, kind = position[order], hit[order], kind[order]
        first = torch.ones_like(hit, dtype=torch.bool)
        first[1:] = position[1:] != position[:-1]
        hit, kind = hit[first], kind[first]
        return _counts(hit, kind, self.kinds), _counts(torch.ones_like(hit), kind, self.kinds)

    def table(self) -> AccuracyTable:
        """Correct and total of each column; of this process only, outside `compute`."""
        raise NotImplementedError

    def compute(self) -> dict[str, Tensor]:
        """Column -> accuracy as a fraction of 1; NaN where there are no questions."""
        return {name: torch.tensor(value / 100) for name, value in self.table().percent.items()}


class AVQAMetric(_Accuracy):
    """MUSIC-AVQA's 13 columns (spec §4.1); `kind` is a position in `KINDS`."""

    kinds = len(KINDS)

    def table(self) -> AccuracyTable:
        """Correct and total of the 13 columns."""
        return _table_of(*self.counts())


class ChoiceMetric(_Accuracy):
    """AVQA's 4-way accuracy for each question type, and over all questions (micro average).

    Args:
        types: names; `kind` is a position in them.
    """

    def __init__(self, types: Sequence[str] = AVQA_TYPES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not types or len(set(types)) != len(types) or "All" in types:
            raise UsageError(f"types are {list(types)}; give different names, none of them 'All'")
        self.types, self.kinds = tuple(types), len(types)

    def table(self) -> AccuracyTable:
        """Correct and total of each question type and of all."""
        correct, total = self.counts()
        return AccuracyTable((*self.types, "All"), (*correct, sum(correct)), (*total, sum(total)))
