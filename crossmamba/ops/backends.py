"""Scan back ends behind one interface: the public operators validate, choose a back end, and call it.

A back end gets the arguments of the public operator, checked and otherwise untouched (any dtype, any strides), so
that a native one can fuse bias, softplus, skip and gate and read strides as they are. To add one, write a class with
the members of `ScanBackend` and call `register_backend`; callers do not change.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from crossmamba.ops.routes import RouteTable


class ScanInputs(NamedTuple):
    """The arguments of `selective_scan_fn`; shapes there."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    initial_state: Tensor | None
    lengths: Tensor | None
    reverse: bool


class RouteInputs(NamedTuple):
    """The arguments of `route_scan`; shapes there."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    table: RouteTable
    D: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool


class ScanBackend(Protocol):
    """What a back end offers. `priority`: the highest that supports the device wins under backend="auto"."""

    name: str
    priority: int

    def why_not(self, device: torch.device) -> str | None:
        """None if it can run on that device, else the reason in words."""
        ...

    def selective_scan(self, inputs: ScanInputs) -> tuple[Tensor, Tensor]:
        """Output (B, D, L) in u's dtype and last state (B, D, N); see `selective_scan_fn`."""
        ...

    def route_scan(self, inputs: RouteInputs) -> Tensor:
        """Output (B, M, D) in u's dtype; see `route_scan`."""
        ...


_BACKENDS: dict[str, ScanBackend] = {}


def register_backend(backend: ScanBackend) -> None:
    """Makes a back end available under its name, replacing one of the same name."""
    _BACKENDS[backend.name] = backend


def list_backends(device: torch.device | str = "cpu") -> dict[str, str | None]:
    """Each back end's name with None if it can run on that device, else why not; the preferred one first."""
    ordered = sorted(_BACKENDS.values(), key=lambda backend: -backend.priority)
    return {backend.name: backend.why_not(torch.device(device)) for backend in ordered}


def get_backend(name: str, device: torch.device) -> ScanBackend:
    """The back end of that name; "auto" is the one named by CROSSMAMBA_BACKEND, or the best for the device.

    Raises:
        ValueError: unknown name, or one that cannot run on that device.
    """
    if name == "auto":
        name = os.environ.get("CROSSMAMBA_BACKEND", "auto")
    if name == "auto":
        usable = [backend for backend in _BACKENDS.values() if backend.why_not(device) is None]
        return max(usable, key=lambda backend: backend.priority)
    if name not in _BACKENDS:
        raise ValueError(f"unknown scan back end {name!r}: choose auto, {', '.join(_BACKENDS)}")
    reason = _BACKENDS[name].why_not(device)
    if reason is not None:
        raise ValueError(f"scan back end {name!r} cannot run on {device}: {reason}")
    return _BACKENDS[name]
