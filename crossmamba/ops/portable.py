"""The selective scan in plain PyTorch: runs wherever torch runs (CPU, CUDA, MPS), in bounded memory.

The recurrence is walked in chunks. Within a chunk everything that does not depend on the state is computed for all
steps at once, and the only sequential work is one fused multiply-add a step, in place. A long scan keeps the states at
the chunks' edges for backward and recomputes the rest, so extra memory is O(chunk) + O(L / chunk) and never
O(L * D * N). Autograd does not see the loop: indexing in an autograd loop costs O(L^2).

Layout inside (`portable_layout` converts): time first, channels last, so that a step is one contiguous block.
    L steps   P parameter sets (routes times groups)   S sequences   N states   C channels of one set
    x (L, P, S, C)     delta (L or 1, P, S, C)     A (P, N, C)     B, C (L or 1, P, S, N) or constant (P, N, C)
    h (P, S, N, C)     A leading 1 means constant along the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmamba.ops.backends import PORTABLE_PRIORITY, ScanGradients, ScanInputs, StepInputs
from crossmamba.ops.portable_layout import Layout, Operands, laid_out_like

# Elements (steps x state size) of one chunk: three such float32 blocks stay within a core's cache share.
CHUNK_ELEMENTS = 1 << 17
MAX_CHUNK_STEPS = 256
# A scan with at most this many state elements in all keeps them for backward (32 MiB) and so saves walking twice.
KEPT_ELEMENTS = 1 << 23


def chunk_steps(state_elements: int) -> int:
    """Steps of one chunk for a state of that many elements (P * S * N * C)."""
    return torch.sym_max(4, torch.sym_min(MAX_CHUNK_STEPS, CHUNK_ELEMENTS // torch.sym_max(1, state_elements)))


def keeps_all(steps: int, state_elements: int) -> int:
    """1 if a scan keeps the state of every step for backward, 0 if only those at the chunks' edges."""
    return torch.sym_min(1, KEPT_ELEMENTS // torch.sym_max(1, steps * state_elements))


def kept_states(steps: int, state_elements: int) -> int:
    """How many states are kept for backward: arithmetic without branches, for symbolic sizes (one may stay unused)."""
    every = keeps_all(steps, state_elements)
    return every * (steps + 1) + (1 - every) * (steps // chunk_steps(state_elements) + 1)


def scan_forward(w: Operands, kept: Tensor | None) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t,  y_t = C_t · h_t, for all t.

    Args:
        w: the operands, float32 or float64; delta after bias and softplus.
        kept: (kept_states, P, S, N, C), filled with the states that `scan_backward` needs; or None.

    Returns:
        y (L, P, S, C) and the last state (P, S, N, C), which may be a view.
    """
    length, size = w.x.shape[0], chunk_steps(w.h0.numel())
    every = kept is not None and keeps_all(length, w.h0.numel()) == 1
    states = w.h0.new_empty(0 if every else min(size, length) + 1, *w.h0.shape)
    y = torch.empty_like(w.x)
    drive = w.x * w.delta
    decay = _decay(w.delta, w.A) if _constant(w.delta) else None
    h = w.h0
    for chunk, start in enumerate(range(0, length, size)):
        steps = slice(start, min(start + size, length))
        if kept is not None and every:
            states = kept[start:]
        elif kept is not None:
            kept[chunk] = h
        walked = _walk(w, steps, drive, _decay(w.delta[steps], w.A) if decay is None else decay, h, states)
        y[steps] = (walked[1:] * _expand(w.C, steps)).sum(dim=3)
        h = walked[-1]
    return y, h


def scan_backward(w: Operands, kept: Tensor, dy: Tensor, dh: Tensor) -> Operands:
    """Gradients of all operands, from those of y (L, P, S, C) and of the last state (P, S, N, C)."""
    length, size = w.x.shape[0], chunk_steps(w.h0.numel())
    every = keeps_all(length, w.h0.numel()) == 1
    buffer = w.h0.new_empty(0 if every else min(size, length) + 1, *w.h0.shape)
    drive = w.x * w.delta
    invariant = _decay(w.delta, w.A) if _constant(w.delta) else None
    d_drive, dA = torch.empty_like(drive), torch.zeros_like(w.A)
    d_delta, dB, dC = (_sum_or_steps(value) for value in (w.delta, w.B, w.C))
    carried = dh  # gradient of the state after the chunk
    for chunk in reversed(range(-(-length // size))):
        steps = slice(chunk * size, min((chunk + 1) * size, length))
        decay = _decay(w.delta[steps], w.A) if invariant is None else invariant
        if every:
            states = kept[steps.start : steps.stop + 1]
        else:
            states = _walk(w, steps, drive, decay, kept[chunk], buffer)
        _accumulate(dC, steps, states[1:], dy[steps])
        # g_t = dL/dh_t = C_t dy_t + exp(Δ_{t+1} A) g_{t+1}, walked backwards.
        g = dy[steps, :, :, None] * _expand(w.C, steps)
        g[-1] += carried
        for g_t, g_next, decay_next in _backwards(g, decay):
            g_t.addcmul_(decay_next, g_next)
        carried = decay[0] * g[0]
        _accumulate(dB, steps, g, drive[steps])
        d_drive[steps] = (g * _expand(w.B, steps)).sum(dim=3)
        # The exponent's gradient, per state: q_t = g_t * exp(Δ_t A) * h_{t-1}.
        q = g.mul_(decay).mul_(states[:-1])
        if invariant is None:
            d_delta[steps] = (q * w.A[:, None]).sum(dim=3)
            dA += q.mul_(w.delta[steps, :, :, None]).sum(dim=0).sum(dim=1)
        else:
            q = q.sum(dim=0, keepdim=True)
            d_delta += (q * w.A[:, None]).sum(dim=3)
            dA += q.mul_(w.delta[:, :, :, None])[0].sum(dim=1)
    if invariant is None:
        d_delta.addcmul_(d_drive, w.x)
    else:
        d_delta += (d_drive * w.x).sum(dim=0, keepdim=True)
    return Operands(d_drive.mul_(w.delta), d_delta, dA, dB, dC, carried)


def _constant(value: Tensor) -> bool:
    """Whether an operand (L or 1, P, S, .) is constant along the sequence."""
    return value.shape[0] == 1


def _sum_or_steps(value: Tensor) -> Tensor:
    """Memory for an operand's gradient: zeros to add to where it is a sum over steps, else for one value a step."""
    return torch.zeros_like(value) if value.dim() == 3 or _constant(value) else torch.empty_like(value)


def _expand(projection: Tensor, steps: slice) -> Tensor:
    """One chunk of B or C, broadcastable to (T, P, S, N, C)."""
    if projection.dim() == 3:
        return projection[None, :, None]
    return (projection if _constant(projection) else projection[steps])[..., None]


def _decay(delta: Tensor, A: Tensor) -> Tensor:
    """exp(Δ_t A) for one chunk, (T, P, S, N, C)."""
    return (delta[:, :, :, None] * A[:, None]).exp_()


def _walk(w: Operands, steps: slice, drive: Tensor, decay: Tensor, h: Tensor, memory: Tensor) -> Tensor:
    """The states of one chunk with the one before it in front, (T + 1, P, S, N, C): h, h_1, ..., h_T, in `memory`."""
    drive = drive[steps]
    states = memory[: drive.shape[0] + 1]
    states[0] = h
    torch.mul(drive[:, :, :, None], _expand(w.B, steps), out=states[1:])
    walk = states.unbind(0)
    for before, after, decay_t in zip(walk[:-1], walk[1:], decay.expand_as(states[1:]).unbind(0), strict=True):
        after.addcmul_(decay_t, before)
    return states


def _backwards(states: Tensor, decay: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(states[t], states[t + 1], decay[t + 1]) for t from the last but one down to the first."""
    g, a = states.unbind(0), decay.expand_as(states).unbind(0)
    return zip(reversed(g[:-1]), reversed(g[1:]), reversed(a[1:]), strict=True)


def _accumulate(gradient: Tensor, steps: slice, states: Tensor, channels: Tensor) -> None:
    """Adds one chunk's share to dB or dC, in place."""
    if gradient.dim() == 3:  # constant (P, N, C): summed over time and sequences
        gradient += (states * channels[:, :, :, None]).sum(dim=(0, 2))
    elif _constant(gradient):
        gradient += (states * channels[:, :, :, None]).sum(dim=-1).sum(dim=0, keepdim=True)
    else:
        gradient[steps] = (states * channels[:, :, :, None]).sum(dim=-1)


class PortableBackend:
    """The chunked scan, with everything around the recurrence as ordinary torch operations."""

    name, priority, saved_version = "portable", PORTABLE_PRIORITY, 1

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        return None

    def saved_elements(self, inputs: ScanInputs) -> int:
        batch, tokens, channels = inputs.u.shape
        state = batch * inputs.A.shape[0] * channels * inputs.A.shape[2]
        gated = 0 if inputs.z is None else batch * tokens * channels  # what the gate multiplies
        return kept_states(tokens, state) * state + gated

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        layout = Layout(inputs)
        saved = inputs.A.new_empty(self.saved_elements(inputs) if save else 0)
        w = layout.operands()
        y, h = scan_forward(w, _kept(saved, w) if save else None)
        out, plain = layout.finish(y)
        if save and inputs.z is not None:
            _kept_plain(saved, inputs.u).copy_(plain)
        return laid_out_like(out, inputs.u), layout.from_state(h), saved

    def backward(self, inputs: ScanInputs, saved: Tensor, d_out: Tensor, d_state: Tensor) -> ScanGradients:
        layout = Layout(inputs)
        w = layout.operands()
        d_total = layout.tokens(d_out)
        d_z = None
        if inputs.z is not None:
            z = layout.tokens(inputs.z)
            d_gate = torch.ops.aten.silu_backward(d_total * _kept_plain(saved, inputs.u), z)
            d_z = laid_out_like(layout.masked(d_gate), inputs.z)
            d_total = d_total * F.silu(z)
        found = scan_backward(w, _kept(saved, w), layout.spread(d_total), layout.to_state(d_state))
        d_u = layout.merge(found.x)
        d_D = None
        if inputs.D is not None:
            d_u = torch.empty_like(inputs.u, dtype=layout.dtype).copy_(d_u).addcmul_(inputs.D.sum(dim=0), d_total)
            # Every route visits every token once, so the skip's gradient is the same for all.
            d_D = (d_total * layout.tokens(inputs.u)).sum(dim=(0, 1)).repeat(layout.routes, 1)
        d_delta, d_bias = layout.delta_gradient(found.delta)
        return ScanGradients(
            laid_out_like(d_u, inputs.u),
            d_delta,
            layout.join_constant(found.A),
            layout.projection_gradient(inputs.B, found.B),
            layout.projection_gradient(inputs.C, found.C),
            d_D,
            d_z,
            d_bias,
            None if inputs.initial_state is None else layout.from_state(found.h0),
        )

    def step(self, inputs: StepInputs) -> Tensor:
        state, x, dt, A, B, C, D, z, dt_bias, softplus = inputs
        dtype = state.dtype
        wide, delta = x.to(dtype), dt.to(dtype)
        if dt_bias is not None:
            delta = delta + dt_bias
        if softplus:
            delta = F.softplus(delta)
        state.mul_(torch.exp(delta[..., None] * A)).addcmul_((delta * wide)[..., None], _to_channels(B, state))
        y = (state * _to_channels(C, state)).sum(dim=-1)
        if D is not None:
            y = y + D * wide
        if z is not None:
            y = y * F.silu(z.to(dtype))
        return y.to(x.dtype)


def _kept(saved: Tensor, w: Operands) -> Tensor:
    """The kept states in front of `saved`, (kept_states, P, S, N, C)."""
    rows = kept_states(w.x.shape[0], w.h0.numel())
    return saved[: rows * w.h0.numel()].view(rows, *w.h0.shape)


def _kept_plain(saved: Tensor, u: Tensor) -> Tensor:
    """What the gate multiplies (B, M, D), at the end of `saved`, lying in memory as the output does."""
    return saved[saved.numel() - u.numel() :].as_strided(u.shape, torch.empty_like(u).stride())


def _to_channels(projection: Tensor, state: Tensor) -> Tensor:
    """(B, N) or (B, G, N) -> broadcastable to the state (B, D, N), in its dtype."""
    projection = projection.to(state.dtype)
    if projection.dim() == 2:
        return projection[:, None]
    return projection.repeat_interleave(state.shape[1] // projection.shape[1], dim=1)
