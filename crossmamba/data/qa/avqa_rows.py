"""AVQA's annotation files: questions with four choices about VGGSound clips (spec §3.2).

A row: `id` int, `video_name` str, `video_id` int (row of the .h5 features), `question_text`, `multi_choice` list of
four texts, `answer` int 0 to 3, `question_relation` and `question_type`. Choices may be None or missing: they are
"NULL" then, as in the official code. There is no test split; papers report val.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmamba.data.paths import safe_name
from crossmamba.data.qa.annotations import RowProblem, read_json_list
from crossmamba.data.qa.rows import FaultyRow
from crossmamba.errors import DataError, UsageError

__all__ = [
    "CHOICES",
    "NULL",
    "QUESTION_TYPES",
    "ChoiceRow",
    "choice_words",
    "find_choices",
    "parse_choices",
    "read_choices",
]

CHOICES = 4
NULL = "NULL"
QUESTION_TYPES: tuple[str, ...] = (
    *("Which", "Come From", "Happening", "Where", "Why", "Before Next", "When", "Used For"),
)
_TYPE_NUMBERS = {name.lower(): number for number, name in enumerate(QUESTION_TYPES)}
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
SPLITS = ("train", "val")


@dataclass(frozen=True)
class ChoiceRow:
    """One question.

    Attributes:
        row: position in the file, from 1.
        question_id: the file's `id`.
        video_id: the file's `video_name`.
        feature_row: the file's `video_id`, by which the .h5 files are ordered; None if it is not given.
        question: text. words: of it, in small letters.
        choices: four texts. answer: position of the right one; None if the file gives none.
        kind: `question_type`. relation: `question_relation`, such as "View".
    """

    row: int
    question_id: int
    video_id: str
    feature_row: int | None
    question: str
    words: tuple[str, ...]
    choices: tuple[str, ...]
    answer: int | None
    kind: str
    relation: str

    @property
    def type_index(self) -> int:
        """Position of the type in `QUESTION_TYPES`."""
        return _TYPE_NUMBERS[self.kind.lower()]

    @property
    def answer_index(self) -> int:
        """The answer, -1 if it is not known."""
        return -1 if self.answer is None else self.answer


def choice_words(text: str) -> tuple[str, ...]:
    """Words of a question or choice: runs of letters and digits in small letters; "NULL" stays one word."""
    return (NULL,) if text == NULL else tuple(word.lower() for word in _WORD.findall(text))


def find_choices(root: str | Path, split: str) -> Path:
    """The annotation file: `root` itself, or `<split>_qa.json`, `avqa-<split>.json` or `<split>.json` in it.

    Raises:
        UsageError: an unknown split. DataError: there is none.
    """
    root = Path(root)
    if root.suffix == ".json" and not root.is_dir():
        return root
    if split not in SPLITS:
        raise UsageError(f"split is {split!r}; AVQA has {' and '.join(SPLITS)} (there is no test split)")
    places = [
        folder / name
        for folder in (root, root / "data")
        for name in (f"{split}_qa.json", f"avqa-{split}.json", f"{split}.json")
    ]
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"{root}: no annotations of split {split!r}; looked for {', '.join(map(str, places))}")


def read_choices(root: str | Path, split: str = "val", *, require_answers: bool = True) -> list[ChoiceRow]:
    """All rows of a split, in the file's order.

    Raises:
        UsageError: an unknown split.
        DataError: the file is missing, empty or faulty, or an id comes twice; the first faulty row is named.
    """
    path = find_choices(root, split)
    rows, problems = parse_choices(path, require_answers=require_answers)
    if problems:
        more = f" (and {len(problems) - 1} more; `crossmamba data verify avqa` lists them)" if problems[1:] else ""
        raise DataError(f"{problems[0].message}{more}")
    if not rows:
        raise DataError(f"{path}: the file has no rows")
    return rows


def parse_choices(path: Path, *, require_answers: bool = True) -> tuple[list[ChoiceRow], list[RowProblem]]:
    """All rows that can be used, and why the others cannot.

    Raises:
        DataError: the file cannot be read as a list.
    """
    rows: list[ChoiceRow] = []
    problems: list[RowProblem] = []
    first: dict[int, int] = {}
    for number, raw in enumerate(read_json_list(path), start=1):
        where = f"{path}: row {number}"
        try:
            row = _row(number, raw, where, require_answers)
            if (before := first.setdefault(row.question_id, number)) != number:
                raise FaultyRow("duplicate", f"id {row.question_id} was already given in row {before}")
            rows.append(row)
        except FaultyRow as error:
            problems.append(RowProblem(number, error.kind, f"{where}: {error}"))
        except DataError as error:
            problems.append(RowProblem(number, "id", str(error)))
    return rows, problems


def _row(number: int, raw: object, where: str, require_answers: bool) -> ChoiceRow:
    if not isinstance(raw, dict):
        raise FaultyRow("row", f"a {type(raw).__name__}; expected an object")
    needed = ["id", "video_name", "question_text", "multi_choice", "question_type"]
    missing = [key for key in (*needed, *(["answer"] if require_answers else [])) if key not in raw]
    if missing:
        raise FaultyRow("keys", f"no key {', '.join(map(repr, missing))}")
    text, name, question_id = raw["question_text"], raw["video_name"], raw["id"]
    if type(question_id) is not int:
        raise FaultyRow("id", f"id is {question_id!r}; expected a whole number")
    if not isinstance(name, str):
        raise FaultyRow("id", f"video_name is {name!r}; expected a text")
    if not isinstance(text, str) or not choice_words(text):
        raise FaultyRow("question", f"question_text is {text!r}; expected a question")
    kind = raw["question_type"]
    if not isinstance(kind, str) or kind.lower() not in _TYPE_NUMBERS:
        raise FaultyRow("type", f"question_type is {kind!r}; known: {', '.join(QUESTION_TYPES)}")
    feature_row = raw.get("video_id")
    if feature_row is not None and type(feature_row) is not int:
        raise FaultyRow("id", f"video_id is {feature_row!r}; expected the whole number of a row of the .h5 files")
    choices = _choices(raw["multi_choice"])
    return ChoiceRow(
        row=number,
        question_id=question_id,
        video_id=safe_name(name, where),
        feature_row=feature_row,
        question=text,
        words=choice_words(text),
        choices=choices,
        answer=_answer(raw.get("answer"), choices, require_answers),
        kind=kind,
        relation=str(raw.get("question_relation", "")),
    )


def _choices(value: Any) -> tuple[str, ...]:
    """Four texts; what is None, empty or not there is "NULL"."""
    given: Sequence[Any] = [] if value is None else value
    if not isinstance(given, list) or len(given) > CHOICES:
        raise FaultyRow("choices", f"multi_choice is {value!r}; expected a list of at most {CHOICES} texts")
    for choice in given:
        if choice is not None and not isinstance(choice, str | int | float):
            raise FaultyRow("choices", f"the choice {choice!r} is no text")
    texts = [NULL if choice is None or not str(choice).strip() else str(choice) for choice in given]
    return (*texts, *[NULL] * (CHOICES - len(texts)))


def _answer(value: Any, choices: tuple[str, ...], required: bool) -> int | None:
    if value is None and not required:
        return None
    if type(value) is not int or not 0 <= value < CHOICES:
        raise FaultyRow("answer", f"the answer is {value!r}; expected the number of a choice, 0 to {CHOICES - 1}")
    if choices[value] == NULL:
        raise FaultyRow("answer", f"the answer is choice {value}, which is missing")
    return value
