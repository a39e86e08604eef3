# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton's language has no starred tuples)
"""The scan forward: one walk where programs fill the GPU, else three phases over chunks of the sequence.

    h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t        y_t = C_t · h_t + D x_t

1. `chunk_end_kernel`: every chunk from the state 0. What is left of the state before it decays by exp(A ΣΔ), so a
   chunk is summed up by its end state (N, D) and by ΣΔ (D), not by N D decays.
2. `carry_kernel`: the state before each chunk, one chunk after the other. Also the adjoint's carry, the other way.
3. `scan_forward_kernel`: the outputs, each chunk from the state before it. In one phase: from the initial state.

A program owns a block of channels (`access`), walks S steps at a time (their loads are in flight together) and what is
left of a chunk one by one, and waits for no other. Routes add up token by token: the programs of one launch own
disjoint tokens and channels, and each takes its routes in turn.

    B batch   M tokens   D channels   N states   K routes   S steps in flight
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from crossmamba.ops.triton.access import (
    Sample,
    channel_row,
    clear_rows,
    length_of,
    load_constant,
    load_rows,
    load_states,
    load_tile,
    mask_if,
    place,
    route_row,
    row,
    state_column,
    store_rows,
    store_tile,
    tokens_of,
    wide,
)
from crossmamba.ops.triton.numerics import decay_of, fma, sigmoid, step_size, sum_states

COUNTS = ("sizes", "first_route", "last_route", "first_batch", "batches")
"""Arguments that are only counted with: no variant of a kernel is compiled for their values."""


class Route(NamedTuple):
    """What a walk needs of its route, for states n. (Not the `Sample`: Triton 3.6 returns no None from a function.)

    step, decay: Δ and exp(Δ A) where Δ is constant. B, b_column, b: what drives the walk (the adjoint's is driven by
    C): the argument, pointers to token 0, and its value where that is constant.
    """

    n: Any
    A: Any
    bias: Any
    delta: Any
    delta_rows: Any
    step: Any
    decay: Any
    B: Any
    b_column: Any
    b: Any


@triton.jit
def load_route(sample, delta, A, B, delta_bias, n, at, channels, how: tl.constexpr, NAME: tl.constexpr):
    """A route's parameters for a program's channels; NAME says whether B or C drives the walk."""
    tile = load_tile(A, sample.k, n, at, channels, how)
    bias = channel_row(delta_bias, sample.k, at, channels)
    rows = route_row(delta, sample.b, sample.k, at)
    step, decay = 0.0, 0.0
    if how.constant_delta:
        step, _ = step_size(tl.load(rows, mask=at.in_d, other=0.0).to(tl.float32) + bias, how.softplus)
        decay = decay_of(step, tile)
    column = state_column(B, sample.b, sample.k, n, at)
    constant = load_constant(B, sample.b, sample.k, n, at, channels, how, NAME)
    return Route(n, tile, bias, delta, rows, step, decay, B, column, constant)


@triton.jit
def load_steps(route, token, at, how: tl.constexpr, S: tl.constexpr):
    """Δ of S steps and its derivative by the raw value (none where Δ is constant)."""
    steps, slopes = (), ()
    if how.constant_delta:
        for _ in tl.static_range(S):
            steps = steps + (route.step,)
    else:
        raw = load_rows(route.delta_rows, route.delta.token, token, at.in_d, S)
        for i in tl.static_range(S):
            step, slope = step_size(raw[i] + route.bias, how.softplus)
            steps = steps + (step,)
            slopes = slopes + (slope,)
    return steps, slopes


@triton.jit
def decay_at(step, route, how: tl.constexpr):
    """exp(Δ_t A)."""
    if how.constant_delta:
        return route.decay
    else:
        return decay_of(step, route.A)


@triton.jit
def advance(h, x, step, route, token, how: tl.constexpr):
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t."""
    b = load_states(route.B, route.b_column, token, route.n, how) if how.B == "token" else route.b
    return fma(decay_at(step, route, how), h, (step * x)[None, :] * b)


@triton.jit
def end_block(h, total, sample, route, u, u_rows, first, at, sizes, how: tl.constexpr, S: tl.constexpr):
    """The state and ΣΔ after S more steps."""
    token = tokens_of(first, sample, sizes, how, S)
    x = load_rows(u_rows, u.token, token, at.in_d, S)
    steps, _ = load_steps(route, token, at, how, S)
    for i in tl.static_range(S):
        h = advance(h, x[i], steps[i], route, token[i], how)
        total += steps[i]
    return h, total


@triton.jit(do_not_specialize=COUNTS)
def chunk_end_kernel(u, delta, A, B, delta_bias, lengths, order, ends, sums, channels, group_channels, sizes,
                     how: tl.constexpr):  # fmt: skip
    """Phase 1. ends (B, K, chunks, N, D): the state after each chunk if it was 0 before. sums (B, K, chunks, D): ΣΔ."""
    at, bk = place(sizes, sizes.chunks, group_channels, how)
    sample = Sample(bk // sizes.routes, bk % sizes.routes, length_of(lengths, bk // sizes.routes, sizes), order)
    start = at.chunk * sizes.chunk
    stop = tl.minimum(start + sizes.chunk, sample.length)
    whole = start + tl.maximum(stop - start, 0) // how.steps * how.steps

    n = tl.arange(0, how.padded)
    route = load_route(sample, delta, A, B, delta_bias, n, at, channels, how, "B")
    rows = row(u, sample.b, at)
    h, total = tl.full([how.padded, how.block], 0.0, tl.float32), tl.full([how.block], 0.0, tl.float32)
    for first in range(start, whole, how.steps):
        h, total = end_block(h, total, sample, route, u, rows, first, at, sizes, how, how.steps)
    for first in range(whole, stop):
        h, total = end_block(h, total, sample, route, u, rows, first, at, sizes, how, 1)
    index = wide(bk) * sizes.chunks + at.chunk
    store_tile(ends, index, h, n, at, channels, how)
    tl.store(sums + index * channels + at.d, total, mask=at.in_d)


@triton.jit(do_not_specialize=COUNTS)
def carry_kernel(states, sums, A, first_state, last_state, channels, group_channels, sizes, how: tl.constexpr,
                 BACKWARDS: tl.constexpr):  # fmt: skip
    """Phase 2. Turns the chunks' own ends (B, K, chunks, N, D) into what enters each chunk, in place.

    entering_{c+1} = exp(A ΣΔ_c) entering_c + end_c, from first_state (B, K, N, D) or 0 on; the last is last_state.
    BACKWARDS goes from the last chunk to the first: the adjoint. how.steps chunks are in flight.
    """
    S: tl.constexpr = how.steps
    at, bk = place(sizes, 1, group_channels, how)
    n = tl.arange(0, how.padded)
    tile = load_tile(A, bk % sizes.routes, n, at, channels, how)
    h = tl.full([how.padded, how.block], 0.0, tl.float32)
    if first_state is not None:
        h = load_tile(first_state, bk, n, at, channels, how)
    for first in range(0, sizes.chunks, S):
        ends, steps = (), ()
        for i in tl.static_range(S):  # all loads before the first store; past the last chunk the last again, unused
            c = tl.minimum(first + i, sizes.chunks - 1)
            index = wide(bk) * sizes.chunks + (sizes.chunks - 1 - c if BACKWARDS else c)
            ends = ends + (load_tile(states, index, n, at, channels, how),)
            steps = steps + (tl.load(sums + index * channels + at.d, mask=at.in_d, other=0.0),)
        for i in tl.static_range(S):
            if first + i < sizes.chunks:
                index = wide(bk) * sizes.chunks + (sizes.chunks - 1 - first - i if BACKWARDS else first + i)
                store_tile(states, index, h, n, at, channels, how)
                h = fma(decay_of(steps[i], tile), h, ends[i])
    if last_state is not None:
        store_tile(last_state, bk, h, n, at, channels, how)


class Outputs(NamedTuple):
    """What `forward_block` reads and writes besides the walk itself: arguments, and pointers to token 0.

    c: C where it is constant. total: the routes' sum so far, in float32; None where there is one route.
    """

    C: Any
    c_column: Any
    c: Any
    skip: Any
    u: Any
    u_rows: Any
    z: Any
    z_rows: Any
    out: Any
    out_rows: Any
    total: Any
    total_rows: Any


@triton.jit
def forward_block(h, sample, route, to, first, at, sizes, how: tl.constexpr, S: tl.constexpr):
    """The outputs of S steps, and the state after them."""
    k = sample.k
    token = tokens_of(first, sample, sizes, how, S)
    x = load_rows(to.u_rows, to.u.token, token, at.in_d, S)
    steps, _ = load_steps(route, token, at, how, S)
    if to.z is not None:
        gates = load_rows(to.z_rows, to.z.token, token, at.in_d, S)
    if to.total is not None:
        earlier = load_rows(to.total_rows, to.total.token, token, mask_if(0, k, at.in_d), S)
    y = ()
    for i in tl.static_range(S):
        h = advance(h, x[i], steps[i], route, token[i], how)
        c = load_states(to.C, to.c_column, token[i], route.n, how) if how.C == "token" else to.c
        value = sum_states(h * c) + to.skip * x[i]
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


@triton.jit
def walk_route(sample, route, to, entering, last_state, saved, start, stop, at, channels, sizes, how: tl.constexpr):
    """Walks a route from its chunk's start to its stop."""
    n = route.n
    bk = wide(sample.b) * sizes.routes + sample.k
    h = tl.full([how.padded, how.block], 0.0, tl.float32)
    if entering is not None:
        h = load_tile(entering, bk * sizes.chunks + at.chunk, n, at, channels, how)
    for segment in range(start, stop, how.checkpoint):
        if saved is not None:
            index = bk * tl.cdiv(sizes.tokens, how.checkpoint) + segment // how.checkpoint
            store_tile(saved, index, h, n, at, channels, how)
        last = tl.minimum(tl.minimum(segment + how.checkpoint, stop), sample.length)
        whole = segment + tl.maximum(last - segment, 0) // how.steps * how.steps
        for first in range(segment, whole, how.steps):
            h = forward_block(h, sample, route, to, first, at, sizes, how, how.steps)
        for first in range(whole, last):
            h = forward_block(h, sample, route, to, first, at, sizes, how, 1)
    if last_state is not None:
        store_tile(last_state, bk, h, n, at, channels, how)


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
    z_rows = row(z, b, at)
    total_rows = row(total, b, at)
    if lengths is not None:
        clear_rows(out_rows, out.token, tl.maximum(start, length), stop, at.in_d)
    n = tl.arange(0, how.padded)
    for k in range(first_route, last_route):
        sample = Sample(b, k, length, order)
        route = load_route(sample, delta, A, B, delta_bias, n, at, channels, how, "B")
        column, constant = state_column(C, b, k, n, at), load_constant(C, b, k, n, at, channels, how, "C")
        skip = channel_row(D, k, at, channels)
        to = Outputs(C, column, constant, skip, u, u_rows, z, z_rows, out, out_rows, total, total_rows)
        walk_route(sample, route, to, entering, last_state, saved, start, stop, at, channels, sizes, how)
        if total is not None:
            tl.debug_barrier()  # the next route reads what this one wrote
