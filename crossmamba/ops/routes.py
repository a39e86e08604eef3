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
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

AXES = {1: "L", 2: "HW", 3: "THW"}
Grid = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RouteTable:
    """K walks over the same M tokens.

    Attributes:
        names: the K route names.
        index: int64 (K, M); `index[k, l]` is the token that route k visits at step l.
        inverse: int64 (K, M); `inverse[k, m]` is the step at which route k visits token m.
    """

    names: tuple[str, ...]
    index: Tensor
    inverse: Tensor

    @property
    def routes(self) -> int:
        return self.index.shape[0]

    @property
    def tokens(self) -> int:
        return self.index.shape[1]

    @cached_property
    def rows_by_step(self) -> Tensor:
        """int64 (M * K,): rows of a (M * K, ...) tensor in token order, put in each route's order of steps."""
        return self._rows(self.index)

    @cached_property
    def rows_by_token(self) -> Tensor:
        """int64 (M * K,): the inverse of `rows_by_step`."""
        return self._rows(self.inverse)

    def _rows(self, index: Tensor) -> Tensor:
        return (index.t() * self.routes + torch.arange(self.routes, device=index.device)).flatten()


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
        device: where the tables live. Tables are cached.

    Raises:
        ValueError: unknown route name, no route, no grid, or a negative size.
    """
    sizes = tuple(tuple(int(n) for n in grid) for grid in grids)
    return _cached_table(tuple(names), sizes, int(prefix), int(suffix), torch.device(device))


@lru_cache(maxsize=64)  # at 512 pixels and 10 s a table takes about 14 MB
def _cached_table(
    names: tuple[str, ...], grids: tuple[Grid, ...], prefix: int, suffix: int, device: torch.device
) -> RouteTable:
    if not names or not grids:
        raise ValueError("a route table needs at least one route name and one grid")
    if len({len(grid) for grid in grids}) != 1:
        raise ValueError(f"the grids of one table have one number of dimensions, got {grids}")
    if min(prefix, suffix, *(n for grid in grids for n in grid)) < 0:
        raise ValueError(f"sizes are not negative, got grids {grids}, prefix {prefix}, suffix {suffix}")
    for name in names:
        check_route_name(name, len(grids[0]))
    index = torch.stack([_walk(name, grids, prefix, suffix) for name in names])
    return RouteTable(names, index.to(device), index.argsort(dim=1).to(device))


def _walk(name: str, grids: tuple[Grid, ...], prefix: int, suffix: int) -> Tensor:
    first, orders = prefix, []
    for grid in grids:
        order = grid_order(name, grid)
        orders.append(order + first)
        first += len(order)
    blocks = [torch.arange(prefix), torch.cat(orders), torch.arange(first, first + suffix)]
    return torch.cat([block.flip(0) for block in blocks] if name.endswith("-") else blocks)
