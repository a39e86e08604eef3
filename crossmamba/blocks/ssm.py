"""The SSM core of the picture blocks: from tokens and a condition to (Δ, B, C) per route, and the scan.

Symbols (AVS-Mamba eq. 2 to 4, after VMamba v0's SS2D):
    M tokens   D inner channels   N states   R rank of Δ   K routes
    A = -exp(A_log) (K, D, N)     Δ = softplus(W_dt W_x^Δ x + b_dt)     B = W_x^B x     C = W_x^C x
Each route has parameters of its own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from crossmamba.ops import RouteTable, route_scan


def default_dt_rank(d_model: int) -> int:
    """Mamba's "auto" rank of Δ: ceil(d_model / 16)."""
    return math.ceil(d_model / 16)


def initial_dt_bias(shape: tuple[int, ...], dt_min: float = 1e-3, dt_max: float = 0.1, floor: float = 1e-4) -> Tensor:
    """softplus^-1 of a step size that is log-uniform in [dt_min, dt_max] (Mamba's initialisation)."""
    step = torch.exp(torch.rand(shape) * (math.log(dt_max) - math.log(dt_min)) + math.log(dt_min)).clamp(min=floor)
    return step + torch.log(-torch.expm1(-step))


def initial_A_log(*shape: int) -> Tensor:
    """A_log with A_log[..., n] = log(n + 1) (S4D-real)."""
    return torch.log(torch.arange(1, shape[-1] + 1, dtype=torch.float32)).expand(shape).clone()


def keep_from_decay(parameter: nn.Parameter) -> nn.Parameter:
    """Marks a parameter that weight decay should leave alone, as mamba_ssm does."""
    parameter._no_weight_decay = True  # type: ignore[attr-defined]
    return parameter


class RouteSSM(nn.Module):
    """K selective scans over the same tokens, summed.

    Args:
        d_inner: D. d_state: N. dt_rank: R. routes: K.

    Parameter count: K * (D * (R + 2N) + R * D + D + D * N + D); 167,936 at D 512, N 16, R 16, K 4.
    """

    def __init__(self, d_inner: int, d_state: int, dt_rank: int, routes: int) -> None:
        super().__init__()
        self.d_state, self.dt_rank = d_state, dt_rank
        in_bound, dt_bound = d_inner**-0.5, dt_rank**-0.5
        self.x_proj = nn.Parameter(torch.empty(routes, dt_rank + 2 * d_state, d_inner).uniform_(-in_bound, in_bound))
        self.dt_proj = nn.Parameter(torch.empty(routes, d_inner, dt_rank).uniform_(-dt_bound, dt_bound))
        self.dt_bias = nn.Parameter(initial_dt_bias((routes, d_inner)))
        self.A_log = keep_from_decay(nn.Parameter(initial_A_log(routes, d_inner, d_state)))
        self.D = keep_from_decay(nn.Parameter(torch.ones(routes, d_inner)))

    def forward(self, x: Tensor, table: RouteTable, condition: Tensor | None = None) -> Tensor:
        """x (B, M, D) -> (B, M, D). `condition` (B, M, D) gives (Δ, B, C) in x's place, if given."""
        source = x if condition is None else condition
        projected = torch.einsum("bmd,krd->bkmr", source, self.x_proj)  # (B, K, M, R + 2N)
        dt, B, C = projected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = torch.einsum("bkmr,kdr->bkmd", dt, self.dt_proj)  # (B, K, M, D)
        A = -torch.exp(self.A_log.float())
        return route_scan(x, delta, A, B, C, table, D=self.D, delta_bias=self.dt_bias, delta_softplus=True)
