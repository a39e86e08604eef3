"""What a class sounds like: band x rhythm. All signals are mono at 16 kHz, float32, about [-1, 1].

Two families. A *fixed* voice (default world) has the pitch of its class, a little different in every clip. A *contour*
voice (hard world) has the band and rhythm of its class, and a pitch that the scene sets for every second, on a circle.

The pitch circle. A contour voice at phase theta has partials at `REFERENCE * 4^(theta + k)` Hz for every whole k,
weighted by a bell over absolute frequency that belongs to the class (a Shepard tone with steps of two octaves). theta
and theta + 1 are the same sound, so a pitch phase with a uniform offset carries no information on anything but its own
changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Hz."""
CIRCLE = 4.0
"""Frequency ratio of one turn of the pitch circle: two octaves."""
REFERENCE = 110.0
"""Hz of the partial k = 0 at theta = 0."""
AUDIBLE = (40.0, 7680.0)
"""Hz, the range that holds partials."""
RAMP = 0.01
"""Seconds before and after a boundary of seconds in which voices fade and pitches glide, against clicks."""

Wave = NDArray[np.float32]
Times = NDArray[np.float64]


def cycles_of(frequency: float | NDArray[np.float64], t: Times) -> Times:
    """Phase in cycles of an oscillator with a constant or sampled frequency in Hz."""
    if isinstance(frequency, np.ndarray):
        return np.cumsum(frequency) / SAMPLE_RATE
    return frequency * t


def tones(cycles: Times, partials: Sequence[tuple[float, float]]) -> Wave:
    """Sum of sines at multiples of a phase; `partials` are (multiple, amplitude)."""
    turn = np.float32(2 * np.pi)
    whole = (cycles % 1).astype(np.float32)  # reduced in float64, so that float32 sines stay exact in long clips
    out = np.zeros(len(cycles), np.float32)
    for multiple, amplitude in partials:
        phase = (
            whole * np.float32(multiple) if multiple == int(multiple) else (cycles * multiple % 1).astype(np.float32)
        )
        out += np.float32(amplitude) * np.sin(turn * phase)
    return out


def sine(t: Times, rate: float, phase: float = 0.0) -> Wave:
    """A slow sine, for rhythms; `phase` in radians."""
    return np.sin(2 * np.pi * (rate * t % 1).astype(np.float32) + np.float32(phase))


def strokes(t: Times, rate: float, decay: float, phase: float) -> Wave:
    """Strokes at `rate` Hz that die away with `decay` per second; `phase` in strokes."""
    since = ((t * rate + phase) % 1 / rate).astype(np.float32)
    return np.exp(-np.float32(decay) * since)


def noise(rng: np.random.Generator, n: int) -> Wave:
    """White noise of n samples, deviation 1."""
    return rng.standard_normal(n, dtype=np.float32)


Draw = NDArray[np.float64]  # six uniforms in [0, 1) that make one object's voice differ from another of its class


def _bell(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    cycles = cycles_of(900 + 200 * u[0], t)
    return tones(cycles, ((1, 0.5), (2.76, 0.3), (3.24, 0.2))) * strokes(t, 2 + u[1], 6, u[5])


def _drum(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    skin = tones(cycles_of(70 + 40 * u[0], t), ((1, 0.7), (2, 0.25))) + 0.08 * noise(rng, len(t))
    return skin * strokes(t, 3 + 2 * u[1], 9, u[5])


def _horn(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    vibrato = (200 + 60 * u[0]) * (1 + 0.004 * sine(t, 5).astype(np.float64))
    return tones(cycles_of(vibrato, t), [(h, 0.5 / h) for h in range(1, 9)])


def _whistle(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    warble = (2200 + 600 * u[0]) * (1 + 0.02 * sine(t, 5 + 2 * u[1]).astype(np.float64))
    return tones(cycles_of(warble, t), ((1, 0.6),))


def _buzz(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    wings = tones(cycles_of(115 + 30 * u[0], t), [(h, 0.4 / h**0.6) for h in range(1, 27, 2)])
    return 0.7 * wings * (0.6 + 0.4 * sine(t, 25 + 10 * u[1]))


def _chirp(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    within = (t * (2.5 + u[0]) + u[5]) % 1
    sweep = tones(cycles_of(1500 + (2500 + 800 * u[1]) * within, t), ((1, 0.6),))
    return sweep * np.sqrt(np.sin(np.pi * within)).astype(np.float32)


def _hiss(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    bright = np.diff(noise(rng, len(t) + 2), n=2)  # twice differenced: white noise tilted to the high bands
    return 0.25 * bright * (0.65 + 0.35 * sine(t, 1.5 + u[1], 6 * u[2]))


def _siren(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    wail = 650 + 200 * sine(t, 0.8 + 0.5 * u[0], 6 * u[1]).astype(np.float64)
    return tones(cycles_of(wail, t), ((1, 0.5), (2, 0.15), (3, 0.1)))


def _tick(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    return noise(rng, len(t)) * strokes(t, 7 + 2 * u[0], 120, u[5])


def _flute(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    return tones(cycles_of(480 + 80 * u[0], t), ((1, 0.6), (2, 0.2))) * (0.55 + 0.45 * sine(t, 6 + 2 * u[1]))


def _engine(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    thumps = tones(cycles_of(60 + 25 * u[0], t), [(h, 0.4) for h in (1, 3, 4, 6, 9)])
    return 0.7 * thumps * (0.55 + 0.45 * sine(t, 1.5, 6 * u[1]))


def _organ(t: Times, u: Draw, rng: np.random.Generator) -> Wave:
    chord = tones(cycles_of(1300 + 300 * u[0], t), ((1, 0.4), (1.5, 0.3), (2, 0.25)))
    return chord * ((t * 4 + u[5]) % 1 < 0.5)


FIXED_VOICES: tuple[Callable[[Times, Draw, np.random.Generator], Wave], ...] = (
    _bell,
    _drum,
    _horn,
    _whistle,
    _buzz,
    _chirp,
    _hiss,
    _siren,
    _tick,
    _flute,
    _engine,
    _organ,
)
"""Voice of each class, in the order of `CLASS_NAMES`."""

CONTOUR_BANDS = (900.0, 250.0, 600.0, 3200.0, 350.0, 2300.0, 3700.0, 1300.0, 1800.0, 900.0, 1100.0, 500.0)
"""Hz, the middle of each class's band where the scene sets the pitch; far apart for classes of the same rhythm."""
BAND_WIDTH = 0.8
"""Octaves, one standard deviation of that band."""


def _rhythm(class_index: int, t: Times, u: Draw) -> Wave:
    """Loudness over time of a contour voice: classes c and c + 6 share a rhythm and differ in band."""
    match class_index % 6:
        case 0:
            return strokes(t, 2 + u[1], 6, u[5])
        case 1:
            return strokes(t, 4 + 2 * u[1], 9, u[5])
        case 2:
            return np.ones(len(t), np.float32)
        case 3:
            return 0.6 + 0.4 * sine(t, 6 + 2 * u[1], 6 * u[2])
        case 4:
            return 0.6 + 0.4 * sine(t, 25 + 10 * u[1], 6 * u[2])
        case _:
            return np.sqrt(np.sin(np.pi * ((t * (2.5 + u[0]) + u[5]) % 1))).astype(np.float32)


def fixed_voice(class_index: int, rng: np.random.Generator, seconds: int) -> Wave:
    """A voice of the class with its own pitch, float32 (seconds * 16000,)."""
    return FIXED_VOICES[class_index](_times(seconds), rng.random(6), rng).astype(np.float32)


def contour_voice(class_index: int, rng: np.random.Generator, pitch: NDArray[np.float64]) -> Wave:
    """A voice in the class's band and rhythm whose pitch is given for every second.

    Args:
        class_index: position in `CLASS_NAMES`.
        rng: draws rhythm and breath.
        pitch: float64 (seconds,), turns of the pitch circle; held for the second, with glides of 2 `RAMP` between.

    Returns:
        float32 (seconds * 16000,).
    """
    u, t = rng.random(6), _times(len(pitch))
    theta = _nearest_turns(pitch)
    turns = np.log(np.asarray(AUDIBLE) / REFERENCE) / np.log(
        CIRCLE
    )  # where the audible range lies on the circle's spiral
    out = 0.03 * noise(rng, len(t))
    for k in range(int(np.ceil(turns[0] - theta.max())), int(np.floor(turns[1] - theta.min())) + 1):
        frequency = REFERENCE * CIRCLE ** (theta + k)
        octaves_off = np.log2(frequency / CONTOUR_BANDS[class_index])
        weight = np.exp(-0.5 * (octaves_off / BAND_WIDTH) ** 2) * (frequency > AUDIBLE[0]) * (frequency < AUDIBLE[1])
        if weight.max() > 0.01:
            out += hold(weight, t).astype(np.float32) * tones(cycles_of(hold(frequency, t), t), ((1, 0.6),))
    return out * _rhythm(class_index, t, u)


def _nearest_turns(pitch: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same pitches, each moved by whole turns next to the one before: glides take the short way."""
    steps = np.diff(pitch)
    return pitch[0] + np.concatenate([[0.0], np.cumsum(steps - np.round(steps))])


def hold(values: NDArray[np.float64], t: Times) -> NDArray[np.float64]:
    """One value a second as a function of time: held, and straight within `RAMP` of the boundaries.

    Args:
        values: (seconds,).
        t: (n,) times in seconds.
    """
    seconds = np.arange(len(values))
    knots = np.stack([seconds + RAMP, seconds + 1 - RAMP], 1).ravel()
    return np.interp(t, knots, np.repeat(values, 2))


def _times(seconds: int) -> Times:
    return np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
