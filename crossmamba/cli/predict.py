"""`crossmamba predict`: what a model says about a video: masks of what sounds, answers to questions, actions."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmamba.cli.outputs import check_folder
from crossmamba.cli.predict_action import OPTIONS, configure_actions
from crossmamba.errors import UsageError

HELP = "mark what is sounding in a video, answer questions about it, or name the actions in it"
EXAMPLE = """crossmamba predict clip.mp4 --model runs/demo --out out/clip
  crossmamba predict clip.mp4 --model runs/demo_avqa --out out/answers \\
      --question "How many instruments are sounding in the video?" --question "Where is the loudest instrument?"
  crossmamba predict kitchen.mp4 --task action --at 12.5 --weights runs/demo_action
  crossmamba predict kitchen.mp4 --model runs/demo_action --anticipation runs/demo_action/ahead --out out"""
OUTPUTS = ("masks", "probabilities", "overlay.mp4", "answer_*.png", "actions.mp4", "timeline.png", "clip.png")
OUTPUTS += ("stream.jsonl", "result.json")
TASKS = ("avs", "avqa", "action")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument(
        "video",
        metavar="VIDEO",
        help="a video file of any length, size and aspect, with sound unless its actions are asked for",
    )
    parser.add_argument(
        "--model", metavar="RUN_OR_FOLDER", help="a run folder or a model folder (default: the newest run under ./runs)"
    )
    parser.add_argument(
        "--task", choices=TASKS, help="masks of what sounds, answers, or actions (default: what the model is for)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for the results; made if it is not there. Without it "
        "actions are only printed; masks and answers need it",
    )
    parser.add_argument("--allow-silence", action="store_true", help="treat a video without sound as silent")
    parser.add_argument(
        "--no-overlay", action="store_true", help="write result.json without videos and pictures to look at"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run in DIR")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps or auto (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print result.json to standard output")
    masks = parser.add_argument_group("for a model that marks what sounds")
    masks.add_argument("--probabilities", action="store_true", help="also write the probabilities as 8-bit PNG")
    masks.add_argument(
        "--threshold", type=float, help="probability above which a pixel is marked (default: the model's)"
    )
    answers = parser.add_argument_group("for a model that answers questions")
    answers.add_argument(
        "--question", metavar="TEXT", action="append", help="give it more than once for more questions"
    )
    answers.add_argument(
        "--choice",
        metavar="TEXT",
        action="append",
        help="a possible answer, for a model that chooses (AVQA: give four)",
    )
    configure_actions(parser)
    parser.add_argument("--top", type=int, metavar="N", help="so many answers, verbs, nouns, actions are told (5)")
    parser.add_argument(
        "--weights",
        metavar="NAME=PATH",
        action="append",
        help="weights of a feature encoder, where the model folder does not hold them: vggish=vggish-10086976.pth, "
        "avion_b=avion.pt, tokenizer=FOLDER. A folder alone is the same as --model",
    )


def run(args: argparse.Namespace) -> int:
    """Judges the video; returns the exit code."""
    from crossmamba.cli.predict_avqa import parse_weights
    from crossmamba.predict import check_video, find_model, load_pipeline
    from crossmamba.predict.common import card_of, task_of

    folder = Path(args.out) if args.out else None
    if folder is not None:
        check_folder(folder, args.overwrite)
    named, pairs = split_weights(args.model, args.weights)
    weights = parse_weights(pairs)
    source = find_model(named) if named else newest_run(Path("runs"), args.task)
    task = task_of(card_of(source))
    if args.task not in (None, task):
        raise UsageError(f"{source} is a model for {task}, not for {args.task}; name another by --model")
    check_options(args, task)
    silence = args.allow_silence or task == "action"
    check_video(args.video, allow_silence=silence)  # a bad file should not wait for a large model to load
    pipeline = load_pipeline(source, device=args.device, threshold=args.threshold, weights=weights)
    result, summary = _judge(args, pipeline, folder)
    if pipeline.knows_only_synthetic:
        print(
            "crossmamba: warning: this model was trained on the synthetic world and knows nothing of the real one.",
            file=sys.stderr,
        )
    for warning in result["warnings"]:
        print(f"crossmamba: warning: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    print(summary)
    if folder is not None:
        print("Open:")
        for path in sorted(path for name in OUTPUTS for path in folder.glob(name)):
            print(f"  {path}")
    return 0


def _judge(args: argparse.Namespace, pipeline: Any, folder: Path | None) -> tuple[dict[str, Any], str]:
    """The content of result.json, and lines that sum it up."""
    from crossmamba.cli.predict_action import predict_actions
    from crossmamba.cli.predict_avqa import predict_answers
    from crossmamba.cli.predict_avs import predict_masks

    if pipeline.task == "action":
        return predict_actions(args, pipeline, folder)
    assert folder is not None  # `check_options`
    return (predict_answers if pipeline.task == "avqa" else predict_masks)(args, pipeline, folder)


def split_weights(model: str | None, weights: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """The model's folder, which `--weights FOLDER` names too, and the NAME=PATH pairs.

    Raises:
        UsageError: two folders.
    """
    pairs = [text for text in weights or () if "=" in text]
    folders = [text for text in weights or () if "=" not in text]
    if len(folders) + (model is not None) > 1:
        raise UsageError(
            f"--weights {folders[-1]}: the model is named already; for an encoder give NAME=PATH, for example "
            "vggish=vggish-10086976.pth"
        )
    return (folders[0] if folders else model), pairs


def check_options(args: argparse.Namespace, task: str) -> None:
    """Raises UsageError for options that a model of this task does not have, or lacks."""
    others = ("question", "choice", "threshold", "probabilities") if task == "action" else OPTIONS
    for name in others:
        if getattr(args, name) is not None and getattr(args, name) is not False:
            option = "--" + name.replace("_", "-")
            raise UsageError(
                f"{option} is not for models of actions" + ("; see --verb-question" if name == "question" else "")
                if task == "action"
                else f"{option} is for models of actions, and this model is for {task}"
            )
    if task != "action" and not args.out:
        raise UsageError("--out DIR is needed: a folder for the results")


def newest_run(runs: Path, task: str | None = None) -> Path:
    """The model folder of the newest run (a folder with model/config.json) under `runs`, of a task if one is named.

    Raises:
        UsageError: there is none.
    """
    from crossmamba.predict.common import card_of, task_of

    found = sorted(runs.glob("*/model/config.json"), key=os.path.getmtime)
    if task is not None:
        found = [path for path in found if task_of(card_of(path.parent)) == task]
    if not found:
        raise UsageError(
            f"No --model was given and there is no run {f'for {task} ' if task else ''}under {runs}/. `crossmamba demo"
            f"{f' {task}' if task in ('avqa', 'action') else ''}` makes one in some minutes; "
            "or give --model RUN_OR_FOLDER."
        )
    print(f"crossmamba: using the newest run, {found[-1].parent.parent}", file=sys.stderr)
    return found[-1].parent
