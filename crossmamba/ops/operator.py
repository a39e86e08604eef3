"""The scan as one torch operator, whichever back end runs: what a compiler, an exporter or vmap sees of it.

`crossmamba::scan` and `crossmamba::scan_backward` take a scan in canonical form (`ScanInputs`), flat, and look the back
end up by its name and version. They know their outputs' shapes (for torch.compile and torch.export), their gradients,
and that there is no second derivative. torch.func's transforms do not reach a custom operator's gradient, so under them
the same two calls go through `autograd.Function`s, whose batching rules fold the mapped axis into the batch.

    B batch   M tokens   D channels   N states   K routes
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanGradients, ScanInputs, StepInputs, registered_backend, versioned
from crossmamba.ops.onnx import exporting_to_onnx, scan_for_onnx

TENSORS = 11
"""The first fields of `ScanInputs` are tensors; after them come softplus and reverse."""
DIFFERENTIABLE = len(ScanGradients._fields)
Outputs = tuple[Tensor, Tensor, Tensor]
NO_SECOND_ORDER = (
    "the selective scan has no second-order gradient: its gradient cannot be differentiated again (create_graph=True, "
    "torch.func.hessian, gradient penalties). crossmamba.ops.selective_scan_ref, in plain torch operations, can"
)


def run_scan(inputs: ScanInputs, backend: str) -> tuple[Tensor, Tensor]:
    """Output (B, M, D) and last state (B, K, D, N) of a scan in canonical form, by the back end of that name."""
    if exporting_to_onnx():
        return scan_for_onnx(inputs)
    # An exported program is for inference; if it is trained after all, backward computes what was not saved.
    save = torch.is_grad_enabled() and not torch.compiler.is_exporting()
    save = save and any(isinstance(value, Tensor) and value.requires_grad for value in inputs)
    out, last_state, _ = _call_scan(*inputs, save, versioned(backend))
    return out, last_state


@torch.library.custom_op("crossmamba::scan", mutates_args=())
def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    lengths: Tensor | None,
    order: Tensor | None,
    softplus: bool,
    reverse: bool,
    save: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, last state, and what `scan_backward` needs (empty unless `save`); see `ScanBackend.forward`."""
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, initial_state, lengths, order, softplus, reverse)
    run = registered_backend(backend).forward
    return _without_autocast(u.device.type, lambda: run(inputs, save))


@scan.register_fake
def _scan_shapes(*arguments: Any) -> Outputs:
    inputs, (save, backend) = ScanInputs(*arguments[:13]), arguments[13:]
    routes, channels, states = inputs.A.shape
    saved = registered_backend(backend).saved_elements(inputs) if save else 0
    last_state = inputs.A.new_empty(inputs.u.shape[0], routes, channels, states)
    return torch.empty_like(inputs.u), last_state, inputs.A.new_empty(saved)


@torch.library.custom_op("crossmamba::scan_backward", mutates_args=())
def scan_backward(
    d_out: Tensor,
    d_state: Tensor,
    saved: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    lengths: Tensor | None,
    order: Tensor | None,
    softplus: bool,
    reverse: bool,
    has_saved: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `ScanGradients`, empty tensors for absent inputs. Without `has_saved` the scan is run again."""
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, initial_state, lengths, order, softplus, reverse)
    chosen = registered_backend(backend)

    def run() -> ScanGradients:
        kept = saved if has_saved else chosen.forward(inputs, True)[2]
        return chosen.backward(inputs, kept, d_out, d_state)

    found = _without_autocast(u.device.type, run)
    return tuple(A.new_empty(0) if gradient is None else gradient for gradient in found)  # type: ignore[return-value]


@scan_backward.register_fake
def _gradient_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    inputs = ScanInputs(*arguments[3:16])
    shapes: list[Tensor] = []
    for name in ScanGradients._fields:
        value = getattr(inputs, name)
        if value is None:
            shapes.append(inputs.A.new_empty(0))
        else:
            shapes.append(torch.empty_like(value) if name in ("u", "delta", "z") else value.new_empty(value.shape))
    return tuple(shapes)


@torch.library.custom_op("crossmamba::step", mutates_args=("state",))
def step(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    backend: str,
) -> Tensor:
    """One step in place (`StepInputs`): what torch.compile sees of `selective_state_update`."""
    inputs = StepInputs(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
    return _without_autocast(x.device.type, lambda: registered_backend(backend).step(inputs))


@step.register_fake
def _step_shape(*arguments: Any) -> Tensor:
    x: Tensor = arguments[1]
    return x.new_empty(x.shape)


def _without_autocast(device: str, run: Callable[[], Any]) -> Any:
    """Runs a back end with autocast off: its arithmetic is in the state's dtype whatever the surroundings say."""
    if not torch.is_autocast_enabled(device):
        return run()
    with torch.autocast(device, enabled=False):
        return run()


def _remember(ctx: Any, inputs: Sequence[Any], output: Outputs) -> None:
    """Keeps the operator's inputs and `saved` for backward."""
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(output[2])
    ctx.save_for_backward(*inputs[:TENSORS], output[2])
    ctx.options = tuple(inputs[TENSORS:])  # softplus, reverse, save, backend


def _scan_gradients(ctx: Any, d_out: Tensor | None, d_state: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    *tensors, saved = ctx.saved_tensors
    nothing = (None,) * (TENSORS - DIFFERENTIABLE + len(ctx.options))
    if d_out is None and d_state is None:
        return (*(None,) * DIFFERENTIABLE, *nothing)
    u, A = tensors[0], tensors[2]
    d_out = torch.zeros_like(u) if d_out is None else d_out
    d_state = A.new_zeros(u.shape[0], *A.shape) if d_state is None else d_state
    found = _call_backward(d_out, d_state, saved, *tensors, *ctx.options)
    present = (None if value is None else gradient for value, gradient in zip(tensors, found, strict=False))
    return (*present, *nothing)


def _refuse_second_order(ctx: Any, *gradients: Any) -> Any:
    raise RuntimeError(NO_SECOND_ORDER)


def _refuse_forward_mode(ctx: Any, *tangents: Any) -> Any:
    raise RuntimeError(
        "the selective scan has no forward-mode derivative (torch.func.jvp, jacfwd, hessian): use reverse mode "
        "(torch.func.vjp, jacrev, grad), or crossmamba.ops.selective_scan_ref, in plain torch operations"
    )


scan.register_autograd(_scan_gradients, setup_context=_remember)
scan_backward.register_autograd(_refuse_second_order)


def _call_scan(*arguments: Any) -> Outputs:
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _Scan.apply(*arguments)
    return torch.ops.crossmamba.scan(*arguments)


def _call_backward(*arguments: Any) -> tuple[Tensor, ...]:
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _ScanBackward.apply(*arguments)
    return torch.ops.crossmamba.scan_backward(*arguments)


class _Scan(torch.autograd.Function):
    """`crossmamba::scan` for torch.func."""

    @staticmethod
    def forward(*arguments: Any) -> Outputs:
        return torch.ops.crossmamba.scan(*arguments)

    setup_context = staticmethod(_remember)
    backward = staticmethod(_scan_gradients)
    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Outputs, tuple[Any, ...]]:
        """Folds the mapped axis into the batch, or runs once per entry where parameters are mapped.

        What it saves is of the folded scan and useless to one entry's backward, so nothing is saved.
        """
        size, backend = info.batch_size, arguments[14]
        values: dict[str, Any] = dict(zip(ScanInputs._fields, arguments, strict=False))
        dims: dict[str, int | None] = dict(zip(ScanInputs._fields, in_dims, strict=False))
        constant = {name for name in ("B", "C") if _entry(values[name], dims[name], 0).dim() == 3}
        parameters = {"A", "D", "delta_bias", "order", "softplus", "reverse"} | constant
        if any(dims[name] is not None for name in parameters):
            runs = [
                _call_scan(*(_entry(value, dims[name], i) for name, value in values.items()), False, backend)
                for i in range(size)
            ]
            out, state = (torch.stack(found) for found in list(zip(*runs, strict=True))[:2])
            return (out, state, runs[0][2]), (0, 0, None)
        folded = (v if name in parameters else _fold(v, dims[name], size) for name, v in values.items())
        out, state, saved = _call_scan(*folded, False, backend)
        out, state = (value.unflatten(0, (size, value.shape[0] // size)) for value in (out, state))
        return (out, state, saved), (0, 0, None)


class _ScanBackward(torch.autograd.Function):
    """`crossmamba::scan_backward` for torch.func."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return torch.ops.crossmamba.scan_backward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: there is no second order."""

    backward = staticmethod(_refuse_second_order)
    jvp = staticmethod(_refuse_forward_mode)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        """Runs once per entry: each has parameter gradients of its own, which a folded batch would add up."""
        mapped_inputs = any(dim is not None for dim in in_dims[3:])
        *values, has_saved, backend = arguments
        runs = [
            _call_backward(
                *(_entry(value, dim, i) for value, dim in zip(values, in_dims, strict=False)),
                has_saved and not mapped_inputs,
                backend,
            )
            for i in range(info.batch_size)
        ]
        return tuple(torch.stack(found) for found in zip(*runs, strict=True)), (0,) * DIFFERENTIABLE


def _entry(value: Any, dim: int | None, index: int) -> Any:
    """One entry along a mapped axis, if the value is mapped."""
    return value if dim is None else value.select(dim, index)


def _fold(value: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """A value with a batch in front, mapped or not, with the mapped axis folded into the batch."""
    if value is None:
        return None
    value = value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
    return value.flatten(0, 1)
