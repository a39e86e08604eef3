"""Which configuration runs: the plan's, unless this GPU was tuned for the shape.

Nothing is tuned unless asked: by `tune`, or for every new shape under CROSSMAMBA_AUTOTUNE=1, which then pauses to
compile and time at most MAX_CANDIDATES candidates for each pass, and says so. What is found is kept in a file per GPU
model and Triton version under the user's cache folder (`cache_file`), and used from then on.

Warm-up without tuning: the first training step compiles, for each kind of scan (dtypes, N, what varies along the
sequence, gate, routes, lengths), 2 or 3 variants if it is cut into one phase and 7 if into three. Offline for sm_90
with Triton 3.9 (no GPU), in seconds of CPU on one core of an EPYC: Mamba's scan (N 16, bfloat16, gate, three phases)
took 11, of which backward's main kernel 5.5 and each other kernel 0.6 to 1.3; AVS-Mamba's eight routes (N 1, three
phases) 8, of which 3.4; CM-Mamba's tier 2 in float32 (N 16, one phase) 5, of which 3.5; its tier 1 took 3. Triton keeps
them in ~/.triton/cache, so a second process starts at once. Other batch sizes and lengths compile nothing new, with one
exception that is Triton's: numbers that are 1 or multiples of 16 make variants of their own.
"""

from __future__ import annotations

import json
import logging
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from crossmamba.ops.backends import ScanInputs
from crossmamba.ops.triton import plan
from crossmamba.ops.triton.arguments import kind
from crossmamba.ops.triton.launch import processors, shape_of
from crossmamba.ops.triton.plan import Config, Shape

MAX_CANDIDATES = 6
TIMED_RUNS = 5
LOG = logging.getLogger(__name__)


def config_of(inputs: ScanInputs, backward: bool) -> Config:
    """The configuration for a scan: tuned if this GPU was tuned for it, else the plan's."""
    shape = shape_of(inputs)
    if inputs.u.device.type == "cuda":
        name, key = torch.cuda.get_device_name(inputs.u.device), shape_key(inputs, backward)
        tuned = _table(name).get(key)
        if tuned is not None:
            return tuned
        if os.environ.get("CROSSMAMBA_AUTOTUNE", "0") not in ("", "0"):
            return tune(inputs, backward)
    return plan.choose(shape, processors(inputs.u.device), backward)


def shape_key(inputs: ScanInputs, backward: bool) -> str:
    """What a tuned configuration holds for: pass, sizes, the dtype of u, and what varies along the sequence."""
    delta = "sample" if inputs.delta.shape[2] == 1 else "token"
    *sizes, gated = shape_of(inputs)
    gate, dtype = "gate" if gated else "open", str(inputs.u.dtype).removeprefix("torch.")
    parts = ["backward" if backward else "forward", *sizes, dtype, delta, kind(inputs.B), kind(inputs.C), gate]
    return " ".join(map(str, parts))


def candidates(shape: Shape, multiprocessors: int, backward: bool) -> list[Config]:
    """A handful of configurations worth timing, the plan's own first."""
    own = plan.choose(shape, multiprocessors, backward)
    chunks = {own.chunk, own.chunk // 2, 2 * own.chunk, 0 if own.chunk else plan.CHECKPOINT}
    chunks = {chunk for chunk in chunks if chunk == 0 or plan.CHECKPOINT <= chunk < shape.tokens}
    blocks = plan.blocks_for(shape, backward)
    found = [plan.config_for(shape, block, chunk, backward) for block in blocks for chunk in sorted(chunks)]
    found += [replace(config, steps=config.steps * 2) for config in found if not backward and config.steps < 8]
    found.sort(key=lambda config: (config != own, plan.cost(shape, multiprocessors, config)))
    return found[:MAX_CANDIDATES]


def tune(inputs: ScanInputs, backward: bool) -> Config:
    """Times the candidates for a scan on its GPU, keeps the fastest on disk, and returns it: seconds to a minute."""
    from crossmamba.ops.triton.backward import scan_backward
    from crossmamba.ops.triton.forward import scan_forward

    start, shape = time.perf_counter(), shape_of(inputs)
    forward_config = plan.choose(shape, processors(inputs.u.device), False)
    out, state, saved = scan_forward(inputs, backward, forward_config)
    times: dict[Config, float] = {}
    for config in candidates(shape, processors(inputs.u.device), backward):
        if backward:
            times[config] = _milliseconds(partial(scan_backward, inputs, saved, out, state, config))
        else:
            times[config] = _milliseconds(partial(scan_forward, inputs, False, config))
    best = min(times, key=lambda config: times[config])
    _remember(torch.cuda.get_device_name(inputs.u.device), shape_key(inputs, backward), best)
    LOG.warning(
        "tuned the scan's %s for %s in %.1f s: %s, %.3f ms (%s)",
        "backward" if backward else "forward", shape, time.perf_counter() - start, best, times[best],
        ", ".join(f"{value:.3f}" for value in times.values()),
    )  # fmt: skip
    return best


def _milliseconds(run: Callable[[], Any]) -> float:
    """Median time of a run on the current GPU; the first ones compile and warm up."""
    times = []
    for number in range(2 + TIMED_RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        run()
        end.record()
        end.synchronize()
        if number >= 2:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def cache_file(device_name: str) -> Path:
    """Where a GPU model's tuned configurations are kept."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "crossmamba" / f"triton-{re.sub(r'[^A-Za-z0-9]+', '-', device_name)}-{triton}.json"


def read_table(path: Path) -> dict[str, Config]:
    """Tuned configurations by `shape_key`; those that no longer make sense are left out."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): config for key, value in raw.items() if (config := _valid(value)) is not None}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        LOG.warning("the tuned configurations in %s cannot be read (%s); delete the file to tune anew", path, error)
        return {}


def write_table(path: Path, table: dict[str, Config]) -> None:
    """Replaces the file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8") as file:
        json.dump({key: asdict(config) for key, config in sorted(table.items())}, file, indent=1)
    os.replace(file.name, path)


def _valid(value: Any) -> Config | None:
    """A configuration read from a file, if the kernels can be compiled for it."""
    try:
        config = Config(**value)
    except TypeError:
        return None
    numbers = (config.block, config.steps, config.parts, config.warps)
    if not all(isinstance(number, int) and number > 0 and number & (number - 1) == 0 for number in numbers):
        return None
    if config.block not in (32, 64, 128) or config.steps > 16 or config.warps > 32:
        return None
    fits = isinstance(config.chunk, int) and config.chunk >= 0 and config.chunk % plan.CHECKPOINT == 0
    return config if fits else None


@cache
def _table(device_name: str) -> dict[str, Config]:
    return read_table(cache_file(device_name))


def _remember(device_name: str, key: str, config: Config) -> None:
    path = cache_file(device_name)
    _table(device_name)[key] = config
    try:
        write_table(path, {**read_table(path), key: config})
    except OSError as error:
        LOG.warning("the tuned configuration is not kept: %s", error)
