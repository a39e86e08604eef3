"""Extracted pictures in a tar that stays packed: members are found once, then read by their place (spec §3.3).

The official `P01_01.tar` is an uncompressed tar of `frame_0000000001.jpg`, ... It holds up to 200,000 members, so
reading it through takes seconds; `TarFrames` does so once a process, and keeps the places in a small file if told
where.
"""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossmamba.errors import DataError

__all__ = ["TarFrames"]

_MEMBER = re.compile(r"(?:.*/)?frame_(\d{10})\.jpg")
_BLOCK = 512  # bytes; members start at multiples
_MAX_PICTURE = 2**26  # bytes of one jpeg


class TarFrames:
    """The pictures of one tar, by number.

    Args:
        path: of the tar.
        index_folder: places are kept there as `<name>.<size>-<time>.npy`, and read from there; None keeps nothing.

    Attributes:
        numbers: int64 (n,), ascending.

    Raises:
        DataError: missing, compressed, damaged, cut short, or a picture comes twice.
    """

    def __init__(self, path: str | Path, index_folder: str | Path | None = None) -> None:
        self.path = Path(path)
        self._process, self._file = -1, -1
        try:
            status = self.path.stat()
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from error
        stamp = f"{self.path.name}.{status.st_size}-{status.st_mtime_ns}.npy"
        kept = None if index_folder is None else Path(index_folder) / stamp
        table = self._kept(kept, status.st_size) if kept is not None and kept.is_file() else None
        if table is None:
            table = self._scan(status.st_size)
            if kept is not None:
                _keep(kept, table)
        self.numbers: NDArray[np.int64] = table[:, 0]
        self._offsets, self._sizes = table[:, 1], table[:, 2]

    def _scan(self, size: int) -> NDArray[np.int64]:
        """(number, offset, size) of every picture, sorted by number."""
        found: list[tuple[int, int, int]] = []
        end = 0
        try:
            with tarfile.open(self.path, "r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # it keeps every header otherwise
                    end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
                    match = _MEMBER.fullmatch(member.name)
                    if match is None or not member.isreg():
                        continue
                    if member.offset_data + member.size > size:
                        raise DataError(f"{self.path}: cut short: {member.name} goes past the end of the file")
                    found.append((int(match.group(1)), member.offset_data, member.size))
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.path}: cannot be read as an uncompressed tar ({error})") from error
        if not self._ends_at(end):
            raise DataError(f"{self.path}: cut short: no end mark after {len(found)} pictures; copy it again")
        if not found:
            raise DataError(f"{self.path}: the tar has no picture named frame_0000000001.jpg or alike")
        table = np.array(sorted(found), dtype=np.int64)
        twice = np.flatnonzero(np.diff(table[:, 0]) == 0)
        if len(twice):
            raise DataError(f"{self.path}: picture {table[int(twice[0]), 0]} is in the tar more than once")
        return table

    def _ends_at(self, place: int) -> bool:
        """Whether an end mark is there: where a cut falls into a header, tarfile stops without a word."""
        with self.path.open("rb") as file:
            file.seek(place)
            return file.read(_BLOCK) == bytes(_BLOCK)

    def _kept(self, path: Path, size: int) -> NDArray[np.int64] | None:
        """The places of an earlier run; None where the file is of no use."""
        try:
            table = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        good = isinstance(table, np.ndarray) and table.dtype == np.int64 and table.ndim == 2 and table.shape[1] == 3
        if not good or not len(table) or table.min() < 0 or int((table[:, 1] + table[:, 2]).max()) > size:
            return None
        return table

    def __contains__(self, number: int) -> bool:
        return self._position(number) is not None

    def _position(self, number: int) -> int | None:
        position = int(np.searchsorted(self.numbers, number))
        return position if position < len(self.numbers) and self.numbers[position] == number else None

    def read(self, number: int) -> bytes:
        """The bytes of a picture's file.

        Raises:
            DataError: the tar has no such picture, or cannot be read.
        """
        position = self._position(number)
        if position is None:
            raise DataError(
                f"{self.path}: no member frame_{number:010d}.jpg; the tar has {len(self.numbers)} pictures, "
                f"{self.numbers[0]} to {self.numbers[-1]}"
            )
        size, offset = int(self._sizes[position]), int(self._offsets[position])
        if size > _MAX_PICTURE:
            raise DataError(f"{self.path}: frame_{number:010d}.jpg has {size} bytes; at most {_MAX_PICTURE} are read")
        try:
            data = os.pread(self._descriptor(), size, offset)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror})") from error
        if len(data) < size:
            raise DataError(f"{self.path}: cut short within frame_{number:010d}.jpg")
        return data

    def _descriptor(self) -> int:
        """The open file; every process has its own."""
        if self._process != os.getpid():
            self._file, self._process = os.open(self.path, os.O_RDONLY), os.getpid()
        return self._file

    def close(self) -> None:
        """Closes the file; reading opens it again."""
        if self._process == os.getpid():
            os.close(self._file)
            self._process = -1

    def __del__(self) -> None:
        if getattr(self, "_process", -1) == os.getpid():
            os.close(self._file)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_process": -1, "_file": -1}


def _keep(path: Path, table: NDArray[np.int64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.save(file, table, allow_pickle=False)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
