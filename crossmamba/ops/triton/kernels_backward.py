# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton's language has no starred tuples)
"""The scan backward, without atomics: every sum is taken in one order, so the same call gives the same bits.

With g_t the gradient of the loss by h_t, and a_t = exp(Δ_t A):

    g_t = C_t dy_t + a_{t+1} g_{t+1}        walked backwards, from the gradient of the last state
    q_t = g_t a_t h_{t-1}                    the gradient by the exponent Δ_t A
    dC_t = Σ_d dy_t h_t        dB_t = Σ_d g_t Δ_t x_t        dA = Σ_t Δ_t q_t
    dx_t = Δ_t Σ_n g_t B_t + D dy_t        dΔ_t = x_t Σ_n g_t B_t + Σ_n A q_t

States are needed in reverse, and registers hold a few of them. Forward keeps every `checkpoint`-th; a program walks
from there, leaving the state before every S steps in scratch of its own, and then takes these blocks from the last to
the first. It turns a block for a few states n at a time: it walks the S steps again, keeping their states in registers,
and walks back. g and the sums over time wait in scratch for their states' turn. What is left of a segment after its
blocks of S steps is turned step by step.

Sums over channels (dB, dC) are those of `kernels_sums`. Sums over time (dA, dD, the bias, and dΔ, dB, dC where these
are constant) leave a program as one partial sum for each sample and chunk, added by torch.sum in an order as fixed.

Three phases as in forward where one does not fill the GPU: `kernels_adjoint` gives each chunk's own share of g, and
`carry_kernel`, backwards, what enters each chunk from its right.

    B batch   M tokens   D channels   N states   K routes   G groups   S steps in a block
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
from crossmamba.ops.triton.kernels_adjoint import Gradients, output_gradients
from crossmamba.ops.triton.kernels_forward import COUNTS, Route, end_block, load_route, load_steps
from crossmamba.ops.triton.kernels_sums import merge_steps, store_channel_sums
from crossmamba.ops.triton.numerics import decay_of, fma, sigmoid, step_size


class Turn(NamedTuple):
    """What a program reads and writes of one sample and route: the kernel's arguments, and pointers to token 0.

    scratch: the program's own. sums_row: row of step 0 in parts. tiles: how.parts, as a number that the compiler does
    not know. Loops over states that touch (N, D) tensors end there: it would turn them into straight code, and keep the
    addresses of all states in registers through the whole walk.
    """

    sample: Any
    delta: Any
    A: Any
    B: Any
    C: Any
    delta_bias: Any
    skip: Any
    u: Any
    u_rows: Any
    above: Any
    d_u: Any
    d_u_rows: Any
    d_u_total: Any
    total_rows: Any
    d_delta: Any
    d_delta_rows: Any
    d_z: Any
    d_z_rows: Any
    scratch: Any
    parts: Any
    sums_row: Any
    tiles: Any


A_SLOT = tl.constexpr(0)
G_SLOT = tl.constexpr(1)
SUM_A_SLOT = tl.constexpr(2)
SUM_B_SLOT = tl.constexpr(3)
SUM_C_SLOT = tl.constexpr(4)
STATE_SLOTS = tl.constexpr(5)
"""Slots of a program's scratch: A, g, the sums over time, and then the states before each block."""


@triton.jit
def slot_tile(to, slot, n, how: tl.constexpr):
    """Pointers to states n in a slot (padded N, block) of a program's scratch: one address and constant offsets."""
    width: tl.constexpr = how.width
    lane = tl.multiple_of(tl.arange(0, how.block), width)
    return to.scratch + slot * (how.padded * how.block) + n[:, None] * how.block + lane[None, :]


@triton.jit
def leave_states(to, saved, segment, last, whole, at, channels, sizes, how: tl.constexpr):
    """Walks a segment and leaves in scratch the state before each block, whole or of one step; 16 states at a time."""
    count: tl.constexpr = min(how.padded, 16)
    blocks = (whole - segment) // how.steps
    bk = wide(to.sample.b) * sizes.routes + to.sample.k
    index = bk * tl.cdiv(sizes.tokens, how.checkpoint) + segment // how.checkpoint
    total = tl.full([how.block], 0.0, tl.float32)  # ΣΔ is of no use here, and the compiler drops it
    part_size: tl.constexpr = how.padded // how.parts
    for part in range(0, to.tiles if how.parts > 1 else 1):
        m = part * part_size + tl.arange(0, part_size)
        tl.store(slot_tile(to, STATE_SLOTS, m, how), load_tile(saved, index, m, at, channels, how))
    tl.debug_barrier()
    for walked in range(0, how.padded // count):
        n = walked * count + tl.arange(0, count)
        route = load_route(to.sample, to.delta, to.A, to.B, to.delta_bias, n, at, channels, how, "B")
        A = tl.load(slot_tile(to, A_SLOT, n, how))
        decay = decay_of(route.step, A) if how.constant_delta else 0.0
        route = Route(
            n, A, route.bias, route.delta, route.delta_rows, route.step, decay, route.B, route.b_column, route.b
        )
        h = tl.load(slot_tile(to, STATE_SLOTS, n, how))
        for slot in range(0, blocks):
            tl.store(slot_tile(to, STATE_SLOTS + slot, n, how), h)
            first = segment + slot * how.steps
            h, total = end_block(h, total, to.sample, route, to.u, to.u_rows, first, at, sizes, how, how.steps)
        for first in range(whole, last):
            tl.store(slot_tile(to, STATE_SLOTS + blocks + first - whole, n, how), h)
            h, total = end_block(h, total, to.sample, route, to.u, to.u_rows, first, at, sizes, how, 1)


@triton.jit
def turn_part(along_b, along_a, y, x, steps, dy, token, first, slot, part, to, at, channels, how: tl.constexpr,
              S: tl.constexpr):  # fmt: skip
    """Turns a block for one part of the states.

    Returns, for each step and with this part's share added, Σ_n g B, Σ_n A q (not where Δ is constant), and y (where
    there is a gate).
    """
    count: tl.constexpr = how.padded // how.parts
    n = part * count + tl.arange(0, count)
    A = tl.load(slot_tile(to, A_SLOT, n, how))
    b, k = to.sample.b, to.sample.k
    b_column, constant_b = state_column(to.B, b, k, n, at), load_constant(to.B, b, k, n, at, channels, how, "B")
    c_column, constant_c = state_column(to.C, b, k, n, at), load_constant(to.C, b, k, n, at, channels, how, "C")
    h = tl.load(slot_tile(to, STATE_SLOTS + slot, n, how))
    decayed, with_y = (), ()
    for i in tl.static_range(S):
        b_t = load_states(to.B, b_column, token[i], n, how) if how.B == "token" else constant_b
        decayed = decayed + (decay_of(steps[i], A) * h,)
        h = fma((steps[i] * x[i])[None, :], b_t, decayed[i])
        if to.above.z is not None:
            c_t = load_states(to.C, c_column, token[i], n, how) if how.C == "token" else constant_c
            with_y = with_y + (y[i] + tl.sum(h * c_t, axis=0),)
    tl.debug_barrier()  # B and C are loaded again below: kept from above they would crowd out the rest

    g, sum_A = tl.load(slot_tile(to, G_SLOT, n, how)), tl.load(slot_tile(to, SUM_A_SLOT, n, how))
    sum_b, sum_c = tl.full([count, how.block], 0.0, tl.float32), tl.full([count, how.block], 0.0, tl.float32)
    with_b, with_a, waiting = (), (), ()
    for i in tl.static_range(S - 1, -1, -1):
        b_t = load_states(to.B, b_column, token[i], n, how) if how.B == "token" else constant_b
        c_t = load_states(to.C, c_column, token[i], n, how) if how.C == "token" else constant_c
        drive = (steps[i] * x[i])[None, :]
        g = fma(dy[i][None, :], c_t, g)
        q = g * decayed[i]
        with_b = (along_b[i] + tl.sum(g * b_t, axis=0),) + with_b
        if how.constant_delta:
            sum_A += q
        else:
            sum_A = fma(steps[i][None, :], q, sum_A)
            with_a = (along_a[i] + tl.sum(A * q, axis=0),) + with_a
        by_b, by_c = g * drive, dy[i][None, :] * fma(drive, b_t, decayed[i])
        sum_b += by_b
        sum_c += by_c
        if to.parts is not None:
            waiting = merge_steps(waiting, by_b, by_c, i, how, S)
        g = decay_of(steps[i], A) * g
    tl.store(slot_tile(to, G_SLOT, n, how), g)
    tl.store(slot_tile(to, SUM_A_SLOT, n, how), sum_A)
    if how.B != "token":
        tl.store(slot_tile(to, SUM_B_SLOT, n, how), sum_b + tl.load(slot_tile(to, SUM_B_SLOT, n, how)))
    if how.C != "token":
        tl.store(slot_tile(to, SUM_C_SLOT, n, how), sum_c + tl.load(slot_tile(to, SUM_C_SLOT, n, how)))
    if to.parts is not None:
        store_channel_sums(to.parts, waiting[0], to.sums_row + first, part, how, S)
    return with_b, along_a if how.constant_delta else with_a, with_y if to.above.z is not None else y


@triton.jit
def turn_block(sums, slot, first, to, at, channels, sizes, how: tl.constexpr, S: tl.constexpr):
    """The gradients of S steps; the sums over time for D and for Δ with theirs added."""
    token = tokens_of(first, to.sample, sizes, how, S)
    x = load_rows(to.u_rows, to.u.token, token, at.in_d, S)
    dy = output_gradients(to.above, token, at, S)
    route = load_route(to.sample, to.delta, to.A, to.B, to.delta_bias, tl.arange(0, 1), at, channels, how, "B")
    steps, slopes = load_steps(route, token, at, how, S)
    along_b, along_a, y = (), (), ()
    for i in tl.static_range(S):
        along_b = along_b + (tl.full([how.block], 0.0, tl.float32),)
        along_a = along_a + (tl.full([how.block], 0.0, tl.float32),)
        y = y + (to.skip * x[i] + tl.full([how.block], 0.0, tl.float32),)
    for part in range(0, how.parts):
        along_b, along_a, y = turn_part(
            along_b, along_a, y, x, steps, dy, token, first, slot, part, to, at, channels, how, S
        )

    dx, d_raw = (), ()
    sum_skip, sum_steps = sums
    for i in tl.static_range(S):
        d_step = x[i] * along_b[i]
        if not how.constant_delta:
            d_step = (d_step + along_a[i]) * slopes[i]
            d_raw = d_raw + (d_step,)
        sum_steps += d_step
        sum_skip = fma(dy[i], x[i], sum_skip)
        dx = dx + (fma(steps[i], along_b[i], to.skip * dy[i]),)
    if not how.constant_delta:
        store_rows(to.d_delta_rows, to.d_delta.token, token, d_raw, at.in_d, S)
    if to.above.z is not None:
        store_gate_gradients(to, y, token, at, S)
    store_merged(to, token, dx, at, sizes, S)
    tl.debug_barrier()  # the next block reads g and the sums over time
    return sum_skip, sum_steps


@triton.jit
def store_gate_gradients(to, y, token, at, S: tl.constexpr):
    """dz = d_out y silu'(z) of S steps."""
    out = load_rows(to.above.d_out_rows, to.above.d_out.token, token, at.in_d, S)
    z = load_rows(to.above.z_rows, to.above.z.token, token, at.in_d, S)
    found = ()
    for i in tl.static_range(S):
        gate = sigmoid(z[i])
        found = found + (out[i] * y[i] * (gate * (1.0 + z[i] * (1.0 - gate))),)
    store_rows(to.d_z_rows, to.d_z.token, token, found, at.in_d, S)


@triton.jit
def store_merged(to, token, dx, at, sizes, S: tl.constexpr):
    """Adds dx to what the routes before have left; the last route's sum is d_u."""
    if to.d_u_total is None:
        store_rows(to.d_u_rows, to.d_u.token, token, dx, at.in_d, S)
    else:
        earlier = load_rows(to.total_rows, to.d_u_total.token, token, mask_if(0, to.sample.k, at.in_d), S)
        merged = ()
        for i in tl.static_range(S):
            merged = merged + (dx[i] + earlier[i],)
        store_rows(to.total_rows, to.d_u_total.token, token, merged, mask_if(to.sample.k, sizes.routes - 1, at.in_d), S)
        store_rows(to.d_u_rows, to.d_u.token, token, merged, mask_if(sizes.routes - 2, to.sample.k, at.in_d), S)


@triton.jit
def turn_segment(sums, to, saved, segment, end, at, channels, sizes, how: tl.constexpr):
    """Turns one segment between saved states."""
    last = tl.minimum(segment + how.checkpoint, end)
    blocks = (last - segment) // how.steps
    whole = segment + blocks * how.steps
    leave_states(to, saved, segment, last, whole, at, channels, sizes, how)
    tl.debug_barrier()  # what is read now may have been written by another thread
    for behind in range(0, last - whole):
        first = last - 1 - behind
        sums = turn_block(sums, blocks + first - whole, first, to, at, channels, sizes, how, 1)
    for behind in range(0, blocks):
        slot = blocks - 1 - behind
        sums = turn_block(sums, slot, segment + slot * how.steps, to, at, channels, sizes, how, how.steps)
    return sums


@triton.jit
def open_scratch(to, A, adjoint, k, index, at, channels, how: tl.constexpr):
    """Puts A and what enters from the right into scratch, and zeros into the sums over time."""
    count: tl.constexpr = how.padded // how.parts
    for part in range(0, to.tiles if how.parts > 1 else 1):
        n = part * count + tl.arange(0, count)
        zeros = tl.full([count, how.block], 0.0, tl.float32)
        tl.store(slot_tile(to, A_SLOT, n, how), load_tile(A, k, n, at, channels, how))
        tl.store(slot_tile(to, G_SLOT, n, how), load_tile(adjoint, index, n, at, channels, how))
        tl.store(slot_tile(to, SUM_A_SLOT, n, how), zeros)
        if how.B != "token":
            tl.store(slot_tile(to, SUM_B_SLOT, n, how), zeros)
        if how.C != "token":
            tl.store(slot_tile(to, SUM_C_SLOT, n, how), zeros)
    tl.debug_barrier()


@triton.jit
def close_scratch(to, sums, adjoint, d_A, d_B, d_C, d_skip, d_steps, index, at, channels, how: tl.constexpr):
    """Stores what leaves to the left, and the sums over time."""
    count: tl.constexpr = how.padded // how.parts
    sum_skip, sum_steps = sums
    if how.constant_delta:  # so far Σ_t q, and Σ_t x_t Σ_n g B
        raw = tl.load(route_row(to.delta, to.sample.b, to.sample.k, at), mask=at.in_d, other=0.0).to(tl.float32)
        step, slope = step_size(raw + channel_row(to.delta_bias, to.sample.k, at, channels), how.softplus)
    for part in range(0, to.tiles if how.parts > 1 else 1):
        n = part * count + tl.arange(0, count)
        sum_A = tl.load(slot_tile(to, SUM_A_SLOT, n, how))
        if how.constant_delta:
            sum_steps += tl.sum(tl.load(slot_tile(to, A_SLOT, n, how)) * sum_A, axis=0)
            sum_A = sum_A * step[None, :]
        store_tile(d_A, index, sum_A, n, at, channels, how)
        store_tile(adjoint, index, tl.load(slot_tile(to, G_SLOT, n, how)), n, at, channels, how)
        if how.B != "token":
            store_tile(d_B, index, tl.load(slot_tile(to, SUM_B_SLOT, n, how)), n, at, channels, how)
        if how.C != "token":
            store_tile(d_C, index, tl.load(slot_tile(to, SUM_C_SLOT, n, how)), n, at, channels, how)
    if how.constant_delta:
        sum_steps = sum_steps * slope
    tl.store(d_skip + index * channels + at.d, sum_skip, mask=at.in_d)
    tl.store(d_steps + index * channels + at.d, sum_steps, mask=at.in_d)


@triton.jit
def clear_past_end(to, start, stop, at, how: tl.constexpr):
    """Zeros in every gradient of the tokens [start, stop), which lie past a sample's end."""
    clear_rows(to.d_u_rows, to.d_u.token, start, stop, at.in_d)
    if not how.constant_delta:
        clear_rows(to.d_delta_rows, to.d_delta.token, start, stop, at.in_d)
    if to.above.z is not None:
        clear_rows(to.d_z_rows, to.d_z.token, start, stop, at.in_d)


@triton.jit(do_not_specialize=(*COUNTS, "slots", "tiles"))
def scan_backward_kernel(
    u, delta, A, B, C, D, z, delta_bias, lengths, order, d_out, saved, adjoint, scratch, slots, tiles,
    d_u, d_u_total, d_delta, d_z, parts, d_A, d_B, d_C, d_skip, d_steps,
    channels, group_channels, sizes, first_batch, batches, first_route, last_route, how: tl.constexpr,
):  # fmt: skip
    """Phase 3, or the whole scan with one chunk: gradients of routes [first_route, last_route) of some samples.

    saved (B, K, M / checkpoint, N, D): states, from forward. adjoint (B, K, chunks, N, D): what enters each chunk from
    its right; afterwards what leaves it. scratch (programs, slots, padded N, block). d_u_total: as forward's total.
    parts (blocks, batches, routes of this launch, G, M, states of dB and dC): a step's partial sums over a block of
    channels, without what is constant. Sums over a chunk's time: d_A (B, K, chunks, N, D), d_B and d_C too where these
    are constant; d_skip for D and d_steps for the bias and a constant Δ (B, K, chunks, D).
    """
    at, number = place(sizes, sizes.chunks, group_channels, how)
    b = first_batch + number
    length = length_of(lengths, b, sizes)
    start = at.chunk * sizes.chunk
    stop = tl.minimum(start + sizes.chunk, sizes.tokens)
    end = tl.minimum(stop, length)
    own = scratch + wide(tl.program_id(0)) * slots * (how.padded * how.block)
    above = Gradients(d_out, row(d_out, b, at), z, row(z, b, at))
    total_rows = row(d_u_total, b, at)
    d_z_rows = row(d_z, b, at) if z is not None else None
    for k in range(first_route, last_route):
        # Row 0 of this block, sample, route and group in parts.
        sums_row = ((wide(at.block) * batches + number) * (last_route - first_route) + k - first_route) * sizes.groups
        sums_row = (sums_row + at.group) * sizes.tokens
        index = (wide(b) * sizes.routes + k) * sizes.chunks + at.chunk
        to = Turn(
            Sample(b, k, length, order), delta, A, B, C, delta_bias, channel_row(D, k, at, channels), u, row(u, b, at),
            above, d_u, row(d_u, b, at), d_u_total, total_rows, d_delta, route_row(d_delta, b, k, at), d_z, d_z_rows,
            own, parts, sums_row, tiles)  # fmt: skip
        if lengths is not None:
            clear_past_end(to, tl.maximum(start, length), stop, at, how)
        open_scratch(to, A, adjoint, k, index, at, channels, how)
        zeros = tl.full([how.block], 0.0, tl.float32)
        sums = (zeros, zeros)
        segments = tl.cdiv(tl.maximum(end - start, 0), how.checkpoint)
        for behind in range(0, segments):
            segment = start + (segments - 1 - behind) * how.checkpoint
            sums = turn_segment(sums, to, saved, segment, end, at, channels, sizes, how)
        close_scratch(to, sums, adjoint, d_A, d_B, d_C, d_skip, d_steps, index, at, channels, how)
        tl.debug_barrier()  # the next route reads what this one wrote
