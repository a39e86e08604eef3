"""Compiles every Triton kernel for GPUs that are not here, and writes down what each variant uses.

    python benchmarks/triton_offline.py                  # about 3 minutes on two cores; triton_offline.md in results/
    python benchmarks/triton_offline.py --targets sm_90

Registers, spills (local memory), shared memory, instructions and exchanges between lanes are read from the binaries.
The variants are those that the calls below start: each pass in one phase and in three, for every block width.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from crossmamba.ops.triton.offline import Compiled, compiling_for, meta_scan, start_scan, start_step
from crossmamba.ops.triton.plan import Shape

RESULTS = Path(__file__).parent / "results"
TARGETS: dict[str, tuple[str, int | str]] = {
    "sm_80": ("cuda", 80),
    "sm_90": ("cuda", 90),
    "sm_100": ("cuda", 100),
    "gfx942": ("hip", "gfx942"),
}
HALF, FULL = torch.bfloat16, torch.float32
# Sizes, u's dtype, and what `meta_scan` is told besides; a True behind the sizes is a gate.
SCANS: dict[str, tuple[Shape, torch.dtype, dict[str, Any]]] = {
    "Mamba, N 16, gate": (Shape(1, 2048, 1536, 16, 1, 1, True), HALF, {}),
    "Mamba in float32": (Shape(1, 2048, 1536, 16, 1, 1, True), FULL, {}),
    "tier 2, N 16": (Shape(640, 196, 1024, 16, 1, 1), HALF, {}),
    "tier 2 in float32": (Shape(640, 196, 1024, 16, 1, 1), FULL, {}),
    "tier 1, invariant, reversed": (Shape(640, 196, 1024, 16, 1, 1), HALF, {"invariant": True, "reverse": True}),
    "8 routes, N 1": (Shape(2, 10290, 512, 1, 8, 1), HALF, {"order": True}),
    "8 routes, N 16": (Shape(2, 10290, 512, 16, 8, 1), HALF, {"order": True}),
    "small model, N 4, lengths": (Shape(16, 1285, 48, 4, 1, 1, True), FULL, {"lengths": True}),
    "N 2, 3 groups": (Shape(4, 500, 96, 2, 1, 3, True), FULL, {}),
    "N 8": (Shape(4, 500, 256, 8, 1, 1, True), FULL, {}),
    "N 64": (Shape(4, 500, 256, 64, 1, 1, True), FULL, {}),
    "N 256": (Shape(4, 500, 256, 256, 1, 1, True), FULL, {}),
}


def compile_all(target: str) -> dict[str, list[Compiled]]:
    """Every variant for a target, by the call that needs it first."""
    found = {}
    for name, (shape, dtype, options) in SCANS.items():
        with compiling_for(*TARGETS[target]) as variants:
            start_scan(meta_scan(shape, dtype, **options))
        found[name] = variants
        spilled = sum(variant.spilled > 0 for variant in variants)
        seconds = sum(variant.seconds for variant in variants)
        print(f"{target}, {name}: {len(variants)} variants, {spilled} with spills, {seconds:.0f} s", flush=True)
    with compiling_for(*TARGETS[target]) as variants:
        start_step(8, 1536, 16, HALF)
    found["one step, N 16"] = variants
    return found


def table(target: str, found: dict[str, list[Compiled]]) -> list[str]:
    """A target's variants as a table."""
    variants = [variant for those in found.values() for variant in those]
    spilled = [variant for variant in variants if variant.spilled]
    lines = [
        f"## {target}: {len(variants)} variants, {len(spilled)} with spills",
        "| scan | kernel | warps | registers | spilled, bytes | shared, bytes | instructions | exchanges | barriers "
        "| compiled, s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, those in found.items():
        for variant in those:
            numbers = [variant.warps, variant.registers, variant.spilled, variant.shared]
            if target.startswith("sm_"):
                numbers += [variant.instructions, variant.exchanges]
            counts = " | ".join(map(str, numbers)) + ("" if target.startswith("sm_") else " | - | -")
            lines.append(f"| {name} | {variant.kernel} | {counts} | {variant.barriers} | {variant.seconds:.1f} |")
    return [*lines, ""]


def write(path: Path, lines: list[str]) -> None:
    """Replaces the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    half.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(half, path)
    print(f"wrote {path}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--out", type=Path, default=RESULTS / "triton_offline.md")
    args = parser.parse_args()
    begin = time.perf_counter()
    lines = [
        "# The Triton kernels, compiled for GPUs that were not there",
        "",
        f"{date.today()}, Triton {version('triton')}, torch {torch.__version__}, {platform.machine()}.",
        "No GPU: nothing ran here. Made by `python benchmarks/triton_offline.py`. Registers are of a thread;",
        "spills are its local memory. For gfx942 registers are vector registers, and instructions are not counted.",
        "Seconds are of the wall clock, near 0 where Triton had the variant in its cache.",
        "",
    ]
    for target in args.targets:
        lines += table(target, compile_all(target))
        taken = f"Up to here {time.perf_counter() - begin:.0f} s on this machine, caches of Triton's included."
        write(args.out, [*lines, taken])  # after each target: a run that is broken off leaves what it has


if __name__ == "__main__":
    main()
