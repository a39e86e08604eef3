# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton's language has no starred tuples)
"""The scan backward, without atomics: every sum is taken in one order, so the same call gives the same bits.

With g_t the gradient of the loss by h_t, and a_t = exp(Δ_t A):

    g_t = C_t dy_t + a_{t+1} g_{t+1}        walked backwards, from the gradient of the last state
    q_t = g_t a_t h_{t-1}                    the gradient by the exponent Δ_t A
    dC_t = Σ_d dy_t h_t        dB_t = Σ_d g_t Δ_t x_t        dA = Σ_t Δ_t q_t
    dx_t = Δ_t Σ_n g_t B_t + D dy_t        dΔ_t = x_t Σ_n g_t B_t + Σ_n A q_t

States are needed in reverse, and registers hold a few of them. Forward keeps every `checkpoint`-th; a program walks from
there, leaving the state before every S steps in scratch of its own, and then takes these blocks from the last to the
first: for one part of the state after the other it walks the block again with S states in registers, and turns back.
What is left of a segment after its blocks of S steps is turned step by step.

Three phases as in forward where one does not fill the GPU: `chunk_adjoint_kernel` gives each chunk's own share of the
adjoint, and `carry_kernel`, backwards, what enters each chunk from its right.

Sums over channels (dB, dC) leave a program as one row of partial sums for each step, and `sum_parts_kernel` adds the
blocks' rows. Sums over time (dA, dD, the bias, and dΔ, dB, dC where these are constant) leave it as one partial sum for
each sample and chunk, added by torch.sum, whose order is fixed too.

    B batch   M tokens   D channels   N states   K routes   G groups   S steps in a block
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
from crossmamba.ops.triton.kernels_forward import COUNTS, end_block, load_route, load_steps
from crossmamba.ops.triton.numerics import add_pairs, decay_of, fma, merge, merge_halves, sigmoid


@triton.jit
def adjoint_block(g, total, route, C, d_out, d_out_rows, z, z_rows, delta, first, length, order, k, at, sizes,
                  how: tl.constexpr, S: tl.constexpr):  # fmt: skip
    """a_t g_t at the first of S steps, from what enters after the last; and ΣΔ."""
    parts: tl.constexpr = how.parts
    token = tokens_of(first, length, order, k, sizes, how, S)
    dy = load_rows(d_out_rows, d_out.token, token, at.in_d, S)
    steps, _ = load_steps(route, delta, token, at, how, S)
    if z is not None:
        gates = load_rows(z_rows, z.token, token, at.in_d, S)
    for i in tl.static_range(S - 1, -1, -1):
        gradient = dy[i]
        if z is not None:
            gradient = gradient * (gates[i] * sigmoid(gates[i]))
        decay = route.decay
        if not how.constant_delta:
            decay = decay_of(steps[i], route.A, how.parts)
        found = ()
        for part in tl.static_range(parts):
            c = load_states(C, route.b_rows, token[i], part, how) if how.C == "token" else route.b[part]
            found = found + (decay[part] * fma(gradient[None, :], c, g[part]),)
        g = found
        total += steps[i]
    return g, total


@triton.jit(do_not_specialize=COUNTS)
def chunk_adjoint_kernel(delta, A, C, z, delta_bias, lengths, order, d_out, ends, sums, channels, group_channels, sizes,
                         how: tl.constexpr):  # fmt: skip
    """Phase 1. ends (B, K, chunks, N, D): a_1 g_1 of each chunk if nothing enters from its right. sums: ΣΔ."""
    at, bk = place(sizes, sizes.chunks, group_channels, how)
    b, k = bk // sizes.routes, bk % sizes.routes
    length = length_of(lengths, b, sizes)
    start = at.chunk * sizes.chunk
    stop = tl.minimum(start + sizes.chunk, length)
    blocks = tl.maximum(stop - start, 0) // how.steps
    whole = start + blocks * how.steps

    route = load_route(delta, A, C, delta_bias, b, k, at, channels, how, how.C)  # C is what drives this walk
    rows = row(d_out, b, at)
    z_rows = row(z, b, at) if z is not None else None
    g, total = zero_tiles(how), tl.zeros([how.block], tl.float32)
    for behind in range(0, stop - whole):
        g, total = adjoint_block(g, total, route, C, d_out, rows, z, z_rows, delta, stop - 1 - behind, length, order, k,
                                 at, sizes, how, 1)  # fmt: skip
    for behind in range(0, blocks):
        g, total = adjoint_block(g, total, route, C, d_out, rows, z, z_rows, delta, whole - (behind + 1) * how.steps,
                                 length, order, k, at, sizes, how, how.steps)  # fmt: skip
    index = wide(bk) * sizes.chunks + at.chunk
    store_tiles(ends, index, g, at, channels, how)
    tl.store(sums + index * channels + at.d, total, mask=at.in_d)


class Sums(NamedTuple):
    """What a program adds up over the steps it turns: tiles A, b, c (of a constant B or C), rows skip and steps."""

    A: Any
    b: Any
    c: Any
    skip: Any
    steps: Any


class Turn(NamedTuple):
    """What `turn_block` reads and writes besides the walk itself, and that does not change along the sequence.

    own: pointers to the program's scratch.
    """

    B: Any
    C: Any
    c_rows: Any
    c: Any
    skip: Any
    u: Any
    u_rows: Any
    d_out: Any
    d_out_rows: Any
    z: Any
    z_rows: Any
    d_u: Any
    d_u_rows: Any
    d_u_total: Any
    total_rows: Any
    d_delta: Any
    d_delta_rows: Any
    d_z: Any
    d_z_rows: Any
    own: Any
    parts: Any


@triton.jit
def turn_part(g, h, total, along_b, along_a, y, x, steps, dy, token, first, part: tl.constexpr, route, to,
              sums_row, how: tl.constexpr, S: tl.constexpr):  # fmt: skip
    """One part of a state over S steps, forward from h and back from g.

    Returns g before the steps, the sums over time (A, b, c) and, for each step, with this part's share added,
    Σ_n g B, Σ_n A q, and y (if there is a gate to be differentiated).
    """
    A = route.A[part]
    sum_A, sum_b, sum_c = total
    decayed, gated = (), ()
    for i in tl.static_range(S):
        decay = route.decay[part] if how.constant_delta else decay_of(steps[i], (A,), 1)[0]
        b = load_states(to.B, route.b_rows, token[i], part, how) if how.B == "token" else route.b[part]
        decayed = decayed + (decay * h,)
        h = fma((steps[i] * x[i])[None, :], b, decayed[i])
        if to.z is not None:
            c = load_states(to.C, to.c_rows, token[i], part, how) if how.C == "token" else to.c[part]
            gated = gated + (y[i] + tl.sum(h * c, axis=0),)
    tl.debug_barrier()  # B and C are loaded again below: kept in registers from above they would crowd out the rest
    with_b, with_a, waiting = (), (), ()
    for i in tl.static_range(S - 1, -1, -1):
        decay = route.decay[part] if how.constant_delta else decay_of(steps[i], (A,), 1)[0]
        b = load_states(to.B, route.b_rows, token[i], part, how) if how.B == "token" else route.b[part]
        c = load_states(to.C, to.c_rows, token[i], part, how) if how.C == "token" else to.c[part]
        drive = (steps[i] * x[i])[None, :]
        g = fma(dy[i][None, :], c, g)
        q = g * decayed[i]
        with_b = (along_b[i] + tl.sum(g * b, axis=0),) + with_b
        if how.constant_delta:
            sum_A += q
        else:
            sum_A = fma(steps[i][None, :], q, sum_A)
            with_a = (along_a[i] + tl.sum(A * q, axis=0),) + with_a
        by_b = g * drive
        by_c = dy[i][None, :] * fma(drive, b, decayed[i])
        if how.B != "token":
            sum_b += by_b
        if how.C != "token":
            sum_c += by_c
        if to.parts is not None:
            waiting = merge_steps(waiting, by_b, by_c, i, how, S)
        g = decay * g
    if to.parts is not None:
        store_channel_sums(to.parts, waiting[0], sums_row + first, part, how, S)
    return g, (sum_A, sum_b, sum_c), with_b, with_a, gated


@triton.jit
def merge_steps(waiting, by_b, by_c, i: tl.constexpr, how: tl.constexpr, S: tl.constexpr):
    """Takes step i's tiles of dB and dC into the sums over channels; steps come from S - 1 down to 0.

    waiting: tiles whose partner is to come, the latest last; after step 0 it is a single one.
    """
    both: tl.constexpr = how.B == "token" and how.C == "token"
    top: tl.constexpr = 8 if both else 16  # lanes tell dB from dC by their highest bit, then steps by the next ones
    if both:
        p = merge(by_b, by_c, 16)
    elif how.B == "token":
        p = by_b
    else:
        p = by_c
    if S >= 2 and i % 2 == 0:
        p = merge(p, waiting[-1], top)
        waiting = waiting[:-1]
    if S >= 4 and i % 4 == 0:
        p = merge(p, waiting[-1], top // 2)
        waiting = waiting[:-1]
    if S >= 8 and i % 8 == 0:
        p = merge(p, waiting[-1], top // 4)
        waiting = waiting[:-1]
    return waiting + (p,)


@triton.jit
def store_channel_sums(parts, p, sums_row, part: tl.constexpr, how: tl.constexpr, S: tl.constexpr):
    """Finishes and stores the sums over channels of S steps, for one part of the state.

    A step's row holds, for each part, the part's states of dB, then of dC (or those of the one that varies).
    """
    both: tl.constexpr = how.B == "token" and how.C == "token"
    count: tl.constexpr = how.padded // how.parts
    row_size: tl.constexpr = how.padded * (2 if both else 1)
    lane = tl.arange(0, 32)[None, :]
    place = part * (count * (2 if both else 1)) + lane * 0
    if both:
        place += tl.where((lane & 16) != 0, count, 0)
    top: tl.constexpr = 8 if both else 16
    for level in tl.static_range(3):  # the bits that tell steps apart, as in merge_steps
        if (S >> level) > 1:
            place += tl.where((lane & (top >> level)) != 0, row_size << level, 0)
    alone = lane >= 0
    for level in tl.static_range(5):  # the bits that are left: by them lanes tell states apart, or hold the same sum
        if ((top // S) >> level) > 0:
            if p.shape[0] > 1:
                p = merge_halves(p, (top // S) >> level)
                place += tl.where((lane & ((top // S) >> level)) != 0, p.shape[0], 0)
            else:
                p = add_pairs(p, (top // S) >> level)
                alone = alone & ((lane & ((top // S) >> level)) == 0)
    place += tl.arange(0, p.shape[0])[:, None]
    tl.store(parts + sums_row * row_size + place, p, mask=alone & (place >= 0))


@triton.jit
def turn_block(g, sums, route, to, delta, slot, first, length, order, k, sums_row, at, sizes, how: tl.constexpr, S: tl.constexpr):
    """The gradients of S steps; g before them; the sums over time with theirs added."""
    parts: tl.constexpr = how.parts
    token = tokens_of(first, length, order, k, sizes, how, S)
    x = load_rows(to.u_rows, to.u.token, token, at.in_d, S)
    out = load_rows(to.d_out_rows, to.d_out.token, token, at.in_d, S)
    steps, slopes = load_steps(route, delta, token, at, how, S)
    dy, along_b, along_a, y = out, (), (), ()
    if to.z is not None:
        gates = load_rows(to.z_rows, to.z.token, token, at.in_d, S)
        dy = ()
    for i in tl.static_range(S):
        along_b = along_b + (tl.zeros([how.block], tl.float32),)
        along_a = along_a + (tl.zeros([how.block], tl.float32),)
        y = y + (to.skip * x[i],)
        if to.z is not None:
            dy = dy + (out[i] * (gates[i] * sigmoid(gates[i])),)

    turned, sum_A, sum_b, sum_c = (), (), (), ()
    for part in tl.static_range(parts):
        h = tl.load(to.own[part] + slot * (how.padded * how.block))
        g_part, total, along_b, along_a, y = turn_part(
            g[part], h, (sums.A[part], sums.b[part], sums.c[part]), along_b, along_a, y, x, steps, dy, token, first, part,
            route, to, sums_row, how, S)  # fmt: skip
        turned = turned + (g_part,)
        sum_A, sum_b, sum_c = sum_A + (total[0],), sum_b + (total[1],), sum_c + (total[2],)

    dx, d_raw, d_gates = (), (), ()
    sum_skip, sum_steps = sums.skip, sums.steps
    for i in tl.static_range(S):
        d_step = x[i] * along_b[i]
        if not how.constant_delta:
            d_step = (d_step + along_a[i]) * slopes[i]
            d_raw = d_raw + (d_step,)
        sum_steps += d_step
        sum_skip = fma(dy[i], x[i], sum_skip)
        dx = dx + (fma(steps[i], along_b[i], to.skip * dy[i]),)
        if to.z is not None:
            gate = sigmoid(gates[i])
            d_gates = d_gates + (out[i] * y[i] * (gate * (1.0 + gates[i] * (1.0 - gate))),)
    if not how.constant_delta:
        store_rows(to.d_delta_rows, to.d_delta.token, token, d_raw, at.in_d, S)
    if to.z is not None:
        store_rows(to.d_z_rows, to.d_z.token, token, d_gates, at.in_d, S)
    store_merged(to, token, dx, k, at, sizes, S)
    return turned, Sums(sum_A, sum_b, sum_c, sum_skip, sum_steps)


@triton.jit
def store_merged(to, token, dx, k, at, sizes, S: tl.constexpr):
    """Adds dx to what the routes before have left; the last route's sum is d_u."""
    if to.d_u_total is None:
        store_rows(to.d_u_rows, to.d_u.token, token, dx, at.in_d, S)
    else:
        earlier = load_rows(to.total_rows, to.d_u_total.token, token, mask_if(0, k, at.in_d), S)
        merged = ()
        for i in tl.static_range(S):
            merged = merged + (dx[i] + earlier[i],)
        store_rows(to.total_rows, to.d_u_total.token, token, merged, mask_if(k, sizes.routes - 1, at.in_d), S)
        store_rows(to.d_u_rows, to.d_u.token, token, merged, mask_if(sizes.routes - 2, k, at.in_d), S)


@triton.jit
def leave_states(h, route, to, delta, segment, last, whole, length, order, k, at, sizes, how: tl.constexpr):
    """Walks a segment and leaves in scratch the state before each block, whole or of one step."""
    parts: tl.constexpr = how.parts
    total = tl.zeros([how.block], tl.float32)  # ΣΔ is not needed, and the compiler drops it
    blocks = (whole - segment) // how.steps
    for slot in range(0, blocks):
        for part in tl.static_range(parts):
            tl.store(to.own[part] + slot * (how.padded * how.block), h[part])
        first = segment + slot * how.steps
        h, total = end_block(h, total, route, to.u, to.u_rows, delta, to.B, first, length, order, k, at, sizes, how, how.steps)
    for first in range(whole, last):
        for part in tl.static_range(parts):
            tl.store(to.own[part] + (blocks + first - whole) * (how.padded * how.block), h[part])
        h, total = end_block(h, total, route, to.u, to.u_rows, delta, to.B, first, length, order, k, at, sizes, how, 1)


@triton.jit
def turn_segment(g, sums, route, to, delta, saved, segment, end, length, order, bk, k, sums_row, at, channels, sizes,
                 how: tl.constexpr):  # fmt: skip
    """Turns one segment between saved states: g before it, and the sums over time."""
    last = tl.minimum(segment + how.checkpoint, end)
    blocks = (last - segment) // how.steps
    whole = segment + blocks * how.steps
    index = bk * tl.cdiv(sizes.tokens, how.checkpoint) + segment // how.checkpoint
    h = load_tiles(saved, index, at, channels, how)
    tl.debug_barrier()  # the segment before has been read from scratch
    leave_states(h, route, to, delta, segment, last, whole, length, order, k, at, sizes, how)
    tl.debug_barrier()  # what is read may have been written by another thread
    for behind in range(0, last - whole):
        first = last - 1 - behind
        slot = blocks + first - whole
        g, sums = turn_block(g, sums, route, to, delta, slot, first, length, order, k, sums_row, at, sizes, how, 1)
    for behind in range(0, blocks):
        slot = blocks - 1 - behind
        first = segment + slot * how.steps
        g, sums = turn_block(g, sums, route, to, delta, slot, first, length, order, k, sums_row, at, sizes, how, how.steps)
    return g, sums


@triton.jit
def clear_past_end(to, start, stop, at, how: tl.constexpr):
    """Zeros in every gradient of the tokens [start, stop), which lie past a sample's end."""
    clear_rows(to.d_u_rows, to.d_u.token, start, stop, at.in_d)
    if not how.constant_delta:
        clear_rows(to.d_delta_rows, to.d_delta.token, start, stop, at.in_d)
    if to.z is not None:
        clear_rows(to.d_z_rows, to.d_z.token, start, stop, at.in_d)


@triton.jit
def own_scratch(scratch, slots, how: tl.constexpr):
    """Pointers to slot 0 of a program's scratch (slots, padded N, block), for each part."""
    parts: tl.constexpr = how.parts
    count: tl.constexpr = how.padded // how.parts
    width: tl.constexpr = how.width
    lane = tl.multiple_of(tl.arange(0, how.block), width)
    start = scratch + wide(tl.program_id(0)) * slots * (how.padded * how.block)
    found = ()
    for part in tl.static_range(parts):
        n = part * count + tl.arange(0, count)
        found = found + (start + n[:, None] * how.block + lane[None, :],)
    return found


@triton.jit(do_not_specialize=(*COUNTS, "slots"))
def scan_backward_kernel(
    u, delta, A, B, C, D, z, delta_bias, lengths, order, d_out, saved, entering, scratch, slots,
    d_u, d_u_total, d_delta, d_z, parts, d_A, d_B, d_C, d_skip, d_steps, d_initial,
    channels, group_channels, sizes, first_batch, batches, first_route, last_route, how: tl.constexpr,
):  # fmt: skip
    """Phase 3, or the whole scan with one chunk: gradients of routes [first_route, last_route), samples from first_batch.

    saved (B, K, M / checkpoint, N, D): states, from forward. entering (B, K, chunks, N, D): the adjoint from each
    chunk's right. scratch (programs, slots, padded N, block). d_u_total: as forward's total.
    parts (blocks, batches, routes of this launch, G, M, states of dB and dC): a step's partial sums over a block of
    channels, without what is constant. Sums over a chunk's time: d_A (B, K, chunks, N, D), d_B and d_C too
    where these are constant; d_skip for D and d_steps for the bias and a constant Δ (B, K, chunks, D).
    d_initial (B, K, N, D).
    """
    at, number = place(sizes, sizes.chunks, group_channels, how)
    b = first_batch + number
    length = length_of(lengths, b, sizes)
    start = at.chunk * sizes.chunk
    stop = tl.minimum(start + sizes.chunk, sizes.tokens)
    end = tl.minimum(stop, length)
    own = own_scratch(scratch, slots, how)
    for k in range(first_route, last_route):
        bk = wide(b) * sizes.routes + k
        route = load_route(delta, A, B, delta_bias, b, k, at, channels, how, how.B)
        c = load_constants(C, b, k, at, channels, how, how.C) if how.C != "token" else None
        to = Turn(
            B, C, state_rows_of(C, b, k, at, how), c, channel_row(D, k, at, channels), u, row(u, b, at), d_out, row(d_out, b, at),
            z, row(z, b, at) if z is not None else None, d_u, row(d_u, b, at), d_u_total,
            row(d_u_total, b, at) if d_u_total is not None else None, d_delta, route_row(d_delta, b, k, at),
            d_z, row(d_z, b, at) if z is not None else None, own, parts)  # fmt: skip
        # Row 0 of this block, sample, route and group in parts.
        sums_row = ((wide(at.block) * batches + number) * (last_route - first_route) + k - first_route) * sizes.groups
        sums_row = (sums_row + at.group) * sizes.tokens
        if lengths is not None:
            clear_past_end(to, tl.maximum(start, length), stop, at, how)
        g = load_tiles(entering, bk * sizes.chunks + at.chunk, at, channels, how)
        zeros = tl.zeros([how.block], tl.float32)
        sums = Sums(zero_tiles(how), zero_tiles(how), zero_tiles(how), zeros, zeros)
        segments = tl.cdiv(tl.maximum(end - start, 0), how.checkpoint)
        for behind in range(0, segments):
            segment = start + (segments - 1 - behind) * how.checkpoint
            g, sums = turn_segment(g, sums, route, to, delta, saved, segment, end, length, order, bk, k, sums_row, at, channels,
                                   sizes, how)  # fmt: skip
        index = bk * sizes.chunks + at.chunk
        store_time_sums(sums, route, d_A, d_B, d_C, d_skip, d_steps, index, at, channels, how)
        if d_initial is not None:
            store_tiles(d_initial, bk, g, at, channels, how)
        if d_u_total is not None:
            tl.debug_barrier()  # the next route reads what this one wrote


@triton.jit
def store_time_sums(sums, route, d_A, d_B, d_C, d_skip, d_steps, index, at, channels, how: tl.constexpr):
    """Stores a chunk's sums over time."""
    parts: tl.constexpr = how.parts
    sum_A, sum_steps = sums.A, sums.steps
    if how.constant_delta:  # so far Σ_t q and Σ_t x_t Σ_n g B
        scaled = ()
        for part in tl.static_range(parts):
            sum_steps += tl.sum(route.A[part] * sums.A[part], axis=0)
            scaled = scaled + (sums.A[part] * route.step[None, :],)
        sum_A, sum_steps = scaled, sum_steps * route.slope
    store_tiles(d_A, index, sum_A, at, channels, how)
    if how.B != "token":
        store_tiles(d_B, index, sums.b, at, channels, how)
    if how.C != "token":
        store_tiles(d_C, index, sums.c, at, channels, how)
    tl.store(d_skip + index * channels + at.d, sums.skip, mask=at.in_d)
    tl.store(d_steps + index * channels + at.d, sum_steps, mask=at.in_d)
