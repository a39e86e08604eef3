"""The mask head of AVS-Mamba, and its exact table for inference (spec §1.9).

Symbols: q (B*T, C) query of each frame; F (B*T, C, h, w) mask features; I_m = <q, F> one number per pixel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.layers import upsample

MAX_KNOTS = 100_000


class MaskHead(nn.Module):
    """I_m -> MLP of 1x1 convolutions, added to F; conv; 4x upsampling; conv; ReLU; 1x1 conv to the classes.

    The paper has the MLP and the last layer; the skip to F and the convolutions are the released code's.

    Args:
        dim: C. hidden: width of the MLP (2048). channels: of the two convolutions (128, 32). num_classes: output maps.
        bias: start value of a bias on the output (so that an untrained model says "nothing"); None for the published
            head, which has none. scale: divide I_m by sqrt(C) (the published head does not).

    In eval mode without gradients the MLP, a function of one number, is looked up in its exact table.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_classes: int = 1,
        hidden: int = 2048,
        channels: tuple[int, int] = (128, 32),
        bias: float | None = None,
        scale: bool = False,
    ) -> None:
        super().__init__()
        self.scale = dim**-0.5 if scale else 1.0
        self.mlp = nn.Sequential(
            nn.Linear(1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )
        self.conv1 = nn.Conv2d(dim, channels[0], 3, padding=1)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 3, padding=1)
        self.classify = nn.Conv2d(channels[1], num_classes, 1, bias=bias is not None)
        if bias is not None:
            nn.init.constant_(self.classify.bias, bias)
        self._table: PiecewiseLinear | None = None
        self._table_version: tuple[object, ...] = ()

    def forward(self, query: Tensor, features: Tensor, use_table: bool = True) -> Tensor:
        """query (N, C), features (N, C, h, w) -> logits (N, classes, 4h, 4w)."""
        response = torch.einsum("nc,nchw->nhw", query, features) * self.scale  # I_m
        refined = features + self._refine(response, use_table).permute(0, 3, 1, 2)
        size = (4 * features.shape[2], 4 * features.shape[3])
        x = upsample(self.conv1(refined), size, "bilinear")
        return self.classify(F.relu(self.conv2(x)))

    def _refine(self, response: Tensor, use_table: bool) -> Tensor:
        """I_m (N, h, w) -> (N, h, w, C)."""
        if self.training or torch.is_grad_enabled() or not use_table:
            return self.mlp(response[..., None])
        table = self.table()
        return self.mlp(response[..., None]) if table is None else table(response)

    def table(self) -> PiecewiseLinear | None:
        """The MLP's table, made again when a weight has changed; None if it would need over MAX_KNOTS knots."""
        version = tuple((p.data_ptr(), p._version, p.device) for p in self.mlp.parameters())
        if version != self._table_version:
            self._table, self._table_version = tabulate_scalar_mlp(self.mlp), version
        return self._table

    def train(self, mode: bool = True) -> MaskHead:
        if mode:
            self._table, self._table_version = None, ()
        return super().train(mode)


class PiecewiseLinear:
    """A continuous piecewise linear function R -> R^C by its knots: y = value_i + slope_i (s - knot_i).

    Args:
        knots: (P,) ascending, float64. values: (P, C) at the knots, float64. The pieces beyond the ends go on with
        the slopes between the last two knots on each side.
    """

    def __init__(self, knots: Tensor, values: Tensor) -> None:
        self.knots, self.values = knots, values[:-1]
        self.slopes = (values[1:] - values[:-1]) / (knots[1:] - knots[:-1])[:, None]

    def to(self, like: Tensor) -> PiecewiseLinear:
        """Moves the table to the dtype and device of a tensor."""
        self.knots, self.values, self.slopes = (t.to(like) for t in (self.knots, self.values, self.slopes))
        return self

    def __call__(self, s: Tensor) -> Tensor:
        """(...) -> (..., C)."""
        s = s.to(self.knots.dtype).contiguous()
        piece = (torch.searchsorted(self.knots, s, right=True) - 1).clamp_(0, len(self.slopes) - 1)
        offset = (s - self.knots[piece])[..., None]
        return torch.addcmul(self.values[piece], self.slopes[piece], offset)


@torch.no_grad()
def tabulate_scalar_mlp(mlp: nn.Sequential) -> PiecewiseLinear | None:
    """The exact table of Linear(1, H), ReLU, Linear(H, H), ReLU, Linear(H, C), a function of one number.

    The first ReLU bends where w s + b = 0. Between those knots the second layer is linear in s, so each of its units
    crosses zero at most once in each piece, and once beyond each end. Between the union of these points the whole
    function is linear. Worked out in float64; None if more than MAX_KNOTS knots are needed.
    """
    first, _, second, _, last = mlp
    weights = (first.weight[:, 0], first.bias, second.weight, second.bias, last.weight, last.bias)
    w1, b1, w2, b2, w3, b3 = (weight.cpu().double() for weight in weights)  # MPS has no float64

    bends = (-b1 / w1)[w1 != 0]
    bends = torch.cat([bends, bends.new_zeros(1)]).unique()
    reach = 1.0 + bends.abs().max()
    bends = torch.cat([bends.min()[None] - reach, bends, bends.max()[None] + reach])  # one point on each outer piece
    units = F.linear(F.relu(bends[:, None] * w1 + b1), w2, b2)  # (P, H) second layer before its ReLU

    slope = (units[1:] - units[:-1]) / (bends[1:] - bends[:-1])[:, None]
    root = bends[:-1, None] - units[:-1] / slope  # where each piece, prolonged, crosses zero
    low, high = bends[:-1].clone(), bends[1:].clone()
    low[0], high[-1] = -torch.inf, torch.inf
    crossings = root[(root > low[:, None]) & (root < high[:, None]) & root.isfinite()]
    knots = torch.cat([bends, crossings]).unique()
    if len(knots) > MAX_KNOTS:
        return None
    knots = torch.cat([knots[:1] - reach, knots, knots[-1:] + reach])
    apart = torch.cat([knots.new_ones(1, dtype=torch.bool), knots.diff() > 1e-12 * reach])
    knots = knots[apart]
    hidden = F.relu(F.linear(F.relu(knots[:, None] * w1 + b1), w2, b2))
    return PiecewiseLinear(knots, F.linear(hidden, w3, b3)).to(first.weight)
