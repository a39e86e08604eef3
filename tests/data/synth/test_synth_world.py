"""The scenes: deterministic, the picture independent of the schedule, the sound where the truth says it is."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest

from crossmamba.data.synth import WORLDS, World, describe_world, get_world, plan_scene, render_scene, single_source
from crossmamba.data.synth.looks import SHAPES, draw_look, paint
from crossmamba.data.synth.render import Picture, render_video_frames
from crossmamba.data.synth.schedule import draw_schedule, subset_law
from crossmamba.data.synth.worlds import CLASS_NAMES
from crossmamba.errors import UsageError


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_same_arguments_give_the_same_scene(world: str) -> None:
    first, second = (render_scene(world, 3, "val", 7, 32) for _ in range(2))
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.object_ids, second.object_ids)
    assert np.array_equal(first.waveform, second.waveform)
    assert first.truth == second.truth


@pytest.mark.parametrize("other", [(4, "val", 7), (3, "test", 7), (3, "val", 8)])
def test_seed_split_and_index_each_change_picture_and_sound(other: tuple[int, str, int]) -> None:
    scene, changed = render_scene("default", 3, "val", 7, 32), render_scene("default", *other, 32)
    assert not np.array_equal(scene.frames, changed.frames)
    assert not np.array_equal(scene.waveform, changed.waveform)


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_shapes_and_types_are_as_documented(world: str) -> None:
    seconds = WORLDS[world].seconds
    scene = render_scene(world, 0, "train", 0, 48)
    assert scene.frames.shape == (seconds, 48, 48, 3)
    assert scene.frames.dtype == np.uint8
    assert scene.object_ids.shape == scene.masks().shape == (seconds, 48, 48)
    assert scene.waveform.shape == (seconds * 16000,)
    assert scene.waveform.dtype == np.float32
    assert np.abs(scene.waveform).max() <= 1
    assert np.array_equal(scene.waveform * 32768, np.round(scene.waveform * 32768)), "not on the 16-bit grid"


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_picture_does_not_depend_on_the_schedule(world: str) -> None:
    """Another law of who sounds changes who sounds, and not one pixel."""
    base = WORLDS[world]
    loud = replace(base, size_law=tuple((0.0,) * n + (1.0,) for n in range(5)), persistence=0.0)
    quiet = []
    for index in range(4):
        scene, other = (render_scene(w, 1, "train", index, 32) for w in (base, loud))
        assert np.array_equal(scene.frames, other.frames)
        assert np.array_equal(scene.object_ids, other.object_ids)
        assert other.truth.sounding.all()
        quiet.append(not scene.truth.sounding.all())
    assert any(quiet)


def test_another_size_shows_the_same_scene() -> None:
    small, large = (render_scene("default", 0, "train", 2, size) for size in (32, 128))
    assert np.array_equal(small.waveform, large.waveform)
    assert np.array_equal(small.truth.sounding, large.truth.sounding)
    difference = small.truth.areas / 32**2 - large.truth.areas / 128**2
    assert np.abs(difference).max() < 0.02


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_masks_are_the_visible_pixels_of_the_sounding_objects(world: str) -> None:
    scene = render_scene(world, 2, "train", 5, 32)
    for t, mask in enumerate(scene.masks()):
        ids = [thing.id for thing in scene.truth.objects if thing.sounding[t]]
        assert np.array_equal(mask, np.isin(scene.object_ids[t], ids))
        assert mask.sum() == scene.truth.areas[t][scene.truth.sounding[t]].sum()


@pytest.mark.parametrize("fps", [4, 8, 16])
def test_last_video_frame_of_a_second_is_its_png_frame(fps: int) -> None:
    plan = plan_scene(WORLDS["default"], 0, "train", 1, 2)
    frames = list(render_video_frames(plan, 32, fps))
    picture = Picture(plan, 32)
    assert len(frames) == 2 * fps
    for t in range(2):
        assert np.array_equal(frames[t * fps + fps - 1], picture.at(t + 15 / 16)[0])
        if fps in (8, 16):  # the rule by which AVSBench picks frames, spec §2.5
            assert int(t * fps + 15 / 16 * fps) == t * fps + fps - 1


def test_motion_between_frames_is_small() -> None:
    plan = plan_scene(WORLDS["hard"], 0, "train", 1, 10)
    times = np.arange(0, 10, 1 / 16)
    for thing in plan.objects:
        x, y = thing.motion.position(times)
        assert max(np.abs(np.diff(x)).max(), np.abs(np.diff(y)).max()) < 0.03


def test_silent_seconds_are_quiet_and_sounding_seconds_are_not() -> None:
    seen = {True: 0, False: 0}
    for index in range(12):
        scene = render_scene("default", 0, "train", index, 16)
        heard = scene.truth.sounding.any(1)
        for voice in scene.truth.offscreen:
            heard |= np.array(voice.sounding)
        inner = scene.waveform.reshape(5, 16000)[:, 400:-400]
        for t in range(5):
            seen[bool(heard[t])] += 1
            loudness = float(np.sqrt((inner[t] ** 2).mean()))
            assert (loudness > 0.005) == heard[t], (index, t, loudness)
    assert min(seen.values()) > 3


@pytest.mark.parametrize("persistence", [0.0, 0.75])
def test_schedule_has_the_stated_law_in_every_second(persistence: float) -> None:
    law = (0.2, 0.5, 0.25, 0.05)
    rng = np.random.default_rng(0)
    draws = np.stack([draw_schedule(rng, law, 6, persistence) for _ in range(4000)])
    members, probability = subset_law(law)
    assert probability.sum() == pytest.approx(1)
    for t in (0, 5):
        for subset, expected in zip(members, probability, strict=True):
            share = (draws[:, t] == subset).all(1).mean()
            assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9
    kept = (draws[:, 1:] == draws[:, :-1]).all(2).mean()
    assert kept == pytest.approx(persistence + (1 - persistence) * (probability**2).sum(), abs=0.02)


def test_every_class_has_its_own_shape() -> None:
    """None is empty and none given twice. (A square and a disc of about one area share 81 % of their pixels.)"""
    assert len(SHAPES) == len(CLASS_NAMES)
    rows, columns = np.mgrid[-1.2:1.2:64j, -1.2:1.2:64j].astype(np.float32)
    rng = np.random.default_rng(0)
    looks = [draw_look(rng, c, World(n_classes=12)) for c in range(12)]
    covers = [paint(look, columns, rows, 27.0)[0] > 0.5 for look in looks]
    for a in range(12):
        assert covers[a].mean() > 0.08, CLASS_NAMES[a]
        for b in range(a):
            overlap = (covers[a] & covers[b]).sum() / (covers[a] | covers[b]).sum()
            assert overlap < 0.9, (CLASS_NAMES[a], CLASS_NAMES[b], overlap)


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_classes_keep_to_their_own_hues(world: str) -> None:
    rng, hues = np.random.default_rng(0), {}
    for c in range(8):
        drawn = [colorsys.rgb_to_hsv(*draw_look(rng, c, WORLDS[world]).colour)[0] * 360 for _ in range(200)]
        hues[c] = [(hue - c * 45 + 180) % 360 - 180 for hue in drawn]  # degrees off the middle of the class
        assert max(np.abs(hues[c])) < 22.5
        assert max(np.abs(hues[c])) > 10


def test_each_voice_is_audible_and_unlike_the_others() -> None:
    from crossmamba.data.synth.voices import fixed_voice

    spectra = []
    for c in range(12):
        voice = fixed_voice(c, np.random.default_rng(c), 2)
        assert np.isfinite(voice).all()
        assert 0.03 < np.sqrt((voice**2).mean()) < 1, CLASS_NAMES[c]
        power = np.abs(np.fft.rfft(voice))[:16000] ** 2
        bands = np.add.reduceat(power, np.unique(np.geomspace(50, 15999, 24).astype(int)))
        spectra.append(bands / np.linalg.norm(bands))
    likeness = np.array(spectra) @ np.array(spectra).T - np.eye(12)
    assert likeness.max() < 0.97


def test_single_source_world_has_one_voice_throughout() -> None:
    world = single_source(WORLDS["default"])
    for index in range(10):
        plan = plan_scene(world, 0, "train", index, 5)
        assert sorted(sum(voice.sounding) for voice in plan.voices)[-2:] == [0, 5]


def test_wrong_settings_and_names_are_refused() -> None:
    with pytest.raises(UsageError, match="size_law"):
        World(size_law=((1.0,), (0.5, 0.5), (0.5, 0.5, 0.5), (1.0, 0, 0, 0)))
    with pytest.raises(UsageError, match="n_classes=1"):
        World(n_classes=1)
    with pytest.raises(UsageError, match="'desert' does not exist"):
        get_world("desert")
    with pytest.raises(UsageError, match="splits are"):
        render_scene("default", 0, "dev", 0)
    with pytest.raises(UsageError, match="16 to 2048"):
        render_scene("default", 0, "train", 0, 8)


def test_description_says_what_the_world_is_not() -> None:
    assert "knows nothing of real" in describe_world("default")
    assert "look-alikes" in describe_world("hard")


def test_a_burst_leaves_nothing_of_the_voices_and_hides_nobody() -> None:
    """Another schedule changes the truth, but not one sample of a burst; who sounds goes on through it."""
    base = WORLDS["bursts"]
    silent = replace(base, size_law=tuple((1.0,) + (0.0,) * n for n in range(5)), offscreen_rate=0.0)
    seen = 0
    for index in range(6):
        scene, nobody = (render_scene(w, 2, "train", index, 16) for w in (base, silent))
        assert scene.truth.bursts == nobody.truth.bursts
        assert (scene.truth.sounding == scene.truth.sounding[0]).all(), "the same objects sound throughout"
        for second, burst in enumerate(scene.truth.bursts):
            span = slice(second * 16000, (second + 1) * 16000)
            same = np.array_equal(scene.waveform[span], nobody.waveform[span])
            assert same is burst or not scene.truth.sounding.any()
            seen += burst
            if burst:
                assert 0.1 < scene.waveform[span].std() < 0.25
    assert seen > 5
