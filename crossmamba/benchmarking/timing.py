"""Timing two sides in turn in one process, so that whatever else the machine does hits both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

PASSES = ("forward", "forward + backward")


@dataclass
class Side:
    """One implementation with its inputs, in its own layout. `inputs`: the tensors whose gradients are taken."""

    name: str
    inputs: list[Tensor]
    call: Callable[[], Tensor]
    gradient: Tensor | None = field(default=None, repr=False)

    def forward(self) -> Tensor:
        """One forward pass that records nothing."""
        with torch.no_grad():
            return self.call()

    def prepare(self) -> None:
        """Makes the gradient that backward starts from, in the layout of the output; not timed."""
        if self.gradient is None:
            out = self.forward()
            draw = torch.Generator().manual_seed(1)
            self.gradient = torch.empty_like(out).copy_(torch.randn(out.shape, generator=draw))

    def forward_backward(self) -> tuple[Tensor, ...]:
        """One forward and one backward pass to every input."""
        self.prepare()
        out = self.call()
        return torch.autograd.grad(out, self.inputs, self.gradient)

    def runner(self, passes: str) -> Callable[[], object]:
        """What to time for one of `PASSES`."""
        if passes == PASSES[0]:
            return self.forward
        self.prepare()
        return self.forward_backward


def leaves(*values: Tensor | None) -> list[Any]:
    """The same memory and strides as tensors that want gradients; None stays."""
    return [None if value is None else value.detach().requires_grad_() for value in values]


@dataclass
class Times:
    """Seconds of two sides, pair by pair. A pair's time of a side is the median of its repeats."""

    theirs: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    theirs_min: float = float("inf")
    ours_min: float = float("inf")

    def ratio(self) -> float:
        """Median over the pairs of theirs / ours."""
        return median(t / o for t, o in zip(self.theirs, self.ours, strict=True))

    def robust_ratio(self) -> float:
        """Shortest of theirs over shortest of ours: what a quiet machine would show."""
        return self.theirs_min / self.ours_min


def seconds(run: Callable[[], object]) -> float:
    """One call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@contextmanager
def no_collection() -> Iterator[None]:
    """Keeps the garbage collector out of the timing."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def repeats_for(once: float) -> int:
    """Calls per pair of a side that takes `once` seconds: three of a quick one, one of a slow one."""
    return 1 if once > 0.1 else 3


def interleave(theirs: Callable[[], object], ours: Callable[[], object], pairs: int, budget: float) -> Times:
    """Times both in turn: `pairs` pairs, or as many as `budget` seconds hold (at least one).

    Ours runs once untimed before each of its turns: a peer's gigabyte has just passed through the caches. So does a
    peer that takes less than 0.1 s.
    """
    times = Times()
    start = time.perf_counter()
    with no_collection():
        for _ in range(pairs):
            first = seconds(theirs)
            taken = [seconds(theirs) for _ in range(repeats_for(first))] if first < 0.1 else [first]
            times.theirs.append(median(taken))
            times.theirs_min = min(times.theirs_min, first, *taken)
            first = seconds(ours)
            taken = [seconds(ours) for _ in range(repeats_for(first))]
            times.ours.append(median(taken))
            times.ours_min = min(times.ours_min, first, *taken)
            if time.perf_counter() - start > budget:
                break
    return times


def alone(run: Callable[[], object], calls: int, budget: float) -> list[float]:
    """Seconds of up to `calls` calls after one that is not counted, within `budget` seconds."""
    run()
    start, taken = time.perf_counter(), []
    with no_collection():
        for _ in range(calls):
            taken.append(seconds(run))
            if time.perf_counter() - start > budget:
                break
    return taken
