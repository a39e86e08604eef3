"""Who stands where, and who plays when: the plan of a concert, drawn in two steps.

`plan_picture` draws what is seen and `plan_sound` then draws what is heard, given the picture. The picture holds no
sign of who plays, and the sound none of who stands where; what joins them is the kind and the size of an instrument.
Both laws are open functions, because the ceilings (`ceilings.py`) draw from them again.

Time is counted in steps of a tenth of the clip (whole seconds, at least one): who enters first is then still seen by a
model that looks at ten moments of a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crossmamba.data.synth.music.instruments import RADIUS, SIZES
from crossmamba.data.synth.worlds import SPLITS
from crossmamba.errors import UsageError

PLACES = ("left", "middle", "right")
ROOMS = ("indoor", "outdoor")
SECONDS = (10, 60)
"""Shortest and longest clip."""

P_VISIBLE = {1: 0.23, 2: 0.21, 3: 0.31, 4: 0.25}
"""How many instruments stand on the stage."""
P_PAIR = 0.6
"""With two or more: two are of one kind, a large and a small one."""
P_SECOND_PAIR = 0.3
"""With four, two of which are a pair: the other two are one too."""
P_FOREIGN = {1: 0.45, 2: 0.12, 3: 0.12, 4: 0.12}
"""Nobody on the stage plays, all sound comes from elsewhere."""
P_PLAYS = 0.68
"""Otherwise each plays with this probability, at least one does."""
P_OFFSCREEN = (0.55, 0.3, 0.15)
"""Voices of unseen kinds beside them: none, one, two. In a foreign clip at least one."""
P_ALWAYS = 0.28
"""A voice sounds from beginning to end."""
P_TOGETHER = 0.4
"""Two voices of one kind enter together."""
LEVELS = (0.02, 0.04, 0.08)
"""Root mean square of a voice."""
RATES = (1.5, 3.0, 6.0)
"""Strokes per second."""
SPREAD = 0.08
"""Largest deviation from a level or a rate, as a share: two of different levels differ by 1.7 times or more."""


@dataclass(frozen=True)
class Instrument:
    """An instrument on the stage.

    Attributes:
        kind, size: what it is; a scene never holds two of the same kind and size.
        place: left, middle or right.
        x, y: centre, shares of the picture's side, to the right and down.
    """

    kind: str
    size: str
    place: str
    x: float
    y: float

    @property
    def column(self) -> int:
        """0 for left, 1 for middle, 2 for right."""
        return PLACES.index(self.place)

    @property
    def radius(self) -> float:
        """Share of the picture's side."""
        return RADIUS[self.size]


@dataclass(frozen=True)
class Stage:
    """What is seen: the instruments and the room, indoor or outdoor."""

    instruments: tuple[Instrument, ...]
    room: str


@dataclass(frozen=True)
class Voice:
    """What is heard of one instrument, seen or not.

    Attributes:
        kind, size: of the instrument.
        start, end: seconds; it sounds in the seconds start, ..., end - 1.
        loudness: root mean square while it sounds, of a full scale of 1.
        rhythm: strokes per second.
    """

    kind: str
    size: str
    start: int
    end: int
    loudness: float
    rhythm: float


@dataclass(frozen=True)
class Concert:
    """A whole scene: `stage` is the picture's share of the truth, `voices` the sound's, `kinds` those of the world."""

    stage: Stage
    voices: tuple[Voice, ...]
    seconds: int
    kinds: tuple[str, ...]

    @property
    def step(self) -> int:
        """Seconds, the unit of the schedule and the margin of questions about order."""
        return step_of(self.seconds)

    @cached_property
    def playing(self) -> tuple[Voice | None, ...]:
        """The voice of each instrument on the stage, None for a silent one."""
        by_name = {(voice.kind, voice.size): voice for voice in self.voices}
        return tuple(by_name.get((thing.kind, thing.size)) for thing in self.stage.instruments)

    @cached_property
    def offscreen(self) -> tuple[Voice, ...]:
        """The voices of kinds that are not on the stage."""
        seen = {thing.kind for thing in self.stage.instruments}
        return tuple(voice for voice in self.voices if voice.kind not in seen)


def step_of(seconds: int) -> int:
    """Seconds of a step of the schedule: a tenth of the clip."""
    return max(1, seconds // 10)


def scene_rng(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose of one scene; independent of all others.

    Raises:
        UsageError: an unknown split.
    """
    if split not in SPLITS:
        raise UsageError(f"split {split!r}: allowed are {', '.join(SPLITS)}.")
    return np.random.default_rng((4, seed, SPLITS.index(split), index, purpose))


def plan_concert(
    seed: int, split: str, index: int, kinds: Sequence[str], seconds: tuple[int, int] = (10, 10)
) -> Concert:
    """The plan of one scene; the same arguments give the same plan.

    Args:
        seed, split, index: which.
        kinds: the world's, 7 or more names.
        seconds: shortest and longest length; drawn uniformly.
    """
    rng = scene_rng(seed, split, index, 0)
    length = int(rng.integers(seconds[0], seconds[1] + 1))
    stage = plan_picture(rng, kinds)
    return Concert(stage, plan_sound(rng, stage, kinds, length), length, tuple(kinds))


def plan_picture(rng: np.random.Generator, kinds: Sequence[str]) -> Stage:
    """What is seen."""
    n = int(rng.choice(list(P_VISIBLE), p=list(P_VISIBLE.values())))
    names = [str(name) for name in rng.permutation(kinds)[:n]]
    if n >= 2 and rng.random() < P_PAIR:
        names[1] = names[0]
        if n == 4 and rng.random() < P_SECOND_PAIR:
            names[3] = names[2]
    sizes = [SIZES[int(rng.integers(2))] for _ in range(n)]
    for k in range(1, n):
        if names[k] == names[k - 1]:
            sizes[k] = SIZES[1 - SIZES.index(sizes[k - 1])]
    columns = [int(c) for c in rng.permutation(3)[:n]]
    if n == 4:
        columns.append(int(rng.integers(3)))
    order = rng.permutation(n)  # so that a doubled column holds any two
    instruments = []
    for k in range(n):
        column = columns[int(order[k])]
        x = (1 / 6, 1 / 2, 5 / 6)[column] + rng.uniform(-0.012, 0.012)
        alone = columns.count(column) == 1
        y = rng.uniform(0.38, 0.68) if alone else (0.27, 0.72)[int(order[k]) == 3] + rng.uniform(-0.03, 0.03)
        instruments.append(Instrument(names[k], sizes[k], PLACES[column], round(float(x), 4), round(float(y), 4)))
    return Stage(tuple(instruments), ROOMS[int(rng.integers(2))])


def plan_sound(rng: np.random.Generator, stage: Stage, kinds: Sequence[str], seconds: int) -> tuple[Voice, ...]:
    """What is heard, given what is seen. The schedule depends on nothing but which kinds and sizes sound."""
    things = stage.instruments
    foreign = rng.random() < P_FOREIGN[len(things)]
    plays = np.zeros(len(things), bool) if foreign else rng.random(len(things)) < P_PLAYS
    if not foreign and not plays.any():
        plays[rng.integers(len(things))] = True
    others = int(rng.choice(len(P_OFFSCREEN), p=P_OFFSCREEN))
    if foreign:
        others = max(1, others)
    seen = {thing.kind for thing in things}
    absent = [kind for kind in kinds if kind not in seen]
    heard = [(thing.kind, thing.size) for thing, on in zip(things, plays, strict=True) if on]
    heard += [(str(kind), SIZES[int(rng.integers(2))]) for kind in rng.permutation(absent)[:others]]
    heard = [heard[int(k)] for k in rng.permutation(len(heard))]  # the order must not tell who is unseen
    return _schedule(rng, heard, seconds)


def _schedule(rng: np.random.Generator, heard: list[tuple[str, str]], seconds: int) -> tuple[Voice, ...]:
    """When, how loud and how fast each of the voices sounds."""
    step = step_of(seconds)
    steps = seconds // step
    free = [int(s) for s in rng.permutation(np.arange(1, steps - 2))]  # different entrances as long as there are any
    spans: dict[tuple[str, str], tuple[int, int]] = {}
    for kind, size in heard:
        partner = next((spans[name] for name in spans if name[0] == kind), None)
        if partner is not None and rng.random() < P_TOGETHER:
            start = partner[0] // step
        else:
            start = 0 if rng.random() < P_ALWAYS else free.pop()
        longest = steps - start
        if start == 0 and not rng.random() < 0.2:
            spans[kind, size] = (0, seconds)
            continue
        duration = int(rng.integers(2, max(2, min(longest, steps - 2)) + 1))
        spans[kind, size] = (start * step, (start + duration) * step)
    return tuple(Voice(kind, size, *spans[kind, size], _about(rng, LEVELS), _about(rng, RATES)) for kind, size in heard)


def _about(rng: np.random.Generator, values: Sequence[float]) -> float:
    """One of some values, a little off."""
    value = values[int(rng.integers(len(values)))]
    return round(float(value * (1 + rng.uniform(-SPREAD, SPREAD))), 5)
