"""One scene, planned: who is there, how they move, who sounds when. Nothing is rendered here.

Every draw comes from a generator seeded by (seed, split, index, what it is for). The picture, the schedule and the
sound have generators of their own, and the schedule's law depends on the number of visible objects alone: given the
picture, who sounds still has exactly the law of `schedule.py`. The size in pixels enters no draw: a scene is the same
at any size.

Why one second cannot solve the hard world. There the pitch of object i in second t is

    theta_i(t) = u_i - a * y_i(t + 15/16)   (turns of the pitch circle, y downwards),     u_i uniform on the circle,

with one offset u_i per object and one scale a per clip, held constant within the second. Whatever the heights y and the
set of sounding objects, the phases theta_i(t) of ONE second are independent and uniform, because the u_i are, and a
uniform shift of a circle is uniform. So (picture, sound of one second) tells how many look-alikes of a class sound, but
which of them is independent of it: any fusion that works second by second is bound by `per_second_oracle` of
`ceiling.py`. Over several seconds u_i cancels, and theta_i(t) - theta_i(s) = -a (y_i(t) - y_i(s)) names the object.
(With the published log-mel framing an example also holds some of a neighbouring second, see `data/logmel.py`.)

Why one second cannot solve the world of bursts. In a burst the whole second of sound is noise whose law depends on
nothing: what sounds there must come from another second, and as the sounding set is kept through the clip, any other
second without a burst tells it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.looks import Look, draw_look
from crossmamba.data.synth.schedule import draw_schedule
from crossmamba.data.synth.worlds import SPLITS, World
from crossmamba.errors import UsageError

FRAME_OF_SECOND = 15 / 16
"""Second t is shown by the frame at t + 15/16 s: the 16th of 16 frames a second, as AVSBench samples (spec §2.5)."""

_PICTURE, _SCHEDULE, _SOUND, _BACKGROUND, _NOISE, _BURSTS = range(6)  # the last number of a generator's seed
_CANDIDATES = 200  # layouts drawn at once, of which the first good one is taken


@dataclass(frozen=True)
class Motion:
    """A path: straight drift, and a slow vertical oscillation in some worlds. Positions are shares of the side."""

    start: tuple[float, float]
    velocity: tuple[float, float]
    swing: float
    period: float
    swing_phase: float
    angle: float
    spin: float

    def position(self, time: float | NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Centre (x, y) at a time in seconds; y points down. Objects stop at the border."""
        wave = self.swing * np.sin(2 * np.pi * np.asarray(time) / self.period + self.swing_phase)
        x = np.clip(self.start[0] + self.velocity[0] * np.asarray(time), 0.1, 0.9)
        y = np.clip(self.start[1] + self.velocity[1] * np.asarray(time) + wave, 0.1, 0.9)
        return x, y


@dataclass(frozen=True)
class SceneObject:
    """A visible object. Later objects of a plan are painted over earlier ones.

    Attributes:
        class_index: position in `CLASS_NAMES`.
        instance: 0, 1, ... among the scene's objects of the same class.
        look, radius, motion: how it looks and moves.
    """

    class_index: int
    instance: int
    look: Look
    radius: float
    motion: Motion


@dataclass(frozen=True)
class Voice:
    """Somebody who may sound.

    Attributes:
        class_index: position in `CLASS_NAMES`.
        gain: loudness.
        sounding: bool per second.
        pitch: turns of the pitch circle per second, or None for a voice of fixed pitch.
        key: seeds the voice's own generator.
    """

    class_index: int
    gain: float
    sounding: tuple[bool, ...]
    pitch: tuple[float, ...] | None
    key: tuple[int, ...]


@dataclass(frozen=True)
class ScenePlan:
    """All that is decided before rendering. `voices[k]` belongs to `objects[k]`; `offscreen` has no object.

    `bursts`: the seconds in which noise stands in place of all voices.
    """

    world: World
    seed: int
    split: str
    index: int
    seconds: int
    objects: tuple[SceneObject, ...]
    voices: tuple[Voice, ...]
    offscreen: tuple[Voice, ...]
    bursts: tuple[bool, ...]

    def background_rng(self) -> np.random.Generator:
        """The generator of the background and the light."""
        return _rng(self.seed, self.split, self.index, _BACKGROUND)

    def noise_rng(self) -> np.random.Generator:
        """The generator of the noise floor."""
        return _rng(self.seed, self.split, self.index, _NOISE)


def _key(seed: int, split: str, index: int, purpose: int) -> tuple[int, ...]:
    return (seed, SPLITS.index(split), index, purpose)


def _rng(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng(_key(seed, split, index, purpose))


def plan_scene(world: World, seed: int, split: str, index: int, seconds: int) -> ScenePlan:
    """Draws a scene.

    Args:
        world: the settings.
        seed: of the data set, 0 or more.
        split: train, val or test; each has scenes of its own.
        index: of the clip in the split.
        seconds: length of the clip.

    Raises:
        UsageError: an unknown split, or a negative seed or index, or no seconds.
    """
    if split not in SPLITS or seed < 0 or index < 0 or seconds < 1:
        raise UsageError(
            f"scene (seed {seed}, split {split!r}, index {index}, {seconds} s): seed and index are 0 or more, "
            f"seconds 1 or more, and the splits are {', '.join(SPLITS)}."
        )
    objects = _draw_objects(_rng(seed, split, index, _PICTURE), world, seconds)
    law = world.size_law[len(objects)]
    sounding = draw_schedule(_rng(seed, split, index, _SCHEDULE), law, seconds, world.persistence)
    sound_key = _key(seed, split, index, _SOUND)
    voices, offscreen = _draw_voices(np.random.default_rng(sound_key), world, objects, sounding, sound_key)
    bursts = tuple(bool(v) for v in _rng(seed, split, index, _BURSTS).random(seconds) < world.burst_rate)
    return ScenePlan(world, seed, split, index, seconds, objects, voices, offscreen, bursts)


def _draw_objects(rng: np.random.Generator, world: World, seconds: int) -> tuple[SceneObject, ...]:
    n = int(rng.choice(world.n_visible, p=world.p_visible))
    wanted = int(rng.integers(world.lookalikes[0], world.lookalikes[1] + 1))
    alike = max(1, min(n - 1, wanted))  # at least one object is of another class
    order = [int(c) for c in rng.permutation(world.n_classes)]
    classes = [order[0]] * alike + order[1 : n - alike + 1]
    looks = [draw_look(rng, c, world) for c in classes]
    radii = rng.uniform(*world.radius, n)
    decoys = rng.random(n) < world.decoy_rate
    for k in range(1, n):
        if k < alike:
            looks[k], radii[k] = looks[0], radii[0]
        elif decoys[k]:
            looks[k] = replace(looks[k], colour=looks[0].colour, mark=looks[0].mark)
    motions = _draw_motions(rng, world, radii, alike, seconds)
    objects = [
        SceneObject(c, k if k < alike else 0, looks[k], float(radii[k]), motions[k]) for k, c in enumerate(classes)
    ]
    return tuple(objects[k] for k in rng.permutation(n))  # so that the look-alikes are not always at the back


def _draw_motions(
    rng: np.random.Generator, world: World, radii: NDArray[np.float64], alike: int, seconds: int
) -> list[Motion]:
    """Paths that keep the world's distance and, among look-alikes, rise and sink differently.

    Of `_CANDIDATES` draws the first that satisfies both is taken, else the best.
    """
    n, draws = len(radii), _CANDIDATES
    start = rng.uniform(0.12, 0.88, (draws, n, 2))
    velocity = rng.uniform(-world.speed, world.speed, (draws, n, 2))
    swing = rng.uniform(*world.swing, (draws, n))
    if world.swing[1] > 0:  # the oscillation needs room above and below, and is then the only vertical motion
        start[..., 1] = 0.1 + swing + (0.8 - 2 * swing) * rng.random((draws, n))
        velocity[..., 1] = 0
    period = rng.uniform(*world.swing_period, (draws, n))
    phase = rng.uniform(0, 2 * np.pi, (draws, n))
    angle, spin = rng.uniform(-0.5, 0.5, n), rng.uniform(-world.spin, world.spin, n)

    time = np.arange(0, seconds + 0.25, 0.5)[:, None]  # (times, 1), against (draws, 1, n)
    x = np.clip(start[:, None, :, 0] + velocity[:, None, :, 0] * time, 0.1, 0.9)
    wave = swing[:, None] * np.sin(2 * np.pi * time / period[:, None] + phase[:, None])
    y = np.clip(start[:, None, :, 1] + velocity[:, None, :, 1] * time + wave, 0.1, 0.9)
    good = np.full(draws, np.inf)
    for a in range(n):
        for b in range(a):
            gap = np.hypot(x[..., a] - x[..., b], y[..., a] - y[..., b]).min(1) / (radii[a] + radii[b])
            good = np.minimum(good, gap / world.min_gap)
            if a < alike and world.pitch_follows_height:
                difference = (y[..., a] - y[..., b]).std(1)
                good = np.minimum(good, difference / world.swing[0])
    best = int(np.argmax(good >= 1)) if (good >= 1).any() else int(np.argmax(good))
    return [
        Motion(
            (float(start[best, k, 0]), float(start[best, k, 1])),
            (float(velocity[best, k, 0]), float(velocity[best, k, 1])),
            float(swing[best, k]),
            float(period[best, k]),
            float(phase[best, k]),
            float(angle[k]),
            float(spin[k]),
        )
        for k in range(n)
    ]


def _draw_voices(
    rng: np.random.Generator,
    world: World,
    objects: tuple[SceneObject, ...],
    sounding: NDArray[np.bool_],
    key: tuple[int, ...],
) -> tuple[tuple[Voice, ...], tuple[Voice, ...]]:
    """The objects' voices, and in some scenes an off-screen one of an absent class, on in half of the seconds."""
    seconds = len(sounding)
    scale = float(rng.uniform(*world.pitch_scale))
    frames = np.arange(seconds) + FRAME_OF_SECOND
    voices = []
    for k, thing in enumerate(objects):
        gain, offset = float(rng.uniform(*world.gain)), float(rng.random())
        heights = thing.motion.position(frames)[1]
        on = tuple(bool(v) for v in sounding[:, k])
        voices.append(Voice(thing.class_index, gain, on, _pitch(world, offset, scale, heights), (*key, k)))
    absent = sorted(set(range(world.n_classes)) - {thing.class_index for thing in objects})
    heard, which = rng.random() < world.offscreen_rate, rng.random()
    gain, offset, on_air = float(rng.uniform(*world.gain)), float(rng.random()), rng.random(seconds) < 0.5
    ghost = 0.5 + 0.2 * np.sin(2 * np.pi * frames / rng.uniform(*world.swing_period) + rng.uniform(0, 2 * np.pi))
    if not heard or not absent:
        return tuple(voices), ()
    on = tuple(bool(v) for v in on_air)
    pitch = _pitch(world, offset, scale, ghost)
    voice = Voice(absent[int(which * len(absent))], gain, on, pitch, (*key, len(objects)))
    return tuple(voices), (voice,)


def _pitch(world: World, offset: float, scale: float, heights: NDArray[np.floating]) -> tuple[float, ...] | None:
    """The pitch of each second, turns in [0, 1): higher in the picture is higher in the band."""
    if not world.pitch_follows_height:
        return None
    return tuple(float(v) for v in (offset - scale * heights) % 1)
