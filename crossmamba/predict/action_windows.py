"""Windows along a video for models of actions: which pictures belong to which window, in one pass, in constant memory.

A window of W seconds holds T pictures at the places that training gave a segment of that length (`data.epic.sampling`):

    dense     0, d, 2 d, ..., W - 1/r      d = (W - 1/r) / (T - 1), r pictures a second in the file
    uniform   d/2, 3 d/2, ...              d = W / T
    past      0, d, ..., W                 d = W / (T - 1): what anticipation sees, up to and including now

Windows start every `hop` d, so all of them take their pictures from one grid of times, and a picture is prepared once.
A video shorter than a window repeats its last picture; before an action there must be a whole window ("past").
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from crossmamba.data.epic.crops import ClipTransform
from crossmamba.data.epic.video import reduced
from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits, PictureStream
from crossmamba.errors import MediaError, UsageError

PLACES = ("dense", "uniform", "past")


@dataclass(frozen=True)
class Grid:
    """Times of pictures, and which of them make a window.

    Attributes:
        frames: T. spacing: d in seconds. offset: seconds of the first picture after its window's start.
        hop: windows start every `hop` pictures. window: W in seconds.
        past: windows show what lies before a moment, and a video shorter than one has none.
    """

    frames: int
    spacing: float
    offset: float
    hop: int
    window: float
    past: bool = False

    @property
    def stride(self) -> float:
        """Seconds between the starts of windows."""
        return self.hop * self.spacing

    @property
    def open_windows(self) -> int:
        """Windows that have begun and not ended, at most."""
        return -(-self.frames // self.hop)

    def time(self, number: int) -> float:
        """Of a picture, in seconds."""
        return self.offset + number * self.spacing

    def span(self, number: int) -> tuple[float, float]:
        """(start, end) of a window in seconds."""
        start = number * self.stride
        return start, start + self.window


def grid_of(frames: int, places: str, window: float, stride: float, rate: float) -> Grid:
    """The grid of a model.

    Args:
        frames: T. places: of `PLACES`. window: W. stride: seconds wished between windows; the next multiple of d is
            taken. rate: of the video, pictures a second.

    Raises:
        UsageError: a window or stride that is not positive, or other places.
    """
    if places not in PLACES:
        raise UsageError(f"places of pictures are {', '.join(PLACES)}, not {places!r}")
    if not 0 < window < float("inf") or not 0 < stride < float("inf"):
        raise UsageError(f"--window {window:g} --stride {stride:g}: both are seconds above 0")
    if places == "uniform":
        spacing, offset = window / frames, window / frames / 2
    else:
        whole = window if places == "past" else max(window - 1 / rate, 1e-3)
        spacing, offset = (whole / (frames - 1) if frames > 1 else window), 0.0
    return Grid(frames, spacing, offset, max(1, round(stride / spacing)), window, places == "past")


def rate_of(info: MediaInfo) -> float:
    """Pictures a second by the header; 25 where it does not say."""
    return float((info.picture.fps if info.picture else None) or 25)


def end_of(info: MediaInfo) -> float | None:
    """Seconds of picture by the header; None where it does not say."""
    return (info.picture.end if info.picture else None) or info.duration


def announced_end(info: MediaInfo) -> float | None:
    """Seconds of picture by the number of pictures in the header; None where it says neither that nor their rate."""
    picture = info.picture
    return float(picture.frames / picture.fps) if picture and picture.frames and picture.fps else None


class GridPictures:
    """The pictures of a grid, ready for the model; iterate once.

    Attributes:
        end: when the picture ends, seconds; known after the last one.
        bad_packets: damaged packets that were passed over.
    """

    def __init__(self, path: Path, grid: Grid, transform: ClipTransform, limits: MediaLimits = DEFAULT_LIMITS) -> None:
        self.path, self.grid, self.transform, self.limits = path, grid, transform, limits
        self.end, self.bad_packets, self.count = 0.0, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        """float32 (3, S, S) each.

        Raises:
            MediaError: no picture at all, or damage on the way.
        """
        with PictureStream(self.path, self.limits) as stream:
            times = (self.grid.time(number) for number in itertools.count())
            held: tuple[float, Tensor] | None = None
            for shown in stream.at(times, hold=0.0):
                if held is None or held[0] != shown.stamp:
                    picture = shown.rgb(reduced(*shown.size, self.transform.short_side))
                    held = shown.stamp, self.transform([picture])[:, 0]
                self.count += 1
                yield held[1]
            self.end, self.bad_packets = stream.end, stream.bad_packets
        if not self.count:
            raise MediaError(f"{self.path}: the video has no picture to look at.")


def clips(pictures: GridPictures) -> Iterator[tuple[float, float, Tensor]]:
    """(start, end, clip float32 (3, T, S, S)) of every window, in order; holds T pictures."""
    grid = pictures.grid
    held: deque[Tensor] = deque(maxlen=grid.frames)
    number = 0
    for count, picture in enumerate(pictures, start=1):
        held.append(picture)
        if count >= grid.frames and (count - grid.frames) % grid.hop == 0:
            yield *grid.span(number), torch.stack(list(held), dim=1)
            number += 1
    if not number and not grid.past:
        held.extend([held[-1]] * (grid.frames - len(held)))
        yield *grid.span(0), torch.stack(list(held), dim=1)
