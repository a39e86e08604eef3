"""Routes: named orders in which a scan walks the tokens. They are data (index tables), never code paths.

A route name is the order of the axes from slowest to fastest, and a direction: over (T, H, W) "THW+" is frame by
frame and row by row, "HWT-" walks through time at each pixel, backwards; over (H, W) "WH+" is column by column;
over (L,) "L+" is the plain order. Several scales are laid out one after the other, each walked by itself, and "-"
reverses the whole concatenation (AVS-Mamba eq. 5 and 8). Tokens of another modality stand wholly before (prefix,
A2V) or wholly after (suffix, V2A) the grid tokens; a "-" route reverses them within their own block, so they stay
first or last (AVS-Mamba eq. 13, 17, 18).

    K  routes      M  tokens in all = prefix + sum of the grids' sizes + suffix
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from crossmamba.ops.onnx import exporting_to_onnx

AXES = {1: "L", 2: "HW", 3: "THW"}
Grid = tuple[int, ...]


class RouteTable:
    """K walks over the same M tokens.

    Args:
        names: the K route names.
        order: integers (K, M), each row a permutation; `order[k, l]` is the token that route k visits at step l.

    Attributes:
        names: as given. order: int32 (K, M), contiguous.

    Raises:
        ValueError: `order` is not K rows of permutations: a scan would read and write outside the tokens.
    """

    def __init__(self, names: Sequence[str], order: Tensor) -> None:
        self.names = tuple(names)
        if order.dim() != 2 or order.is_floating_point() or order.is_complex() or order.dtype == torch.bool:
            raise ValueError(f"order is integers (K, M), got {order.dtype} of shape {tuple(order.shape)}")
        if len(self.names) != order.shape[0] or not self.names:
            raise ValueError(f"{len(self.names)} names for {order.shape[0]} routes: give each route one name")
        every = torch.arange(order.shape[1], device=order.device)
        wrong = (order.long().sort(dim=1).values != every).any(dim=1)
        if wrong.any():
            bad = [name for name, is_wrong in zip(self.names, wrong.tolist(), strict=True) if is_wrong]
            raise ValueError(
                f"route {', '.join(bad)} is not a permutation of the tokens 0 to {order.shape[1] - 1}: "
                "a route visits every token exactly once"
            )
        self.order = order.to(torch.int32).contiguous()

    @classmethod
    def _trusted(cls, names: tuple[str, ...], order: Tensor) -> RouteTable:
        """A table whose order is known to be right, unchecked: `route_table` makes permutations only."""
        table = cls.__new__(cls)
        table.names, table.order = names, order
        return table

    @property
    def routes(self) -> int:
        return self.order.shape[0]

    @property
    def tokens(self) -> int:
        return self.order.shape[1]

    @cached_property
    def index(self) -> Tensor:
        """`order` in int64, for indexing."""
        return self.order.long()

    @cached_property
    def inverse(self) -> Tensor:
        """int64 (K, M); `inverse[k, m]` is the step at which route k visits token m."""
        steps = torch.arange(self.tokens, device=self.order.device).expand_as(self.index)
        return torch.empty_like(self.index).scatter_(1, self.index, steps)


def grid_order(name: str, grid: Grid) -> Tensor:
    """The row-major positions of one grid in the order of the axes named, direction ignored; int64 (prod(grid),)."""
    axes = AXES[len(grid)]
    count = 1
    for size in grid:
        count *= size
    return torch.arange(count).view(grid).permute([axes.index(axis) for axis in name[:-1]]).reshape(-1)


def check_route_name(name: str, dimensions: int) -> None:
    """Raises ValueError unless `name` is an order of the axes of a grid of that many dimensions, with + or -."""
    axes = AXES.get(dimensions)
    if axes is None:
        raise ValueError(f"a grid has 1, 2 or 3 dimensions, not {dimensions}")
    if sorted(name[:-1]) != sorted(axes) or name[-1:] not in ("+", "-"):
        raise ValueError(
            f"unknown route {name!r} over the axes {axes}: name each axis once, slowest first, then + or - "
            f"(for example {axes}+ or {axes[::-1]}-)"
        )


def route_table(
    names: Sequence[str],
    grids: Sequence[Grid],
    *,
    prefix: int = 0,
    suffix: int = 0,
    device: torch.device | str = "cpu",
) -> RouteTable:
    """The table of K named routes over one or more grids and the other modality's tokens.

    Args:
        names: K route names, such as ("THW+", "THW-").
        grids: the scales in their order of concatenation, all of one dimension: (L,), (H, W) or (T, H, W) each.
            Tokens of a grid are laid out row-major.
        prefix, suffix: number of tokens of the other modality before and after the grids.
        device: where the table lives. Tables are cached; a compiled or exported program makes its own for the sizes
            that it meets.

    Raises:
        ValueError: unknown route name, no route, no grid, or a negative size.
    """
    if not names or not grids:
        raise ValueError("a route table needs at least one route name and one grid")
    dimensions = len(grids[0])
    if any(len(grid) != dimensions for grid in grids):
        raise ValueError(f"the grids of one table have one number of dimensions, got {[tuple(grid) for grid in grids]}")
    for name in names:
        check_route_name(name, dimensions)
    device = torch.device(device)
    sizes = [size for grid in grids for size in grid]
    if exporting_to_onnx():  # there the table must be made of ONNX's own operators
        order = torch.stack([walk_order(name, grids, prefix, suffix) for name in names])
        return RouteTable._trusted(tuple(names), order.to(device, torch.int32))
    if torch.compiler.is_compiling():
        order = route_order(" ".join(names), dimensions, sizes, prefix, suffix, device)
        return RouteTable._trusted(tuple(names), order)
    if min(prefix, suffix, *sizes) < 0:
        raise ValueError(f"sizes are not negative, got grids {grids}, prefix {prefix}, suffix {suffix}")
    grids = tuple(tuple(int(n) for n in grid) for grid in grids)
    return _cached_table(tuple(names), grids, int(prefix), int(suffix), device)


@torch.library.custom_op("crossmamba::route_order", mutates_args=())
def route_order(
    names: str, dimensions: int, sizes: Sequence[int], prefix: int, suffix: int, device: torch.device
) -> Tensor:
    """`RouteTable.order` as an operator: in a compiled program the sizes are symbols, and the table is made anew.

    Args:
        names: route names with spaces between. dimensions: of every grid. sizes: of all grids, one after the other.
    """
    grids = tuple(tuple(sizes[i : i + dimensions]) for i in range(0, len(sizes), dimensions))
    table = _cached_table(tuple(names.split()), grids, prefix, suffix, device)
    return table.order.clone()  # a compiler may write to what an operator has returned


@route_order.register_fake
def _route_order_shape(
    names: str, dimensions: int, sizes: Sequence[int], prefix: int, suffix: int, device: torch.device
) -> Tensor:
    tokens = prefix + suffix
    for start in range(0, len(sizes), dimensions):
        count = 1
        for size in sizes[start : start + dimensions]:
            count = count * size
        tokens = tokens + count
    return torch.empty(len(names.split()), tokens, dtype=torch.int32, device=device)


@lru_cache(maxsize=64)  # at 512 pixels and 10 s a table takes about 4 MB
def _cached_table(
    names: tuple[str, ...], grids: tuple[Grid, ...], prefix: int, suffix: int, device: torch.device
) -> RouteTable:
    order = torch.stack([walk_order(name, grids, prefix, suffix) for name in names])
    return RouteTable._trusted(names, order.to(device, torch.int32))


def walk_order(name: str, grids: Sequence[Grid], prefix: int, suffix: int) -> Tensor:
    """One route over the whole sequence; int64 (M,)."""
    first, orders = prefix, []
    for grid in grids:
        order = grid_order(name, grid)
        orders.append(order + first)
        first += order.shape[0]
    blocks = [torch.arange(prefix), torch.cat(orders), torch.arange(first, first + suffix)]
    return torch.cat([block.flip(0) for block in blocks] if name.endswith("-") else blocks)
