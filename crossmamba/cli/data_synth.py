"""`crossmamba data synth`: renders a synthetic data set."""

from __future__ import annotations

import argparse
import json
import os

AVSBENCH = ("avsbench-ms3", "avsbench-s4")

HELP = "render the synthetic world to files in AVSBench's layout"
DESCRIPTION = (
    "Renders the synthetic world to files (PNG, wav, csv, optionally mp4) in AVSBench's layout.\n"
    "The same seed gives the same bytes for csv, masks and wav."
)
EXAMPLE = "crossmamba data synth avsbench-ms3 data/synthetic --clips 1000,100,300 --seed 0"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("dataset", choices=AVSBENCH)
    parser.add_argument("out", metavar="OUT", help="folder to make; must be new or empty unless --overwrite")
    parser.add_argument(
        "--clips",
        type=_clips,
        default={"train": 1000, "val": 100, "test": 300},
        metavar="N",
        help="TRAIN,VAL,TEST, or one number for train (and 15 %% of it each for val and test); default 1000,100,300",
    )
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="side of the frames (default 64)")
    parser.add_argument("--seconds", type=int, help="length of a clip (default: 5, as AVSBench; 10 in the hard world)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--world", choices=("default", "bursts", "hard"), default="default", help="how hard it is to tell who sounds"
    )
    parser.add_argument(
        "--mp4",
        type=_videos,
        default="all",
        metavar="all|none|N",
        help="videos of all clips (default), of none, or of the first N of each split; they take as long as the rest",
    )
    parser.add_argument("--log-mel", action="store_true", help="also write audio_log_mel, as AVSBench publishes it")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT's data set if there is one")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _clips(text: str) -> dict[str, int] | int:
    """`"1000,100,300"` to clips per split, `"1000"` to a number."""
    numbers = text.split(",")
    if len(numbers) not in (1, 3) or not all(number.strip().isdigit() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give N or TRAIN,VAL,TEST, for example 1000,100,300")
    if len(numbers) == 1:
        return int(text)
    return dict(zip(("train", "val", "test"), map(int, numbers), strict=True))


def _videos(text: str) -> str | int:
    """`"all"`, `"none"` or a number."""
    if not (text in ("all", "none") or text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: give all, none or a number of clips per split")
    return text if text in ("all", "none") else int(text)


def run(args: argparse.Namespace) -> int:
    """Renders the set."""
    from crossmamba.data.synth import synthesize

    root = synthesize(
        args.dataset,
        args.out,
        clips=args.clips,
        size=args.size,
        seconds=args.seconds,
        seed=args.seed,
        world=args.world,
        mp4=args.mp4,
        log_mel=args.log_mel,
        workers=args.workers,
        progress=not args.json,
        overwrite=args.overwrite,
    )
    made = {"root": str(root), "dataset": args.dataset, "clips": args.clips, "seed": args.seed, "world": args.world}
    if args.json:
        print(json.dumps(made))
    else:
        print(f"{root}: {args.dataset}, {args.world} world, seed {args.seed}")
        print(f"next: crossmamba data verify {args.dataset} {args.out}")
    return 0
