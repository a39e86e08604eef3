"""What a class looks like: shape x hue x texture.

Shapes are functions of object coordinates (x to the right, y down, radius about 1) that are positive inside, and there
roughly the distance to the edge, so that clipping them by the pixel size gives anti-aliased edges.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.worlds import World

Array = NDArray[np.floating]
Colour = tuple[float, float, float]


def _triangle(x: Array, y: Array) -> Array:
    return np.minimum(0.65 - y, (y + 1.0) * 0.5 - np.abs(x) * 0.87)


def _star(x: Array, y: Array) -> Array:
    return 0.7 + 0.3 * np.cos(5 * np.arctan2(x, -y)) - np.hypot(x, y)


def _cross(x: Array, y: Array) -> Array:
    upright = np.minimum(0.32 - np.abs(x), 0.95 - np.abs(y))
    level = np.minimum(0.32 - np.abs(y), 0.95 - np.abs(x))
    return np.maximum(upright, level)


def _hexagon(x: Array, y: Array) -> Array:
    return 0.88 - np.maximum(np.abs(y), np.abs(x) * 0.866 + np.abs(y) * 0.5)


def _heart(x: Array, y: Array) -> Array:
    return (0.6 - ((x * 1.1) ** 2 + (-y * 1.2 + 0.1 - 0.6 * np.sqrt(np.abs(x))) ** 2)) * 0.7


SHAPES: tuple[Callable[[Array, Array], Array], ...] = (
    lambda x, y: 1 - np.hypot(x, y),
    lambda x, y: 0.85 - np.maximum(np.abs(x), np.abs(y)),
    _triangle,
    _star,
    lambda x, y: 0.28 - np.abs(np.hypot(x, y) - 0.7),
    _cross,
    lambda x, y: (1 - np.abs(x) * 1.3 - np.abs(y)) * 0.7,
    lambda x, y: np.minimum(1 - np.hypot(x, y), np.hypot(x - 0.5, y) - 0.72),
    _hexagon,
    lambda x, y: np.minimum(1 - np.abs(x), 0.4 - np.abs(y)),
    lambda x, y: 0.5 - np.hypot(x - np.clip(x, -0.5, 0.5), y),
    _heart,
)
"""Shape of each class, in the order of `CLASS_NAMES`."""

TEXTURES: tuple[Callable[[Array, Array, float, float], Array | None], ...] = (
    lambda x, y, f, p: None,
    lambda x, y, f, p: np.sin(3 * f * x + p) - 0.2,
    lambda x, y, f, p: np.sin(3 * f * x + p) * np.sin(3 * f * y + p) - 0.3,
    lambda x, y, f, p: np.sin(2 * f * x + p) * np.sin(2 * f * y),
)
"""Plain, stripes, dots, checks: positive where the second colour shows. Class c has texture c mod 4."""

EDGE = 1.2
"""Half the side of the square, in radii, outside which no shape has pixels."""


@dataclass(frozen=True)
class Look:
    """How one object looks: its class's shape and texture in its own colours.

    Attributes:
        shape, texture: positions in `SHAPES` and `TEXTURES`.
        colour, mark: RGB in [0, 1] of the body and of the texture's marks.
        frequency, phase: of the texture, radians per third of a radius and radians.
    """

    shape: int
    texture: int
    colour: Colour
    mark: Colour
    frequency: float
    phase: float


def draw_look(rng: np.random.Generator, class_index: int, world: World) -> Look:
    """A look of the class: the hue within the class's range, saturation and brightness free."""
    spacing = 360 / world.n_classes
    hue = class_index * spacing + rng.uniform(-world.hue_jitter, world.hue_jitter) * spacing
    return look_of(rng, class_index, class_index % len(TEXTURES), hue)


def look_of(rng: np.random.Generator, shape: int, texture: int, hue: float) -> Look:
    """A look with a given shape, texture and hue in degrees; saturation and brightness are drawn."""
    mark_hue = hue + rng.uniform(-15, 15)
    colour = rgb(hue, rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.0))
    mark = rgb(mark_hue, rng.uniform(0.4, 0.9), rng.uniform(0.35, 0.6))
    return Look(shape, texture, colour, mark, float(rng.uniform(2.5, 4.0)), float(rng.uniform(0, 6)))


def rgb(hue_degrees: float, saturation: float, value: float) -> Colour:
    """RGB in [0, 1] of a hue in degrees, saturation and value in [0, 1]."""
    return colorsys.hsv_to_rgb(hue_degrees % 360 / 360, saturation, value)


def paint(look: Look, x: Array, y: Array, pixels_per_radius: float) -> tuple[Array, Array]:
    """Coverage and colour of an object on a grid of object coordinates.

    Args:
        look: of the object.
        x, y: float32 (h, w), object coordinates in radii.
        pixels_per_radius: for edges one pixel wide.

    Returns:
        Coverage float32 (h, w) in [0, 1] and colour float32 (h, w, 3) in [0, 1]. The pixels with coverage above one
        half are the object's.
    """
    inside = SHAPES[look.shape](x, y) * np.float32(pixels_per_radius)  # about pixels from the edge
    coverage = np.clip(inside + 0.5, 0, 1)
    marks = TEXTURES[look.texture](x, y, look.frequency, look.phase)
    body = np.asarray(look.colour, np.float32)
    if marks is None:
        colour = np.broadcast_to(body, (*x.shape, 3))
    else:
        # A texture of one radian every `radius / 3 frequency`: this slope makes its edges about a pixel wide.
        share = np.clip(marks * np.float32(pixels_per_radius / (3 * look.frequency)) + 0.5, 0, 1)[..., None]
        colour = body + share * (np.asarray(look.mark, np.float32) - body)
    # A slightly darker rim sets an object off from the background and from its neighbours.
    rim = 0.75 + 0.25 * np.clip(inside / max(1.0, 0.12 * pixels_per_radius), 0, 1)
    return coverage.astype(np.float32), (colour * rim[..., None]).astype(np.float32)
