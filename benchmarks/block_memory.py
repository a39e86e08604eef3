"""What one training step of each scan block holds and copies, with the portable back end (before) and the native one.

    python benchmarks/block_memory.py                  # the paper's widths at 224 pixels, about a minute

Peak: by how much the process' memory rose during forward and backward above the block and its inputs, in a process of
its own. Copies: bytes written by operations that only move activations (clone, copy_, index_select and the like),
counted by torch's profiler, inside the scan too; and those among them that put activations in another order or double
them, rather than what torch's convolution and its own gradients ask for (`CAUSES`). Prints a table.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MOVES = ("aten::copy_", "aten::index_select", "aten::index", "aten::gather", "aten::flip", "aten::roll")
"""Operations that write what they read, in another order. clone, contiguous and reshape show up as the copy_ they
call; cat, which joins the levels to one sequence, is not counted: it is the same on both sides."""
CAUSES = {
    "convolution": "torch's depth-wise convolution makes its half of (x, z), a view with gaps, dense; the order stays",
    "SliceBackward0": "the gradient of a slice, padded with zeros to the whole",
    "ViewBackward0": "the gradient of (delta, B, C) before their projections, R + 2N numbers a token and route",
}
"""Copies that are not of our making, by a part of the name of an operation around them, and why they are there."""
BLOCKS = ("VSS", "Temporal Mamba", "V2A over the clip", "A2V over the clip", "Mamba")


def build(name: str, dim: int, seconds: int, side: int) -> Callable[[], list]:
    """A function that runs one forward and backward of that block on fixed inputs."""
    import torch

    from crossmamba import Mamba
    from crossmamba.blocks.fusion import FusionScan
    from crossmamba.blocks.scan_mixer import FRAME_ROUTES, TEMPORAL_ROUTES, ScanMixer

    torch.manual_seed(0)
    picture = [torch.randn(1, seconds, side // s, side // s, dim, requires_grad=True) for s in (8, 16, 32)]
    sound = torch.randn(1, seconds, dim, requires_grad=True)
    if name == "Mamba":
        block: torch.nn.Module = Mamba(dim)
        x = torch.randn(1, 2048, dim, requires_grad=True)
        inputs, call = [x], lambda: [block(x)]
    elif name in ("VSS", "Temporal Mamba"):
        block = ScanMixer(dim, FRAME_ROUTES if name == "VSS" else TEMPORAL_ROUTES[:8])
        inputs, call = picture, lambda: block(picture)
    else:
        block = FusionScan(dim, "sound" if name.startswith("V2A") else "picture", TEMPORAL_ROUTES[:4])
        inputs, call = [picture[0], sound], lambda: [block(picture[0], sound)]

    def step() -> list:
        outs = call()
        wanted = [*inputs, *block.parameters()]
        return list(torch.autograd.grad(outs, wanted, [torch.ones_like(out) for out in outs], allow_unused=True))

    return step


def status(field: str) -> float:
    """A field of /proc/self/status in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")


def copies(step: Callable[[], object]) -> dict[str, float]:
    """MiB that one step copies, by cause: those of `CAUSES`, and "reordered" for all others."""
    from torch.profiler import ProfilerActivity, profile

    step()  # the route tables, made once and kept, are not the step's
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as record:
        step()
    moved = dict.fromkeys([*CAUSES, "reordered"], 0.0)
    for event in record.events():
        if event.name not in MOVES or not event.input_shapes:
            continue
        around, parent = "", event.cpu_parent
        while parent is not None:
            around, parent = f"{around} {parent.name}", parent.cpu_parent
        cause = next((name for name in CAUSES if name in around), "reordered")
        moved[cause] += 4 * _written(event.name, event.input_shapes) / 2**20
    return moved


def measure(name: str, dim: int, seconds: int, side: int) -> dict[str, float]:
    """Peak MiB of a step above what was there before, and MiB moved by copies."""
    build(name, 16, 1, 64)()  # code and thread pools are not the block's
    step = build(name, dim, seconds, side)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    kept = step()
    peak = status("VmHWM") - before
    del kept
    moved = copies(step)
    return {"peak": peak, "moved": sum(moved.values()), **moved}


def _written(name: str, shapes: list) -> int:
    """Elements that the operation writes."""
    if name == "aten::index_select":
        rows, _, index = shapes
        return math.prod(rows[1:]) * math.prod(index)
    return math.prod(shapes[0]) if shapes[0] else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child, args.dim, args.seconds, args.side)))
        return
    print(f"width {args.dim}, {args.seconds} s at {args.side} pixels, batch 1, float32, forward + backward")
    print("| block | peak MiB before | now | copied MiB before | now | reordered MiB before | now |")
    print("|---|---|---|---|---|---|---|")
    for name in BLOCKS:
        rows = []
        for backend in ("portable", "native"):
            command = [sys.executable, __file__, "--child", name, "--dim", str(args.dim)]
            command += ["--seconds", str(args.seconds), "--side", str(args.side)]
            run = subprocess.run(
                command, env={**os.environ, "CROSSMAMBA_BACKEND": backend}, capture_output=True, text=True
            )
            if run.returncode:
                sys.exit(f"{name} with {backend}: {run.stderr[-500:]}")
            rows.append(json.loads(run.stdout.splitlines()[-1]))
            print(name, backend, rows[-1], file=sys.stderr)
        before, now = rows
        pairs = " | ".join(f"{before[kind]:.0f} | {now[kind]:.0f}" for kind in ("peak", "moved", "reordered"))
        print(f"| {name} | {pairs} |", flush=True)


if __name__ == "__main__":
    main()
