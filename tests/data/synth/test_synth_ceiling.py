"""The reference scores against brute force on pixels, against resampled schedules, and against each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from crossmamba.data.synth import WORLDS, render_scene
from crossmamba.data.synth.ceiling import mean_reference_scores, per_second_law, picture_only_choice, score_table
from crossmamba.data.synth.schedule import draw_schedule
from crossmamba.errors import UsageError


def mask_score(prediction: np.ndarray, truth: np.ndarray) -> float:
    """M_J of one frame on pixels, written from spec §3.1."""
    if not truth.any():
        return float((~prediction).mean())
    return float((prediction & truth).sum() / ((prediction | truth).sum() + 1e-7))


def law_of(sizes: tuple[float, ...]) -> list[tuple[tuple[int, ...], float]]:
    """Every subset with its probability, without `subset_law`."""
    n = len(sizes) - 1
    subsets = [list(combinations(range(n), k)) for k in range(n + 1)]
    return [(subset, sizes[k] / len(subsets[k])) for k in range(n + 1) for subset in subsets[k]]


def expected_score(prediction: np.ndarray, ids: np.ndarray, sizes: tuple[float, ...]) -> float:
    return sum(p * mask_score(prediction, np.isin(ids, [k + 1 for k in subset])) for subset, p in law_of(sizes))


@pytest.mark.parametrize(
    ("ids", "sizes"),
    [
        ([[1, 1, 0], [1, 2, 2], [0, 0, 0]], (0.2, 0.6, 0.2)),
        ([[1, 1, 1], [1, 2, 0], [3, 3, 0]], (0.2, 0.5, 0.25, 0.05)),
        ([[1, 0, 0], [2, 0, 0], [3, 3, 0]], (0.6, 0.3, 0.1, 0.0)),
        ([[1, 1, 1], [1, 1, 1], [3, 3, 0]], (0.1, 0.7, 0.2, 0.0)),  # object 2 is wholly hidden
    ],
)
def test_no_mask_of_all_512_beats_the_best_subset(ids: list[list[int]], sizes: tuple[float, ...]) -> None:
    picture, n = np.array(ids), len(sizes) - 1
    scores = score_table(np.array([(picture == k + 1).sum() for k in range(n)]), picture.size, sizes)
    ceiling = float((scores.table @ scores.law).max())
    masks = (np.arange(512)[:, None] >> np.arange(9) & 1).astype(bool).reshape(-1, 3, 3)
    best = max(expected_score(mask, picture, sizes) for mask in masks)
    assert ceiling == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_table_equals_scores_of_real_masks(world: str) -> None:
    scene = render_scene(world, 5, "train", 3, 32)
    sizes, ids = scene.truth.size_probabilities, scene.object_ids[2]
    scores = score_table(scene.truth.areas[2], ids.size, sizes)
    for row, painted in enumerate(scores.members):
        prediction = np.isin(ids, np.flatnonzero(painted) + 1)
        assert float(scores.table[row] @ scores.law) == pytest.approx(expected_score(prediction, ids, sizes), abs=1e-9)


@pytest.mark.parametrize("world", sorted(WORLDS))
def test_expected_ceiling_is_the_mean_over_resampled_schedules(world: str) -> None:
    scenes = [render_scene(world, 5, "test", i, 24, 3) for i in range(6)]
    expected = mean_reference_scores([scene.truth for scene in scenes])["expected"]
    rng, means = np.random.default_rng(0), []
    for _ in range(400):
        total = []
        for scene in scenes:
            drawn = draw_schedule(rng, scene.truth.size_probabilities, 3, WORLDS[world].persistence)
            for t in range(3):
                scores = score_table(scene.truth.areas[t], 24 * 24, scene.truth.size_probabilities)
                blind = scores.members[picture_only_choice(scores)]
                prediction, truth = (np.isin(scene.object_ids[t], np.flatnonzero(who) + 1) for who in (blind, drawn[t]))
                total.append(mask_score(prediction, truth))
        means.append(np.mean(total))
    assert abs(np.mean(means) - expected) < 4 * np.std(means) / np.sqrt(len(means))


def test_references_equal_scores_of_real_masks() -> None:
    scenes = [render_scene("hard", 1, "val", i, 32, 4) for i in range(8)]
    found = mean_reference_scores([scene.truth for scene in scenes])
    rows: dict[str, list[float]] = {"all_objects": [], "all_black": [], "loudness_oracle": [], "black": []}
    for scene in scenes:
        for truth, ids in zip(scene.masks(), scene.object_ids, strict=True):
            nothing, everything = np.zeros_like(truth), ids > 0
            rows["all_objects"].append(mask_score(everything, truth))
            rows["all_black"].append(mask_score(nothing, truth))
            rows["loudness_oracle"].append(mask_score(everything if truth.any() else nothing, truth))
            rows["black"].append(float(not truth.any()))
    for name, values in rows.items():
        assert found[name] == pytest.approx(np.mean(values), abs=1e-9), name
    assert found["frames"] == 32


def test_calibrated_world_has_the_calibrated_ceiling() -> None:
    """The prototype's figures for its own 300 scenes: 57.3 expected, all black 19.4, loudness oracle 62.0."""
    truths = [render_scene("default", 0, "test", i, 32).truth for i in range(120)]
    scores = mean_reference_scores(truths)
    assert 0.55 < scores["expected"] < 0.60
    assert 0.15 < scores["all_black"] < 0.25
    assert 0.58 < scores["loudness_oracle"] < 0.66
    assert scores["per_second_oracle"] == pytest.approx(1, abs=1e-6), "without look-alikes a class names its object"


def test_hard_world_leaves_room_above_hearing_second_by_second() -> None:
    truths = [render_scene("hard", 0, "test", i, 32).truth for i in range(40)]
    scores = mean_reference_scores(truths)
    assert scores["expected"] < scores["per_second_oracle"] < 0.8


def test_bursts_hide_the_sound_from_hearing_second_by_second() -> None:
    """Half of the seconds are bursts, where the bound falls to that of the picture alone."""
    truths = [render_scene("bursts", 0, "test", i, 32).truth for i in range(120)]
    scores = mean_reference_scores(truths)
    bursts = np.mean([truth.bursts for truth in truths])
    assert 0.4 < bursts < 0.6
    assert scores["per_second_oracle"] == pytest.approx(1 - bursts * (1 - scores["realised"]), abs=0.03)


def test_law_given_the_heard_classes() -> None:
    """Two look-alikes and another: one voice of the shared class leaves the two, each with one half."""
    scores = score_table(np.array([4, 5, 6]), 100, (0.2, 0.5, 0.25, 0.05))
    law = per_second_law(scores, ("bell", "bell", "horn"), heard=0b001)
    assert np.flatnonzero(law).tolist() == [0b001, 0b010]
    assert law[0b001] == pytest.approx(0.5)
    assert per_second_law(scores, ("bell", "drum", "horn"), heard=0b101)[0b101] == pytest.approx(1)


def test_no_clips_is_an_error() -> None:
    with pytest.raises(UsageError, match="no clips"):
        mean_reference_scores([])
