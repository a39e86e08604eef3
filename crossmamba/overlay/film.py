"""A video drawn on, frame by frame: one pass, so memory does not grow with its length; its own sound is kept.

What is drawn is a `Painter`'s business: on the picture, and in a strip below it. `PagedStrip` is a strip over time that
shows one page at once, dim ahead of a cursor and bright behind it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits, PictureStream, SoundStream, VideoWriter
from crossmamba.data.media_write import AAC_RATES

Colour = tuple[int, int, int]

LONGEST_SIDE, SHORTEST_LONG_SIDE = 1280, 640  # pixels; larger videos are scaled down, smaller ones up
FASTEST = 30  # frames per second; faster videos lose frames
PAGE = 30.0  # s that the strip shows at once
GROUND, QUIET, PLAYED, CURSOR, LABEL = (17, 20, 26), (74, 84, 99), (196, 206, 220), (255, 255, 255), (138, 148, 163)


class Painter(Protocol):
    """Draws on a video."""

    height: int
    """Of the strip in pixels, even."""

    def paint(self, picture: NDArray[np.uint8], time: float) -> NDArray[np.uint8]:
        """The picture of this time in seconds, uint8 (H, W, 3), drawn on; it may be changed in place."""
        ...

    def strip(self, time: float) -> NDArray[np.uint8]:
        """The strip at this time, uint8 (height, W, 3)."""
        ...


def write_film(
    video: str | Path,
    out: str | Path,
    painter_of: Callable[[MediaInfo, tuple[int, int]], Painter],
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Writes the drawn-on video as an mp4 with its own sound, cut where the picture ends.

    Args:
        video: what is drawn on; every frame at its own rate, at most `FASTEST`.
        out: the mp4 to make, atomically.
        painter_of: gives the painter for the file and the size (H, W) of the drawn picture.
        limits: under which the video is read.
        progress: called with the time in seconds that is done.

    Raises:
        MediaError: the video cannot be read to its end, or the disk refused.
    """
    with ExitStack() as stack:
        pictures = stack.enter_context(PictureStream(video, limits))
        shape = pictures.picture
        rate = min(shape.fps or Fraction(25), Fraction(FASTEST))
        frames = pictures.at((float(number / rate) for number in itertools.count()), hold=0.0)
        first = next(frames)
        height, width = _picture_size(first.size, float(shape.pixel_aspect))
        painter = painter_of(pictures.info, (height, width))
        sound_rate, channels, blocks = _sound(stack, video, pictures.info, limits)
        writer = stack.enter_context(
            VideoWriter(out, (height + painter.height, width), rate, sample_rate=sound_rate, channels=channels)
        )
        for frame in itertools.chain([first], frames):
            picture = painter.paint(frame.rgb((height, width)), frame.time)
            writer.write_frame(np.concatenate([picture, painter.strip(frame.time)]))
            # Sound up to the end of this frame, so that neither waits long for the other in the writer.
            while sound_rate and writer.samples < writer.frames / rate * sound_rate:
                block = next(blocks, None)
                if block is None:
                    break
                writer.write_audio(block)
            if progress is not None:
                progress(frame.time)


def _sound(
    stack: ExitStack, video: str | Path, info: MediaInfo, limits: MediaLimits
) -> tuple[int | None, int, Iterator[NDArray[np.float32]]]:
    """Rate in Hz, channels and short blocks of the video's own sound, as AAC can hold it; (None, 1, ()) without."""
    if info.sound is None:
        return None, 1, iter(())
    rate = info.sound.sample_rate if info.sound.sample_rate in AAC_RATES else 48000
    channels = min(info.sound.channels, 2)
    stream = stack.enter_context(SoundStream(video, limits))
    return rate, channels, stream.blocks(rate, 0.05, "mono" if channels == 1 else "stereo")


def _picture_size(size: tuple[int, int], pixel_aspect: float) -> tuple[int, int]:
    """Size (H, W) of the drawn picture: square pixels, even sides, the long side within bounds."""
    height, width = size[0], size[1] * min(max(pixel_aspect, 0.25), 4.0)
    longest = max(height, width)
    scale = min(max(longest, SHORTEST_LONG_SIDE), LONGEST_SIDE) / longest
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))


class PagedStrip(ABC):
    """A strip over time, one page at once.

    Args:
        width: in pixels. seconds: of the whole axis; time marks stand below it.
        height: in pixels; None for one that suits the width.
    """

    def __init__(self, width: int, seconds: float, height: int | None = None) -> None:
        self.width, self.seconds = width, max(seconds, 1e-3)
        self.unit = min(max(width * 0.15, 76), 132)  # what sizes follow, whatever the height
        self.height = 2 * round((self.unit if height is None else height) / 2)
        self.span = min(PAGE, self.seconds)  # s shown at once
        self._page = -1
        self._font = ImageFont.load_default(size=self.unit / 8.5)
        self._left, self._right = round(width * 0.02 + self.unit * 0.5), width - round(self.unit * 0.24)
        self.top, self.bottom = round(self.unit * 0.06), round(self.height - self.unit * 0.22)

    def at(self, time: float) -> NDArray[np.uint8]:
        """The strip at a time in seconds: uint8 (height, width, 3)."""
        time = min(time, self.seconds - 1e-6)
        page = int(time / self.span)
        if page != self._page:
            self._page = page
            self._ahead, self._behind = (self._render(page, played) for played in (False, True))
        cursor = round(self._column(time - page * self.span))
        strip = self._ahead.copy()
        strip[:, :cursor] = self._behind[:, :cursor]
        strip[self.top : self.bottom, cursor : cursor + 2] = CURSOR
        return strip

    @abstractmethod
    def draw(self, draw: ImageDraw.ImageDraw, start: float, played: bool) -> None:
        """Draws the page that starts at `start` s; `played`: as it looks behind the cursor."""

    def _column(self, offset: float) -> float:
        """Place in pixels of a time after the page's start."""
        return self._left + (self._right - self._left) * offset / self.span

    def _render(self, page: int, played: bool) -> NDArray[np.uint8]:
        image = Image.new("RGB", (self.width, self.height), GROUND)
        draw, start = ImageDraw.Draw(image), page * self.span
        self.draw(draw, start, played)
        step = next(step for step in (1, 2, 5, 10) if step * 12 >= self.span)
        for second in range(int(start), int(start + self.span) + 1, step):
            label = f"{second // 60}:{second % 60:02d}"
            place = (self._column(second - start), self.height - self.unit * 0.2)
            draw.text(place, label, LABEL, self._font, anchor="ma")
        return np.array(image)


def faded(colour: Colour, share: float) -> Colour:
    """A colour mixed with the strip's ground."""
    red, green, blue = (round(ground + (value - ground) * share) for value, ground in zip(colour, GROUND, strict=True))
    return red, green, blue
