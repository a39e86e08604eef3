# mypy: ignore-errors
"""The scan's functions of one number, exact to float32, and sums over a block's channels.

Also runs under Triton's interpreter, where rounding is numpy's.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from crossmamba.ops.triton.plan import STATES_PER_LANE

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
LOG2_E = tl.constexpr(1.44269502162933349609375)  # as float32 has it
LOG2_E_REST = tl.constexpr(1.9259629911266175e-08)  # what that lacks
LN_2 = tl.constexpr(0.6931471805599453)
PER_LANE = tl.constexpr(STATES_PER_LANE)


@triton.jit
def exp2(x):
    """2 ** x. libdevice's is one instruction where Triton's own also scales for denormal results."""
    if INTERPRETED:
        return tl.exp2(x)
    else:
        return libdevice.exp2(x)


@triton.jit
def fma(x, y, z):
    """x * y + z, rounded once. (The interpreter's own rounds twice.)"""
    if INTERPRETED:
        return (x.to(tl.float64) * y + z).to(tl.float32)
    else:
        return tl.fma(x, y, z)


@triton.jit
def exp_of_minus(x):
    """exp(-x) for x >= 0, to float32's precision: the product's rounding error would grow with x."""
    x = tl.where(x > 128.0, 128.0, x)  # exp(-128) is 0 in float32; NaN stays
    power = -x * LOG2_E
    rest = fma(-x, LOG2_E, -power) - x * LOG2_E_REST
    found = exp2(power)
    return fma(found, rest * LN_2, found)


@triton.jit
def softplus_and_slope(x):
    """log(1 + exp(x)) and its derivative, the sigmoid, both to float32's relative precision at any x."""
    e = exp_of_minus(tl.abs(x))  # in [0, 1]
    # log1p(e) / e on [0, 1]: minimax polynomial of degree 9, relative error 4.7e-9
    p = fma(e, -3.2439809292554855e-3, 1.9851261749863625e-2)
    p = fma(e, p, -5.6959159672260284e-2)
    p = fma(e, p, 1.0603617131710052e-1)
    p = fma(e, p, -1.5305569767951965e-1)
    p = fma(e, p, 1.9675931334495544e-1)
    p = fma(e, p, -2.4954132735729218e-1)
    p = fma(e, p, 3.3329963684082031e-1)
    p = fma(e, p, -4.9999901652336121e-1)
    p = fma(e, p, 1.0)
    value = fma(e, p, tl.where(x < 0.0, 0.0, x))
    return value, tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def step_size(raw, SOFTPLUS: tl.constexpr):
    """Δ and dΔ/draw."""
    if SOFTPLUS:
        return softplus_and_slope(raw)
    else:
        return raw, tl.full(raw.shape, 1.0, tl.float32)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    e = exp_of_minus(tl.abs(x))
    return tl.where(x < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def decay_of(step, A):
    """exp(Δ A): a tile, from a row of Δ and a tile of A."""
    return exp2((step * LOG2_E)[None, :] * A)


@triton.jit
def sum_states(x):
    """The sum over states of a tile (N, block) whose program has a warp for every PER_LANE states.

    A lane adds its states, every (N / PER_LANE)-th, and then warps are added in pairs. numpy would add all N rows one
    after the other, whose rounding grows as sqrt(N / 3), at N = 256 to four times the GPU's: so the interpreter is told
    the GPU's order.
    """
    if INTERPRETED and x.shape[0] > PER_LANE:
        x = tl.sum(tl.reshape(x, [PER_LANE, x.shape[0] // PER_LANE, x.shape[1]]), axis=0)
    return tl.sum(x, axis=0)


@triton.jit
def merge(first, second, BIT: tl.constexpr):
    """Two tiles (R, 32) into one: lanes without BIT get the sum of their pair's `first`, the others of `second`.

    Five such levels add 32 tiles over 32 lanes with 31 exchanges, where each would take 5 on its own.
    """
    lane = tl.arange(0, 32)[None, :]
    upper = (lane & BIT) != 0
    kept = tl.where(upper, second, first)
    sent = tl.where(upper, first, second)
    return kept + tl.gather(sent, tl.broadcast_to(lane ^ BIT, sent.shape), 1)


@triton.jit
def merge_halves(p, BIT: tl.constexpr):
    """The upper and the lower half of a tile's rows, merged: (2 R, 32) -> (R, 32)."""
    rows: tl.constexpr = p.shape[0] // 2
    first, second = tl.split(tl.permute(tl.reshape(p, [2, rows, 32]), (1, 2, 0)))
    return merge(first, second, BIT)


@triton.jit
def add_pairs(p, BIT: tl.constexpr):
    """Each lane's value plus that of its partner."""
    lane = tl.arange(0, 32)[None, :]
    return p + tl.gather(p, tl.broadcast_to(lane ^ BIT, p.shape), 1)
