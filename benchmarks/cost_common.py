"""What the cost scripts share: cells measured in processes of their own and kept in a file, and numbers as table rows.

A cell is a dict of JSON values: the arguments of a script's `program`, which returns a function that runs one step.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

Cell = dict[str, Any]


def add_store_options(parser: argparse.ArgumentParser, results: Path) -> None:
    """--fresh, --out (without ending), and --child, by which a script measures one cell in a process of its own."""
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--out", type=Path, default=results, help="writes OUT.md and OUT.json")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)


def measure(
    program: Callable[..., Callable[[], Any]], cell: Cell, small: Cell, budget: float, memory_gib: float
) -> dict[str, float]:
    """Time and peak memory of a cell's step in this process, see `measure_step`.

    Args:
        small: what makes the cell a small one; it runs first, since code and thread pools are not the program's.
        budget: seconds to spend on timing; at least 3 steps, but one of more than 20 s.
        memory_gib: the process may not take more (the machine is shared); not asked of a GPU.
    """
    from crossmamba.benchmarking.steps import measure_step

    cuda = cell["device"].startswith("cuda")
    if not cuda:
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory_gib * 2**30),) * 2)
    program(**{**cell, **small})()
    return measure_step(program(**cell), budget=budget, cuda=cuda)


def measure_in_child(script: str | Path, cell: Cell, args: argparse.Namespace) -> dict[str, Any]:
    """What the script's --child prints of a cell; {"failed": why} where it did not fit into memory or time.

    Args:
        args: `budget` and `memory` as in `measure`; and `patience`, seconds that it may take, where the script has it.
    """
    command = [sys.executable, str(script), "--child", json.dumps(cell), "--budget", str(args.budget)]
    patience = vars(args).get("patience")
    try:
        run = subprocess.run([*command, "--memory", str(args.memory)], capture_output=True, text=True, timeout=patience)
    except subprocess.TimeoutExpired:
        return {"failed": f"over {patience:g} s"}
    if run.returncode == 0:
        return json.loads(run.stdout.splitlines()[-1])
    if any(sign in run.stderr for sign in ("MemoryError", "can't allocate memory", "bad_alloc", "OutOfMemory")):
        return {"failed": f"over {args.memory:g} GiB"}
    sys.exit(f"{cell}: {run.stderr[-2000:]}")


def measure_cells(
    script: str | Path, cells: Iterable[Cell], key: Callable[[Cell], str], args: argparse.Namespace, here: str
) -> dict[str, Any]:
    """Measures the cells that are not in OUT.json yet, keeps each there at once, and returns all, by key.

    Args:
        key: a cell's name in the file. args: of the command.
        here: this machine, see `machine`; with another one's numbers it ends.
    """
    from crossmamba.benchmarking.rows import busy, load_average

    store = args.out.with_suffix(".json")
    kept = json.loads(store.read_text(encoding="utf-8")) if store.exists() and not args.fresh else {}
    if kept.get("machine", here) != here:
        sys.exit(f"{store} is of another machine ({kept['machine']}): give --fresh, or another --out")
    found = kept.get("measured", {})
    todo = [cell for cell in cells if key(cell) not in found]
    if todo and busy():
        print(f"others are at work here (load {load_average()}): the times will be too long", file=sys.stderr)
    for cell in tqdm(todo, desc="measuring", file=sys.stderr):
        found[key(cell)] = measure_in_child(script, cell, args)
        write(store, json.dumps({"machine": here, "measured": found}, indent=1) + "\n")
    return found


def machine(device: str) -> str:
    """The machine in words, with the libraries and the scan that ran."""
    import torch

    from crossmamba.benchmarking.rows import machine_facts
    from crossmamba.ops.backends import resolve_backend

    backend = resolve_backend("auto", torch.device(device), torch.float32)
    facts = machine_facts()
    where = f"{facts['processor']} (cores, threads: {facts['cores, threads']})"
    if device.startswith("cuda"):
        where = torch.cuda.get_device_name()
    return f"{where}, {facts['software']}, scan back end {backend}"


def write(path: Path, text: str) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def number(row: dict[str, Any], what: str, samples: int = 1) -> float | str:
    """Of what was measured of a cell: milliseconds per sample ("ms") or MiB per step ("mib"), or why there is none."""
    if "failed" in row:
        return row["failed"]
    return row["seconds"] * 1000 / samples if what == "ms" else row["peak_mib"]


def table_row(*columns: str, numbers: Sequence[float | str], last: str = "") -> str:
    """A row of a markdown table: names, numbers with three digits, and a last column if there is one."""
    from crossmamba.benchmarking.steps import three_digits

    texts = [value if isinstance(value, str) else three_digits(value) for value in numbers]
    return "| " + " | ".join([*columns, *texts, *([last] if last else [])]) + " |"


def exponent(numbers: Sequence[float | str], sizes: Sequence[int]) -> str:
    """p of cost ~ size^p between the last two sizes, as text; "-" where one of them has no number."""
    if len(numbers) < 2 or not all(isinstance(value, float) and value > 0 for value in numbers[-2:]):
        return "-"
    return f"{math.log(numbers[-1] / numbers[-2]) / math.log(sizes[-1] / sizes[-2]):.2f}"
