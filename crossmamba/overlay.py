"""A video with what is sounding marked on it: masks as tint and contour, the sound drawn below, the sound itself kept.

Everything is done in one pass over the frames, so memory does not grow with the length of the video (but for 400 bytes
of sound envelope a second).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits, PictureStream, SoundStream, VideoWriter
from crossmamba.data.media_write import AAC_RATES

MaskAt = Callable[[int, tuple[int, int]], NDArray[np.bool_]]
"""Gives the mask of a second, bool (H, W), at a size (H, W)."""

LONGEST_SIDE, SHORTEST_LONG_SIDE = 1280, 640  # pixels; larger videos are scaled down, smaller ones up
FASTEST = 30  # frames per second; faster videos lose frames
PAGE = 30.0  # s of sound that the strip shows at once
ENVELOPE_RATE = 50  # loudness values a second
TINT, TINT_SHARE = (255, 122, 24), 0.42
EDGE = (255, 236, 214)
GROUND, QUIET, PLAYED, CURSOR, LABEL = (17, 20, 26), (74, 84, 99), (196, 206, 220), (255, 255, 255), (138, 148, 163)


def write_overlay(
    video: str | Path,
    out: str | Path,
    areas: Sequence[float],
    mask_at: MaskAt,
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Writes the marked video as an mp4 with its own sound, cut where the picture ends.

    Every frame at the video's own rate (at most `FASTEST`) carries the mask of its second; frames after the last judged
    second carry the last mask.

    Args:
        video: the video that was judged.
        out: the mp4 to make, atomically.
        areas: for each judged second the share of the picture that its mask covers, 0 to 1.
        mask_at: gives the mask of second l < len(areas).
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
        strip = _Strip(video, pictures.info, areas, width, limits)
        layers = _Layers(mask_at, len(areas), (height, width))
        sound_rate, channels, blocks = _sound(stack, video, pictures.info, limits)
        writer = stack.enter_context(
            VideoWriter(out, (height + strip.height, width), rate, sample_rate=sound_rate, channels=channels)
        )
        for frame in itertools.chain([first], frames):
            picture = layers.draw(frame.rgb((height, width)), int(frame.time))
            writer.write_frame(np.concatenate([picture, strip.at(frame.time)]))
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


class _Layers:
    """Draws each second's mask; holds one second's layer."""

    def __init__(self, mask_at: MaskAt, seconds: int, size: tuple[int, int]) -> None:
        self.mask_at, self.seconds, self.size = mask_at, seconds, size
        self._second = -1

    def draw(self, picture: NDArray[np.uint8], second: int) -> NDArray[np.uint8]:
        """The picture, uint8 (H, W, 3), with the mask of its second."""
        second = min(second, self.seconds - 1)
        if second != self._second:
            self._second = second
            self._prepare(self.mask_at(second, self.size))
        if self._box is not None:
            part = picture[self._box].astype(np.uint16)
            picture[self._box] = (part * (256 - self._share) + self._colour) >> 8
        return picture

    def _prepare(self, mask: NDArray[np.bool_]) -> None:
        """Colour times share, and share, in 256ths, of the part of the picture that the mask touches."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        self._box = None
        if not rows.size:
            return
        self._box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        edge = (mask & ~_shrunk(mask, max(1, round(max(self.size) / 400))))[self._box][..., None]
        inside = mask[self._box][..., None]
        self._share = np.where(edge, 230, np.where(inside, round(256 * TINT_SHARE), 0)).astype(np.uint16)
        self._colour = np.where(edge, EDGE, TINT).astype(np.uint16) * self._share


def _shrunk(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """The mask without its outermost `steps` pixels; the picture's border is no edge."""
    for _ in range(steps):
        wide = np.pad(mask, 1, constant_values=True)
        mask = mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask


class _Strip:
    """The strip below the picture: loudness over time, the marked area of each second, a cursor. One page at a time."""

    def __init__(
        self, video: str | Path, info: MediaInfo, areas: Sequence[float], width: int, limits: MediaLimits
    ) -> None:
        self.height = 2 * round(min(max(width * 0.15, 76), 132) / 2)
        self.areas, self.width = areas, width
        self.span = min(PAGE, float(len(areas)))  # s shown at once
        self.envelope = _envelope(video, limits) if info.sound is not None else np.zeros(1, np.float32)
        self._page = -1
        self._font = ImageFont.load_default(size=self.height / 8.5)
        self._left, self._right = round(width * 0.02 + self.height * 0.5), width - round(self.height * 0.24)

    def at(self, time: float) -> NDArray[np.uint8]:
        """The strip at a time in seconds: uint8 (height, width, 3)."""
        time = min(time, len(self.areas) - 1e-6)
        page = int(time / self.span)
        if page != self._page:
            self._page = page
            self._ahead, self._behind = self._render(page, QUIET), self._render(page, PLAYED)
        cursor = round(self._column(time - page * self.span))
        strip = self._ahead.copy()
        strip[:, :cursor] = self._behind[:, :cursor]
        strip[round(self.height * 0.06) : round(self.height * 0.78), cursor : cursor + 2] = CURSOR
        return strip

    def _column(self, offset: float) -> float:
        return self._left + (self._right - self._left) * offset / self.span

    def _render(self, page: int, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
        image = Image.new("RGB", (self.width, self.height), GROUND)
        draw = ImageDraw.Draw(image)
        wave, bars, bottom = self.height * 0.29, self.height * 0.76, self.height * 0.8
        start = page * self.span
        for column in range(self._left, self._right):
            offset = (column - self._left) / (self._right - self._left) * self.span
            first = int((start + offset) * ENVELOPE_RATE)
            last = int((start + offset + self.span / (self._right - self._left)) * ENVELOPE_RATE)
            peak = float(self.envelope[first : max(last, first + 1)].max(initial=0.0))
            half = max(0.5, peak * self.height * 0.23)
            draw.line((column, wave - half, column, wave + half), fill=colour)
        share = 1.0 if colour == PLAYED else 0.45
        tint = tuple(round(ground + (value - ground) * share) for value, ground in zip(TINT, GROUND, strict=True))
        full = max(0.02, *self.areas)
        for second in range(int(start), min(len(self.areas), int(start + self.span + 0.999))):
            left, right = self._column(second - start), self._column(second + 1 - start)
            tall = self.height * (0.03 + 0.16 * self.areas[second] / full) if self.areas[second] > 0 else 0
            draw.rectangle((left + 1, bars - tall, right - 2, bars), fill=tint if tall else QUIET)
        step = next(step for step in (1, 2, 5, 10) if step * 12 >= self.span)
        for second in range(int(start), int(start + self.span) + 1, step):
            label = f"{second // 60}:{second % 60:02d}"
            draw.text((self._column(second - start), bottom), label, LABEL, self._font, anchor="ma")
        draw.text((self.width * 0.015, wave), "sound", LABEL, self._font, anchor="lm")
        draw.text((self.width * 0.015, self.height * 0.68), "marked", LABEL, self._font, anchor="lm")
        return np.array(image)


def _envelope(video: str | Path, limits: MediaLimits) -> NDArray[np.float32]:
    """Peak loudness, `ENVELOPE_RATE` values a second, scaled to 1 at the loudest."""
    rate = 160 * ENVELOPE_RATE
    peaks = []
    with SoundStream(video, limits) as stream:
        for block in stream.blocks(rate, 1.0):
            whole = np.pad(block[0], (0, -block.shape[1] % 160))
            peaks.append(np.abs(whole).reshape(-1, 160).max(axis=1))
    envelope = np.concatenate(peaks)
    return (envelope / max(float(envelope.max()), 1e-3)).astype(np.float32)
