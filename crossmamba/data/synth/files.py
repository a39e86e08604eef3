"""Writing one file of a synthetic set: named only when complete, and the same content gives the same bytes."""

from __future__ import annotations

import io
import os
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmamba.data.synth.voices import SAMPLE_RATE

PART = ".part"
"""Ending of unfinished files."""


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name and renames it; makes its folder.

    Raises:
        OSError: the disk refused.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_changed(path: Path, content: bytes) -> None:
    """`write_bytes`, unless the file is there with that content.

    Raises:
        OSError: the disk refused.
    """
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """A PNG of a picture, uint8 (H, W, 3) RGB or (H, W) grey."""
    buffer = io.BytesIO()
    # Level 1: the grain of the background hardly compresses, so more effort costs time and saves nothing.
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def stacked(strips: Sequence[Image.Image], paper: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Pictures of some widths below each other, as wide as the widest, uint8 (H, W, 3), on a colour."""
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(strip.height for strip in strips)), paper)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    return np.asarray(sheet)


def wav_bytes(waveform: NDArray[np.float32]) -> bytes:
    """A 16-bit mono wav at 16 kHz of a sound in [-1, 1), float32 (n,)."""
    samples = np.clip(np.round(waveform * np.float32(32768)), -32768, 32767).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()
