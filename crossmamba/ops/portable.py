"""The selective scan in plain PyTorch: runs wherever torch runs (CPU, CUDA, MPS), in bounded memory.

The recurrence is walked in chunks. Within a chunk everything that does not depend on the state is computed for all
steps at once, and the only sequential work is one fused multiply-add a step, in place. A long scan keeps the states at
the chunks' edges for backward and recomputes the rest, so extra memory is O(chunk) + O(L / chunk) and never
O(L * D * N). Autograd does not see the loop: indexing in an autograd loop costs O(L^2).

Layout inside: time first, channels last, so that a step is one contiguous block.
    L steps   K parameter sets (routes or groups)   S sequences   N states   D channels
    x, delta (L, K, S, D)     A (K, N, D)     B, C (L, K, S, N) or constant (K, N, D)     h (K, S, N, D)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from crossmamba.ops.backends import RouteInputs, ScanInputs
from crossmamba.ops.reference import state_dtype
from crossmamba.ops.routes import RouteTable

# Elements (steps x state size) of one chunk: three such float32 blocks stay within a core's cache share.
CHUNK_ELEMENTS = 1 << 17
MAX_CHUNK_STEPS = 256
# A scan with at most this many state elements in all keeps them for backward (32 MiB) and so saves walking twice.
KEPT_ELEMENTS = 1 << 23


def chunk_steps(state_elements: int) -> int:
    """Steps of one chunk for a state of that many elements (K * S * N * D)."""
    return max(4, min(MAX_CHUNK_STEPS, CHUNK_ELEMENTS // max(1, state_elements)))


def chunked_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t,  y_t = C_t · h_t, for all t.

    Args:
        x, delta: (L, K, S, D), float32 or float64; delta after bias and softplus.
        A: (K, N, D).
        B, C: (L, K, S, N), or (K, N, D) for a projection that is constant over time and samples.
        h0: (K, S, N, D), the state before the first step.

    Returns:
        y (L, K, S, D) and the last state (K, S, N, D). Gradients reach all six inputs; no second order.
    """
    with torch.autocast(x.device.type, enabled=False):
        y, h = _ChunkedScan.apply(x, delta, A, B, C, h0)
    return y, h


def _expand(projection: Tensor, steps: slice) -> Tensor:
    """One chunk of B or C, broadcastable to (T, K, S, N, D)."""
    return projection[None, :, None] if projection.dim() == 3 else projection[steps, ..., None]


def _decay(delta: Tensor, A: Tensor) -> Tensor:
    """exp(Δ_t A) for one chunk, (T, K, S, N, D)."""
    return (delta[:, :, :, None] * A[:, None]).exp_()


def _states(decay: Tensor, drive: Tensor, B: Tensor, steps: slice, h: Tensor) -> Tensor:
    """The states of one chunk with the one before it in front, (T + 1, K, S, N, D): h, h_1, ..., h_T."""
    states = decay.new_empty(decay.shape[0] + 1, *decay.shape[1:])
    states[0] = h
    torch.mul(drive[:, :, :, None], _expand(B, steps), out=states[1:])
    walk = states.unbind(0)
    for before, after, decay_t in zip(walk[:-1], walk[1:], decay.unbind(0), strict=True):
        after.addcmul_(decay_t, before)
    return states


class _ChunkedScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor
    ) -> tuple[Tensor, Tensor]:
        length, size = x.shape[0], chunk_steps(h0.numel())
        keep_all = length * h0.numel() <= KEPT_ELEMENTS
        y = torch.empty_like(x, memory_format=torch.contiguous_format)
        drive = x * delta
        kept, h = [], h0
        for start in range(0, length, size):
            steps = slice(start, min(start + size, length))
            states = _states(_decay(delta[steps], A), drive[steps], B, steps, h)
            kept.append(states if keep_all else h)
            h = states[-1].clone()  # a copy: an edge must not keep its whole chunk alive
            y[steps] = (states[1:] * _expand(C, steps)).sum(dim=3)
        ctx.save_for_backward(x, delta, A, B, C, *kept)
        ctx.chunk, ctx.keep_all = size, keep_all
        return y, h if length else h0.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor, ...]:
        x, delta, A, B, C, *kept = ctx.saved_tensors
        length, size = x.shape[0], ctx.chunk
        drive = x * delta
        d_drive, d_delta = torch.empty_like(drive), torch.empty_like(drive)
        dA, dB, dC = torch.zeros_like(A), torch.zeros_like(B), torch.zeros_like(C)
        carried = dh.contiguous()  # gradient of the state after the chunk, (K, S, N, D)
        for chunk in reversed(range(len(kept))):
            steps = slice(chunk * size, min((chunk + 1) * size, length))
            decay = _decay(delta[steps], A)
            states = kept[chunk] if ctx.keep_all else _states(decay, drive[steps], B, steps, kept[chunk])
            _accumulate(dC, steps, states[1:], dy[steps])
            # g_t = dL/dh_t = C_t dy_t + exp(Δ_{t+1} A) g_{t+1}, walked backwards.
            g = dy[steps, :, :, None] * _expand(C, steps)
            g[-1] += carried
            for g_t, g_next, decay_next in _backwards(g, decay):
                g_t.addcmul_(decay_next, g_next)
            carried = decay[0] * g[0]
            _accumulate(dB, steps, g, drive[steps])
            d_drive[steps] = (g * _expand(B, steps)).sum(dim=3)
            # The exponent's gradient, per state: q_t = g_t * exp(Δ_t A) * h_{t-1}.
            q = decay.mul_(g).mul_(states[:-1])
            d_delta[steps] = (q * A[:, None]).sum(dim=3)
            dA += q.mul_(delta[steps, :, :, None]).sum(dim=0).sum(dim=1)
        dx = d_drive * delta
        d_delta.addcmul_(d_drive, x)
        return dx, d_delta, dA, dB, dC, carried


def _backwards(states: Tensor, decay: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(states[t], states[t + 1], decay[t + 1]) for t from the last but one down to the first."""
    g, a = states.unbind(0), decay.unbind(0)
    return zip(reversed(g[:-1]), reversed(g[1:]), reversed(a[1:]), strict=True)


def _accumulate(gradient: Tensor, steps: slice, states: Tensor, channels: Tensor) -> None:
    """Adds one chunk's share to dB or dC, in place."""
    if gradient.dim() == 3:  # constant (K, N, D): summed over time and sequences
        gradient += (states * channels[:, :, :, None]).sum(dim=(0, 2))
    else:
        gradient[steps] = (states * channels[:, :, :, None]).sum(dim=-1)


class PortableBackend:
    """The chunked scan, with everything around the recurrence as ordinary torch operations."""

    name, priority = "portable", 10

    def why_not(self, device: torch.device) -> str | None:
        return None

    def selective_scan(self, inputs: ScanInputs) -> tuple[Tensor, Tensor]:
        u, delta, A, B, C, D, z, bias, softplus, initial_state, lengths, reverse = inputs
        dtype = state_dtype(u, delta, A, B, C, D, z, bias, initial_state)
        batch, channels, length = u.shape
        states = A.shape[1]
        groups = max([m.shape[1] for m in (B, C) if m.dim() == 4], default=1)
        outside = None  # (B, 1, L): steps past a sample's length. With Δ = 0 there, they leave the state alone.
        if lengths is not None:
            outside = (torch.arange(length, device=u.device) >= lengths[:, None])[:, None]

        def in_walking_order(value: Tensor, mask: Tensor | None) -> Tensor:
            value = value if mask is None else value.masked_fill(mask, 0.0)
            return value.flip(-1) if reverse else value

        def steps_first(value: Tensor) -> Tensor:  # (B, D, L) -> (L, G, B, D / G)
            value = in_walking_order(value.to(dtype), outside)
            return value.reshape(batch, groups, channels // groups, length).permute(3, 1, 0, 2).contiguous()

        def projection(value: Tensor) -> Tensor:  # B or C -> (L, G, B, N), or (G, N, D / G) if constant
            value = value.to(dtype)
            if value.dim() == 2:
                return by_group(value, groups)
            value = value[:, None] if value.dim() == 3 else value  # (B, G, N, L)
            value = in_walking_order(value, None if outside is None else outside[:, None])
            return value.permute(3, 1, 0, 2).expand(-1, groups, -1, -1).contiguous()

        h0 = u.new_zeros(batch, channels, states, dtype=dtype) if initial_state is None else initial_state.to(dtype)
        step = positive_step(delta.to(dtype), None if bias is None else bias[:, None], softplus)
        x = steps_first(u)
        y, h = chunked_scan(
            x,
            steps_first(step),
            by_group(A.to(dtype), groups),
            projection(B),
            projection(C),
            h0.reshape(batch, groups, channels // groups, states).permute(1, 0, 3, 2).contiguous(),
        )
        if D is not None:
            y = y + D.to(dtype).reshape(groups, 1, -1) * x
        out = y.permute(2, 1, 3, 0).reshape(batch, channels, length)
        out = out.flip(-1) if reverse else out
        out = out if z is None else out * F.silu(z.to(dtype))
        out = out if outside is None else out.masked_fill(outside, 0.0)
        return out.to(u.dtype), h.permute(1, 0, 3, 2).reshape(batch, channels, states)

    def route_scan(self, inputs: RouteInputs) -> Tensor:
        u, delta, A, B, C, table, D, bias, softplus = inputs
        dtype = state_dtype(u, delta, A, B, C, D, bias)
        step = positive_step(delta.to(dtype), None if bias is None else bias[:, None], softplus)
        x = u.to(dtype)
        y, _ = chunked_scan(
            _walk(x[:, None].expand(-1, table.routes, -1, -1), table),
            _walk(step, table),
            A.to(dtype).transpose(1, 2).contiguous(),
            _walk(B.to(dtype), table),
            _walk(C.to(dtype), table),
            x.new_zeros(table.routes, u.shape[0], A.shape[2], u.shape[2]),
        )
        out = _unwalk(y, table)
        if D is not None:
            out = out + D.to(dtype).sum(dim=0) * x
        return out.to(u.dtype)


def by_group(matrix: Tensor, groups: int) -> Tensor:
    """(D, N) -> (G, N, D / G)."""
    return matrix.reshape(groups, matrix.shape[0] // groups, matrix.shape[1]).transpose(1, 2).contiguous()


def positive_step(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    """Δ from its raw value: plus bias, then softplus, where asked."""
    if bias is not None:
        delta = delta + bias.to(delta.dtype)
    return F.softplus(delta) if softplus else delta


class _Reorder(torch.autograd.Function):
    """Rows of a tensor in another order; a permutation, so its gradient is the inverse one (no scatter-add)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return rows.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return _Reorder.apply(gradient, inverse, order), None, None


def _walk(tokens: Tensor, table: RouteTable) -> Tensor:
    """(B, K, M, C) in token order -> (L, K, B, C) in the order of each route."""
    rows = tokens.permute(2, 1, 0, 3).flatten(0, 1)  # (M * K, B, C)
    return _Reorder.apply(rows, table.rows_by_step, table.rows_by_token).unflatten(0, (table.tokens, table.routes))


def _unwalk(steps: Tensor, table: RouteTable) -> Tensor:
    """(L, K, B, C) -> (B, M, C): each token's results back at the token, summed over the routes."""
    rows = _Reorder.apply(steps.flatten(0, 1), table.rows_by_token, table.rows_by_step)
    return rows.unflatten(0, (table.tokens, table.routes)).sum(dim=1).transpose(0, 1)
