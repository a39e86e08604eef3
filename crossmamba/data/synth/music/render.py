"""A planned concert as pictures and sound.

Instruments sway round their place, playing or not: the picture never tells who plays.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.looks import look_of, rgb
from crossmamba.data.synth.music.instruments import HUE_JITTER, KIND, hue_of, sing
from crossmamba.data.synth.music.scene import Concert
from crossmamba.data.synth.render import draw_object
from crossmamba.data.synth.voices import SAMPLE_RATE

FPS = 8
"""Frames per second."""
SWAY = 0.012
"""Share of the side by which an instrument moves to either side of its place."""
TILT = 0.12
"""Radians by which it tilts."""
FLOOR_NOISE = 0.001
"""Largest root mean square of the noise in the room."""
HORIZON = (0.42, 0.62)
"""Where the floor or the meadow begins, from the top."""


class ConcertPicture:
    """The moving picture of a concert.

    Args:
        concert: the scene.
        size: side in pixels.
        rng: draws colours, sway and background.
    """

    def __init__(self, concert: Concert, size: int, rng: np.random.Generator) -> None:
        self.concert, self.size = concert, size
        things = concert.stage.instruments
        self._sway = rng.uniform(0, 2 * np.pi, (len(things), 3))
        self._rates = rng.uniform(0.15, 0.5, (len(things), 3))
        self._looks = [
            look_of(
                rng, KIND[t.kind].shape, KIND[t.kind].texture, hue_of(t.kind) + rng.uniform(-HUE_JITTER, HUE_JITTER)
            )
            for t in things
        ]
        self._background = (_indoor if concert.stage.room == "indoor" else _outdoor)(rng, size)

    def centres(self, time: float) -> NDArray[np.float64]:
        """Where the instruments are, float64 (instruments, 2): to the right and down, shares of the side."""
        at = np.array([(t.x, t.y) for t in self.concert.stage.instruments])
        swing = np.sin(2 * np.pi * self._rates[:, :2] * time + self._sway[:, :2])
        return np.asarray(at + SWAY * swing)

    def at(self, time: float) -> NDArray[np.uint8]:
        """The frame uint8 (S, S, 3) at a time in seconds."""
        image = self._background.copy()
        tilts = TILT * np.sin(2 * np.pi * self._rates[:, 2] * time + self._sway[:, 2])
        for k, (x, y) in enumerate(self.centres(time)):
            radius = self.concert.stage.instruments[k].radius
            draw_object(image, self._looks[k], (float(x), float(y)), radius, float(tilts[k]))
        return np.clip(image * np.float32(255), 0, 255).astype(np.uint8)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """All frames of the video, `FPS` a second; frame f shows the moment f / FPS."""
        for f in range(FPS * self.concert.seconds):
            yield self.at(f / FPS)


def _blend(size: int, horizon: float) -> NDArray[np.float32]:
    """1 below the horizon, 0 above, float32 (S, 1, 1)."""
    down = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.clip((down - np.float32(horizon)) * size + 0.5, 0, 1)[:, None, None].astype(np.float32)


def _grain(rng: np.random.Generator, size: int, amount: float) -> NDArray[np.float32]:
    return (1 + np.float32(amount) * (rng.random((size, size, 1), dtype=np.float32) - 0.5)).astype(np.float32)


def _indoor(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A greyish wall with a panel pattern over a floor of boards; float32 (S, S, 3) in [0, 1]."""
    tint = rgb(rng.uniform(0, 360), rng.uniform(0.03, 0.15), rng.uniform(0.45, 0.7))
    floor = rgb(rng.uniform(20, 40), rng.uniform(0.15, 0.35), rng.uniform(0.25, 0.4))
    below = _blend(size, rng.uniform(*HORIZON))
    across = np.arange(size, dtype=np.float32)[None, :, None] / size
    panels = 1 - 0.18 * (np.sin(2 * np.pi * (rng.integers(3, 6) * across + rng.random())) > 0.85)
    boards = 1 - 0.25 * ((np.arange(size)[:, None, None] * 64 // size) % 5 == 0)
    image = np.asarray(tint, np.float32) * panels * (1 - below) + np.asarray(floor, np.float32) * boards * below
    return (image * _grain(rng, size, 0.1)).astype(np.float32)


def _outdoor(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """A sky that pales towards the horizon over a rough meadow; float32 (S, S, 3) in [0, 1]."""
    sky = rgb(rng.uniform(195, 225), rng.uniform(0.1, 0.35), rng.uniform(0.7, 0.9))
    meadow = rgb(rng.uniform(70, 120), rng.uniform(0.2, 0.4), rng.uniform(0.25, 0.45))
    below = _blend(size, rng.uniform(*HORIZON))
    pale = np.linspace(0, 0.6, size, dtype=np.float32)[:, None, None]
    above = np.asarray(sky, np.float32) * (1 - pale) + pale * np.float32(0.92)
    image = above * (1 - below) + np.asarray(meadow, np.float32) * _grain(rng, size, 0.7) * below
    return (image * _grain(rng, size, 0.05)).astype(np.float32)


def render_sound(concert: Concert, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The mixed sound and each voice's loudness.

    Args:
        concert: the scene.
        rng: draws pitches, strokes and noise.

    Returns:
        float32 (seconds * 16000,) mono in [-1, 1], and float64 (voices, seconds), the root mean square of each second.
    """
    n = concert.seconds * SAMPLE_RATE
    mix = np.float32(FLOOR_NOISE * rng.random()) * rng.standard_normal(n, dtype=np.float32)
    loudness = np.zeros((len(concert.voices), concert.seconds))
    for k, voice in enumerate(concert.voices):
        wave = sing(voice.kind, voice.size, voice.rhythm, voice.loudness, voice.end - voice.start, rng)
        fade = np.minimum(1, np.minimum(np.arange(len(wave)), np.arange(len(wave))[::-1]) / (0.01 * SAMPLE_RATE))
        wave *= fade.astype(np.float32)  # against clicks
        mix[voice.start * SAMPLE_RATE : voice.end * SAMPLE_RATE] += wave
        loudness[k, voice.start : voice.end] = np.sqrt(np.mean(wave.reshape(-1, SAMPLE_RATE) ** 2, 1))
    return np.clip(mix, -1, 1), loudness
