# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton's language has no starred tuples)
"""Phase 1 of the scan backward: each chunk's own share of the adjoint.

    g_t = C_t dy_t + a_{t+1} g_{t+1},  a_t = exp(Δ_t A)

What enters a chunk from its right is a_{t+1} g_{t+1} of the chunk there, carried by `carry_kernel`, backwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossmamba.ops.triton.access import (
    Sample,
    length_of,
    load_rows,
    load_states,
    place,
    row,
    store_tile,
    tokens_of,
    wide,
)
from crossmamba.ops.triton.kernels_forward import COUNTS, decay_at, load_route, load_steps
from crossmamba.ops.triton.numerics import fma, sigmoid


class Gradients(NamedTuple):
    """The gradients from above, and the gate that they pass: arguments, and pointers to token 0."""

    d_out: Any
    d_out_rows: Any
    z: Any
    z_rows: Any


@triton.jit
def output_gradients(above, token, at, S: tl.constexpr):
    """The gradients of y for S steps: the output's, times silu(z) where there is a gate."""
    found = load_rows(above.d_out_rows, above.d_out.token, token, at.in_d, S)
    if above.z is not None:
        gates = load_rows(above.z_rows, above.z.token, token, at.in_d, S)
        gated = ()
        for i in tl.static_range(S):
            gated = gated + (found[i] * (gates[i] * sigmoid(gates[i])),)
        found = gated
    return found


@triton.jit
def adjoint_block(g, total, sample, route, to, first, at, sizes, how: tl.constexpr, S: tl.constexpr):
    """a_t g_t at the first of S steps, from what enters after the last; and ΣΔ. The route is driven by C."""
    token = tokens_of(first, sample, sizes, how, S)
    dy = output_gradients(to, token, at, S)
    steps, _ = load_steps(route, token, at, how, S)
    for i in tl.static_range(S - 1, -1, -1):
        c = load_states(route.B, route.b_column, token[i], route.n, how) if how.C == "token" else route.b
        g = decay_at(steps[i], route, how) * fma(dy[i][None, :], c, g)
        total += steps[i]
    return g, total


@triton.jit(do_not_specialize=COUNTS)
def chunk_adjoint_kernel(delta, A, C, z, delta_bias, lengths, order, d_out, ends, sums, channels, group_channels, sizes,
                         how: tl.constexpr):  # fmt: skip
    """Phase 1. ends (B, K, chunks, N, D): a_1 g_1 of each chunk if nothing enters from its right. sums: ΣΔ."""
    at, bk = place(sizes, sizes.chunks, group_channels, how)
    sample = Sample(bk // sizes.routes, bk % sizes.routes, length_of(lengths, bk // sizes.routes, sizes), order)
    start = at.chunk * sizes.chunk
    stop = tl.minimum(start + sizes.chunk, sample.length)
    blocks = tl.maximum(stop - start, 0) // how.steps
    whole = start + blocks * how.steps

    n = tl.arange(0, how.padded)
    route = load_route(sample, delta, A, C, delta_bias, n, at, channels, how, "C")
    to = Gradients(d_out, row(d_out, sample.b, at), z, row(z, sample.b, at))
    g, total = tl.full([how.padded, how.block], 0.0, tl.float32), tl.full([how.block], 0.0, tl.float32)
    for behind in range(0, stop - whole):
        g, total = adjoint_block(g, total, sample, route, to, stop - 1 - behind, at, sizes, how, 1)
    for behind in range(0, blocks):
        first = whole - (behind + 1) * how.steps
        g, total = adjoint_block(g, total, sample, route, to, first, at, sizes, how, how.steps)
    index = wide(bk) * sizes.chunks + at.chunk
    store_tile(ends, index, g, n, at, channels, how)
    tl.store(sums + index * channels + at.d, total, mask=at.in_d)
