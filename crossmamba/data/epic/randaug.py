"""RandAugment on clips (Cubuk et al., 2020): a few random picture operations, the same on all pictures of a clip.

The recipes of ORViT and MambaVL name it `m7-n4-mstd0.5-inc1`: four operations of fifteen, each done with probability
one half, at a strength of 7 on a scale of 10 with a normal deviation of 0.5. Stronger is always further from the
original ("inc1"). Made of Pillow's operations; one draw for the clip, because a movement is seen between pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from crossmamba.errors import UsageError

__all__ = ["OPERATIONS", "RandAugment"]

_TOP = 10.0  # strongest
_FILL = (128, 128, 128)  # what comes in from outside the picture

Picture = Image.Image


def _affine(picture: Picture, matrix: tuple[float, float, float, float, float, float]) -> Picture:
    return picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_FILL)


def _sheared(picture: Picture, x: float, y: float) -> Picture:
    return _affine(picture, (1, x, 0, y, 1, 0))


def _moved(picture: Picture, x: float, y: float) -> Picture:
    return _affine(picture, (1, 0, x * picture.width, 0, 1, y * picture.height))


def _solarized(picture: Picture, added: int) -> Picture:
    """Values below the middle grow by `added`."""
    return picture.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)


# name -> what it does at strength `s` in [0, 1]; signed ones take s in [-1, 1].
OPERATIONS: dict[str, tuple[bool, Callable[[Picture, float], Picture]]] = {
    "autocontrast": (False, lambda p, s: ImageOps.autocontrast(p)),
    "equalize": (False, lambda p, s: ImageOps.equalize(p)),
    "invert": (False, lambda p, s: ImageOps.invert(p)),
    "rotate": (True, lambda p, s: p.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=_FILL)),
    "posterize": (False, lambda p, s: ImageOps.posterize(p, max(1, 4 - int(4 * s)))),
    "solarize": (False, lambda p, s: ImageOps.solarize(p, 256 - int(256 * s))),
    "solarize_add": (False, lambda p, s: _solarized(p, int(110 * s))),
    "color": (True, lambda p, s: ImageEnhance.Color(p).enhance(1 + 0.9 * s)),
    "contrast": (True, lambda p, s: ImageEnhance.Contrast(p).enhance(1 + 0.9 * s)),
    "brightness": (True, lambda p, s: ImageEnhance.Brightness(p).enhance(1 + 0.9 * s)),
    "sharpness": (True, lambda p, s: ImageEnhance.Sharpness(p).enhance(1 + 0.9 * s)),
    "shear_x": (True, lambda p, s: _sheared(p, 0.3 * s, 0)),
    "shear_y": (True, lambda p, s: _sheared(p, 0, 0.3 * s)),
    "move_x": (True, lambda p, s: _moved(p, 0.45 * s, 0)),
    "move_y": (True, lambda p, s: _moved(p, 0, 0.45 * s)),
}


@dataclass(frozen=True)
class RandAugment:
    """See the module; the defaults are the recipe's.

    Attributes:
        operations: how many are drawn, with repetition.
        strength: mean strength, 0 to 10. deviation: of the strength, normal.
        probability: with which a drawn operation is done.
    """

    operations: int = 4
    strength: float = 7.0
    deviation: float = 0.5
    probability: float = 0.5

    def __post_init__(self) -> None:
        if (
            self.operations < 0
            or not 0 <= self.strength <= _TOP
            or self.deviation < 0
            or not 0 <= self.probability <= 1
        ):
            raise UsageError(f"{self}: operations from 0, strength 0 to 10, deviation from 0, probability 0 to 1")

    def __call__(self, pictures: Sequence[NDArray[np.uint8]], rng: np.random.Generator) -> list[NDArray[np.uint8]]:
        """The clip with the same operations on every picture, uint8 (H, W, 3) each; the given ones stay as they are."""
        chosen = []
        names = list(OPERATIONS)
        for _ in range(self.operations):  # all draws are made, done or not: one switch changes no other
            name = names[int(rng.integers(len(names)))]
            strength = float(np.clip(rng.normal(self.strength, self.deviation), 0, _TOP)) / _TOP
            sign = -1.0 if rng.random() < 0.5 else 1.0
            signed, operation = OPERATIONS[name]
            if rng.random() < self.probability:
                chosen.append((operation, strength * sign if signed else strength))
        if not chosen:
            return list(pictures)
        changed: dict[int, NDArray[np.uint8]] = {}  # repeated pictures share memory
        for picture in pictures:
            if id(picture) not in changed:
                image = Image.fromarray(picture)
                for operation, strength in chosen:
                    image = operation(image, strength)
                changed[id(picture)] = np.asarray(image, dtype=np.uint8)
        return [changed[id(picture)] for picture in pictures]
