"""`crossmamba score epic100`: recognition and anticipation of EPIC-KITCHENS-100; writes submissions."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

ANNOTATIONS = "/data/EPIC/EPIC_100_validation.csv"
EXAMPLE = f"crossmamba score epic100 --task recognition --pred runs/a/validation.npz --annotations {ANNOTATIONS}"


def configure(tasks: Any) -> None:
    """Adds the sub-verb."""
    epic = tasks.add_parser(
        "epic100",
        help="verbs, nouns and actions of EPIC-KITCHENS-100: recognition or anticipation",
        description="Scores verbs, nouns and actions by narration id. Predictions: the challenge's .json or .zip,\n"
        ".npz, or the official code's .pt, with logits or log-probabilities; probabilities are refused, because\n"
        "a second softmax changes the order of actions. An action's score is log-softmax(verb) + log-softmax(noun).\n"
        "Recognition: accuracy at 1 and 5, tail, unseen. Anticipation: mean top-5 recall, three kinds by name.\n"
        "Class tables, tail classes and unseen participants are read from the annotations' folder where they are.\n"
        "Exit code 3 and no scores if a segment has no prediction or two, or one is of an unknown segment.",
        epilog=f"example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    epic.add_argument("--task", dest="measure", required=True, choices=("recognition", "anticipation"))
    epic.add_argument("--pred", required=True, metavar="FILE", help="predicted scores: .json, .zip, .npz or .pt")
    epic.add_argument("--annotations", required=True, metavar="CSV", help="such as EPIC_100_validation.csv")
    epic.add_argument(
        "--classes", metavar="DIR", help="folder of EPIC_100_verb_classes.csv and so on (default: the annotations')"
    )
    epic.add_argument(
        "--train", metavar="CSV", help="anticipation: EPIC_100_train.csv; adds mt5r_closed3806, whose pairs it names"
    )
    epic.add_argument("--submission", metavar="FILE", help="also write the challenge's file, .zip or .json")
    epic.add_argument(
        "--sls",
        nargs=3,
        type=int,
        metavar=("PT", "TL", "TD"),
        help="levels of supervision of the submission, 0 to 5: pre-training, training labels, training data",
    )
    epic.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """Scores, prints, and returns 3 if there was nothing to trust."""
    from pathlib import Path

    from crossmamba.data.epic.annotations import NOUN_COUNT, VERB_COUNT, read_rows
    from crossmamba.data.epic.classes import action_list, class_file, read_epic_classes
    from crossmamba.errors import UsageError
    from crossmamba.metrics.epic100_score import read_epic_predictions, score_epic

    folder = Path(args.classes or Path(args.annotations).parent)
    has_tables = class_file(folder, "verb_classes").is_file() or args.classes is not None
    classes = read_epic_classes(folder) if has_tables else None
    verbs, nouns = (VERB_COUNT, NOUN_COUNT) if classes is None else (len(classes.verbs), len(classes.nouns))
    rows = read_rows(args.annotations, verbs=verbs, nouns=nouns)
    if (args.submission is None) != (args.sls is None):
        raise UsageError("--submission and --sls belong together")
    if args.train is not None and args.measure != "anticipation":
        raise UsageError("--train is for anticipation")
    labelled = all(row.labelled for row in rows)
    if not labelled and args.submission is None:
        raise UsageError(
            f"{args.annotations}: labels of the test split are hidden: there is nothing to score; "
            "--submission FILE --sls PT TL TD writes the challenge's file"
        )
    predictions = read_epic_predictions(args.pred, verbs=verbs, nouns=nouns)
    if args.submission is not None and predictions.question_source == "oracle":
        raise UsageError(
            f"{args.pred}: oracle questions were made from the true labels; a submission would be told of the answers: "
            "no file was written"
        )
    if labelled:
        lists: dict[str, Any] = {}
        if classes is not None:
            lists = {"tail_verbs": classes.tail_verbs, "tail_nouns": classes.tail_nouns, "unseen": classes.unseen}
        if args.train is not None:
            train = read_rows(args.train, verbs=verbs, nouns=nouns)
            lists["closed"] = action_list([*train, *rows])
        report = score_epic(predictions, rows, args.measure, **lists)
        if args.json:
            print(json.dumps(report.to_json(), indent=1))
        else:
            print(report.text, file=sys.stdout if report.ok else sys.stderr)
        if not report.ok:
            return 3
    return _submit(args, predictions, [row.narration_id for row in rows]) if args.submission else 0


def _submit(args: argparse.Namespace, predictions: Any, names: list[str]) -> int:
    """Writes the submission; 3 if it lacks segments or has others."""
    from crossmamba.metrics.epic100_submission import write_submission

    given = list(predictions.narration_ids)
    if sorted(given) != sorted(names):
        missing, extra = sorted(set(names) - set(given)), sorted(set(given) - set(names))
        wrong = [*(f"no prediction for {name}" for name in missing), *(f"unknown narration {name}" for name in extra)]
        print(
            f"{args.pred}: {len(given)} predictions for {len(names)} segments: {'; '.join(wrong[:5])}; no submission "
            "was written",
            file=sys.stderr,
        )
        return 3
    write_submission(
        args.submission,
        given,
        predictions.verb,
        predictions.noun,
        challenge=f"action_{args.measure}",  # type: ignore[arg-type]  # one of the two by `choices`
        sls=tuple(args.sls),
        actions="product" if predictions.actions is None else predictions.actions,
    )
    print(f"{args.submission}: {len(given)} segments", file=sys.stderr)
    return 0
