"""Frames, masks and predictions as picture files (spec §2.2, §2.3), read through `media.read_image`.

The results are numpy arrays: judging two folders of pictures needs nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmamba.data.media import read_image
from crossmamba.data.media_open import MediaLimits
from crossmamba.errors import MediaError, UsageError

__all__ = ["picture_mode", "read_colours", "read_frame", "read_mask", "read_probability", "write_prediction_png"]

PICTURE_LIMITS = MediaLimits(max_pixels=2**24)  # 50 MB as RGB; AVSBench's pictures have 50,176 pixels


def read_frame(path: Path) -> NDArray[np.uint8]:
    """A frame as RGB uint8 (H, W, 3). An alpha channel is dropped, grey is repeated.

    Raises:
        MediaError: see `media.read_image`.
    """
    return np.asarray(read_image(path, "RGB", PICTURE_LIMITS), dtype=np.uint8)


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A ground-truth mask as uint8 (H, W) in {0, 1}: 1 where any colour channel is above zero.

    One rule for every mode in which AVSBench's masks are found: `1`, palette (its colours count, not its indices), grey
    with 0/1 or 0/255, RGB. Asking PIL for mode `1` instead would turn a grey 0/1 mask all black and dither greys; mode
    `P` would give an RGB white 225.

    Raises:
        MediaError: see `media.read_image`.
    """
    return np.asarray(read_frame(path).any(axis=-1), dtype=np.uint8)


def read_colours(path: Path) -> tuple[NDArray[np.uint8], int]:
    """`(mask, colours)`: the mask as `read_mask` gives it, and how many different colours the picture holds.

    Raises:
        MediaError: see `media.read_image`.
    """
    pixels = read_frame(path).astype(np.uint32)
    keys = pixels @ np.array([65536, 256, 1], dtype=np.uint32)  # (H, W), one number a colour
    return (keys > 0).astype(np.uint8), len(np.unique(keys))


def picture_mode(path: Path) -> str:
    """PIL's mode of the file (`1`, `L`, `P`, `RGB`, ...), from its header.

    Raises:
        MediaError: missing or not a picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.mode
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path}: cannot be read as a picture: {error}.") from error


def read_probability(path: Path) -> NDArray[np.float32]:
    """A predicted mask as probabilities, float32 (H, W) in [0, 1].

    Grey of 8 bits is probability times 255; a 1-bit or palette picture is a hard mask (any colour above black is 1).

    Raises:
        MediaError: unreadable, or of another mode.
    """
    mode = picture_mode(path)
    if mode == "L":
        return read_image(path, "L", PICTURE_LIMITS).astype(np.float32) / np.float32(255)
    if mode in {"1", "P"}:
        return read_mask(path).astype(np.float32)
    raise MediaError(f"{path}: a predicted mask in mode {mode}; write 8-bit grey (probability x 255) or 1 bit")


def write_prediction_png(path: Path, prediction: NDArray[np.floating] | NDArray[np.bool_]) -> None:
    """Writes a predicted mask as 8-bit grey PNG, as `crossmamba score avs` reads it; folders are made.

    Probabilities p become 255 p, rounded half down, so that "strictly above 0.5" holds after the rounding exactly where
    it held before: 0.5 is 127, the next float above it 128.

    Args:
        path: of the file; AVSBench's form is `{id}/{id}_{k}.png`, k from 1.
        prediction: (H, W), probabilities in [0, 1] or bool.

    Raises:
        UsageError: another shape, or values outside [0, 1].
    """
    values = np.asarray(prediction, dtype=np.float64)
    if values.ndim != 2:
        raise UsageError(f"a mask of shape {values.shape} for {path}; expected (height, width)")
    if not ((values >= 0) & (values <= 1)).all():
        raise UsageError(f"the mask for {path} holds values outside [0, 1]; give probabilities, not logits")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ceil(values * 255 - 0.5).clip(0, 255).astype(np.uint8)).save(path)
