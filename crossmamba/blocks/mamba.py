"""The Mamba block (arXiv 2312.00752, Fig. 3), with mamba_ssm's parameter names, so that its checkpoints load.

Symbols: L length, D = expand * d_model inner channels, N states, R rank of Δ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.layers import CausalConv1d
from crossmamba.blocks.ssm import default_dt_rank, initial_A_log, initial_dt_bias, keep_from_decay
from crossmamba.ops import selective_scan_fn


class Mamba(nn.Module):
    """Linear -> (x, z); causal depth-wise conv and SiLU; selective scan conditioned on x; gate by SiLU(z); Linear.

    Args:
        d_model: width of the input and output.
        d_state: N. d_conv: width of the convolution. expand: D / d_model.
        dt_rank: R, or "auto" for ceil(d_model / 16).
        dt_min, dt_max, dt_init_floor: range of the step size at the start, log-uniform, and its floor.
        dt_init: "random" or "constant" start of dt_proj, times dt_scale.
        conv_bias, bias: biases of the convolution and of the two outer linears.
        backend: scan back end, see `selective_scan_fn`.

    Raises:
        ValueError: unknown dt_init.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | str = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: str = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        *,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dt_init not in ("random", "constant"):
            raise ValueError(f"dt_init is 'random' or 'constant', not {dt_init!r}")
        factory = {"device": device, "dtype": dtype}
        self.d_model, self.d_state, self.d_conv = d_model, d_state, d_conv
        self.d_inner, self.backend = int(expand * d_model), backend
        self.dt_rank = default_dt_rank(d_model) if dt_rank == "auto" else int(dt_rank)
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=bias, **factory)
        self.conv1d = CausalConv1d(self.d_inner, d_conv, bias=conv_bias, **factory)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner, bias=True, **factory)
        spread = self.dt_rank**-0.5 * dt_scale
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, spread)
        else:
            nn.init.uniform_(self.dt_proj.weight, -spread, spread)
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_dt_bias((self.d_inner,), dt_min, dt_max, dt_init_floor))
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]
        self.A_log = keep_from_decay(nn.Parameter(initial_A_log(self.d_inner, d_state).to(device)))  # always float32
        self.D = keep_from_decay(nn.Parameter(torch.ones(self.d_inner, device=device)))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=bias, **factory)

    def forward(self, hidden_states: Tensor, *, lengths: Tensor | None = None) -> Tensor:
        """(B, L, d_model) -> (B, L, d_model). `lengths` int (B,): what lies past a sample's length is ignored and
        its result is 0 (plus the output bias)."""
        if lengths is not None:  # the convolution is causal, so only the scan needs to know; NaN must not spread
            steps = torch.arange(hidden_states.shape[1], device=hidden_states.device)
            hidden_states = hidden_states.masked_fill((steps >= lengths[:, None])[..., None], 0.0)
        x, z = self.in_proj(hidden_states).chunk(2, dim=-1)  # (B, L, D) each
        x = F.silu(self.conv1d(x))
        dt, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y = selective_scan_fn(
            x.transpose(1, 2),
            F.linear(dt, self.dt_proj.weight).transpose(1, 2),
            -torch.exp(self.A_log.float()),
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D.float(),
            z=z.transpose(1, 2),
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
            lengths=lengths,
            backend=self.backend,
        )
        assert isinstance(y, Tensor)
        return self.out_proj(y.transpose(1, 2))
