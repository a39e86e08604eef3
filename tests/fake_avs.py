"""A stand-in for a trained model: the contract's forward, an answer that can be computed by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from crossmamba.predict import AVSPipeline

PREPROCESSING: dict[str, Any] = {"image_size": 16, "framing": "aligned", "seconds": 5, "threshold": 0.5}


class LoudLeft(nn.Module):
    """Marks the left half of the picture in seconds with sound; logit +-4. Remembers the windows it saw."""

    def __init__(self, trained_on: str = "synthetic world") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.card = {"name": "loud_left", "preprocessing": PREPROCESSING, "metadata": {"trained_on": trained_on}}
        self.windows: list[tuple[Tensor, Tensor]] = []

    def forward(self, frames: Tensor, log_mel: Tensor) -> SimpleNamespace:
        """frames (B, T, 3, S, S), log_mel (B, T, 1, 96, 64) -> logits (B, T, 1, S, S)."""
        self.windows = [*self.windows[-3:], (frames, log_mel)]
        size = frames.shape[-1]
        loud = log_mel.amax(dim=(2, 3, 4)) > -3.0  # silence is log(0.01) = -4.6
        left = torch.arange(size) < size // 2
        marked = loud[:, :, None, None, None] & left.view(1, 1, 1, 1, size)
        return SimpleNamespace(logits=(marked.float() * 8 - 4).expand(*frames.shape[:2], 1, size, size))


def fake_pipeline() -> AVSPipeline:
    """A pipeline around `LoudLeft`."""
    return AVSPipeline(LoudLeft(), PREPROCESSING)
