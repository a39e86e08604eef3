"""M_J and M_F against cases worked out by hand (spec §3.6) and against the direct form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmamba.errors import UsageError
from crossmamba.metrics.frames import (
    f_thresholds,
    fmeasure,
    frame_f_curves,
    frame_iou,
    frame_positive_share,
    mask_iou,
    score_frames,
)


def direct_f_curve(prob: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The definition, threshold by threshold, for one frame: (255,) float64."""
    curve = torch.zeros(255, dtype=torch.float64)
    for i, tau in enumerate(f_thresholds()):
        marked = (prob >= tau).double()
        hits = (marked * truth).sum()
        precision, recall = hits / (marked.sum() + 1e-20), hits / (truth.sum() + 1e-20)
        f = 1.3 * precision * recall / (0.3 * precision + recall)
        curve[i] = 0.0 if torch.isnan(f) else f
    return curve


def square(side: int = 10, size: int = 20, at: int = 0) -> torch.Tensor:
    mask = torch.zeros(1, size, size)
    mask[:, at : at + side, at : at + side] = 1
    return mask


def one_clip_a_frame(frames: int) -> torch.Tensor:
    return torch.arange(frames)


def test_perfect_prediction_scores_one() -> None:
    truth = square()
    assert mask_iou(truth, truth).item() == pytest.approx(1, abs=1e-8)
    for protocol in ("dataset", "official"):
        assert fmeasure(truth, truth, protocol=protocol, clip=one_clip_a_frame(1)).item() == pytest.approx(1)


def test_black_truth_and_black_prediction_score_one_in_m_j_and_nothing_in_m_f() -> None:
    black = torch.zeros(1, 20, 20)
    assert mask_iou(black, black).item() == 1
    both_p, both_g = torch.cat([black, square()]), torch.cat([black, square()])
    clip = torch.zeros(2, dtype=torch.int64)
    assert fmeasure(both_p, both_g, protocol="dataset", clip=clip).item() == pytest.approx(1)
    assert fmeasure(both_p, both_g, protocol="official", clip=clip).item() == pytest.approx(1)


def test_black_truth_with_a_tenth_marked_scores_nine_tenths() -> None:
    prediction = torch.zeros(1, 10, 10)
    prediction[0, 0] = 1.0
    assert mask_iou(prediction, torch.zeros(1, 10, 10)).item() == pytest.approx(0.9)
    assert frame_positive_share(prediction).item() == pytest.approx(0.1)


def test_half_is_background_for_m_j_and_marked_up_to_half_for_m_f() -> None:
    half = torch.sigmoid(torch.zeros(1, 8, 8))
    truth = torch.ones(1, 8, 8)
    assert mask_iou(half, truth).item() == 0
    curve = frame_f_curves(half, truth)[0]
    marked = f_thresholds() <= 0.5
    assert torch.allclose(curve[marked], torch.ones(int(marked.sum()), dtype=torch.float64))
    assert (curve[~marked] == 0).all()
    just_above = torch.full((1, 8, 8), 0.50000006)
    assert mask_iou(just_above, truth).item() == pytest.approx(1)


def test_the_last_threshold_is_one_and_only_certainty_passes_it() -> None:
    assert f_thresholds()[-1].item() == 1.0
    assert f_thresholds().dtype == torch.float32
    truth = torch.ones(1, 2, 2)
    below = torch.full((1, 2, 2), 1 - 2**-24)
    assert frame_f_curves(below, truth)[0, -1] == 0
    assert frame_f_curves(truth, truth)[0, -1] == pytest.approx(1)


def test_iou_by_hand() -> None:
    overlap = mask_iou(square(at=0), square(at=5)).item()  # 25 shared of 175
    assert overlap == pytest.approx(25 / 175)


def toy() -> tuple[torch.Tensor, torch.Tensor]:
    """Four frames, one a clip, the last one black, whose curves have their peaks at different thresholds."""
    truth = torch.zeros(4, 10, 10)
    truth[:3, :5] = 1  # 50 of 100 pixels
    prob = torch.zeros(4, 10, 10)
    prob[0, :5], prob[0, 5:] = 0.9, 0.6  # best above 0.6: F = 1; at or below it: P = 0.5
    prob[1, :5], prob[1, 5] = 0.4, 0.3  # best in (0.3, 0.4]: F = 1
    prob[2, :4] = 0.8  # P = 1, R = 0.8 up to 0.8
    prob[3] = 0.7
    return prob, truth


def f(precision: float, recall: float) -> float:
    return 1.3 * precision * recall / (0.3 * precision + recall)


def test_official_m_f_depends_on_the_batch_and_the_dataset_protocol_does_not() -> None:
    prob, truth = toy()
    clip = one_clip_a_frame(4)
    half, wide, part = f(0.5, 1), f(5 / 6, 1), f(1, 0.8)
    # Mean curve of the first three frames: (0, 0.3], (0.3, 0.4], (0.4, 0.6], (0.6, 0.8], (0.8, 0.9].
    three = max((half + wide + part) / 3, (half + 1 + part) / 3, (half + 0 + part) / 3, (1 + 0 + part) / 3, 1 / 3)
    two = max((half + wide) / 2, (half + 1) / 2, half / 2, 1 / 2)
    expected = {4: three, 2: (two + part) / 2, 1: (1 + 1 + part + 0) / 4}
    assert len({round(value, 4) for value in expected.values()}) == 3
    for clips_per_batch, value in expected.items():
        got = fmeasure(prob, truth, protocol="official", clip=clip, clips_per_batch=clips_per_batch)
        assert got.item() == pytest.approx(value), clips_per_batch
    assert fmeasure(prob, truth, protocol="dataset", clip=clip).item() == pytest.approx(three)


def test_official_m_j_gives_a_short_last_batch_the_weight_of_a_full_one() -> None:
    truth = square().repeat(3, 1, 1)
    prob = truth.clone()
    prob[2] = 0
    scores = score_frames(prob, truth, clip=one_clip_a_frame(3))
    assert scores.m_j().item() == pytest.approx(2 / 3)
    assert scores.m_j_official(2).item() == pytest.approx((1 + 0) / 2)
    assert scores.m_j_official(1).item() == pytest.approx(2 / 3)


def test_batches_count_clips_whatever_their_numbers() -> None:
    prob, truth = toy()
    gaps = torch.tensor([0, 2, 5, 9])
    for per_batch in (1, 2, 3):
        expected = score_frames(prob, truth, clip=one_clip_a_frame(4))
        got = score_frames(prob, truth, clip=gaps)
        assert got.m_f_official(per_batch) == expected.m_f_official(per_batch)
        assert got.m_j_official(per_batch) == expected.m_j_official(per_batch)


def test_a_batch_of_black_truth_alone_counts_zero() -> None:
    black = torch.zeros(2, 5, 5)
    assert fmeasure(black, black, protocol="official", clip=one_clip_a_frame(2)).item() == 0
    assert fmeasure(black, black, protocol="dataset", clip=one_clip_a_frame(2)).item() == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    density=st.floats(0, 1),
    on_thresholds=st.booleans(),
    fractional=st.booleans(),
)
def test_histogram_equals_the_direct_form(seed: int, density: float, on_thresholds: bool, fractional: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    prob = torch.rand(3, 7, 5, generator=rng)
    if on_thresholds:  # ties are where strict and non-strict comparisons differ
        prob = f_thresholds()[torch.randint(0, 255, prob.shape, generator=rng)]
    truth = (torch.rand(3, 7, 5, generator=rng) < density).float()
    if fractional:
        truth *= torch.rand(3, 7, 5, generator=rng)
    curves = frame_f_curves(prob, truth)
    for frame in range(3):
        assert torch.allclose(curves[frame], direct_f_curve(prob[frame], truth[frame]), atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_bounds_and_symmetries(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    prob = torch.rand(4, 6, 6, generator=rng)
    truth = (torch.rand(4, 6, 6, generator=rng) < 0.3).float()
    scores = score_frames(prob, truth, clip=one_clip_a_frame(4))
    assert ((scores.iou >= 0) & (scores.iou <= 1)).all()
    assert scores.m_f_official(1) >= scores.m_f() - 1e-12 or scores.black.any()  # mean of maxima >= maximum of means
    order = torch.randperm(36, generator=rng)
    shuffled = frame_iou(prob.flatten(1)[:, order].view(4, 6, 6), truth.flatten(1)[:, order].view(4, 6, 6))
    assert torch.allclose(shuffled, scores.iou)
    hard = (prob > 0.5).float()
    assert torch.equal(frame_iou(hard, truth), scores.iou)


def test_seconds_are_counted_within_a_clip() -> None:
    truth = square().repeat(4, 1, 1)
    scores = score_frames(truth, truth, clip=torch.tensor([7, 3, 7, 3]))
    assert scores.second.tolist() == [0, 0, 1, 1]
    assert scores.ordered().clip.tolist() == [3, 3, 7, 7]


@pytest.mark.parametrize(
    ("prob", "truth"),
    [
        (torch.full((1, 2, 2), 3.0), torch.ones(1, 2, 2)),
        (torch.full((1, 2, 2), float("nan")), torch.ones(1, 2, 2)),
        (torch.ones(1, 2, 2), torch.full((1, 2, 2), 255.0)),
        (torch.ones(1, 2, 2), torch.ones(1, 2, 3)),
        (torch.ones(2, 2), torch.ones(2, 2)),
    ],
    ids=["logits", "nan", "0-255 truth", "shape", "rank"],
)
def test_what_are_no_masks_is_refused(prob: torch.Tensor, truth: torch.Tensor) -> None:
    with pytest.raises(UsageError):
        frame_iou(prob, truth)
    with pytest.raises(UsageError):
        frame_f_curves(prob, truth)


def test_unknown_protocol_and_empty_batches_are_refused() -> None:
    truth = square()
    with pytest.raises(UsageError, match="official"):
        fmeasure(truth, truth, protocol="cavp", clip=one_clip_a_frame(1))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="clips_per_batch"):
        fmeasure(truth, truth, protocol="official", clip=one_clip_a_frame(1), clips_per_batch=0)
