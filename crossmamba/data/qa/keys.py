"""By which text a prediction names its question, and head and tail of MUSIC-AVQA-R.

A key is the question id. Two kinds of rows need more: v2.0's rows without an id are "row:<n>" (n from 1 in the file),
and where MUSIC-AVQA-R has several rephrasings with one id they are "<id>#<n>" (n from 1 in the file's order).
In `json` two contradictory rows share their id, and the one prediction is judged against both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from crossmamba.data.qa.annotations import QuestionFile, parse_questions
from crossmamba.data.qa.rows import QuestionRow
from crossmamba.errors import DataError

__all__ = ["head_or_tail", "row_keys"]


def row_keys(file: QuestionFile) -> list[str]:
    """The key of each row, see the top of this file."""
    numbered = set(file.duplicates) if file.version == "r" else set()
    seen: Counter[int] = Counter()
    keys = []
    for row in file.rows:
        if row.question_id is None:
            keys.append(f"row:{row.row}")
        elif row.question_id in numbered:
            seen[row.question_id] += 1
            keys.append(f"{row.question_id}#{seen[row.question_id]}")
        else:
            keys.append(str(row.question_id))
    return keys


def head_or_tail(file: QuestionFile) -> list[str | None]:
    """ "head" or "tail" for each row; None for all where the set does not say.

    Taken from a row's own key `split` (FortisAVQA), or from the files `avqa-test-head.json` and `-tail.json` beside an
    `avqa-test-headtail.json` (MUSIC-AVQA-R); rows are recognised by video, id and text.

    Raises:
        DataError: one of the two files is missing or faulty, or they do not hold exactly the rows of `file`.
    """
    own = [row.extra.get("split") for row in file.rows]
    if own and all(name in ("head", "tail") for name in own):
        return [str(name) for name in own]
    if not file.path.name.endswith("-headtail.json"):
        return [None] * len(file.rows)
    groups: dict[tuple[str, int | None, str], str] = {}
    for name in ("head", "tail"):
        path = file.path.with_name(file.path.name.replace("-headtail", f"-{name}"))
        for row in _rows(path):
            if groups.setdefault(_identity(row), name) != name:
                raise DataError(f"{path}: row {row.row}: the same question is among the head too")
    strangers = [str(row.row) for row in file.rows if _identity(row) not in groups]
    if strangers or len({_identity(row) for row in file.rows}) != len(groups):
        where = f"rows {', '.join(strangers[:10])} of it are in neither" if strangers else "they hold other questions"
        raise DataError(f"{file.path}: the -head and -tail files beside it do not make it up: {where}")
    return [groups[_identity(row)] for row in file.rows]


def _rows(path: Path) -> Sequence[QuestionRow]:
    rows, problems = parse_questions(path, "r")
    if problems:
        raise DataError(problems[0].message)
    return rows


def _identity(row: QuestionRow) -> tuple[str, int | None, str]:
    return row.video_id, row.question_id, row.template
