"""`crossmamba eval`: scores a trained model, with its sound as it is and tampered with."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from crossmamba.errors import UsageError

HELP = "score a trained model on AVSBench, also with its sound silenced or swapped"
EXAMPLE = "crossmamba eval runs/ms3 --data.root /data/AVSBench --perturb none,silence,swap"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("model", metavar="RUN_OR_FOLDER", help="a run folder, or a folder of save_pretrained")
    parser.add_argument("--data.root", dest="root", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--subset", choices=("s4", "ms3"), help="default: what the model was trained on")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    parser.add_argument(
        "--perturb",
        default="none",
        metavar="NAMES",
        help="sounds to test with, by commas: none, silence, swap, noise, shift, gain",
    )
    parser.add_argument("--out", metavar="DIR", help="write the predicted masks there, under AVSBench's names")
    parser.add_argument("--soft", action="store_true", help="write probabilities (0..255), not masks (0 or 255)")
    parser.add_argument("--overwrite", action="store_true", help="let --out replace masks in an existing folder")
    parser.add_argument("--clips", type=int, metavar="N", help="only the first N clips")
    parser.add_argument("--clips-per-batch", type=int, default=1, metavar="N", help="of the official protocol (1)")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="does not change the scores")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON, as fractions of 1")


def run(args: argparse.Namespace) -> int:
    """Scores and prints."""
    from crossmamba.models import from_pretrained
    from crossmamba.predict import find_model, pick_device
    from crossmamba.tasks.evaluate import evaluate_avs, table

    out = Path(args.out) if args.out else None
    if out is not None and out.exists() and any(out.iterdir()) and not args.overwrite:
        raise UsageError(f"{out} is not empty; give another --out, or --overwrite")
    for name, value in (("--batch-size", args.batch_size), ("--clips-per-batch", args.clips_per_batch)):
        if value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    model = from_pretrained(find_model(args.model)).to(pick_device(args.device))
    subset = args.subset or model.card.get("metadata", {}).get("subset")
    if subset is None:
        raise UsageError(f"{args.model} does not say what it was trained on; give --subset s4 or ms3")
    results = evaluate_avs(
        model,
        args.root,
        subset,
        args.split,
        perturbations=[name for name in args.perturb.split(",") if name],
        batch_size=args.batch_size,
        num_workers=args.workers,
        clips=args.clips,
        clips_per_batch=args.clips_per_batch,
        out=out,
        soft=args.soft,
    )
    size = model.card["preprocessing"]["image_size"]
    if args.json:
        scores = {name: _without_nan(values) for name, values in results.items()}
        print(json.dumps({"model": args.model, "subset": subset, "split": args.split, "scores": scores}))
    else:
        data = f"AVSBench {subset.upper()} {args.split} at {size} x {size} pixels"
        print(table(results, model=model.registered_name, data=data, clips_per_batch=args.clips_per_batch))
    return 0


def _without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """NaN (no frame to take a mean over) is no JSON; null is."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}
