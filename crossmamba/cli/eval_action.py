"""`crossmamba eval` of a model of actions: its part of the arguments, and what runs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from crossmamba.errors import UsageError

OPTIONS = (
    "question_source",
    "question_files",
    "epic_task",
    "media",
    "layout",
    "views",
    "crops",
    "segments",
    "tokenizer",
    "submission",
    "sls",
)
"""Arguments that other tasks do not have."""


def configure(group: argparse._ArgumentGroup) -> None:
    """Adds the arguments."""
    group.add_argument(
        "--question-source",
        choices=("none", "generic", "predicted", "oracle"),
        help="what the model is asked (default: as in training); stated in every report",
    )
    group.add_argument(
        "--question-files",
        metavar="DIR",
        help="DIR/SOURCE/{train,validation,test}.jsonl of `questions make` (default: ROOT/questions)",
    )
    group.add_argument(
        "--task",
        dest="epic_task",
        choices=("recognition", "anticipation"),
        help="what is seen and how it is scored (default: as in training)",
    )
    group.add_argument("--media", metavar="DIR", help="where pictures or stored tokens are (default: ROOT)")
    group.add_argument("--layout", choices=("auto", "frames", "videos", "chunks", "clips"), help="default: auto")
    group.add_argument("--views", type=int, metavar="N", help="views in time of dense clips, averaged (1)")
    group.add_argument(
        "--crops", type=int, choices=(1, 3), help="squares along the longer side of the picture, averaged (1)"
    )
    group.add_argument("--segments", type=int, metavar="N", help="only the first N segments")
    group.add_argument("--tokenizer", metavar="NAME", help="RoBERTa's, a folder or a name (default: as in training)")
    group.add_argument("--submission", metavar="FILE", help="also write the challenge's file, .zip or .json")
    group.add_argument(
        "--sls", nargs=3, type=int, metavar=("PT", "TL", "TD"), help="levels of supervision of the submission, 0 to 5"
    )


def run(args: argparse.Namespace, model: Any, out: Path | None) -> int:
    """Scores, prints, and writes predictions and submission."""
    from crossmamba.tasks.evaluate_action import evaluate_action
    from crossmamba.tasks.evaluate_action_text import table, to_json

    if (args.submission is None) != (args.sls is None):
        raise UsageError("--submission and --sls belong together")
    if args.submission is not None and out is None:
        raise UsageError("--submission is made of the predictions: give --out too")
    report = evaluate_action(
        model,
        args.root,
        args.split,
        perturbations=None if args.perturb is None else [name for name in args.perturb.split(",") if name],
        question_source=args.question_source,
        questions=args.question_files,
        task=args.epic_task,
        media=args.media,
        layout=args.layout or "auto",
        views=1 if args.views is None else args.views,
        crops=args.crops or 1,
        segments=args.segments,
        tokenizer=args.tokenizer,
        batch_size=args.batch_size or 16,
        num_workers=args.workers,
        out=out,
    )
    name = model.registered_name
    if args.json:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        about = {"model": args.model, "name": name, "parameters": parameters, "split": report.split}
        print(json.dumps({**about, **to_json(report)}))
    else:
        facts = model.card.get("metadata", {})
        data = f"EPIC-KITCHENS-100 (trained on {facts.get('trained_on', 'unknown')})"
        print(table(report, model=name, data=data))
    if args.submission is not None and out is not None:
        _submit(args, model, report, out)
    return 0


def _submit(args: argparse.Namespace, model: Any, report: Any, out: Path) -> None:
    from crossmamba.metrics.epic100_score import read_epic_predictions
    from crossmamba.metrics.epic100_submission import write_submission

    if report.question_source == "oracle":
        raise UsageError("a submission with oracle questions would be told of the answers: no file was written")
    verbs, nouns = model.verb_head.out_features, model.noun_head.out_features
    held = read_epic_predictions(out / f"{report.split}.npz", verbs=verbs, nouns=nouns)
    write_submission(
        args.submission,
        list(held.narration_ids),
        held.verb,
        held.noun,
        challenge=f"action_{report.task}",  # type: ignore[arg-type]  # one of the two
        sls=tuple(args.sls),
        actions="product" if held.actions is None else held.actions,
    )
    print(f"{args.submission}: {len(held.narration_ids)} segments", file=sys.stderr)
