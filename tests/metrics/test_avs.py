"""The torchmetric: equal to the functions whatever the batches, the order, the processes and the sampler's doubles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmamba.errors import UsageError
from crossmamba.metrics import AVSMetric
from crossmamba.metrics.frames import score_frames

CLIPS, SECONDS = 6, 5


def clips(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(CLIPS, SECONDS, 1, 6, 6) probabilities and truth; some frames are black."""
    rng = torch.Generator().manual_seed(seed)
    truth = (torch.rand(CLIPS, SECONDS, 1, 6, 6, generator=rng) < 0.4).float()
    truth[rng.initial_seed() % CLIPS, 1:3] = 0
    return torch.rand(CLIPS, SECONDS, 1, 6, 6, generator=rng), truth


def fed(order: list[int], batch: int, seed: int = 0, **kwargs: int) -> AVSMetric:
    prob, truth = clips(seed)
    metric = AVSMetric(**kwargs)
    for start in range(0, len(order), batch):
        index = torch.tensor(order[start : start + batch])
        metric.update(prob[index], truth[index], index=index)
    return metric


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k].nan_to_num(-1), b[k].nan_to_num(-1)) for k in a)


def test_it_equals_the_functions() -> None:
    prob, truth = clips()
    clip = torch.arange(CLIPS).repeat_interleave(SECONDS)
    frames = score_frames(prob.view(-1, 6, 6), truth.view(-1, 6, 6), clip=clip)
    got = fed(list(range(CLIPS)), 1, clips_per_batch=4).compute()
    assert got["M_J"].item() == pytest.approx(frames.m_j().item())
    assert got["M_F"].item() == pytest.approx(frames.m_f().item(), abs=1e-6)
    assert got["M_F_official"].item() == pytest.approx(frames.m_f_official(4).item(), abs=1e-6)
    assert got["M_J_official"].item() == pytest.approx(frames.m_j_official(4).item())
    per_second = [got[f"M_J_second_{t}"].item() for t in range(1, 6)]
    assert sum(per_second) / 5 == pytest.approx(got["M_J"].item())
    assert (got["clips"].item(), got["frames"].item(), got["black_frames"].item()) == (6, 30, 2)


@settings(max_examples=25, deadline=None)
@given(
    order=st.permutations(range(CLIPS)),
    batch=st.integers(1, CLIPS),
    doubles=st.lists(st.integers(0, CLIPS - 1), max_size=3),
    per_batch=st.integers(1, CLIPS),
)
def test_neither_batches_nor_order_nor_doubles_matter(
    order: list[int], batch: int, doubles: list[int], per_batch: int
) -> None:
    expected = fed(list(range(CLIPS)), 1, clips_per_batch=per_batch).compute()
    assert same(fed([*order, *doubles], batch, clips_per_batch=per_batch).compute(), expected)


def test_merging_two_processes_equals_one() -> None:
    """What torchmetrics does over processes is to concatenate the states: shared out as a distributed sampler does."""
    one, other = fed([0, 2, 4], 2), fed([1, 3, 5, 0], 3)
    for name in ("clip", "second", "iou", "curve", "black", "positive"):
        getattr(one, name).extend(getattr(other, name))
    assert same(one.compute(), fed(list(range(CLIPS)), 1).compute())


def test_black_kept_counts_frames_without_one_marked_pixel() -> None:
    truth = torch.zeros(1, 4, 1, 4, 4)
    truth[0, 3, 0, 0, 0] = 1
    prob = torch.zeros(1, 4, 1, 4, 4)
    prob[0, 1, 0, 0, 0] = 0.51
    prob[0, 2] = 0.5  # not strictly above: black
    metric = AVSMetric()
    metric.update(prob, truth)
    got = metric.compute()
    assert got["black_kept"].item() == pytest.approx(2 / 3)
    assert got["FPR"].item() == pytest.approx(1 / 16 / 4)
    assert got["M_J_second_2"].item() == pytest.approx(15 / 16)
    truth[:] = 1
    metric.reset()
    metric.update(prob, truth)
    assert math.isnan(metric.compute()["black_kept"])


def test_only_annotated_frames_count() -> None:
    prob, truth = clips()
    first = torch.zeros(CLIPS, SECONDS, dtype=torch.bool)
    first[:, 0] = True
    metric = AVSMetric()
    metric.update(prob, truth, annotated=first)
    other = AVSMetric()
    other.update(prob[:, :1], truth[:, :1])
    assert same(metric.compute(), other.compute())
    assert metric.compute()["frames"] == CLIPS


def test_shapes_may_change_between_batches_and_reset_starts_again() -> None:
    metric = AVSMetric()
    metric.update(torch.rand(1, 5, 8, 8), torch.ones(1, 5, 8, 8))
    metric.update(torch.rand(2, 10, 1, 4, 4), torch.ones(2, 10, 1, 4, 4))
    assert metric.compute()["frames"] == 25
    metric.reset()
    metric.update(torch.ones(1, 5, 8, 8), torch.ones(1, 5, 8, 8))
    assert metric.compute()["frames"] == 5
    assert metric.compute()["M_J"].item() == pytest.approx(1)


def test_calling_the_metric_keeps_every_clip() -> None:
    prob, truth = clips()
    metric = AVSMetric()
    for i in range(CLIPS):
        metric(prob[i : i + 1], truth[i : i + 1])
    assert same(metric.compute(), fed(list(range(CLIPS)), 1).compute())


def test_wrong_use_is_refused() -> None:
    prob, truth = clips()
    with pytest.raises(UsageError, match="no annotated frame"):
        AVSMetric().compute()
    with pytest.raises(UsageError, match="index"):
        AVSMetric().update(prob, truth, index=torch.arange(2))
    with pytest.raises(UsageError, match="expected"):
        AVSMetric().update(prob, truth[:, :3])
    with pytest.raises(UsageError, match="clips_per_batch"):
        AVSMetric(clips_per_batch=0)
