"""How a scan is cut into programs: channels of a program, steps in flight, one phase or three. Pure arithmetic.

Cost is counted in steps of a program whose warps have a scheduler to themselves. Nothing here was fitted to a GPU: the
constants are the arithmetic of the kernels (`docs` of each) and the launch time that NVIDIA states, to be measured.

    B batch   M tokens   D channels   N states   K routes   G groups
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

CHECKPOINT = 64
"""Steps between the states that forward saves for backward: N / 64 float32 numbers for every element of u."""
MAX_BLOCK = 128
STATES_PER_LANE = 16
WARPS_PER_PROCESSOR = 8
"""Warps that keep a multiprocessor's exponential unit busy: two for each of its four schedulers."""
LAUNCH_STEPS = 32.0
"""What one more launch costs, in steps: about 4 us at about 0.12 us a step."""
CARRY_STEPS = 0.5
"""What one chunk costs in the carry, in steps: its loads are in flight S at a time."""


class Shape(NamedTuple):
    """The sizes of a scan, and whether it has a gate (z)."""

    batch: int
    tokens: int
    channels: int
    states: int
    routes: int
    groups: int
    gate: bool = False


@dataclass(frozen=True)
class Config:
    """How the programs of a kernel work.

    block: channels of a program, a power of two. steps: steps in flight. parts: tiles that a state is cut into, a power
    of two. warps: warps of a program. chunk: tokens of a chunk, a multiple of CHECKPOINT; 0 is one phase.
    """

    block: int
    steps: int
    parts: int
    warps: int
    chunk: int = 0


def power_of_two(value: int) -> int:
    """The smallest power of two that is not below a positive number."""
    return 1 << max(0, value - 1).bit_length()


def ceil_div(value: int, by: int) -> int:
    """a / b, rounded up."""
    return -(-value // by)


def programs(shape: Shape, block: int) -> int:
    """Programs that cover one chunk of every sample."""
    return shape.batch * shape.groups * ceil_div(shape.channels // max(1, shape.groups), block)


def lane_width(shape: Shape, block: int) -> int:
    """Channels that a lane reads at once: a divisor of the first channel of every block."""
    width = max(1, block // 32)
    while shape.groups > 1 and (shape.channels // shape.groups) % width:
        width //= 2
    return width


def warps_of(states: int) -> int:
    """A warp for every 16 states of the block's channels."""
    return max(1, power_of_two(states) // STATES_PER_LANE)


def blocks_for(shape: Shape, backward: bool) -> tuple[int, ...]:
    """Widths of a program to choose from: a warp's 32 channels, or in forward more where a channel has few states."""
    widest = 32 if backward else min(MAX_BLOCK, 32 * STATES_PER_LANE // power_of_two(shape.states))
    return tuple(block for block in (128, 64, 32) if block == 32 or block <= widest)


def states_per_lane(shape: Shape, block: int) -> int:
    """Elements of a state that a lane holds."""
    return max(1, power_of_two(shape.states) * block // (32 * warps_of(shape.states)))


def config_for(shape: Shape, block: int, chunk: int, backward: bool) -> Config:
    """Steps in flight and parts: as much as fits the registers (the tables of `benchmarks/results/triton_offline.md`).

    Forward keeps rows, B and C for each step in flight, backward also a tile of one part: two states, as sm_80's
    assembler spills with four.
    """
    warps, padded, held = warps_of(shape.states), power_of_two(shape.states), states_per_lane(shape, block)
    if not backward:
        return Config(block, 8 if held <= 2 else 4 if held <= 4 else 2, 1, warps, chunk)
    return Config(block, 4, min(padded, max(2, padded // 2)), warps, chunk)


def cost(shape: Shape, processors: int, config: Config) -> float:
    """Steps that a scan takes one after the other on a GPU of that many multiprocessors, launches included."""
    lanes = WARPS_PER_PROCESSOR * processors
    width = max(1.0, config.block * power_of_two(shape.states) / (32 * STATES_PER_LANE * config.warps))
    one = programs(shape, config.block) * config.warps
    if config.chunk == 0:
        return shape.routes * shape.tokens * width * max(1.0, one / lanes) + LAUNCH_STEPS
    chunks = ceil_div(shape.tokens, config.chunk)
    ends = config.chunk * width * max(1.0, one * shape.routes * chunks / lanes)
    outputs = config.chunk * width * max(1.0, one * chunks / lanes)
    return ends + chunks * CARRY_STEPS + shape.routes * (outputs + LAUNCH_STEPS) + 2 * LAUNCH_STEPS


@lru_cache(maxsize=1024)
def choose(shape: Shape, processors: int, backward: bool) -> Config:
    """The cheapest cut of a scan by `cost`: a function of shapes and the number of multiprocessors alone."""
    chunks = [0]
    while shape.tokens > 2 * max(CHECKPOINT, chunks[-1]):
        chunks.append(2 * chunks[-1] or CHECKPOINT)
    candidates = [
        config_for(shape, block, chunk, backward) for block in blocks_for(shape, backward) for chunk in chunks
    ]
    return min(candidates, key=lambda config: cost(shape, processors, config))
