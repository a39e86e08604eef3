# mypy: ignore-errors
# ruff: noqa: RUF005  (Triton's language has no starred tuples)
"""The sums over channels that dB and dC are, without atomics and always in the same order.

    dC_t = Σ_d dy_t h_t        dB_t = Σ_d g_t Δ_t x_t

A program has tiles (n, 32 channels) of the terms for each of S steps. It adds them up over its lanes, many sums at a
time, and leaves one row of partial sums for each step; `sum_parts_kernel` adds the rows of all blocks of channels.
"""

from __future__ import annotations

import triton
import triton.language as tl

from crossmamba.ops.triton.access import wide
from crossmamba.ops.triton.numerics import add_pairs, merge, merge_halves


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
def store_channel_sums(parts, p, sums_row, part, how: tl.constexpr, S: tl.constexpr):
    """Finishes and stores the sums over channels of S steps, for one part of the states; sums_row is the first step's.

    A step's row holds, for each part, the part's states of dB, then of dC (or those of the one that varies).
    """
    both: tl.constexpr = how.B == "token" and how.C == "token"
    count: tl.constexpr = how.padded // how.parts
    row_size: tl.constexpr = how.padded * (2 if both else 1)
    top: tl.constexpr = 8 if both else 16
    lane = tl.arange(0, 32)[None, :]
    place = part * (count * (2 if both else 1)) + lane * 0
    if both:
        place += tl.where((lane & 16) != 0, count, 0)
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


@triton.jit(do_not_specialize=("count", "rows", "sizes", "launched", "first_batch", "first_route"))
def sum_parts_kernel(parts, d_B, d_C, lengths, order, count, rows, sizes, launched, first_batch, first_route,
                     how: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Adds parts (count, batches, launched, G, M, V) over count, in order, into d_B and d_C (B, K, G, M, N), or None.

    Rows of parts are in the order of steps, those of the gradients in the order of tokens. A row of V numbers is laid
    out as `store_channel_sums` says.
    """
    both: tl.constexpr = (how.B == "token") + (how.C == "token")
    states: tl.constexpr = how.padded // how.parts  # of one part
    r = wide(tl.program_id(0)) * ROWS + tl.arange(0, ROWS)
    in_rows = r < rows
    step, rest = r % sizes.tokens, r // sizes.tokens
    group, rest = rest % sizes.groups, rest // sizes.groups
    k, b = first_route + rest % launched, first_batch + rest // launched
    token, walked = step, in_rows
    if lengths is not None:
        length = tl.load(lengths + b, mask=in_rows, other=0)
        walked = in_rows & (step < length)
        if how.reverse:
            token = tl.where(walked, length - 1 - step, step)
    elif how.reverse:
        token = sizes.tokens - 1 - step
    if order is not None:
        token = tl.load(order + k * sizes.tokens + step, mask=in_rows, other=0)

    v = tl.arange(0, how.padded * both)
    pointers = parts + r[:, None] * (how.padded * both) + v[None, :]
    total = tl.full([ROWS, how.padded * both], 0.0, tl.float32)
    for p in range(0, count):
        total += tl.load(pointers + wide(p) * rows * (how.padded * both), mask=walked[:, None], other=0.0)
    n = v // (states * both) * states + v % states
    second = ((v // states) % both == 1)[None, :]
    target = ((wide(b) * sizes.routes + k) * sizes.groups + group) * sizes.tokens + token
    offset = target[:, None] * how.states + n[None, :]
    wanted = in_rows[:, None] & (n < how.states)[None, :]
    if d_B is not None:
        tl.store(d_B + offset, total.to(d_B.dtype.element_ty), mask=wanted & (second == 0))
    if d_C is not None:
        if d_B is not None:
            wanted = wanted & second
        tl.store(d_C + offset, total.to(d_C.dtype.element_ty), mask=wanted)
