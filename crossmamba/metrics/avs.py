"""M_J and M_F as a torchmetric: fed batch by batch, gathered over processes, computed once.

Each clip's scores are kept under its position in the split. So the result does not depend on the loader's batch size,
on the order in which clips came, on how many processes shared them, or on clips that a distributed sampler gave twice
to fill its last round.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from crossmamba.errors import UsageError
from crossmamba.metrics.frames import THRESHOLDS, FrameScores, score_frames

__all__ = ["AVSMetric", "batch_positions"]

_STATES = {
    "clip": torch.int64,
    "second": torch.int64,
    "iou": torch.float32,
    "curve": torch.float32,  # 1 kB a frame: half of what is kept
    "black": torch.bool,
    "positive": torch.float32,
}


class AVSMetric(Metric):
    """M_J, M_F and their controls for binary segmentation (spec §3.1, §3.2, §7).

    `compute()` gives the dict of `FrameScores.summary`: scalar tensors, fractions of 1 (not percent). `M_J` and `M_F`
    are protocol `dataset`, `M_J_official` and `M_F_official` protocol `official`.

    Args:
        clips_per_batch: of the official protocol (AVS-Mamba tests with 1).

    Raises:
        UsageError: from `update`, for shapes or values that are no masks, or several processes without `index`.
    """

    full_state_update = True  # otherwise forward() would count the clips from 0 in each batch
    higher_is_better = True
    seen: Tensor
    clip: list[Tensor] | Tensor
    second: list[Tensor] | Tensor
    iou: list[Tensor] | Tensor
    curve: list[Tensor] | Tensor
    black: list[Tensor] | Tensor
    positive: list[Tensor] | Tensor

    def __init__(self, clips_per_batch: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if clips_per_batch < 1:
            raise UsageError(f"clips_per_batch is {clips_per_batch}; it must be at least 1")
        self.clips_per_batch = clips_per_batch
        for name in _STATES:
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self.add_state("seen", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, prob: Tensor, truth: Tensor, *, index: Tensor | None = None, annotated: Tensor | None = None
    ) -> None:
        """Scores a batch of clips.

        Args:
            prob, truth: (B, T, 1, H, W) or (B, T, H, W) in [0, 1]; T, H and W may change between batches.
            index: (B,) positions in the sorted split; None counts up, which one process alone may do.
            annotated: (B, T) bool; other frames are left out. None takes all.
        """
        prob, truth = _clip_shape(prob).detach().cpu(), _clip_shape(truth).detach().cpu()
        b, t = prob.shape[:2]
        index = batch_positions(index, b, int(self.seen))
        wanted = torch.ones(b, t, dtype=torch.bool) if annotated is None else annotated.bool().cpu()
        if truth.shape != prob.shape or wanted.shape != (b, t):
            shapes = f"prob {tuple(prob.shape)}, truth {tuple(truth.shape)}, annotated {tuple(wanted.shape)}"
            raise UsageError(f"{shapes}; expected (B, T, H, W) twice and (B, T)")
        self.seen += b
        clip, second = index[:, None].expand(b, t), torch.arange(t).expand(b, t)
        scores = score_frames(prob[wanted], truth[wanted], clip=clip[wanted], second=second[wanted])
        for name, dtype in _STATES.items():
            states = getattr(self, name)
            states.append(getattr(scores, name).to(self.device, dtype))

    def frame_scores(self) -> FrameScores:
        """What was gathered so far, in order and without doubles; of this process only, outside `compute`."""
        if isinstance(self.clip, list) and not self.clip:
            empty = {name: torch.zeros(0, dtype=dtype) for name, dtype in _STATES.items()}
            return FrameScores(**{**empty, "curve": torch.zeros(0, THRESHOLDS)})
        return FrameScores(**{name: dim_zero_cat(getattr(self, name)).cpu() for name in _STATES}).ordered()

    def compute(self) -> dict[str, Tensor]:
        return self.frame_scores().summary(self.clips_per_batch)


def _clip_shape(masks: Tensor) -> Tensor:
    """(B, T, 1, H, W) or (B, T, H, W) -> (B, T, H, W)."""
    if masks.ndim == 5 and masks.shape[2] == 1:
        masks = masks[:, :, 0]
    if masks.ndim != 4:
        raise UsageError(f"masks of shape {tuple(masks.shape)}; expected (B, T, 1, H, W) or (B, T, H, W)")
    return masks


def batch_positions(index: Tensor | None, clips: int, seen: int) -> Tensor:
    """(B,) int64 positions of a batch's clips, on the CPU."""
    if index is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and torch.distributed.get_world_size() > 1:
            raise UsageError("several processes share the clips: give update(..., index=batch['index'])")
        return torch.arange(seen, seen + clips)
    if index.shape != (clips,):
        raise UsageError(f"index has shape {tuple(index.shape)}; expected ({clips},), one position a clip")
    return index.to("cpu", torch.int64)
