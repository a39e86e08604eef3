"""One extracted picture, from bytes or a file: RGB, reduced, with an error that names it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmamba.data.epic.video import reduced
from crossmamba.data.media import IMAGE_FORMATS
from crossmamba.data.media_open import DEFAULT_LIMITS, check_size
from crossmamba.errors import DataError, MediaError

__all__ = ["decode_picture", "looks_whole", "read_bytes"]

_MAX_BYTES = 2**26


def read_bytes(path: Path) -> bytes:
    """A picture file's bytes.

    Raises:
        DataError: missing, not a plain file, or too large.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such picture") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(data) > _MAX_BYTES:
        raise DataError(f"{path}: more than {_MAX_BYTES} bytes for one picture")
    return data


def decode_picture(data: bytes, where: str, short_side: int | None = None) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) RGB, the shorter side at most `short_side`; its size is checked before it is decoded.

    Raises:
        MediaError: empty, no picture, cut short, damaged, or over a limit; `where` is named.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as picture:
            check_size(where, *picture.size, DEFAULT_LIMITS)
            height, width = reduced(picture.height, picture.width, short_side)
            colours = picture.convert("RGB")
            if colours.size != (width, height):
                colours = colours.resize((width, height), Image.Resampling.BOX)
            return np.array(colours, dtype=np.uint8)
    except MediaError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError, Image.DecompressionBombError) as error:
        reason = "the file is empty" if not data else str(error)
        raise MediaError(f"{where}: cannot be read as a picture: {reason}.") from error


def looks_whole(data: bytes) -> bool:
    """Whether bytes begin and end as a jpeg does; a copy that was cut, or is full of zeros, does not."""
    return data[:3] == b"\xff\xd8\xff" and data.rstrip(b"\x00")[-2:] == b"\xff\xd9"
