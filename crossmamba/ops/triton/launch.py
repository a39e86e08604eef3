"""What forward and backward share on the host: the scan as the kernels' arguments, and how a kernel is started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanInputs
from crossmamba.ops.triton import plan
from crossmamba.ops.triton.arguments import Choices, Sizes, kind, route_rows, rows, state_rows, tiles
from crossmamba.ops.triton.plan import Config, Shape, ceil_div, lane_width, power_of_two, programs

DEFAULT_PROCESSORS = 132
"""Multiprocessors of an H100 or H200: what a plan counts with where there is no GPU to ask."""


def shape_of(inputs: ScanInputs) -> Shape:
    """The plan's view of a scan."""
    batch, tokens, channels = inputs.u.shape
    groups = next((value.shape[2] for value in (inputs.B, inputs.C) if value.dim() == 5), 1)
    return Shape(batch, tokens, channels, inputs.A.shape[2], inputs.A.shape[0], groups, inputs.z is not None)


def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return DEFAULT_PROCESSORS


def sum_space(result: Tensor) -> Tensor:
    """Where the sum over routes is taken: float32, and the result itself if that is."""
    return result if result.dtype == torch.float32 else torch.empty_like(result, dtype=torch.float32)


def start(kernel: Any, started: int, warps: int, registers: int | None = None, **arguments: Any) -> None:
    """Starts programs of a kernel, if any. registers: of a thread, at most; None leaves it to the compiler.

    NVIDIA's assembler spills a value or two where that lets more warps reside. A plan that counts on fewer of them says
    how many registers there are. (AMD's compiler does not take the option.)
    """
    if started > 0:
        limit = {} if registers is None or torch.version.hip else {"maxnreg": registers}
        # num_stages: the loads of a block are in flight before its arithmetic as it is. enable_fp_fusion: said, because
        # Triton's default is about to change.
        kernel[(started,)](**arguments, **limit, num_warps=warps, num_stages=1, enable_fp_fusion=True)


class Scan:
    """A scan as the kernels take it: pointers with strides, small parameters turned, sizes and compile-time choices.

    Attributes:
        shape, config: the sizes, and how they are cut. chunks: chunks of the sequence, 1 in one phase.
        programs: programs that cover one chunk of every sample.
        arguments: what kernels may ask for, by their arguments' names.
    """

    def __init__(self, inputs: ScanInputs, config: Config) -> None:
        shape = shape_of(inputs)
        self.shape, self.config, self.programs = shape, config, programs(shape, config.block)
        chunk = config.chunk or max(1, shape.tokens)
        self.chunks = max(1, ceil_div(shape.tokens, chunk))
        group_channels = shape.channels // shape.groups
        self.sizes = Sizes(
            shape.tokens, chunk, self.chunks, ceil_div(group_channels, config.block), shape.groups, shape.routes
        )
        self.how = Choices(
            states=shape.states,
            padded=power_of_two(shape.states),
            parts=config.parts,
            block=config.block,
            width=lane_width(shape, config.block),
            steps=config.steps,
            checkpoint=plan.CHECKPOINT,
            constant_delta=inputs.delta.shape[2] == 1 and shape.tokens != 1,
            B=kind(inputs.B),
            C=kind(inputs.C),
            softplus=inputs.softplus,
            reverse=inputs.reverse,
        )
        self.arguments: dict[str, Any] = {
            "u": rows(inputs.u),
            "delta": route_rows(inputs.delta),
            "A": tiles(inputs.A),
            "B": state_rows(inputs.B),
            "C": state_rows(inputs.C),
            "D": None if inputs.D is None else inputs.D.contiguous(),
            "z": rows(inputs.z),
            "delta_bias": None if inputs.delta_bias is None else inputs.delta_bias.contiguous(),
            "lengths": inputs.lengths,
            "order": None if inputs.order is None else inputs.order.contiguous(),
            "channels": shape.channels,
            "group_channels": group_channels,
            "sizes": self.sizes,
            "tiles": config.parts,
            "how": self.how,
        }

    def start(
        self, kernel: Any, started: int, warps: int | None = None, registers: int | None = None, **arguments: Any
    ) -> None:
        """Starts programs of a kernel with the scan's arguments and those given here; it takes what it asks for."""
        known = {**self.arguments, **arguments}
        asked = {name: known[name] for name in kernel.arg_names}
        start(kernel, started, warps or self.config.warps, registers, **asked)

    def tile_space(self, chunks: int) -> Tensor:
        """Room for a state (N, D) of each sample, route and chunk."""
        shape = self.shape
        like: Tensor = self.arguments["A"]
        return like.new_empty(shape.batch, shape.routes, chunks, shape.states, shape.channels)

    def row_space(self) -> Tensor:
        """Room for a row (D,) of each sample, route and chunk."""
        shape = self.shape
        like: Tensor = self.arguments["A"]
        return like.new_empty(shape.batch, shape.routes, self.chunks, shape.channels)

    def carry(
        self, ends: Tensor, sums: Tensor, first_state: Tensor | None, last_state: Tensor | None, backwards: bool
    ) -> None:
        """Starts phase 2: turns the chunks' own ends, in place, into what enters each chunk."""
        from crossmamba.ops.triton.kernels_forward import carry_kernel

        in_flight = 32 // plan.states_per_lane(self.shape, self.config.block)
        how = replace(self.how, steps=max(2, min(8, in_flight)), parts=1)
        state: dict[str, Any] = {"states": ends, "sums": sums, "first_state": first_state, "last_state": last_state}
        self.start(carry_kernel, self.programs * self.shape.routes, **state, how=how, BACKWARDS=backwards)
