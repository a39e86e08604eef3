"""Time and peak memory of one step of a program, and how such numbers are printed."""

from __future__ import annotations

import ctypes
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def measure_step(run: Callable[[], Any], *, budget: float, cuda: bool, long: float = 20.0) -> dict[str, float]:
    """Seconds and peak MiB above what is held now of `run()`, in this process.

    The peak is that of the first call, before any timing: by how much the process' memory (on a GPU: the allocator's)
    rose. Code and thread pools are not the program's, so let something small run before.

    Args:
        budget: seconds to spend on timing; at least 3 steps. cuda: whether it runs on a GPU.
        long: seconds; where the first call takes longer, its time is taken and nothing is called again.

    Returns:
        `seconds` (median), `peak_mib`, `steps`, `threads`.
    """
    synchronize = torch.cuda.synchronize if cuda else lambda: None
    ctypes.CDLL(None).malloc_trim(0)
    before = _current(cuda)
    start = time.perf_counter()
    run()
    synchronize()
    first = time.perf_counter() - start
    peak = _peak(cuda) - before
    times: list[float] = []
    while first <= long and (len(times) < 3 or (sum(times) < budget and len(times) < 200)):
        start = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - start)
    times = times or [first]
    return {
        "seconds": statistics.median(times),
        "peak_mib": peak,
        "steps": len(times),
        "threads": torch.get_num_threads(),
    }


def _current(cuda: bool) -> float:
    """MiB held now; the peak starts from here."""
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(cuda: bool) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if cuda else _status("VmHWM")


def _status(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")


def three_digits(value: float) -> str:
    """0.0123, 1.23, 123, 12,300."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
