"""What the kernels get: each activation as a pointer with its strides, so that none is copied to be read.

B batch   M tokens   D channels   N states   K routes   G groups
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor


class Rows(NamedTuple):
    """A tensor (B, M, D): the pointer and the stride of each axis, in elements."""

    pointer: Any
    batch: int
    token: int
    channel: int


class RouteRows(NamedTuple):
    """A tensor (B, K, M, D) or (B, K, 1, D)."""

    pointer: Any
    batch: int
    route: int
    token: int
    channel: int


class StateRows(NamedTuple):
    """A tensor (B, K, G, M, N) or (B, K, G, 1, N); for a constant only the pointer to (K, N, D) counts."""

    pointer: Any
    batch: int
    route: int
    group: int
    token: int
    state: int


class Sizes(NamedTuple):
    """Numbers that kernels only count with: no variant is compiled for their values.

    chunk: tokens of a chunk. blocks: blocks of channels in a group.
    """

    tokens: int
    chunk: int
    chunks: int
    blocks: int
    groups: int
    routes: int


@dataclass(frozen=True)
class Choices:
    """What a variant of a kernel is compiled for.

    states: N; padded: the power of two that holds it; parts: into how many tiles a state is cut, one after the other in
    registers. block: channels of a program; width: those that a lane reads at once (`access.place`). steps: in flight.
    checkpoint: steps between saved states. B, C: "token", "sample" (constant along the sequence) or "channel".
    """

    states: int
    padded: int
    parts: int
    block: int
    width: int
    steps: int
    checkpoint: int
    constant_delta: bool
    B: str
    C: str
    softplus: bool
    reverse: bool


def rows(value: Tensor | None) -> Rows | None:
    """A (B, M, D) tensor for the kernels."""
    return None if value is None else Rows(value, *value.stride())


def route_rows(value: Tensor) -> RouteRows:
    """A (B, K, M, D) or (B, K, 1, D) tensor for the kernels."""
    return RouteRows(value, *value.stride())


def state_rows(value: Tensor) -> StateRows:
    """B or C in any of its shapes (`ScanInputs`) for the kernels; a constant (K, D, N) is turned to (K, N, D)."""
    if value.dim() == 3:
        return StateRows(tiles(value), 0, 0, 0, 0, 0)
    return StateRows(value, *value.stride())


def kind(value: Tensor) -> str:
    """How B or C varies: "token", "sample" (constant along the sequence), or "channel" (a constant (K, D, N))."""
    if value.dim() == 3:
        return "channel"
    return "sample" if value.shape[3] == 1 else "token"


def tiles(value: Tensor) -> Tensor:
    """(..., D, N) -> (..., N, D), contiguous: the kernels keep a channel in each lane, so its states lie D apart."""
    return value.mT.contiguous()


class Pairs(NamedTuple):
    """A tensor (B, D) of one step."""

    pointer: Any
    batch: int
    channel: int


class GroupPairs(NamedTuple):
    """B or C of one step, (B, G, N)."""

    pointer: Any
    batch: int
    group: int
    state: int


def pairs(value: Tensor | None) -> Pairs | None:
    """A (B, D) tensor for the step kernel."""
    return None if value is None else Pairs(value, *value.stride())


def group_pairs(value: Tensor) -> GroupPairs:
    """B or C of a step, (B, N) or (B, G, N), for the step kernel."""
    value = value if value.dim() == 3 else value[:, None]
    batch, group, state = value.stride()
    return GroupPairs(value, batch, 0 if value.shape[1] == 1 else group, state)
