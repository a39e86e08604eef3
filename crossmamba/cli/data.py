"""`crossmamba data synth|verify`: make a synthetic data set, or check one on disk."""

from __future__ import annotations

import argparse
import json
import os
import sys

from crossmamba.errors import UsageError

HELP = "make a synthetic data set, or check a data set on disk"
EXAMPLE = """crossmamba data synth avsbench-ms3 data/synthetic --clips 1000,100,300 --size 64 --seed 0
  crossmamba data verify avsbench-ms3 data/synthetic"""

SUBSETS = {"avsbench-s4": "s4", "avsbench-ms3": "ms3"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the two actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="synth|verify")
    _configure_synth(
        actions.add_parser(
            "synth",
            help="render the synthetic world to files in AVSBench's layout",
            description="Renders the synthetic world to files (PNG, wav, csv, optionally mp4) in AVSBench's layout.\n"
            "The same seed gives the same bytes for csv, masks and wav.",
            epilog="example:\n  crossmamba data synth avsbench-ms3 data/synthetic --clips 1000,100,300 --seed 0",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    _configure_verify(
        actions.add_parser(
            "verify",
            help="check a data set's files; exit code 3 when anything is wrong",
            description="Checks counts, splits, missing and unreadable files, shapes, palettes; names each bad file.\n"
            "Exit code 0: all is well. 3: something is wrong.",
            epilog="example:\n  crossmamba data verify avsbench-ms3 /data/AVSBench --json",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )


def _configure_synth(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=sorted(SUBSETS))
    parser.add_argument("out", metavar="OUT", help="folder to make; must be new or empty unless --overwrite")
    parser.add_argument(
        "--clips",
        type=_clips,
        default=_clips("1000,100,300"),
        metavar="N",
        help="TRAIN,VAL,TEST, or one number for train (then a tenth of it each for val and test); default 1000,100,300",
    )
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="side of the frames (default 64)")
    parser.add_argument("--seconds", type=int, default=5, help="length of a clip (default 5, as AVSBench)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--world", choices=("default", "hard"), default="default", help="how hard it is to tell who sounds"
    )
    parser.add_argument(
        "--mp4", type=int, default=0, metavar="N", help="also write the first N clips of each split as mp4"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT's data set if there is one")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _configure_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", choices=sorted(SUBSETS))
    parser.add_argument(
        "root", metavar="ROOT", help="folder that holds Single-source/ or Multi-sources/, or that folder"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _clips(text: str) -> dict[str, int]:
    """`"1000,100,300"` or `"1000"` to clips per split.

    Raises:
        argparse.ArgumentTypeError: not one or three whole numbers, or none at all.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and numbers[0] > 0:
        numbers = [numbers[0], max(1, numbers[0] // 10), max(1, numbers[0] // 10)]
    if len(numbers) != 3 or min(numbers) < 0 or not sum(numbers):
        raise argparse.ArgumentTypeError(f"{text!r}: give N or TRAIN,VAL,TEST, for example 1000,100,300")
    return dict(zip(("train", "val", "test"), numbers, strict=True))


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    return {"synth": _synth, "verify": _verify}[args.action](args)


def _synth(args: argparse.Namespace) -> int:
    from crossmamba.data.synth import synthesize

    if args.size < 16 or args.seconds < 1:
        raise UsageError(f"--size {args.size} --seconds {args.seconds}: at least 16 pixels and 1 second are needed")
    root = synthesize(
        SUBSETS[args.dataset],
        args.out,
        clips=args.clips,
        size=args.size,
        seconds=args.seconds,
        seed=args.seed,
        world=args.world,
        mp4=args.mp4,
        workers=args.workers,
        progress=sys.stderr.isatty() and not args.json,
        overwrite=args.overwrite,
    )
    if args.json:
        print(json.dumps({"root": str(root), "dataset": args.dataset, "clips": args.clips, "seed": args.seed}))
    else:
        counts = ", ".join(f"{number} {split}" for split, number in args.clips.items())
        print(f"{root}: {counts} clips ({args.dataset}, seed {args.seed}, {args.world} world)")
        print(f"next: crossmamba data verify {args.dataset} {args.out}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from crossmamba.data.verify import verify_avsbench

    report = verify_avsbench(args.root, SUBSETS[args.dataset])
    print(json.dumps(report.to_json()) if args.json else report.text)
    return 0 if report.ok else 3
