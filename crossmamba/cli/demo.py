"""`crossmamba demo`: the whole path on a synthetic set, in minutes on a CPU."""

from __future__ import annotations

import argparse
from dataclasses import replace

HELP = "render a synthetic set, train, score, predict and report, in minutes on a CPU"
EXAMPLE = "crossmamba demo --out runs/demo"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("--out", default="runs/demo", help="folder (default runs/demo; if taken, runs/demo-2 ...)")
    parser.add_argument("--seed", type=int, default=0, help="of the set and the training (default 0)")
    parser.add_argument("--quick", action="store_true", help="a minute, only to see that everything works")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps (half as many for the control)")
    parser.add_argument("--clips", type=int, metavar="N", help="training clips")
    parser.add_argument("--no-predict", action="store_true", help="leave out the overlay video")


def run(args: argparse.Namespace) -> int:
    """Runs the demo."""
    from crossmamba.demo.avs import QUICK, DemoSettings, run_demo
    from crossmamba.errors import UsageError

    settings = replace(QUICK if args.quick else DemoSettings(), seed=args.seed)
    for name in ("steps", "clips"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name)}: at least 1 is needed")
    if args.steps:
        settings = replace(settings, steps=args.steps, silent_steps=args.steps)
    if args.clips:
        settings = replace(settings, clips=(args.clips, *settings.clips[1:]))
    run_demo(args.out, settings, predict=not args.no_predict)
    return 0
