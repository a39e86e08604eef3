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
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass

HELP = "say what this machine has, and check that it works"
EXAMPLE = "crossmamba doctor --json"

EXTRAS = {
    "train": ("lightning", "jsonargparse", "tensorboard", "matplotlib"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
}
MIN_FREE_GIB = 2.0
MAX_SCAN_ERROR = 1e-5
"""Right back ends are off by some 1e-7, relative to the norm of what they compute; wrong ones by far more than this."""
FAST_SCAN = {
    "cpu": "pip install ./kernels (needs a C++ compiler; docs/INSTALL.md)",
    "cuda": "the triton that torch's own CUDA builds bring (docs/INSTALL.md)",
}


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
    """Which back end of the selective scan `backend="auto"` takes on each device; whether each computes what the
    equations say, and why those that do not run do not. An instruction set is a back end that must be named."""
    import torch

    from crossmamba.ops import list_backends

    for device in ("cpu", *["cuda"] * torch.cuda.is_available()):
        yield auto_backend(device)
        suffix = "" if device == "cpu" else f" on {device}"
        for name, problem in list_backends(device).items():
            if problem is not None:
                yield Finding(f"scan: {name}{suffix}", "note", f"does not run here: {problem}")
                continue
            error = scan_error(name, device)
            level = "ok" if error <= MAX_SCAN_ERROR else "bad"
            text = f"relative error {error:.1e} against the float64 reference"
            yield Finding(f"scan: {name}{suffix}", level, text)


def auto_backend(device: str) -> Finding:
    """What "auto" takes on a device for float32, and what to do if that is a slow one."""
    import torch

    from crossmamba.ops import SlowBackendError, SlowBackendWarning, resolve_backend

    asked = os.environ.get("CROSSMAMBA_BACKEND")
    why = f", named by CROSSMAMBA_BACKEND={asked}" if asked not in (None, "auto") else ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", SlowBackendWarning)
        try:
            chosen = resolve_backend("auto", torch.device(device), torch.float32)
        except (SlowBackendError, ValueError) as problem:
            return Finding(f"scan on {device}", "bad", str(problem))
    slow = chosen in ("portable", "reference")
    how = "; a fast one: " + FAST_SCAN[device] if slow and said else ""
    return Finding(f"scan on {device}", "note" if slow else "ok", f'backend="auto" takes {chosen}{why}{how}')


def scan_error(backend: str, device: str = "cpu") -> float:
    """Largest relative error of a back end's outputs, states and gradients on small scans."""
    from crossmamba.ops.selfcheck import backend_error

    return backend_error(backend, device)


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
