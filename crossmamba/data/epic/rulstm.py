"""RULSTM's features of EPIC-KITCHENS: a vector for each frame of 30 a second, in LMDB stores (spec §3.3, layout 5).

    ROOT/rgb/data.mdb       1,024 numbers a frame: BNInception of a TSN, on pictures
    ROOT/flow/data.mdb      1,024: the same on optical flow
    ROOT/obj/data.mdb       352: what a Faster R-CNN detects, scores added up by class
    ROOT/training.csv, validation.csv, test.csv, actions.csv

A store maps `P01_01_frame_0000000001.jpg` to the raw float32 values (github.com/fpv-iplab/rulstm: FEATEXT, dataset.py).
The csv files are read by `annotations.parse_rows`; the class tables are not among them: put EPIC_100_verb_classes.csv
and EPIC_100_noun_classes.csv beside them.

A segment's tokens are the vectors of the frames that `sampling` chooses, so anticipation sees nothing after start - 1 s
and training of recognition has random places, as with pictures. RULSTM's own input to anticipate at 1 s is
`frames=11, observed=2.5`: every quarter of a second from start - 3.5 s. Its number of a time is floor(30 x seconds),
which never shows anything later.

Needs the package lmdb: `pip install lmdb`, or the extra `lmdb` of this package.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmamba.data.epic.annotations import EpicRow
from crossmamba.data.epic.frames import frame_name, frame_number
from crossmamba.data.epic.video import END_SLACK
from crossmamba.errors import DataError, UsageError

__all__ = ["RATE", "FrameFeatures", "FrameStore", "frame_of", "is_store", "store_folders"]

RATE = 30
"""Frames a second of every video."""
_FILE = "data.mdb"
_OPEN: dict[str, tuple[tuple[int, ...], Any]] = {}  # of this process: LMDB allows a file to be opened once


def frame_of(seconds: float) -> int:
    """Number of the frame that stands for a time: floor(30 x seconds), at least 1."""
    return max(1, frame_number(seconds + 1e-9, RATE))


def is_store(folder: str | Path) -> bool:
    """Whether a folder holds an LMDB store."""
    return (Path(folder) / _FILE).is_file()


def store_folders(folder: str | Path) -> list[Path]:
    """The stores that a name stands for: `ROOT/rgb`, or `ROOT/rgb+flow+obj` for several; empty if it is none."""
    folder = Path(folder)
    if folder.exists() or "+" not in folder.name:
        return [folder] if is_store(folder) else []
    parts = [folder.with_name(name) for name in folder.name.split("+") if name]
    return parts if any(is_store(part) for part in parts) else []


class FrameStore:
    """One LMDB store.

    Args:
        folder: of data.mdb.

    Raises:
        UsageError: the package lmdb is not installed.
        DataError: no such file, no LMDB file, cut short, empty, or values that are no float32.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._last: dict[str, int] = {}
        with _reading(self.folder) as reading, reading.cursor() as cursor:
            if not cursor.first():
                raise DataError(f"{self.folder / _FILE}: the store is empty")
            size = len(cursor.value())
            if not size or size % 4:
                key = bytes(cursor.key())[:80]
                raise DataError(f"{self.folder / _FILE}: {key!r} has {size} bytes; expected float32 values")
        self.width = size // 4

    def __repr__(self) -> str:
        return f"FrameStore({self.folder}, width {self.width})"

    def numbers(self, video: str) -> NDArray[np.int64]:
        """Numbers of a video's frames, ascending."""
        prefix, found = f"{video}_frame_".encode(), []
        with _reading(self.folder) as reading, reading.cursor() as cursor:
            there = cursor.set_range(prefix)
            while there and bytes(cursor.key()).startswith(prefix):
                digits = bytes(cursor.key())[len(prefix) : -4]
                if len(digits) == 10 and digits.isdigit():
                    found.append(int(digits))
                there = cursor.next()
        return np.array(found, dtype=np.int64)

    def last(self, video: str) -> int:
        """Number of a video's last frame; 0 where there is none."""
        if video not in self._last:
            prefix, number = f"{video}_frame_".encode(), 0
            with _reading(self.folder) as reading, reading.cursor() as cursor:
                # ":" follows "9": the place is behind the video's last frame and before any other key
                behind = cursor.set_range(prefix + b":")
                if cursor.prev() if behind else cursor.last():
                    key = bytes(cursor.key())
                    digits = key[len(prefix) : -4]
                    number = int(digits) if key.startswith(prefix) and digits.isdigit() else 0
            self._last[video] = number
        return self._last[video]

    def read(self, video: str, numbers: Sequence[int]) -> NDArray[np.float32]:
        """The vectors of these frames, float32 (len(numbers), width).

        A number up to 0.5 s behind the video's last frame gives the last, as at the end of a video file.

        Raises:
            DataError: a frame is missing, of another length, or not finite; store and key are named.
        """
        out = np.empty((len(numbers), self.width), dtype=np.float32)
        with _reading(self.folder) as reading:
            for place, number in enumerate(map(int, numbers)):
                value = reading.get(f"{video}_{frame_name(number)}".encode())
                if value is None:
                    value = reading.get(f"{video}_{frame_name(self._standing(video, number))}".encode())
                where = f"{self.folder / _FILE}: {video}_{frame_name(number)}"
                if value is None:
                    raise DataError(f"{where}: {self._absent(video)}")
                if len(value) != 4 * self.width:
                    raise DataError(f"{where}: {len(value)} bytes; the others have {4 * self.width}")
                out[place] = np.frombuffer(value, dtype="<f4")
                if not np.isfinite(out[place]).all():
                    raise DataError(f"{where}: values are NaN or infinite")
        return out

    def _standing(self, video: str, number: int) -> int:
        last = self.last(video)
        return last if last < number <= last + END_SLACK * RATE and last else number

    def _absent(self, video: str) -> str:
        last = self.last(video)
        if not last:
            return f"the store has no frame of {video}"
        return (
            f"not in the store, whose last frame of {video} is {last} ({last / RATE:.2f} s); RULSTM's small downloads "
            "have only the frames of its own sampling (frames 11, observed 2.5), the full ones have all"
        )


class FrameFeatures:
    """Stores side by side: the vectors of a frame joined to one token.

    Args:
        folders: of the stores, such as rgb, flow and obj.

    Raises:
        UsageError, DataError: see `FrameStore`.
    """

    layout = "features"

    def __init__(self, folders: Iterable[str | Path]) -> None:
        self.folders = [Path(folder) for folder in folders]
        if lacking := [str(folder / _FILE) for folder in self.folders if not is_store(folder)]:
            raise DataError(f"{', '.join(lacking)}: there is no such feature store")

    @cached_property
    def stores(self) -> list[FrameStore]:
        """Opened when first used."""
        return [FrameStore(folder) for folder in self.folders]

    @property
    def width(self) -> int:
        """Numbers of a token."""
        return sum(store.width for store in self.stores)

    def read(self, row: EpicRow, numbers: Sequence[int]) -> Tensor:
        """Tokens of these frames of a row's video, float32 (len(numbers), width).

        Raises:
            DataError: see `FrameStore.read`; the narration is named too.
        """
        try:
            parts = [store.read(row.video_id, numbers) for store in self.stores]
        except DataError as error:
            line = f" (line {row.line})" if row.line else ""
            raise type(error)(f"{error}; narration {row.narration_id}{line} wants it") from error
        return torch.from_numpy(np.concatenate(parts, axis=1))

    def missing(self, rows: Iterable[EpicRow]) -> list[str]:
        """Videos of these rows of which a store has nothing."""
        videos = list(dict.fromkeys(row.video_id for row in rows))
        return [
            f"{store.folder / _FILE}: {video}" for store in self.stores for video in videos if not store.last(video)
        ]


@contextmanager
def _reading(folder: Path) -> Iterator[Any]:
    """A transaction that sees a store; what LMDB says against the file is a `DataError`."""
    environment = _environment(folder)
    try:
        with environment.begin(buffers=True) as transaction:
            yield transaction
    except _package().Error as error:
        raise DataError(f"{folder / _FILE}: cannot be read ({error}); copy or download it again") from error


def _environment(folder: Path) -> Any:
    """The handle of a store in this process. A forked loader worker closes its parent's and opens its own."""
    lmdb = _package()
    path = folder / _FILE
    try:
        stat = path.stat()
        key, stamp = os.path.realpath(path), (os.getpid(), stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if key in _OPEN:
            held, environment = _OPEN[key]
            if held == stamp:
                return environment
            del _OPEN[key]
            environment.close()
        environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except (lmdb.Error, OSError) as error:
        raise DataError(f"{path}: cannot be opened as an LMDB store ({error})") from error
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if stat.st_size < needed:  # reading behind the end of a mapped file would end the process
        environment.close()
        raise DataError(f"{path}: the file was cut: {stat.st_size} bytes of {needed}; copy or download it again")
    _OPEN[key] = (stamp, environment)
    return environment


def _package() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise UsageError("LMDB feature stores (RULSTM's) need the package lmdb: pip install lmdb") from error
    return lmdb
