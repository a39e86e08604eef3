"""Where the pictures of EPIC-KITCHENS-100 lie (spec §3.3): five layouts behind one interface.

| layout | files below the root | read by |
|---|---|---|
| frames | P01/rgb_frames/P01_01/frame_0000000001.jpg, or P01/rgb_frames/P01_01.tar, not unpacked | number |
| videos | P01/videos/P01_01.MP4, P01/P01_01.MP4, videos/P01/P01_01.mp4, videos/P01_01.mp4, P01_01.mp4 | seconds |
| chunks | P01/P01_01.MP4/0.MP4, 15.MP4, ...: parts of 15 s (AVION) or 300 s (LaViLa) | seconds |
| clips | P01/P01_01_0.mp4: one file a segment, already cut | seconds from the segment's start |

Stored features, the fifth, have no pictures: `features.FeatureClips`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.epic.annotations import EpicRow
from crossmamba.data.epic.frames import WRONG_FRAMES, frame_name, frame_rate
from crossmamba.data.epic.pictures import decode_picture, read_bytes
from crossmamba.data.epic.tars import TarFrames
from crossmamba.data.epic.video import END_SLACK, pictures_at
from crossmamba.data.media import probe
from crossmamba.data.paths import join_under
from crossmamba.errors import DataError, UsageError

__all__ = ["LAYOUTS", "Clips", "FrameFolders", "Layout", "Pictures", "RawVideos", "of_row", "open_layout"]

Layout = Literal["frames", "videos", "chunks", "clips"]
LAYOUTS: tuple[Layout, ...] = ("frames", "videos", "chunks", "clips")
VIDEO_ENDINGS = (".MP4", ".mp4", ".mkv", ".webm", ".mov", ".MOV", ".avi")
Pixels = list[NDArray[np.uint8]]


def of_row(row: EpicRow) -> str:
    """How a row is named in messages: narration id and line."""
    return f"narration {row.narration_id}" + (f" (line {row.line})" if row.line else "")


class Pictures(ABC):
    """Pictures of segments.

    Args:
        root: of the set.
        short_side: pictures are reduced so that the shorter side has so many pixels; None leaves them as they are.
    """

    layout: Layout
    has_past = True
    """Whether what lies before a segment can be read."""

    def __init__(self, root: str | Path, short_side: int | None = None) -> None:
        self.root, self.short_side = Path(root), short_side

    @abstractmethod
    def rate(self, row: EpicRow) -> float:
        """Pictures a second at which sampling counts."""

    @abstractmethod
    def read(self, row: EpicRow, times: Sequence[float]) -> Pixels:
        """What is on display at each time of the row's video, uint8 (H, W, 3) each.

        Args:
            row: the segment. times: seconds, ascending.

        Raises:
            DataError: a file is missing or damaged, or a time is past the end; file and narration are named.
        """

    @abstractmethod
    def missing(self, rows: Iterable[EpicRow]) -> list[str]:
        """Files that lack for these rows, each once, without reading any picture."""


class FrameFolders(Pictures):
    """Extracted pictures in folders or tars; a video's folder is taken where both are there.

    Args:
        root: the folder of P01, P02, ...
        short_side: see `Pictures`.
        index_folder: places in tars are kept there, see `tars.TarFrames`.
    """

    layout: Layout = "frames"

    def __init__(self, root: str | Path, short_side: int | None = None, index_folder: str | Path | None = None) -> None:
        super().__init__(root, short_side)
        self.index_folder = index_folder
        self._tars: dict[str, TarFrames] = {}
        self._last: dict[str, int] = {}  # number of a video's last picture

    def rate(self, row: EpicRow) -> float:
        """See `Pictures.rate`."""
        return frame_rate(row.video_id)

    def folder(self, row: EpicRow) -> Path:
        """Where a video's pictures are if they are in a folder."""
        return join_under(self.root, row.participant_id, "rgb_frames", row.video_id)

    def tar(self, row: EpicRow) -> TarFrames | None:
        """A video's tar; None if its pictures are in a folder, or there is neither.

        Raises:
            DataError: the tar is damaged.
        """
        if row.video_id not in self._tars:
            folder = self.folder(row)
            path = folder.with_name(f"{folder.name}.tar")
            if folder.is_dir() or not path.is_file():
                return None
            self._tars[row.video_id] = TarFrames(path, self.index_folder)
        return self._tars[row.video_id]

    def read(self, row: EpicRow, times: Sequence[float]) -> Pixels:
        """See `Pictures.read`."""
        rate = frame_rate(row.video_id)
        return self.read_numbers(row, [max(1, int(np.floor(time * rate))) for time in times])

    def read_numbers(self, row: EpicRow, numbers: Iterable[int]) -> Pixels:
        """The pictures of these numbers; equal ones are decoded once.

        Raises:
            DataError: a picture is missing or damaged; file and narration are named.
        """
        known: dict[int, NDArray[np.uint8]] = {}
        pictures = []
        for number in map(int, numbers):
            if number not in known:
                try:
                    known[number] = self._picture(row, number)
                except DataError as error:
                    frames = f"{row.start_frame}-{row.stop_frame}"
                    raise type(error)(f"{error}; {of_row(row)} has pictures {frames}") from error
            pictures.append(known[number])
        return pictures

    def _picture(self, row: EpicRow, number: int) -> NDArray[np.uint8]:
        tar, folder = self.tar(row), self.folder(row)
        if tar is None:
            path = folder / frame_name(number)
            if not path.is_file():
                path = folder / frame_name(self._standing(row, number))
            return decode_picture(read_bytes(path), str(path), self.short_side)
        number = number if number in tar else self._standing(row, number)
        return decode_picture(tar.read(number), f"{tar.path}: {frame_name(number)}", self.short_side)

    def _standing(self, row: EpicRow, number: int) -> int:
        """The last picture of the video for numbers just after it, as at the end of a video file; else `number`."""
        if row.video_id not in self._last:
            numbers = self.numbers(row)
            self._last[row.video_id] = int(numbers[-1]) if len(numbers) else 0
        last = self._last[row.video_id]
        return last if last < number <= last + END_SLACK * frame_rate(row.video_id) and last else number

    def numbers(self, row: EpicRow) -> NDArray[np.int64]:
        """Numbers of the pictures that a row's video has, ascending; empty where there is neither folder nor tar.

        Raises:
            DataError: the tar is damaged.
        """
        tar = self.tar(row)
        if tar is not None:
            return tar.numbers
        try:
            with os.scandir(self.folder(row)) as entries:
                names = [entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return np.zeros(0, np.int64)
        found = [int(n[6:16]) for n in names if len(n) == 20 and n.startswith("frame_") and n[6:16].isdigit()]
        return np.array(sorted(found), dtype=np.int64)

    def missing(self, rows: Iterable[EpicRow]) -> list[str]:
        """See `Pictures.missing`."""
        wanted = {row.video_id: row for row in rows}
        return [
            str(self.folder(row)) for row in wanted.values() if not self.folder(row).is_dir() and not self._has_tar(row)
        ]

    def _has_tar(self, row: EpicRow) -> bool:
        folder = self.folder(row)
        return folder.with_name(f"{folder.name}.tar").is_file()

    @staticmethod
    def wrong_videos(rows: Iterable[EpicRow]) -> list[str]:
        """Videos among these whose published pictures are known to be wrong."""
        return sorted({row.video_id for row in rows} & set(WRONG_FRAMES))


class RawVideos(Pictures):
    """One video file a video."""

    layout: Layout = "videos"

    def __init__(self, root: str | Path, short_side: int | None = None) -> None:
        super().__init__(root, short_side)
        self._found: dict[str, Path] = {}

    def path(self, row: EpicRow) -> Path:
        """The first of the known places that has the file; the first place if none has."""
        known = self._found.get(row.video_id)
        if known is not None:
            return known
        path = _find_video(self.root, row.participant_id, row.video_id)
        if path.is_file():
            self._found[row.video_id] = path
        return path

    def rate(self, row: EpicRow) -> float:
        """See `Pictures.rate`."""
        return _rate(self.path(row))

    def read(self, row: EpicRow, times: Sequence[float]) -> Pixels:
        """See `Pictures.read`."""
        path = self.path(row)
        try:
            pictures, _ = pictures_at(path, times, short_side=self.short_side)
        except DataError as error:
            raise type(error)(f"{error} ({of_row(row)})") from error
        if len(pictures) < len(times):
            raise _past_end(row, path, times[len(pictures)])
        return pictures

    def missing(self, rows: Iterable[EpicRow]) -> list[str]:
        """See `Pictures.missing`."""
        paths = {row.video_id: self.path(row) for row in rows}
        return [str(path) for path in paths.values() if not path.is_file()]


class Clips(Pictures):
    """One video file a segment, cut before; the past of an action is not in it."""

    layout: Layout = "clips"
    has_past = False

    def path(self, row: EpicRow) -> Path:
        """P01/P01_01_0.mp4, or with another ending; the former if none is there."""
        folder = join_under(self.root, row.participant_id)
        names = [row.narration_id + ending for ending in (".mp4", *VIDEO_ENDINGS)]
        found = [path for path in (join_under(folder, name) for name in names) if path.is_file()]
        return found[0] if found else join_under(folder, names[0])

    def rate(self, row: EpicRow) -> float:
        """See `Pictures.rate`."""
        return _rate(self.path(row))

    def read(self, row: EpicRow, times: Sequence[float]) -> Pixels:
        """See `Pictures.read`."""
        if len(times) and times[0] < row.start_timestamp - 1e-6:
            raise UsageError(
                f"{of_row(row)}: {times[0]:.2f} s is before the segment, and clips that were cut before hold nothing "
                "of it; anticipation needs the layout frames, videos or chunks"
            )
        path = self.path(row)
        try:
            pictures, _ = pictures_at(path, [time - row.start_timestamp for time in times], short_side=self.short_side)
        except DataError as error:
            raise type(error)(f"{error} ({of_row(row)})") from error
        if len(pictures) < len(times):
            raise _past_end(row, path, times[len(pictures)])
        return pictures

    def missing(self, rows: Iterable[EpicRow]) -> list[str]:
        """See `Pictures.missing`."""
        return [str(path) for path in map(self.path, rows) if not path.is_file()]


def _past_end(row: EpicRow, path: Path, time: float) -> DataError:
    return DataError(
        f"{path}: the pictures end more than {END_SLACK} s before {time:.2f} s, which {of_row(row)} wants "
        f"({row.start_timestamp:.2f} s to {row.stop_timestamp:.2f} s): the annotation goes past the end of its video, "
        "or the video is another copy"
    )


@lru_cache(maxsize=1024)
def _rate(path: Path) -> float:
    """Pictures a second as a file's header states them.

    Raises:
        MediaError: missing, unreadable, or without pictures.
    """
    picture = probe(path).picture
    if picture is None:
        raise DataError(f"{path}: the file has no pictures")
    return float(picture.fps or 30)


def _find_video(root: Path, participant: str, video: str) -> Path:
    folders = (
        join_under(root, participant, "videos"),
        join_under(root, participant),
        join_under(root, "videos", participant),
        join_under(root, "videos"),
        root,
    )
    places = [join_under(folder, video + ending) for folder in folders for ending in VIDEO_ENDINGS]
    return next((place for place in places if place.is_file()), places[0])


def open_layout(
    root: str | Path,
    rows: Sequence[EpicRow],
    layout: Layout | Literal["auto"] = "auto",
    *,
    short_side: int | None = None,
    index_folder: str | Path | None = None,
) -> Pictures:
    """The pictures below a folder.

    Args:
        root: of the set.
        rows: some of its segments; "auto" takes the layout that has files for most of their videos.
        layout: one of `LAYOUTS`, or "auto".
        short_side, index_folder: see `Pictures` and `FrameFolders`.

    Raises:
        UsageError: an unknown layout.
        DataError: "auto" and no layout has anything, or two have as much.
    """
    from crossmamba.data.epic.chunks import Chunks

    def made(name: str) -> Pictures:
        if name == "frames":
            return FrameFolders(root, short_side, index_folder)
        kinds: dict[str, Callable[..., Pictures]] = {"videos": RawVideos, "chunks": Chunks, "clips": Clips}
        return kinds[name](root, short_side)

    if layout != "auto":
        if layout not in LAYOUTS:
            raise UsageError(f"layout is {layout!r}; one of {', '.join(LAYOUTS)}, auto")
        return made(layout)
    if not Path(root).is_dir():
        raise DataError(f"{root}: there is no such folder")
    probes = list({row.video_id: row for row in rows}.values())
    sources = [made(name) for name in LAYOUTS]
    found = {source.layout: len(probes) - len(source.missing(probes)) for source in sources}
    best = max(found.values(), default=0)
    names = [name for name, count in found.items() if count == best]
    if not best:
        raise DataError(
            f"{root}: no pictures of any of {len(probes)} videos, such as {probes[0].video_id if probes else '-'}; "
            f"looked for the layouts {', '.join(LAYOUTS)} (see `crossmamba data verify epic100`)"
        )
    if len(names) > 1:
        raise DataError(f"{root}: the layouts {' and '.join(names)} are both there; name the one to use")
    return next(source for source in sources if source.layout == names[0])
