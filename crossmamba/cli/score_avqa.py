"""`crossmamba score avqa`: judges predicted answers. `... score identify`: which test file a published row fits."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

EXAMPLE = "crossmamba score avqa --pred runs/a/test.json --annotations /data/MUSIC-AVQA/json_update/avqa-test.json"
IDENTIFY = 'crossmamba score identify "81.61 62.79 74.67 78.86 79.67 79.27 82.49 65.33 74.94 61.31 68.13 70.62 73.63"'


def configure(tasks: Any) -> None:
    """Adds the two sub-verbs."""
    avqa = tasks.add_parser(
        "avqa",
        help="answers about music videos: the 13 columns of MUSIC-AVQA",
        description="Scores answers by question id. Predictions: .json {id: answer} or a list, or .jsonl with lines\n"
        '{"question_id": 7, "answer": "yes"}. A, V, AV and All are micro averages; - is a column without questions.\n'
        "Where two rows of the annotations share an id (27 of `json` val, 55 of its test, with contradictory\n"
        "answers), the one prediction counts for each, as officially; --duplicates drop leaves such rows out.\n"
        "MUSIC-AVQA-R gives lines for all, head and tail; several rephrasings with one id are <id>#<n>, n from 1.\n"
        "Rows without an id (v2.0) are written row:<n>.\n"
        "Exit code 3 and no scores if an answer is missing, doubled, impossible, or to an unknown question.",
        epilog=f"example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    avqa.add_argument("--pred", required=True, metavar="FILE", help="predicted answers, .json or .jsonl")
    avqa.add_argument("--annotations", required=True, metavar="FILE", help="annotation file of the split")
    avqa.add_argument("--set", choices=("music-avqa", "avqa"), default="music-avqa", help="avqa: 4 choices, 0 to 3")
    avqa.add_argument(
        "--version", choices=("json_update", "json", "v2", "r"), help="of MUSIC-AVQA's file (default: by its folder)"
    )
    avqa.add_argument(
        "--duplicates", choices=("auto", "keep", "drop", "error"), default="auto", help="rows that share an id"
    )
    avqa.add_argument("--json", action="store_true", help="print everything as JSON")
    identify = tasks.add_parser(
        "identify",
        help="which MUSIC-AVQA test file a published row of accuracies was measured on",
        description="A percentage of n questions is k/n with a whole k: 13 columns tell the test files apart.\n"
        "Order: A-Cnt A-Cmp A V-Cnt V-Loc V Exist Loc Cnt Cmp Temp AV All; - for what is not known. Loc and Cnt may\n"
        "be exchanged. Exit code 3 if no file, or more than one, explains the row.",
        epilog=f"example:\n  {IDENTIFY}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    identify.add_argument("row", nargs="+", metavar="PERCENT", help="13 values, together in quotes or one by one")
    identify.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs the chosen sub-verb; 3 if there was nothing to trust."""
    return _identify(args) if args.task == "identify" else _score(args)


def _identify(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from crossmamba.metrics.avqa_split import identify_split

    guess = identify_split(" ".join(args.row))
    print(json.dumps(asdict(guess)) if args.json else guess.text)
    return 0 if guess.name is not None else 3


def _score(args: argparse.Namespace) -> int:
    from crossmamba.metrics.avqa_score import read_predictions, score_answers

    truth, answers, types = _avqa_truth(args) if args.set == "avqa" else _music_truth(args)
    report = score_answers(read_predictions(args.pred), truth, answers, types)
    if args.json:
        print(json.dumps(report.to_json(), indent=1))
    else:
        print(report.text, file=sys.stdout if report.ok else sys.stderr)
    return 0 if report.ok else 3


def _music_truth(args: argparse.Namespace) -> tuple[list, tuple[str, ...], None]:
    from pathlib import Path

    from crossmamba.data.qa.annotations import read_questions
    from crossmamba.data.qa.keys import head_or_tail, row_keys
    from crossmamba.data.qa.templates import ANSWERS
    from crossmamba.errors import UsageError
    from crossmamba.metrics.avqa_score import Truth

    path = Path(args.annotations)
    if path.suffix != ".json":
        raise UsageError(f"--annotations {path}: name the file of the split, such as json_update/avqa-test.json")
    version = args.version
    if version is None:
        version = "r" if path.name.endswith(("-headtail.json", "-head.json", "-tail.json")) else "json_update"
        if path.parent.name in ("json", "v2"):
            version = path.parent.name
    file = read_questions(path, version=version, duplicates=args.duplicates)
    keys, groups = row_keys(file), head_or_tail(file)
    truth = [
        Truth(key, row.type_index, row.answer, group=group)
        for key, row, group in zip(keys, file.rows, groups, strict=True)
    ]
    return truth, ANSWERS, None


def _avqa_truth(args: argparse.Namespace) -> tuple[list, tuple[str, ...], tuple[str, ...]]:
    from crossmamba.data.qa.avqa_rows import read_choices
    from crossmamba.metrics.avqa import AVQA_TYPES
    from crossmamba.metrics.avqa_score import Truth

    numbers = ("0", "1", "2", "3")
    rows = read_choices(args.annotations)
    return [Truth(str(row.question_id), row.type_index, str(row.answer)) for row in rows], numbers, AVQA_TYPES
