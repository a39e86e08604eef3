"""The native back end: canonical scans as calls of the C interface in `kernels/src/scan.h`, whose structs it fills."""

from __future__ import annotations

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanGradients, ScanInputs, StepInputs
from crossmamba.ops.native.library import (
    DTYPES,
    INSTRUCTION_SETS,
    NO_ARRAY,
    native_library,
    pointer,
    threads,
    why_no_library,
)

CHUNK, PAD = 16, 16  # CROSSMAMBA_CHUNK and CROSSMAMBA_PAD of scan.h
EVERY_STEP, ONE_STEP, PER_CHANNEL = range(3)


class NativeBackend:
    """C++ kernels for the CPU with a float32 state.

    Args:
        isa: "avx512", "avx2" or "baseline" for that instruction set, chosen by name only; None for the best.
    """

    def __init__(self, isa: str | None = None) -> None:
        self.isa = isa
        self.saved_version = 2  # 1 kept states every 64 steps
        self.name = "native" if isa is None else f"native-{isa}"
        self.priority = 30 if isa is None else -1

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if device.type != "cpu":
            return "runs on the CPU only"
        if dtype != torch.float32:
            return "its state is float32"
        reason = why_no_library()
        if reason is None and self.isa is not None and self.isa not in native_library().isas:
            return f"this processor (or build) has no {self.isa}"
        return reason

    def saved_elements(self, inputs: ScanInputs) -> int:
        batch, steps, channels = inputs.u.shape
        routes, groups = inputs.A.shape[0], _groups(inputs)
        padded = groups * ((channels // groups + PAD - 1) // PAD * PAD)
        return batch * routes * (steps // CHUNK + 1) * padded * inputs.A.shape[2]

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        u, (routes, channels, states) = inputs.u, inputs.A.shape
        saved = u.new_empty(self.saved_elements(inputs) if save else 0, dtype=torch.float32)
        last_state = u.new_empty(u.shape[0], routes, channels, states, dtype=torch.float32)
        out = torch.empty_like(u)
        total = _wide(out, routes)
        keep, fields = _scan_fields(inputs, total, last_state, saved if save else None)
        self._call("forward", fields + [0] * (4 * 7 + 7), threads())
        del keep
        return _narrow(total, out), last_state, saved

    def backward(self, inputs: ScanInputs, saved: Tensor, d_out: Tensor, d_state: Tensor) -> ScanGradients:
        u, delta, A, B, C, D, z, bias, initial, *_ = inputs
        batch, routes = u.shape[0], A.shape[0]
        d_u, d_delta = torch.empty_like(u), torch.empty_like(delta)
        d_z = None if z is None else torch.empty_like(z)
        d_A = torch.empty_like(A, memory_format=torch.contiguous_format)
        d_D = None if D is None else torch.empty_like(D, memory_format=torch.contiguous_format)
        d_bias = None if bias is None else torch.empty_like(bias, memory_format=torch.contiguous_format)
        d_initial = None if initial is None else torch.empty_like(initial, memory_format=torch.contiguous_format)
        d_u_total = _wide(d_u, routes)
        d_state = d_state.contiguous()
        keep, fields = _scan_fields(inputs, u, None, saved)
        count = threads()  # once: another thread may change torch's number before the call
        splits = native_library().splits(fields + [0] * (4 * 7 + 7), count)
        d_B, d_C = (_projection_gradient(value, splits) for value in (B, C))
        fields += _array(d_out) + _array(d_u_total) + _array(d_delta) + (NO_ARRAY if d_z is None else _array(d_z))
        fields += [pointer(value) for value in (d_state, d_A, d_D, d_bias, d_B, d_C, d_initial)]
        if u.shape[2] and batch:
            self._call("backward", fields, count)
        else:  # nothing to walk: the parameters' gradients are zero
            for value in (d_A, d_D, d_bias, d_B, d_C, d_delta):
                if value is not None:
                    value.zero_()
        del keep
        return ScanGradients(
            _narrow(d_u_total, d_u),
            d_delta,
            d_A,
            _summed(d_B, B),
            _summed(d_C, C),
            d_D,
            d_z,
            d_bias,
            d_initial,
        )

    def step(self, inputs: StepInputs) -> Tensor:
        state, x, dt, A, B, C, D, z, bias, softplus = inputs
        batch, channels, states = state.shape
        out = torch.empty_like(x)
        fields = [batch, B.shape[1] if B.dim() == 3 else 1, channels, states, int(softplus), state.data_ptr()]
        for value in (x, dt, z):
            fields += NO_ARRAY if value is None else _row_array(value)
        fields += _group_array(B) + _group_array(C) + _row_array(out)
        A, D, bias = A.contiguous(), _contiguous(D), _contiguous(bias)
        fields += [A.data_ptr(), pointer(D), pointer(bias)]
        self._call("step", fields, threads())
        return out

    def _call(self, name: str, fields: list[int], count: int) -> None:
        found = native_library()
        found.call(name, fields, INSTRUCTION_SETS[self.isa or found.isas[0]], count)


def _scan_fields(
    inputs: ScanInputs, out: Tensor, last_state: Tensor | None, saved: Tensor | None
) -> tuple[list[Tensor | None], list[int]]:
    """The struct's fields up to and including `saved`, and the tensors that must outlive the call."""
    u, delta, A, B, C, D, z, bias, initial, lengths, order, softplus, reverse = inputs
    kinds = [_kind(value, u.shape[1]) for value in (B, C)]
    keep: list[Tensor | None] = [_contiguous(value) for value in (A, D, bias, initial, lengths, order)]
    B, C = (value.contiguous() if value.dim() == 3 else value for value in (B, C))
    batch, steps, channels = u.shape
    fields = [batch, A.shape[0], _groups(inputs), steps, channels, A.shape[2], int(softplus), int(reverse)]
    fields += [int(delta.shape[2] == 1), *kinds]
    fields += _array(u) + _array(delta) + _array(B) + _array(C)
    fields += (NO_ARRAY if z is None else _array(z)) + _array(out)
    fields += [pointer(value) for value in (*keep, last_state, saved)]
    return [*keep, B, C], fields


def _array(value: Tensor) -> list[int]:
    """cm_array of (B, M, D), (B, K, M, D), (B, K, G, M, N) or (K, D, N): pointer, dtype, strides b, k, g, m, c."""
    strides, ndim = value.stride(), value.dim()
    if ndim == 3:
        b, m, c = strides
        k = g = 0
    elif ndim == 4:
        b, k, m, c = strides
        g = 0
    else:
        b, k, g, m, c = strides
    return [value.data_ptr(), DTYPES[value.dtype], b, k, g, m, c]


def _row_array(value: Tensor) -> list[int]:
    """cm_array of (B, D)."""
    b, c = value.stride()
    return [value.data_ptr(), DTYPES[value.dtype], b, 0, 0, 0, c]


def _group_array(value: Tensor) -> list[int]:
    """cm_array of (B, N) or (B, G, N)."""
    strides = value.stride()
    return [
        value.data_ptr(),
        DTYPES[value.dtype],
        strides[0],
        0,
        strides[1] if len(strides) == 3 else 0,
        0,
        strides[-1],
    ]


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _groups(inputs: ScanInputs) -> int:
    return next((value.shape[2] for value in (inputs.B, inputs.C) if value.dim() == 5), 1)


def _kind(projection: Tensor, steps: int) -> int:
    if projection.dim() == 3:
        return PER_CHANNEL
    return ONE_STEP if projection.shape[3] == 1 and steps != 1 else EVERY_STEP


def _projection_gradient(projection: Tensor, splits: int) -> Tensor:
    """Room for the gradient of B or C as the kernels add it up: one part per split, or one in all if per channel."""
    shape = projection.shape if projection.dim() == 3 else (splits, *projection.shape)
    return torch.empty(shape, dtype=torch.float32, device=projection.device)


def _summed(parts: Tensor, projection: Tensor) -> Tensor:
    if projection.dim() == 5:
        parts = parts[0] if parts.shape[0] == 1 else parts.sum(dim=0)
    return parts.to(projection.dtype)


def _wide(out: Tensor, routes: int) -> Tensor:
    """Where several routes add up their results: float32, or `out` itself if that will do."""
    return torch.empty_like(out, dtype=torch.float32) if routes > 1 and out.dtype != torch.float32 else out


def _narrow(total: Tensor, out: Tensor) -> Tensor:
    return out if total is out else out.copy_(total)
