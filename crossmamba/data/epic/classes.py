"""Verb and noun classes of EPIC-KITCHENS-100, and the lists beside them (spec §3.1).

`EPIC_100_verb_classes.csv` has 97 rows and `EPIC_100_noun_classes.csv` 300: id, key, instances (a Python list of the
narrators' words that belong to the class), category. No instance belongs to two classes, so word -> class is a
function.
"""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from crossmamba.data.epic.annotations import EpicRow
from crossmamba.errors import DataError, UsageError

__all__ = ["ClassTable", "EpicClasses", "action_list", "class_file", "read_classes", "read_epic_classes", "read_ids"]

Kind = Literal["verb", "noun"]


@dataclass(frozen=True)
class ClassTable:
    """The classes of verbs or of nouns, by number.

    Attributes:
        kind: "verb" or "noun".
        keys: name of each class, such as `turn-on` or `box:lunch`.
        instances: of each class, all words that belong to it.
        categories: of each class, such as `appliances`; empty texts where the file has none.
    """

    kind: Kind
    keys: tuple[str, ...]
    instances: tuple[tuple[str, ...], ...]
    categories: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def by_word(self) -> dict[str, int]:
        """Class of every instance and key."""
        words = {key: number for number, key in enumerate(self.keys)}
        words.update((word, number) for number, group in enumerate(self.instances) for word in group)
        return words

    def number(self, word: str) -> int:
        """Class of a word.

        Raises:
            DataError: no class has this word.
        """
        try:
            return self.by_word[word]
        except KeyError:
            raise DataError(f"{word!r} is no instance of any {self.kind} class") from None


@dataclass(frozen=True)
class EpicClasses:
    """Everything that a data set's class files say.

    Attributes:
        verbs, nouns: the two tables.
        tail_verbs, tail_nouns: numbers of the rare classes; None without the file.
        unseen: participants of the validation split who are not in train; None without the file.
    """

    verbs: ClassTable
    nouns: ClassTable
    tail_verbs: frozenset[int] | None = None
    tail_nouns: frozenset[int] | None = None
    unseen: frozenset[str] | None = None


def class_file(root: str | Path, name: str) -> Path:
    """`ROOT/EPIC_100_{name}.csv`, or in `ROOT/annotations` or `ROOT/epic-kitchens-100-annotations`; the first place
    that has it, else the first place."""
    places = [Path(root) / folder for folder in ("", "annotations", "epic-kitchens-100-annotations")]
    files = [place / f"EPIC_100_{name}.csv" for place in places]
    return next((file for file in files if file.is_file()), files[0])


def read_epic_classes(root: str | Path) -> EpicClasses:
    """The class tables below a folder, and the tail and unseen lists where they are.

    Raises:
        DataError: a table is missing, or any of the files is wrong.
    """

    def ids(name: str, column: str) -> frozenset[str] | None:
        file = class_file(root, name)
        return read_ids(file, column) if file.is_file() else None

    verbs = read_classes(class_file(root, "verb_classes"), "verb")
    nouns = read_classes(class_file(root, "noun_classes"), "noun")
    tails = [
        _numbers(class_file(root, f"tail_{table.kind}s"), ids(f"tail_{table.kind}s", table.kind), len(table))
        for table in (verbs, nouns)
    ]
    return EpicClasses(verbs, nouns, tails[0], tails[1], ids("unseen_participant_ids_validation", "participant_id"))


def _numbers(path: Path, ids: frozenset[str] | None, count: int) -> frozenset[int] | None:
    if ids is None:
        return None
    for value in sorted(ids):
        if not value.isdigit() or int(value) >= count:
            raise DataError(f"{path}: {value!r} is no class number; the class table has 0 to {count - 1}")
    return frozenset(int(value) for value in ids)


def read_classes(path: str | Path, kind: Kind) -> ClassTable:
    """A class table.

    Raises:
        DataError: missing, no csv, a column lacks, numbers that are not 0, 1, 2, ... in order, a cell that is no list,
            a key that comes twice, or a word in two classes. File and line are named.
    """
    path = Path(path)
    keys: list[str] = []
    instances: list[tuple[str, ...]] = []
    categories: list[str] = []
    owner: dict[str, int] = {}
    for line, cell in _records(path, ("id", "key", "instances")):
        where = f"{path}:{line}"
        if cell["id"] != str(len(keys)):
            raise DataError(f"{where}: id {cell['id']!r}; expected {len(keys)}: classes count up from 0")
        key = cell["key"]
        if not key or key in keys:
            raise DataError(f"{where}: the key {key!r} is {'empty' if not key else f'also class {keys.index(key)}'}")
        try:
            words = ast.literal_eval(cell["instances"])
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise DataError(f"{where}: instances of {key!r} are no list of words ({error})") from error
        if not isinstance(words, list) or any(not isinstance(word, str) for word in words):
            raise DataError(f"{where}: instances of {key!r} are no list of words")
        for word in words:
            if owner.setdefault(word, len(keys)) != len(keys):
                raise DataError(f"{where}: {word!r} is in class {owner[word]} ({keys[owner[word]]}) and in {key}")
        keys.append(key)
        instances.append(tuple(words))
        categories.append(cell.get("category", ""))
    if not keys:
        raise DataError(f"{path}: the class table has no rows")
    return ClassTable(kind, tuple(keys), tuple(instances), tuple(categories))


def read_ids(path: str | Path, column: str) -> frozenset[str]:
    """One column of a csv file as a set: the tail classes, the unseen participants.

    Raises:
        DataError: missing, no csv, or without the column.
    """
    return frozenset(cell[column] for _, cell in _records(Path(path), (column,)))


def _records(path: Path, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """(line, cells by column) of every row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [cell.strip() for cell in next(reader, [])]
            rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a csv file ({error})") from error
    for name in needed:
        if name not in header:
            raise DataError(f"{path}: no column {name}; the columns are {', '.join(header) or 'none'}")
    for line, row in rows:
        if len(row) != len(header):
            raise DataError(f"{path}:{line}: {len(row)} cells; the header has {len(header)}")
    return [(line, dict(zip(header, (cell.strip() for cell in row), strict=True))) for line, row in rows]


def action_list(rows: Iterable[EpicRow]) -> list[tuple[int, int]]:
    """The different (verb, noun) pairs in the order of AVION, LaViLa and RULSTM: sorted as texts `v:n`.

    Of train and validation together these are 3,806, and position i is action class i of those systems.

    Raises:
        UsageError: a row without labels.
    """
    pairs = set()
    for row in rows:
        if row.verb_class is None or row.noun_class is None:
            raise UsageError(f"narration {row.narration_id} has no classes: actions are listed from labelled rows")
        pairs.add((row.verb_class, row.noun_class))
    return sorted(pairs, key=lambda pair: f"{pair[0]}:{pair[1]}")
