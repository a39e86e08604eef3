"""The public operators: `selective_scan_fn` with mamba_ssm's interface, and `route_scan` over K routes at once.

Both check their arguments and bring them into the canonical form of `ScanInputs` by views.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanInputs, resolve_backend
from crossmamba.ops.operator import run_scan
from crossmamba.ops.reference import state_dtype
from crossmamba.ops.routes import RouteTable

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Tensor | None = None,
    lengths: Tensor | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan of Mamba (S6), with mamba_ssm's arguments, layouts and results.

    h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t,  y_t = C_t · h_t + D u_t,  out_t = y_t silu(z_t)
    (Mamba, arXiv 2312.00752, eq. 2 and algorithm 2). The state is float32 whatever the inputs' dtype and whatever
    autocast says; float64 if any input is float64. Empty sequences are allowed.

    What is constant along the sequence may be given with length 1, or expanded to L (stride 0): then the faster
    time-invariant form is used. The gradient of an expanded tensor reaches what it was expanded from.

    Args:
        u: input (B, D, L).
        delta: step size before bias and softplus (B, D, L) or (B, D, 1).
        A: (D, N), real and negative for a stable system. Complex A is not supported.
        B, C: (D, N) constant, (B, N, L), or (B, G, N, L) with G dividing D; L may be 1 for what is constant in time.
        D: skip (D,).
        z: gate (B, D, L).
        delta_bias: (D,).
        delta_softplus: apply softplus to delta + delta_bias.
        return_last_state: also return the state after the last step.
        initial_state: state before the first step (B, D, N); zeros if None.
        lengths: int (B,); sample b has lengths[b] steps, the rest of it is ignored (even NaN), gives 0 in the
            output, and leaves the last state as it was at the sample's end.
        reverse: walk from the last step to the first; the last state is the one after step 0.
        backend: "auto" (or the environment's CROSSMAMBA_BACKEND), or a name of `list_backends`.

    Returns:
        out (B, D, L) in u's dtype; with `return_last_state`, (out, last_state (B, D, N)). Unlike in mamba_ssm the
        last state carries gradient. Every tensor argument gets its gradient; second-order gradients are refused.

    Raises:
        ValueError: a shape or dtype that does not fit, or an unknown back end. NotImplementedError: complex A.
        SlowBackendError: CROSSMAMBA_REQUIRE_FAST=1 is set and only the portable scan can run.
    """
    _check_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, lengths)
    dtype = state_dtype(u, delta, A, B, C, D, z, delta_bias, initial_state)
    if lengths is not None:
        lengths = lengths.long().clamp(0, u.shape[2])
    delta, B, C = _short(delta, -1), _short(B, -1), _short(C, -1)
    B, C = _with_same_groups(_canonical_projection(B, dtype), _canonical_projection(C, dtype))
    inputs = ScanInputs(
        _wide(u, dtype).transpose(1, 2),
        _wide(delta, dtype).transpose(1, 2)[:, None],
        A.to(dtype)[None],
        B,
        C,
        None if D is None else D.to(dtype)[None],
        None if z is None else _wide(z, dtype).transpose(1, 2),
        None if delta_bias is None else delta_bias.to(dtype)[None],
        None if initial_state is None else initial_state.to(dtype)[:, None],
        lengths,
        None,
        delta_softplus,
        reverse,
    )
    out, last_state = run_scan(inputs, resolve_backend(backend, u.device, dtype))
    out = out.transpose(1, 2).to(u.dtype)
    return (out, last_state[:, 0]) if return_last_state else out


def route_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    table: RouteTable,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """Scans the same tokens along K routes, each with its own parameters, and sums the results token by token.

    All tensors are in token order and channels last; only the table knows the routes (AVS-Mamba eq. 5 to 9, 13, 17).

    Args:
        u: tokens (B, M, D).
        delta: (B, K, M, D) or (B, K, 1, D), before bias and softplus.
        A: (K, D, N).
        B, C: (B, K, M, N), or (B, K, 1, N) for what is the same at every token.
        table: the K routes over M tokens, on u's device (`route_table`).
        D: (K, D). delta_bias: (K, D). delta_softplus, backend: as `selective_scan_fn`.

    Returns:
        (B, M, D) in u's dtype.

    Raises:
        ValueError: a shape, dtype or device that does not fit.
    """
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}
    _check_tensors(named, {"u": 3, "A": 3})
    batch, tokens, channels = u.shape
    routes, states = table.routes, A.shape[2]
    _expect("u", u, (batch, table.tokens, channels))
    _expect("delta", delta, (batch, routes, tokens, channels), (batch, routes, 1, channels))
    _expect("A", A, (routes, channels, states))
    for name, matrix in (("B", B), ("C", C)):
        _expect(name, matrix, (batch, routes, tokens, states), (batch, routes, 1, states))
    _expect("D", D, (routes, channels))
    _expect("delta_bias", delta_bias, (routes, channels))
    if table.order.device != u.device:
        raise ValueError(f"the route table is on {table.order.device} and u on {u.device}: give route_table u's device")
    dtype = state_dtype(*named.values())
    inputs = ScanInputs(
        _wide(u, dtype),
        _wide(_short(delta, -2), dtype),
        A.to(dtype),
        _wide(_short(B, -2), dtype)[:, :, None],
        _wide(_short(C, -2), dtype)[:, :, None],
        None if D is None else D.to(dtype),
        None,
        None if delta_bias is None else delta_bias.to(dtype),
        None,
        None,
        table.order,
        delta_softplus,
        False,
    )
    return run_scan(inputs, resolve_backend(backend, u.device, dtype))[0].to(u.dtype)


def _wide(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The value in float64 where the state is; otherwise as it is, half precision too."""
    return value.to(dtype) if dtype == torch.float64 else value


def _short(value: Tensor, steps: int) -> Tensor:
    """delta, B or C that was expanded along its dimension `steps`, with the length 1 that it really has.

    A leaf is left alone: it has a gradient of its own for every step. So is a constant (D, N).
    """
    if value.dim() < 3 or value.stride(steps) != 0 or value.shape[steps] <= 1:
        return value
    return value if value.requires_grad and value.is_leaf else value.narrow(steps, 0, 1)


def _canonical_projection(value: Tensor, dtype: torch.dtype) -> Tensor:
    """(D, N) | (B, N, L) | (B, G, N, L) -> (1, D, N) | (B, 1, G, L, N)."""
    if value.dim() == 2:
        return value.to(dtype)[None]
    value = _wide(value, dtype).transpose(-1, -2)
    return value[:, None, None] if value.dim() == 3 else value[:, None]


def _with_same_groups(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """B and C (B, 1, G, L, N) with the number of groups of the other where one has a single group."""
    if B.dim() == C.dim() == 5 and B.shape[2] != C.shape[2]:
        groups = max(B.shape[2], C.shape[2])
        B, C = (value.expand(-1, -1, groups, -1, -1) for value in (B, C))
    return B, C


def _expect(name: str, value: Tensor | None, *shapes: tuple[int, ...]) -> None:
    if value is None:
        return
    shape = tuple(value.shape)
    # Lengths first: comparing (B, N, L) with (D, N) would compare B with D and tie an exported program to B != D.
    if not any(len(shape) == len(allowed) and shape == allowed for allowed in shapes):
        raise ValueError(f"{name} has shape {shape}, expected {' or '.join(map(str, dict.fromkeys(shapes)))}")


def _check_tensors(named: dict[str, Tensor | None], dimensions: dict[str, int]) -> None:
    """Dtypes, devices, and the number of dimensions of the tensors that the other shapes are read from."""
    u = named["u"]
    assert u is not None
    for name, value in named.items():
        if value is None:
            continue
        if value.is_complex():
            raise NotImplementedError(f"complex {name} is not supported: use real parameters (S6, not S4)")
        if value.dtype not in FLOATS:
            raise ValueError(f"{name} is {value.dtype}: convert it to float32, bfloat16, float16 or float64")
        if value.device != u.device:
            raise ValueError(f"{name} is on {value.device} and u on {u.device}: move them to one device")
    for name, count in dimensions.items():
        value = named[name]
        if value is not None and value.dim() != count:
            raise ValueError(f"{name} has {value.dim()} dimensions, shape {tuple(value.shape)}, expected {count}")


def _check_scan(
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
) -> None:
    named = {
        "u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias,
        "initial_state": initial_state,
    }  # fmt: skip
    _check_tensors(named, {"u": 3, "A": 2})
    batch, channels, length = u.shape
    states = A.shape[1]
    if states == 0:
        raise ValueError(f"A has shape {tuple(A.shape)}: a state needs at least one number (N >= 1)")
    _expect("delta", delta, (batch, channels, length), (batch, channels, 1))
    _expect("A", A, (channels, states))
    for name, matrix in (("B", B), ("C", C)):
        if matrix.dim() == 2:
            _expect(name, matrix, (channels, states))
            continue
        groups = matrix.shape[1] if matrix.dim() == 4 else 1
        if groups == 0 or channels % groups:
            raise ValueError(f"{name} has {groups} groups, which do not divide the {channels} channels")
        shapes = [(batch, states, length), (batch, groups, states, length)]
        _expect(name, matrix, (channels, states), *shapes, *((*shape[:-1], 1) for shape in shapes))
    if B.dim() == C.dim() == 4 and 1 not in (B.shape[1], C.shape[1]) and B.shape[1] != C.shape[1]:
        raise ValueError(f"B and C have {B.shape[1]} and {C.shape[1]} groups: use the same number, or 1 in one of them")
    _expect("D", D, (channels,))
    _expect("z", z, (batch, channels, length))
    _expect("delta_bias", delta_bias, (channels,))
    _expect("initial_state", initial_state, (batch, channels, states))
    _expect("lengths", lengths, (batch,))
    if lengths is not None and (torch.is_floating_point(lengths) or lengths.dtype == torch.bool):
        raise ValueError(f"lengths are integers, got {lengths.dtype}")
    if lengths is not None and lengths.device != u.device:
        raise ValueError(f"lengths are on {lengths.device} and u on {u.device}: move them to one device")
