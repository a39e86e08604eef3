# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton's language has no starred tuples)
"""The scan forward: one walk where programs fill the GPU, else three phases over chunks of the sequence.

    h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t        y_t = C_t · h_t + D x_t

1. `chunk_end_kernel`: every chunk from the state 0. What is left of the state before it decays by exp(A ΣΔ), so a
   chunk is summed up by its end state (N, D) and by ΣΔ (D), not by N D decays.
2. `carry_kernel`: the state before each chunk, one chunk after the other. Also the adjoint's carry, the other way.
3. `scan_forward_kernel`: the outputs, each chunk from the state before it. In one phase: from the initial state.

A program owns a block of channels (`access`), walks S steps at a time (their loads are in flight together) and what is
left of a chunk one by one, and waits for no other. Routes add up token by token: the programs of one launch own disjoint
tokens and channels, and each takes its routes in turn.

    B batch   M tokens   D channels   N states   K routes   S steps in flight
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossmamba.ops.triton.access import (
    channel_row,
    clear_rows,
    length_of,
    load_constants,
    load_rows,
    load_states,
    load_tiles,
    mask_if,
    place,
    route_row,
    row,
    state_rows_of,
    store_rows,
    store_tiles,
    tokens_of,
    wide,
    zero_tiles,
)
from crossmamba.ops.triton.numerics import decay_of, fma, sigmoid, step_size

COUNTS = ("sizes", "first_route", "last_route", "first_batch", "batches")
"""Arguments that are only counted with: no variant of a kernel is compiled for their values."""


class Route(NamedTuple):
    """What a program needs of a route: A, the rows' pointers, and whatever does not vary along the sequence.

    step, slope, decay: Δ, its derivative and exp(Δ A) where Δ is constant. b, c: B and C where they are.
    """

    A: Any
    bias: Any
    delta: Any
    step: Any
    slope: Any
    decay: Any
    b_rows: Any
    b: Any


@triton.jit
def load_route(delta, A, B, delta_bias, b, k, at, channels, how: tl.constexpr, KIND: tl.constexpr):
    """A route's parameters for a program's channels; B or C, of a KIND, for what drives the walk."""
    tiles = load_tiles(A, k, at, channels, how)
    bias = channel_row(delta_bias, k, at, channels)
    rows = route_row(delta, b, k, at)
    step, slope, decay, constants = None, None, None, None
    if how.constant_delta:
        step, slope = step_size(tl.load(rows, mask=at.in_d, other=0.0).to(tl.float32) + bias, how.softplus)
        decay = decay_of(step, tiles, how.parts)
    if KIND != "token":
        constants = load_constants(B, b, k, at, channels, how, KIND)
    return Route(tiles, bias, rows, step, slope, decay, state_rows_of(B, b, k, at, how), constants)


@triton.jit
def load_steps(route, delta, token, at, how: tl.constexpr, S: tl.constexpr):
    """Δ of S steps and its derivative by the raw value."""
    steps, slopes = (), ()
    if how.constant_delta:
        for i in tl.static_range(S):
            steps = steps + (route.step,)
            slopes = slopes + (route.slope,)
    else:
        raw = load_rows(route.delta, delta.token, token, at.in_d, S)
        for i in tl.static_range(S):
            step, slope = step_size(raw[i] + route.bias, how.softplus)
            steps = steps + (step,)
            slopes = slopes + (slope,)
    return steps, slopes


@triton.jit
def advance(h, x, step, route, B, token, how: tl.constexpr):
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t, for every part of a state."""
    parts: tl.constexpr = how.parts
    decay = route.decay
    if not how.constant_delta:
        decay = decay_of(step, route.A, how.parts)
    found = ()
    for part in tl.static_range(parts):
        b = load_states(B, route.b_rows, token, part, how) if how.B == "token" else route.b[part]
        found = found + (fma(decay[part], h[part], (step * x)[None, :] * b),)
    return found


@triton.jit
def end_block(h, total, route, u, u_rows, delta, B, first, length, order, k, at, sizes, how: tl.constexpr, S: tl.constexpr):
    """The state and ΣΔ after S more steps."""
    token = tokens_of(first, length, order, k, sizes, how, S)
    x = load_rows(u_rows, u.token, token, at.in_d, S)
    steps, _ = load_steps(route, delta, token, at, how, S)
    for i in tl.static_range(S):
        h = advance(h, x[i], steps[i], route, B, token[i], how)
        total += steps[i]
    return h, total


@triton.jit(do_not_specialize=COUNTS)
def chunk_end_kernel(u, delta, A, B, delta_bias, lengths, order, ends, sums, channels, group_channels, sizes,
                     how: tl.constexpr):  # fmt: skip
    """Phase 1. ends (B, K, chunks, N, D): the state after each chunk if it was 0 before. sums (B, K, chunks, D): ΣΔ."""
    at, bk = place(sizes, sizes.chunks, group_channels, how)
    b, k = bk // sizes.routes, bk % sizes.routes
    length = length_of(lengths, b, sizes)
    start = at.chunk * sizes.chunk
    stop = tl.minimum(start + sizes.chunk, length)
    whole = start + tl.maximum(stop - start, 0) // how.steps * how.steps

    route = load_route(delta, A, B, delta_bias, b, k, at, channels, how, how.B)
    rows = row(u, b, at)
    h, total = zero_tiles(how), tl.zeros([how.block], tl.float32)
    for first in range(start, whole, how.steps):
        h, total = end_block(h, total, route, u, rows, delta, B, first, length, order, k, at, sizes, how, how.steps)
    for first in range(whole, stop):
        h, total = end_block(h, total, route, u, rows, delta, B, first, length, order, k, at, sizes, how, 1)
    index = wide(bk) * sizes.chunks + at.chunk
    store_tiles(ends, index, h, at, channels, how)
    tl.store(sums + index * channels + at.d, total, mask=at.in_d)


@triton.jit(do_not_specialize=COUNTS)
def carry_kernel(states, sums, A, first_state, last_state, channels, group_channels, sizes, how: tl.constexpr,
                 BACKWARDS: tl.constexpr):  # fmt: skip
    """Phase 2. Turns the chunks' own ends (B, K, chunks, N, D) into what enters each chunk, in place.

    entering_{c+1} = exp(A ΣΔ_c) entering_c + end_c, from first_state (B, K, N, D) or 0 on; the last is last_state.
    BACKWARDS goes from the last chunk to the first: the adjoint. how.steps chunks are in flight.
    """
    S: tl.constexpr = how.steps
    parts: tl.constexpr = how.parts
    at, bk = place(sizes, 1, group_channels, how)
    tiles = load_tiles(A, bk % sizes.routes, at, channels, how)
    h = zero_tiles(how)
    if first_state is not None:
        h = load_tiles(first_state, bk, at, channels, how)
    for first in range(0, sizes.chunks, S):
        ends, steps = (), ()
        for i in tl.static_range(S):  # all loads before the first store; past the last chunk the last again, unused
            c = tl.minimum(first + i, sizes.chunks - 1)
            index = wide(bk) * sizes.chunks + (sizes.chunks - 1 - c if BACKWARDS else c)
            ends = ends + (load_tiles(states, index, at, channels, how),)
            steps = steps + (tl.load(sums + index * channels + at.d, mask=at.in_d, other=0.0),)
        for i in tl.static_range(S):
            if first + i < sizes.chunks:
                index = wide(bk) * sizes.chunks + (sizes.chunks - 1 - first - i if BACKWARDS else first + i)
                store_tiles(states, index, h, at, channels, how)
                decay = decay_of(steps[i], tiles, how.parts)
                carried = ()
                for part in tl.static_range(parts):
                    carried = carried + (fma(decay[part], h[part], ends[i][part]),)
                h = carried
    if last_state is not None:
        store_tiles(last_state, bk, h, at, channels, how)


class Outputs(NamedTuple):
    """What `forward_block` reads and writes besides the walk itself: Rows, with pointers to a sample's token 0.

    total: the routes' sum so far, in float32; None where there is one route.
    """

    C: Any
    c_rows: Any
    c: Any
    skip: Any
    z: Any
    z_rows: Any
    out: Any
    out_rows: Any
    total: Any
    total_rows: Any


@triton.jit
def forward_block(h, route, to, u, u_rows, delta, B, first, length, order, k, at, sizes, how: tl.constexpr, S: tl.constexpr):
    """The outputs of S steps, and the state after them."""
    parts: tl.constexpr = how.parts
    token = tokens_of(first, length, order, k, sizes, how, S)
    x = load_rows(u_rows, u.token, token, at.in_d, S)
    steps, _ = load_steps(route, delta, token, at, how, S)
    if to.z is not None:
        gates = load_rows(to.z_rows, to.z.token, token, at.in_d, S)
    if to.total is not None:
        earlier = load_rows(to.total_rows, to.total.token, token, mask_if(0, k, at.in_d), S)
    y = ()
    for i in tl.static_range(S):
        h = advance(h, x[i], steps[i], route, B, token[i], how)
        value = to.skip * x[i]
        for part in tl.static_range(parts):
            c = load_states(to.C, to.c_rows, token[i], part, how) if how.C == "token" else to.c[part]
            value += tl.sum(h[part] * c, axis=0)
        if to.z is not None:
            value = value * (gates[i] * sigmoid(gates[i]))
        if to.total is not None:
            value += earlier[i]
        y = y + (value,)
    if to.total is not None:
        store_rows(to.total_rows, to.total.token, token, y, mask_if(k, sizes.routes - 1, at.in_d), S)
        store_rows(to.out_rows, to.out.token, token, y, mask_if(sizes.routes - 2, k, at.in_d), S)
    else:
        store_rows(to.out_rows, to.out.token, token, y, at.in_d, S)
    return h


@triton.jit(do_not_specialize=COUNTS)
def scan_forward_kernel(u, delta, A, B, C, D, z, delta_bias, entering, lengths, order, out, total, last_state, saved,
                        channels, group_channels, sizes, first_route, last_route, how: tl.constexpr):  # fmt: skip
    """Phase 3, or the whole scan with one chunk: outputs of routes [first_route, last_route).

    entering (B, K, chunks, N, D): the state before each chunk, or None for 0. saved (B, K, M / checkpoint, N, D): gets
    the state before every `checkpoint` steps. out is the sum over routes; with several, total holds it in float32 until
    the last one. last_state (B, K, N, D).
    """
    at, b = place(sizes, sizes.chunks, group_channels, how)
    length = length_of(lengths, b, sizes)
    start = at.chunk * sizes.chunk
    stop = tl.minimum(start + sizes.chunk, sizes.tokens)
    u_rows, out_rows = row(u, b, at), row(out, b, at)
    z_rows = row(z, b, at) if z is not None else None
    total_rows = row(total, b, at) if total is not None else None
    if lengths is not None:
        clear_rows(out_rows, out.token, tl.maximum(start, length), stop, at.in_d)
    for k in range(first_route, last_route):
        bk = wide(b) * sizes.routes + k
        route = load_route(delta, A, B, delta_bias, b, k, at, channels, how, how.B)
        skip = channel_row(D, k, at, channels)
        c = load_constants(C, b, k, at, channels, how, how.C) if how.C != "token" else None
        to = Outputs(C, state_rows_of(C, b, k, at, how), c, skip, z, z_rows, out, out_rows, total, total_rows)
        h = zero_tiles(how)
        if entering is not None:
            h = load_tiles(entering, bk * sizes.chunks + at.chunk, at, channels, how)
        for segment in range(start, stop, how.checkpoint):
            if saved is not None:
                index = bk * tl.cdiv(sizes.tokens, how.checkpoint) + segment // how.checkpoint
                store_tiles(saved, index, h, at, channels, how)
            last = tl.minimum(tl.minimum(segment + how.checkpoint, stop), length)
            whole = segment + tl.maximum(last - segment, 0) // how.steps * how.steps
            for first in range(segment, whole, how.steps):
                h = forward_block(h, route, to, u, u_rows, delta, B, first, length, order, k, at, sizes, how, how.steps)
            for first in range(whole, last):
                h = forward_block(h, route, to, u, u_rows, delta, B, first, length, order, k, at, sizes, how, 1)
        if last_state is not None:
            store_tiles(last_state, bk, h, at, channels, how)
        if total is not None:
            tl.debug_barrier()  # the next route reads what this one wrote
