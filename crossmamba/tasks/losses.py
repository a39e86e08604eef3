"""Segmentation losses of AVS-Mamba (spec §1.10; paper §V-B).

Symbols
-------
p   probability, sigmoid(logit)                     g   truth in {0, 1}
B, T, S     clips, frames (one per second), side in pixels

A frame loss maps (logits, masks) to one number per frame, (B, T). `segmentation_loss` averages it over the annotated
frames only (S4 annotates one frame of five in training) and adds the intermediate outputs with their weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmamba.errors import UsageError

DICE_EPSILON = 0.001


class SegmentationOutput(Protocol):
    """What a segmentation model returns: `.logits` (B, T, n_classes, S, S) and `.intermediate`, a sequence of the
    same shape."""

    logits: Tensor
    intermediate: Sequence[Tensor]


def dice_per_frame(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice as published: `1 - 2 sum(pg) / ((sum(p^2) + 0.001) + (sum(g^2) + 0.001))`, sums over the pixels of one
    frame.

    A black frame (g = 0) gives the constant 1 with gradient exactly 0: it teaches nothing. That is the published
    behaviour; `dice_bce_per_frame` mends it.

    Args:
        logits: (B, T, 1, S, S). masks: (B, T, 1, S, S) in {0, 1}.
    Returns: (B, T), float32.
    """
    probability = torch.sigmoid(logits.float()).flatten(2)  # (B, T, S*S)
    truth = masks.float().flatten(2)
    overlap = (probability * truth).sum(-1)
    size = (probability.square().sum(-1) + DICE_EPSILON) + (truth.square().sum(-1) + DICE_EPSILON)
    return 1 - 2 * overlap / size


def bce_per_frame(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy, mean over the pixels of one frame. Shapes as `dice_per_frame`."""
    return F.binary_cross_entropy_with_logits(logits.float(), masks.float(), reduction="none").flatten(2).mean(-1)


def dice_bce_per_frame(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice + BCE, 1:1: the recommended loss, because BCE also teaches black frames (OpenNLPLab/AVSBench#22)."""
    return dice_per_frame(logits, masks) + bce_per_frame(logits, masks)


def softmax_ce_per_frame(logits: Tensor, masks: Tensor) -> Tensor:
    """Softmax cross-entropy over classes, mean over the pixels of one frame (AVSS: 71 classes, 0 = background).

    Args:
        logits: (B, T, n_classes, S, S). masks: class indices (B, T, 1, S, S) or (B, T, S, S).
    Returns: (B, T), float32.
    """
    labels = masks.reshape(*masks.shape[:2], *masks.shape[-2:]).long()  # (B, T, S, S)
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(0, 1), reduction="none")  # (B*T, S, S)
    return loss.mean((-1, -2)).view(labels.shape[:2])


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice": dice_per_frame,
    "dice_bce": dice_bce_per_frame,
    "bce": bce_per_frame,
    "softmax_ce": softmax_ce_per_frame,
}


def mean_over_annotated(per_frame: Tensor, annotated: Tensor) -> Tensor:
    """Mean of (B, T) over the frames where `annotated` (B, T) is true; 0 if there are none."""
    weight = annotated.to(per_frame.dtype)
    return (per_frame * weight).sum() / weight.sum().clamp(min=1)


def segmentation_loss(
    name: str, output: SegmentationOutput, masks: Tensor, annotated: Tensor, intermediate_weight: float = 1.0
) -> dict[str, Tensor]:
    """The training loss: final + `intermediate_weight` x sum of the intermediate outputs' losses.

    Args:
        name: a key of `LOSSES`.
        output: the model's output. masks: (B, T, 1, S, S). annotated: bool (B, T).
    Returns: scalars `loss` (carries gradient), `final`, and `intermediate` when the model gave any.
    Raises:
        UsageError: unknown loss.
    """
    if name not in LOSSES:
        raise UsageError(f"unknown loss {name!r}; choose one of {', '.join(LOSSES)}")
    frame_loss = LOSSES[name]
    final = mean_over_annotated(frame_loss(output.logits, masks), annotated)
    parts = {"loss": final, "final": final.detach()}
    if output.intermediate and intermediate_weight:
        extra = [mean_over_annotated(frame_loss(logits, masks), annotated) for logits in output.intermediate]
        intermediate = torch.stack(extra).sum()
        parts = {**parts, "loss": final + intermediate_weight * intermediate, "intermediate": intermediate.detach()}
    return parts
