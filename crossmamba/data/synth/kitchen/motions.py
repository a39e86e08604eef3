"""The twelve verbs as movements of a hand and of what it holds.

A movement is a function of the phase u in [0, 1] of an action: the hand comes (first fifth), acts, leaves (last
fifth). Three pairs of verbs are each other's movement played backwards, exactly:

    put(u) = take(1 - u),   close(u) = open(1 - u),   turn-off(u) = turn-on(1 - u)

so one frame cannot tell them apart, only the order of frames can. Wash, mix and cut differ in the path of a hand over a
thing that lies still (sideways, in circles, to and fro); shake, pour and squeeze move, tilt or press the thing.

Symbols
    u       phase of the action, 0 to 1           COME   share of the action for coming, and for leaving
    beats   number of repetitions of a rubbing, cutting, stirring, shaking or squeezing hand within an action
Lengths are shares of the picture's side, x to the right and y down; angles are radians, clockwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi, sin

COME = 0.2
"""Share of an action in which the hand comes, and again in which it leaves."""
GRIP = 0.045
"""How far below the middle of a thing the finger tips hold it."""
OUT_Y = 1.2
"""Where the finger tips are when the hand is out of the picture."""
RUB, CHOP, STIR, SHAKE = 0.07, 0.06, 0.055, 0.07
"""How far the hand goes to either side of its middle when it rubs, chops, stirs and shakes."""
TWIST = 0.6
"""Angle to either side by which a hand turns something on or off."""
TILT = 1.2
"""Angle by which something is tilted when poured."""
LIFT = 0.05
"""How far something is lifted when poured."""
LID_WAY = 0.075
"""How far a lid slides to the right."""
TWO_BEATS = 1.6
"""Seconds from which on a hand rubs, chops, stirs, shakes or squeezes twice within an action. Never more often, so that
eight frames spread over an action still show the path."""


@dataclass(frozen=True)
class Pose:
    """One moment of an action.

    Attributes:
        hand: finger tips relative to the thing's place.
        hand_angle: turn of the hand round its finger tips.
        grip: size of the hand, 1 open; a squeezing hand is narrower.
        thing: the thing relative to its place.
        angle: turn of the thing.
        press: width of the thing, 1 unpressed.
        lid: share by which it is open, 0 to 1; None as it was.
        running: whether its lamp is on; None as it was.
    """

    hand: tuple[float, float]
    thing: tuple[float, float] = (0.0, 0.0)
    hand_angle: float = 0.0
    grip: float = 1.0
    angle: float = 0.0
    press: float = 1.0
    lid: float | None = None
    running: bool | None = None


def _ease(x: float) -> float:
    """A smooth step: 0 before 0, 1 after 1; its slope is 0 at both ends."""
    x = min(1.0, max(0.0, x))
    return x * x * (3 - 2 * x)


def _path(start: tuple[float, float], end: tuple[float, float], share: float) -> tuple[float, float]:
    s = _ease(share)
    return start[0] + s * (end[0] - start[0]), start[1] + s * (end[1] - start[1])


def _reach(u: float, out: tuple[float, float], first: Pose, middle: Callable[[float], Pose], last: Pose) -> Pose:
    """Comes to the pose `first`, goes through `middle` (of 0 to 1), leaves from the pose `last`."""
    if u < COME:
        return replace(first, hand=_path(out, first.hand, u / COME))
    if u > 1 - COME:
        return replace(last, hand=_path(out, last.hand, (1 - u) / COME))
    return middle((u - COME) / (1 - 2 * COME))


def _take(u: float, out: tuple[float, float], beats: int) -> Pose:
    hold = (0.0, GRIP)
    if u < COME:
        return Pose(_path(out, hold, u / COME))
    x, y = _path(hold, out, (u - COME) / (1 - COME))
    return Pose((x, y), (x, y - GRIP))


def _open(u: float, out: tuple[float, float], beats: int) -> Pose:
    def slide(s: float) -> Pose:
        lid = _ease(s)
        return Pose((LID_WAY * lid, GRIP), lid=lid)

    return _reach(u, out, slide(0), slide, slide(1))


def _turn_on(u: float, out: tuple[float, float], beats: int) -> Pose:
    def twist(s: float) -> Pose:
        return Pose((0.0, GRIP), hand_angle=TWIST * (2 * _ease(s) - 1), running=s > 0.5)

    return _reach(u, out, twist(0), twist, twist(1))


def _wash(u: float, out: tuple[float, float], beats: int) -> Pose:
    def rub(s: float) -> Pose:
        return Pose((RUB * sin(2 * pi * beats * s), GRIP))

    return _reach(u, out, rub(0), rub, rub(1))


def _cut(u: float, out: tuple[float, float], beats: int) -> Pose:
    def chop(s: float) -> Pose:
        return Pose((0.0, GRIP + CHOP * sin(2 * pi * beats * s)))

    return _reach(u, out, chop(0), chop, chop(1))


def _mix(u: float, out: tuple[float, float], beats: int) -> Pose:
    def stir(s: float) -> Pose:
        turn = 2 * pi * beats * s
        return Pose((STIR * sin(turn), GRIP - STIR * cos(turn)))

    return _reach(u, out, stir(0), stir, stir(1))


def _shake(u: float, out: tuple[float, float], beats: int) -> Pose:
    def swing(s: float) -> Pose:
        x = SHAKE * sin(2 * pi * beats * s)
        return Pose((x, GRIP), (x, 0.0))

    return _reach(u, out, swing(0), swing, swing(1))


def _pour(u: float, out: tuple[float, float], beats: int) -> Pose:
    def tip(s: float) -> Pose:
        share = _ease(min(s, 1 - s) * 2.5)
        y = -LIFT * share
        return Pose((0.0, GRIP + y), (0.0, y), angle=TILT * share, hand_angle=0.3 * TILT * share)

    return _reach(u, out, tip(0), tip, tip(1))


def _squeeze(u: float, out: tuple[float, float], beats: int) -> Pose:
    def press(s: float) -> Pose:
        share = 0.5 - 0.5 * cos(2 * pi * beats * s)
        return Pose((0.0, GRIP), press=1 - 0.45 * share, grip=1 - 0.25 * share)

    return _reach(u, out, press(0), press, press(1))


_FORWARD: dict[str, Callable[[float, tuple[float, float], int], Pose]] = {
    "take": _take,
    "open": _open,
    "turn-on": _turn_on,
    "wash": _wash,
    "cut": _cut,
    "mix": _mix,
    "shake": _shake,
    "pour": _pour,
    "squeeze": _squeeze,
}
_BACKWARD = {"put": "take", "close": "open", "turn-off": "turn-on"}


def beats_of(seconds: float) -> int:
    """Repetitions within an action of a length: 1, from `TWO_BEATS` seconds on 2."""
    return 1 if seconds < TWO_BEATS else 2


def pose(verb: str, u: float, out: tuple[float, float], beats: int) -> Pose:
    """The pose of a verb at a phase.

    Args:
        verb: its key.
        u: phase, 0 to 1.
        out: the finger tips when the hand is out of the picture, relative to the thing's place.
        beats: repetitions, see `beats_of`.

    Raises:
        KeyError: no such verb.
    """
    if verb in _BACKWARD:
        return _FORWARD[_BACKWARD[verb]](1 - u, out, beats)
    return _FORWARD[verb](u, out, beats)
