"""`crossmamba doctor`: is this machine ready, and what will run on it?

Levels of a finding: `ok`; `note` (works, but you may want to know); `bad` (something needed does not work).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

HELP = "say what this machine has, and check that it works"
EXAMPLE = "crossmamba doctor --json"

EXTRAS = {"train": ("lightning", "jsonargparse", "tensorboard", "matplotlib")}
MIN_FREE_GIB = 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    level: str
    text: str


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the findings; 1 when one of them is bad."""
    findings = [finding for check in CHECKS for finding in check()]
    bad = [finding for finding in findings if finding.level == "bad"]
    if args.json:
        print(json.dumps({"ok": not bad, "findings": [asdict(finding) for finding in findings]}))
        return 1 if bad else 0
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.level:4s}  {finding.name:{width}s}  {finding.text}")
    print(f"\n{len(bad)} problem(s)" if bad else "\nReady.")
    return 1 if bad else 0


def python_and_system() -> Iterator[Finding]:
    """Interpreter, system and processors."""
    from crossmamba import __version__

    yield Finding("crossmamba", "ok", __version__)
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable}), {platform.platform()}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", "ok", str(cores))
    free = shutil.disk_usage(os.getcwd()).free / 2**30
    level = "ok" if free >= MIN_FREE_GIB else "bad"
    yield Finding("disk", level, f"{free:.1f} GiB free in {os.getcwd()} (the demo needs about {MIN_FREE_GIB:.0f})")


def torch_and_devices() -> Iterator[Finding]:
    """torch, its threads, and each accelerator it can use."""
    import torch

    yield Finding("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(f"cuda:{index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU")
    elif not torch.cuda.is_available():
        yield Finding("accelerator", "note", "none: everything runs on the CPU; full-size training needs a GPU")


def media() -> Iterator[Finding]:
    """The media library and the codecs that overlays and synthetic videos are written with."""
    import av

    codecs = [name for name in ("libx264", "aac") if name not in av.codec.codecs_available]
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    if codecs:
        yield Finding(
            "media", "bad", f"PyAV {av.__version__} has no {' or '.join(codecs)}: mp4 files cannot be written"
        )
    else:
        yield Finding("media", "ok", f"PyAV {av.__version__}, libavcodec {ffmpeg}, writes H.264 and AAC")


def scan_backends() -> Iterator[Finding]:
    """Runs every back end of the selective scan that is present and compares it with the float64 reference."""
    from crossmamba.ops import list_backends

    for name, problem in list_backends().items():
        if problem is not None:
            yield Finding(f"scan: {name}", "note", f"not on this machine: {problem}")
            continue
        error = scan_error(name)
        level = "ok" if error < 1e-4 else "bad"
        yield Finding(f"scan: {name}", level, f"relative error {error:.1e} against the float64 reference")


def scan_error(backend: str) -> float:
    """Largest error of one back end's output and gradient of u, relative to the reference's largest value."""
    import torch

    from crossmamba.ops import selective_scan_fn, selective_scan_ref

    draw = torch.Generator().manual_seed(0)
    shapes = {"u": (2, 4, 33), "delta": (2, 4, 33), "A": (4, 3), "B": (2, 3, 33), "C": (2, 3, 33)}
    inputs = {name: torch.randn(shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}
    inputs["A"] = -inputs["A"].exp()

    def outcome(scan, dtype: torch.dtype, **options) -> torch.Tensor:
        values = {name: value.to(dtype) for name, value in inputs.items()}
        values["u"].requires_grad_()
        y = scan(**values, delta_softplus=True, **options)
        (gradient,) = torch.autograd.grad(y.square().sum(), values["u"])
        return torch.cat([y.detach().flatten(), gradient.flatten()]).double()

    truth = outcome(selective_scan_ref, torch.float64)
    return float((outcome(selective_scan_fn, torch.float32, backend=backend) - truth).abs().max() / truth.abs().max())


def extras() -> Iterator[Finding]:
    """Optional parts: installed or not, and how to get them."""
    for extra, modules in EXTRAS.items():
        absent = [name for name in modules if importlib.util.find_spec(name) is None]
        if absent:
            yield Finding(f"[{extra}]", "note", f"missing {', '.join(absent)}; pip install 'crossmamba[{extra}]'")
        else:
            yield Finding(
                f"[{extra}]", "ok", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in modules)
            )


CHECKS = (python_and_system, torch_and_devices, media, scan_backends, extras)
