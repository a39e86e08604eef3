# mypy: ignore-errors
"""One step of a scan, its state changed in place: what generating token by token runs.

    h' = exp(Δ A) h + Δ x B        y = (C · h' + D x) silu(z)

Reading and writing the state (B, D, N) is nearly all the work, so here states are neighbours in a tile (block, N).
"""

from __future__ import annotations

import triton
import triton.language as tl

from crossmamba.ops.triton.access import wide
from crossmamba.ops.triton.numerics import LOG2_E, exp2, fma, sigmoid, step_size


@triton.jit(do_not_specialize=("blocks", "group_channels"))
def step_kernel(state, x, dt, A, B, C, D, z, dt_bias, out, channels, blocks, group_channels,
                N: tl.constexpr, PADDED_N: tl.constexpr, BLOCK_D: tl.constexpr, SOFTPLUS: tl.constexpr):  # fmt: skip
    """state (B, D, N) and A (D, N) contiguous; x, dt, z (B, D) and B, C (B, G, N) with their strides."""
    b = wide(tl.program_id(0)) // blocks
    d = (tl.program_id(0) % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, PADDED_N)
    in_d, in_n = d < channels, (n < N)[None, :]
    in_tile = in_d[:, None] & in_n
    group = (d // group_channels)[:, None]

    inner = d[:, None] * N + n[None, :]
    h = tl.load(state + b * channels * N + inner, mask=in_tile, other=0.0)
    A_d = tl.load(A + inner, mask=in_tile, other=0.0)
    b_d = tl.load(B.pointer + b * B.batch + group * B.group + n[None, :] * B.state, mask=in_tile, other=0.0)
    c_d = tl.load(C.pointer + b * C.batch + group * C.group + n[None, :] * C.state, mask=in_tile, other=0.0)
    x_d = tl.load(x.pointer + b * x.batch + d * x.channel, mask=in_d, other=0.0).to(tl.float32)
    raw = tl.load(dt.pointer + b * dt.batch + d * dt.channel, mask=in_d, other=0.0).to(tl.float32)
    if dt_bias is not None:
        raw += tl.load(dt_bias + d, mask=in_d, other=0.0)
    step, _ = step_size(raw, SOFTPLUS)
    h = fma(exp2((step * LOG2_E)[:, None] * A_d), h, (step * x_d)[:, None] * b_d.to(tl.float32))
    tl.store(state + b * channels * N + inner, h, mask=in_tile)
    y = tl.sum(h * c_d.to(tl.float32), axis=1)
    if D is not None:
        y += tl.load(D + d, mask=in_d, other=0.0) * x_d
    if z is not None:
        gate = tl.load(z.pointer + b * z.batch + d * z.channel, mask=in_d, other=0.0).to(tl.float32)
        y = y * (gate * sigmoid(gate))
    tl.store(out + b * channels + d, y.to(out.dtype.element_ty), mask=in_d)
