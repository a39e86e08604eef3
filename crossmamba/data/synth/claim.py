"""The folder of a synthetic set: taken when it is new, empty or the same set; never deleted unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossmamba.data.synth.files import PART, write_bytes
from crossmamba.errors import DataError, UsageError


@contextmanager
def claimed(base: Path, record: dict[str, Any], overwrite: bool, settings: Path | None = None) -> Iterator[None]:
    """`claim`, and then all that is written into the folder: where the disk refuses, the message says what to do.

    Raises:
        UsageError: see `claim`.
        DataError: a file cannot be written.
    """
    try:
        claim(base, record, overwrite, settings)
        yield
    except OSError as error:
        raise DataError(f"{base}: cannot write the set ({error}); free some space and call again.") from error


def claim(base: Path, record: dict[str, Any], overwrite: bool, settings: Path | None = None) -> None:
    """Makes the folder ours: new, empty, or holding the same set; anything else is refused or, if asked, deleted.

    Afterwards `settings` holds the record, and unfinished files of a killed process are gone.

    Args:
        base: the folder of the set.
        record: the settings that make the set what it is, JSON types only.
        overwrite: delete another synthetic set that is in the way. A folder without settings is never deleted.
        settings: the file that holds the record; None for `base/world.json`.

    Raises:
        UsageError: the folder is a file, holds something else, or a set with other settings.
        OSError: the disk refused.
    """
    settings = base / "world.json" if settings is None else settings
    if base.exists() and not base.is_dir():
        raise UsageError(f"{base} is a file; choose another folder.")
    if base.is_dir() and any(base.iterdir()):
        if not settings.is_file():
            raise UsageError(
                f"{base} holds files that `data synth` did not make (it has no world.json); "
                "choose another folder. --overwrite does not delete such a folder either."
            )
        differing = _differences(settings, record)
        if differing and not overwrite:
            raise UsageError(
                f"{base} holds a set with other settings ({', '.join(differing)}); "
                "choose another folder or --overwrite."
            )
        if overwrite:
            shutil.rmtree(base)
    for part in base.rglob(f".*{PART}"):  # left by a killed process
        part.unlink()
    write_bytes(settings, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())


def _differences(path: Path, record: dict[str, Any]) -> list[str]:
    """Names of the settings in which a `world.json` differs from the wanted one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ["world.json is unreadable"]
    if not isinstance(found, dict):
        return ["world.json is unreadable"]
    wanted = json.loads(json.dumps(record))
    return sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))


def split_counts(counts: object, splits: tuple[str, ...], what: str) -> dict[str, int]:
    """Numbers per split, from one number N (N train, 15 % of it and at least 1 for each other split) or a mapping.

    Args:
        counts: an int, or a mapping from split to int; a split left out has 0.
        splits: names, the first is train.
        what: name of the argument, for the message.

    Raises:
        UsageError: unknown splits, negative numbers, or nothing at all.
    """
    if isinstance(counts, dict):
        found = {split: int(counts.get(split, 0)) for split in splits}
        wrong = bool(set(counts) - set(splits))
    elif isinstance(counts, int):
        found = {split: counts if split == splits[0] else max(1, counts * 15 // 100) for split in splits}
        wrong = counts < 1
    else:
        found, wrong = {splits[0]: 0}, True
    if wrong or min(found.values()) < 0 or not any(found.values()):
        raise UsageError(f"{what}={counts!r}: give a number of 1 or more, or numbers for {', '.join(splits)}.")
    return found
