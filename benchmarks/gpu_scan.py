"""The scan on a GPU: the papers' shapes by the Triton kernels, by the portable version, by mamba_ssm if it is there.

    python benchmarks/gpu_scan.py                  # writes benchmarks/results/gpu_<device>.md
    python benchmarks/gpu_scan.py --tune           # times a handful of configurations for each shape first, and says
    python benchmarks/gpu_scan.py --dry-run        # on a CPU, tiny shapes, nothing written: checks this file itself

It was never run on a GPU: its authors had none. Floors: the bytes that must move (each input read once, each result
written once) at the bandwidth that a copy reaches here, and exponentials (one for every state, two for every element)
at 16 a clock and multiprocessor.
mamba_ssm knows no routes: it is given the
tokens of each route already copied into walking order, uncharged. What compiling and tuning cost is a column.

B batch   L steps of a route   D channels   N states   K routes
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from crossmamba.errors import UsageError
from crossmamba.ops import list_backends, route_scan, route_table, selective_scan_fn

RESULTS = Path(__file__).parent / "results"
EIGHT_ROUTES = ("THW+", "THW-", "TWH+", "TWH-", "HWT+", "HWT-", "WHT+", "WHT-")
SCALES = ((28, 28), (14, 14), (7, 7))
EXPS_PER_CLOCK = 16  # of a multiprocessor
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


@dataclass(frozen=True)
class Shape:
    """One scan. frames: of a clip of three scales that eight routes walk; 0 is one sequence of `length` steps."""

    name: str
    batch: int
    channels: int
    states: int
    length: int
    frames: int = 0
    gate: bool = False
    invariant: bool = False

    @property
    def grids(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((self.frames, height, width) for height, width in SCALES)

    @property
    def routes(self) -> int:
        return len(EIGHT_ROUTES) if self.frames else 1

    def tiny(self) -> Shape:
        """The same in a size that a CPU takes at once."""
        length = sum(h * w for h, w in SCALES) if self.frames else 24
        return replace(self, batch=min(2, self.batch), channels=8, length=length, frames=min(1, self.frames))


def clip(name: str, batch: int, frames: int, channels: int, states: int) -> Shape:
    """A clip's temporal scan."""
    return Shape(name, batch, channels, states, frames * sum(h * w for h, w in SCALES), frames)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("d", 1, 1536, 16, 2048, gate=True),
        Shape("c", 1, 1536, 16, 3136, gate=True),
        Shape("a160", 160, 512, 16, 196, gate=True),
        Shape("a640", 640, 1024, 16, 196, gate=True),
        Shape("a640, invariant", 640, 1024, 16, 196, invariant=True),
        clip("b5", 1, 5, 256, 1),
        clip("b10", 2, 10, 512, 1),
        clip("b10, N16", 2, 10, 512, 16),
    )
}


def work(shape: Shape, dtype: torch.dtype, backward: bool) -> tuple[int, int]:
    """Bytes and exponentials of forward, or of forward and backward, which computes the latter again."""
    tokens = shape.batch * shape.length * shape.channels
    deltas = 0 if shape.invariant else shape.routes
    projections = 0 if shape.invariant else 2 * shape.batch * shape.routes * shape.length * shape.states
    count = (2 + deltas + shape.gate) * tokens + projections
    if backward:  # reads u, delta, z, dy, B, C; writes du, d_delta, dz, dB, dC
        count += (3 + 2 * deltas + 2 * shape.gate) * tokens + 2 * projections
    exps = 0 if shape.invariant else shape.routes * tokens * (shape.states + 2)
    return count * dtype.itemsize, exps * (2 if backward else 1)


class Inputs:
    """A shape's numbers, in this library's layout (tokens in order, channels last), and calls on them."""

    def __init__(self, shape: Shape, dtype: torch.dtype, device: torch.device) -> None:
        draw = torch.Generator(device).manual_seed(0)
        b, k, length, d, n = shape.batch, shape.routes, shape.length, shape.channels, shape.states
        walked = 1 if shape.invariant else length

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=draw, device=device).to(dtype)

        self.shape = shape
        self.u, self.delta = normal(b, length, d), normal(b, k, walked, d) * 0.5
        self.A = -torch.arange(1.0, n + 1, device=device).repeat(k, d, 1)
        self.B, self.C = normal(b, k, walked, n), normal(b, k, walked, n)
        self.D = torch.ones(k, d, device=device)
        self.z = normal(b, length, d) if shape.gate else None
        self.delta_bias = torch.full((k, d), -4.0, device=device)
        self.gradient = normal(b, length, d)
        self.table = route_table(EIGHT_ROUTES, shape.grids, device=device) if shape.frames else None

    def leaves(self) -> dict[str, Tensor]:
        """What gets a gradient, by name."""
        named = {name: getattr(self, name) for name in NAMES}
        return {name: value.detach().requires_grad_() for name, value in named.items() if value is not None}

    def ours(self, x: dict[str, Tensor], backend: str) -> Tensor:
        """(B, L, D) by one of our back ends."""
        options: dict[str, Any] = {"delta_softplus": True, "backend": backend}
        if self.table is not None:
            return route_scan(
                x["u"], x["delta"], x["A"], x["B"], x["C"], self.table, x["D"], x["delta_bias"], **options
            )
        views = {name: x[name][:, 0].transpose(1, 2) for name in ("delta", "B", "C")}
        gate = None if "z" not in x else x["z"].transpose(1, 2)
        out = selective_scan_fn(
            x["u"].transpose(1, 2), views["delta"], x["A"][0], views["B"], views["C"], x["D"][0], gate,
            x["delta_bias"][0], **options,
        )  # fmt: skip
        assert isinstance(out, Tensor)
        return out.transpose(1, 2)

    def for_mamba_ssm(self) -> list[Tensor | None]:
        """mamba_ssm's arguments, contiguous: routes are groups of channels, in walking order."""
        length, k = self.shape.length, self.shape.routes
        order = self.table.index if self.table is not None else torch.arange(length, device=self.u.device)[None]
        route = torch.arange(k, device=self.u.device)[:, None]

        def walked(value: Tensor) -> Tensor:  # (B, K, L or 1, X) -> (B, K, X, L)
            value = value.expand(-1, -1, length, -1)
            return value[:, route, order].transpose(2, 3).contiguous()

        z = None if self.z is None else self.z.transpose(1, 2).contiguous()
        u = self.u[:, order].transpose(2, 3).flatten(1, 2).contiguous()
        delta = walked(self.delta).flatten(1, 2)
        given = [u, delta, self.A.flatten(0, 1), walked(self.B), walked(self.C), self.D.flatten()]
        given += [z, self.delta_bias.flatten()]
        return [None if value is None else value.detach().requires_grad_() for value in given]


@dataclass
class Side:
    """One implementation: its name, its call, what gets a gradient, and the gradient from above."""

    name: str
    call: Callable[[], Tensor]
    inputs: list[Tensor]
    gradient: Tensor

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.call()

    def both(self) -> tuple[Tensor, ...]:
        return torch.autograd.grad(self.call(), self.inputs, self.gradient)


def our_side(inputs: Inputs, backend: str) -> Side:
    leaves = inputs.leaves()
    return Side(backend, lambda: inputs.ours(leaves, backend), list(leaves.values()), inputs.gradient)


def mamba_ssm_side(inputs: Inputs) -> Side:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn as theirs

    given = inputs.for_mamba_ssm()
    gradient = inputs.gradient.transpose(1, 2).repeat(1, inputs.shape.routes, 1)
    u, delta, A, B, C, D, z, bias = given
    call = lambda: theirs(u, delta, A, B, C, D, z, bias, True)  # noqa: E731
    return Side("mamba_ssm", call, [value for value in given if value is not None], gradient)


def first_call(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call that may have to compile."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def median_ms(run: Callable[[], object], device: torch.device, calls: int, budget: float) -> float:
    """Median milliseconds of up to `calls` calls within `budget` seconds, after one that is not counted."""
    first_call(run, device)
    taken, start = [], time.perf_counter()
    for _ in range(calls):
        if device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            run()
            end.record()
            end.synchronize()
            taken.append(begin.elapsed_time(end))
        else:
            taken.append(1e3 * first_call(run, device))
        if time.perf_counter() - start > budget:
            break
    return statistics.median(taken)


@dataclass(frozen=True)
class Rates:
    """What the device can do in a second; NaN where it does not say."""

    bytes: float
    exps: float


def device_rates(device: torch.device, elements: int = 1 << 28) -> Rates:
    """The bandwidth of a copy, measured; exponentials from the number of multiprocessors and their clock."""
    source = torch.zeros(elements, device=device)
    target = torch.empty_like(source)
    ms = median_ms(lambda: target.copy_(source), device, calls=20, budget=5.0)
    exps = math.nan
    if device.type == "cuda":
        facts = torch.cuda.get_device_properties(device)
        exps = EXPS_PER_CLOCK * facts.multi_processor_count * getattr(facts, "clock_rate", math.nan) * 1e3  # kHz
    return Rates(2 * source.nbytes / (1e-3 * ms), exps)


@dataclass(frozen=True)
class Row:
    """A line of the table; milliseconds but for `warm`, the seconds of the first call."""

    shape: str
    passes: str
    warm: float
    ours: float
    portable: float
    mamba_ssm: float
    floor_bytes: float
    floor_exps: float
    error: float

    def cells(self) -> list[str]:
        floor = max(value for value in (self.floor_bytes, self.floor_exps, 0.0) if not math.isnan(value))
        numbers = [self.ours, self.portable, self.mamba_ssm, self.portable / self.ours, self.mamba_ssm / self.ours]
        shown = ["-" if math.isnan(value) else f"{value:.4g}" for value in (*numbers, self.floor_bytes)]
        shown += ["-" if math.isnan(self.floor_exps) else f"{self.floor_exps:.4g}", f"{100 * floor / self.ours:.0f}%"]
        return [self.shape, self.passes, f"{self.warm:.1f}", *shown, f"{self.error:.1e}"]


HEAD = (
    "shape", "pass", "first call, s", "ours, ms", "portable, ms", "mamba_ssm, ms", "portable / ours",
    "mamba_ssm / ours", "floor of bytes, ms", "floor of exponentials, ms", "share of the larger floor",
    "off the portable in float32",
)  # fmt: skip


def measure(shape: Shape, dtype: torch.dtype, device: torch.device, backend: str, rates: Rates, args: Any) -> list[Row]:
    """Both passes of a shape."""
    inputs, rows = Inputs(shape, dtype, device), []
    mine, portable = our_side(inputs, backend), our_side(inputs, "portable")
    peer = mamba_ssm_side(inputs) if has_mamba_ssm() and device.type == "cuda" else None
    error = difference(shape, device, backend)
    for backward in (False, True):
        runs = {side.name: side.both if backward else side.forward for side in (mine, portable, peer) if side}
        warm = first_call(runs[backend], device)
        ms = {name: median_ms(run, device, args.calls, args.budget) for name, run in runs.items()}
        times = (ms.get("portable", math.nan), ms.get("mamba_ssm", math.nan))
        moved, exps = work(shape, dtype, backward)
        floors = (1e3 * moved / rates.bytes, 1e3 * exps / rates.exps)
        name = "forward + backward" if backward else "forward"
        rows.append(Row(describe(shape), name, warm, ms[backend], *times, *floors, error))
    return rows


def difference(shape: Shape, device: torch.device, backend: str) -> float:
    """‖ours - portable‖ / ‖portable‖ of the output in float32, at most two samples."""
    inputs = Inputs(replace(shape, batch=min(2, shape.batch)), torch.float32, device)
    with torch.no_grad():
        mine, other = inputs.ours(inputs.leaves(), backend), inputs.ours(inputs.leaves(), "portable")
    return (torch.linalg.vector_norm(mine - other) / torch.linalg.vector_norm(other)).item()


def describe(shape: Shape) -> str:
    routes = f" K{shape.routes}" if shape.frames else ""
    return f"{shape.name}: B{shape.batch}{routes} L{shape.length} D{shape.channels} N{shape.states}" + (
        " +z" if shape.gate else ""
    )


def has_mamba_ssm() -> bool:
    return importlib.util.find_spec("mamba_ssm") is not None


def results_file(device_name: str) -> Path:
    """Where a device's table goes."""
    return RESULTS / f"gpu_{re.sub(r'[^A-Za-z0-9]+', '-', device_name).strip('-').lower()}.md"


def report(device_name: str, rows: list[Row], rates: Rates, command: str, args: Any) -> str:
    """The page."""
    versions = []
    for package in ("torch", "triton", "mamba-ssm"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    tuned = "tuned for each shape before it was timed" if args.tune else "as planned, not tuned"
    lines = [
        f"# The scan on {device_name}",
        "",
        f"{date.today()}, {', '.join(versions)}, Python {platform.python_version()}.",
        f"Made by `{command}`.",
        f"{args.dtype} in and out, float32 inside; {tuned}. A copy moves {rates.bytes / 1e9:.0f} GB/s here;",
        f"exponentials: {rates.exps / 1e12:.2f} T/s, from the clock.",
        "A first call compiles what Triton has not in its cache.",
        "",
        "| " + " | ".join(HEAD) + " |",
        "|" + "---|" * len(HEAD),
        *("| " + " | ".join(row.cells()) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def tune_shape(shape: Shape, dtype: torch.dtype, device: torch.device) -> float:
    """Tunes both passes; seconds. The configurations stay in the user's cache folder."""
    os.environ["CROSSMAMBA_AUTOTUNE"] = "1"
    try:
        return first_call(our_side(Inputs(shape, dtype, device), "triton").both, device)
    finally:
        del os.environ["CROSSMAMBA_AUTOTUNE"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".md", delete=False, encoding="utf-8") as file:
        file.write(text)
    os.replace(file.name, path)


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--calls", type=int, default=50, help="timed calls of each side at most")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for each side, pass and shape")
    parser.add_argument("--tune", action="store_true", help="time a handful of configurations first, and keep the best")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/gpu_<device>.md")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU; writes nothing")
    args = parser.parse_args(arguments)
    device = torch.device("cpu" if args.dry_run else "cuda")
    backend = "portable" if args.dry_run else "triton"
    if not args.dry_run and not torch.cuda.is_available():
        raise UsageError("torch sees no GPU: --dry-run checks this script without one")
    reason = list_backends(device)[backend]
    if reason is not None:
        raise UsageError(f"the {backend} scan cannot run here: {reason}")
    name = "a dry run on a CPU: no number means anything" if args.dry_run else torch.cuda.get_device_name(device)
    rates = device_rates(device, 1 << 16 if args.dry_run else 1 << 28)
    rows: list[Row] = []
    for chosen in tqdm([SHAPES[key] for key in args.shapes], file=sys.stderr, disable=None):
        shape = chosen.tiny() if args.dry_run else chosen
        if args.tune and not args.dry_run:
            tqdm.write(f"{shape.name}: tuned in {tune_shape(shape, DTYPES[args.dtype], device):.0f} s", file=sys.stderr)
        rows += measure(shape, DTYPES[args.dtype], device, backend, rates, args)
    page = report(name, rows, rates, "python benchmarks/gpu_scan.py " + " ".join(arguments or sys.argv[1:]), args)
    if not args.dry_run:
        path = args.out or results_file(name)
        write(path, page)
        print(f"wrote {path}", file=sys.stderr)
    print(page)
    return page


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"gpu_scan: {error}")
