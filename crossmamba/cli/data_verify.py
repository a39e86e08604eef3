"""`crossmamba data verify`: checks a data set's files."""

from __future__ import annotations

import argparse
import json
from typing import Any

from crossmamba.cli.data_synth import AVSBENCH

QUESTIONS = ("music-avqa", "avqa")
KITCHENS = ("epic100",)

HELP = "check a data set's files; exit code 3 when anything is wrong"
DESCRIPTION = (
    "Checks counts, splits, missing and unreadable files, shapes, palettes; for question sets also ids, templates,\n"
    "answers, feature shapes, T, NaN, and the videos that splits share; for epic100 times, classes, the frame rule,\n"
    "missing and corrupt pictures or videos, segments past the end of their video. Names each bad file or row.\n"
    "Exit code 0: all is well. 3: something is wrong."
)
EXAMPLE = (
    "crossmamba data verify avsbench-ms3 /data/AVSBench --json\n"
    "  crossmamba data verify music-avqa /data/MUSIC-AVQA --features vggish clip_tokens\n"
    "  crossmamba data verify epic100 /data/EPIC-KITCHENS --layout frames"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("dataset", choices=(*AVSBENCH, *QUESTIONS, *KITCHENS))
    parser.add_argument(
        "root",
        metavar="ROOT",
        help="folder that holds Single-source/ or Multi-sources/, or that folder; for question sets the folder that "
        "holds the annotations, the feature folders and videos/; for epic100 the folder of EPIC_100_validation.csv",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    questions = parser.add_argument_group("question sets")
    questions.add_argument(
        "--features", nargs="+", metavar="NAME", help="kinds that must be there (default: check those that are)"
    )
    questions.add_argument(
        "--version",
        choices=("json_update", "json", "v2", "r"),
        default="json_update",
        help="of MUSIC-AVQA's annotations (default json_update)",
    )
    parser.add_argument(
        "--decode", action="store_true", help="question sets and epic100: decode everything, not only open it"
    )
    kitchens = parser.add_argument_group("epic100")
    kitchens.add_argument("--media", metavar="DIR", help="folder of the pictures (default: ROOT)")
    kitchens.add_argument(
        "--layout",
        choices=("auto", "frames", "videos", "chunks", "clips", "features", "none"),
        default="auto",
        help="of the pictures: extracted frames (folders or tars), whole videos, parts of 15 s, one clip a segment, "
        "stored features; none checks annotations only",
    )


def run(args: argparse.Namespace) -> int:
    """Checks, prints, and returns 3 if anything is wrong."""
    from crossmamba.errors import UsageError

    report: Any
    if args.dataset not in KITCHENS and (args.media is not None or args.layout != "auto"):
        raise UsageError(f"--media and --layout are for epic100, not for {args.dataset}")
    if args.dataset not in QUESTIONS and args.features:
        raise UsageError(f"--features is for {', '.join(QUESTIONS)}, not for {args.dataset}")
    if args.dataset in QUESTIONS:
        from crossmamba.data.qa.verify import verify_questions

        report = verify_questions(
            args.root, args.dataset, version=args.version, features=args.features, decode=args.decode
        )
    elif args.dataset in KITCHENS:
        from crossmamba.data.epic.verify import verify_epic100

        report = verify_epic100(args.root, media=args.media, layout=args.layout, decode=args.decode)
    else:
        from crossmamba.data.avsbench.verify import verify_avsbench

        if args.decode:
            raise UsageError(f"--decode is not for {args.dataset}, whose files are always read whole")
        report = verify_avsbench(args.root, args.dataset)
    print(json.dumps(report.to_json()) if args.json else report.text)
    return 0 if report.ok else 3
