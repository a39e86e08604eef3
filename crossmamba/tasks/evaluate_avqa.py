"""Scores a trained question-answering model, with its inputs as they are and with a modality taken away."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import Metric
from tqdm import tqdm

from crossmamba.data.qa.templates import ANSWERS
from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.avqa import AccuracyTable, format_table
from crossmamba.tasks.avqa import answer_questions, check_sample, move
from crossmamba.tasks.avqa_data import INPUTS, metric_of, open_set, words_of
from crossmamba.tasks.avqa_questions import VideoCache, VideoQuestions, check_perturbation, collate_questions
from crossmamba.tasks.evaluate import unwrapped_errors
from crossmamba.tasks.run_folder import write_text_atomically


def evaluate_avqa(
    model: nn.Module,
    root: str | Path,
    split: str = "test",
    *,
    perturbations: Sequence[str] = ("none",),
    name: str | None = None,
    preprocessing: dict[str, Any] | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Scores `model` on every question of a split, once per perturbation. A question that cannot be read is an error.

    Args:
        model: an `AVQAModel`; runs on the device of its parameters.
        root, split: of the data set.
        perturbations: see `avqa_questions.PERTURBATIONS`; "none" is the input as it is.
        name: "music-avqa" or "avqa"; by default what the card says.
        preprocessing: `audio`, `visual`, `question`, `frames`, `image_size`; by default the card's.
        batch_size, num_workers: of the loader; the scores do not depend on them.
        out: folder for the answers by question id as JSON, which `crossmamba score avqa` reads: `OUT/<split>.json`,
            with several perturbations `OUT/<perturbation>/<split>.json`.
        seed: of the swaps.
        progress: show a bar on stderr.
        options: further ones of the data set: version, subset, by_video, questions; by default the card's.

    Returns:
        Per perturbation: `accuracy` (fractions of 1, NaN where a column has no question), `correct` and `total` by
        column, `seconds_per_question` of the model alone, and where "none" is among them `lost`: what the perturbation
        costs in each column.

    Raises:
        UsageError: no card, an unknown name, or features that do not fit the model. DataError: a file is missing or
            unreadable, or a question has no answer or (with `out`) no id.
    """
    card = getattr(model, "card", None) or {}
    facts = card.get("metadata", {})
    preprocessing = preprocessing or card.get("preprocessing")
    if not preprocessing:
        raise UsageError("the model has no card with its preprocessing; give preprocessing={'audio': ..., ...}")
    for perturbation in perturbations:
        check_perturbation(perturbation)
    inputs = {key: preprocessing[key] for key in INPUTS if key in preprocessing}
    variant = {key: facts[key] for key in ("version", "subset", "by_video") if key in facts}
    name = name or facts.get("data_set", "music-avqa")
    dataset = open_set(name, root, split, **inputs, **{**variant, **words_of(name, preprocessing), **options})
    cache = VideoCache() if len(perturbations) > 1 else None
    if cache is not None:
        cache.fill(dataset, progress=progress)
    results: dict[str, dict[str, Any]] = {}
    for perturbation in perturbations:
        questions = VideoQuestions(dataset, perturbation=perturbation, cache=cache, seed=seed)
        check_sample(model, questions[0])
        loader = DataLoader(questions, batch_size=batch_size, num_workers=num_workers, collate_fn=collate_questions)
        bar = tqdm(loader, desc=f"input: {perturbation}", unit="batch", file=sys.stderr, disable=not progress)
        predicted, results[perturbation] = _score(model, unwrapped_errors(bar), metric_of(name))
        if out is not None:
            folder = Path(out) / (perturbation if len(perturbations) > 1 else "")
            write_predictions(folder / f"{split}.json", questions.rows, predicted, answer_words(name))
    if "none" in results:
        whole = results["none"]["accuracy"]
        for scores in results.values():
            scores["lost"] = {column: whole[column] - value for column, value in scores["accuracy"].items()}
    return results


def _score(model: nn.Module, batches: Any, metric: Metric) -> tuple[list[int], dict[str, Any]]:
    """(answers in the loader's order, scores), in eval mode whatever mode the model is in."""
    device = next(model.parameters()).device
    predicted: list[int] = []
    seconds, training = 0.0, model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                batch = move(batch, device)
                started = time.perf_counter()
                chosen: Tensor = answer_questions(model, batch).logits.argmax(dim=1)
                predicted += chosen.tolist()
                seconds += time.perf_counter() - started
                metric.update(chosen, batch["answer"], batch["kind"], index=batch["index"])
    finally:
        model.train(training)
    counted = metric.table()
    return predicted, {
        "accuracy": {column: percent / 100 for column, percent in counted.percent.items()},
        "correct": dict(zip(counted.columns, counted.correct, strict=True)),
        "total": dict(zip(counted.columns, counted.total, strict=True)),
        "seconds_per_question": seconds / len(predicted),
    }


def answer_words(name: str) -> tuple[str, ...] | None:
    """The words of answer numbers in a predictions file; None where the number itself is the answer."""
    return ANSWERS if name == "music-avqa" else None


def write_predictions(
    path: Path, rows: Sequence[Any], predicted: Sequence[int], words: Sequence[str] | None = ANSWERS
) -> None:
    """Writes `{question_id: answer}`, whole or not at all. `words`: of the answers' numbers; None writes the numbers.

    Raises:
        DataError: a question has no id, or two have the same one.
    """
    answers: dict[str, str | int] = {}
    for row, number in zip(rows, predicted, strict=True):
        key = str(row.question_id)
        if row.question_id is None or key in answers:
            what = "has no id" if row.question_id is None else f"has the id {key} of an earlier one"
            raise DataError(f"row {row.row} {what}: predictions go by question id; leave out --out, or use json_update")
        answers[key] = number if words is None else words[number]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(answers, indent=0, ensure_ascii=False) + "\n")


def table(results: dict[str, dict[str, Any]], *, model: str, data: str) -> str:
    """The scores as text, per cent: one line per perturbation."""
    first = next(iter(results.values()))
    lines = {
        name: AccuracyTable(tuple(r["total"]), tuple(r["correct"].values()), tuple(r["total"].values()))
        for name, r in results.items()
    }
    return "\n".join(
        [
            f"{model} on {data}: {first['total']['All']} questions",
            "per cent of the questions; A, V, AV and All are micro averages",
            format_table(lines),
        ]
    )
