"""What questions are made from where the truth may not be known: a model's predicted classes, and questions of train.

The official anticipation masks with the true pair of the future action, and its bank holds validation questions: both
tell the model what it is to predict (spec §2.3). Here only the predicted pair is known, and a bank that shares a row
with the rows asked about is refused.

Predictions of train rows should come from models that did not learn from these rows (`folds`), one file for each part.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from crossmamba.errors import DataError
from crossmamba.questions.records import Question, read_questions
from crossmamba.questions.templates import chosen

__all__ = ["QuestionBank", "read_predicted", "read_predicted_parts"]

_COLUMNS = ("narration_id", "verb_class", "noun_class")


def read_predicted(path: str | Path) -> dict[str, tuple[int, int]]:
    """(verb class, noun class) by narration id.

    Args:
        path: a csv file with the columns narration_id, verb_class and noun_class, or a submission of the EPIC-KITCHENS
            challenges (json): of its scores the highest verb and noun count, the lower class if two are equal.

    Raises:
        DataError: missing, neither of both, an id twice, a class that is no number, no scores or NaN; where is named.
    """
    path = Path(path)
    try:
        if path.suffix.lower() == ".json":
            found = _submission(json.loads(path.read_text(encoding="utf-8")), path)
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                found = _table(csv.DictReader(file), path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file of predictions") from error
    except (OSError, UnicodeDecodeError, csv.Error, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: no JSON ({error})") from error
    if not found:
        raise DataError(f"{path}: there are no predictions in the file")
    return found


def read_predicted_parts(paths: Iterable[str | Path]) -> dict[str, tuple[int, int]]:
    """The predictions of several files together, such as those of cross-fitting: one for each part of the rows.

    Raises:
        DataError: as `read_predicted`; or two files predict the same row, so that it is not clear which model to ask.
    """
    found: dict[str, tuple[int, int]] = {}
    origin: dict[str, str | Path] = {}
    for path in paths:
        part = read_predicted(path)
        if shared := sorted(found.keys() & part.keys()):
            raise DataError(
                f"{path}: {len(shared)} rows are also in {origin[shared[0]]}, such as {shared[0]}; each row must be in "
                "one file of predictions"
            )
        found |= part
        origin |= dict.fromkeys(part, path)
    return found


def _table(reader: csv.DictReader[str], path: Path) -> dict[str, tuple[int, int]]:
    missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; needed are {', '.join(_COLUMNS)}")
    found: dict[str, tuple[int, int]] = {}
    for row in reader:
        name, verb, noun = ((row[column] or "").strip() for column in _COLUMNS)
        where = f"{path}:{reader.line_num}"
        if not name or name in found:
            raise DataError(f"{where}: the narration id {name!r} {'comes twice' if name else 'is empty'}")
        if not (verb.isascii() and verb.isdigit() and noun.isascii() and noun.isdigit()):
            raise DataError(f"{where}: classes {verb!r} and {noun!r} of {name}; expected two whole numbers")
        found[name] = int(verb), int(noun)
    return found


def _submission(content: object, path: Path) -> dict[str, tuple[int, int]]:
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict):
        raise DataError(f"{path}: no object 'results' as in a challenge submission")
    return {
        name: (_best(scores, "verb", name, path), _best(scores, "noun", name, path)) for name, scores in results.items()
    }


def _best(scores: object, kind: str, name: str, path: Path) -> int:
    given = scores.get(kind) if isinstance(scores, dict) else None
    if not isinstance(given, dict) or not given:
        raise DataError(f"{path}: narration {name} has no scores of {kind}s")
    values = {}
    for key, value in given.items():
        wrong = isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value)
        if wrong or not (key.isascii() and key.isdigit()):
            raise DataError(
                f"{path}: narration {name} has the {kind} score {key!r}: {value!r}; expected class and number"
            )
        values[int(key)] = value
    return min(values, key=lambda number: (-values[number], number))


class QuestionBank:
    """Questions of train rows by the pair that they are about.

    Args:
        questions: by narration id; generic ones and those without a pair are left out.

    Raises:
        DataError: none is left.
    """

    def __init__(self, questions: Mapping[str, Question], name: str = "the bank") -> None:
        self.ids = frozenset(questions)
        self.name = name
        self._by_pair: dict[tuple[int, int], list[Question]] = {}
        for question in questions.values():
            if question.verb_class is not None and question.noun_class is not None:
                self._by_pair.setdefault((question.verb_class, question.noun_class), []).append(question)
        if not self._by_pair:
            raise DataError(f"{name}: no question of the file says which pair it is about")

    @classmethod
    def read(cls, path: str | Path) -> QuestionBank:
        """The bank of a file that `crossmamba questions make` wrote. Raises DataError."""
        return cls(read_questions(path), str(path))

    def check_apart(self, narration_ids: Iterable[str]) -> None:
        """Raises DataError if a row asked about is in the bank."""
        shared = sorted(self.ids.intersection(narration_ids))
        if shared:
            raise DataError(
                f"{self.name}: {len(shared)} of the rows to ask about are in the bank, such as {shared[0]}: their true "
                "questions would be given away; make the bank of train rows only"
            )

    def pick(self, narration_id: str, pair: tuple[int, int], seed: int) -> Question | None:
        """One of the questions of a pair, always the same for the same arguments; None if there are none."""
        found = self._by_pair.get(pair)
        return found[chosen(narration_id, seed, "bank", len(found))] if found else None
