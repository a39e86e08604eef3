"""Does a back end compute what the equations say on this machine? A few small scans, for `crossmamba doctor`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanInputs, StepInputs, registered_backend


def backend_error(name: str, device: torch.device | str = "cpu") -> float:
    """The largest error of a back end's float32 outputs, states and gradients, relative to each one's norm, against
    the reference in float64, over three scans (gated, along routes, time-invariant and reversed) and one step."""
    chosen, reference = registered_backend(name), registered_backend("reference")
    worst = 0.0
    for inputs in _problems():
        given = _to(inputs, torch.float32, device)
        out, state, saved = chosen.forward(given, True)
        found = [out, state, *chosen.backward(given, saved, torch.ones_like(out), torch.ones_like(state))]
        expected_out, expected_state, saved = reference.forward(inputs, True)
        above = torch.ones_like(expected_out), torch.ones_like(expected_state)
        expected = [expected_out, expected_state, *reference.backward(inputs, saved, *above)]
        worst = max(worst, *(_error(a, b) for a, b in zip(found, expected, strict=True) if a is not None))
    step = _step()
    given = _to(step, torch.float32, device)
    pairs = [(chosen.step(given), reference.step(step)), (given.state, step.state)]
    return max(worst, *(_error(a, b) for a, b in pairs))


def _problems() -> list[ScanInputs]:
    draw = torch.Generator().manual_seed(0)
    B, M, D, N = 2, 33, 20, 4

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    def problem(K: int, steps: int, gated: bool, order: Tensor | None, reverse: bool) -> ScanInputs:
        return ScanInputs(
            normal(B, M, D),
            normal(B, K, steps, D),
            -normal(K, D, N).exp(),
            normal(B, K, 2, steps, N),
            normal(B, K, 2, steps, N),
            normal(K, D),
            normal(B, M, D) if gated else None,
            normal(K, D),
            normal(B, K, D, N),
            None,
            order,
            True,
            reverse,
        )

    order = torch.stack([torch.randperm(M, generator=draw) for _ in range(3)]).int()
    return [problem(1, M, True, None, False), problem(3, M, False, order, False), problem(1, 1, False, None, True)]


def _step() -> StepInputs:
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    x, dt, z = normal(2, 20), normal(2, 20), normal(2, 20)
    return StepInputs(
        normal(2, 20, 4), x, dt, -normal(20, 4).exp(), normal(2, 4), normal(2, 4), normal(20), z, normal(20), True
    )


def _to(inputs: Any, dtype: torch.dtype, device: torch.device | str) -> Any:
    """The same inputs with floating tensors in a dtype, on a device."""
    return inputs._replace(
        **{
            name: value.to(device, dtype if value.is_floating_point() else value.dtype, copy=True)
            for name, value in inputs._asdict().items()
            if isinstance(value, Tensor)
        }
    )


def _error(found: Tensor | None, expected: Tensor | None) -> float:
    assert found is not None
    assert expected is not None
    error = torch.linalg.vector_norm(found.double().cpu() - expected) / torch.linalg.vector_norm(expected)
    return error.item() if torch.isfinite(error) else float("inf")
