"""A planned video as pictures: a table seen from above, things on it, and a hand that comes from below.

Other things lie still; the camera sways a little, as a head does. Nothing in a picture tells the next action but the
table itself and what was done.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import atan2, ceil, cos, floor, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmamba.data.synth.kitchen.chain import BACK, Kitchen
from crossmamba.data.synth.kitchen.classes import NOUNS, VERBS
from crossmamba.data.synth.kitchen.looks import Looks, draw_looks, table
from crossmamba.data.synth.kitchen.motions import LID_WAY, OUT_Y, Pose, beats_of, pose
from crossmamba.data.synth.kitchen.plan import Segment, Video

SWAY = 0.012
"""Share of the side by which the camera sways to either side."""
COLUMNS = (0.14, 0.38, 0.62, 0.86)
ROWS = (0.23, 0.56)
JITTER = 0.012
"""Share of the side by which places lie off the grid, drawn for each video."""


class KitchenPicture:
    """The moving picture of a video.

    Args:
        video: the plan.
        size: side in pixels.
    """

    def __init__(self, video: Video, size: int) -> None:
        self.video, self.size = video, size
        rng = np.random.default_rng(video.seed)
        who = video.participant
        self.looks: Looks = draw_looks(size, who.shift, who.skin, who.sleeve)
        self._margin = ceil(2 * SWAY * size) + 1
        self._table = Image.fromarray(table(rng, size + 2 * self._margin, *who.table))
        self._sway = rng.uniform(0, 2 * pi, (2, 2)), rng.uniform(0.1, 0.4, (2, 2))
        self.places = [
            (COLUMNS[k % BACK] + float(dx), ROWS[k // BACK] + float(dy))
            for k, (dx, dy) in enumerate(rng.uniform(-JITTER, JITTER, (2 * BACK, 2)))
        ]
        self._still: tuple[object, Image.Image] | None = None

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """All pictures of the video, uint8 (S, S, 3); picture f shows the moment f / fps."""
        at = 0
        for f in range(self.video.frames):
            time = float(f / self.video.fps)
            while at < len(self.video.segments) and self.video.segments[at].stop <= time:
                at += 1
            yield self._moment(at, time)

    def at(self, time: float) -> NDArray[np.uint8]:
        """The picture of a moment, uint8 (S, S, 3)."""
        return self._moment(sum(segment.stop <= time for segment in self.video.segments), time)

    def _moment(self, at: int, time: float) -> NDArray[np.uint8]:
        """The picture while the actions before number `at` are done."""
        segments = self.video.segments
        if at == len(segments):
            return self._seen(self.still(self.video.end, None).copy(), time)
        segment = segments[at]
        if time < segment.start:
            return self._seen(self.still(segment.step.before, None).copy(), time)
        return self._seen(self.acted(segment, (time - segment.start) / (segment.stop - segment.start)), time)

    def still(self, kitchen: Kitchen, without: int | None) -> Image.Image:
        """The table with everything on it but one thing, RGB (S + margins); kept until the table changes."""
        key = (tuple(kitchen.places), frozenset(kitchen.opened), frozenset(kitchen.running), without)
        if self._still is None or self._still[0] != key:
            canvas = self._table.copy()
            for place, noun in enumerate(kitchen.places):
                if noun is not None and noun != without:
                    lid = float(noun in kitchen.opened)
                    self._thing(canvas, noun, self.places[place], Pose((0, 0)), lid, noun in kitchen.running)
            self._still = key, canvas
        return self._still[1]

    def acted(self, segment: Segment, phase: float) -> Image.Image:
        """The table, the thing acted on and the hand at a phase of an action, RGB (S + margins)."""
        step = segment.step
        noun, home = step.action.noun, self.places[step.place]
        out = (0.5 + 0.3 * (home[0] - 0.5) - home[0], OUT_Y - home[1])
        verb = VERBS[step.action.verb].key
        now = pose(verb, phase, out, beats_of(segment.stop - segment.start))
        canvas = self.still(step.before, noun).copy()
        lid = float(noun in step.before.opened) if now.lid is None else now.lid
        running = noun in step.before.running if now.running is None else now.running
        self._thing(canvas, noun, home, now, lid, running)
        tips = home[0] + now.hand[0], home[1] + now.hand[1]
        self._stamp(canvas, self.looks.hand, tips, now.hand_angle + atan2(-out[0], out[1]), now.grip, top=True)
        return canvas

    def _thing(
        self, canvas: Image.Image, noun: int, home: tuple[float, float], now: Pose, lid: float, running: bool
    ) -> None:
        """Draws a thing and its lid."""
        key = NOUNS[noun].key
        x, y = home[0] + now.thing[0], home[1] + now.thing[1]
        self._stamp(canvas, self.looks.bodies[key, running], (x, y), now.angle, now.press)
        if key in self.looks.lids:
            way = LID_WAY * lid
            at = (x + way * cos(now.angle), y + way * sin(now.angle))
            self._stamp(canvas, self.looks.lids[key], at, now.angle, now.press)

    def _stamp(
        self,
        canvas: Image.Image,
        drawing: Image.Image,
        at: tuple[float, float],
        angle: float,
        width: float,
        top: bool = False,
    ) -> None:
        """Draws a drawing turned clockwise about its middle (or the middle of its top edge) at a point."""
        w, h = drawing.size
        x, y = at[0] * self.size + self._margin, at[1] * self.size + self._margin
        pivot = (w / 2, 0.0 if top else h / 2)
        c, s = cos(angle), sin(angle)
        corners = [
            (x + c * width * u - s * v, y + s * width * u + c * v)
            for u in (-pivot[0], w - pivot[0])
            for v in (-pivot[1], h - pivot[1])
        ]
        left, upper = (max(0, floor(min(p[k] for p in corners)) - 1) for k in (0, 1))
        right, lower = (min(canvas.size[k], ceil(max(p[k] for p in corners)) + 1) for k in (0, 1))
        if right <= left or lower <= upper:
            return
        # From a pixel of the window back to the drawing: turn by -angle, then undo the narrowing.
        a, b, d, e = c / width, s / width, -s, c
        dx, dy = left - x, upper - y
        inverse = (a, b, a * dx + b * dy + pivot[0], d, e, d * dx + e * dy + pivot[1])
        turned = drawing.transform(
            (right - left, lower - upper), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR
        )
        canvas.paste(turned, (left, upper), turned)

    def _seen(self, canvas: Image.Image, time: float) -> NDArray[np.uint8]:
        """What the swaying camera shows of it."""
        phases, rates = self._sway
        dx, dy = 0.5 * SWAY * self.size * np.sin(2 * pi * rates * time + phases).sum(1) + self._margin
        shown = canvas.transform(
            (self.size, self.size), Image.Transform.AFFINE, (1, 0, dx, 0, 1, dy), Image.Resampling.BILINEAR
        )
        return np.asarray(shown)
