"""From seconds to frame numbers (spec §3.2).

The official pictures were extracted at 60 a second for videos with two-digit numbers (`P01_01`) and at 50 for
three-digit ones (`P01_101`), whatever rate the video file has (59.94, 50, 29.97, 47.95 or 90). So frame numbers belong
to extracted pictures only; a video file is read by seconds.

    first picture = max(1, floor(start x rate))        last picture = floor(stop x rate)

Files are `frame_0000000001.jpg`, ..., counted from 1; a segment's pictures are first..last, both included.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from crossmamba.errors import DataError

if TYPE_CHECKING:
    from crossmamba.data.epic.annotations import EpicRow

__all__ = ["WRONG_FRAMES", "frame_name", "frame_number", "frame_range", "frame_rate"]

WRONG_FRAMES = ("P01_109", "P27_103")
"""Videos whose pre-extracted pictures are officially known to be wrong (erratum): extract them from the video."""

_VIDEO = re.compile(r"P\d+_(\d{2,3})")


def frame_rate(video_id: str) -> int:
    """Extracted pictures a second: 60 for `P01_01`, 50 for `P01_101`.

    Raises:
        DataError: the id has another form.
    """
    match = _VIDEO.fullmatch(video_id)
    if match is None:
        raise DataError(f"video {video_id!r}: ids have the form P01_01 (60 frames a second) or P01_101 (50)")
    return 60 if len(match.group(1)) == 2 else 50


def frame_number(seconds: float, rate: float) -> int:
    """floor(seconds x rate), in float64 as the official files were made; may be 0, where the first file is 1."""
    return math.floor(seconds * rate)


def frame_range(row: EpicRow) -> tuple[int, int]:
    """(first, last) picture of a segment by its times, both included; equals the official columns on every row.

    Raises:
        DataError: a video id of another form.
    """
    rate = frame_rate(row.video_id)
    first = max(1, frame_number(row.start_timestamp, rate))
    return first, max(first, frame_number(row.stop_timestamp, rate))


def frame_name(number: int) -> str:
    """`frame_0000000001.jpg`."""
    return f"frame_{number:010d}.jpg"
