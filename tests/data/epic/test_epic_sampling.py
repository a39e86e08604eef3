"""Which pictures are chosen: dense, uniform, before an action; by hand and on all real rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from crossmamba.data.epic.annotations import EpicRow, read_rows
from crossmamba.data.epic.frames import frame_rate
from crossmamba.data.epic.sampling import WINDOW, anticipation_times, sample_frames, sample_times
from crossmamba.errors import UsageError
from tests.metrics.epic_truth import real_folder

ROW = EpicRow("P01_01_0", "P01", "P01_01", None, 10.0, 12.0, 600, 720)


def test_dense_by_hand() -> None:
    """At 30 a second the window is 64 pictures: 16 of them from 0 to 63."""
    wanted = 101 + np.floor(np.linspace(0, 63, 16)).astype(int)
    assert sample_frames(100, 400, 30).tolist() == wanted.tolist()
    assert sample_frames(100, 400, 60).tolist() == (101 + np.floor(np.linspace(0, 127, 16) + 1e-9)).tolist()


def test_short_segments_repeat_their_last_picture() -> None:
    numbers = sample_frames(100, 130, 30)
    assert numbers.max() == 130
    assert numbers[-5:].tolist() == [130] * 5
    assert sample_frames(5, 5, 60).tolist() == [5] * 16


def test_dense_views_are_spread_over_the_segment() -> None:
    firsts = [sample_frames(100, 464, 30, view=view, views=3)[0] for view in range(3)]
    assert firsts == [101, 201, 301]  # 364 pictures leave 300 free


def test_training_windows_reach_the_whole_segment() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([sample_frames(100, 464, 30, rng=rng) for _ in range(300)])
    assert draws.min() <= 105
    assert draws.max() >= 460
    assert draws.min() >= 101
    assert draws.max() <= 464
    assert (np.diff(draws, axis=1) >= 0).all()
    assert len(np.unique(draws[:, 0])) > 100


def test_uniform_by_hand() -> None:
    np.testing.assert_allclose(sample_times(0, 16, 10, mode="uniform"), np.arange(16) + 0.5)
    assert sample_frames(100, 116, 30, mode="uniform").tolist() == list(range(101, 117))
    rng = np.random.default_rng(0)
    times = np.stack([sample_times(4, 20, 10, mode="uniform", rng=rng) for _ in range(200)])
    bins = np.floor(times - 4)
    assert (np.abs(bins - np.arange(16)) <= 0).mean() > 0.99
    assert times.std(axis=0).min() > 0.2
    with pytest.raises(UsageError, match="has one view"):
        sample_times(0, 4, 10, mode="uniform", views=2)


@pytest.mark.parametrize("mode", ["dense", "uniform"])
@pytest.mark.parametrize("rate", [20.0, 29.97, 59.94])
def test_times_stay_within_the_segment(mode: str, rate: float) -> None:
    rng = np.random.default_rng(1)
    for length in (0.02, 0.3, 2.0, 30.0):
        for draw in (None, rng):
            times = sample_times(5.0, 5.0 + length, rate, mode=mode, rng=draw)
            assert times.shape == (16,)
            assert times.min() >= 5.0
            assert times.max() <= 5.0 + max(length - 1 / rate, 0) + 1e-9


def test_out_of_range() -> None:
    for options in ({"mode": "random"}, {"frames": 0}, {"view": 1}):
        with pytest.raises(UsageError):
            sample_times(0, 1, 30, **options)
    with pytest.raises(UsageError):
        anticipation_times(ROW, 0)


def test_the_observed_time_ends_one_second_before() -> None:
    seen = anticipation_times(ROW)
    assert seen.times[-1] == pytest.approx(9.0)
    assert seen.times[0] == pytest.approx(9.0 - WINDOW)
    np.testing.assert_allclose(np.diff(seen.times), WINDOW / 15)
    assert not seen.clamped
    assert not seen.short


def test_rows_at_the_start_are_clamped_and_flagged() -> None:
    early = anticipation_times(dataclasses.replace(ROW, start_timestamp=0.4))
    assert early.times.tolist() == [0.0] * 16
    assert early.clamped
    short = anticipation_times(dataclasses.replace(ROW, start_timestamp=2.0))
    assert (short.times[0], short.times[-1]) == (0.0, 1.0)
    assert short.short
    assert not short.clamped


def released(row: EpicRow, frames: int = 16) -> np.ndarray:
    """Frame numbers as MambaVL's released loader is described to take them (spec §3.5): the window ends two pictures
    before the segment, not a second, and is then clamped into it."""
    rate = frame_rate(row.video_id)
    end = -rate / 30
    places = np.linspace(end - WINDOW * rate, end, frames).clip(0, row.stop_frame - row.start_frame - 1)
    return row.start_frame + places.astype(int)


def test_the_released_windows_defect_is_not_ours() -> None:
    """There every picture is at or after the start of the action; here none is later than start - 1 s."""
    for start in (3.2, 57.01, 1800.5):
        first = int(start * 60)
        row = dataclasses.replace(ROW, start_timestamp=start, start_frame=first, stop_frame=first + 200)
        assert released(row).min() >= row.start_frame
        times = anticipation_times(row).times
        assert (times <= start - 1).all()
        assert np.floor(times * 60).max() <= (start - 1) * 60 < row.start_frame


def test_no_real_row_sees_past_the_gap() -> None:
    rows = read_rows(real_folder() / "EPIC_100_validation.csv")
    seen = [anticipation_times(row) for row in rows]
    assert sum(one.clamped for one in seen) == 28
    assert sum(row.start_timestamp < 1 for row in rows) == 27
    assert sum(row.start_timestamp - 1 < 2 for row in rows) == 122
    late = [
        row.narration_id
        for row, one in zip(rows, seen, strict=True)
        if not one.clamped and one.times.max() > row.start_timestamp - 1
    ]
    assert late == []
    assert all(one.times.min() >= 0 for one in seen)
