"""The forward launches: one phase, or three."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanInputs
from crossmamba.ops.triton import plan
from crossmamba.ops.triton.arguments import rows, tiles
from crossmamba.ops.triton.launch import Scan, sum_space
from crossmamba.ops.triton.plan import Config

REGISTERS = 200
"""What a thread of `scan_forward_kernel` may use in programs of one warp, 10 warps of a multiprocessor. Left alone,
sm_80's assembler stops at 128 in tier 2 and spills 8 or 16 bytes; with 168 sm_90's spilled 16 for three groups."""


def saved_elements(inputs: ScanInputs) -> int:
    """The state before every CHECKPOINT steps: shapes alone, no branches (they may be symbolic)."""
    batch, tokens, channels = inputs.u.shape
    routes, _, states = inputs.A.shape
    return batch * routes * ((tokens + plan.CHECKPOINT - 1) // plan.CHECKPOINT) * states * channels


def scan_forward(inputs: ScanInputs, save: bool, config: Config) -> tuple[Tensor, Tensor, Tensor]:
    """Output, last state (B, K, D, N), and the states that backward needs."""
    from crossmamba.ops.triton.kernels_forward import chunk_end_kernel, scan_forward_kernel

    scan = Scan(inputs, config)
    shape, registers = scan.shape, REGISTERS if config.warps == 1 else None
    out = torch.empty_like(inputs.u)
    saved = inputs.A.new_empty(saved_elements(inputs) if save else 0)
    last_state = scan.tile_space(1)
    entering = None if inputs.initial_state is None else tiles(inputs.initial_state)
    results: dict[str, Any] = {"out": rows(out), "saved": saved if save else None}
    results["total"] = None if shape.routes == 1 else rows(sum_space(out))
    if config.chunk == 0:
        results |= {"entering": entering, "last_state": last_state}
        scan.start(
            scan_forward_kernel, scan.programs, first_route=0, last_route=shape.routes, registers=registers, **results
        )
    else:
        ends, sums = scan.tile_space(scan.chunks), scan.row_space()
        scan.start(chunk_end_kernel, scan.programs * shape.routes * scan.chunks, ends=ends, sums=sums)
        scan.carry(ends, sums, entering, last_state, backwards=False)
        results |= {"entering": ends, "last_state": None}
        for k in range(shape.routes):  # one launch after the other: each adds to what the ones before it left
            one = {"first_route": k, "last_route": k + 1, "registers": registers}
            scan.start(scan_forward_kernel, scan.programs * scan.chunks, **one, **results)
    return out, last_state[:, :, 0].mT.contiguous(), saved
