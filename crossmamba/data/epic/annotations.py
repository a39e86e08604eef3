"""Annotation files of EPIC-KITCHENS-100 (spec §3.1): the official csv files, and RULSTM's without a header.

| file | rows | columns |
|---|---:|---|
| EPIC_100_train.csv | 67,217 | all 15 |
| EPIC_100_validation.csv | 9,668 | all 15 |
| EPIC_100_test_timestamps.csv | 13,092 | the first 8: no narration and no labels |
| RULSTM's training.csv, validation.csv | as above | uid, video, start, stop, verb, noun, action: numbers |
| RULSTM's test csv | as above | the first 4 of these |

RULSTM's start and stop are frames of 30 a second, floor(30 x seconds); a uid is the narration id (in its files of
EPIC-KITCHENS-55 a number).

Times are seconds (float). `HH:MM:SS.ff` is read as a decimal number of seconds: narration times have three decimals and
the others two, so a rule that divides the fraction by 100 shifts them. The .pkl twins of these files are not read: a
pickle can run code.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from crossmamba.data.epic.frames import frame_rate
from crossmamba.data.paths import safe_name
from crossmamba.errors import DataError

__all__ = [
    "COLUMNS",
    "NOUN_COUNT",
    "VERB_COUNT",
    "EpicRow",
    "RowProblem",
    "parse_rows",
    "read_actions",
    "read_rows",
    "seconds_of",
]

VERB_COUNT, NOUN_COUNT = 97, 300
"""Classes of the official tables. The v2 noun table has five more, for VISOR only; it never belongs to this task."""

COLUMNS = (
    "narration_id",
    "participant_id",
    "video_id",
    "narration_timestamp",
    "start_timestamp",
    "stop_timestamp",
    "start_frame",
    "stop_frame",
    "narration",
    "verb",
    "verb_class",
    "noun",
    "noun_class",
    "all_nouns",
    "all_noun_classes",
)
_TIMED = COLUMNS[:8]
_TIME = re.compile(r"(\d{1,3}):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")
_RULSTM, _RULSTM_TEST = 7, 4  # cells of RULSTM's rows
_RULSTM_RATE = 30.0  # frames a second of RULSTM's files
_MAX_FIELD = 2**20  # characters of one cell


@dataclass(frozen=True)
class EpicRow:
    """One action segment: the 15 official columns, times in seconds.

    Attributes:
        narration_id: such as `P01_11_0`, unique. participant_id: `P01`. video_id: `P01_11`.
        narration_timestamp: when the narrator spoke; None for the rows whose official value is NaN.
        start_timestamp, stop_timestamp: of the action, seconds.
        start_frame, stop_frame: numbers of extracted frames, from 1, both included; see `frames.frame_range`.
        narration, verb, noun: words; empty where not given (test).
        verb_class, noun_class: class numbers; None where hidden (test).
        all_nouns, all_noun_classes: of narrations with several nouns; `noun` is the first.
        line: of the file, from 1, the header counted.
        action_class: RULSTM's number of the (verb, noun) pair; None in the official files.
    """

    narration_id: str
    participant_id: str
    video_id: str
    narration_timestamp: float | None
    start_timestamp: float
    stop_timestamp: float
    start_frame: int
    stop_frame: int
    narration: str = ""
    verb: str = ""
    verb_class: int | None = None
    noun: str = ""
    noun_class: int | None = None
    all_nouns: tuple[str, ...] = ()
    all_noun_classes: tuple[int, ...] = ()
    line: int = field(default=0, compare=False)
    action_class: int | None = None

    @property
    def labelled(self) -> bool:
        """Whether both classes are given."""
        return self.verb_class is not None and self.noun_class is not None

    @property
    def seconds(self) -> float:
        """Length of the action."""
        return self.stop_timestamp - self.start_timestamp


@dataclass(frozen=True)
class RowProblem:
    """A row that cannot be used: its line (from 1), a short kind, and one sentence with file, line and narration id."""

    line: int
    kind: str
    message: str


def seconds_of(text: str) -> float:
    """`01:02:03.45` as seconds.

    The sum is made in this order on purpose: the official frame numbers are floor(seconds x rate) of exactly this
    float64 value. Exact decimals would give another number for 74 of the 9,668 validation rows.

    Raises:
        ValueError: another form, NaN included.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text.strip()!r} is no time of the form HH:MM:SS.ff")
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def read_rows(path: str | Path, *, verbs: int = VERB_COUNT, nouns: int = NOUN_COUNT) -> list[EpicRow]:
    """The rows of an annotation file, in its order.

    Args:
        path: an official csv file, with or without labels, or one of RULSTM's (`parse_rows` says how it is known).
        verbs, nouns: sizes of the class tables; class numbers beyond them are refused.

    Raises:
        DataError: the file is missing or no such table, or a row is wrong: file, line and narration id are named.
    """
    rows, problems = parse_rows(path, verbs=verbs, nouns=nouns)
    if problems:
        more = f" ({len(problems) - 1} more rows are wrong; `crossmamba data verify epic100` lists all)"
        raise DataError(problems[0].message + (more if len(problems) > 1 else ""))
    return rows


def parse_rows(
    path: str | Path, *, verbs: int = VERB_COUNT, nouns: int = NOUN_COUNT
) -> tuple[list[EpicRow], list[RowProblem]]:
    """(rows that can be used, rows that cannot), both in the file's order.

    A file whose first row is seven or four cells, the third and fourth whole numbers, is RULSTM's (see the module).

    Raises:
        DataError: the file is missing, a pickle, not text, without rows, or lacks a column.
    """
    path = Path(path)
    cells = _cells(path)
    if not cells:
        raise DataError(f"{path}: the file is empty; expected the columns {', '.join(_TIMED)}, ...")
    header = [cell.strip() for cell in cells[0][1]]
    if len(header) in (_RULSTM, _RULSTM_TEST) and header[2].isdigit() and header[3].isdigit():
        labelled, whose = len(header) == _RULSTM, "first row's"
        records = [(line, _rulstm(row) if len(row) == len(header) else None) for line, row in cells]
    else:
        labelled, whose = _check_header(path, header), "header's"
        records = [
            (line, dict(zip(header, row, strict=False)) if len(row) == len(header) else None) for line, row in cells[1:]
        ]
    if not records:
        raise DataError(f"{path}: the file has a header and no rows")
    rows: list[EpicRow] = []
    problems: list[RowProblem] = []
    lines: dict[str, int] = {}
    for line, record in records:
        where = f"{path}:{line}"
        name = (record or {}).get("narration_id", "").strip()
        if name:
            where += f": narration {name}"
        try:
            if record is None:
                raise _Wrong("cells", f"the row does not have the {whose} {len(header)} cells")
            row = _row(record, line, labelled, verbs, nouns)
            if row.narration_id in lines:
                raise _Wrong("duplicate id", f"the narration id is already that of line {lines[row.narration_id]}")
        except _Wrong as wrong:
            problems.append(RowProblem(line, wrong.kind, f"{where}: {wrong}"))
            continue
        lines[row.narration_id] = line
        rows.append(row)
    return rows, problems


def read_actions(path: str | Path) -> list[tuple[int, int]]:
    """RULSTM's `actions.csv`: the (verb, noun) of every action number.

    Raises:
        DataError: missing, no csv, without the columns id, verb and noun, or numbers that do not count up from 0.
    """
    path = Path(path)
    cells = _cells(path)
    header = [cell.strip() for cell in cells[0][1]] if cells else []
    if lacking := [name for name in ("id", "verb", "noun") if name not in header]:
        raise DataError(f"{path}: no column {', '.join(lacking)}; the columns are {', '.join(header) or 'none'}")
    pairs: list[tuple[int, int]] = []
    for line, row in cells[1:]:
        cell = {name: value.strip() for name, value in zip(header, row, strict=False)}
        values = [cell.get(name, "") for name in ("id", "verb", "noun")]
        if len(row) != len(header) or not all(value.isdigit() for value in values) or int(values[0]) != len(pairs):
            raise DataError(f"{path}:{line}: expected action {len(pairs)} with a verb and a noun class, got {row}")
        pairs.append((int(values[1]), int(values[2])))
    return pairs


class _Wrong(Exception):
    """Why a row is refused."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _cells(path: Path) -> list[tuple[int, list[str]]]:
    """(line where it ends, cells) of every row that is not blank."""
    if path.suffix in (".pkl", ".pickle"):
        raise DataError(f"{path}: pickles can run code and are not read; give the .csv file of the same name")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            limit = csv.field_size_limit(_MAX_FIELD)
            try:
                return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
            finally:
                csv.field_size_limit(limit)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such annotation file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a csv file ({error})") from error


def _check_header(path: Path, header: Sequence[str]) -> bool:
    """Whether the file has labels."""
    missing = [name for name in _TIMED if name not in header]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; the columns are {', '.join(header) or 'none'}")
    given = [name for name in COLUMNS[8:] if name in header]
    if given and len(given) < 7:
        lacking = ", ".join(name for name in COLUMNS[8:] if name not in header)
        raise DataError(f"{path}: no column {lacking}; a file has all of {', '.join(COLUMNS[8:])}, or none (test)")
    return bool(given)


def _rulstm(cells: list[str]) -> dict[str, str]:
    """One of RULSTM's rows under the official names; times follow from its frames at 30 a second."""
    uid, video, start, stop, *classes = (cell.strip() for cell in cells)
    record = {"narration_id": uid, "participant_id": video.split("_")[0], "video_id": video}
    record |= {"rulstm_start": start, "rulstm_stop": stop}
    return record | dict(zip(("verb_class", "noun_class", "action_class"), classes, strict=False))


def _row(record: dict[str, str], line: int, labelled: bool, verbs: int, nouns: int) -> EpicRow:
    cell = {name: value.strip() for name, value in record.items()}
    for name in ("narration_id", "participant_id", "video_id"):
        try:
            safe_name(cell[name], name)
        except DataError as error:
            raise _Wrong("name", str(error)) from error
    if not cell["video_id"].startswith(f"{cell['participant_id']}_"):
        raise _Wrong("name", f"video {cell['video_id']!r} is not one of participant {cell['participant_id']!r}")
    spoken, start, stop = _times(cell)
    first, last = _frames(cell)
    row = EpicRow(
        cell["narration_id"], cell["participant_id"], cell["video_id"], spoken, start, stop, first, last, line=line
    )
    if not labelled:
        return row
    return replace(
        row,
        narration=cell.get("narration", ""),
        verb=cell.get("verb", ""),
        verb_class=_class(cell, "verb_class", verbs),
        noun=cell.get("noun", ""),
        noun_class=_class(cell, "noun_class", nouns),
        all_nouns=tuple(_list(cell, "all_nouns", str)),
        all_noun_classes=tuple(_list(cell, "all_noun_classes", int)),
        action_class=_whole(cell, "action_class") if "action_class" in cell else None,
    )


def _times(cell: dict[str, str]) -> tuple[float | None, float, float]:
    if "rulstm_start" in cell:
        frames = [_whole(cell, name) for name in ("rulstm_start", "rulstm_stop")]
        times: list[float | None] = [None, *(frame / _RULSTM_RATE for frame in frames)]
    else:
        times = []
        for name in ("narration_timestamp", "start_timestamp", "stop_timestamp"):
            text = cell[name]
            missing = text.lower() in ("", "nan", "nat", "none")
            if missing and name != "narration_timestamp":
                raise _Wrong("time", f"{name} is {text or 'empty'!r}; only narration_timestamp may be NaN")
            try:
                times.append(None if missing else seconds_of(text))
            except ValueError as error:
                raise _Wrong("time", f"{name} {error}") from error
    spoken, start, stop = times
    if start is None or stop is None:
        raise _Wrong("time", "an action needs a start and a stop")
    if stop <= start:
        raise _Wrong("time", f"the action stops at {stop} s, not after its start at {start} s")
    return spoken, start, stop


def _frames(cell: dict[str, str]) -> tuple[int, int]:
    if "rulstm_start" in cell:
        try:
            rate = frame_rate(cell["video_id"])
        except DataError as error:
            raise _Wrong("name", str(error)) from error
        given = [_whole(cell, name) * rate // int(_RULSTM_RATE) for name in ("rulstm_start", "rulstm_stop")]
        return max(1, given[0]), max(1, given[1])
    first, last = _whole(cell, "start_frame"), _whole(cell, "stop_frame")
    if first < 1 or last < first:
        raise _Wrong("frames", f"start_frame {first} and stop_frame {last}; frames count from 1 and do not go back")
    return first, last


def _whole(cell: dict[str, str], name: str) -> int:
    text = cell[name]
    if re.fullmatch(r"0*\d{1,9}(\.0+)?", text) and len(text) < 20:
        return int(float(text))
    raise _Wrong("number", f"{name.removeprefix('rulstm_')} is {text or 'empty'!r}; expected a whole number")


def _class(cell: dict[str, str], name: str, count: int) -> int:
    value = _whole(cell, name)
    if value >= count:
        raise _Wrong("unknown class", f"{name} is {value}; the class table has 0 to {count - 1}")
    return value


def _list(cell: dict[str, str], name: str, kind: type) -> list:
    """A cell that holds a Python list of words or numbers."""
    text = cell.get(name, "")
    if not text:
        return []
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise _Wrong("list", f"{name} is {text[:60]!r}; expected a list such as ['plate'] or [2]") from error
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise _Wrong("list", f"{name} is {text[:60]!r}; expected a list of {kind.__name__}")
    return values
