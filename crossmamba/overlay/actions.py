"""A video with the names of the actions on it: what is done now, what comes next, and a timeline bar below.

The bar has a lane for the recognised segments and one for the anticipations, each where there are any; an anticipation
stands at the time that it is about, and on the picture while it lies ahead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits
from crossmamba.overlay.film import GROUND, LABEL, QUIET, Colour, PagedStrip, faded, write_film

PALETTE: tuple[Colour, ...] = (
    (78, 161, 255),
    (255, 153, 64),
    (94, 204, 134),
    (240, 106, 130),
    (180, 142, 246),
    (240, 205, 82),
    (72, 206, 210),
    (232, 134, 214),
    (163, 190, 110),
    (214, 164, 124),
    (128, 148, 250),
    (196, 202, 212),
)
"""Colours of verbs, in the order in which they first occur."""


@dataclass(frozen=True)
class TimedName:
    """What holds from `start` to `end` (s): the best action and its probability, the best verbs and nouns."""

    start: float
    end: float
    verb: str
    noun: str
    probability: float
    verbs: Sequence[tuple[str, float]] = ()
    nouns: Sequence[tuple[str, float]] = ()

    @property
    def name(self) -> str:
        """`take cup`."""
        return f"{spoken(self.verb)} {spoken(self.noun)}"


@dataclass(frozen=True)
class ActionFilm:
    """What is drawn.

    Attributes:
        seconds: of the video.
        now: recognised segments in order, none overlapping.
        ahead: anticipations in order; each from when it was made (`start`) until the next one.
        gap: seconds that an anticipation looks ahead.
    """

    seconds: float
    now: Sequence[TimedName]
    ahead: Sequence[TimedName] = ()
    gap: float = 1.0


def spoken(key: str) -> str:
    """`turn-on` to `turn on`, `board:chopping` to `chopping board`."""
    return " ".join(reversed(key.split(":"))).replace("-", " ").replace("_", " ")


def colours_of(*lanes: Sequence[TimedName]) -> dict[str, Colour]:
    """A colour for each verb that is the best anywhere."""
    verbs = dict.fromkeys(entry.verb for lane in lanes for entry in lane)
    return {verb: PALETTE[number % len(PALETTE)] for number, verb in enumerate(verbs)}


def write_actions(
    video: str | Path,
    out: str | Path,
    film: ActionFilm,
    *,
    limits: MediaLimits = DEFAULT_LIMITS,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Writes the video with the names on it as an mp4; arguments and errors as `film.write_film`."""

    def painter(info: MediaInfo, size: tuple[int, int]) -> _Painter:
        return _Painter(film, size)

    write_film(video, out, painter, limits=limits, progress=progress)


class _Painter:
    """A band with the names below the picture, below that the lanes; nothing hides the picture."""

    def __init__(self, film: ActionFilm, size: tuple[int, int]) -> None:
        self.film, self.width = film, size[1]
        self.colours = colours_of(film.now, film.ahead)
        self.lanes = _Lanes(film, size[1], self.colours)
        self._starts = [[entry.start for entry in lane] for lane in (film.now, film.ahead)]
        self._held: tuple[TimedName | None, TimedName | None] | None = None
        self._font, self._small = (ImageFont.load_default(size=size[1] / share) for share in (26, 42))
        self._line, self._block = self._font.size * 1.25, self._font.size * 1.25 + self._small.size * 1.35
        blocks = max(1, bool(film.now) + bool(film.ahead))
        self._band = 2 * round((blocks * self._block + self._font.size * 0.5) / 2)
        self.height = self._band + self.lanes.height

    def paint(self, picture: NDArray[np.uint8], time: float) -> NDArray[np.uint8]:
        return picture

    def strip(self, time: float) -> NDArray[np.uint8]:
        held = self._at(0, self.film.now, time), self._at(1, self.film.ahead, time)
        if held != self._held:
            self._held, self._panel = held, self._render(*held)
        return np.concatenate([self._panel, self.lanes.at(time)])

    def _at(self, lane: int, entries: Sequence[TimedName], time: float) -> TimedName | None:
        place = bisect_right(self._starts[lane], time + 1e-6) - 1
        return entries[place] if place >= 0 and time < entries[place].end + 1e-6 else None

    def _render(self, now: TimedName | None, ahead: TimedName | None) -> NDArray[np.uint8]:
        """The band, uint8 (h, W, 3): a block for what is done, one for what comes, where there is a lane."""
        edge = self._font.size * 0.5
        image = Image.new("RGB", (self.width, self._band), GROUND)
        draw, top = ImageDraw.Draw(image), edge / 2
        for lane, entry, lead in ((self.film.now, now, ""), (self.film.ahead, ahead, f"in {self.film.gap:g} s: ")):
            if entry is not None:
                self._draw_block(draw, top, entry, lead)
            top += self._block if lane else 0
        return np.array(image)

    def _draw_block(self, draw: ImageDraw.ImageDraw, top: float, entry: TimedName, lead: str) -> None:
        edge, colour = self._font.size * 0.5, self.colours[entry.verb]
        draw.rectangle((edge * 0.5, top + self._line * 0.12, edge * 0.9, top + self._line * 0.9), fill=colour)
        title = f"{lead}{entry.name}"
        draw.text((edge * 1.4, top), title, (255, 255, 255), self._font)
        after = edge * 1.8 + draw.textlength(title, self._font)
        percent = f"{100 * entry.probability:.0f} %"
        draw.text((after, top + (self._font.size - self._small.size) * 0.9), percent, LABEL, self._small)
        draw.text((edge * 1.4, top + self._line), self._details(entry), LABEL, self._small)

    @staticmethod
    def _details(entry: TimedName) -> str:
        sides = (entry.verbs, entry.nouns)
        return "     ".join(
            "  ".join(f"{spoken(name)} {100 * value:.0f}" for name, value in side) for side in sides if side
        )


class _Lanes(PagedStrip):
    """Bars of the segments, and below them of the anticipations, each moved to the time that it is about."""

    def __init__(self, film: ActionFilm, width: int, colours: dict[str, Colour]) -> None:
        moved = [
            TimedName(entry.start + film.gap, entry.end + film.gap, entry.verb, entry.noun, entry.probability)
            for entry in film.ahead
        ]
        self.lanes = [(name, lane) for name, lane in (("now", film.now), ("ahead", joined(moved))) if lane]
        unit = min(max(width * 0.15, 76), 132)
        super().__init__(width, film.seconds, round(unit * (0.3 + 0.34 * max(1, len(self.lanes)))))
        self.colours = colours

    def draw(self, draw: ImageDraw.ImageDraw, start: float, played: bool) -> None:
        tall, top = self.unit * 0.28, float(self.top)
        for name, lane in self.lanes:
            draw.text((self.width * 0.015, top + tall / 2), name, LABEL, self._font, anchor="lm")
            for entry in lane:
                left = self._column(max(entry.start - start, 0.0))
                right = self._column(min(entry.end - start, self.span))
                if right - left < 1 or entry.end <= start:
                    continue
                colour = faded(self.colours[entry.verb], 0.95 if played else 0.4)
                draw.rectangle((left, top, right - 1.5, top + tall), fill=colour)
                text = _fitting(draw, entry, right - left - 6, self._font)
                ink = GROUND if played else (225, 230, 238)
                draw.text((left + 3, top + tall / 2), text, ink, self._font, anchor="lm")
            top += self.unit * 0.34
        if not self.lanes:
            draw.line((self._left, top + tall / 2, self._right, top + tall / 2), fill=QUIET)


def _fitting(draw: ImageDraw.ImageDraw, entry: TimedName, room: float, font: ImageFont.FreeTypeFont) -> str:
    """The most of an action's name that fits; nothing where not even the verb does."""
    for text in (entry.name, spoken(entry.verb), spoken(entry.verb)[:3]):
        if draw.textlength(text, font) <= room:
            return text
    return ""


def joined(entries: Sequence[TimedName]) -> list[TimedName]:
    """Neighbours with the same action as one bar."""
    bars: list[TimedName] = []
    for entry in entries:
        last = bars[-1] if bars else None
        if last is not None and last.name == entry.name and entry.start - last.end < 1e-6:
            bars[-1] = TimedName(last.start, entry.end, last.verb, last.noun, max(last.probability, entry.probability))
        else:
            bars.append(entry)
    return bars
