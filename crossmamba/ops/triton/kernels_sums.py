# mypy: ignore-errors
"""The last step of backward: adds the partial sums that `scan_backward_kernel` leaves for every token."""

from __future__ import annotations

import triton
import triton.language as tl

from crossmamba.ops.triton.access import wide


@triton.jit(do_not_specialize=("count", "rows", "sizes", "launched", "first_batch", "first_route"))
def sum_parts_kernel(parts, d_B, d_C, lengths, order, count, rows, sizes, launched, first_batch, first_route,
                     how: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Adds parts (count, batches, launched, G, M, V) over count, in order, into d_B and d_C (B, K, G, M, N), or None.

    Rows of parts are in the order of steps, those of the gradients in the order of tokens. A row of V numbers holds, for
    each part of the state, the part's states of dB, then those of dC.
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
    total = tl.zeros([ROWS, how.padded * both], tl.float32)
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
