"""One pass over a video, second by second: the pictures that the encoders want, and the sound.

Memory does not grow with the video's length: a second's pictures are scaled as they are decoded.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmamba.data.media import MediaInfo, PictureStream, ShownFrame, SoundStream, probe
from crossmamba.errors import MediaError

__all__ = ["Second", "View", "jpeg_bytes", "seconds_in", "seconds_of"]

SAMPLE_RATE = 16_000  # Hz
_SLACK = 0.1  # s; containers give 59.97 s for a minute
_HOLD = 1.5  # s; how long the last picture may stand in for those of the last second
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class View:
    """What one encoder wants to see of each second.

    Attributes:
        key: of the values in `Second.views`.
        instants: within the second, in [0, 1).
        make: a decoded picture -> what is kept of it.
    """

    key: str
    instants: tuple[float, ...]
    make: Callable[[ShownFrame], Any]


@dataclass
class Second:
    """One second: its number from 0, what each view made at its instants, and the sound, float32 (16000,) or None."""

    number: int
    views: dict[str, list[Any]] = field(default_factory=dict)
    sound: NDArray[np.float32] | None = None


def seconds_in(info: MediaInfo) -> int:
    """How many rows a video gives: its whole seconds, where 0.1 s may lack at the end; at least 1.

    The header's end of the pictures counts (of the sound, if there are no pictures): so all features of a video have
    the same number of rows, whether they need the pictures or not. A file that states no end is decoded to find it.
    It is the rule by which `data.qa.features.whole_seconds` reads raw videos, without its limit of 60.

    Raises:
        MediaError: damage, in a file that has to be decoded.
    """
    stream = info.picture or info.sound
    end = stream.end if stream is not None else None
    end = info.duration if end is None else end
    return max(int((_decoded_end(info) if end is None else end) + _SLACK), 1)


def _decoded_end(info: MediaInfo) -> float:
    if info.picture is None:
        with SoundStream(info.path) as sound:
            return sum(block.shape[1] for block in sound.blocks(SAMPLE_RATE, 1.0)) / SAMPLE_RATE
    with PictureStream(info.path) as pictures:
        for _ in pictures.at(itertools.count(1.0), hold=0.0):
            pass
        return pictures.end


def seconds_of(
    path: str | Path, rows: int, views: Sequence[View], *, sound: bool, notes: list[str] | None = None
) -> Iterator[Second]:
    """The first `rows` seconds of a video, in one pass.

    The video may end before: its last picture then stays (at most 1.5 s, else the file counts as damaged, unless
    `rows` is more than the video's own seconds), and what is missing of the sound is silence.

    Args:
        sound: whether the sound is wanted; silence if the file has none (the caller asks `probe` first).
        notes: gets a line where the sound ends more than a second early.

    Raises:
        MediaError: damage, no pictures though views are wanted, a file cut short.
    """
    info = probe(path)
    own = min(rows, seconds_in(info))
    with ExitStack() as stack:
        pictures = _pictures(path, stack, own, views)
        blocks: Iterator[NDArray[np.float32]] = iter(())
        if sound and info.sound is not None:
            blocks = stack.enter_context(SoundStream(path)).blocks(SAMPLE_RATE, 1.0)
        heard_until, last = 0.0, {}
        for number in range(rows):
            second = Second(number)
            last = second.views = next(pictures) if number < own else last
            if sound:
                heard = next(blocks, np.zeros((1, 0), np.float32))[0]
                heard_until += heard.size / SAMPLE_RATE
                second.sound = np.pad(heard, (0, SAMPLE_RATE - heard.size))
            yield second
        if sound and info.sound is not None and notes is not None and heard_until < own - 1:
            notes.append(f"the sound ends at {heard_until:.1f} s of {own}; silence after it")


def _pictures(path: str | Path, stack: ExitStack, rows: int, views: Sequence[View]) -> Iterator[dict[str, list[Any]]]:
    """What the views made of each second; endless empty dicts without views."""
    if not views:
        yield from itertools.repeat({})
        return
    instants = sorted({instant for view in views for instant in view.instants})
    stream = stack.enter_context(PictureStream(path))
    shown = stream.at((second + instant for second in range(rows) for instant in instants), hold=_HOLD)
    for _ in range(rows):
        made: dict[str, list[Any]] = {view.key: [] for view in views}
        for instant in instants:
            frame = next(shown, None)
            if frame is None:
                raise MediaError(
                    f"{path}: the pictures end at {stream.end:.1f} s, but the header announces {rows} s: the file is "
                    "cut short or damaged. Make a new copy."
                )
            for view in views:
                if instant in view.instants:
                    made[view.key].append(view.make(frame))
        yield made


def jpeg_bytes(frame: ShownFrame) -> bytes:
    """A JPEG of quality 95 of a decoded picture, in its own size."""
    buffer = io.BytesIO()
    Image.fromarray(frame.rgb()).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
