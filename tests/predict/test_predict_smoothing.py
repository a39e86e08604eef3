"""Smoothing along a video: the best path by brute force, nothing ahead online, one meaning at every stride."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from crossmamba.errors import UsageError
from crossmamba.predict.action_names import Said, Window, join_windows
from crossmamba.predict.action_smoothing import OnlineSmoother, share_of, smoothed

Path = tuple[tuple[int, int], ...]


def windows_of(verbs: np.ndarray, nouns: np.ndarray, stride: float = 0.5, window: float = 2.0) -> list[Window]:
    """Windows with these probabilities, (T, V) and (T, N)."""
    rows = enumerate(zip(verbs, nouns, strict=True))
    return [Window(k * stride, k * stride + window, Said(verb, noun)) for k, (verb, noun) in rows]


def some_windows(seed: int, count: int, verbs: int = 3, nouns: int = 2, **more: float) -> list[Window]:
    rng = np.random.default_rng(seed)
    return windows_of(rng.dirichlet(np.ones(verbs), count), rng.dirichlet(np.ones(nouns), count), **more)


def value(windows: list[Window], path: Path, penalty: float) -> float:
    """The sum of the module's docstring, written out."""
    stride = windows[1].start - windows[0].start if len(windows) > 1 else math.inf
    share = min(1.0, stride / (windows[0].end - windows[0].start))
    found = 0.0
    for window, (verb, noun) in zip(windows, path, strict=True):
        found += share * (math.log(window.said.verb[verb]) + math.log(window.said.noun[noun]))
    return found - penalty * sum(a != b for a, b in itertools.pairwise(path))


def best_of_all(windows: list[Window], penalty: float) -> Path:
    actions = list(itertools.product(range(len(windows[0].said.verb)), range(len(windows[0].said.noun))))
    return max(itertools.product(actions, repeat=len(windows)), key=lambda path: value(windows, path, penalty))


@pytest.mark.parametrize("penalty", [0.05, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_path_is_the_best_of_all_paths(seed: int, penalty: float) -> None:
    windows = some_windows(seed, 5)
    expected = best_of_all(windows, penalty)
    assert tuple(smoothed(windows, penalty)) == expected
    alone = tuple(smoothed(windows, 0))
    assert value(windows, expected, penalty) >= value(windows, alone, penalty)


def test_brute_force_covers_changes_and_none() -> None:
    """Else the test above would compare constants, or paths that nothing smooths."""
    changes = {
        sum(a != b for a, b in itertools.pairwise(best_of_all(some_windows(seed, 5), penalty)))
        for seed in range(4)
        for penalty in (0.05, 0.3, 1.0, 4.0)
    }
    assert {0, 1, 2} <= changes


def test_a_single_window_that_differs_is_taken_along_and_a_long_change_stays() -> None:
    verbs = np.array([[0.7, 0.3]] * 4 + [[0.4, 0.6]] + [[0.7, 0.3]] * 4 + [[0.1, 0.9]] * 6)
    windows = windows_of(verbs, np.ones((15, 1)))
    assert [verb for verb, _ in smoothed(windows, 0)] == [0] * 4 + [1] + [0] * 4 + [1] * 6
    assert [verb for verb, _ in smoothed(windows, 0.5)] == [0] * 9 + [1] * 6
    assert {verb for verb, _ in smoothed(windows, 50)} == {1}


def test_verb_and_noun_change_together_for_one_penalty() -> None:
    """The noun alone would not be worth the penalty; where the verb changes anyway it may change too."""
    noun = np.array([[0.6, 0.4]] * 3 + [[0.4, 0.6]] * 3)
    still, moving = np.array([[0.9, 0.1]] * 6), np.array([[0.9, 0.1]] * 3 + [[0.1, 0.9]] * 3)
    assert smoothed(windows_of(still, noun, stride=2.0), 1.5) == [(0, 0)] * 6
    assert smoothed(windows_of(moving, noun, stride=2.0), 1.5) == [(0, 0)] * 3 + [(1, 1)] * 3


@pytest.mark.parametrize("seed", range(5))
def test_off_is_every_window_by_itself(seed: int) -> None:
    windows = some_windows(seed, 30)
    alone = [window.said.best for window in windows]
    for online in (False, True):
        assert smoothed(windows, 0, online=online) == alone
        assert smoothed(windows, 1e-12, online=online) == alone


def test_a_longer_penalty_never_changes_more_often() -> None:
    windows = some_windows(7, 60, 5, 4)
    changes = [sum(a != b for a, b in itertools.pairwise(smoothed(windows, p))) for p in (0, 0.1, 0.5, 1, 3, 100)]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 40
    assert changes[-1] == 0


@pytest.mark.parametrize("online", [False, True])
def test_the_penalty_means_the_same_at_every_stride(online: bool) -> None:
    """Each window four times, at a quarter of the stride: the same actions at the same times."""
    coarse = some_windows(3, 12, stride=2.0, window=2.0)
    fine = [Window(k * 0.5, k * 0.5 + 2, coarse[k // 4].said) for k in range(48)]
    for penalty in (0.2, 0.7, 2.0):
        assert smoothed(fine, penalty, online=online)[3::4] == smoothed(coarse, penalty, online=online)
    sparse = [Window(8 * k, 8 * k + 2, window.said) for k, window in enumerate(coarse)]  # no overlap: all count once
    assert smoothed(sparse, 0.7) == smoothed(coarse, 0.7)
    assert share_of(8.0, 2.0) == 1.0


def test_online_smoothing_never_looks_ahead() -> None:
    windows = some_windows(11, 40, 4, 3)
    whole = smoothed(windows, 0.4, online=True)
    assert whole != smoothed(windows, 0.4)
    for count in (1, 2, 17, 39):
        assert smoothed(windows[:count], 0.4, online=True) == whole[:count]
        assert smoothed(windows[:count], 0.4)[-1] == whole[count - 1]  # the end of the best path so far
    smoother = OnlineSmoother(0.4, 0.25)
    assert [smoother.step(window.said) for window in windows] == whole


def test_certainty_and_impossible_classes_do_not_break_the_path() -> None:
    verbs = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert smoothed(windows_of(verbs, np.ones((4, 1))), 5.0) == [(0, 0)] * 2 + [(1, 0)] * 2
    smoother = OnlineSmoother(0.5, 1.0)
    for _ in range(5000):
        smoother.step(Said(verbs[0], np.ones(1)))
    assert smoother.best is not None
    assert np.isfinite(smoother.best).all()
    assert smoother.best.max() == 0
    assert smoother.state_bytes == 2 * (8 + 1)


def test_short_videos_and_wrong_penalties() -> None:
    assert smoothed([], 0.5) == []
    (only,) = some_windows(0, 1)
    assert smoothed([only], 0.5) == [only.said.best]
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(UsageError, match="--smooth"):
            smoothed([only], wrong)


def test_segments_are_cut_by_the_smoothed_actions() -> None:
    verbs = np.array([[0.7, 0.3]] * 3 + [[0.45, 0.55]] + [[0.7, 0.3]] * 3)
    windows = windows_of(verbs, np.ones((7, 1)), stride=1.0)
    assert len(join_windows(windows, 9.0)) == 3
    (one,) = join_windows(windows, 9.0, smoothed(windows, 0.5))
    assert (one.start, one.end, one.action, one.windows) == (0.0, 9.0, (0, 0), 7)
    np.testing.assert_allclose(one.said.verb, verbs.mean(axis=0))  # of what was judged, not of what was decided
