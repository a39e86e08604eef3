"""`crossmamba predict`: what the model of a run says about a video: masks of what sounds, or answers to questions."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from crossmamba.cli.outputs import check_folder
from crossmamba.errors import UsageError

HELP = "mark what is sounding in a video, or answer questions about it"
EXAMPLE = """crossmamba predict clip.mp4 --model runs/demo --out out/clip
  crossmamba predict clip.mp4 --model runs/demo_avqa --out out/answers \\
      --question "How many instruments are sounding in the video?" --question "Where is the loudest instrument?\""""
OUTPUTS = ("masks", "probabilities", "overlay.mp4", "answer_*.png", "result.json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("video", metavar="VIDEO", help="a video file with sound, of any length, size and aspect")
    parser.add_argument(
        "--model", metavar="RUN_OR_FOLDER", help="a run folder or a model folder (default: the newest run under ./runs)"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the results; made if it is not there")
    parser.add_argument("--allow-silence", action="store_true", help="treat a video without sound as silent")
    parser.add_argument("--no-overlay", action="store_true", help="write no overlay.mp4, no pictures of answers")
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
    answers.add_argument("--top", type=int, metavar="N", help="so many answers are told (default 5)")
    answers.add_argument(
        "--weights",
        metavar="NAME=PATH",
        action="append",
        help="weights of a feature encoder, where the model folder does not hold them: vggish=vggish-10086976.pth",
    )


def run(args: argparse.Namespace) -> int:
    """Judges the video; returns the exit code."""
    from crossmamba.cli.predict_avqa import parse_weights, predict_answers
    from crossmamba.cli.predict_avs import predict_masks
    from crossmamba.predict import check_video, find_model, load_pipeline

    folder = Path(args.out)
    check_folder(folder, args.overwrite)
    weights = parse_weights(args.weights)
    source = find_model(args.model) if args.model else newest_run(Path("runs"))
    check_video(args.video, allow_silence=args.allow_silence)  # a bad file should not wait for a large model to load
    pipeline = load_pipeline(source, device=args.device, threshold=args.threshold, weights=weights)
    judge = predict_answers if pipeline.task == "avqa" else predict_masks
    result, summary = judge(args, pipeline, folder)
    if pipeline.knows_only_synthetic:
        print(
            "crossmamba: warning: this model was trained on the synthetic world and knows nothing of the real one.",
            file=sys.stderr,
        )
    for warning in result["warnings"]:
        print(f"crossmamba: warning: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{summary} Open:" if judge is predict_masks else f"{summary}\nOpen:")
        for path in sorted(path for name in OUTPUTS for path in folder.glob(name)):
            print(f"  {path}")
    return 0


def newest_run(runs: Path) -> Path:
    """The model folder of the newest run (a folder with model/config.json) under `runs`.

    Raises:
        UsageError: there is none.
    """
    found = sorted(runs.glob("*/model/config.json"), key=os.path.getmtime)
    if not found:
        raise UsageError(
            f"No --model was given and there is no run under {runs}/. `crossmamba demo` makes one in some minutes; "
            "or give --model RUN_OR_FOLDER."
        )
    print(f"crossmamba: using the newest run, {found[-1].parent.parent}", file=sys.stderr)
    return found[-1].parent
