"""The scores of semantic masks as a torchmetric; what `avs.py` says of batches, order and processes holds here too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from crossmamba.errors import UsageError
from crossmamba.metrics.avs import batch_positions
from crossmamba.metrics.semantic import CLASSES, class_counts, summarise

__all__ = ["AVSSMetric"]


class AVSSMetric(Metric):
    """Semantic segmentation of AVSBench-semantic (spec §3.3): the official per-frame rule.

    `compute()` gives the dict of `semantic.summarise`: `mIoU`, `F` with background (the comparable numbers),
    `..._no_bg`, `..._official_no_bg` and the classes' own.

    Args:
        n_classes: with the background, which is class 0.
    """

    full_state_update = True  # otherwise forward() would count the clips from 0 in each batch
    higher_is_better = True
    seen: Tensor
    clip: list[Tensor] | Tensor
    iou_sum: list[Tensor] | Tensor
    f_sum: list[Tensor] | Tensor
    frames: list[Tensor] | Tensor

    def __init__(self, n_classes: int = CLASSES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_classes = n_classes
        for name in ("clip", "iou_sum", "f_sum", "frames"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("seen", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, labels: Tensor, truth: Tensor, *, index: Tensor | None = None, valid: Tensor | None = None
    ) -> None:
        """Scores a batch of clips.

        Args:
            labels, truth: (B, T, H, W) whole numbers, the class of each pixel (predictions after argmax).
            index: (B,) positions in the sorted split; None counts up, which one process alone may do.
            valid: (B, T) bool; frames outside are left out. None takes all: the official code also counts its padding.
        """
        b, t = labels.shape[:2]
        labels, truth = labels.cpu(), truth.cpu()
        index = batch_positions(index, b, int(self.seen))
        keep = torch.ones(b, t, dtype=torch.bool) if valid is None else valid.bool().cpu()
        self.seen += b
        for clip in range(b):
            counts = class_counts(labels[clip][keep[clip]], truth[clip][keep[clip]], self.n_classes)
            iou_sum, f_sum, frames = counts.sums()
            for states, value in (
                (self.clip, index[clip : clip + 1]),
                (self.iou_sum, iou_sum[None].float()),
                (self.f_sum, f_sum[None].float()),
                (self.frames, frames[None].float()),
            ):
                assert isinstance(states, list)
                states.append(value.to(self.device))

    def compute(self) -> dict[str, Tensor]:
        if isinstance(self.clip, list) and not self.clip:
            raise UsageError("no frame was scored; call update first")
        kept = _first_of_each(dim_zero_cat(self.clip).cpu())
        sums = (dim_zero_cat(s).cpu().double()[kept].sum(0) for s in (self.iou_sum, self.f_sum, self.frames))
        return summarise(*sums)


def _first_of_each(clip: Tensor) -> Tensor:
    """Positions of the first appearance of each clip, clips ascending."""
    order = torch.argsort(clip, stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = clip[order][1:] != clip[order][:-1]
    return order[first]
