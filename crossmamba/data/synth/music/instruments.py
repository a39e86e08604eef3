"""The 22 instruments of the concert world: each has a look and a voice, and comes in two sizes.

The names are MUSIC-AVQA's; the looks and voices are inventions that a small model can tell apart, not imitations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.voices import SAMPLE_RATE, Times, cycles_of, noise, sine, tones
from crossmamba.errors import UsageError

SIZES = ("large", "small")
"""A large instrument is drawn larger and sounds deeper: the only thing by which two of a kind can be told apart."""
RADIUS = {"large": 0.15, "small": 0.09}
"""Share of the picture's side."""
REGISTER = {"large": 2 / 3, "small": 3 / 2}
"""Pitch as a multiple of the kind's: the two sizes lie more than an octave apart."""
PITCH_JITTER = 0.04
"""Largest deviation of an instance's pitch, as a share."""
HUE_STEP = 137.508
"""Degrees between the hues of one kind and the next (golden angle: any first few are far apart)."""
HUE_JITTER = 9.0
"""Largest deviation of an instance's hue, degrees."""
HIGHEST = 7400.0
"""Hz above which no partial sounds: the sound has 16 kHz."""

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """A kind of instrument.

    Attributes:
        name: official.
        shape, texture: positions in `looks.SHAPES` and `looks.TEXTURES`.
        pitch: Hz, of an instrument of middling size.
        partials: (multiple, amplitude) of the tone.
        breath: share of noise.
        plucked: strokes that die away; otherwise bowed or blown strokes that swell and fade.
        vibrato: depth, as a share of the pitch.
    """

    name: str
    shape: int
    texture: int
    pitch: float
    partials: tuple[tuple[float, float], ...]
    breath: float = 0.0
    plucked: bool = False
    vibrato: float = 0.0


def _series(*amplitudes: float) -> tuple[tuple[float, float], ...]:
    return tuple((float(h), a) for h, a in enumerate(amplitudes, 1))


_SAW = _series(*(1 / h for h in range(1, 9)))
_ODD = tuple((float(h), h**-0.7) for h in (1, 3, 5, 7))
_FLAT = _series(0.6, 1, 1, 0.8, 0.7, 0.6, 0.4)

KINDS: tuple[Kind, ...] = (
    Kind("accordion", 4, 0, 210, ((1, 1), (1.03, 1), (2, 0.4), (2.06, 0.4), (3, 0.5))),
    Kind("cello", 9, 1, 110, _SAW, vibrato=0.01),
    Kind("drum", 0, 0, 75, ((1, 1), (1.6, 0.5)), breath=0.35, plucked=True),
    Kind("flute", 10, 0, 850, ((1, 1), (2, 0.15)), breath=0.08),
    Kind("piano", 1, 3, 330, _series(1, 0.5, 0.25, 0.12), plucked=True),
    Kind("trumpet", 2, 0, 300, _FLAT),
    Kind("violin", 11, 2, 620, _SAW, vibrato=0.02),
    Kind("xylophone", 5, 0, 1300, ((1, 1), (2.76, 0.5)), plucked=True),
    Kind("acoustic_guitar", 7, 1, 165, _SAW, plucked=True),
    Kind("bagpipe", 3, 0, 450, ((0.5, 0.6), *_ODD)),
    Kind("banjo", 6, 2, 420, _FLAT, plucked=True),
    Kind("bassoon", 8, 1, 130, ((1, 0.5), (2, 1), (6, 0.8), (12, 0.6), (13, 0.6))),
    Kind("clarinet", 9, 0, 390, _ODD),
    Kind("congas", 0, 3, 190, ((1, 1), (1.5, 0.4)), breath=0.2, plucked=True),
    Kind("electric_bass", 7, 0, 70, ((1, 1), (4, 0.8), (9, 0.6)), plucked=True),
    Kind("erhu", 11, 1, 500, _series(1, 0.7, 0.6, 0.2), vibrato=0.04),
    Kind("guzheng", 1, 1, 740, _series(0.5, 0.2, 1, 0.2, 0.7), plucked=True),
    Kind("pipa", 2, 2, 1000, ((1, 1), (1.5, 1), (3.5, 1)), plucked=True),
    Kind("saxophone", 3, 1, 260, _series(1, 0.9, 0.7, 0.6, 0.3, 0.3), breath=0.1),
    Kind("suona", 6, 0, 950, _FLAT),
    Kind("tuba", 4, 3, 90, ((1, 1), (3, 0.9), (5, 0.7))),
    Kind("ukulele", 8, 0, 560, _series(1, 0.3), plucked=True),
)
"""All 22. The first eight, one of each shape and far apart in pitch and timbre, are the default world."""

KIND = {kind.name: kind for kind in KINDS}


def kinds_of_world(number: int) -> tuple[str, ...]:
    """Names of the first `number` kinds.

    Raises:
        UsageError: fewer than 7 (a scene may hold up to 6 kinds, and a question needs an absent one) or more than 22.
    """
    if not 7 <= number <= len(KINDS):
        raise UsageError(f"instruments={number}: a world has 7 to {len(KINDS)} kinds of instrument.")
    return tuple(kind.name for kind in KINDS[:number])


def hue_of(kind: str) -> float:
    """Degrees, the middle of a kind's hues."""
    return KINDS.index(KIND[kind]) * HUE_STEP % 360


def sing(kind: str, size: str, rhythm: float, loudness: float, seconds: int, rng: np.random.Generator) -> Wave:
    """A voice from its first to its last moment.

    Args:
        kind, size: whose.
        rhythm: strokes per second.
        loudness: root mean square of the whole.
        seconds: length.
        rng: draws pitch, phase of the strokes and breath.

    Returns:
        float32 (seconds * 16000,).
    """
    voice = KIND[kind]
    t: Times = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    pitch = voice.pitch * REGISTER[size] * (1 + rng.uniform(-PITCH_JITTER, PITCH_JITTER))
    phase = rng.random()
    cycles = cycles_of(pitch, t)
    if voice.vibrato:  # a slow swing of the pitch by +-vibrato is a swing of the phase by pitch vibrato / (2 pi rate)
        cycles = cycles + pitch * voice.vibrato / (2 * np.pi * 5.5) * sine(t, 5.5).astype(np.float64)
    wave = tones(cycles, [(m, a) for m, a in voice.partials if m * pitch < HIGHEST])
    if voice.breath:
        wave += np.float32(voice.breath * 2) * noise(rng, len(t))
    wave *= _stroke((t * rhythm + phase) % 1, voice.plucked)
    return (wave * np.float32(loudness / max(float(np.sqrt(np.mean(wave**2))), 1e-6))).astype(np.float32)


def _stroke(part: Times, plucked: bool) -> Wave:
    """Loudness within a stroke, `part` running from 0 to 1; both kinds leave a gap that the ear counts."""
    x = part.astype(np.float32)
    if plucked:
        return np.exp(np.float32(-3.5) * x) * np.minimum(x * np.float32(60), 1)
    return np.sqrt(np.maximum(np.sin(np.float32(np.pi) * x / np.float32(0.7)), 0)) * (x < np.float32(0.7))
