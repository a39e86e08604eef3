"""`crossmamba demo`: the whole path on a synthetic set, in minutes on a CPU."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from crossmamba.errors import UsageError

HELP = "render a synthetic set, train, score, predict and report, in minutes on a CPU"
EXAMPLE = """crossmamba demo --out runs/demo
  crossmamba demo avqa --out runs/demo_avqa
  crossmamba demo action --out runs/demo_action"""
FOLDERS = {"avs": "runs/demo", "avqa": "runs/demo_avqa", "action": "runs/demo_action"}
OF_TASK = {"avs": ("steps", "clips"), "avqa": ("epochs", "videos", "models"), "action": ("epochs", "videos")}
"""Options that not all demos have."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument(
        "task",
        nargs="?",
        choices=tuple(FOLDERS),
        default="avs",
        help="avs: segmentation (default); avqa: questions; action: actions in a kitchen",
    )
    parser.add_argument(
        "--out", help="folder (default runs/demo, runs/demo_avqa or runs/demo_action; if taken, with -2, -3 ... behind)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the set and the training (default 0)")
    parser.add_argument("--quick", action="store_true", help="a minute, only to see that everything works")
    parser.add_argument("--no-predict", action="store_true", help="leave out the prediction on a test video")
    masks = parser.add_argument_group("segmentation")
    masks.add_argument("--steps", type=int, metavar="N", help="training steps, also of the control without sound")
    masks.add_argument("--clips", type=int, metavar="N", help="training clips")
    questions = parser.add_argument_group("question answering, actions")
    questions.add_argument("--epochs", type=int, metavar="N", help="passes of the models through the training set")
    questions.add_argument("--videos", type=int, metavar="N", help="training videos")
    questions.add_argument(
        "--models",
        nargs="+",
        choices=("av_mamba", "shmamba", "avst"),
        help="of question answering: which are trained",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the demo."""
    for name in ("steps", "clips", "epochs", "videos"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(f"--{name} {getattr(args, name)}: at least 1 is needed")
    for other in OF_TASK.keys() - {args.task}:
        for name in OF_TASK[other]:
            if getattr(args, name) is not None and name not in OF_TASK[args.task]:
                raise UsageError(f"--{name} is for `crossmamba demo {other}`, not for `crossmamba demo {args.task}`")
    run_task: Any = {"avs": _avs, "avqa": _avqa, "action": _action}[args.task]
    run_task(args, args.out or FOLDERS[args.task])
    return 0


def _avs(args: argparse.Namespace, out: str) -> None:
    from crossmamba.demo.avs import QUICK, DemoSettings, run_demo

    settings = replace(QUICK if args.quick else DemoSettings(), seed=args.seed)
    if args.steps:
        settings = replace(settings, steps=args.steps, silent_steps=args.steps)
    if args.clips:
        settings = replace(settings, clips=(args.clips, *settings.clips[1:]))
    run_demo(out, settings, predict=not args.no_predict)


def _as_asked(args: argparse.Namespace, settings: Any) -> Any:
    """Settings with the seed, the epochs and the training videos that were asked for."""
    settings = replace(settings, seed=args.seed)
    if args.epochs:
        settings = replace(settings, epochs=args.epochs)
    if args.videos:
        settings = replace(settings, videos=(args.videos, *settings.videos[1:]))
    return settings


def _avqa(args: argparse.Namespace, out: str) -> None:
    from crossmamba.demo.avqa import QUICK, AVQADemoSettings, run_avqa_demo

    settings = _as_asked(args, QUICK if args.quick else AVQADemoSettings())
    if args.models:
        settings = replace(settings, models=tuple(dict.fromkeys(args.models)))
    run_avqa_demo(out, settings, predict=not args.no_predict)


def _action(args: argparse.Namespace, out: str) -> None:
    from crossmamba.demo.action import QUICK, ActionDemoSettings, run_action_demo

    settings = _as_asked(args, QUICK if args.quick else ActionDemoSettings())
    run_action_demo(out, settings, predict=not args.no_predict)
