"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019) of clips: each clip with another of its batch.

Symbols: B clips; a share s of the result is the clip's own, the rest its partner's; so are the labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossmamba.errors import UsageError


@dataclass(frozen=True)
class Mixed:
    """What was mixed: `partner` int64 (B,) and `share` s; by default nothing."""

    partner: Tensor | None = None
    share: float = 1.0


def mix(clips: Tensor, *, mixup: float, cutmix: float) -> tuple[Tensor, Mixed]:
    """Mixes a batch by either way; of both, each step draws one.

    Args:
        clips: (B, 3, T, H, W), or stored tokens (B, L, d), which only mixup can mix.
        mixup, cutmix: alpha of the Beta law of s; 0: this way is not used.

    Raises:
        UsageError: cutmix of tokens.
    """
    if cutmix > 0 and clips.dim() != 5:
        raise UsageError("model.cutmix cuts pictures, and these are stored tokens: set it to 0, or use model.mixup")
    cut = cutmix > 0 and (mixup <= 0 or bool(torch.rand(()) < 0.5))
    alpha = torch.tensor(cutmix if cut else mixup)
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    partner = torch.randperm(len(clips)).to(clips.device)
    if not cut:
        return share * clips + (1 - share) * clips[partner], Mixed(partner, share)
    height, width = clips.shape[-2:]
    top, bottom = _range(height, (1 - share) ** 0.5)
    left, right = _range(width, (1 - share) ** 0.5)
    out = clips.clone()
    out[..., top:bottom, left:right] = clips[partner][..., top:bottom, left:right]
    return out, Mixed(partner, 1 - (bottom - top) * (right - left) / (height * width))


def _range(size: int, part: float) -> tuple[int, int]:
    """A random range of about `part` of 0..size, cut off at the ends."""
    middle, half = int(torch.randint(size, ())), round(size * part) // 2
    return max(0, middle - half), min(size, middle + half)
