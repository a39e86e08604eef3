"""Functions on the Poincaré ball of curvature -c, with a curvature of its own for each sample.

Symbols (spec §6; the usual ones of gyrovector spaces):
    c > 0     the ball of curvature k = -c; a tensor that broadcasts against (..., 1), for example (B, 1, 1)
    u         a tangent vector at the origin (..., D)        x, y   points, sqrt(c) |x| < 1, (..., D)
    λ_x       2 / (1 - c |x|²), so a tangent vector u has the length 2 |u| at the origin

    exp0(u) = tanh(sqrt(c) |u|) u / (sqrt(c) |u|)            log0(x) = artanh(sqrt(c) |x|) x / (sqrt(c) |x|)
    dist0(x) = 2 artanh(sqrt(c) |x|) / sqrt(c)               dist0(exp0(u)) = 2 |u|
    dist(x, y) = 2 asinh(sqrt(c |x - y|² / ((1 - c |x|²) (1 - c |y|²)))) / sqrt(c)
               = 2 artanh(sqrt(c) |(-x) ⊕ y|) / sqrt(c)
    c -> 0:  exp0(u) -> u,  log0(x) -> x,  dist(x, y) -> 2 |x - y|

Everything is computed in float32 with autocast off, whatever the inputs and the surroundings (a round trip in bfloat16
is wrong by 9e-3), or in float64 if an argument is float64. Every result is in that dtype.

`dist` uses the asinh form: unlike the form with ⊕ it keeps its digits for points near each other and near the rim.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

RIM = {torch.float32: 4e-3, torch.float64: 1e-5}
"""1 - sqrt(c) |x| of the outermost points, as geoopt has it. So |log0| stops at artanh(1 - RIM) / sqrt(c), which is
3.106 / sqrt(c) in float32 and 6.103 / sqrt(c) in float64."""
MIN_NORM = 1e-15
MAX_TANH = 15.0
CLIP_RADIUS = 2.0


def _wide(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Runs with autocast off and every tensor in float32, or in float64 if one of them is."""

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Tensor:
        tensors = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
        dtype = torch.float64 if any(value.dtype == torch.float64 for value in tensors) else torch.float32
        with without_autocast(tensors[0]):
            return function(
                *(_to(value, dtype) for value in arguments),
                **{name: _to(value, dtype) for name, value in named.items()},
            )

    return run


def without_autocast(like: Tensor) -> AbstractContextManager[Any]:
    """Autocast off on that tensor's device; nothing to do where there is no autocast (the meta device)."""
    if not torch.amp.is_autocast_available(like.device.type):
        return nullcontext()
    return torch.autocast(like.device.type, enabled=False)


def _to(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) else value


def _norm(x: Tensor) -> Tensor:
    """|x| (..., 1), at least MIN_NORM; its gradient at 0 is 0 and not NaN."""
    return x.square().sum(-1, keepdim=True).clamp_min(MIN_NORM**2).sqrt()


def _artanh(x: Tensor) -> Tensor:
    """artanh of x >= 0, which is held inside the rim."""
    return torch.atanh(x.clamp(max=1.0 - RIM[x.dtype]))


@_wide
def clip_tangent(u: Tensor, c: Tensor, radius: float = CLIP_RADIUS) -> Tensor:
    """Shortens tangent vectors (..., D) to |u| <= radius / sqrt(c).

    Without it a feature of 512 numbers of unit variance (|u| about 22) sits on the rim, where float32 sees no
    difference between points (spec §6.3). tanh(2) = 0.964 is well inside the rim of float32.
    """
    return u * (radius / (c.sqrt() * _norm(u))).clamp(max=1.0)


@_wide
def exp0(u: Tensor, c: Tensor) -> Tensor:
    """The exponential map at the origin: tangent vectors (..., D) -> points (..., D). Its gradient at 0 is 1."""
    scaled = c.sqrt() * _norm(u)
    return u * (scaled.clamp(max=MAX_TANH).tanh() / scaled)


@_wide
def log0(x: Tensor, c: Tensor) -> Tensor:
    """The logarithm at the origin, the inverse of `exp0`: points (..., D) -> tangent vectors (..., D)."""
    scaled = c.sqrt() * _norm(x)
    return x * (_artanh(scaled) / scaled)


@_wide
def project(x: Tensor, c: Tensor) -> Tensor:
    """Pulls points (..., D) that are on the rim or outside back to sqrt(c) |x| = 1 - RIM; others stay as they are."""
    return x * ((1.0 - RIM[x.dtype]) / (c.sqrt() * _norm(x))).clamp(max=1.0)


@_wide
def mobius_add(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """x ⊕ y, (..., D): the translation of y by x. (-x) ⊕ (x ⊕ y) = y."""
    xx, yy, xy = (value.sum(-1, keepdim=True) for value in (x * x, y * y, x * y))
    numerator = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
    return numerator / (1 + 2 * c * xy + c**2 * xx * yy).clamp_min(MIN_NORM)


@_wide
def dist(x: Tensor, y: Tensor, c: Tensor) -> Tensor:
    """The geodesic distance of points (..., D), one number each (...). Both must lie in the ball: `project` first.

    The gradient at x = y is 0. `c` keeps its last dimension of 1, as everywhere here: a c of (B, 1, 1) with points
    (B, T, D) gives (B, T), and not (B, B, T).
    """
    rim = RIM[x.dtype]
    inside = [(1 - c * value.square().sum(-1, keepdim=True)).clamp_min(rim * (2 - rim)) for value in (x, y)]
    half = torch.asinh(c.sqrt() * _norm(x - y) / (inside[0] * inside[1]).sqrt())
    return (2 * half / c.sqrt()).squeeze(-1)


@_wide
def dist0(x: Tensor, c: Tensor) -> Tensor:
    """The geodesic distance of points (..., D) from the origin, (...)."""
    return (2 * _artanh(c.sqrt() * _norm(x)) / c.sqrt()).squeeze(-1)
