"""Rows about this library alone: back ends against each other, routes, threads, memory, errors, limits, the step."""

from __future__ import annotations

from functools import partial
from statistics import median

import torch
from torch import Tensor

from crossmamba.benchmarking import limits
from crossmamba.benchmarking.fresh import extra_memory
from crossmamba.benchmarking.peers import ours, present
from crossmamba.benchmarking.problems import NAMES, Problem, Shape, clip_shape, make_problem
from crossmamba.benchmarking.rows import Goal, Row, cores, ratio_row
from crossmamba.benchmarking.timing import PASSES, Side, alone, interleave, leaves, no_collection, seconds
from crossmamba.ops import ScanInputs, list_backends, route_table, selective_state_update
from crossmamba.ops.operator import run_scan

FORWARD, BOTH = PASSES
OVER_PORTABLE = {FORWARD: Goal(30), BOTH: Goal(40)}  # shape d
AVX2_OVER_AVX512 = Goal(1.6, at_most=True)
ROUTES_OVER_IDENTITY = Goal(1.3, at_most=True)
TIME_INVARIANT = Goal(1.8)
TWO_THREADS, TWO_THREADS_ABOVE = Goal(1.9), 5.0  # milliseconds with one thread
EXTRA_MIB = Goal(65, at_most=True)  # shape d, forward + backward
OUTPUT_ERROR, GRADIENT_ERROR = Goal(1.5e-7, at_most=True), Goal(1e-6, at_most=True)
SHARE_OF_LIMIT = {"forward": Goal(60), "backward": Goal(50)}  # percent, shape d
STEP_MICROSECONDS = Goal(60, at_most=True)
ERROR_CHANNELS = 32  # the float64 reference walks step by step


def backend_reason(name: str) -> str | None:
    """None if that back end runs here, else why not."""
    return list_backends().get(name, f"there is no back end {name!r} in this installation")


def missing(what: str, shape: object, side: str, reason: str, goal: Goal | None = None, unit: str = "x") -> Row:
    """A row for what cannot be measured here."""
    return Row(what, str(shape), ours=side, goal=goal, unit=unit, note=f"not on this machine: {reason}")


def against_portable(shape: Shape, backend: str, passes: str, judged: bool, pairs: int, budget: float) -> Row:
    """One back end against the portable one."""
    problem = make_problem(shape)
    theirs, mine = ours(problem, "portable"), ours(problem, backend)
    times = interleave(theirs.runner(passes), mine.runner(passes), pairs, budget)
    goal = OVER_PORTABLE[passes] if judged and shape.name == "d" else None
    return ratio_row(passes, shape, "portable", backend, times, goal)


def avx2_against_avx512(shape: Shape, passes: str, pairs: int, budget: float) -> Row:
    """The two builds of the native kernel."""
    names = ("native-avx512", "native-avx2")
    for name in names:
        if (reason := backend_reason(name)) is not None:
            return missing(f"{passes}, instruction sets", shape, name, reason, AVX2_OVER_AVX512)
    problem = make_problem(shape)
    wide, narrow = (ours(problem, name).runner(passes) for name in names)
    times = interleave(wide, narrow, pairs, budget)
    return ratio_row(f"{passes}, instruction sets", shape, *names, times, AVX2_OVER_AVX512, slower=True)


def routes(backend: str, states: int, passes: str, pairs: int, budget: float) -> Row:
    """Eight real routes against eight that walk the tokens in order."""
    shape = clip_shape("T5", 5, 256, states)
    problem = make_problem(shape)
    identity = route_table(["L+"] * shape.routes, [(shape.length,)])
    straight, real = ours(problem, backend, identity), ours(problem, backend)
    times = interleave(straight.runner(passes), real.runner(passes), pairs, budget)
    goal = ROUTES_OVER_IDENTITY if passes == FORWARD else None
    names = ("identity tables", f"{backend}, route tables")
    return ratio_row(f"{passes}, routes", shape, *names, times, goal, slower=True)


def time_invariant(backend: str, passes: str, pairs: int, budget: float) -> Row:
    """Steps and projections that are constant along a sequence, of length 1, against the same expanded by stride 0.

    Below the public function, which sees through stride 0 and would make both sides the same.
    """
    shape = Shape("time-invariant", 40, 196, 512, 16)
    problem = make_problem(shape)
    first = problem.delta[:, :, :1], problem.B[:, :, None, :1], problem.C[:, :, None, :1]  # of the steps
    constant = [value.contiguous() for value in first]

    def side(length: int) -> Side:
        u, delta, A, B, C = present(leaves(problem.u, constant[0], problem.A[None], *constant[1:]))
        D, bias = problem.D[None], problem.delta_bias[None]

        def call() -> Tensor:
            steps = (delta.expand(-1, -1, length, -1), *(value.expand(-1, -1, -1, length, -1) for value in (B, C)))
            inputs = ScanInputs(
                u, steps[0], A, steps[1], steps[2], D, None, bias, None, None, None, softplus=True, reverse=False
            )
            return run_scan(inputs, backend)[0]

        return Side(backend, [u, delta, A, B, C], call)

    general, short = side(shape.length), side(1)
    times = interleave(general.runner(passes), short.runner(passes), pairs, budget)
    goal = TIME_INVARIANT if passes == FORWARD else None
    names = ("stride-0 parameters", f"{backend}, length-1 parameters")
    return ratio_row(f"{passes}, time-invariant", shape, *names, times, goal)


def threads(shape: Shape, backend: str, passes: str, pairs: int, budget: float) -> Row:
    """One thread against two, in turn in this process."""
    what = f"{passes}, threads"
    if cores() < 2:
        return missing(what, shape, "2 threads", "it has one core", TWO_THREADS)
    side = ours(make_problem(shape), backend)
    run = side.runner(passes)

    def with_threads(count: int) -> None:
        torch.set_num_threads(count)
        run()

    before = torch.get_num_threads()
    try:
        times = interleave(partial(with_threads, 1), partial(with_threads, 2), pairs, budget)
    finally:
        torch.set_num_threads(before)
    long = 1e3 * median(times.theirs) > TWO_THREADS_ABOVE
    return ratio_row(what, shape, "1 thread", f"{backend}, 2 threads", times, TWO_THREADS if long else None)


def memory(shape: Shape, side: str, passes: str, judged: bool, peers: list[str]) -> Row:
    """Extra memory of one call in a fresh process."""
    what = f"{passes}, extra memory"
    goal = EXTRA_MIB if judged and shape.name == "d" and passes == BOTH else None
    try:
        value = extra_memory(shape, side, passes, torch.get_num_threads(), peers)
    except ValueError as error:
        return missing(what, shape, side, str(error), goal, "MiB")
    return Row(what, str(shape), ours=side, value=value, unit="MiB", goal=goal)


def errors(shape: Shape, backend: str) -> list[Row]:
    """Norm of the difference to the float64 reference over its norm: of the output, and of the worst gradient."""
    small = (
        clip_shape(shape.name, 1, ERROR_CHANNELS, shape.states)
        if shape.grids
        else shape.narrow(ERROR_CHANNELS, shape.name)
    )
    found = scan_errors(small, backend)
    output = found.pop("y")
    worst = max(found, key=lambda name: found[name])
    row = partial(Row, shape=str(small), theirs="float64 reference", ours=backend, unit="relative")
    return [
        row("error of the output", value=output, goal=OUTPUT_ERROR),
        row("error of the gradients", value=found[worst], goal=GRADIENT_ERROR, note=f"the largest, that of {worst}"),
    ]


def scan_errors(shape: Shape, backend: str) -> dict[str, float]:
    """Relative errors by name: "y" and every input's gradient."""
    problem = make_problem(shape)
    exact = Problem(shape, *(None if value is None else value.double() for value in problem[1:]))  # type: ignore[arg-type]
    sides = ours(problem, backend), ours(exact, "reference")
    for side in sides:
        side.prepare()
    assert sides[0].gradient is not None
    sides[1].gradient = sides[0].gradient.double()
    results = [(side.forward(), *side.forward_backward()) for side in sides]
    names = ["y", *(name for name in NAMES if name != "z" or shape.gate)]
    return {
        name: float((mine.double() - true).norm() / true.norm())
        for name, mine, true in zip(names, *results, strict=True)
    }


def machine(thread_count: int) -> list[Row]:
    """What the machine's vector units and memory can do."""
    what = "limit of the machine"
    try:
        found = limits.machine_limits(thread_count)
    except RuntimeError as error:
        return [missing(what, f"{thread_count} threads", "", str(error))]
    values = {
        "exponentials": (found.exps / 1e9, "G/s"),
        "multiply-adds": (found.flops / 1e9, "GFLOP/s"),
        "reading": (found.bytes / 1e9, "GB/s"),
        "multiply-adds with an operand from the first cache": (found.flops_from_L1 / 1e9, "GFLOP/s"),
        "core loop, state updates": (found.updates / 1e9, "G/s"),
        "core loop of backward, state updates": (found.updates_backward / 1e9, "G/s"),
    }
    return [
        Row(f"{what}: {name}", f"{thread_count} threads", value=value, unit=unit)
        for name, (value, unit) in values.items()
    ]


def share_of_limits(shape: Shape, backend: str, calls: int, budget: float) -> list[Row]:
    """How much of the time that the machine's limits allow the forward and the backward pass need."""
    work = {"forward": limits.forward_work(shape), "backward": limits.backward_work(shape)}
    try:
        before = limits.machine_limits(torch.get_num_threads())
    except RuntimeError as error:
        what = "share of the limits"
        goals = SHARE_OF_LIMIT if shape.name == "d" else {}
        return [missing(f"{name}, {what}", shape, backend, str(error), goals.get(name), "%") for name in work]
    side = ours(make_problem(shape), backend)
    taken = {"forward": alone(side.forward, calls, budget), "backward": backward_alone(side, calls, budget)}
    found = limits.fastest(before, limits.machine_limits(torch.get_num_threads()))
    rows = []
    for name, each in taken.items():
        floors = limits.floors(work[name], found)
        core = found.updates if name == "forward" else found.updates_backward
        if core == core:  # measured
            floors["core loop"] = work[name].updates / core
        for floor, least in floors.items():
            judged = floor in ("largest of exp, FMA, bytes", "exp then FMA")
            beaten = min(each) < least and floor != "exp then FMA"  # which is no bound everywhere
            rows.append(
                Row(
                    f"{name}, share of the limits",
                    str(shape),
                    f"limit: {floor}",
                    backend,
                    1e3 * least,
                    1e3 * median(each),
                    100 * least / median(each),
                    100 * least / min(each),
                    unit="%",
                    goal=SHARE_OF_LIMIT[name] if judged and shape.name == "d" else None,
                    note="faster than the limit: it was measured too low" if beaten else "",
                )
            )
    return rows


def backward_alone(side: Side, calls: int, budget: float) -> list[float]:
    """Seconds of backward passes without their forward passes."""
    side.prepare()
    taken: list[float] = []
    with no_collection():
        while len(taken) < calls and sum(taken) < budget:
            out = side.call()
            taken.append(seconds(partial(torch.autograd.grad, out, side.inputs, side.gradient)))
    return taken[1:] or taken


def step(backend: str, calls: int) -> Row:
    """One step of generation through the public function, the state changed in place."""
    what, batch, channels, states = "step update", 8, 1536, 16
    shape = f"B{batch} D{channels} N{states}"
    draw = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=draw)

    state, x, dt, z = normal(batch, channels, states), *(normal(batch, channels) for _ in range(3))
    A, B, C = -normal(channels, states).exp(), normal(batch, states), normal(batch, states)
    D, bias = normal(channels), normal(channels)
    call = partial(
        selective_state_update, state, x, dt, A, B, C, D=D, z=z, dt_bias=bias, dt_softplus=True, backend=backend
    )
    with torch.no_grad():
        taken = alone(call, calls, 5.0)
    return Row(what, shape, ours=backend, value=1e6 * median(taken), unit="µs", goal=STEP_MICROSECONDS)
