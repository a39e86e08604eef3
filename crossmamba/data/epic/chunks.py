"""Videos in parts of equal length (spec §3.3): AVION's and LaViLa's `P01/P01_01.MP4/{0,15,30,...}.MP4`.

A part is named by the second at which it starts. A segment may lie in several. The last part of a video is missing in
some copies (shorter than one second, it was never written): times in it then give the last picture before it, and a
warning once a video. A part that is missing in the middle is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.epic.annotations import EpicRow
from crossmamba.data.epic.layouts import Layout, Pictures, Pixels, of_row
from crossmamba.data.epic.video import END_SLACK, pictures_at
from crossmamba.data.media import probe
from crossmamba.data.paths import join_under
from crossmamba.errors import DataError

__all__ = ["Chunks", "Parts"]

_DEFAULT_SECONDS = 15  # of a video with one part only


class Parts:
    """The parts of one video.

    Attributes:
        folder: where they are. seconds: length of each.
        files: start in seconds -> file, ascending.

    Raises:
        DataError: no parts, or starts that are not evenly spaced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        found = {int(path.stem): path for path in entries if path.stem.isdigit() and path.suffix.lower() == ".mp4"}
        if not found:
            raise DataError(f"{folder}: there are no parts such as 0.MP4")
        self.files = dict(sorted(found.items()))
        steps = np.diff(list(self.files))
        self.seconds = int(steps.min()) if len(steps) else max(_DEFAULT_SECONDS, next(iter(self.files)))
        odd = [start for start in self.files if start % self.seconds]
        if odd:
            raise DataError(f"{folder}: {odd[0]}.MP4 does not start at a multiple of {self.seconds} s as others do")

    @property
    def absent(self) -> list[int]:
        """Starts of parts that lack before the last one."""
        return [start for start in range(0, max(self.files), self.seconds) if start not in self.files]

    def end(self) -> float:
        """Where the last part ends, by its header, in seconds of the video.

        Raises:
            MediaError: it cannot be opened.
        """
        last = max(self.files)
        picture = probe(self.files[last]).picture
        length = None if picture is None else picture.end
        return last + (self.seconds if length is None else length)


class Chunks(Pictures):
    """See the module."""

    layout: Layout = "chunks"

    def __init__(self, root: str | Path, short_side: int | None = None) -> None:
        super().__init__(root, short_side)
        self._warned: set[str] = set()

    def folder(self, row: EpicRow) -> Path:
        """`P01/P01_01.MP4` or `P01/P01_01.mp4`, also without the participant; the first if none is there."""
        places = [
            join_under(parent, row.video_id + ending)
            for parent in (join_under(self.root, row.participant_id), self.root)
            for ending in (".MP4", ".mp4")
        ]
        return next((place for place in places if place.is_dir()), places[0])

    def parts(self, row: EpicRow) -> Parts:
        """The parts of a row's video.

        Raises:
            DataError: see `Parts`; the narration is named.
        """
        try:
            return _parts(self.folder(row))
        except DataError as error:
            raise DataError(f"{error} ({of_row(row)})") from error

    def rate(self, row: EpicRow) -> float:
        """See `Pictures.rate`."""
        picture = probe(next(iter(self.parts(row).files.values()))).picture
        return float((picture.fps if picture else None) or 30)

    def read(self, row: EpicRow, times: Sequence[float]) -> Pixels:
        """See `Pictures.read`; times may be of several parts."""
        parts = self.parts(row)
        pictures: list[NDArray[np.uint8]] = []
        while len(pictures) < len(times):
            start = int(times[len(pictures)] // parts.seconds) * parts.seconds
            group = [time for time in times[len(pictures) :] if time < start + parts.seconds]
            if start in parts.files:
                pictures += self._part(row, parts, start, group)
            else:
                pictures += [self._step_back(row, parts, start, group[0])] * len(group)
        return pictures

    def _part(self, row: EpicRow, parts: Parts, start: int, times: list[float]) -> Pixels:
        path = parts.files[start]
        # A part may end a picture early: up to a second before the next one is no damage.
        hold = END_SLACK if start == max(parts.files) else 1.0
        try:
            found, _ = pictures_at(path, [time - start for time in times], short_side=self.short_side, hold=hold)
        except DataError as error:
            raise type(error)(f"{error} ({of_row(row)})") from error
        if len(found) < len(times):
            raise DataError(
                f"{path}: the part ends before {times[len(found)]:.2f} s, which {of_row(row)} wants "
                f"({row.start_timestamp:.2f} s to {row.stop_timestamp:.2f} s): it is cut short, or the annotation goes "
                "past the end of its video"
            )
        return found

    def _step_back(self, row: EpicRow, parts: Parts, start: int, time: float) -> NDArray[np.uint8]:
        """The last picture before a missing last part."""
        last = max(parts.files)
        if start != last + parts.seconds or not self._is_full(parts, last):
            raise DataError(
                f"{parts.folder / f'{start}.MP4'}: the part is missing; {of_row(row)} wants {time:.2f} s, and the "
                f"video's parts go to {last}.MP4"
            )
        if row.video_id not in self._warned:
            self._warned.add(row.video_id)
            warnings.warn(
                f"{parts.folder}: no part {start}.MP4; the last picture of {last}.MP4 stands for it ({of_row(row)})",
                stacklevel=2,
            )
        end = max(parts.end() - last - 0.05, 0.0)
        return pictures_at(parts.files[last], [end], short_side=self.short_side)[0][0]

    @staticmethod
    def _is_full(parts: Parts, last: int) -> bool:
        """Whether the last part has its whole length: else the video ends in it, and later times are past the end."""
        return parts.end() - last >= parts.seconds - 0.5

    def missing(self, rows: Iterable[EpicRow]) -> list[str]:
        """See `Pictures.missing`: folders."""
        folders = {row.video_id: self.folder(row) for row in rows}
        return [str(folder) for folder in folders.values() if not folder.is_dir()]


@lru_cache(maxsize=1024)
def _parts(folder: Path) -> Parts:
    return Parts(folder)
