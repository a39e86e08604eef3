"""Each Triton kernel by itself against float64, in Triton's interpreter. Run by `test_triton.py`, in its own process.

    TRITON_INTERPRET=1 python -m pytest tests/ops/interpreted_kernels.py           # half a minute on one core

B batch   M tokens   D channels   N states   K routes   G groups   L steps of one sample
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from scan_cases import Case, problem, tolerance, truth
from torch import Tensor
from walks import (
    BRAIN,
    CASES,
    CHUNK,
    FULL,
    HALF,
    ONE,
    adjoints,
    assert_near,
    chunk,
    everyone,
    first_state,
    states,
    walk,
)

from crossmamba.ops import StepInputs, registered_backend
from crossmamba.ops.triton import plan
from crossmamba.ops.triton.arguments import rows
from crossmamba.ops.triton.backward import OWN_SLOTS, _Results
from crossmamba.ops.triton.forward import saved_elements, scan_forward
from crossmamba.ops.triton.kernels_adjoint import chunk_adjoint_kernel
from crossmamba.ops.triton.kernels_backward import scan_backward_kernel
from crossmamba.ops.triton.kernels_forward import chunk_end_kernel, scan_forward_kernel
from crossmamba.ops.triton.kernels_sums import sum_parts_kernel
from crossmamba.ops.triton.launch import Scan
from crossmamba.ops.triton.numerics import decay_of, exp_of_minus, sigmoid, softplus_and_slope
from crossmamba.ops.triton.plan import Config


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(plan, "CHECKPOINT", CHUNK)


def cut(case: Case, chunked: bool = True) -> Config:
    """Two blocks of channels for the cases below, and steps in flight that do not divide the sequence."""
    return Config(32, 4, min(2, plan.power_of_two(case.states)), plan.warps_of(case.states), CHUNK * chunked)


cases = pytest.mark.parametrize("case", CASES, ids=str)
STATE = 5e-7  # of a state or an adjoint, after 8 steps from exact ones, in float32
SUM = 1e-6


@cases
def test_chunk_ends(case):
    """Phase 1: each chunk's state from 0, and the sum of its steps."""
    scan = Scan(problem(case).inputs, cut(case))
    ends, sums = scan.tile_space(scan.chunks).fill_(math.nan), scan.row_space().fill_(math.nan)
    scan.start(chunk_end_kernel, scan.programs * case.routes * scan.chunks, ends=ends, sums=sums)
    assert scan.chunks == 3
    for b, k in everyone(case):
        for c in range(scan.chunks):
            steps = chunk(walk(case, b, k), c)
            expected = states(steps, torch.zeros(case.channels, case.states).double())[-1]
            assert_near(ends[b, k, c].mT, expected, STATE, (b, k, c))
            assert_near(sums[b, k, c], steps.step.sum(dim=0), STATE, (b, k, c))


@cases
def test_chunk_adjoints(case):
    """Phase 1 of backward: what leaves each chunk to the left if nothing enters from its right."""
    drawn = problem(case)
    scan = Scan(drawn.inputs, cut(case))
    ends, sums = scan.tile_space(scan.chunks).fill_(math.nan), scan.row_space().fill_(math.nan)
    started = scan.programs * case.routes * scan.chunks
    scan.start(chunk_adjoint_kernel, started, d_out=rows(drawn.d_out), ends=ends, sums=sums)
    for b, k in everyone(case):
        for c in range(scan.chunks):
            steps = chunk(walk(case, b, k), c)
            expected = adjoints(steps, torch.zeros(case.channels, case.states).double())[0]
            assert_near(ends[b, k, c].mT, expected, STATE, (b, k, c))
            assert_near(sums[b, k, c], steps.step.sum(dim=0), STATE, (b, k, c))


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("chunks", [1, 9, 19])
def test_carry(chunks, given, backwards):
    """Phase 2: more chunks than are in flight; both ways; from nothing or from a state, with or without its last."""
    case = Case(batch=2, tokens=CHUNK * chunks, channels=40, states=3, routes=2, order=True, z=False)
    inputs = problem(case).inputs
    scan = Scan(inputs, cut(case))
    draw = torch.Generator().manual_seed(1)
    ends = torch.randn(scan.tile_space(chunks).shape, generator=draw)
    sums = torch.rand(scan.row_space().shape, generator=draw)
    start = torch.randn(ends[:, :, 0].shape, generator=draw) if given else None
    last = torch.full_like(ends[:, :, 0], math.nan) if given else None
    h = torch.zeros_like(ends[:, :, 0]).double() if start is None else start.double()
    expected = torch.empty_like(ends, dtype=torch.float64)
    for c in reversed(range(chunks)) if backwards else range(chunks):
        expected[:, :, c] = h
        h = torch.exp(sums[:, :, c, None].double() * inputs.A.mT.double()) * h + ends[:, :, c].double()
    scan.carry(ends, sums, start, last, backwards=backwards)
    assert_near(ends, expected, STATE)
    if last is not None:
        assert_near(last, h, STATE)


@cases
def test_outputs_of_chunks(case):
    """Phase 3: outputs of every chunk from the true state before it, route after route; and the states it saves."""
    inputs = problem(case).inputs
    scan = Scan(inputs, cut(case))
    entering = scan.tile_space(scan.chunks).zero_()
    for b, k in everyone(case):
        steps = walk(case, b, k)
        before = states(steps, first_state(case, b, k))
        for c in range(scan.chunks):
            entering[b, k, c] = before[min(c * CHUNK, len(steps.token))].mT
    out, saved = torch.full_like(inputs.u, math.nan), inputs.A.new_full((saved_elements(inputs),), math.nan)
    total = None if case.routes == 1 else rows(torch.full_like(out, math.nan, dtype=torch.float32))
    results = {"out": rows(out), "saved": saved, "total": total, "entering": entering, "last_state": None}
    for k in range(case.routes):
        started = scan.programs * scan.chunks
        scan.start(scan_forward_kernel, started, first_route=k, last_route=k + 1, **results)
    assert_near(out, truth(case)["out"], tolerance("out", case))
    saved = saved.view(case.batch, case.routes, scan.chunks, case.states, case.channels)
    for b, k in everyone(case):
        walked = math.ceil(len(walk(case, b, k).token) / CHUNK)
        assert torch.equal(saved[b, k, :walked], entering[b, k, :walked])


@cases
def test_one_walk(case):
    """One phase: all routes in one launch, from the initial state to the last."""
    inputs = problem(case).inputs
    out, state, saved = scan_forward(inputs, True, cut(case, chunked=False))
    assert_near(out, truth(case)["out"], tolerance("out", case))
    assert_near(state, truth(case)["state"], tolerance("state", case))
    saved = saved.view(case.batch, case.routes, 3, case.states, case.channels)
    for b, k in everyone(case):
        steps = walk(case, b, k)
        before = states(steps, first_state(case, b, k))[: len(steps.token) : CHUNK]
        assert_near(saved[b, k, : len(before)].mT, before, STATE)


@cases
def test_gradients_of_chunks(case):
    """Phase 3 of backward, from true states and adjoints: gradients, sums over time, partial sums over channels."""
    drawn = problem(case)
    scan = Scan(drawn.inputs, cut(case))
    how, sizes = scan.how, scan.sizes
    saved, adjoint = scan.tile_space(scan.chunks).fill_(math.nan), scan.tile_space(scan.chunks).fill_(0.0)
    for b, k in everyone(case):
        steps = walk(case, b, k)
        before, entering = states(steps, first_state(case, b, k)), adjoints(steps, drawn.d_state[b, k].double())
        for c in range(scan.chunks):
            if c * CHUNK < len(steps.token):
                saved[b, k, c] = before[c * CHUNK].mT
                adjoint[b, k, c] = entering[min((c + 1) * CHUNK, len(steps.token))].mT
    results = _Results(drawn.inputs, scan)
    row, programs = results.row, sizes.blocks * case.groups * scan.chunks
    slots = OWN_SLOTS + CHUNK // how.steps + how.steps
    scratch = torch.full((case.batch * programs * slots * how.padded * how.block,), math.nan)
    parts = torch.full((case.routes, sizes.blocks, case.batch, case.groups, case.tokens, max(1, row)), math.nan)
    given = {"d_out": rows(drawn.d_out), "saved": saved, "adjoint": adjoint, "scratch": scratch, "slots": slots}
    for k in range(case.routes):
        given |= {"first_batch": 0, "batches": case.batch, "first_route": k, "last_route": k + 1}
        given["parts"] = parts[k] if row else None
        scan.start(scan_backward_kernel, case.batch * programs, warps=1, **results.arguments, **given)

    expected, allowed = truth(case), {name: tolerance(name, case) for name in truth(case)}
    assert_near(results.d_u, expected["d_u"], allowed["d_u"])
    if not how.constant_delta:
        assert_near(results.d_delta, expected["d_delta"], allowed["d_delta"])
    if results.d_z is not None:
        assert_near(results.d_z, expected["d_z"], allowed["d_z"])
    for b, k in everyone(case):
        check_sums_over_time(case, scan, results, adjoint, b, k)
        if row:
            check_sums_over_channels(case, scan, parts[k, :, b], b, k)


def terms(case: Case, b: int, k: int) -> dict[str, Tensor]:
    """The summands of the gradients that are sums, and what leaves each step to the left."""
    drawn, steps = problem(case), walk(case, b, k)
    before, right = states(steps, first_state(case, b, k)), adjoints(steps, drawn.d_state[b, k].double())
    g = steps.C * steps.d_y[:, :, None] + right[1:]
    q = g * steps.decay * before[:-1]
    along_b = (g * steps.B).sum(dim=2)
    return {
        "left": right,
        "A": steps.step[:, :, None] * q,
        "B": g * (steps.step * steps.x)[:, :, None],
        "C": steps.d_y[:, :, None] * before[1:],
        "skip": steps.d_y * steps.x,
        "steps": (steps.x * along_b + (drawn.inputs.A[k].double() * q).sum(dim=2)) * steps.slope,
    }


def check_sums_over_time(case: Case, scan: Scan, results: _Results, adjoint: Tensor, b: int, k: int) -> None:
    found, how = terms(case, b, k), scan.how
    whole = {name: torch.linalg.vector_norm(value) for name, value in found.items()}
    for c in range(scan.chunks):
        at = slice(c * CHUNK, (c + 1) * CHUNK)
        sums = {"A": results.d_A, "skip": results.d_skip, "steps": results.d_steps}
        sums |= {"B": results.d_B} if how.B != "token" else {}
        sums |= {"C": results.d_C} if how.C != "token" else {}
        for name, value in sums.items():
            mine, expected = value[b, k, c].double(), found[name][at].sum(dim=0)
            mine = mine.mT if expected.dim() == 2 else mine
            # Of the whole: a chunk's own sum may cancel.
            assert torch.linalg.vector_norm(mine - expected) <= 2 * SUM * whole[name], (name, c)
        if c * CHUNK < len(found["A"]):
            assert_near(adjoint[b, k, c].mT, found["left"][c * CHUNK], 2 * STATE, (b, k, c))


def check_sums_over_channels(case: Case, scan: Scan, parts: Tensor, b: int, k: int) -> None:
    """parts (blocks, G, M, V): for each part of the states, dB's states of it, then dC's."""
    how, found = scan.how, terms(case, b, k)
    names = [name for name, kind in (("B", how.B), ("C", how.C)) if kind == "token"]
    steps, width = len(found["B"]), case.channels // case.groups
    laid = parts[:, :, :steps].unflatten(-1, (how.parts, len(names), how.padded // how.parts))
    for index, name in enumerate(names):
        mine = laid[..., index, :].flatten(-2)[..., : case.states]  # (blocks, G, L, N)
        for group in range(case.groups):
            for block in range(scan.sizes.blocks):
                first = group * width + block * how.block
                last = min(first + how.block, (group + 1) * width)
                expected = found[name][:, first:last].sum(dim=1)
                assert_near(mine[block, group], expected, 2 * SUM, (name, block, group))


@pytest.mark.parametrize(
    "case",
    [
        replace(ONE, batch=3, states=3),
        replace(ONE, batch=3, lengths=(5, 0, 21), groups=2),
        replace(ONE, batch=3, lengths=(5, 0, 21), reverse=True, dtypes=(BRAIN,)),
        replace(ONE, batch=2, states=5, reverse=True, B="short"),
        replace(ONE, batch=2, states=1, routes=3, order=True, z=False, C="constant"),
    ],
    ids=str,
)
def test_sums_of_partial_sums(case):
    """`sum_parts_kernel`: rows in the order of steps to gradients in the order of tokens; NaN past a length unread."""
    inputs = problem(case).inputs
    scan = Scan(inputs, cut(case))
    how, sizes = scan.how, scan.sizes
    names = [name for name, kind in (("B", how.B), ("C", how.C)) if kind == "token"]
    blocks, row, count = sizes.blocks, how.padded * len(names), case.batch * case.routes * case.groups * case.tokens
    shape = (blocks, case.batch, case.routes, case.groups, case.tokens, row)
    parts = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = {name: torch.full_like(getattr(inputs, name), math.nan).contiguous() for name in names}
    expected = {name: torch.zeros(found[name].shape, dtype=torch.float64) for name in names}
    laid = parts.double().sum(dim=0).unflatten(-1, (how.parts, len(names), how.padded // how.parts))
    for b, k in everyone(case):
        token = walk(case, b, k).token
        parts[:, b, k, :, len(token) :] = math.nan
        for index, name in enumerate(names):
            value = laid[b, k, ..., index, :].flatten(-2)[..., : case.states]  # (G, M, N)
            expected[name][b, k][:, token] = value[:, : len(token)]
    tile = 16
    given = {"parts": parts, "d_B": found.get("B"), "d_C": found.get("C"), "count": blocks, "rows": count}
    given |= {"launched": case.routes, "first_batch": 0, "first_route": 0, "ROWS": tile}
    scan.start(sum_parts_kernel, plan.ceil_div(count, tile), warps=4, **given)
    for name in names:
        assert_near(found[name], expected[name], 2e-7 if found[name].dtype == FULL else 2**-8, name)


@pytest.mark.parametrize("states_", [1, 3, 16])
@pytest.mark.parametrize("groups", [None, 1, 2])
@pytest.mark.parametrize("dtype", [FULL, BRAIN, HALF])
def test_step(dtype, groups, states_):
    """`step_kernel`, whose program holds fewer channels than there are; strides; nothing that may be missing."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw)

    channels, bare = 1026 if states_ == 1 else 90, groups == 1
    projection = (2, states_) if groups is None else (2, groups, states_)
    row = normal(2, 3 * channels).to(dtype)  # x, dt and z as slices of one projection
    x, dt, z = row.chunk(3, dim=1)
    state, A = normal(2, channels, states_), -normal(channels, states_).abs()
    B, C = normal(*projection).to(dtype), normal(*projection).to(dtype)
    skip, bias = (None, None) if bare else (normal(channels), normal(channels))
    given = StepInputs(state, x, dt.abs(), A, B, C, skip, None if bare else z, bias, not bare)
    wide = given._replace(**{n: v.double().clone() for n, v in given._asdict().items() if torch.is_tensor(v)})
    expected = registered_backend("reference").step(wide)
    found = registered_backend("triton").step(given)
    assert found.dtype == dtype
    assert_near(found, expected, 3e-7 + {FULL: 0.0, BRAIN: 2**-8, HALF: 2**-11}[dtype])
    assert_near(state, wide.state, 3e-7)


@triton.jit
def _functions_kernel(x, exps, values, slopes, gates, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    given = tl.load(x + at)
    tl.store(exps + at, exp_of_minus(tl.abs(given)))
    value, slope = softplus_and_slope(given)
    tl.store(values + at, value)
    tl.store(slopes + at, slope)
    tl.store(gates + at, sigmoid(given))


def test_functions_of_one_number():
    """exp, softplus, its slope and the sigmoid: to float32's relative precision, from -100 to 100 and in between."""
    dense = torch.linspace(-20.0, 20.0, 1021)
    x = torch.cat([dense, torch.tensor([-100.0, -87.0, 87.0, 100.0, 1e-30, -1e-30, 0.0])])
    x = F.pad(x, (0, 2048 - len(x)))
    found = [torch.full_like(x, math.nan) for _ in range(4)]
    _functions_kernel[(1,)](x, *found, COUNT=len(x))
    wide = x.double()
    expected = [torch.exp(-wide.abs()), torch.log1p(torch.exp(wide)), torch.sigmoid(wide), torch.sigmoid(wide)]
    for name, mine, right in zip(("exp", "softplus", "slope", "sigmoid"), found, expected, strict=True):
        normal = right > 2.0**-126  # below, float32 has fewer digits
        off = ((mine.double() - right).abs() / right)[normal].max().item()
        assert off <= 4e-7, (name, off)
        assert (mine[~normal].double() - right[~normal]).abs().max() <= 2.0**-126 if (~normal).any() else True


@triton.jit
def _decay_kernel(step, A, out, N: tl.constexpr, D: tl.constexpr):
    n, d = tl.arange(0, N), tl.arange(0, D)
    tile = n[:, None] * D + d[None, :]
    tl.store(out + tile, decay_of(tl.load(step + d), tl.load(A + tile)))


def test_decay():
    """exp(Δ A) for the steps and decay rates of a trained model, and where it underflows."""
    step, A = torch.logspace(-4, 1, 32), -torch.logspace(-2, 2, 16)[:, None].expand(16, 32).contiguous()
    found = torch.full((16, 32), math.nan)
    _decay_kernel[(1,)](step, A, found, N=16, D=32)
    expected = torch.exp(step.double() * A.double())
    off = (found.double() - expected).abs()
    assert (off <= expected * 2e-7 * (1.0 + (step * A).abs()) + 2.0**-126).all()
