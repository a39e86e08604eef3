"""How fast this machine could run a scan at best: counts of the work, measured rates, and the floor they give.

The rates are measured by small loops in the kernel library (`crossmamba.ops.native.probe`), with the vector exponential
that the kernels use. The counts come from the equations. They are per element of (B, L, D) with N states each; an
exponential's own 3 multiplications and fused multiply-adds are among the multiplications.

| | exponentials | multiplications and fused multiply-adds |
|---|---|---|
| forward, each state | exp(Δ A) | Δ A, exp 3, Δu B, a h + ., C h + . : 7 |
| forward, each element | softplus; silu with a gate | exp 3 each; Δ u, D u + . : 2; the gate 2 |
| backward, each state | exp(Δ A) again | again 6, with a gate 7 (it needs y); g, dB, dC, Σ g B, a g, ., dΔ, dA: 8 |
| backward, each element | as forward | exp 3 each; Δ u, dΔ 2, du: 4; the gate 6 |

Softplus' logarithm, the checks and all data movement inside the core are left out, so the floors are low. Bytes count
each input read once and each output written once, at the measured bandwidth of reading.

Three floors are shown. `exp` and `FMA` alone are bounds for any machine; the larger is the one that goals are about,
with that of the bytes. `exp then FMA` is their sum without the exponentials' own multiplications: a bound only where
both share all vector ports (Intel's 512-bit units), and beatable elsewhere. `core loop` is the rate of the kernel's
own inner loop on data in the first cache. Where 512-bit multiply-adds slow down beside loads and stores, as on the
Intel machine of the results, no loop that keeps its states in memory comes near `exp then FMA`: multiply-adds with an
operand from the first cache are measured beside those in registers to show it.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import nan

from crossmamba.benchmarking.problems import Shape

EXP_MULTIPLIES = 3
BYTES = 4  # of a float32


@dataclass(frozen=True)
class Work:
    """What one pass has to do at least."""

    exps: float
    multiplies: float  # multiplications and fused multiply-adds, the exponentials' own included
    bytes: float
    updates: float  # of states


@dataclass(frozen=True)
class Limits:
    """What the machine can do in a second; `flops` counts a fused multiply-add as two. NaN: not measured."""

    exps: float
    flops: float
    bytes: float
    updates: float
    updates_backward: float = nan
    flops_from_L1: float = nan


def fastest(*measured: Limits) -> Limits:
    """The best of each: a limit that was measured while others worked is none."""
    return Limits(*(max(rates) for rates in zip(*map(astuple, measured), strict=True)))


def forward_work(shape: Shape) -> Work:
    """Of a forward pass without routes."""
    elements, states, gate = _elements(shape), shape.states, shape.gate
    exps = elements * (states + 1 + gate)
    multiplies = elements * (7 * states + 2 + 2 * gate + EXP_MULTIPLIES * (1 + gate))
    moved = elements * (3 + gate) + 2 * shape.batch * shape.length * states
    return Work(exps, multiplies, BYTES * moved, elements * states)


def backward_work(shape: Shape) -> Work:
    """Of a backward pass without routes, the recomputation of the states included."""
    elements, states, gate = _elements(shape), shape.states, shape.gate
    exps = elements * (states + 1 + gate)
    multiplies = elements * ((14 + gate) * states + 4 + 6 * gate + EXP_MULTIPLIES * (1 + gate))
    moved = elements * (5 + 2 * gate) + 4 * shape.batch * shape.length * states
    return Work(exps, multiplies, BYTES * moved, elements * states)


def _elements(shape: Shape) -> int:
    if shape.grids:
        raise ValueError(f"the counts are of a scan without routes, not of {shape}")
    return shape.batch * shape.length * shape.channels


def floors(work: Work, limits: Limits) -> dict[str, float]:
    """Seconds that each limit alone allows, and those limits together that the module's docstring explains."""
    exp = work.exps / limits.exps
    multiplies = 2 / limits.flops
    found = {"exp": exp, "FMA": work.multiplies * multiplies, "bytes": work.bytes / limits.bytes}
    found["largest of exp, FMA, bytes"] = max(found.values())
    found["exp then FMA"] = exp + (work.multiplies - EXP_MULTIPLIES * work.exps) * multiplies
    return found


def machine_limits(threads: int) -> Limits:
    """Measures the machine; about a second.

    Raises:
        RuntimeError: there is no kernel library, and why.
    """
    from crossmamba.ops.native import probe

    names = ("exp", "fma", "read", "core", "core backward", "fma from L1")
    return Limits(*(probe(what, threads) for what in names))
