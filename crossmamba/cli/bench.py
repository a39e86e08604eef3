"""`crossmamba bench scan`: how fast the selective scan is on this machine, against every peer that is installed."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from crossmamba.errors import UsageError

HELP = "time the selective scan on this machine, against what else is installed"
EXAMPLE = """crossmamba bench scan --quick
  crossmamba bench scan --shapes d a --pairs 3 --out scan.md scan.json"""

SHAPES = ("d", "a", "b1", "b16", "c")
PARTS = ("peers", "backends", "limits", "routes", "time-invariant", "memory", "errors", "threads", "step")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds what can be timed."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="scan")
    scan = actions.add_parser(
        "scan",
        help="the selective scan: time, memory, errors, and the machine's limits",
        description="Times the selective scan against every peer that is installed, in interleaved pairs, and each of\n"
        "our back ends; measures memory, errors, threads and the share of the machine's limits.\n"
        "Prints one row as soon as it is measured. The whole takes about 15 minutes on two cores, --quick\n"
        "about two. Peers are imported if installed, never copied: mamba_ssm, mambapy, transformers, torch.\n"
        "Other work on the machine shows in the times: see the load average that is printed.",
        epilog=f"example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scan.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        default=[],
        metavar="NAME",
        help="d (language, D1536 L2048), a (AV-Mamba tier 2), b1 and b16 (AVS-Mamba, eight routes), c (L3136); "
        "default: all, with --quick d and a",
    )
    scan.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    scan.add_argument("--quick", action="store_true", help="fewer pairs, shapes and peers' backward passes")
    scan.add_argument("--pairs", type=_positive, metavar="N", help="pairs of calls per row (default 5, with --quick 2)")
    scan.add_argument(
        "--backends",
        nargs="+",
        default=[],
        metavar="NAME",
        help="ours to time, the first against the peers (default: all that run here; crossmamba doctor lists them)",
    )
    scan.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=MODULE:FUNCTION",
        help="one more peer, from an importable module or a .py file: mamba_ssm's arguments (z may be missing), or "
        "mamba-minimal's method; for example VMamba=VMamba/classification/models/csms6s.py:selective_scan_torch",
    )
    scan.add_argument("--out", nargs="+", type=Path, default=[], metavar="FILE", help="also write FILE.md or FILE.json")
    scan.add_argument("--json", action="store_true", help="print as JSON, at the end")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of pairs, at least 1")
    return int(text)


def command_of(args: argparse.Namespace) -> str:
    """The command line that these options come from."""
    words = ["crossmamba", "bench", args.action]
    for name in ("shapes", "parts", "backends", "out"):
        values = [str(value) for value in getattr(args, name)]
        if values and values != list(PARTS):
            words += [f"--{name}", *values]
    words += [word for peer in args.peer for word in ("--peer", peer)]
    words += ["--pairs", str(args.pairs)] if args.pairs else []
    return shlex.join(words + [f"--{name}" for name in ("quick", "json") if getattr(args, name)])


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 0 whatever the goals say."""
    from crossmamba.benchmarking.scan import Options
    from crossmamba.benchmarking.scan import run as measure

    for path in args.out:
        if path.suffix not in (".md", ".json"):
            raise UsageError(f"--out {path}: give a file that ends in .md or .json")
        if not path.parent.is_dir():
            raise UsageError(f"--out {path}: there is no folder {path.parent}")
    pairs = args.pairs or (2 if args.quick else 5)
    options = Options(args.shapes, args.parts, args.backends, args.peer, pairs, args.quick)
    show = (lambda text: None) if args.json else (lambda text: print(text, flush=True))
    report = measure(options, command_of(args), args.out, show)
    print(json.dumps(report.to_json(), indent=1) if args.json else f"\n{report.verdict()}")
    return 0
