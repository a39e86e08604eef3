"""Which pictures of a segment a model sees (spec §3.4), and of the time before it (§3.5).

dense    a window of 64/30 s (2.13 s) somewhere in the segment, pictures evenly spaced in it; shorter segments repeat
         their last picture (ORViT, Motionformer, MambaVL)
uniform  the segment cut into as many bins as pictures, one picture a bin: its centre, or in training anywhere in it
         (AVION, LaViLa)

Both are computed in numbers of pictures at a rate, and then are either file numbers (extracted pictures) or seconds
(video files). Anticipation is in seconds only: nothing after start - 1 s is ever chosen, except where a segment starts
within the first second of its video, which is flagged.

Symbols: n pictures of the segment, T pictures chosen, r pictures a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.epic.annotations import EpicRow
from crossmamba.errors import UsageError

__all__ = ["GAP", "WINDOW", "Mode", "Observation", "anticipation_times", "sample_frames", "sample_times"]

Mode = Literal["dense", "uniform"]
MODES: tuple[Mode, ...] = ("dense", "uniform")
WINDOW = 64 / 30
"""Seconds of the dense window and of what is observed before an action: 16 pictures, every fourth of 30 a second."""
GAP = 1.0
"""Seconds between the end of what is observed and the action's start; fixed by the challenge."""


def sample_frames(
    first: int,
    last: int,
    rate: float,
    *,
    frames: int = 16,
    mode: Mode = "dense",
    rng: np.random.Generator | None = None,
    view: int = 0,
    views: int = 1,
) -> NDArray[np.int64]:
    """Numbers of extracted pictures, int64 (frames,), never outside first..last.

    Dense numbers are first + 1 + i with i from 0, as the official loaders count; a segment has last - first of them.

    Args:
        first, last: of the segment (`frames.frame_range`).
        rate: pictures a second.
        frames: T.
        mode: see the module.
        rng: random place (training); None for the place of `view`.
        view, views: dense test views are spread evenly over the segment; uniform has one.

    Raises:
        UsageError: a number out of range.
    """
    places = _places(max(last - first, 1), rate, frames, mode, rng, view, views)
    return np.minimum(first + 1 + np.floor(places + 1e-9).astype(np.int64), last)


def sample_times(
    start: float,
    stop: float,
    rate: float,
    *,
    frames: int = 16,
    mode: Mode = "dense",
    rng: np.random.Generator | None = None,
    view: int = 0,
    views: int = 1,
) -> NDArray[np.float64]:
    """Times in a video file, seconds, float64 (frames,), ascending, from start to before stop; as `sample_frames`.

    `rate` is the file's: a dense window ends one picture before 64/30 s, and the last picture of a segment is one
    picture before its stop.
    """
    pictures = max((stop - start) * rate, 1.0)
    return start + _places(pictures, rate, frames, mode, rng, view, views) / rate


def _places(
    pictures: float, rate: float, frames: int, mode: Mode, rng: np.random.Generator | None, view: int, views: int
) -> NDArray[np.float64]:
    """Positions in the segment, in pictures: float64 (frames,) in [0, pictures - 1]."""
    if mode not in MODES:
        raise UsageError(f"mode is {mode!r}; one of {', '.join(MODES)}")
    if frames < 1 or rate <= 0 or not 0 <= view < views:
        raise UsageError(f"frames={frames}, rate={rate}, view {view} of {views}: out of range")
    if mode == "uniform":
        if views != 1:
            raise UsageError(f"views is {views}; the uniform mode sees the whole segment and has one view")
        edges = np.linspace(0.0, pictures, frames + 1)
        places = (edges[:-1] + edges[1:]) / 2
        if rng is not None:
            places = places + rng.uniform(-0.5, 0.5, frames) * max(pictures - 1, 0.0) / frames
    else:
        window = WINDOW * rate
        free = max(pictures - window, 0.0)
        begin = rng.uniform(0.0, free) if rng is not None else free * view / views
        places = np.linspace(begin, begin + window - 1, frames)
    return places.clip(0.0, max(pictures - 1, 0.0))


@dataclass(frozen=True)
class Observation:
    """The times observed before an action.

    Attributes:
        times: float64 (T,), seconds, ascending, at least 0.
        clamped: the action starts at most `GAP` after the video, so nothing is there to observe: the first picture is
            shown, which for some of these rows is after start - 1 s. 28 validation rows.
        short: less of the past is there than asked for; early times repeat the first picture.
    """

    times: NDArray[np.float64]
    clamped: bool
    short: bool


def anticipation_times(row: EpicRow, frames: int = 16, observed: float = WINDOW, gap: float = GAP) -> Observation:
    """What may be seen to anticipate a row: `frames` times evenly spaced in [start - gap - observed, start - gap].

    No row is ever left out, because the challenge wants all of them.

    Args:
        row: the action; only its start is read.
        frames: T.
        observed: seconds, free in the challenge. gap: seconds, 1 in the challenge.

    Raises:
        UsageError: a number out of range.
    """
    if frames < 1 or observed < 0 or gap < 0:
        raise UsageError(f"frames={frames}, observed={observed}, gap={gap}: out of range")
    end = row.start_timestamp - gap
    times = np.linspace(end - observed, end, frames).clip(0.0, None)
    return Observation(times, clamped=end <= 0, short=end < observed)
