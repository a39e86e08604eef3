"""`crossmamba data verify`: checks a data set's files."""

from __future__ import annotations

import argparse
import json

from crossmamba.cli.data_synth import AVSBENCH

HELP = "check a data set's files; exit code 3 when anything is wrong"
DESCRIPTION = (
    "Checks counts, splits, missing and unreadable files, shapes, palettes; names each bad file.\n"
    "Exit code 0: all is well. 3: something is wrong."
)
EXAMPLE = "crossmamba data verify avsbench-ms3 /data/AVSBench --json"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("dataset", choices=AVSBENCH)
    parser.add_argument(
        "root", metavar="ROOT", help="folder that holds Single-source/ or Multi-sources/, or that folder"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Checks, prints, and returns 3 if anything is wrong."""
    from crossmamba.data.verify import verify_avsbench

    report = verify_avsbench(args.root, args.dataset)
    print(json.dumps(report.to_json()) if args.json else report.text)
    return 0 if report.ok else 3
