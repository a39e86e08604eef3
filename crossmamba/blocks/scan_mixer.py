"""Scans over picture features at several scales: the VSS mixer and the Temporal Mamba block are one module.

AVS-Mamba Fig. 3 and eq. 5 to 9; VMamba v0's SS2D (gate, state 16, expand 2, conv bias, LayerNorm on the output).
With routes over (H, W) each frame is scanned by itself (VSS); with routes over (T, H, W) the whole clip is
(Temporal Mamba). Levels are concatenated in the order given and scanned as one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.layers import DepthwiseConv, DropPath
from crossmamba.blocks.ssm import RouteSSM, default_dt_rank
from crossmamba.ops import check_route_name, route_table

FRAME_ROUTES = ("HW+", "WH+", "HW-", "WH-")
TEMPORAL_ROUTES = ("THW+", "THW-", "TWH+", "TWH-", "HWT+", "HWT-", "WHT+", "WHT-", "HTW+", "HTW-", "WTH+", "WTH-")
"""Temporal routes in the order in which Table VII of AVS-Mamba adds them; the model's default is the first 8."""


def route_dimensions(routes: Sequence[str]) -> int:
    """2 for routes within a frame, 3 for routes over a clip; ValueError for a mixture or an unknown name."""
    if not routes:
        raise ValueError("at least one route is needed")
    dimensions = len(routes[0]) - 1
    for name in routes:
        check_route_name(name, dimensions)
    return dimensions


def fold_time(x: Tensor, dimensions: int) -> Tensor:
    """(B, T, h, w, C) as it is for routes over a clip, or (B*T, 1, h, w, C) for routes within a frame."""
    return x if dimensions == 3 else x.flatten(0, 1)[:, None]


class ScanMixer(nn.Module):
    """Linear -> (x, z); depth-wise conv and SiLU on x; K scans over all levels; LayerNorm; gate by SiLU(z); Linear.

    Args:
        dim: C. d_state: N. expand: D = expand * C. routes: K route names, all over (H, W) or all over (T, H, W).
        dt_rank: R, ceil(C / 16) if None. temporal_kernel: of the depth-wise convolution, 1 or 3.
    """

    def __init__(
        self,
        dim: int,
        routes: Sequence[str] = FRAME_ROUTES,
        *,
        d_state: int = 16,
        expand: int = 2,
        dt_rank: int | None = None,
        temporal_kernel: int = 1,
    ) -> None:
        super().__init__()
        self.routes, self.dimensions = tuple(routes), route_dimensions(routes)
        inner = expand * dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = DepthwiseConv(inner, temporal_kernel)
        self.ssm = RouteSSM(inner, d_state, dt_rank or default_dt_rank(dim), len(self.routes))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (B, T, h_i, w_i, C) -> the same shapes."""
        shapes = [level.shape for level in levels]
        xs, zs = zip(
            *(self.in_proj(fold_time(level, self.dimensions)).chunk(2, dim=-1) for level in levels), strict=True
        )
        xs = [F.silu(self.conv(x)) for x in xs]  # each level at its own resolution
        grids = [tuple(x.shape[4 - self.dimensions : 4]) for x in xs]
        table = route_table(self.routes, grids, device=xs[0].device)
        y = self.ssm(torch.cat([x.flatten(1, 3) for x in xs], dim=1), table)  # (B or B*T, M, D)
        y = self.out_proj(self.out_norm(y) * F.silu(torch.cat([z.flatten(1, 3) for z in zs], dim=1)))
        parts = y.split([math.prod(x.shape[1:4]) for x in xs], dim=1)  # not .numel(): it fixes symbolic sizes
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


class ScanLayer(nn.Module):
    """Residual layer around a mixer of levels: x + DropPath(mixer(LayerNorm(x))), the norm shared by all levels."""

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (B, T, h_i, w_i, C) -> the same shapes."""
        mixed = self.mixer([self.norm(level) for level in levels])
        return [level + self.drop_path(part) for level, part in zip(levels, mixed, strict=True)]


class MixFFN(nn.Module):
    """Linear -> depth-wise 3x3 -> GELU -> Linear, each level by itself.

    Absent from the paper, present in the released code between VSS and Temporal Mamba (spec §1.5). The released
    one also holds an unused LayerNorm (2C parameters), which is left out here. Initialised as released.
    """

    def __init__(self, dim: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.conv = DepthwiseConv(ratio * dim)
        self.fc2 = nn.Linear(ratio * dim, dim)
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        nn.init.normal_(self.conv.conv.weight, std=(2.0 / 9.0) ** 0.5)  # fan-out of a depth-wise 3x3
        nn.init.zeros_(self.conv.conv.bias)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (B, T, h_i, w_i, C) -> the same shapes."""
        return [self.fc2(F.gelu(self.conv(self.fc1(level)))) for level in levels]
