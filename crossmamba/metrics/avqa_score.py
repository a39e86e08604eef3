"""Judges a file of predicted answers against annotations; no model takes part (`crossmamba score avqa`).

The annotations are read by the caller (`crossmamba.data.qa`), so this room needs no other. The official code pairs
predictions and labels by position, and types by position in another file; here everything goes by question id.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.avqa import AccuracyTable, ChoiceMetric, accuracy_table, format_table
from crossmamba.metrics.problems import told_problems

__all__ = ["AnswerReport", "Truth", "read_predictions", "score_answers"]

_MAX_BYTES = 2**28


@dataclass(frozen=True)
class Truth:
    """What is known of one question.

    Attributes:
        key: its id as text; several rows may share one (then one prediction is judged against each).
        kind: position in the list of types.
        answer: the right one.
        choices: what may be answered; None for the common list.
        group: "head" or "tail" (MUSIC-AVQA-R); None elsewhere.
    """

    key: str
    kind: int
    answer: str
    choices: tuple[str, ...] | None = None
    group: str | None = None


@dataclass
class AnswerReport:
    """The tables of a predictions file, or why there are none.

    Attributes:
        tables: "all", and "head" and "tail" where questions have groups; empty if anything is wrong.
        questions: rows of the annotations. shared: rows that share their id with another row.
        missing: ids without a prediction. duplicate: ids predicted twice. unknown: ids that are not in the annotations.
        outside: answers that are not among the possible ones, each with its id.
    """

    tables: dict[str, AccuracyTable] = field(default_factory=dict)
    questions: int = 0
    shared: int = 0
    missing: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if every question has one possible answer."""
        return not (self.missing or self.duplicate or self.unknown or self.outside)

    def to_json(self) -> dict[str, Any]:
        """A plain dict; a column without questions has percent None."""
        return {
            "ok": self.ok,
            "questions": self.questions,
            "shared": self.shared,
            "tables": {name: table.to_json() for name, table in self.tables.items()},
            "missing": self.missing,
            "duplicate": self.duplicate,
            "unknown": self.unknown,
            "outside": self.outside,
        }

    @property
    def text(self) -> str:
        """For a terminal: the table in percent, or the lists of what is wrong."""
        if not self.ok:
            return "\n".join([*self._problems(), "nothing was scored: every question needs one possible answer"])
        lines = [format_table(self.tables), f"{self.questions} questions"]
        if self.shared:
            lines[-1] += f"; {self.shared} of them share an id with another, and its one prediction counts for each"
        return "\n".join(lines)

    def _problems(self) -> Iterator[str]:
        kinds = {
            "no prediction for question": self.missing,
            "more than one prediction for question": self.duplicate,
            "prediction for a question that is not in the annotations": self.unknown,
            "impossible answer to question": self.outside,
        }
        return told_problems(kinds)


def score_answers(
    predictions: Sequence[tuple[str, str]],
    truth: Sequence[Truth],
    answers: Sequence[str],
    types: Sequence[str] | None = None,
) -> AnswerReport:
    """Judges predictions, each given by its question's id.

    Args:
        predictions: (id, answer); an id that comes twice is refused, even with the same answer.
        truth: see `Truth`.
        answers: what may be answered where a question has no choices of its own.
        types: names of the question types; None for MUSIC-AVQA's nine and its 13 columns.

    Raises:
        UsageError: there is no truth. What is wrong with predictions is in the report instead.
    """
    if not truth:
        raise UsageError("there are no questions to judge")
    known = {row.key for row in truth}
    given: dict[str, str] = {}
    report = AnswerReport(questions=len(truth), shared=_shared(truth))
    twice: dict[str, None] = {}
    for key, answer in predictions:
        if key in given:
            twice[key] = None
        given[key] = answer
    report.duplicate = list(twice)
    report.unknown = [key for key in given if key not in known]
    report.missing = list(dict.fromkeys(row.key for row in truth if row.key not in given))
    report.outside = list(_outside(given, truth, answers))
    if report.ok:
        groups = {"all": list(truth)}
        for name in ("head", "tail"):
            if members := [row for row in truth if row.group == name]:
                groups[name] = members
        report.tables = {name: _table(given, rows, types) for name, rows in groups.items()}
    return report


def _shared(truth: Sequence[Truth]) -> int:
    seen: dict[str, int] = {}
    for row in truth:
        seen[row.key] = seen.get(row.key, 0) + 1
    return sum(count for count in seen.values() if count > 1)


def _outside(given: dict[str, str], truth: Sequence[Truth], answers: Sequence[str]) -> Iterator[str]:
    said: set[str] = set()
    for row in truth:
        allowed = answers if row.choices is None else row.choices
        answer = given.get(row.key)
        if answer is None or answer in allowed or row.key in said:
            continue
        said.add(row.key)
        near = difflib.get_close_matches(answer, allowed, n=1)
        yield f"{row.key}: {answer!r}" + (f" (near: {near[0]!r})" if near else "")


def _table(given: dict[str, str], rows: Sequence[Truth], types: Sequence[str] | None) -> AccuracyTable:
    hits = torch.tensor([int(given[row.key] == row.answer) for row in rows])
    kinds = torch.tensor([row.kind for row in rows])
    right = torch.ones_like(hits)  # answers may be a question's own choices: judged as "right" or "wrong"
    if types is None:
        return accuracy_table(hits, right, kinds)
    metric = ChoiceMetric(types)
    metric.update(hits, right, kinds)
    return metric.table()


def read_predictions(path: str | Path) -> list[tuple[str, str]]:
    """Reads predicted answers, in the file's order and with what it says twice.

    `.jsonl` has one object a line, {"question_id": 7, "answer": "yes"}. `.json` has one object {"7": "yes", ...} or a
    list of such objects. Ids may be numbers or texts; answers are words, or for AVQA the
    choice's number.

    Raises:
        DataError: missing, too large, not JSON, or a row without id and answer; file and line or row are named.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; a predictions file has at most {_MAX_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such predictions file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if path.suffix == ".jsonl":
        numbered = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
        return [_prediction(_parse(line, f"{path}:{n}"), f"{path}:{n}") for n, line in numbered]
    content = _parse(text, str(path))
    if isinstance(content, list):
        return [_prediction(row, f"{path}: row {n}") for n, row in enumerate(content, start=1)]
    if isinstance(content, _Pairs):
        return [(key, _answer(answer, f"{path}: question {key}")) for key, answer in content.pairs]
    raise DataError(f"{path}: holds a {type(content).__name__}; expected an object or a list")


class _Pairs:
    """A JSON object with its repeated keys: a dict would keep the last of them and say nothing."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.pairs = pairs


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: cannot be read as JSON ({error})") from error


def _prediction(row: object, where: str) -> tuple[str, str]:
    if not isinstance(row, _Pairs):
        raise DataError(f'{where}: expected an object {{"question_id": ..., "answer": ...}}')
    values = dict(row.pairs)
    if "question_id" not in values or "answer" not in values:
        raise DataError(f"{where}: keys {', '.join(values) or 'none'}; expected question_id and answer")
    key = values["question_id"]
    if type(key) not in (int, str):
        raise DataError(f"{where}: question_id is {key!r}; expected a number or a text")
    return str(key), _answer(values["answer"], where)


def _answer(value: object, where: str) -> str:
    if type(value) not in (str, int):
        raise DataError(f"{where}: the answer is {value!r}; expected a word, or a choice's number (AVQA)")
    return str(value)
