"""Small pieces that several blocks share.

Picture features travel as (B, T, h, w, C), channels last, so that flattening to tokens is a view. Convolutions see
the same memory as (B*T, C, h, w) in torch's channels_last format.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def to_maps(x: Tensor) -> Tensor:
    """(B, T, h, w, C) -> (B*T, C, h, w), channels_last memory."""
    return x.flatten(0, 1).permute(0, 3, 1, 2)


def from_maps(maps: Tensor, frames: int) -> Tensor:
    """(B*T, C, h, w) -> (B, T, h, w, C)."""
    return maps.permute(0, 2, 3, 1).unflatten(0, (-1, frames))


class DropPath(nn.Module):
    """Drops a residual branch for whole samples with that probability, in training only (stochastic depth)."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"drop path probability {probability} is not in [0, 1)")
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """branch (B, ...) -> the same, with whole samples zeroed and the others scaled up."""
        if not self.training or self.probability == 0.0:
            return branch
        keep = 1.0 - self.probability
        mask = torch.empty(branch.shape[0], *[1] * (branch.dim() - 1), device=branch.device, dtype=branch.dtype)
        return branch * mask.bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"{self.probability}"


class DepthwiseConv(nn.Module):
    """3x3 depth-wise convolution of each frame, or 3x3x3 over the clip with `temporal_kernel` 3, with bias.

    The paper says "3D depth-wise convolution" in IV-B and "2D" in IV-D; the released code has a kernel of
    (1, 3, 3), which is the default here.
    """

    def __init__(self, channels: int, temporal_kernel: int = 1) -> None:
        super().__init__()
        if temporal_kernel not in (1, 3):
            raise ValueError(f"temporal_kernel is 1 (each frame by itself) or 3, not {temporal_kernel}")
        self.over_time = temporal_kernel == 3
        self.conv = (nn.Conv3d if self.over_time else nn.Conv2d)(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, h, w, C) -> the same shape."""
        if self.over_time:
            return self.conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        return from_maps(self.conv(to_maps(x)), x.shape[1])


class CausalConv1d(nn.Conv1d):
    """Depth-wise convolution along a sequence that sees only the present and the past, with bias by default."""

    def __init__(self, channels: int, kernel_size: int = 4, bias: bool = True, **factory: object) -> None:
        super().__init__(
            channels, channels, kernel_size, groups=channels, padding=kernel_size - 1, bias=bias, **factory
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, C)."""
        length = x.shape[1]
        if length == 0:
            return x
        return super().forward(x.transpose(1, 2))[..., :length].transpose(1, 2)


def upsample(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(N, C, h, w) to the given height and width, "nearest" or "bilinear" (corners not aligned)."""
    return F.interpolate(maps, size=size, mode=mode, align_corners=False if mode == "bilinear" else None)
