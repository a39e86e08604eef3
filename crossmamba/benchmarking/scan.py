"""`crossmamba bench scan`: which rows to measure, in which order, and keeping what was measured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from crossmamba.benchmarking import own
from crossmamba.benchmarking.peers import Absent, Peer, find_peers, ours
from crossmamba.benchmarking.problems import CUT_CHANNELS, SHAPES, Shape, make_problem
from crossmamba.benchmarking.rows import HEADER, Goal, Report, Row, busy, line, load_average, machine_facts, ratio_row
from crossmamba.benchmarking.timing import PASSES, interleave
from crossmamba.errors import UsageError
from crossmamba.ops import list_backends

FORWARD, BOTH = PASSES
PARTS = ("peers", "backends", "limits", "routes", "time-invariant", "memory", "errors", "threads", "step")
QUICK_SHAPES = ("d", "a")
NOT_JUDGED = "crossmamba reference"  # ours, not a peer
OVER_PEERS, OVER_PEERS_ON_D = Goal(60), Goal(100)  # forward
OVER_PARALLEL_SCANS = Goal(100)  # forward + backward at full size
PEER_PACKAGES = ("mamba-ssm", "mambapy", "transformers", "triton")


@dataclass
class Options:
    """What to measure. `backends`: names, the first is the one compared with the peers; empty for all that run here."""

    shapes: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=lambda: list(PARTS))
    backends: list[str] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    pairs: int = 5
    quick: bool = False
    sizes: dict[str, Shape] = field(default_factory=lambda: dict(SHAPES))

    @property
    def budget(self) -> float:
        """Seconds after which a row gets no further pair."""
        return 3.0 if self.quick else 20.0

    def chosen(self) -> list[Shape]:
        """The shapes to time."""
        names = self.shapes or (list(QUICK_SHAPES) if self.quick else list(self.sizes))
        return [self.sizes[name] for name in names]


@dataclass(frozen=True)
class Job:
    """One measurement; it gives one row or a few."""

    label: str
    run: Callable[[], Row | list[Row]]


def usable_backends(asked: list[str]) -> list[str]:
    """The back ends to time, the preferred first; without being asked for, the reference loops are left out.

    Raises:
        UsageError: one that was asked for is unknown or cannot run here.
    """
    reasons = list_backends()
    for name in asked:
        if name not in reasons:
            raise UsageError(f"unknown back end {name!r}: choose from {', '.join(reasons)}")
        if reasons[name] is not None:
            raise UsageError(f"back end {name!r} cannot run here: {reasons[name]}")
    return asked or [name for name, reason in reasons.items() if reason is None and name != "reference"]


def plan(options: Options, backends: list[str], peers: list[Peer]) -> list[Job]:
    """All measurements in the order of the table."""
    parts: dict[str, Callable[[], Iterator[Job]]] = {
        "peers": lambda: _peer_jobs(options, backends[0], peers),
        "backends": lambda: _backend_jobs(options, backends),
        "limits": lambda: _limit_jobs(options, backends[0]),
        "routes": lambda: _pass_jobs("routes", partial(own.routes, backends[0]), (1, 16), options),
        "time-invariant": lambda: _pass_jobs("time-invariant", partial(own.time_invariant, backends[0]), (), options),
        "memory": lambda: _memory_jobs(options, backends[0], peers),
        "errors": lambda: (
            Job(f"errors of {name} on {shape.name}", partial(own.errors, shape, name))
            for shape in options.chosen()
            for name in backends
        ),
        "threads": lambda: (
            Job(
                f"threads, {shape.name}, {passes}",
                partial(own.threads, shape, backends[0], passes, options.pairs, options.budget),
            )
            for shape in options.chosen()
            for passes in PASSES
        ),
        "step": lambda: iter([Job("step update", partial(own.step, backends[0], 200 if options.quick else 2000))]),
    }
    return [job for part in options.parts for job in parts[part]()]


def _peer_jobs(options: Options, backend: str, peers: list[Peer]) -> Iterator[Job]:
    for passes in PASSES:
        for shape in options.chosen():
            for peer in peers:
                cut = passes == BOTH and peer.slow_backward
                if cut and options.quick:
                    continue
                used = shape.narrow(CUT_CHANNELS.get(shape.name, shape.channels)) if cut else shape
                run = partial(
                    against_peer, peer, used, backend, passes, None if cut else _peer_goal(peer, shape, passes)
                )
                yield Job(f"{peer.name} on {used.name}, {passes}", partial(run, options.pairs, options.budget))


def _peer_goal(peer: Peer, shape: Shape, passes: str) -> Goal | None:
    if peer.name == NOT_JUDGED:
        return None
    if passes == BOTH:
        return OVER_PARALLEL_SCANS
    return OVER_PEERS_ON_D if shape.name == "d" else OVER_PEERS


def against_peer(
    peer: Peer, shape: Shape, backend: str, passes: str, goal: Goal | None, pairs: int, budget: float
) -> Row:
    """One peer against one of our back ends."""
    problem = make_problem(shape)
    theirs, mine = peer.prepare(problem), ours(problem, backend)
    times = interleave(theirs.runner(passes), mine.runner(passes), pairs, budget)
    return ratio_row(passes, shape, peer.name, backend, times, goal)


def _backend_jobs(options: Options, backends: list[str]) -> Iterator[Job]:
    limits = (options.pairs, options.budget)
    for passes in PASSES:
        for shape in options.chosen():
            for name in backends:
                if name != "portable":
                    run = partial(own.against_portable, shape, name, passes, name == backends[0], *limits)
                    yield Job(f"{name} on {shape.name}, {passes}", run)
            if shape.name == "d":
                yield Job(f"AVX2, {passes}", partial(own.avx2_against_avx512, shape, passes, *limits))


def _limit_jobs(options: Options, backend: str) -> Iterator[Job]:
    yield Job("limits of the machine", lambda: own.machine(torch.get_num_threads()))
    for shape in options.chosen():
        if not shape.grids:
            calls = 4 * options.pairs
            yield Job(f"limits, {shape.name}", partial(own.share_of_limits, shape, backend, calls, options.budget))


def _pass_jobs(label: str, run: Callable[..., Row], cases: tuple[int, ...], options: Options) -> Iterator[Job]:
    for case in cases or (None,):
        for passes in PASSES:
            given = () if case is None else (case,)
            yield Job(f"{label}, {passes}", partial(run, *given, passes, options.pairs, options.budget))


def _memory_jobs(options: Options, backend: str, peers: list[Peer]) -> Iterator[Job]:
    for shape in options.chosen():
        sides = [(backend, passes) for passes in PASSES]
        if shape.name == "d" and not options.quick:
            sides += [(peer.name, BOTH) for peer in peers if not peer.slow_backward]
        for side, passes in sides:
            run = partial(own.memory, shape, side, passes, side == backend, options.peers)
            yield Job(f"memory of {side} on {shape.name}", run)


def facts(peers: list[Peer], backends: list[str], options: Options) -> dict[str, str]:
    """The machine, and what is compared."""
    versions = []
    for package in PEER_PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    found = machine_facts()
    found["peers"] = f"{', '.join(peer.name for peer in peers)} ({', '.join(versions)})"
    if options.peers:
        found["peers given"] = ", ".join(options.peers)
    found["back ends"] = f"{', '.join(backends)}; compared with the peers: {backends[0]}"
    found["load average at the start"] = load_average()
    return found


def run(options: Options, command: str, out: list[Path], show: Callable[[str], None]) -> Report:
    """Measures everything, showing and writing each row as it comes. Interrupted, the files keep the rows until then.

    Args:
        command: what the report names as its origin.
        out: files to write, `.json` or Markdown.
        show: gets the table line by line, between updates of the progress bar.
    """
    from tqdm import tqdm

    backends = usable_backends(options.backends)
    peers: list[Peer] = []
    absent: list[Absent] = []
    if {"peers", "memory"} & set(options.parts):
        print("importing and checking the peers ...", file=sys.stderr)
        peers, absent = find_peers(options.peers)
    if busy():
        print(f"this machine is busy (load average {load_average()}): the times will mislead", file=sys.stderr)
    jobs = plan(options, backends, peers)
    report = Report(command, facts(peers, backends, options), absent=[f"{one.name}: {one.reason}" for one in absent])
    for text in [*(f"{name}: {value}" for name, value in report.machine.items()), *report.absent, "", HEADER]:
        show(text)
    with tqdm(total=len(jobs), unit="measurement", file=sys.stderr, disable=None, leave=False) as bar:
        for job in jobs:
            bar.set_description(job.label)
            for row in _rows(job):
                report.rows.append(row)
                with bar.external_write_mode(file=sys.stderr):
                    show(line(row.cells()))
            report.write(out)
            bar.update()
    report.finished = True
    report.machine["load average at the end"] = load_average()
    report.write(out)
    return report


def _rows(job: Job) -> list[Row]:
    """The job's rows; one that breaks must not cost the others."""
    try:
        result = job.run()
    except (RuntimeError, ValueError, MemoryError, ArithmeticError, NotImplementedError) as error:
        return [Row(job.label, note=f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")]
    return result if isinstance(result, list) else [result]
