"""MUSIC-AVQA's annotation files and their relatives, read exactly as they are (spec §3.1, §3.2).

A file is a JSON list of rows. What is odd about a row, and handled here:
  * `type` and `templ_values` are JSON inside strings; in v2.0 `templ_values` is a real list in some rows
  * the answer's key is misspelt `anser`
  * `question_content` is a template with placeholders; two templates end in a blank, one in a full-width question mark
  * `json` has question ids that occur twice with contradictory answers; v2.0 has rows without an id
  * v2.0, MUSIC-AVQA-R and FortisAVQA carry further keys; MUSIC-AVQA-R's questions are filled already

Rows are counted from 1 in messages.
"""

from __future__ import annotations

import json
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from crossmamba.data.qa.rows import FaultyRow, QuestionRow, Version, is_synthetic, read_row
from crossmamba.errors import DataError, UsageError

__all__ = [
    "SPLITS",
    "Duplicates",
    "QuestionFile",
    "QuestionRow",
    "RowProblem",
    "Subset",
    "Version",
    "duplicate_ids",
    "find_annotations",
    "in_subset",
    "is_synthetic",
    "parse_questions",
    "read_json_list",
    "read_questions",
]

Duplicates = Literal["auto", "keep", "drop", "error"]
Subset = Literal["all", "real", "synthetic"]
SPLITS: tuple[str, ...] = ("train", "val", "test")

_MAX_BYTES = 2**28


@dataclass(frozen=True)
class RowProblem:
    """A row that cannot be used: its position (from 1) and why, with the file's name."""

    row: int
    kind: str
    message: str


@dataclass(frozen=True)
class QuestionFile(Sequence[QuestionRow]):
    """The rows of one file, in the file's order; a sequence of `QuestionRow`.

    Attributes:
        path: of the file.
        version: it was read as.
        rows: what can be used.
        duplicates: question id -> its rows, for ids that occur more than once (before any was dropped).
        dropped: rows left out by `duplicates="drop"`.
    """

    path: Path
    version: Version
    rows: tuple[QuestionRow, ...]
    duplicates: Mapping[int, tuple[QuestionRow, ...]] = field(default_factory=dict)
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[QuestionRow]:
        return iter(self.rows)

    @property
    def contradictory(self) -> int:
        """How many ids occur with different answers."""
        return sum(len({row.answer for row in rows}) > 1 for rows in self.duplicates.values())

    @property
    def videos(self) -> tuple[str, ...]:
        """The videos, each once, sorted."""
        return tuple(sorted({row.video_id for row in self.rows}))


def in_subset(rows: Sequence[QuestionRow], subset: Subset) -> list[QuestionRow]:
    """The rows about real or about synthetic videos, or all of them.

    Raises:
        UsageError: another name.
    """
    if subset not in get_args(Subset):
        raise UsageError(f"subset is {subset!r}; allowed: {', '.join(get_args(Subset))}")
    return [row for row in rows if subset == "all" or row.synthetic == (subset == "synthetic")]


def find_annotations(root: str | Path, split: str, version: Version = "json_update") -> Path:
    """The annotation file of a split.

    Args:
        root: the file itself; or a folder that holds `<version>/avqa-<split>.json`, `data/<version>/...` (the official
            repository) or `avqa-<split>.json`. MUSIC-AVQA-R's is `avqa-test-headtail.json`.
        split: "train", "val" or "test".
        version: see `read_questions`.

    Raises:
        UsageError: an unknown split or version.
        DataError: none of these files is there.
    """
    if version not in get_args(Version):
        raise UsageError(f"version is {version!r}; allowed: {', '.join(get_args(Version))}")
    root = Path(root)
    if root.suffix == ".json" and not root.is_dir():
        if not root.is_file():
            raise DataError(f"{root}: there is no such annotation file")
        return root
    if split not in SPLITS:
        raise UsageError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    name = f"avqa-{split}-headtail.json" if version == "r" else f"avqa-{split}.json"
    places = [root / version / name, root / "data" / version / name, root / name]
    for place in places:
        if place.is_file():
            return place
    raise DataError(f"{root}: no annotations of split {split!r}; looked for {', '.join(map(str, places))}")


def read_questions(
    root: str | Path,
    split: str = "test",
    version: Version = "json_update",
    *,
    duplicates: Duplicates = "auto",
    require_answers: bool = True,
) -> QuestionFile:
    """Reads an annotation file.

    Args:
        root: the file, or a folder, see `find_annotations`.
        split: "train", "val" or "test"; not used if `root` is the file.
        version: "json_update" and "json" have exactly seven keys a row. "v2" (MUSIC-AVQA v2.0) may lack the question
            id and `question_deleted`, may have further keys, and `templ_values` may be a real list. "r" (MUSIC-AVQA-R,
            FortisAVQA) has filled questions, whose words may lie outside the 93, and further keys.
        duplicates: what to do with question ids that occur more than once. "keep" keeps all their rows, as the official
            code does, which never looks at the ids: of two contradictory answers one is then always wrong. "drop"
            leaves out every row of such an id. "error" refuses the file. "auto" is "keep" for "json" (27 ids in val and
            55 in test are contradictory there, and published results count them) and for "r" (one id, many
            rephrasings), "error" for the others, where ids are unique and a duplicate means a damaged file.
        require_answers: refuse rows without an answer.

    Raises:
        UsageError: an unknown split, version or policy.
        DataError: the file is missing or faulty; the first faulty row is named, and how many more there are.
    """
    if duplicates not in get_args(Duplicates):
        raise UsageError(f"duplicates is {duplicates!r}; allowed: {', '.join(get_args(Duplicates))}")
    path = find_annotations(root, split, version)
    rows, problems = parse_questions(path, version, require_answers=require_answers)
    if problems:
        more = f" (and {len(problems) - 1} more; `crossmamba data verify` lists them)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0].message}{more}")
    if not rows:
        raise DataError(f"{path}: the file has no rows")
    return _with_duplicates(path, version, rows, duplicates)


def _with_duplicates(path: Path, version: Version, rows: list[QuestionRow], policy: Duplicates) -> QuestionFile:
    if policy == "auto":
        policy = "keep" if version in ("json", "r") else "error"
    twice = duplicate_ids(rows)
    file = QuestionFile(path, version, tuple(rows), twice)
    if not twice:
        return file
    first, members = next(iter(twice.items()))
    text = f"{path}: {len(twice)} question ids occur more than once, {file.contradictory} with contradictory answers"
    where = f"id {first} in rows {', '.join(str(row.row) for row in members[:4])}"
    if policy == "error":
        raise DataError(f"{text} (first: {where}); read it with duplicates='keep' or 'drop', or use json_update")
    if policy == "drop":
        kept = tuple(row for row in rows if row.question_id not in twice)
        file = QuestionFile(path, version, kept, twice, dropped=len(rows) - len(kept))
    if file.contradictory and version != "r":  # there it is one id, many questions
        what = f"{file.dropped} rows dropped" if policy == "drop" else "all rows kept"
        warnings.warn(f"{text} (first: {where}): {what}", stacklevel=3)
    return file


def duplicate_ids(rows: Sequence[QuestionRow]) -> dict[int, tuple[QuestionRow, ...]]:
    """Question ids that occur more than once, with their rows."""
    by_id: dict[int, list[QuestionRow]] = defaultdict(list)
    for row in rows:
        if row.question_id is not None:
            by_id[row.question_id].append(row)
    return {number: tuple(members) for number, members in by_id.items() if len(members) > 1}


def read_json_list(path: Path) -> list[Any]:
    """The list that a JSON file holds.

    Raises:
        DataError: missing, too large, not JSON, or no list; a byte order mark is tolerated.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: {path.stat().st_size} bytes; an annotation file has at most {_MAX_BYTES}")
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: holds a {type(content).__name__}; expected a list of rows")
    return content


def parse_questions(
    path: Path, version: Version, *, require_answers: bool = True
) -> tuple[list[QuestionRow], list[RowProblem]]:
    """All rows that can be used, and why the others cannot. Duplicate ids are not looked at.

    Raises:
        DataError: the file cannot be read as a list.
    """
    rows: list[QuestionRow] = []
    problems: list[RowProblem] = []
    for number, raw in enumerate(read_json_list(path), start=1):
        where = f"{path}: row {number}"
        try:
            if isinstance(raw, dict) and isinstance(raw.get("question_id"), int):
                where += f" (question {raw['question_id']})"
            rows.append(read_row(number, raw, version, where, require_answers))
        except FaultyRow as error:
            problems.append(RowProblem(number, error.kind, f"{where}: {error}"))
        except DataError as error:  # a video id that cannot be a file name
            problems.append(RowProblem(number, "id", str(error)))
    return rows, problems
