"""Binary audio-visual segmentation: M_J and M_F as published, on probabilities (spec §3.1, §3.2).

Notation: p a pixel's probability, g its truth, N frames of H x W pixels, tau a threshold, beta^2 = 0.3.

    M_J   of a frame: sum(q g) / (sum(max(q, g)) + 1e-7) with q = [p > 0.5], strictly.
          Truth black (sum g = 0): the share of pixels that are rightly black, so 1 - (false positives) / HW.
    M_F   of a frame: a curve of F over 255 thresholds with q = [p >= tau], not strictly;
          F = (1 + beta^2) P R / (beta^2 P + R), P = sum(q g) / (sum q + 1e-20), R = sum(q g) / (sum g + 1e-20), 0 for
          0/0. Frames of black truth are left out; curves are averaged; the highest point of the mean curve counts.

Protocols, which differ in where the means are taken:
    dataset   over all frames at once. Does not depend on batches; this project's default.
    official  over a batch of `clips_per_batch` clips first, then over batches, each with the same weight, full or not.
              For M_F the maximum is taken in each batch, and a batch of black truth alone counts 0: the same
              predictions get another M_F at another batch size. TPAVI's script tests with 4 clips, AVSegFormer with 2,
              AVS-Mamba with 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from crossmamba.errors import UsageError

__all__ = [
    "FrameScores",
    "Protocol",
    "f_thresholds",
    "fmeasure",
    "frame_f_curves",
    "frame_iou",
    "frame_positive_share",
    "mask_iou",
    "score_frames",
]

Protocol = Literal["dataset", "official"]
BETA_SQUARED = 0.3
THRESHOLDS = 255


@lru_cache(maxsize=1)
def f_thresholds() -> Tensor:
    """(255,) float32 from 0 to 1: the published linspace(0, 1 - 1e-10, 255), whose end rounds to 1.0 in float32."""
    return torch.linspace(0, 1 - 1e-10, THRESHOLDS, dtype=torch.float32)


def _checked(prob: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32 on the CPU: the sums are float64, which MPS lacks, and CUDA's histograms are not deterministic.

    Raises:
        UsageError: shapes differ or are not (N, H, W), or values are not in [0, 1] (NaN is not).
    """
    if prob.shape != truth.shape or prob.ndim != 3:
        raise UsageError(f"prob {tuple(prob.shape)} and truth {tuple(truth.shape)}; both must be (frames, H, W)")
    prob, truth = (t.detach().to("cpu", torch.float32) for t in (prob, truth))
    for name, values in (("prob", prob), ("truth", truth)):
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise UsageError(f"{name} holds values outside [0, 1] or NaN; give probabilities (after the sigmoid)")
    return prob, truth


def frame_iou(prob: Tensor, truth: Tensor) -> Tensor:
    """M_J of each frame, with the rule for black truth.

    Args:
        prob, truth: (N, H, W) in [0, 1]. A fractional truth is used as it is; its sum decides whether it is black.

    Returns:
        (N,) float64.

    Raises:
        UsageError: see `_checked`: other shapes, or values outside [0, 1].
    """
    prob, truth = _checked(prob, truth)
    marked = (prob > 0.5).double().flatten(1)
    truth = truth.double().flatten(1)
    iou = (marked * truth).sum(1) / (torch.maximum(marked, truth).sum(1) + 1e-7)
    rightly_black = (1 - marked).mean(1)
    return torch.where(truth.sum(1) == 0, rightly_black, iou)


def frame_f_curves(prob: Tensor, truth: Tensor) -> Tensor:
    """F of each frame at each threshold; all zero for black truth (callers leave those frames out).

    One histogram of "how many thresholds does this pixel reach" a frame replaces 255 comparisons of every pixel.

    Args:
        prob, truth: (N, H, W) in [0, 1].

    Returns:
        (N, 255) float64.

    Raises:
        UsageError: other shapes, or values outside [0, 1].
    """
    prob, truth = _checked(prob, truth)
    n, bins = len(prob), THRESHOLDS + 1
    reached = torch.bucketize(prob.flatten(1), f_thresholds(), right=True)  # (N, HW): thresholds <= p
    place = (reached + bins * torch.arange(n)[:, None]).flatten()
    weights = truth.double().flatten()

    def above(weight: Tensor | None) -> Tensor:  # (N, 255): the sum over pixels with p >= tau
        histogram = torch.bincount(place, weights=weight, minlength=n * bins).view(n, bins).double()
        return histogram.flip(1).cumsum(1).flip(1)[:, 1:]

    hits, marked = above(weights), above(None)
    precision = hits / (marked + 1e-20)
    recall = hits / (truth.double().flatten(1).sum(1, keepdim=True) + 1e-20)
    f = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return f.nan_to_num(0.0)


def frame_positive_share(prob: Tensor) -> Tensor:
    """Share of the pixels that are marked, (N, H, W) -> (N,) float64; its mean is AVSBench-Robust's FPR (§7.1)."""
    marked = (prob.detach().cpu() > 0.5).double().flatten(1)
    return marked.sum(1) / (marked.shape[1] + 1e-7)


def mask_iou(prob: Tensor, truth: Tensor) -> Tensor:
    """M_J of one batch: the mean of `frame_iou`, a float64 scalar."""
    return frame_iou(prob, truth).mean()


def fmeasure(prob: Tensor, truth: Tensor, *, protocol: Protocol, clip: Tensor, clips_per_batch: int = 1) -> Tensor:
    """M_F of a set of frames under a named protocol, a float64 scalar.

    Args:
        prob, truth: (N, H, W) in [0, 1].
        protocol: "dataset" or "official".
        clip: (N,) whole numbers: which clip a frame belongs to. Batches take the clips in ascending order.
        clips_per_batch: for "official".

    Raises:
        UsageError: other shapes, values outside [0, 1], an unknown protocol or no clips per batch.
    """
    scores = score_frames(prob, truth, clip=clip)
    if protocol == "dataset":
        return scores.m_f()
    if protocol == "official":
        return scores.m_f_official(clips_per_batch)
    raise UsageError(f"protocol is {protocol!r}; allowed: 'dataset', 'official'")


@dataclass
class FrameScores:
    """What each frame scored, on the CPU; from it every protocol follows. Frames may be in any order.

    Attributes:
        clip: (N,) int64, position of the frame's clip in its split.
        second: (N,) int64, from 0.
        iou: (N,) M_J of the frame.
        curve: (N, 255) F at each threshold.
        black: (N,) bool: the truth is black.
        positive: (N,) share of the pixels marked.
    """

    clip: Tensor
    second: Tensor
    iou: Tensor
    curve: Tensor
    black: Tensor
    positive: Tensor

    def __len__(self) -> int:
        return len(self.clip)

    @classmethod
    def join(cls, parts: Sequence[FrameScores]) -> FrameScores:
        """The frames of all parts; at least one part is needed."""
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def ordered(self) -> FrameScores:
        """Sorted by clip and second, a (clip, second) that came twice (a sampler's filling) kept once."""
        keys = torch.stack([self.clip, self.second], 1)
        _, group = keys.unique(dim=0, return_inverse=True)  # sorted by clip, then second
        order = torch.argsort(group, stable=True)
        first = torch.ones_like(order, dtype=torch.bool)
        first[1:] = group[order][1:] != group[order][:-1]
        keep = order[first]
        return FrameScores(*(getattr(self, f.name)[keep] for f in fields(self)))

    def m_j(self) -> Tensor:
        """M_J, protocol `dataset`: the mean over frames; NaN without frames."""
        return self.iou.double().mean()

    def m_f(self) -> Tensor:
        """M_F, protocol `dataset`: the highest point of the mean curve of all frames of non-black truth; 0 if none."""
        return _peak(self.curve[~self.black])

    def m_j_official(self, clips_per_batch: int) -> Tensor:
        """M_J, protocol `official`: batch means, averaged with equal weight (a smaller last batch weighs more)."""
        batch = self._batches(clips_per_batch)
        return torch.stack([self.iou[b].double().mean() for b in batch]).mean() if batch else self.m_j()

    def m_f_official(self, clips_per_batch: int) -> Tensor:
        """M_F, protocol `official`: the highest point of each batch's mean curve, averaged with equal weight."""
        batch = self._batches(clips_per_batch)
        return torch.stack([_peak(self.curve[b][~self.black[b]]) for b in batch]).mean() if batch else self.m_f()

    def black_kept(self) -> Tensor:
        """Share of the frames of black truth on which not one pixel is marked; NaN if there are none."""
        return (self.positive[self.black] == 0).double().mean()

    def m_j_per_second(self) -> Tensor:
        """(T,) M_J of the frames of each second; NaN for a second without frames."""
        seconds = int(self.second.max()) + 1 if len(self) else 0
        return (
            torch.stack([self.iou[self.second == t].double().mean() for t in range(seconds)]) if seconds else self.iou
        )

    def summary(self, clips_per_batch: int = 1) -> dict[str, Tensor]:
        """All scores as scalar tensors, fractions of 1.

        `M_J`, `M_F` are protocol `dataset`; `M_J_official`, `M_F_official` protocol `official` at `clips_per_batch`;
        `black_kept`, `FPR` (mean share of pixels marked); `M_J_second_1` to `M_J_second_T`; the counts `clips`,
        `frames` and `black_frames`. NaN where there is nothing to measure.

        Raises:
            UsageError: there are no frames, or no clips in a batch.
        """
        if not len(self):
            raise UsageError("no annotated frame was scored")
        seconds = {f"M_J_second_{t}": value for t, value in enumerate(self.m_j_per_second(), start=1)}
        return {
            "M_J": self.m_j(),
            "M_F": self.m_f(),
            "M_J_official": self.m_j_official(clips_per_batch),
            "M_F_official": self.m_f_official(clips_per_batch),
            "black_kept": self.black_kept(),
            "FPR": self.positive.double().mean(),
            **seconds,
            "clips": torch.tensor(len(self.clip.unique())),
            "frames": torch.tensor(len(self)),
            "black_frames": self.black.sum(),
        }

    def _batches(self, clips_per_batch: int) -> list[Tensor]:
        """Boolean masks (N,) of the frames in each batch of clips, clips in ascending order."""
        if clips_per_batch < 1:
            raise UsageError(f"clips_per_batch is {clips_per_batch}; it must be at least 1")
        rank = self.clip.unique(return_inverse=True)[1]  # 0, 1, ... whatever the clips' numbers
        batch = rank // clips_per_batch
        return [batch == b for b in range(int(batch.max()) + 1)] if len(self) else []


def _peak(curves: Tensor) -> Tensor:
    """(N, 255) -> the highest point of the mean curve; 0 for no curves."""
    return curves.double().mean(0).max() if len(curves) else torch.zeros((), dtype=torch.float64)


def score_frames(prob: Tensor, truth: Tensor, *, clip: Tensor, second: Tensor | None = None) -> FrameScores:
    """Scores each frame by itself.

    Args:
        prob, truth: (N, H, W) in [0, 1].
        clip: (N,) position of each frame's clip.
        second: (N,) each frame's second; counted within the clip if None.

    Raises:
        UsageError: other shapes, or values outside [0, 1].
    """
    clip = clip.to("cpu", torch.int64)
    if clip.shape != prob.shape[:1]:
        raise UsageError(f"clip has shape {tuple(clip.shape)}; expected one number for each of {len(prob)} frames")
    if second is None:
        earlier = (clip[:, None] == clip[None]).tril(-1)  # frames of the same clip that came before
        second = earlier.sum(1)
    return FrameScores(
        clip=clip,
        second=second.to("cpu", torch.int64),
        iou=frame_iou(prob, truth),
        curve=frame_f_curves(prob, truth),
        black=truth.cpu().flatten(1).sum(1) == 0,
        positive=frame_positive_share(prob),
    )
