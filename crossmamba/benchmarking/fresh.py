"""Extra memory of one call, measured in a process of its own so that the peak is its own.

    python -m crossmamba.benchmarking.fresh '{"shape": {...}, "side": "portable", "passes": "forward", "peers": []}'

prints the MiB by which the process' resident set rose above what it was with the inputs in it: outputs, gradients and
whatever the call keeps or works in. The incoming gradient is an input. Linux only (/proc).
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from crossmamba.benchmarking.problems import Shape

CLEAR_PEAK = "5"  # written to clear_refs, it sets VmHWM back to VmRSS (man 5 proc)


def extra_memory(shape: Shape, side: str, passes: str, threads: int, peers: list[str]) -> float:
    """MiB above the inputs at the peak of one call, by a fresh process.

    Args:
        side: a back end's name, or that of a peer.
        peers: `--peer` texts that define further peers.

    Raises:
        ValueError: not on this system, or the process failed.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise ValueError("peak memory is read from /proc: Linux only")
    job = {"shape": asdict(shape), "side": side, "passes": passes, "threads": threads, "peers": peers}
    command = [sys.executable, "-m", "crossmamba.benchmarking.fresh", json.dumps(job)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ValueError(f"the measuring process failed: {run.stderr.strip().splitlines()[-1:]}")
    return float(run.stdout.split()[-1])


def _status(field: str) -> float:
    """A field of /proc/self/status, KiB there, as MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")


def main(text: str) -> None:
    """The child's work."""
    import torch

    from crossmamba.benchmarking.peers import find_peers, ours
    from crossmamba.benchmarking.problems import make_problem
    from crossmamba.ops import list_backends

    job = json.loads(text)
    torch.set_num_threads(job["threads"])
    grids = tuple(tuple(grid) for grid in job["shape"].pop("grids"))
    shape = Shape(**job["shape"], grids=grids)
    if job["side"] in list_backends():
        prepare = lambda problem: ours(problem, job["side"])  # noqa: E731
    else:
        peers = {peer.name: peer.prepare for peer in find_peers(job["peers"])[0]}
        if job["side"] not in peers:
            raise ValueError(f"there is no back end and no peer {job['side']!r}")
        prepare = peers[job["side"]]
    small = prepare(make_problem(shape.narrow(16)))
    small.runner(job["passes"])()  # code, thread stacks and pools are not the call's
    side = prepare(make_problem(shape))
    side.prepare()
    run = side.runner(job["passes"])
    del small
    ctypes.CDLL(None).malloc_trim(0)  # freed memory goes back, or the call would reuse it uncounted
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK, encoding="ascii")
    before = _status("VmRSS")
    kept = run()
    peak = _status("VmHWM")
    del kept
    print(peak - before)


if __name__ == "__main__":
    main(sys.argv[1])
