"""The selective scan (S6) as loops: the equations in view, for reading and for testing. Never fast.

Symbols (Mamba, arXiv 2312.00752, eq. 2 and algorithm 2; AVS-Mamba eq. 1 to 4):
    B  batch          L  sequence length    D  channels    N  states per channel    G  groups that share B_t, C_t
    u      x_t   (B, D, L)   input                      A      (D, N)   evolution, negative real
    delta  Δ_t   (B, D, L)   step size                  B      B_t      input projection
    D      D     (D,)        skip                       C      C_t      output projection
    h      h_t   (B, D, N)   state, float32 (float64 for float64 inputs)

    Δ_t = softplus(delta_t + delta_bias)                      (softplus if `delta_softplus`)
    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t x_t                    (zero-order hold for A, Euler for B)
    y_t = C_t · h_t + D x_t
    out_t = y_t * silu(z_t)                                   (if z is given)
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmamba.ops.backends import ScanGradients, ScanInputs, StepInputs


def state_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any input is float64, else float32: the state never runs in half precision."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def per_channel(matrix: Tensor, batch: int, channels: int, length: int) -> Tensor:
    """B or C in any accepted layout, (D, N) | (B, N, L) | (B, G, N, L), as (B, D, N, L)."""
    if matrix.dim() == 2:  # the same for all samples and times
        return matrix[None, :, :, None].expand(batch, -1, -1, length)
    if matrix.dim() == 3:
        matrix = matrix[:, None]
    matrix = matrix.repeat_interleave(channels // matrix.shape[1], dim=1)  # (B, G, N, L) -> (B, D, N, L)
    return matrix.expand(-1, -1, -1, length)


def selective_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan step by step. Arguments, shapes and results as `selective_scan_fn`."""
    dtype = state_dtype(u, delta, A, B, C, D, z, delta_bias, initial_state)
    batch, channels, length = u.shape
    x, step = u.to(dtype), delta.to(dtype).expand(-1, -1, length)
    B, C = (per_channel(matrix.to(dtype), batch, channels, length) for matrix in (B, C))
    if lengths is not None:  # what lies past a sample's length may be NaN, which autograd would multiply by 0
        outside = (torch.arange(length, device=u.device) >= lengths[:, None])[:, None]  # (B, 1, L)
        x, step = x.masked_fill(outside, 0.0), step.masked_fill(outside, 0.0)
        z = None if z is None else z.masked_fill(outside, 0.0)
        B, C = (matrix.masked_fill(outside[:, :, None], 0.0) for matrix in (B, C))
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    A, B_t, C_t = A.to(dtype), B.unbind(-1), C.unbind(-1)  # L times (B, D, N)
    h = x.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state.to(dtype)

    y: list[Tensor] = [x.new_zeros(batch, channels)] * length
    for t in reversed(range(length)) if reverse else range(length):
        h_next = torch.exp(step[:, :, t, None] * A) * h + (step[:, :, t] * x[:, :, t])[..., None] * B_t[t]
        y_t = (C_t[t] * h_next).sum(-1)
        if D is not None:
            y_t = y_t + D.to(dtype) * x[:, :, t]
        if z is not None:
            y_t = y_t * F.silu(z[:, :, t].to(dtype))
        if lengths is None:
            h, y[t] = h_next, y_t
        else:  # a sample that has ended keeps its state and gives 0
            inside = (t < lengths)[:, None]
            h = torch.where(inside[..., None], h_next, h)
            y[t] = torch.where(inside, y_t, torch.zeros_like(y_t))
    out = (torch.stack(y, dim=-1) if length else x.new_zeros(batch, channels, 0)).to(u.dtype)  # (B, D, L)
    return (out, h) if return_last_state else out


def route_scan_ref(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    table: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """One `selective_scan_ref` per route, each result put back in token order, and their sum.

    Arguments, shapes and result as `route_scan`; `table` is the plain (K, M) index tensor.
    """
    inputs = ScanInputs(
        u, delta, A, B[:, :, None], C[:, :, None], D, None, delta_bias, None, None, table, delta_softplus, False
    )
    return canonical_scan_ref(inputs)[0]


def canonical_scan_ref(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """The canonical form (`ScanInputs`), one `selective_scan_ref` per route: out (B, M, D), last state (B, K, D, N)."""
    u, delta, A, B, C, D, z, bias, initial_state, lengths, order, softplus, reverse = inputs
    tokens = u.shape[1]
    wide = u.to(state_dtype(u, A))  # the sum over routes is taken in the state's dtype
    total, states = torch.zeros_like(wide), []
    for k in range(A.shape[0]):
        walk = torch.arange(tokens, device=u.device) if order is None else order[k].long()

        def along(value: Tensor, walk: Tensor = walk, k: int = k) -> Tensor:
            """(B, K, [G,] M, W) -> (B, [G,] W, M) of route k; (K, D, N) -> (D, N)."""
            if value.dim() == 3:
                return value[k]
            value = value[:, k].transpose(-1, -2)
            return value.expand(*value.shape[:-1], tokens)[..., walk]

        walked, state = selective_scan_ref(
            wide[:, walk].transpose(1, 2),
            along(delta),
            A[k],
            along(B),
            along(C),
            None if D is None else D[k],
            delta_bias=None if bias is None else bias[k],
            delta_softplus=softplus,
            return_last_state=True,
            initial_state=None if initial_state is None else initial_state[:, k],
            lengths=lengths,
            reverse=reverse,
        )
        total = total + torch.zeros_like(wide).index_copy(1, walk, walked.transpose(1, 2))
        states.append(state)
    if z is not None:
        if lengths is not None:
            z = z.masked_fill((torch.arange(tokens, device=u.device) >= lengths[:, None])[..., None], 0.0)
        total = total * F.silu(z.to(total.dtype))
    return total.to(u.dtype), torch.stack(states, dim=1)


class ReferenceBackend:
    """The loops above as a back end, for comparing. Backward walks them again under autograd."""

    name, priority, saved_version = "reference", 0, 1

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return None

    def saved_elements(self, inputs: ScanInputs) -> int:
        return 0

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        out, state = canonical_scan_ref(inputs)
        state = state.clone(memory_format=torch.contiguous_format)
        return torch.empty_like(inputs.u).copy_(out), state, inputs.A.new_empty(0)

    def backward(self, inputs: ScanInputs, saved: Tensor, d_out: Tensor, d_state: Tensor) -> ScanGradients:
        names = [name for name in ScanGradients._fields if getattr(inputs, name) is not None]

        def run(*values: Tensor) -> tuple[Tensor, Tensor]:
            replaced: dict[str, Any] = dict(zip(names, values, strict=True))
            return canonical_scan_ref(inputs._replace(**replaced))

        # torch.func, because autograd does not record inside an operator's kernel.
        pull_back = torch.func.vjp(run, *(getattr(inputs, name) for name in names))[1]
        found: dict[str, Any] = dict.fromkeys(ScanGradients._fields)
        for name, gradient in zip(names, pull_back((d_out, d_state)), strict=True):
            like = getattr(inputs, name) if name in ("u", "delta", "z") else None
            found[name] = gradient.contiguous() if like is None else torch.empty_like(like).copy_(gradient)
        return ScanGradients(**found)

    def step(self, inputs: StepInputs) -> Tensor:
        state, x, dt, A, B, C, D, z, dt_bias, softplus = inputs
        out, after = selective_scan_ref(
            x[..., None],
            dt[..., None],
            A,
            B[..., None],
            C[..., None],
            D,
            None if z is None else z[..., None],
            dt_bias,
            softplus,
            return_last_state=True,
            initial_state=state,
        )
        state.copy_(after)
        return out[..., 0]
