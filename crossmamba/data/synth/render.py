"""A planned scene as pictures, sound and truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.looks import EDGE, Look, paint
from crossmamba.data.synth.scene import FRAME_OF_SECOND, SceneObject, ScenePlan, Voice, plan_scene
from crossmamba.data.synth.truth import SceneTruth
from crossmamba.data.synth.voices import SAMPLE_RATE, contour_voice, fixed_voice, hold
from crossmamba.data.synth.worlds import World, get_world
from crossmamba.errors import UsageError

HEADROOM = 0.35  # several voices at full gain rarely reach full scale
BURST = np.float32(0.5)  # deviation of the noise in a burst: about as loud as two voices


@dataclass(frozen=True)
class Scene:
    """A rendered clip.

    Attributes:
        frames: uint8 (T, S, S, 3) RGB, second t at t + 15/16 s.
        object_ids: uint8 (T, S, S), 0 for background, k + 1 where object k of the truth is visible.
        waveform: float32 (T * 16000,) mono in [-1, 1), on the 16-bit grid, so a wav file holds exactly these values.
        truth: who is there and who sounds.
    """

    frames: NDArray[np.uint8]
    object_ids: NDArray[np.uint8]
    waveform: NDArray[np.float32]
    truth: SceneTruth

    def masks(self) -> NDArray[np.bool_]:
        """The pixels of the objects that sound, bool (T, S, S)."""
        return np.stack([sounding_mask(ids, self.truth.sounding[t]) for t, ids in enumerate(self.object_ids)])


def sounding_mask(object_ids: NDArray[np.uint8], sounding: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the sounding objects: ids (S, S) and sounding (n,) to bool (S, S)."""
    return np.concatenate([[False], sounding])[object_ids]


def render_scene(
    world: str | World, seed: int, split: str, index: int, size: int = 64, seconds: int | None = None
) -> Scene:
    """Renders one clip; the same arguments give the same clip, and another size the same scene.

    Args:
        world: name or settings.
        seed, split, index: which clip.
        size: side of the frames in pixels, 16 to 2048.
        seconds: length of the clip; None for the world's own.

    Raises:
        UsageError: an unknown world or split, or a size or number out of range.
    """
    world = get_world(world)
    plan = plan_scene(world, seed, split, index, world.seconds if seconds is None else seconds)
    return render_plan(plan, size)


def render_plan(plan: ScenePlan, size: int) -> Scene:
    """Renders a planned scene at `size` pixels a side (see `render_scene`)."""
    picture = Picture(plan, size)
    shots = [picture.at(t + FRAME_OF_SECOND) for t in range(plan.seconds)]
    object_ids = np.stack([ids for _, ids in shots])
    truth = SceneTruth.from_plan(plan, object_ids)
    return Scene(np.stack([frame for frame, _ in shots]), object_ids, render_waveform(plan), truth)


class Picture:
    """The moving picture of a scene: what does not change is made once, `at(time)` adds the objects.

    Args:
        plan: the scene.
        size: side in pixels.

    Raises:
        UsageError: a size outside 16 to 2048.
    """

    def __init__(self, plan: ScenePlan, size: int) -> None:
        if not 16 <= size <= 2048:
            raise UsageError(f"size {size}: frames are 16 to 2048 pixels a side.")
        self.plan, self.size = plan, size
        rng = plan.background_rng()
        self._light_rate, self._light_phase = rng.uniform(0.1, 0.4), rng.uniform(0, 2 * np.pi)
        self._background = _background(rng, size, plan.world.background_saturation)

    def at(self, time: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The frame uint8 (S, S, 3) and the object ids uint8 (S, S) at a time in seconds."""
        image = self._background.copy()
        ids = np.zeros((self.size, self.size), np.uint8)
        for k, thing in enumerate(self.plan.objects):
            self._draw(image, ids, thing, k + 1, time)
        light = 1 + 0.03 * np.sin(2 * np.pi * self._light_rate * time + self._light_phase)
        return np.clip(image * np.float32(255 * light), 0, 255).astype(np.uint8), ids

    def _draw(
        self, image: NDArray[np.float32], ids: NDArray[np.uint8], thing: SceneObject, number: int, time: float
    ) -> None:
        x, y = thing.motion.position(time)
        angle = thing.motion.angle + thing.motion.spin * time
        window, covered = draw_object(image, thing.look, (float(x), float(y)), thing.radius, angle)
        ids[window][covered] = number


def draw_object(
    image: NDArray[np.float32], look: Look, centre: tuple[float, float], radius: float, angle: float
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Paints an object into a picture, in place.

    Args:
        image: float32 (S, S, 3).
        look: of the object.
        centre: (to the right, down), as shares of the side.
        radius: as a share of the side.
        angle: of the object, radians.

    Returns:
        The window of the picture that was touched, and the pixels within that are the object's, bool (h, w).
    """
    size = image.shape[0]
    x, y, reach, pixels = centre[0] * size, centre[1] * size, EDGE * radius * size, radius * size
    left, top = max(0, int(x - reach)), max(0, int(y - reach))
    window = (slice(top, min(size, int(y + reach) + 2)), slice(left, min(size, int(x + reach) + 2)))
    down, right = np.mgrid[window].astype(np.float32) + np.float32(0.5)  # centres of the pixels
    cos, sin = np.float32(np.cos(angle) / pixels), np.float32(np.sin(angle) / pixels)
    right, down = right - np.float32(x), down - np.float32(y)
    coverage, colour = paint(look, cos * right + sin * down, cos * down - sin * right, pixels)
    image[window] += coverage[..., None] * (colour - image[window])
    return window, coverage > 0.5


def _background(rng: np.random.Generator, size: int, saturation: float) -> NDArray[np.float32]:
    """Two greyish colours blended by smooth noise, with fine grain; float32 (S, S, 3) in [0, 1]."""
    tints = 1 - rng.uniform(0, saturation, (2, 1)) * rng.random((2, 3))
    brightness, cells = rng.uniform(0.2, 0.7), int(rng.integers(4, 12))
    grid = rng.random((cells, cells), dtype=np.float32)
    at = np.linspace(0, cells - 1, size)
    low = np.minimum(at.astype(int), cells - 2)
    part = (at - low).astype(np.float32)
    rows = grid[low] * (1 - part)[:, None] + grid[low + 1] * part[:, None]
    blend = (rows[:, low] * (1 - part) + rows[:, low + 1] * part)[..., None]
    grain = 0.85 + 0.3 * rng.random((size, size, 1), dtype=np.float32)
    colours = (brightness * tints).astype(np.float32)
    return (colours[0] * blend + colours[1] * (1 - blend)) * grain


def render_video_frames(plan: ScenePlan, size: int, fps: int = 8) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video of the scene, uint8 (S, S, 3) each, `fps * seconds` of them.

    Frame f shows the scene at (f + 1) / fps - 1/16 s. So the last frame of second t, which a player shows at
    t + 15/16 s and AVSBench's preparation picks (spec §2.5) at 8 and 16 fps, is exactly the PNG frame of second t.
    """
    picture = Picture(plan, size)
    for f in range(fps * plan.seconds):
        yield picture.at((f + 1) / fps - (1 - FRAME_OF_SECOND))[0]


def render_waveform(plan: ScenePlan) -> NDArray[np.float32]:
    """The mixed sound, float32 (seconds * 16000,) in [-1, 1), rounded to 16 bits."""
    seconds = plan.seconds
    rng = plan.noise_rng()
    mix = np.float32(plan.world.noise * rng.random()) * rng.standard_normal(seconds * SAMPLE_RATE, dtype=np.float32)
    t = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    for voice in (*plan.voices, *plan.offscreen):
        if any(voice.sounding):
            loudness = hold(np.asarray(voice.sounding, np.float64), t).astype(np.float32)
            mix += np.float32(voice.gain) * loudness * _sing(voice, seconds)
    for second in np.flatnonzero(plan.bursts):  # in place of the voices, not on top: nothing of them is left
        mix[second * SAMPLE_RATE : (second + 1) * SAMPLE_RATE] = BURST * rng.standard_normal(
            SAMPLE_RATE, dtype=np.float32
        )
    steps = np.clip(np.round(mix * np.float32(HEADROOM * 32768)), -32768, 32767)
    return (steps / 32768).astype(np.float32)


def _sing(voice: Voice, seconds: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(voice.key)
    if voice.pitch is None:
        return fixed_voice(voice.class_index, rng, seconds)
    return contour_voice(voice.class_index, rng, np.asarray(voice.pitch))
