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

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmamba.ops.backends import RouteInputs, ScanInputs


def state_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any input is float64, else float32: the state never runs in half precision."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def per_channel(matrix: Tensor, batch: int, channels: int, length: int) -> Tensor:
    """B or C in any accepted layout, (D, N) | (B, N, L) | (B, G, N, L), as (B, D, N, L)."""
    if matrix.dim() == 2:  # the same for all samples and times
        return matrix[None, :, :, None].expand(batch, -1, -1, length)
    if matrix.dim() == 3:
        matrix = matrix[:, None]
    return matrix.repeat_interleave(channels // matrix.shape[1], dim=1)  # (B, G, N, L) -> (B, D, N, L)


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
    x, step = u.to(dtype), delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        step = F.softplus(step)
    B_t = per_channel(B.to(dtype), batch, channels, length).unbind(-1)  # L times (B, D, N)
    C_t = per_channel(C.to(dtype), batch, channels, length).unbind(-1)
    A = A.to(dtype)
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
    total = torch.zeros_like(u)
    for k, order in enumerate(table.long()):
        walked = selective_scan_ref(
            u[:, order].transpose(1, 2),
            delta[:, k, order].transpose(1, 2),
            A[k],
            B[:, k, order].transpose(1, 2),
            C[:, k, order].transpose(1, 2),
            None if D is None else D[k],
            delta_bias=None if delta_bias is None else delta_bias[k],
            delta_softplus=delta_softplus,
        )
        assert isinstance(walked, Tensor)
        total = total + torch.zeros_like(u).index_copy(1, order, walked.transpose(1, 2))
    return total


class ReferenceBackend:
    """The loops above as a back end, for comparing."""

    name, priority = "reference", 0

    def why_not(self, device: torch.device) -> str | None:
        return None

    def selective_scan(self, inputs: ScanInputs) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, D, z, bias, softplus, initial_state, lengths, reverse = inputs
        result = selective_scan_ref(
            u, delta, A, B, C, D, z, bias, softplus, True, initial_state=initial_state, lengths=lengths, reverse=reverse
        )
        assert isinstance(result, tuple)
        return result

    def route_scan(self, inputs: RouteInputs) -> Tensor:
        u, delta, A, B, C, table, D, bias, softplus = inputs
        return route_scan_ref(u, delta, A, B, C, table.index, D, bias, softplus)
