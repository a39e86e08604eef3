"""AVSS's per-frame rule and the dataset-level one, against cases worked out by hand (spec §3.3, §3.5)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmamba.errors import UsageError
from crossmamba.metrics import AVSSMetric, avss_scores, cavp_scores


def two_halves(left: int, right: int) -> torch.Tensor:
    labels = torch.full((1, 4, 4), left)
    labels[..., 2:] = right
    return labels


def test_one_frame_with_two_classes_right() -> None:
    truth = two_halves(0, 28)
    scores = avss_scores(truth, truth)
    assert scores["mIoU"].item() == pytest.approx(2 / 71)
    assert scores["F"].item() == pytest.approx(2 / 71)
    assert scores["IoU_per_class"][[0, 28]].tolist() == pytest.approx([1, 1])


def test_a_false_speckle_adds_a_frame_to_its_class() -> None:
    truth = two_halves(0, 28).repeat(2, 1, 1)
    speckled = truth.clone()
    speckled[1, 0, 2] = 5  # one pixel of the object is called class 5
    clean, dirty = avss_scores(truth, truth), avss_scores(speckled, truth)
    assert clean["IoU_per_class"][5] == 0
    assert dirty["IoU_per_class"][5] == 0
    truth[0] = two_halves(5, 5)
    speckled[0] = truth[0]  # class 5 is right in frame 0 ...
    assert avss_scores(speckled, truth)["IoU_per_class"][5].item() == pytest.approx(0.5)  # ... and counted in frame 1


def test_no_background_official_drops_the_last_class_instead() -> None:
    truth = two_halves(0, 70)
    scores = avss_scores(truth, truth)
    assert scores["mIoU_official_no_bg"].item() == pytest.approx(1 / 70)  # class 70 is gone, the background stayed
    assert scores["mIoU_no_bg"].item() == pytest.approx(1 / 70)
    only_background = torch.zeros(1, 4, 4, dtype=torch.int64)
    scores = avss_scores(only_background, only_background)
    assert scores["mIoU_official_no_bg"].item() == pytest.approx(1 / 70)
    assert scores["mIoU_no_bg"].item() == 0
    assert scores["F_official_no_bg"].item() == pytest.approx(1 / 70)


def test_f_by_hand() -> None:
    truth, labels = two_halves(0, 1), two_halves(1, 1)  # class 1: P = 0.5, R = 1
    scores = avss_scores(labels, truth)
    assert scores["F_per_class"][1].item() == pytest.approx(1.3 * 0.5 / (0.15 + 1))
    assert scores["F_per_class"][0].item() == 0  # never predicted: 0 / 0 is 0


def test_cavp_adds_pixels_before_it_divides() -> None:
    truth = torch.zeros(2, 4, 4, dtype=torch.int64)
    truth[0] = 1  # 16 pixels of class 1 in one frame, 1 in the other
    truth[1, 0, 0] = 1
    labels = truth.clone()
    labels[1] = 0  # the small one is missed
    cavp, official = cavp_scores(labels, truth, n_classes=2), avss_scores(labels, truth, n_classes=2)
    assert cavp["cavp_IoU_per_class"].tolist() == pytest.approx([15 / 16, 16 / 17])
    assert official["IoU_per_class"].tolist() == pytest.approx([15 / 16, 0.5])
    assert cavp["cavp_mIoU"].item() == pytest.approx((15 / 16 + 16 / 17) / 2)


def test_cavp_leaves_out_classes_never_seen() -> None:
    truth = two_halves(0, 3)
    scores = cavp_scores(truth, truth, n_classes=5)
    assert scores["cavp_mIoU"].item() == pytest.approx(1)
    assert scores["cavp_IoU_per_class"].isnan().tolist() == [False, True, True, False, True]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), clips=st.integers(1, 4))
def test_the_metric_equals_the_function_in_any_order_and_batching(seed: int, clips: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    labels, truth = (torch.randint(0, 6, (clips, 3, 5, 4), generator=rng) for _ in range(2))
    expected = avss_scores(labels.flatten(0, 1), truth.flatten(0, 1), 6)
    metric = AVSSMetric(n_classes=6)
    for i in [*torch.randperm(clips, generator=rng).tolist(), 0]:  # clip 0 comes twice, as from a sampler that fills up
        metric.update(labels[i : i + 1], truth[i : i + 1], index=torch.tensor([i]))
    for name, value in metric.compute().items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_the_metric_leaves_out_padded_frames() -> None:
    labels = torch.cat([two_halves(0, 1), two_halves(2, 3)])[None]
    metric = AVSSMetric(n_classes=4)
    metric.update(labels, labels, valid=torch.tensor([[True, False]]))
    assert metric.compute()["IoU_per_class"].tolist() == pytest.approx([1, 1, 0, 0])


@pytest.mark.parametrize(
    "labels", [torch.full((1, 4, 4), 71), torch.full((1, 4, 4), -1), torch.zeros(1, 4, 4), torch.zeros(1, 4, 5).long()]
)
def test_what_are_no_labels_is_refused(labels: torch.Tensor) -> None:
    with pytest.raises(UsageError):
        avss_scores(labels, torch.zeros(1, 4, 4, dtype=torch.int64))
