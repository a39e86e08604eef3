"""The public operators: `selective_scan_fn` with mamba_ssm's interface, and `route_scan` over K routes at once."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmamba.ops.backends import RouteInputs, ScanInputs, get_backend
from crossmamba.ops.routes import RouteTable


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

    Args:
        u: input (B, D, L).
        delta: step size before bias and softplus (B, D, L).
        A: (D, N), real and negative for a stable system. Complex A is not supported.
        B, C: (D, N) constant, (B, N, L), or (B, G, N, L) with G dividing D.
        D: skip (D,).
        z: gate (B, D, L).
        delta_bias: (D,).
        delta_softplus: apply softplus to delta + delta_bias.
        return_last_state: also return the state after the last step.
        initial_state: state before the first step (B, D, N); zeros if None.
        lengths: int (B,); sample b has lengths[b] steps, the rest of it is ignored (even NaN), gives 0 in the
            output, and leaves the last state as it was at the sample's end.
        reverse: walk from the last step to the first; the last state is the one after step 0.
        backend: "auto" (or the environment's CROSSMAMBA_BACKEND), "portable", "reference", or a registered name.

    Returns:
        out (B, D, L) in u's dtype; with `return_last_state`, (out, last_state (B, D, N)). Unlike in mamba_ssm the
        last state carries gradient. Every tensor argument gets its gradient; second-order gradients are refused.

    Raises:
        ValueError: a shape that does not fit, or an unknown back end. NotImplementedError: complex A.
    """
    inputs = ScanInputs(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, lengths, reverse)
    _check_scan(inputs)
    out, last_state = get_backend(backend, u.device).selective_scan(inputs)
    return (out, last_state) if return_last_state else out


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
        delta: (B, K, M, D), before bias and softplus.
        A: (K, D, N).
        B, C: (B, K, M, N).
        table: the K routes over M tokens, on u's device (`route_table`).
        D: (K, D). delta_bias: (K, D). delta_softplus, backend: as `selective_scan_fn`.

    Returns:
        (B, M, D) in u's dtype.

    Raises:
        ValueError: a shape that does not fit.
    """
    batch, tokens, channels = u.shape
    routes, states = table.routes, A.shape[-1]
    _expect("u", u, (batch, table.tokens, channels))
    _expect("delta", delta, (batch, routes, tokens, channels))
    _expect("A", A, (routes, channels, states))
    _expect("B", B, (batch, routes, tokens, states))
    _expect("C", C, (batch, routes, tokens, states))
    _expect("D", D, (routes, channels))
    _expect("delta_bias", delta_bias, (routes, channels))
    inputs = RouteInputs(u, delta, A, B, C, table, D, delta_bias, delta_softplus)
    return get_backend(backend, u.device).route_scan(inputs)


def _expect(name: str, value: Tensor | None, *shapes: tuple[int, ...]) -> None:
    if value is not None and tuple(value.shape) not in shapes:
        allowed = " or ".join(str(shape) for shape in shapes)
        raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {allowed}")


def _check_scan(inputs: ScanInputs) -> None:
    u, delta, A, B, C, D, z, delta_bias, _, initial_state, lengths, _ = inputs
    if any(m.is_complex() for m in (A, B, C)):
        raise NotImplementedError("complex A, B or C is not supported: use real parameters (S6, not S4)")
    if u.dim() != 3 or A.dim() != 2:
        raise ValueError(f"u is (B, D, L) and A is (D, N), got shapes {tuple(u.shape)} and {tuple(A.shape)}")
    batch, channels, length = u.shape
    states = A.shape[1]
    _expect("delta", delta, (batch, channels, length))
    _expect("A", A, (channels, states))
    for name, matrix in (("B", B), ("C", C)):
        groups = matrix.shape[1] if matrix.dim() == 4 else 1
        if groups == 0 or channels % groups:
            raise ValueError(f"{name} has {groups} groups, which do not divide the {channels} channels")
        _expect(name, matrix, (channels, states), (batch, states, length), (batch, groups, states, length))
    if B.dim() == C.dim() == 4 and 1 not in (B.shape[1], C.shape[1]) and B.shape[1] != C.shape[1]:
        raise ValueError(f"B and C have {B.shape[1]} and {C.shape[1]} groups: use the same number, or 1 in one of them")
    _expect("D", D, (channels,))
    _expect("z", z, (batch, channels, length))
    _expect("delta_bias", delta_bias, (channels,))
    _expect("initial_state", initial_state, (batch, channels, states))
    _expect("lengths", lengths, (batch,))
    if lengths is not None and (torch.is_floating_point(lengths) or lengths.dtype == torch.bool):
        raise ValueError(f"lengths are integers, got {lengths.dtype}")
