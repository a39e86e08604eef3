"""How things, hands and tables look: small pictures with transparency, drawn once for each video.

A thing is drawn in its own coordinates, where its body fits into the square from -1 to 1; a colour is a hue in degrees,
a saturation and a value. Every participant has an own table, skin, sleeve and a small shift of all hues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from crossmamba.data.synth.looks import rgb

RADIUS = 0.092
"""Half the side of a thing's square, a share of the picture's side."""
REACH = 1.3
"""Half the side of a thing's drawing, in its own coordinates: room for handles."""
_FINE = 6  # drawn so many times larger, then reduced

Colour = tuple[int, int, int, int]
Box = tuple[float, float, float, float]


class Pen:
    """Draws in a thing's own coordinates.

    Args:
        side: of the finished drawing in pixels.
        shift: degrees added to every hue.
    """

    def __init__(self, side: int, shift: float = 0.0) -> None:
        self.side, self.shift = side, shift
        self.image = Image.new("RGBA", (side * _FINE, side * _FINE))
        self._draw = ImageDraw.Draw(self.image)

    def colour(self, hue: float, saturation: float, value: float) -> Colour:
        """An opaque colour."""
        r, g, b = (round(255 * float(c)) for c in rgb((hue + self.shift) % 360, saturation, value))
        return r, g, b, 255

    def _at(self, points: tuple[float, ...]) -> list[float]:
        return [(p / REACH + 1) / 2 * self.side * _FINE for p in points]

    def box(self, box: Box, fill: Colour, round_by: float = 0.0) -> None:
        """A rectangle (left, top, right, bottom)."""
        radius = round_by / REACH / 2 * self.side * _FINE
        self._draw.rounded_rectangle(self._at(box), radius, fill=fill)

    def disc(self, x: float, y: float, rx: float, fill: Colour, ry: float | None = None) -> None:
        """An ellipse."""
        ry = rx if ry is None else ry
        self._draw.ellipse(self._at((x - rx, y - ry, x + rx, y + ry)), fill=fill)

    def shape(self, points: tuple[float, ...], fill: Colour) -> None:
        """A polygon x0, y0, x1, y1, ..."""
        self._draw.polygon(self._at(points), fill=fill)

    def done(self) -> Image.Image:
        """The drawing at its true size, RGBA."""
        return self.image.resize((self.side, self.side), Image.Resampling.BOX)


def _cup(pen: Pen) -> None:
    pen.disc(0.85, 0, 0.4, pen.colour(0, 0.75, 0.6))
    pen.disc(0, 0, 0.8, pen.colour(0, 0.8, 0.8))
    pen.disc(0, 0, 0.5, pen.colour(25, 0.6, 0.35))


def _bowl(pen: Pen) -> None:
    pen.disc(0, 0, 1.05, pen.colour(185, 0.6, 0.75))
    pen.disc(0, 0, 0.75, pen.colour(185, 0.35, 0.95))


def _tap(pen: Pen) -> None:
    pen.box((-1, -0.75, 1, -0.25), pen.colour(210, 0.1, 0.75), 0.2)
    pen.box((-0.25, -0.75, 0.25, 1), pen.colour(210, 0.15, 0.6), 0.2)


def _fridge(pen: Pen) -> None:
    pen.box((-0.75, -1.15, 0.75, 1.15), pen.colour(220, 0.25, 0.85), 0.15)


def _pan(pen: Pen) -> None:
    pen.box((0.5, -0.17, 1.3, 0.17), pen.colour(20, 0.5, 0.3), 0.1)
    pen.disc(-0.15, 0, 0.85, pen.colour(0, 0, 0.2))
    pen.disc(-0.15, 0, 0.62, pen.colour(0, 0, 0.38))


def _bottle(pen: Pen) -> None:
    pen.box((-0.2, -1.25, 0.2, 0), pen.colour(120, 0.5, 0.35), 0.1)
    pen.box((-0.5, -0.6, 0.5, 1.15), pen.colour(120, 0.7, 0.5), 0.3)


def _drawer(pen: Pen) -> None:
    pen.box((-1.15, -0.75, 1.15, 0.75), pen.colour(25, 0.65, 0.45), 0.05)


def _kettle(pen: Pen) -> None:
    pen.shape((-1.2, -0.55, -0.5, -0.1, -0.6, 0.5), pen.colour(165, 0.7, 0.4))
    pen.disc(0.1, 0.1, 0.85, pen.colour(165, 0.75, 0.55))
    pen.box((-0.35, -1.1, 0.55, -0.8), pen.colour(0, 0, 0.15), 0.1)


def _plate(pen: Pen) -> None:
    pen.disc(0, 0, 1.1, pen.colour(60, 0.03, 0.97))
    pen.disc(0, 0, 0.78, pen.colour(210, 0.45, 0.85))
    pen.disc(0, 0, 0.66, pen.colour(60, 0.03, 0.97))


def _onion(pen: Pen) -> None:
    pen.shape((-0.3, -0.4, 0, -1.2, 0.3, -0.4), pen.colour(90, 0.6, 0.55))
    pen.disc(0, 0.15, 0.8, pen.colour(300, 0.55, 0.55), 0.75)
    pen.disc(0, 0.15, 0.4, pen.colour(300, 0.3, 0.8), 0.7)


def _hob(pen: Pen) -> None:
    pen.box((-1, -1, 1, 1), pen.colour(0, 0, 0.12), 0.1)
    pen.disc(0, 0, 0.75, pen.colour(0, 0, 0.5))
    pen.disc(0, 0, 0.55, pen.colour(0, 0, 0.12))


def _board(pen: Pen) -> None:
    pen.box((-1.2, -0.75, 1.2, 0.75), pen.colour(38, 0.4, 0.85), 0.15)
    pen.disc(0.9, -0.45, 0.14, pen.colour(25, 0.6, 0.3))


def _microwave(pen: Pen) -> None:
    pen.box((-1.2, -0.8, 1.2, 0.8), pen.colour(270, 0.12, 0.35), 0.1)


def _sponge(pen: Pen) -> None:
    pen.box((-0.9, -0.55, 0.9, 0.55), pen.colour(52, 0.85, 0.95), 0.2)
    pen.box((-0.9, 0.2, 0.9, 0.55), pen.colour(140, 0.7, 0.45), 0.1)


def _lunch_box(pen: Pen) -> None:
    pen.box((-0.95, -0.85, 0.95, 0.85), pen.colour(330, 0.55, 0.75), 0.3)


def _tea_bag(pen: Pen) -> None:
    pen.box((0.05, -1.2, 0.15, 0), pen.colour(0, 0, 0.95))
    pen.box((-0.2, -1.25, 0.4, -0.8), pen.colour(10, 0.85, 0.85))
    pen.box((-0.5, -0.4, 0.7, 0.75), pen.colour(35, 0.3, 0.75), 0.1)
    pen.disc(0.1, 0.25, 0.35, pen.colour(30, 0.6, 0.3))


_BODIES: dict[str, Callable[[Pen], None]] = {
    "cup": _cup,
    "bowl": _bowl,
    "tap": _tap,
    "fridge": _fridge,
    "pan": _pan,
    "bottle": _bottle,
    "drawer": _drawer,
    "kettle": _kettle,
    "plate": _plate,
    "onion": _onion,
    "hob": _hob,
    "board:chopping": _board,
    "microwave": _microwave,
    "sponge": _sponge,
    "box:lunch": _lunch_box,
    "bag:tea": _tea_bag,
}
# What a lid covers, and the hue, saturation and value of the lid.
_LIDS: dict[str, tuple[Box, tuple[float, float, float]]] = {
    "fridge": ((-0.6, -1.0, 0.6, 1.0), (220, 0.1, 0.97)),
    "drawer": ((-1.0, -0.6, 1.0, 0.6), (25, 0.5, 0.68)),
    "microwave": ((-1.0, -0.6, 0.6, 0.6), (270, 0.35, 0.6)),
    "bottle": ((-0.4, -0.45, 0.4, 0.25), (55, 0.7, 0.9)),
    "box:lunch": ((-0.8, -0.7, 0.8, 0.7), (330, 0.3, 0.95)),
}
# Where a lamp is and how large.
_LAMPS: dict[str, tuple[float, float, float, tuple[float, float, float]]] = {
    "tap": (0, -0.5, 0.32, (205, 0.75, 1.0)),
    "hob": (0, 0, 0.42, (8, 0.95, 1.0)),
    "microwave": (0.9, 0, 0.26, (95, 0.9, 1.0)),
    "kettle": (0.1, 0.1, 0.32, (45, 0.95, 1.0)),
}


@dataclass(frozen=True)
class Looks:
    """The drawings of one kitchen, RGBA pictures.

    Attributes:
        bodies: by noun key and whether it runs.
        lids: by noun key, of what can be opened.
        hand: finger tips at the middle of the top edge, the arm below.
    """

    bodies: dict[tuple[str, bool], Image.Image]
    lids: dict[str, Image.Image]
    hand: Image.Image


def thing(key: str, running: bool, side: int, shift: float) -> Image.Image:
    """The drawing of a thing without its lid, RGBA (side, side)."""
    pen = Pen(side, shift)
    _BODIES[key](pen)
    if key in _LIDS:
        pen.box(_LIDS[key][0], pen.colour(0, 0, 0.08), 0.1)
    if key in _LAMPS:
        x, y, radius, colour = _LAMPS[key]
        pen.disc(x, y, radius, pen.colour(*colour) if running else pen.colour(0, 0, 0.3))
    return pen.done()


def lid(key: str, side: int, shift: float) -> Image.Image:
    """The drawing of a thing's lid where it is closed, RGBA (side, side).

    Raises:
        KeyError: it has no lid.
    """
    pen = Pen(side, shift)
    box, colour = _LIDS[key]
    pen.box(box, pen.colour(*colour), 0.12)
    pen.disc(box[0] + 0.25, 0.5 * (box[1] + box[3]), 0.13, pen.colour(0, 0, 0.25))
    return pen.done()


HAND = (0.15, 1.3)
"""Width and length of the drawing of a hand with its arm, shares of the picture's side."""


def hand(size: int, skin: tuple[float, float, float], sleeve: tuple[float, float, float]) -> Image.Image:
    """A hand pointing up with its arm, RGBA; the finger tips are in the middle of its top edge.

    Args:
        size: side of the picture in pixels.
        skin, sleeve: hue, saturation, value.
    """
    unit = size * _FINE
    image = Image.new("RGBA", (round(HAND[0] * unit), round(HAND[1] * unit)))
    draw, middle = ImageDraw.Draw(image), image.width / 2
    tone, dark, cloth = ((*(round(255 * float(c)) for c in rgb(*hsv)), 255) for hsv in (skin, _darker(skin), sleeve))

    def bar(x: float, top: float, bottom: float, width: float, fill: tuple[int, ...]) -> None:
        box = [middle + (x - width / 2) * unit, top * unit, middle + (x + width / 2) * unit, bottom * unit]
        draw.rounded_rectangle(box, width / 2 * unit, fill=fill)

    bar(0, 0.1, 1.3, 0.062, tone)
    bar(0, 0.19, 1.3, 0.086, cloth)
    bar(-0.052, 0.055, 0.13, 0.026, tone)  # the thumb
    bar(0, 0.05, 0.15, 0.095, dark)
    bar(0, 0.054, 0.146, 0.087, tone)
    for x, top in ((-0.03, 0.012), (0.0, 0.0), (0.03, 0.014)):
        bar(x, top, 0.1, 0.026, dark)
        bar(x, top + 0.002, 0.1, 0.019, tone)
    return image.resize((max(1, round(HAND[0] * size)), round(HAND[1] * size)), Image.Resampling.BOX)


def _darker(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    return colour[0], colour[1], 0.7 * colour[2]


def draw_looks(size: int, shift: float, skin: tuple[float, float, float], sleeve: tuple[float, float, float]) -> Looks:
    """All drawings for pictures of `size` pixels; `shift` turns the hues of things, degrees."""
    side = max(4, round(2 * REACH * RADIUS * size))
    bodies = {(key, on): thing(key, on, side, shift) for key in _BODIES for on in (False, True)}
    return Looks(bodies, {key: lid(key, side, shift) for key in _LIDS}, hand(size, skin, sleeve))


def table(rng: np.random.Generator, side: int, hue: float, value: float) -> NDArray[np.uint8]:
    """A table of boards with a little grain, uint8 (side, side, 3)."""
    across = np.arange(side, dtype=np.float32)[None, :, None] / side
    down = np.arange(side, dtype=np.float32)[:, None, None] / side
    boards = 1 - 0.12 * (np.abs((across * rng.integers(3, 6) + rng.random()) % 1 - 0.5) > 0.47)
    grain = 1 + 0.05 * np.sin(2 * np.pi * (down * rng.uniform(2, 4) + rng.random())) * np.sin(9 * across)
    noise = 1 + 0.06 * (rng.random((side, side, 1), dtype=np.float32) - 0.5)
    colour = np.asarray(rgb(hue, 0.22, value), np.float32)
    return np.clip(255 * colour * boards * grain * noise, 0, 255).astype(np.uint8)
