"""`selective_state_update`: one step of the scan with the state changed in place, for generating token by token.

Called once a token and layer, so it is kept short: the checks are comparisons of shapes, and outside a compiler the
back end is called without torch's dispatcher.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossmamba.ops.backends import StepInputs, registered_backend, resolve_backend

_NARROW = frozenset((torch.float32, torch.bfloat16, torch.float16))
ALLOWED = {torch.float32: _NARROW, torch.float64: _NARROW | {torch.float64}}
"""Dtypes of the other arguments by the state's."""


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """One step of `selective_scan_fn`, with mamba_ssm's name and arguments (the variant without heads).

    h = exp(Δ A) h + Δ B x,  y = C · h + D x,  out = y silu(z),  Δ = softplus(dt + dt_bias) (if dt_softplus)

    Args:
        state: h, (B, D, N) float32 or float64 (then everything is computed in it); changed in place.
        x, dt: (B, D). A: (D, N). B, C: (B, N) or (B, G, N) with G dividing D. D: (D,). z: (B, D). dt_bias: (D,).
        backend: as `selective_scan_fn`.

    Returns:
        out (B, D) in x's dtype. It carries no gradient.

    Raises:
        ValueError: a shape or dtype that does not fit. RuntimeError: a gradient is asked for.
    """
    dtype = state.dtype
    _check(state, x, dt, A, B, C, D, z, dt_bias)
    if torch.is_grad_enabled() and any(
        value is not None and value.requires_grad for value in (state, x, dt, A, B, C, D, z, dt_bias)
    ):
        raise RuntimeError(
            "selective_state_update has no gradient: call it under torch.no_grad(), or use selective_scan_fn with "
            "initial_state and a sequence of length 1"
        )
    if dtype == torch.float64:
        x_wide, dt, B, C = x.double(), dt.double(), B.double(), C.double()
        z = None if z is None else z.double()
    else:
        x_wide = x
    A = A if A.dtype == dtype else A.to(dtype)
    D = D if D is None or D.dtype == dtype else D.to(dtype)
    dt_bias = dt_bias if dt_bias is None or dt_bias.dtype == dtype else dt_bias.to(dtype)
    memory = state if state.is_contiguous() else state.contiguous()
    name = resolve_backend(backend, state.device, dtype)
    if torch.compiler.is_compiling() or type(state) is not Tensor:
        out = torch.ops.crossmamba.step(memory, x_wide, dt, A, B, C, D, z, dt_bias, dt_softplus, name)
    elif torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "selective_state_update changes its state in place and does not run under torch.func's transforms: "
            "put the mapped axis into the batch"
        )
    else:
        inputs = StepInputs(memory, x_wide, dt, A, B, C, D, z, dt_bias, dt_softplus)
        out = registered_backend(name).step(inputs)
    if memory is not state:
        state.copy_(memory)
    return out if out.dtype == x.dtype else out.to(x.dtype)


def _check(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
) -> None:
    if state.dim() != 3 or state.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"state is float32 or float64 (B, D, N), got {state.dtype} of shape {tuple(state.shape)}: "
            "a state in half precision loses what it remembers"
        )
    batch, channels, states = state.shape
    device, dtypes = state.device, ALLOWED[state.dtype]
    rows, line = (batch, channels), (channels,)
    for name, value, shape in (
        ("x", x, rows),
        ("dt", dt, rows),
        ("A", A, (channels, states)),
        ("D", D, line),
        ("z", z, rows),
        ("dt_bias", dt_bias, line),
        ("B", B, None),
        ("C", C, None),
    ):
        if value is None:
            continue
        if shape is None:
            _check_groups(name, value, batch, channels, states)
        elif value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {shape}")
        if value.device != device:
            raise ValueError(f"{name} is on {value.device} and the state on {device}: move them to one device")
        if value.dtype not in dtypes:
            raise ValueError(
                f"{name} is {value.dtype} and the state {state.dtype}: convert it, or the state to float64"
            )


def _check_groups(name: str, value: Tensor, batch: int, channels: int, states: int) -> None:
    if value.shape == (batch, states):
        return
    groups = value.shape[1] if value.dim() == 3 else 1
    if groups == 0 or channels % groups:
        raise ValueError(f"{name} has {groups} groups, which do not divide the {channels} channels")
    if value.shape != (batch, groups, states):
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {(batch, states)} or (B, G, N)")
