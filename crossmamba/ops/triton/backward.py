"""The backward launches: one phase, or three, and the sums of what the programs leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanGradients, ScanInputs
from crossmamba.ops.triton import plan
from crossmamba.ops.triton.arguments import kind, route_rows, rows
from crossmamba.ops.triton.launch import Scan, sum_space
from crossmamba.ops.triton.plan import Config

WORKSPACE_BYTES = 256 << 20
"""Room for partial sums and scratch states; a launch takes as many samples as fit (one at least)."""
OWN_SLOTS = 5
"""Slots of a program's scratch before those for states (`kernels_backward.STATE_SLOTS`)."""
SUM_ELEMENTS = 1024
"""Elements that a program of `sum_parts_kernel` adds up."""
REGISTERS = 255
"""What a thread of `scan_backward_kernel` may use: all, as plans count on 8 warps of a multiprocessor, no more."""
ADJOINT_REGISTERS = 128
"""What a thread of `chunk_adjoint_kernel` may use in programs of 2 to 8 warps, so that 16 of them reside: left alone,
sm_100's assembler stops at 80 with 64 states and spills 8 bytes. A single warp's programs take up to 90 unasked."""
SUM_REGISTERS = 128
"""What a thread of `sum_parts_kernel` may use, 16 warps of a multiprocessor: with 64 three groups spilled on sm_80."""


def scan_backward(
    inputs: ScanInputs, saved: Tensor, d_out: Tensor, d_state: Tensor, config: Config, workspace: int = WORKSPACE_BYTES
) -> ScanGradients:
    """Gradients of a scan from what `scan_forward` saved."""
    scan = Scan(inputs, config)
    results = _Results(inputs, scan)
    arguments = results.arguments | {"d_out": rows(d_out), "saved": saved}
    adjoint, d_initial = scan.tile_space(1), None
    adjoint[:, :, 0] = d_state.mT
    if config.chunk != 0:
        d_initial = None if inputs.initial_state is None else scan.tile_space(1)
        adjoint = _carried(scan, arguments["d_out"], adjoint, d_initial)
    elif inputs.initial_state is not None:
        d_initial = adjoint  # which leaves the only chunk as the gradient of the first state
    # With several chunks a launch may not hold two routes: they visit the same tokens in different chunks.
    routes = [(0, scan.shape.routes)] if config.chunk == 0 else [(k, k + 1) for k in range(scan.shape.routes)]
    for first_route, last_route in routes:
        launch = {"adjoint": adjoint, "first_route": first_route, "last_route": last_route}
        _run(scan, results, arguments | launch, workspace)
    return results.gradients(inputs, scan, d_initial)


def _carried(scan: Scan, d_out: Any, d_state: Tensor, d_initial: Tensor | None) -> Tensor:
    """The adjoint that enters each chunk from its right, (B, K, chunks, N, D)."""
    from crossmamba.ops.triton.kernels_adjoint import chunk_adjoint_kernel

    warps, how = scan.config.warps, scan.how
    if warps > 8:  # 128 registers are all that there are: with four steps in flight sm_100 spilled 24 bytes
        how = replace(how, steps=2)
    registers = ADJOINT_REGISTERS if 1 < warps <= 8 else None
    ends, sums = scan.tile_space(scan.chunks), scan.row_space()
    found: dict[str, Any] = {"d_out": d_out, "ends": ends, "sums": sums, "how": how}
    scan.start(chunk_adjoint_kernel, scan.programs * scan.shape.routes * scan.chunks, registers=registers, **found)
    scan.carry(ends, sums, d_state, d_initial, backwards=True)
    return ends


def _run(scan: Scan, results: _Results, arguments: dict[str, Any], workspace: int) -> None:
    """The gradients of some routes, as many samples at a time as the workspace holds."""
    from crossmamba.ops.triton.kernels_backward import scan_backward_kernel
    from crossmamba.ops.triton.kernels_sums import sum_parts_kernel

    shape, config, sizes = scan.shape, scan.config, scan.sizes
    launched = arguments["last_route"] - arguments["first_route"]
    rows_of_route = shape.groups * shape.tokens
    programs = sizes.blocks * shape.groups * scan.chunks  # of a sample
    slots = OWN_SLOTS + min(plan.CHECKPOINT, shape.tokens) // config.steps + config.steps
    scratch_of_sample = programs * slots * scan.how.padded * config.block
    parts_of_sample = sizes.blocks * launched * rows_of_route * results.row
    batches = max(1, min(shape.batch, workspace // max(1, 4 * (scratch_of_sample + parts_of_sample))))
    space: Tensor = scan.arguments["A"].new_empty(batches * (scratch_of_sample + parts_of_sample))
    scratch, parts = space.split([batches * scratch_of_sample, batches * parts_of_sample])
    for first_batch in range(0, shape.batch, batches):
        here = min(batches, shape.batch - first_batch)
        part = {"scratch": scratch, "slots": slots, "parts": parts if results.row else None}
        part |= {"first_batch": first_batch, "batches": here}
        scan.start(scan_backward_kernel, here * programs, **arguments, **part, warps=1, registers=REGISTERS)
        if results.row == 0:
            continue
        count, tile_rows = here * launched * rows_of_route, max(1, SUM_ELEMENTS // results.row)
        scan.start(
            sum_parts_kernel,
            plan.ceil_div(count, tile_rows),
            warps=4,
            registers=SUM_REGISTERS,
            parts=parts,
            d_B=results.d_B if scan.how.B == "token" else None,
            d_C=results.d_C if scan.how.C == "token" else None,
            count=sizes.blocks,
            rows=count,
            launched=launched,
            first_batch=first_batch,
            first_route=arguments["first_route"],
            ROWS=tile_rows,
        )


class _Results:
    """Room for the gradients and for their partial sums, and what becomes of the latter."""

    def __init__(self, inputs: ScanInputs, scan: Scan) -> None:
        shape, varying = scan.shape, [kind(value) == "token" for value in (inputs.B, inputs.C)]
        self.row = sum(varying) * scan.how.padded  # partial sums of a token
        self.d_u, self.d_delta = torch.empty_like(inputs.u), torch.empty_like(inputs.delta)
        self.d_z = None if inputs.z is None else torch.empty_like(inputs.z)
        self.d_A = scan.tile_space(scan.chunks)
        self.d_B = inputs.B.new_empty(inputs.B.shape) if varying[0] else scan.tile_space(scan.chunks)
        self.d_C = inputs.C.new_empty(inputs.C.shape) if varying[1] else scan.tile_space(scan.chunks)
        self.d_skip, self.d_steps = scan.row_space(), scan.row_space()
        self.arguments: dict[str, Any] = {
            "d_u": rows(self.d_u),
            "d_u_total": None if shape.routes == 1 else rows(sum_space(self.d_u)),
            "d_delta": route_rows(self.d_delta),
            "d_z": rows(self.d_z),
            "d_A": self.d_A,
            "d_B": None if varying[0] else self.d_B,
            "d_C": None if varying[1] else self.d_C,
            "d_skip": self.d_skip,
            "d_steps": self.d_steps,
        }

    def gradients(self, inputs: ScanInputs, scan: Scan, d_initial: Tensor | None) -> ScanGradients:
        """Adds up the partial sums, always in the same order."""
        if scan.how.constant_delta:
            self.d_delta.copy_(self.d_steps.sum(dim=2, keepdim=True))
        return ScanGradients(
            self.d_u,
            self.d_delta,
            self.d_A.sum(dim=(0, 2)).mT.contiguous(),
            _projection_gradient(inputs.B, self.d_B, scan.shape.groups),
            _projection_gradient(inputs.C, self.d_C, scan.shape.groups),
            None if inputs.D is None else self.d_skip.sum(dim=(0, 2)),
            self.d_z,
            None if inputs.delta_bias is None else self.d_steps.sum(dim=(0, 2)),
            None if d_initial is None else d_initial[:, :, 0].mT.contiguous(),
        )


def _projection_gradient(value: Tensor, found: Tensor, groups: int) -> Tensor:
    """The gradient of B or C: `found` itself if it varies along the sequence, else sums of (B, K, chunks, N, D)."""
    if kind(value) == "token":
        return found
    if kind(value) == "channel":
        return found.sum(dim=(0, 2)).mT.contiguous()
    return found.unflatten(-1, (groups, -1)).sum(dim=(2, 5)).mT[:, :, :, None].to(value.dtype).contiguous()
