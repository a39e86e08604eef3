"""Parts of a train split for cross-fitting: what a model predicts of each part, it predicts without having seen it.

A model is right about the rows that it learned from more often than about others. Questions of train rows that are made
of its guesses are then better than those of the rows on which the reader of these questions is judged. Cross-fitting
(out-of-fold prediction, as in stacking: Wolpert 1992) trains K models, each on K - 1 of K parts, and takes the guesses
of each part from the model that did not see it. All segments of a video are in one part, since they look alike.

    OUT/K/EPIC_100_train.csv              the rows of all other parts, as in ROOT
    OUT/K/EPIC_100_test_timestamps.csv    the rows of part K, without narration and labels
    OUT/K/...                             the other tables of ROOT: classes, validation rows, video facts
    OUT/folds.json                        which video is in which part

Each OUT/K is a data set's folder for `crossmamba train` and `crossmamba eval --split test`; the pictures stay in ROOT
(--data.media ROOT, --media ROOT).
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from crossmamba.data.epic.annotations import COLUMNS, read_rows
from crossmamba.data.epic.classes import class_file, read_classes
from crossmamba.errors import DataError, UsageError

__all__ = ["split_videos", "write_folds"]

_HIDDEN = COLUMNS[8:]
"""Columns that the held-out rows do not have: the narration and the labels."""
_TRAIN, _TEST = "EPIC_100_train.csv", "EPIC_100_test_timestamps.csv"
_NOT_COPIED = (_TRAIN, _TEST, "EPIC_100_train_missing_timestamp_narrations.csv")


def split_videos(videos: Sequence[str], folds: int, seed: int = 0) -> dict[str, int]:
    """The part of each video, 0 to folds - 1: in random order each goes where fewest rows are.

    Args:
        videos: of every row. folds: at least 2. seed: of the order; the same arguments give the same parts.

    Raises:
        UsageError: fewer than 2 parts, or more than there are videos.
    """
    rows = Counter(videos)
    if not 2 <= folds <= len(rows):
        raise UsageError(
            f"--folds {folds}: the rows are of {len(rows)} videos; from 2 to {len(rows)} folds are possible"
        )
    order = sorted(rows)
    random.Random(seed).shuffle(order)
    size, found = [0] * folds, {}
    for video in order:
        fold = size.index(min(size))
        found[video] = fold
        size[fold] += rows[video]
    return found


def write_folds(root: str | Path, out: str | Path, folds: int, seed: int = 0) -> dict[str, int]:
    """Writes the folders of the module's docstring, each file whole or not at all; other files in OUT stay.

    Args:
        root: folder of the official tables. out: made if it is not there. folds, seed: see `split_videos`.

    Returns:
        The part of each video.

    Raises:
        UsageError: an impossible number of parts. DataError: a table is missing or wrong, or nothing can be written.
    """
    root, out = Path(root), Path(out)
    sizes = {f"{kind}s": len(read_classes(class_file(root, f"{kind}_classes"), kind)) for kind in ("verb", "noun")}
    file = root / _TRAIN
    rows = read_rows(file, **sizes)  # says what is wrong, and where
    if not all(row.labelled for row in rows):
        raise DataError(f"{file}: rows without labels; nothing can be learned from them")
    parts = split_videos([row.video_id for row in rows], folds, seed)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        header, *records = [record for record in csv.reader(opened) if record]
    columns = [name.strip() for name in header]
    place, shown = columns.index("video_id"), [k for k, name in enumerate(columns) if name not in _HIDDEN]
    tables = [path for path in sorted(root.glob("EPIC_100_*.csv")) if path.name not in _NOT_COPIED]
    tables += [path for path in (root / "world.json",) if path.is_file()]  # by which a synthetic set is known
    for fold in range(folds):
        mine = [record for record in records if parts[record[place].strip()] == fold]
        others = [record for record in records if parts[record[place].strip()] != fold]
        folder = out / str(fold)
        _write(folder / _TRAIN, _text([header, *others]))
        _write(folder / _TEST, _text([[record[k] for k in shown] for record in (header, *mine)]))
        for table in tables:
            _write(folder / table.name, table.read_text(encoding="utf-8"))
    about = {"root": str(root.resolve()), "folds": folds, "seed": seed, "videos": dict(sorted(parts.items()))}
    _write(out / "folds.json", json.dumps(about, indent=1) + "\n")
    return parts


def _text(records: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(records)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
