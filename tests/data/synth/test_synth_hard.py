"""The hard world's promise: one second does not tell which look-alike sounds, several seconds do."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from crossmamba.data.synth import WORLDS, ScenePlan, plan_scene, render_scene
from crossmamba.data.synth.scene import FRAME_OF_SECOND
from crossmamba.data.synth.voices import CIRCLE, CONTOUR_BANDS, REFERENCE, SAMPLE_RATE, contour_voice

HARD = WORLDS["hard"]


@pytest.fixture(scope="module")
def plans() -> list[ScenePlan]:
    return [plan_scene(HARD, 0, "test", i, 10) for i in range(400)]


def lookalikes(plan: ScenePlan) -> list[int]:
    classes = [thing.class_index for thing in plan.objects]
    return [k for k, c in enumerate(classes) if classes.count(c) > 1]


def heights(plan: ScenePlan, k: int) -> np.ndarray:
    return 1 - plan.objects[k].motion.position(np.arange(plan.seconds) + FRAME_OF_SECOND)[1]


def test_scenes_hold_identical_instances_and_decoys(plans: list[ScenePlan]) -> None:
    decoys = 0
    for plan in plans[:100]:
        alike = lookalikes(plan)
        assert len(alike) in (2, 3)
        assert len({plan.objects[k].look for k in alike}) == 1
        assert len({plan.objects[k].radius for k in alike}) == 1
        assert sorted(plan.objects[k].instance for k in alike) == list(range(len(alike)))
        others = [thing for k, thing in enumerate(plan.objects) if k not in alike]
        assert others
        decoys += any(thing.look.colour == plan.objects[alike[0]].look.colour for thing in others)
    assert 30 < decoys < 90


def test_objects_hide_parts_of_each_other() -> None:
    hidden = 0
    for index in range(12):
        scene = render_scene(HARD, 0, "train", index, 48)
        areas = scene.truth.areas.astype(float)
        hidden += int((areas.min(0) < 0.8 * areas.max(0)).any())
    assert hidden >= 4


def test_pitch_of_one_second_is_independent_of_the_heights(plans: list[ScenePlan]) -> None:
    """The phases of one second are uniform, and no wave of them follows the object's height."""
    theta = np.array([plan.voices[k].pitch[4] for plan in plans for k in lookalikes(plan)])
    height = np.array([heights(plan, k)[4] for plan in plans for k in lookalikes(plan)])
    noise = 1 / np.sqrt(len(theta))
    for turns in np.linspace(-1.5, 1.5, 13):  # 0 is plain uniformity, others are pitch following height at some scale
        assert abs(np.exp(2j * np.pi * (theta - turns * height)).mean()) < 3.5 * noise


def matches(plan: ScenePlan, sounder: int, seconds: np.ndarray) -> bool:
    """Whether the pitch over `seconds` fits the sounding object's height best, for the best scale and offset."""
    theta = np.array(plan.voices[sounder].pitch)[seconds]
    scales = np.linspace(*HARD.pitch_scale, 26)[:, None]
    fit = {
        k: np.abs(np.exp(2j * np.pi * (theta - scales * heights(plan, k)[seconds])).mean(1)).max()
        for k in lookalikes(plan)
    }
    return max(fit, key=fit.__getitem__) == sounder


def test_pitch_over_seconds_names_the_lookalike(plans: list[ScenePlan]) -> None:
    """Over stretches of four or more seconds the contour finds its object nearly always."""
    found = []
    for plan in plans[:200]:
        for k in lookalikes(plan):
            alone = np.flatnonzero(plan.voices[k].sounding)
            if len(alone) >= 4:
                found.append(matches(plan, k, alone))
    assert len(found) > 100
    assert np.mean(found) > 0.97


def test_pitch_goes_up_with_the_object(plans: list[ScenePlan]) -> None:
    for plan in plans[:20]:
        for k, voice in enumerate(plan.voices):
            steps = np.diff(voice.pitch)
            steps -= np.round(steps)
            rise = np.diff(heights(plan, k))
            assert np.abs(steps).max() < 0.5, "a step of half a turn is ambiguous"
            assert (steps * rise >= -1e-12).all()


def heard_pitch(voice: np.ndarray, class_index: int) -> float:
    """The phase on the pitch circle at which a comb of partials collects most of a second's spectrum."""
    power = np.abs(np.fft.rfft(voice * np.hanning(len(voice)))) ** 2
    hertz = np.fft.rfftfreq(len(voice), 1 / SAMPLE_RATE)
    band = np.abs(np.log2(np.maximum(hertz, 1) / CONTOUR_BANDS[class_index])) < 1.1
    phase = np.log(hertz[band] / REFERENCE) / np.log(CIRCLE) % 1
    bins = np.bincount((phase * 60).astype(int), power[band], minlength=60)
    return (int(bins.argmax()) + 0.5) / 60


@pytest.mark.parametrize("class_index", range(8))
def test_contour_voices_carry_their_pitch(class_index: int) -> None:
    pitch = np.array([0.1, 0.35, 0.6, 0.8, 0.95, 0.2])
    voice = contour_voice(class_index, np.random.default_rng(1), pitch)
    for t, expected in enumerate(pitch):
        error = heard_pitch(voice[t * SAMPLE_RATE + 800 : (t + 1) * SAMPLE_RATE - 800], class_index) - expected
        assert abs(error - round(error)) < 0.03, (t, error)


def test_a_whole_turn_of_pitch_is_the_same_sound() -> None:
    pitch = np.array([0.1, 0.3, 0.2])
    here, there = (contour_voice(2, np.random.default_rng(0), pitch + turn) for turn in (0.0, 1.0))
    assert np.abs(here - there).max() < 1e-3


def test_glides_do_not_click() -> None:
    """At the boundaries of seconds a steady voice changes no faster than within them."""
    voice = contour_voice(2, np.random.default_rng(0), np.array([0.9, 0.1, 0.8, 0.2]))
    jumps = np.abs(np.diff(voice, n=2))
    edges = [jumps[t * SAMPLE_RATE - 300 : t * SAMPLE_RATE + 300].max() for t in (1, 2, 3)]
    inner = [jumps[t * SAMPLE_RATE + 4000 : t * SAMPLE_RATE + 12000].max() for t in range(4)]
    assert max(edges) < 1.5 * max(inner)


def test_schedules_persist(plans: list[ScenePlan]) -> None:
    sounding = [np.array([voice.sounding for voice in plan.voices]).T for plan in plans]
    same = np.mean([np.array_equal(a, b) for s in sounding for a, b in pairwise(s)])
    assert same > 0.75
