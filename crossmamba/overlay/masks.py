"""A video with what is sounding marked on it: masks as tint and contour, the sound drawn below, the sound itself kept.

Everything is done in one pass over the frames, so memory does not grow with the length of the video (but for 400 bytes
of sound envelope a second).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits, SoundStream
from crossmamba.overlay.film import LABEL, PLAYED, QUIET, PagedStrip, faded, write_film

MaskAt = Callable[[int, tuple[int, int]], NDArray[np.bool_]]
"""Gives the mask of a second, bool (H, W), at a size (H, W)."""

ENVELOPE_RATE = 50  # loudness values a second
TINT, TINT_SHARE = (255, 122, 24), 0.42
EDGE = (255, 236, 214)


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

    def painter(info: MediaInfo, size: tuple[int, int]) -> _Painter:
        return _Painter(_Layers(mask_at, len(areas), size), _Strip(video, info, areas, size[1], limits))

    write_film(video, out, painter, limits=limits, progress=progress)


class _Painter:
    """Masks on the picture, the sound below it."""

    def __init__(self, layers: _Layers, below: _Strip) -> None:
        self.layers, self.below, self.height = layers, below, below.height

    def paint(self, picture: NDArray[np.uint8], time: float) -> NDArray[np.uint8]:
        return self.layers.draw(picture, int(time))

    def strip(self, time: float) -> NDArray[np.uint8]:
        return self.below.at(time)


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


class _Strip(PagedStrip):
    """The strip below the picture: loudness over time, the marked area of each second, a cursor."""

    def __init__(
        self, video: str | Path, info: MediaInfo, areas: Sequence[float], width: int, limits: MediaLimits
    ) -> None:
        super().__init__(width, float(len(areas)))
        self.areas = areas
        self.envelope = _envelope(video, limits) if info.sound is not None else np.zeros(1, np.float32)

    def draw(self, draw: ImageDraw.ImageDraw, start: float, played: bool) -> None:
        colour, share = (PLAYED, 1.0) if played else (QUIET, 0.45)
        wave, bars = self.height * 0.29, self.height * 0.76
        for column in range(self._left, self._right):
            offset = (column - self._left) / (self._right - self._left) * self.span
            first = int((start + offset) * ENVELOPE_RATE)
            last = int((start + offset + self.span / (self._right - self._left)) * ENVELOPE_RATE)
            peak = float(self.envelope[first : max(last, first + 1)].max(initial=0.0))
            half = max(0.5, peak * self.height * 0.23)
            draw.line((column, wave - half, column, wave + half), fill=colour)
        full = max(0.02, *self.areas)
        for second in range(int(start), min(len(self.areas), int(start + self.span + 0.999))):
            left, right = self._column(second - start), self._column(second + 1 - start)
            tall = self.height * (0.03 + 0.16 * self.areas[second] / full) if self.areas[second] > 0 else 0
            draw.rectangle((left + 1, bars - tall, right - 2, bars), fill=faded(TINT, share) if tall else QUIET)
        draw.text((self.width * 0.015, wave), "sound", LABEL, self._font, anchor="lm")
        draw.text((self.width * 0.015, self.height * 0.68), "marked", LABEL, self._font, anchor="lm")


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
