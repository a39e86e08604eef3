"""Media reading and writing: everything that opens a picture, sound or video file goes through here.

Files are untrusted: see `media_open` for the limits, `media_read` for the streams, `media_write` for writing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmamba.data.media_open import DEFAULT_LIMITS, MediaInfo, MediaLimits, PictureInfo, SoundInfo, check_size, probe
from crossmamba.data.media_read import PictureStream, ShownFrame, SoundStream
from crossmamba.data.media_write import VideoWriter, write_video
from crossmamba.errors import MediaError

__all__ = [
    "DEFAULT_LIMITS",
    "MediaInfo",
    "MediaLimits",
    "PictureInfo",
    "PictureStream",
    "ShownFrame",
    "SoundInfo",
    "SoundStream",
    "VideoWriter",
    "audio_blocks",
    "frames_at",
    "probe",
    "read_audio",
    "read_image",
    "write_video",
]

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")


def read_image(
    path: str | Path, mode: str | None = "RGB", limits: MediaLimits = DEFAULT_LIMITS
) -> NDArray[np.uint8 | np.bool_]:
    """Reads one picture file with PIL; its size is checked before its pixels are decoded.

    Args:
        path: PNG, JPEG, BMP, WebP, TIFF or PPM.
        mode: PIL's mode to convert to: "RGB" gives uint8 (H, W, 3), "L" uint8 (H, W). None keeps the file's own: a
            palette picture then gives its indices, a 1-bit picture bool (H, W).

    Raises:
        MediaError: missing, empty, not a picture, damaged, or over a limit.
    """
    file = Path(path)
    if not file.is_file():
        raise MediaError(f"{path}: there is no such file." if not file.exists() else f"{path}: not a regular file.")
    try:
        with Image.open(file, formats=IMAGE_FORMATS) as picture:
            check_size(path, *picture.size, limits)
            return np.array(picture if mode is None else picture.convert(mode))
    except MediaError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        reason = "the file is empty" if file.stat().st_size == 0 else str(error)
        raise MediaError(f"{path}: cannot be read as a picture: {reason}.") from error


def frames_at(
    path: str | Path, times: Iterable[float], *, hold: float = 0.5, limits: MediaLimits = DEFAULT_LIMITS
) -> Iterator[ShownFrame]:
    """The picture on display at each of the times, in one pass; see `PictureStream.at`.

    Raises:
        MediaError: as `PictureStream`.
    """
    with PictureStream(path, limits) as stream:
        yield from stream.at(times, hold)


def audio_blocks(
    path: str | Path, rate: int = 16000, block_seconds: float = 1.0, limits: MediaLimits = DEFAULT_LIMITS
) -> Iterator[NDArray[np.float32]]:
    """The sound in blocks, mono (mean of the channels), float32 (n,) in [-1, 1]; see `SoundStream.blocks`.

    Raises:
        MediaError: as `SoundStream`.
    """
    with SoundStream(path, limits) as stream:
        for block in stream.blocks(rate, block_seconds):
            yield block[0]


def read_audio(path: str | Path, rate: int = 16000, limits: MediaLimits = DEFAULT_LIMITS) -> NDArray[np.float32]:
    """The whole sound, mono (mean of the channels), float32 (n,) in [-1, 1] at `rate` Hz.

    Raises:
        MediaError: as `SoundStream`.
    """
    return np.concatenate(list(audio_blocks(path, rate, 10.0, limits)))
