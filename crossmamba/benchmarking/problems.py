"""The scans that are timed: the papers' shapes, their inputs, and the layouts that each side wants them in.

Symbols (crossmamba.ops.backends): B batch, K routes, M tokens (= L steps), D channels, N states.

    d    Mamba-1 on language, with its gate            B1  L2048 D1536 N16
    a    AV-Mamba's second tier, batch cut from 160    B10 L196  D512  N16
    b1   AVS-Mamba's temporal block, five frames, three scales, eight routes    B1 K8 M5145 D256 N1
    b16  the same of one frame, with more states       B1 K8 M1029 D256 N16
    c    SHMamba's picture branch, with its gate       B1  L3136 D768  N16

A peer knows no routes. It is given the tokens of each route already copied into walking order, which is not charged
to it, and need not add the routes' results up; ours walks the tables and adds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from crossmamba.ops import RouteTable, route_table

EIGHT_ROUTES = ("THW+", "THW-", "TWH+", "TWH-", "HWT+", "HWT-", "WHT+", "WHT-")
MULTI_SCALE = ((28, 28), (14, 14), (7, 7))  # a 224 pixel frame at strides 8, 16 and 32
# What gets a gradient, in the order of `selective_scan_fn`'s arguments.
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


@dataclass(frozen=True)
class Shape:
    """One scan of `length` steps: along eight routes over (T, H, W) `grids` if there are any, else first to last."""

    name: str
    batch: int
    length: int
    channels: int
    states: int
    gate: bool = False
    grids: tuple[tuple[int, int, int], ...] = ()

    @property
    def routes(self) -> int:
        return len(EIGHT_ROUTES) if self.grids else 1

    def table(self) -> RouteTable:
        """The eight routes; cached by `route_table`."""
        return route_table(EIGHT_ROUTES, self.grids)

    def narrow(self, channels: int, name: str | None = None) -> Shape:
        """The same with fewer channels: all that some measurements can afford."""
        return replace(self, channels=min(channels, self.channels), name=name or f"{self.name}, D{channels}")

    def __str__(self) -> str:
        routes = f" K{self.routes}" if self.grids else ""
        gate = " +z" if self.gate else ""
        return f"{self.name}: B{self.batch}{routes} L{self.length} D{self.channels} N{self.states}{gate}"


def clip_shape(name: str, frames: int, channels: int, states: int) -> Shape:
    """The temporal scan of one clip of that many frames, three scales in one sequence."""
    grids = tuple((frames, height, width) for height, width in MULTI_SCALE)
    return Shape(name, 1, sum(t * h * w for t, h, w in grids), channels, states, grids=grids)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("d", 1, 2048, 1536, 16, gate=True),
        Shape("a", 10, 196, 512, 16),
        clip_shape("b1", 5, 256, 1),
        clip_shape("b16", 1, 256, 16),
        Shape("c", 1, 3136, 768, 16, gate=True),
    )
}
# Channels left where a peer's backward needs O(L^2) time and would take minutes at full width.
CUT_CHANNELS = {"d": 128, "a": 64, "b1": 16, "b16": 32, "c": 32}


class Problem(NamedTuple):
    """Inputs in this library's own layout: tokens in order, channels last. A, D and the bias are those of one route,
    the same for all, so that a peer may take the routes as further samples of its batch."""

    shape: Shape
    u: Tensor  # (B, M, D)
    delta: Tensor  # (B, K, M, D), before bias and softplus
    A: Tensor  # (D, N)
    B: Tensor  # (B, K, M, N)
    C: Tensor  # (B, K, M, N)
    D: Tensor  # (D,)
    z: Tensor | None  # (B, M, D)
    delta_bias: Tensor  # (D,)


class Sequences(NamedTuple):
    """The same in mamba_ssm's layout, contiguous. S sequences of D' channels that share B and C in G groups."""

    u: Tensor  # (S, D', L)
    delta: Tensor  # (S, D', L)
    A: Tensor  # (D', N)
    B: Tensor  # (S, G, N, L)
    C: Tensor  # (S, G, N, L)
    D: Tensor  # (D',)
    z: Tensor | None  # (S, D', L)
    delta_bias: Tensor  # (D',)


def make_problem(shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 0) -> Problem:
    """Random inputs with the statistics of an initialised Mamba: A = -(1..N) with spread, steps from 0.001 to 0.1."""
    draw = torch.Generator().manual_seed(seed)
    batch, routes, length, channels, states = shape.batch, shape.routes, shape.length, shape.channels, shape.states

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw)

    steps = torch.exp(torch.rand(channels, generator=draw) * 4.6 - 6.9)
    values = (
        normal(batch, length, channels),
        normal(batch, routes, length, channels).mul_(0.5),
        -torch.arange(1.0, states + 1) * (0.5 + torch.rand(channels, 1, generator=draw)),
        normal(batch, routes, length, states),
        normal(batch, routes, length, states),
        normal(channels),
        normal(batch, length, channels) if shape.gate else None,
        torch.log(torch.expm1(steps)),
    )
    return Problem(shape, *(None if value is None else value.to(dtype) for value in values))  # type: ignore[arg-type]


def walked(problem: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, delta, B, C of each route in its order of steps, (B, K, ..., L): what a peer starts from."""
    shape = problem.shape
    order = shape.table().index.long() if shape.grids else torch.arange(shape.length)[None]
    u = problem.u[:, order]  # (B, K, L, D)
    every = torch.arange(shape.routes)[:, None]
    return tuple(x.transpose(2, 3) for x in (u, *(p[:, every, order] for p in (problem.delta, problem.B, problem.C))))  # type: ignore[return-value]


def grouped(problem: Problem) -> Sequences:
    """Routes as groups of channels, D' = K D and G = K: for peers that know groups."""
    u, delta, B, C = walked(problem)
    routes = problem.shape.routes
    z = None if problem.z is None else problem.z.transpose(1, 2).contiguous()
    per_channel = [
        value.repeat(routes, *[1] * (value.dim() - 1)) for value in (problem.A, problem.D, problem.delta_bias)
    ]
    return Sequences(
        u.flatten(1, 2).contiguous(),
        delta.flatten(1, 2).contiguous(),
        per_channel[0],
        B.contiguous(),
        C.contiguous(),
        per_channel[1],
        z,
        per_channel[2],
    )


def folded(problem: Problem) -> Sequences:
    """Routes as further samples, S = B K and G = 1: for peers that know no groups."""
    u, delta, B, C = walked(problem)
    z = None if problem.z is None else problem.z.transpose(1, 2).contiguous()
    return Sequences(
        u.flatten(0, 1).contiguous(),
        delta.flatten(0, 1).contiguous(),
        problem.A.clone(),
        B.flatten(0, 1)[:, None].contiguous(),
        C.flatten(0, 1)[:, None].contiguous(),
        problem.D.clone(),
        z,
        problem.delta_bias.clone(),
    )


def merged(problem: Problem, out: Tensor) -> Tensor:
    """A peer's result, (B, K D, L) or (B K, D, L), as tokens (B, M, D) summed over the routes; never timed."""
    shape = problem.shape
    steps = out.detach().reshape(shape.batch, shape.routes, shape.channels, shape.length).transpose(2, 3)
    if not shape.grids:
        return steps[:, 0]
    inverse = shape.table().inverse.long()
    return steps[:, torch.arange(shape.routes)[:, None], inverse].sum(dim=1)
