"""The selective scans of other packages, imported where they are installed and never copied, each behind an adapter.

An adapter puts `Sequences` into the peer's own layout once, outside the timing, and calls the peer's function. What
the peer leaves to its caller (bias and softplus, the gate) is done by the same torch operations its own model uses.

| peer | imported from | routes as |
|---|---|---|
| mamba_ssm | `mamba_ssm.ops.selective_scan_interface.selective_scan_ref` (package mamba-ssm) | groups |
| transformers | `mamba_selective_scan`, the path without kernels (transformers) | samples |
| mambapy | `MambaBlock.selective_scan`, with its pscan (package mambapy) | samples |
| associative_scan | torch's own, eager and generic, with plain torch around it | samples |
| crossmamba reference | our `selective_scan_ref`: the loop of mamba_ssm's reference, without its indexing | groups |
| VMamba, mamba-minimal | no package provides them: `--peer` names a function of a checkout | |
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmamba.benchmarking.problems import Problem, Shape, folded, grouped, make_problem, merged
from crossmamba.benchmarking.timing import Side, leaves
from crossmamba.errors import UsageError
from crossmamba.ops import RouteTable, route_scan, selective_scan_fn, selective_scan_ref

Scan = Callable[..., Tensor]
# A float32 scan of a few steps against a float64 one: far above rounding, far below any mistake in an adapter.
AGREEMENT = 1e-4


@dataclass(frozen=True)
class Peer:
    """One implementation that can be timed. `slow_backward`: a loop under autograd, mostly of O(L^2) time, which is
    timed with fewer channels."""

    name: str
    prepare: Callable[[Problem], Side]
    slow_backward: bool = True


@dataclass(frozen=True)
class Absent:
    """A peer that cannot be timed here, and why."""

    name: str
    reason: str


def ours(problem: Problem, backend: str, table: RouteTable | None = None) -> Side:
    """This library's public function on its own layout: `selective_scan_fn` on views, or `route_scan` over the shape's
    routes (or another table)."""
    routes = problem.shape.routes
    options: dict[str, Any] = {"delta_softplus": True, "backend": backend}
    if problem.shape.grids:
        per_route = [
            value.expand(routes, *value.shape).contiguous() for value in (problem.A, problem.D, problem.delta_bias)
        ]
        u, delta, A, B, C, D, bias = leaves(
            problem.u, problem.delta, per_route[0], problem.B, problem.C, *per_route[1:]
        )
        table = problem.shape.table() if table is None else table
        inputs = [u, delta, A, B, C, D, bias]
        return Side(backend, inputs, lambda: route_scan(u, delta, A, B, C, table, D, bias, **options))
    gate = None if problem.z is None else problem.z.transpose(1, 2)
    views = [value[:, 0].transpose(1, 2) for value in (problem.delta, problem.B, problem.C)]
    given = leaves(
        problem.u.transpose(1, 2), views[0], problem.A, views[1], views[2], problem.D, gate, problem.delta_bias
    )

    def call() -> Tensor:
        out = selective_scan_fn(*given, **options)
        assert isinstance(out, Tensor)
        return out

    return Side(backend, present(given), call)


def ours_as_tokens(problem: Problem, out: Tensor) -> Tensor:
    """The result of `ours` as (B, M, D)."""
    return out.detach() if problem.shape.grids else out.detach().transpose(1, 2)


# --- adapters: a scan function of a known signature -> what prepares a Side


def like_mamba_ssm(name: str, scan: Scan) -> Peer:
    """mamba_ssm's arguments: (u, delta, A, B, C, D, z, delta_bias, delta_softplus), channels before steps."""

    def prepare(problem: Problem) -> Side:
        data = grouped(problem)
        single = data.B.shape[1] == 1
        B, C = (data.B[:, 0], data.C[:, 0]) if single else (data.B, data.C)
        given = leaves(data.u, data.delta, data.A, B, C, data.D, data.z, data.delta_bias)
        u, delta, A, B, C, D, z, bias = given
        return Side(name, present(given), lambda: scan(u, delta, A, B, C, D, z, bias, True))

    return Peer(name, prepare)


def like_vmamba(name: str, scan: Scan) -> Peer:
    """VMamba's `selective_scan_torch`: as mamba_ssm's without z, B and C always with groups."""

    def prepare(problem: Problem) -> Side:
        data = grouped(problem)
        given = leaves(data.u, data.delta, data.A, data.B, data.C, data.D, data.z, data.delta_bias)
        u, delta, A, B, C, D, z, bias = given
        call = lambda: _gated(scan(u, delta, A, B, C, D, delta_bias=bias, delta_softplus=True), z)  # noqa: E731
        return Side(name, present(given), call)

    return Peer(name, prepare)


def like_mamba_minimal(name: str, scan: Scan) -> Peer:
    """mamba-minimal's method `selective_scan(self, u, delta, A, B, C, D)`: u (S, D, L), the others steps first."""

    def prepare(problem: Problem) -> Side:
        data = folded(problem)
        delta_rows, B_rows, C_rows = _rows(data.delta), _rows(data.B[:, 0]), _rows(data.C[:, 0])
        given = leaves(data.u, delta_rows, data.A, B_rows, C_rows, data.D, data.z, data.delta_bias)
        u, delta, A, B, C, D, z, bias = given
        call = lambda: _gated(scan(None, u, F.softplus(delta + bias), A, B, C, D), z)  # noqa: E731
        return Side(name, present(given), call)

    return Peer(name, prepare)


def like_mambapy(name: str, scan: Scan) -> Peer:
    """mamba.py's method `selective_scan(self, x, delta, A, B, C, D)`: everything (S, L, ...); a parallel scan."""

    def prepare(problem: Problem) -> Side:
        data = folded(problem)
        rows = [_rows(value) for value in (data.u, data.delta, data.B[:, 0], data.C[:, 0])]
        gate = None if data.z is None else _rows(data.z)
        given = leaves(rows[0], rows[1], data.A, rows[2], rows[3], data.D, gate, data.delta_bias)
        u, delta, A, B, C, D, z, bias = given
        call = lambda: _gated(scan(None, u, F.softplus(delta + bias), A, B, C, D), z).transpose(1, 2)  # noqa: E731
        return Side(name, present(given), call)

    return Peer(name, prepare, slow_backward=False)


def like_transformers(name: str, scan: Scan) -> Peer:
    """transformers' `mamba_selective_scan`: mamba_ssm's arguments without groups."""

    def prepare(problem: Problem) -> Side:
        data = folded(problem)
        given = leaves(data.u, data.delta, data.A, data.B[:, 0], data.C[:, 0], data.D, data.z, data.delta_bias)
        u, delta, A, B, C, D, z, bias = given
        return Side(name, present(given), lambda: scan(u, delta, A, B, C, D, z, bias, delta_softplus=True))

    return Peer(name, prepare)


def with_associative_scan(name: str, associative_scan: Callable[..., Any]) -> Peer:
    """torch's parallel scan of (a, b) then (a', b') = (a a', a' b + b'), with the operands as its users build them."""

    def combine(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return first[0] * second[0], second[0] * first[1] + second[1]

    def scan(_: None, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        decay = torch.exp(delta[..., None] * A)  # (S, L, D, N)
        drive = (delta * u)[..., None] * B[:, :, None]
        _, states = associative_scan(combine, (decay, drive), dim=1, combine_mode="generic")
        return (states @ C[..., None])[..., 0] + D * u

    return like_mambapy(name, scan)


def _rows(value: Tensor) -> Tensor:
    """(S, X, L) -> (S, L, X), contiguous."""
    return value.transpose(1, 2).contiguous()


def _gated(out: Tensor, z: Tensor | None) -> Tensor:
    return out if z is None else out * F.silu(z)


def present(values: list[Tensor | None]) -> list[Tensor]:
    """Those that are not None."""
    return [value for value in values if value is not None]


# --- finding the peers


def _mamba_ssm() -> Scan:
    """mamba_ssm's reference. Its module also imports a compiled CUDA extension that the reference does not use and
    that no CPU machine can build: a placeholder stands in for it during the import."""
    with _placeholder("selective_scan_cuda"):
        return importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_ref


@contextmanager
def _placeholder(name: str) -> Any:
    absent = importlib.util.find_spec(name) is None
    if absent:
        sys.modules[name] = types.ModuleType(name)
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


def _transformers() -> Scan:
    # Unwrapped: the decorated function would hand over to mamba_ssm's CUDA kernels where they are installed.
    module = importlib.import_module("transformers.models.mamba.modeling_mamba")
    return inspect.unwrap(module.mamba_selective_scan)


def _mambapy() -> Scan:
    return importlib.import_module("mambapy.mamba").MambaBlock.selective_scan


def _associative_scan() -> Callable[..., Any]:
    return importlib.import_module("torch._higher_order_ops.associative_scan").associative_scan


# name: (what imports it, adapter, how to get it)
KNOWN: dict[str, tuple[Callable[[], Any] | None, Callable[[str, Any], Peer], str]] = {
    "mamba_ssm": (_mamba_ssm, like_mamba_ssm, "MAMBA_SKIP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm"),
    "VMamba": (None, like_vmamba, "--peer VMamba=CHECKOUT/classification/models/csms6s.py:selective_scan_torch"),
    "mambapy": (_mambapy, like_mambapy, "pip install mambapy"),
    "transformers": (_transformers, like_transformers, "pip install 'transformers>=5.20'"),
    "mamba-minimal": (
        None,
        like_mamba_minimal,
        "--peer mamba-minimal=CHECKOUT/model.py:MambaBlock.selective_scan",
    ),
    "associative_scan": (_associative_scan, with_associative_scan, "pip install 'torch>=2.11'"),
    "crossmamba reference": (lambda: selective_scan_ref, like_mamba_ssm, ""),
}


def find_peers(extra: list[str]) -> tuple[list[Peer], list[Absent]]:
    """The peers that can be timed here, those of `extra` ("NAME=MODULE:FUNCTION") among them, and those that cannot.

    Raises:
        UsageError: an `extra` that is not of that form, cannot be imported, or has an unknown signature.
    """
    given = dict(_named(text) for text in extra)
    found, absent = [], []
    for name, (load, adapter, how) in KNOWN.items():
        if name in given:
            found.append(_checked(adapter(name, given.pop(name))))
            continue
        try:
            if load is None:
                raise ImportError("not installed, no package provides it")
            found.append(_checked(adapter(name, load())))
        except Exception as error:  # a package may break in any way while it is imported
            absent.append(Absent(name, f"{_line(error)}; to time it: {how}"))
    found += [_checked(adapter_for(scan)(name, scan)) for name, scan in given.items()]
    return found, absent


def adapter_for(scan: Scan) -> Callable[[str, Scan], Peer]:
    """The adapter for a function's signature: mamba_ssm's, VMamba's (no z), or mamba-minimal's (a method)."""
    names = list(inspect.signature(scan).parameters)
    if "delta_softplus" in names:
        return like_mamba_ssm if "z" in names else like_vmamba
    if names[:7] == ["self", "u", "delta", "A", "B", "C", "D"]:
        return like_mamba_minimal
    raise UsageError(
        f"--peer: a function with the arguments ({', '.join(names)}) is not known; give one with mamba_ssm's "
        "(u, delta, A, B, C, D, z, delta_bias, delta_softplus), z being optional, or mamba-minimal's method"
    )


def _named(text: str) -> tuple[str, Scan]:
    """ "NAME=MODULE:FUNCTION" -> (NAME, the function). MODULE is importable, or the path of a .py file."""
    name, equals, place = text.partition("=")
    module_name, colon, attribute = place.rpartition(":")
    if not (name and equals and colon and module_name and attribute):
        raise UsageError(f"--peer {text!r}: give NAME=MODULE:FUNCTION, for example mine=my_scan:selective_scan")
    try:
        value: Any = _module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, OSError, AttributeError) as error:
        raise UsageError(f"--peer {text!r}: {_line(error)}") from error
    return name, value


def _module(name: str) -> types.ModuleType:
    path = Path(name)
    if path.suffix != ".py":
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(f"peer_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _checked(peer: Peer) -> Peer:
    """The peer itself, once it has computed small scans like our reference.

    Raises:
        ValueError: its results differ, so that a time of it would mean nothing.
    """
    for shape in CHECK_SHAPES:
        problem = make_problem(shape)
        ours_out = ours_as_tokens(problem, ours(problem, "reference").forward())
        theirs_out = merged(problem, peer.prepare(problem).forward())
        error = float((theirs_out - ours_out).norm() / ours_out.norm())
        if not error < AGREEMENT:
            raise ValueError(f"peer {peer.name!r} computes something else: relative error {error:.1e} on {shape}")
    return peer


CHECK_SHAPES = (
    Shape("check", 2, 13, 8, 3, gate=True),
    Shape("check", 1, 22, 8, 3, grids=((2, 3, 3), (1, 2, 2))),
)
