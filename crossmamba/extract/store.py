"""Feature files: each appears whole or not at all, an existing one is checked before it is trusted.

A file is written beside its place as `.<name>.<host>-<process>.part` and renamed. Two processes that make the same file
do double work but no harm: the last one's, which is the same, stays.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from crossmamba.errors import DataError

__all__ = ["FramesWriter", "NpyWriter", "clear_leftovers", "valid_frames", "valid_npy", "write_npy"]

_JPEG_END = b"\xff\xd9"
_HOST = "".join(c if c.isalnum() else "_" for c in socket.gethostname()) or "host"


def part_of(path: Path) -> Path:
    """Where this process writes a file until it is complete."""
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.part")


def clear_leftovers(path: Path) -> None:
    """Removes unfinished copies of a file left by processes of this machine that are gone."""
    prefix = f".{path.name}.{_HOST}-"
    for part in path.parent.glob(f".{_escaped(path.name)}.{_HOST}-*.part"):
        number = part.name.removeprefix(prefix).removesuffix(".part")
        if number.isdigit() and not _alive(int(number)):
            _remove(part)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "[]*?" else c for c in name)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from error


class NpyWriter:
    """Writes an array of known shape row by row, so that its size in memory is that of a few rows.

    Args:
        path: of the `.npy`; its folder is made.
        shape: (rows, ...).
        dtype: of the file: "float32", or "float16" for half the space.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str = "float32") -> None:
        self.path, self.shape, self.rows, self.dtype = path, shape, 0, dtype
        self._part = part_of(path)
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self._part.open("wb")
            header = {"descr": {"float32": "<f4", "float16": "<f2"}[dtype], "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)

    def write(self, rows: NDArray[np.float32]) -> None:
        """Appends rows, float32 (n, ...).

        Raises:
            DataError: another shape, values that are not finite, or the disk refused.
        """
        if rows.shape[1:] != self.shape[1:] or rows.dtype != np.float32:
            raise DataError(f"{self.path}: rows are {rows.dtype} {rows.shape}, expected float32 (n, *{self.shape[1:]})")
        if not np.isfinite(rows).all():
            raise DataError(
                f"{self.path}: the encoder gave values that are not finite near row {self.rows}: its weights are "
                "damaged, or not this encoder's"
            )
        with np.errstate(over="ignore"):
            stored = rows.astype(self.dtype, copy=False)
        if not np.isfinite(stored).all():
            raise DataError(f"{self.path}: values up to {np.abs(rows).max():.3g} do not fit in float16: store float32")
        with _writing(self.path):
            self._file.write(np.ascontiguousarray(stored).tobytes())
        self.rows += len(rows)

    def finish(self) -> None:
        """Gives the file its name.

        Raises:
            DataError: another number of rows than announced.
        """
        if self.rows != self.shape[0]:
            raise DataError(f"{self.path}: {self.rows} rows were made of {self.shape[0]}")
        with _writing(self.path):
            self._file.close()
            os.replace(self._part, self.path)

    def abandon(self) -> None:
        """Removes the unfinished file; nothing if it has its name already."""
        self._file.close()
        self._part.unlink(missing_ok=True)


def write_npy(path: Path, values: NDArray[np.float32], dtype: str = "float32") -> None:
    """Writes a float32 array, atomically, as float32 or float16.

    Raises:
        DataError: as `NpyWriter`.
    """
    writer = NpyWriter(path, values.shape, dtype)
    try:
        writer.write(values)
        writer.finish()
    finally:
        writer.abandon()


class FramesWriter:
    """Writes a folder of `%06d.jpg`, numbered from 1; the folder gets its name when it is complete.

    Args:
        path: the folder.
        rows: how many pictures there will be.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.expected, self.rows = path, rows, 0
        self._part = part_of(path)
        with _writing(path):
            _remove(self._part)
            self._part.mkdir(parents=True)

    def write(self, pictures: list[bytes]) -> None:
        """Appends JPEG files.

        Raises:
            DataError: the disk refused.
        """
        with _writing(self.path):
            for picture in pictures:
                self.rows += 1
                (self._part / f"{self.rows:06d}.jpg").write_bytes(picture)

    def finish(self) -> None:
        """Gives the folder its name; one that is there already makes way, or stays if another process just made it.

        Raises:
            DataError: another number of pictures than announced, or the disk refused.
        """
        if self.rows != self.expected:
            raise DataError(f"{self.path}: {self.rows} pictures were made of {self.expected}")
        with _writing(self.path):
            for _ in range(5):  # each failure means that another process was quicker
                with contextlib.suppress(OSError):
                    os.rename(self._part, self.path)  # works where there is none, or an empty one
                    return
                if valid_frames(self.path, self.expected):
                    return
                aside = self._part.with_suffix(".old.part")
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self.path, aside)
                _remove(aside)
            raise OSError("the folder that is there cannot be replaced")

    def abandon(self) -> None:
        """Removes the unfinished folder; nothing if it has its name already."""
        _remove(self._part)


def valid_npy(path: Path, shape: tuple[int, ...], dtype: str = "float32") -> bool:
    """Whether a file holds an array of this shape and type, to its last byte. Its values are not read."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(values, np.memmap) or values.dtype != dtype or values.shape != shape:
            return False
        return path.stat().st_size == values.offset + values.nbytes
    except (OSError, ValueError, EOFError, SyntaxError):
        return False


def valid_frames(path: Path, rows: int) -> bool:
    """Whether a folder holds `000001.jpg` up to `rows`, nothing else, each complete to its end mark."""
    try:
        if sorted(os.listdir(path)) != [f"{number:06d}.jpg" for number in range(1, rows + 1)]:
            return False
        return all(_ends_as_jpeg(path / f"{number:06d}.jpg") for number in range(1, rows + 1))
    except OSError:
        return False


def _ends_as_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) < 4:
            return False
        file.seek(-2, os.SEEK_END)
        return file.read(2) == _JPEG_END
