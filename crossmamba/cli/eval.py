"""`crossmamba eval`: scores a trained model, with its inputs as they are and tampered with."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from crossmamba.cli import eval_action
from crossmamba.errors import UsageError

HELP = "score a trained model on AVSBench, MUSIC-AVQA, AVQA or EPIC-KITCHENS-100, also with a modality tampered with"
EXAMPLE = """crossmamba eval runs/ms3 --data.root /data/AVSBench --perturb none,silence,swap
  crossmamba eval runs/av_mamba --data.root /data/music-avqa --perturb none,silence,blank --out answers
  crossmamba eval runs/mambavl --data.root /data/EPIC-KITCHENS --question-source generic --out predictions"""
OF_TASK = {
    "avs": ("subset", "soft", "clips", "clips_per_batch"),
    "avqa": ("version", "questions"),
    "action": eval_action.OPTIONS,
}
"""Arguments that only one task has."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument("model", metavar="RUN_OR_FOLDER", help="a run folder, or a folder of save_pretrained")
    parser.add_argument("--data.root", dest="root", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--split",
        choices=("train", "val", "test"),
        help="default: test; val for AVQA, which has no test split, and for actions, whose test labels are hidden",
    )
    parser.add_argument(
        "--perturb",
        metavar="NAMES",
        help="inputs to test with, by commas. Segmentation: none, silence, swap, noise, shift, gain (default: none). "
        "Questions: none, silence, blank (no picture), question_only, swap, swap_picture (default: as in training). "
        "Actions: none, question_only, video_only (default: none; where questions are read, question_only too)",
    )
    parser.add_argument("--out", metavar="DIR", help="write the predicted masks, answers or actions there")
    parser.add_argument("--overwrite", action="store_true", help="let --out replace files in an existing folder")
    parser.add_argument("--batch-size", type=int, metavar="N", help="does not change the scores (default: 4, 64 or 16)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON, as fractions of 1")
    masks = parser.add_argument_group("segmentation")
    masks.add_argument("--subset", choices=("s4", "ms3"), help="default: what the model was trained on")
    masks.add_argument("--soft", action="store_true", default=None, help="write probabilities, not masks")
    masks.add_argument("--clips", type=int, metavar="N", help="only the first N clips")
    masks.add_argument("--clips-per-batch", type=int, metavar="N", help="of the official protocol (1)")
    questions = parser.add_argument_group("question answering")
    questions.add_argument(
        "--version", choices=("json_update", "json", "v2", "r"), help="of the annotations (default: as in training)"
    )
    questions.add_argument("--questions", type=int, metavar="N", help="only the first N questions")
    eval_action.configure(parser.add_argument_group("actions"))


def run(args: argparse.Namespace) -> int:
    """Scores and prints."""
    from crossmamba.models import from_pretrained
    from crossmamba.predict import find_model, pick_device, task_of

    out = Path(args.out) if args.out else None
    if out is not None and out.exists() and any(out.iterdir()) and not args.overwrite:
        raise UsageError(f"{out} is not empty; give another --out, or --overwrite")
    for name, value in (("--batch-size", args.batch_size), ("--clips-per-batch", args.clips_per_batch)):
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    model = from_pretrained(find_model(args.model)).to(pick_device(args.device))
    task = task_of(model.card)
    no_test = model.card.get("metadata", {}).get("data_set") in ("avqa", "epic100")
    args.split = args.split or ("val" if no_test else "test")
    if task not in OF_TASK:
        raise UsageError(f"{args.model} is a model for the task {task!r}; eval knows {', '.join(OF_TASK)}")
    for other in OF_TASK.keys() - {task}:
        for name in OF_TASK[other]:
            if getattr(args, name) is not None:
                raise UsageError(f"--{name.replace('_', '-')} is for {other} models; {args.model} is for {task}")
    return {"avs": _run_avs, "avqa": _run_avqa, "action": eval_action.run}[task](args, model, out)


def _perturbations(args: argparse.Namespace, default: str) -> list[str]:
    return [name for name in (args.perturb or default).split(",") if name]


def _run_avs(args: argparse.Namespace, model: Any, out: Path | None) -> int:
    from crossmamba.tasks.evaluate import evaluate_avs, table

    subset = args.subset or model.card.get("metadata", {}).get("subset")
    if subset is None:
        raise UsageError(f"{args.model} does not say what it was trained on; give --subset s4 or ms3")
    clips_per_batch = args.clips_per_batch or 1
    results = evaluate_avs(
        model,
        args.root,
        subset,
        args.split,
        perturbations=_perturbations(args, "none"),
        batch_size=args.batch_size or 4,
        num_workers=args.workers,
        clips=args.clips,
        clips_per_batch=clips_per_batch,
        out=out,
        soft=bool(args.soft),
    )
    size = model.card["preprocessing"]["image_size"]
    if args.json:
        _print_json(args, {"subset": subset}, results)
    else:
        data = f"AVSBench {subset.upper()} {args.split} at {size} x {size} pixels"
        print(table(results, model=model.registered_name, data=data, clips_per_batch=clips_per_batch))
    return 0


def _run_avqa(args: argparse.Namespace, model: Any, out: Path | None) -> int:
    from crossmamba.tasks.evaluate_avqa import evaluate_avqa, table

    facts = model.card.get("metadata", {})
    results = evaluate_avqa(
        model,
        args.root,
        args.split,
        perturbations=_perturbations(args, facts.get("perturbation", "none")),
        batch_size=args.batch_size or 64,
        num_workers=args.workers,
        out=out,
        **{name: getattr(args, name) for name in OF_TASK["avqa"] if getattr(args, name) is not None},
    )
    if args.json:
        parameters = sum(parameter.numel() for parameter in model.parameters())
        _print_json(args, {"name": model.registered_name, "parameters": parameters}, results)
    else:
        data = f"{facts.get('data_set', 'music-avqa')} {args.split} (trained on {facts.get('trained_on', 'unknown')})"
        print(table(results, model=model.registered_name, data=data))
    return 0


def _print_json(args: argparse.Namespace, facts: dict[str, Any], results: dict[str, Any]) -> None:
    print(json.dumps({"model": args.model, **facts, "split": args.split, "scores": without_nan(results)}))


def without_nan(value: Any) -> Any:
    """NaN (nothing to take a mean over) is no JSON; null is."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
