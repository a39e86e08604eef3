"""Compiles every Triton kernel for GPUs that are not here, and writes down what each variant uses.

    python benchmarks/triton_offline.py                  # triton_offline.md in results/; some minutes for each target
    python benchmarks/triton_offline.py --targets sm_90 --scans "N 64"   # one row's variants anew; the others stay

Registers, spills (local memory), shared memory, instructions and exchanges between lanes are read from the binaries.
The variants are those that the calls below start: each pass in one phase and in three, for every block width. Each
target's table says when and with what it was made.
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
STEP = "one step, N 16"
HEAD = [
    "| scan | kernel | warps | registers | spilled, bytes | shared, bytes | instructions | exchanges | barriers "
    "| compiled, s |",
    "|---|---|---|---|---|---|---|---|---|---|",
]
SPILLED = 4  # that column


def compile_all(target: str, scans: list[str]) -> dict[str, list[Compiled]]:
    """Every variant for a target, by the call that needs it first."""
    found = {}
    for name in scans:
        with compiling_for(*TARGETS[target]) as variants:
            if name == STEP:
                start_step(8, 1536, 16, HALF)
            else:
                shape, dtype, options = SCANS[name]
                start_scan(meta_scan(shape, dtype, **options))
        found[name] = variants
        spilled = sum(variant.spilled > 0 for variant in variants)
        seconds = sum(variant.seconds for variant in variants)
        print(f"{target}, {name}: {len(variants)} variants, {spilled} with spills, {seconds:.0f} s", flush=True)
    return found


def rows(target: str, name: str, variants: list[Compiled]) -> list[str]:
    """A scan's variants as rows of a target's table."""
    lines = []
    for variant in variants:
        numbers = [variant.warps, variant.registers, variant.spilled, variant.shared]
        if target.startswith("sm_"):
            numbers += [variant.instructions, variant.exchanges]
        counts = " | ".join(map(str, numbers)) + ("" if target.startswith("sm_") else " | - | -")
        lines.append(f"| {name} | {variant.kernel} | {counts} | {variant.barriers} | {variant.seconds:.1f} |")
    return lines


def table(target: str, made: list[str], by_scan: dict[str, list[str]]) -> list[str]:
    """A target's section: what it was made with, and the rows of every scan."""
    lines = [row for name in (*SCANS, STEP) for row in by_scan.get(name, [])]
    spilled = sum(row.split(" | ")[SPILLED] != "0" for row in lines)
    return [f"## {target}: {len(lines)} variants, {spilled} with spills", *made, "", *HEAD, *lines, ""]


def written(path: Path, target: str) -> tuple[list[str], dict[str, list[str]]]:
    """From a file that an earlier run wrote, what a target's table was made with, and its rows by scan."""
    parts = path.read_text(encoding="utf-8").split("\n## ") if path.exists() else []
    lines = next((part.splitlines()[1:] for part in parts[1:] if part.startswith(f"{target}: ")), [])
    by_scan: dict[str, list[str]] = {}
    for row in lines[lines.index("") + 1 + len(HEAD) :] if lines else []:
        if row:
            by_scan.setdefault(row.split(" | ")[0].removeprefix("| "), []).append(row)
    return (lines[: lines.index("")] if lines else []), by_scan


def write(path: Path, lines: list[str]) -> None:
    """Replaces the file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".part")
    half.write_text("\n".join(lines).rstrip("\n") + "\n", encoding="utf-8")
    os.replace(half, path)
    print(f"wrote {path}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--scans", nargs="+", choices=[*SCANS, STEP], default=[*SCANS, STEP])
    parser.add_argument("--out", type=Path, default=RESULTS / "triton_offline.md")
    args = parser.parse_args()
    head = [
        "# The Triton kernels, compiled for GPUs that were not there",
        "",
        "No GPU: nothing ran here. Made by `python benchmarks/triton_offline.py`. Registers are of a thread; spills",
        "are its local memory. For gfx942 registers are vector registers, and instructions are not counted. Seconds",
        "are of the wall clock beside other work, near 0 where Triton had the variant in its cache.",
        "",
    ]
    tables = {target: written(args.out, target) for target in TARGETS}
    for target in args.targets:
        begin = time.perf_counter()
        found = compile_all(target, args.scans)
        which = "" if len(args.scans) > len(SCANS) else f"{', '.join(args.scans)}: "
        seconds = time.perf_counter() - begin
        versions = f"Triton {version('triton')}, torch {torch.__version__}, {platform.machine()}"
        made, by_scan = tables[target] if which else ([], {})
        by_scan |= {name: rows(target, name, variants) for name, variants in found.items()}
        tables[target] = [*made, f"{which}{date.today()}, {versions}; {seconds:.0f} s."], by_scan
        lines = [line for name in TARGETS if tables[name][1] for line in table(name, *tables[name])]
        write(args.out, [*head, *lines])  # after each target: a run that is broken off leaves what it has


if __name__ == "__main__":
    main()
