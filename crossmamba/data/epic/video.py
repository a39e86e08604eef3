"""Pictures of a video file at given times, without decoding what lies before (spec §3.2: by seconds).

`media.frames_at` decodes a file from its start: fit for clips of ten seconds, not for 30 minutes of which a training
step wants two seconds. Here the file is entered at the key picture before the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from crossmamba.data.media_open import (
    DEFAULT_LIMITS,
    MediaLimits,
    check_size,
    media_errors,
    open_media,
    picture_stream,
    prepare_decoder,
)
from crossmamba.data.media_read import CLOCK_STEP, PictureStream, ShownFrame
from crossmamba.errors import MediaError

__all__ = ["END_SLACK", "pictures_at", "reduced"]

END_SLACK = 0.5
"""Seconds for which the last picture of a file stands: one official row stops 0.013 s after its video."""

_EARLY = 2.0  # s; before this a file is read from its start


def reduced(height: int, width: int, short_side: int | None) -> tuple[int, int]:
    """(height, width) whose shorter side is at most `short_side`; pictures are never enlarged here."""
    if short_side is None or min(height, width) <= short_side:
        return height, width
    factor = short_side / min(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def pictures_at(
    path: str | Path,
    times: Sequence[float],
    *,
    short_side: int | None = None,
    hold: float = END_SLACK,
    limits: MediaLimits = DEFAULT_LIMITS,
) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """(pictures, stamps): what is on display at each time, uint8 (H, W, 3) RGB, and since when it is, in seconds.

    Args:
        path: of the video.
        times: seconds from its start, ascending.
        short_side: pictures are reduced so that the shorter side has so many pixels; equal ones share memory.
        hold: seconds for which the last picture stands; fewer results than times mean that the video ends before.

    Raises:
        MediaError: missing, damaged, without pictures, or over a limit.
    """
    pictures: list[NDArray[np.uint8]] = []
    stamps: list[float] = []
    for shown in _shown(Path(path), times, hold, limits):
        if stamps and shown.stamp == stamps[-1]:
            pictures.append(pictures[-1])
        else:
            pictures.append(shown.rgb(reduced(*shown.size, short_side)))
        stamps.append(shown.stamp)
    return pictures, stamps


def _shown(path: Path, times: Sequence[float], hold: float, limits: MediaLimits) -> Iterator[ShownFrame]:
    """What is on display at each time, entering the file as late as its key pictures allow."""
    if not len(times):
        return
    for back in (0.0, 10.0, 60.0):
        if times[0] - back < _EARLY:
            break
        try:
            yield from _entered(path, times[0] - back, times, hold, limits)
            return
        except _TooLateError:
            continue
    with PictureStream(path, limits) as stream:
        yield from stream.at(times, hold)


class _TooLateError(Exception):
    """Entering gave a picture after the time wanted, or one without a time stamp; nothing was handed out yet."""


def _entered(
    path: Path, enter: float, times: Sequence[float], hold: float, limits: MediaLimits
) -> Iterator[ShownFrame]:
    with open_media(path, limits) as (container, info):
        stream = picture_stream(container)
        if stream is None or info.picture is None:
            raise MediaError(f"{path}: the file has no pictures, only sound.")
        if info.format == "avi" or stream.time_base is None:
            raise _TooLateError  # AVI has no presentation times to enter by
        prepare_decoder(stream, limits)
        with media_errors(path, f"going to {enter:.1f} s"):
            container.seek(int((enter + info.origin) / stream.time_base), stream=stream, backward=True)
        frames = _decoded(path, container, stream, info.origin, limits)
        shown = next(frames, None)
        if shown is None or shown.stamp > times[0] + CLOCK_STEP:
            raise _TooLateError
        interval = 1 / float(info.picture.fps or 25)
        coming = next(frames, None)
        for time in times:
            while coming is not None and coming.stamp <= time + CLOCK_STEP:
                shown, coming = coming, next(frames, None)
            if coming is None:
                end = shown.stamp + interval
                _check_end(path, end, info.picture.end)
                if time >= end + hold - CLOCK_STEP:
                    return
            yield replace(shown, time=time)


def _decoded(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream, origin: float, limits: MediaLimits
) -> Iterator[ShownFrame]:
    """Pictures from where the file was entered, in the order of display."""
    bad, last = 0, -1.0
    with media_errors(path, f"reading past {max(last, 0):.1f} s"):
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                bad += 1
                if bad > limits.max_bad_packets:
                    raise MediaError(
                        f"{path}: the file is damaged: {bad} packets after {max(last, 0):.1f} s cannot be decoded (at "
                        f"most {limits.max_bad_packets} are passed over). Make a new copy."
                    ) from None
                continue
            for frame in frames:
                if not isinstance(frame, av.VideoFrame):
                    continue
                if frame.time is None:
                    raise _TooLateError
                check_size(path, frame.width, frame.height, limits)
                last = max(last, frame.time - origin)
                yield ShownFrame(last, last, frame)


def _check_end(path: Path, end: float, announced: float | None) -> None:
    """A file that was cut decodes without an error: only its header tells.

    Raises:
        MediaError: it announces much more than there is.
    """
    if announced is not None and announced - end > max(0.5, 0.02 * announced):
        raise MediaError(
            f"{path}: the pictures end at {end:.1f} s, but the file's header announces {announced:.1f} s: the file is "
            "cut short or damaged. Make a new copy."
        )
