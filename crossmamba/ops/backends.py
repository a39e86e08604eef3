"""Scan back ends behind one interface: what each of them gets, gives and says of itself, and which one is chosen.

The public operators check their arguments, bring them into the canonical form below by views, choose a back end, and
run it inside one torch operator (`crossmamba.ops.operator`). So a back end is written once against one form, and
torch.compile, export, vmap, autocast and checkpointing treat all of them alike. To add one, write a class with the
members of `ScanBackend` and call `register_backend`; callers do not change.

Canonical form, with    B batch   M tokens (= steps)   D channels   N states   K routes   G groups

    route k:    h_t = exp(Δ_t A_k) h_{t-1} + Δ_t B_t u_t,   y_t = C_t · h_t + D_k u_t    along order[k]
    Δ           softplus(delta + delta_bias), or delta + delta_bias
    out[token]  the sum of every route's y at that token, times silu(z)
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from crossmamba.errors import CrossmambaError

Answer = TypeVar("Answer", bound=Callable[..., Any])
PORTABLE_PRIORITY = 10
"""Back ends up to this one run anywhere and are slow; those above it are built for the machine."""


class ScanInputs(NamedTuple):
    """A scan in canonical form.

    The state's dtype is float64 if every tensor is float64, else float32. A delta of length 1 with B and C of length 1
    or constant is a time-invariant system; a back end may exploit that, and takes any mixture of lengths. M = 0 and
    D = 0 are legal. Steps past a sample's length are ignored even if they are NaN, give 0 in the output and in every
    gradient, and leave the state as it was.

    Attributes:
        u: (B, M, D), any strides, float32, bfloat16 or float16 (or float64, like all the others then).
        delta: (B, K, M, D), or (B, K, 1, D) where it is constant along the sequence. Dtypes and strides as u.
        A: (K, D, N) in the state's dtype.
        B: (B, K, G, M, N), (B, K, G, 1, N) where it is constant along the sequence, or (K, D, N), constant altogether
            and in the state's dtype.
        C: as B, with the same G unless one of them is (K, D, N).
        D: (K, D) in the state's dtype.
        z: (B, M, D), only with one route. Dtypes and strides as u.
        delta_bias: (K, D) in the state's dtype.
        initial_state: (B, K, D, N) in the state's dtype.
        lengths: int64 (B,) in [0, M], only without an order.
        order: int32 (K, M); `order[k, l]` is the token that route k visits at step l. None: every route walks 0..M-1.
        softplus: whether Δ is the softplus of its raw value.
        reverse: walk from the last step (of the sample's own length) to the first, only without an order.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None
    lengths: Tensor | None
    order: Tensor | None
    softplus: bool
    reverse: bool


class ScanGradients(NamedTuple):
    """Gradients of a scan, each in the shape and dtype of the input; None where the input is None.

    u, delta and z have the strides of `torch.empty_like` of the input; the others are contiguous.
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    initial_state: Tensor | None


class StepInputs(NamedTuple):
    """One step of a scan whose state is changed in place.

    Attributes:
        state: (B, D, N) float32 or float64, contiguous; everything is float64 if it is.
        x, dt: (B, D). A: (D, N) in the state's dtype. B, C: (B, N) or (B, G, N). D: (D,) in the state's dtype.
        z: (B, D). dt_bias: (D,) in the state's dtype. dt_softplus: as `ScanInputs.softplus`.
    """

    state: Tensor
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    dt_bias: Tensor | None
    dt_softplus: bool


class ScanBackend(Protocol):
    """What a back end offers.

    `priority`: under backend="auto" the highest of those that can run wins; one below 0 runs only when named.
    """

    @property
    def name(self) -> str:
        """What it is chosen by."""
        ...

    @property
    def priority(self) -> int:
        """See above."""
        ...

    @property
    def saved_version(self) -> int:
        """Raised whenever `saved_elements`, or the meaning of what `forward` saves, changes; see `versioned`."""
        ...

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """None if it can run on that device with a state of that dtype (float32 or float64), else why not."""
        ...

    def saved_elements(self, inputs: ScanInputs) -> int:
        """Elements that `forward` saves for `backward`: a function of shapes alone, without branches on them."""
        ...

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The output, as `torch.empty_like(u)` lays it out; the last state (B, K, D, N), contiguous, in the state's
        dtype; and what `backward` needs, 1-D in the state's dtype (empty unless `save`). None aliases an input."""
        ...

    def backward(self, inputs: ScanInputs, saved: Tensor, d_out: Tensor, d_state: Tensor) -> ScanGradients:
        """Gradients, from those of the output (any strides) and of the last state."""
        ...

    def step(self, inputs: StepInputs) -> Tensor:
        """One step: changes `state` in place and returns the output (B, D) in x's dtype."""
        ...


class SlowBackendWarning(UserWarning):
    """The portable scan runs where a faster one could."""


class SlowBackendError(CrossmambaError, RuntimeError):
    """CROSSMAMBA_REQUIRE_FAST=1 is set, and no fast scan can run."""


_BACKENDS: dict[str, ScanBackend] = {}
_WARNED: set[str] = set()


def register_backend(backend: ScanBackend) -> None:
    """Makes a back end available under its name, replacing one of the same name."""
    _BACKENDS[backend.name] = backend


def list_backends(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, str | None]:
    """Each back end's name with None if it can run on that device with a state of that dtype, else why not; the
    preferred one first."""
    ordered = sorted(_BACKENDS.values(), key=lambda backend: -backend.priority)
    return {backend.name: backend.why_not(torch.device(device), dtype) for backend in ordered}


def registered_backend(name: str) -> ScanBackend:
    """The back end of that name, plain or as `versioned`, able to run or not. Raises ValueError for an unknown name."""
    try:
        return _BACKENDS[name.partition("/")[0]]
    except KeyError:
        raise ValueError(f"unknown scan back end {name!r}: choose auto, {', '.join(_BACKENDS)}") from None


def constant_to_dynamo(function: Answer) -> Answer:
    """Marks a function whose result a compiled program takes as a constant.

    What `torch.compiler.assume_constant_result` does, which would import torch._dynamo for it, and with that Triton: a
    second for every `import crossmamba` that compiles nothing. A test compares the two.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_to_dynamo
def versioned(name: str) -> str:
    """The name as compiled programs hold it, with the version of what the back end saves: "native/2".

    Inductor keeps compiled programs on disk and finds them by the operators' names and arguments. With the plain name
    it would take those of an earlier version of this library, which expect another size of what `forward` saves.
    """
    return f"{name}/{registered_backend(name).saved_version}"


@constant_to_dynamo
def resolve_backend(name: str, device: torch.device, dtype: torch.dtype) -> str:
    """The name of the back end to run: "auto" is the one named by CROSSMAMBA_BACKEND, or the best one that can.

    Args:
        name: "auto" or a registered name. device: of the inputs. dtype: of the state, float32 or float64.

    Raises:
        ValueError: unknown name, or one that cannot run there. SlowBackendError: see `require_fast`.
    """
    if name == "auto" and "CROSSMAMBA_BACKEND" in os.environ:  # half the time of a get() that finds nothing
        name = os.environ["CROSSMAMBA_BACKEND"]
    if name != "auto":
        reason = registered_backend(name).why_not(device, dtype)
        if reason is not None:
            raise ValueError(f"scan back end {name!r} cannot run on {device.type} in {dtype}: {reason}")
        return name
    best: ScanBackend | None = None
    highest = 0
    for backend in _BACKENDS.values():
        priority = backend.priority
        if priority >= highest and backend.why_not(device, dtype) is None:
            best, highest = backend, priority
    if best is None:
        raise ValueError(f"no scan back end can run on {device.type} in {dtype}: {list_backends(device, dtype)}")
    if highest <= PORTABLE_PRIORITY and dtype == torch.float32 and device.type in ("cpu", "cuda"):
        _say_slow(best.name, device, dtype)
    return best.name


def _say_slow(chosen: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raises SlowBackendError under CROSSMAMBA_REQUIRE_FAST=1, else warns once per process and reason."""
    fast = [backend for backend in _BACKENDS.values() if backend.priority > PORTABLE_PRIORITY]
    reasons = "; ".join(f"{backend.name}: {backend.why_not(device, dtype)}" for backend in fast)
    text = (
        f"the {chosen} scan runs on {device.type}, many times slower than a fast back end would "
        f"({reasons or 'no fast back end is registered'}). `pip install ./kernels` builds the one for the CPU and "
        "needs a C++ compiler; see docs/INSTALL.md and `crossmamba doctor`"
    )
    if os.environ.get("CROSSMAMBA_REQUIRE_FAST", "0") not in ("", "0"):
        raise SlowBackendError(f"CROSSMAMBA_REQUIRE_FAST is set, but {text}")
    if text in _WARNED or multiprocessing.parent_process() is not None:  # workers stay silent: their parent has said it
        return
    _WARNED.add(text)
    warnings.warn(text, SlowBackendWarning, stacklevel=4)
