"""`crossmamba data verify`: checks a data set's files."""

from __future__ import annotations

import argparse
import json
from typing import Any

from crossmamba.cli.data_synth import AVSBENCH

QUESTIONS = ("music-avqa", "avqa")

HELP = "check a data set's files; exit code 3 when anything is wrong"
DESCRIPTION = (
    "Checks counts, splits, missing and unreadable files, shapes, palettes; for question sets also ids, templates,\n"
    "answers, feature shapes, T, NaN, and the videos that splits share. Names each bad file or row.\n"
    "Exit code 0: all is well. 3: something is wrong."
)
EXAMPLE = (
    "crossmamba data verify avsbench-ms3 /data/AVSBench --json\n"
    "  crossmamba data verify music-avqa /data/MUSIC-AVQA --features vggish clip_tokens"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("dataset", choices=(*AVSBENCH, *QUESTIONS))
    parser.add_argument(
        "root",
        metavar="ROOT",
        help="folder that holds Single-source/ or Multi-sources/, or that folder; for question sets the folder that "
        "holds the annotations, the feature folders and videos/",
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
    questions.add_argument("--decode", action="store_true", help="decode raw videos to the end, not only open them")


def run(args: argparse.Namespace) -> int:
    """Checks, prints, and returns 3 if anything is wrong."""
    report: Any
    if args.dataset in QUESTIONS:
        from crossmamba.data.qa.verify import verify_questions

        report = verify_questions(
            args.root, args.dataset, version=args.version, features=args.features, decode=args.decode
        )
    else:
        from crossmamba.data.verify import verify_avsbench
        from crossmamba.errors import UsageError

        if args.features or args.decode:
            raise UsageError(f"--features and --decode are for {', '.join(QUESTIONS)}, not for {args.dataset}")
        report = verify_avsbench(args.root, args.dataset)
    print(json.dumps(report.to_json()) if args.json else report.text)
    return 0 if report.ok else 3
