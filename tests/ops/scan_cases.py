"""Scans in canonical form for testing back ends: drawn inputs, the truth in float64, and the error between them.

B batch   M tokens   D channels   N states   K routes   G groups
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Tensor

from crossmamba.ops import ScanGradients, ScanInputs, canonical_scan_ref, list_backends, registered_backend

HALF_UNIT = {torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11, torch.float64: 2**-53}
"""Largest relative error of rounding to a dtype (units in the last place, halved)."""


@dataclass(frozen=True)
class Case:
    """What a scan is like. `B`, `C`: "time" (length M), "short" (length 1) or "constant" ((K, D, N)).

    memory: of u, delta, z, B, C and the output's gradient: "BMD" contiguous; "BDM" channels first; "sliced" a part of
    wider rows, with a gap between channels; "expanded" the same numbers for every sample, stride 0.
    """

    batch: int = 2
    tokens: int = 37
    channels: int = 24
    states: int = 4
    routes: int = 1
    groups: int = 1
    short_delta: bool = False
    B: str = "time"
    C: str = "time"
    D: bool = True
    z: bool = True
    bias: bool = True
    state: bool = True
    lengths: tuple[int, ...] | None = None
    order: bool = False
    softplus: bool = True
    reverse: bool = False
    memory: str = "BMD"
    positive: bool = False  # no number is negative but A, and there is no gate: nothing cancels
    dtypes: tuple[torch.dtype, ...] = (torch.float32,)  # of u, delta, B, C, z in turn, from the front again

    def __str__(self) -> str:
        changed = [
            f"{name}={getattr(self, name)}".replace("torch.", "")
            for name in self.__dataclass_fields__
            if getattr(self, name) != getattr(Case, name)
        ]
        return ",".join(changed) or "default"


@dataclass(frozen=True)
class Problem:
    """A case with its numbers and the gradients that come from above."""

    inputs: ScanInputs
    d_out: Tensor
    d_state: Tensor


Results = dict[str, Tensor]


def laid_out(value: Tensor, memory: str) -> Tensor:
    """The same numbers (of the first sample, for "expanded") in another memory layout."""
    if memory == "BDM":
        return value.transpose(-1, -2).contiguous().transpose(-1, -2)
    if memory == "sliced":
        wide = value.new_full((*value.shape[:-1], 2 * value.shape[-1] + 3), math.nan)
        wide[..., 2 : 2 + 2 * value.shape[-1] : 2] = value
        return wide[..., 2 : 2 + 2 * value.shape[-1] : 2]
    if memory == "expanded":
        return value[:1].expand(value.shape)
    assert memory == "BMD"
    return value.contiguous()


@cache
def problem(case: Case, device: str = "cpu") -> Problem:
    """Draws a case: float32 numbers (or float64), rounded to the dtypes asked for."""
    draw = torch.Generator().manual_seed(0)
    double = case.dtypes[0] == torch.float64
    state_dtype = torch.float64 if double else torch.float32
    b, m, d, n, k, g = case.batch, case.tokens, case.channels, case.states, case.routes, case.groups

    def normal(*shape: int) -> Tensor:
        value = torch.randn(shape, generator=draw, dtype=state_dtype)
        return value.abs() if case.positive else value

    def placed(value: Tensor, index: int) -> Tensor:
        """In its dtype and memory, with NaN past each sample's length (steps are the last axis but one)."""
        value = value.to(case.dtypes[index % len(case.dtypes)])
        if case.lengths is not None and value.shape[-2] == m:
            outside = torch.arange(m) >= torch.tensor(case.lengths)[:, None]
            value = value.masked_fill(outside.view(b, *[1] * (value.dim() - 3), m, 1), math.nan)
        return laid_out(value.to(device), case.memory)

    def projection(kind: str, index: int) -> Tensor:
        if kind == "constant":
            return normal(k, d, n).to(device)
        return placed(normal(b, k, g, m if kind == "time" else 1, n), index)

    delta = normal(b, k, 1 if case.short_delta else m, d)
    delta = delta - 1.0 if case.softplus else 0.1 * delta.abs()
    inputs = ScanInputs(
        u=placed(normal(b, m, d), 0),
        delta=placed(delta, 1),
        A=(-2.0 * torch.rand(k, d, n, generator=draw, dtype=state_dtype) - 0.05).to(device),
        B=projection(case.B, 2),
        C=projection(case.C, 3),
        D=normal(k, d).to(device) if case.D else None,
        z=placed(normal(b, m, d), 4) if case.z and not case.positive else None,
        delta_bias=(0.1 * normal(k, d).abs()).to(device) if case.bias else None,
        initial_state=normal(b, k, d, n).to(device) if case.state else None,
        lengths=None if case.lengths is None else torch.tensor(case.lengths, device=device),
        order=torch.stack([torch.randperm(m, generator=draw) for _ in range(k)]).int().to(device)
        if case.order
        else None,
        softplus=case.softplus,
        reverse=case.reverse,
    )
    d_out = laid_out(normal(b, m, d).to(inputs.u.dtype).to(device), case.memory)
    return Problem(inputs, d_out, normal(b, k, d, n).to(device))


@cache
def truth(case: Case) -> Results:
    """Output, last state and every gradient by the reference loops and autograd, in float64."""
    drawn = problem(case)
    wide = drawn.inputs._replace(
        **{
            name: value.double().clone().requires_grad_()
            for name in ScanGradients._fields
            if (value := getattr(drawn.inputs, name)) is not None
        }
    )
    out, state = canonical_scan_ref(wide)
    names = [name for name in ScanGradients._fields if getattr(wide, name) is not None]
    pairs = [(out, drawn.d_out), (state, drawn.d_state)]
    pairs = [(value, gradient.double()) for value, gradient in pairs if value.requires_grad]  # of no step: no graph
    gradients = torch.autograd.grad(
        [value for value, _ in pairs],
        [getattr(wide, name) for name in names],
        [gradient for _, gradient in pairs],
        allow_unused=True,
        materialize_grads=True,
    )
    found = {"out": out.detach(), "state": state.detach()}
    return found | {f"d_{name}": gradient for name, gradient in zip(names, gradients, strict=True)}


def results(backend: str, case: Case, device: str = "cpu") -> Results:
    """The same by a back end, called as `ScanBackend` says."""
    drawn, chosen = problem(case, device), registered_backend(backend)
    out, state, saved = chosen.forward(drawn.inputs, True)
    gradients = chosen.backward(drawn.inputs, saved, drawn.d_out, drawn.d_state)
    found = {"out": out, "state": state}
    return found | {f"d_{n}": g for n, g in zip(ScanGradients._fields, gradients, strict=True) if g is not None}


def error(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖; infinite if anything is not finite, or differs from zeros."""
    difference = torch.linalg.vector_norm(found.double().cpu() - expected).item()
    scale = torch.linalg.vector_norm(expected).item()
    if not math.isfinite(difference):
        return math.inf
    if scale == 0.0:
        return 0.0 if difference == 0.0 else math.inf
    return difference / scale


def errors(backend: str, case: Case, device: str = "cpu") -> dict[str, float]:
    """The error of everything that a back end computes for a case; shapes and dtypes are checked on the way."""
    found, expected = results(backend, case, device), truth(case)
    assert found.keys() == expected.keys()
    inputs = problem(case, device).inputs
    for name, value in found.items():
        assert value.shape == expected[name].shape, name
        like = inputs.u if name == "out" else inputs.A if name == "state" else getattr(inputs, name[2:])
        assert value.dtype == like.dtype, name
    return {name: error(value, expected[name]) for name, value in found.items()}


def tolerance(name: str, case: Case) -> float:
    """What a result may be off by: y 1.5e-7 and gradients 1e-6 in float32, plus the rounding to its own dtype.

    Two conditions of the problem, not of a back end, allow for more. Numbers of random sign cancel: the terms of y are
    two to three times as large as y, and the loops in float32 are off by up to 2.24e-7. And with a constant Δ every
    step has the same decay, so that its rounding error adds up over the steps remembered instead of averaging out: a
    decay that is off by 2^-24 changes y by up to 6.7e-7 and the last state by up to 1.8e-6 in these cases, and the
    loops are off by 4.0e-7, 5.6e-7, and 1.08e-6 in a gradient. A last state, which is not averaged over time, is never
    held to less than 2.4e-7.
    """
    double = case.dtypes[0] == torch.float64
    if name in ("out", "state"):
        exact = 1e-14 if double else 1.5e-7
        if case.short_delta:
            exact *= 4.0 if name == "out" else 5.0
        elif name == "state" or not case.positive:
            exact *= 1.6
    else:
        exact = (1e-13 if double else 1e-6) * (1.5 if case.short_delta else 1.0)
    positions = {"out": 0, "d_u": 0, "d_delta": 1, "d_B": 2, "d_C": 3, "d_z": 4}
    if double or name not in positions or (name in ("d_B", "d_C") and getattr(case, name[2:]) == "constant"):
        return exact
    dtype = case.dtypes[positions[name] % len(case.dtypes)]
    return exact if dtype == torch.float32 else exact + HALF_UNIT[dtype]


def assert_agrees(backend: str, case: Case, device: str = "cpu") -> None:
    """Fails with every result of a back end that is farther from the truth than `tolerance` allows."""
    wrong = {
        name: f"{found:.2e} (allowed {tolerance(name, case):.2e})"
        for name, found in errors(backend, case, device).items()
        if found > tolerance(name, case)
    }
    assert not wrong, f"{backend} on {device}, case {case}: {wrong}"


def skip_unless_able(backend: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
    """Skips the test, with the back end's own words, where it cannot run."""
    reason = list_backends(device, dtype)[backend]
    if reason is not None:
        pytest.skip(f"{backend} cannot run on {device} in {dtype}: {reason}")


@contextmanager
def poisoned_allocations():
    """Every tensor that torch allocates without filling it starts as NaN (or the largest integer)."""
    patch = pytest.MonkeyPatch()

    def poison(value: Tensor) -> Tensor:
        if value.is_floating_point():
            return value.fill_(math.nan)
        return value if value.dtype == torch.bool else value.fill_(torch.iinfo(value.dtype).max)

    for owner, name in [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (Tensor, "new_empty")]:
        plain = getattr(owner, name)
        patch.setattr(owner, name, lambda *a, plain=plain, **k: poison(plain(*a, **k)))
    try:
        yield
    finally:
        patch.undo()
