"""One sample along one route in float64: what each Triton kernel is held against. Used by the `interpreted_*` files.

B batch   D channels   N states   K routes   G groups   L steps of one sample
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scan_cases import Case, error, problem
from torch import Tensor

CHUNK = 8
"""States are saved this often in these tests, so that some twenty steps make three chunks."""
BRAIN, HALF, FULL = torch.bfloat16, torch.float16, torch.float32


class Walk(NamedTuple):
    """One sample along one route in float64, in the order of its steps: what every kernel is held against.

    x, step, slope (dΔ/draw), d_y: (L, D). decay, B, C: (L, D, N). token: (L,).
    """

    token: Tensor
    x: Tensor
    step: Tensor
    slope: Tensor
    decay: Tensor
    B: Tensor
    C: Tensor
    d_y: Tensor


def walk(case: Case, b: int, k: int) -> Walk:
    """The steps of sample b along route k."""
    drawn = problem(case)
    given = drawn.inputs
    token = torch.arange(case.tokens if case.lengths is None else case.lengths[b])
    if given.order is not None:
        token = given.order[k].long()
    elif case.reverse:
        token = token.flip(0)

    def along(value: Tensor) -> Tensor:
        if value.dim() == 3:  # a constant (K, D, N)
            return value[k].double().expand(len(token), -1, -1)
        found = value[b, k].double().transpose(0, 1)  # (M or 1, G, N)
        found = found[token] if case.tokens == found.shape[0] else found.expand(len(token), -1, -1)
        return found.repeat_interleave(case.channels // case.groups, dim=1)

    raw = given.delta[b, k].double()
    raw = raw[token] if case.tokens == raw.shape[0] else raw.expand(len(token), -1)
    if given.delta_bias is not None:
        raw = raw + given.delta_bias[k].double()
    step, slope = (F.softplus(raw), raw.sigmoid()) if case.softplus else (raw, torch.ones_like(raw))
    d_y = drawn.d_out[b].double()[token]
    if given.z is not None:
        d_y = d_y * F.silu(given.z[b].double()[token])
    decay = torch.exp(step[:, :, None] * given.A[k].double())
    return Walk(token, given.u[b].double()[token], step, slope, decay, along(given.B), along(given.C), d_y)


def states(steps: Walk, first: Tensor) -> Tensor:
    """The states before each step and after the last, (L + 1, D, N)."""
    found = [first]
    for t in range(len(steps.token)):
        found.append(steps.decay[t] * found[-1] + (steps.step[t] * steps.x[t])[:, None] * steps.B[t])
    return torch.stack(found)


def adjoints(steps: Walk, last: Tensor) -> Tensor:
    """What enters each step from its right, and before these, in front, what leaves the first: (L + 1, D, N)."""
    found = [last]
    for t in reversed(range(len(steps.token))):
        found.append(steps.decay[t] * (steps.C[t] * steps.d_y[t][:, None] + found[-1]))
    return torch.stack(found[::-1])


def chunk(steps: Walk, c: int) -> Walk:
    """The steps of chunk c, maybe none."""
    return Walk(*(value[c * CHUNK : (c + 1) * CHUNK] for value in steps))


def everyone(case: Case) -> list[tuple[int, int]]:
    return [(b, k) for b in range(case.batch) for k in range(case.routes)]


def first_state(case: Case, b: int, k: int) -> Tensor:
    given = problem(case).inputs.initial_state
    return torch.zeros(case.channels, case.states).double() if given is None else given[b, k].double()


def assert_near(found: Tensor, expected: Tensor, allowed: float, what: object = "") -> None:
    assert found.shape == expected.shape, what
    assert error(found, expected) <= allowed, f"{what}: {error(found, expected):.2e}, allowed {allowed:.2e}"


ONE = Case(batch=1, tokens=21, channels=40, states=3)
CASES = [
    ONE,
    replace(ONE, batch=2, lengths=(5, 19), reverse=True, groups=2, z=False),
    replace(ONE, routes=2, order=True, z=False, states=4),
    replace(ONE, states=1, short_delta=True, B="short", C="short"),
    replace(ONE, channels=20, C="constant", softplus=False, bias=False, D=False),
    replace(ONE, channels=20, states=2, B="short", dtypes=(BRAIN, FULL, HALF), memory="sliced"),
]
