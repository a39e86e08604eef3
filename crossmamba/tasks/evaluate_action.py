"""Scores a trained model of actions, with what its questions alone give away beside it.

Every report says where the questions came from. Beside a model that reads questions there are always: the same model
with the video dropped, a linear model of the words alone (a probe without any video, learned from the train questions),
and the train split's class frequencies. Scores with oracle questions come with a warning beside any others.
"""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from crossmamba.data.epic.annotations import EpicRow
from crossmamba.data.epic.classes import EpicClasses, read_epic_classes
from crossmamba.data.epic.crops import ClipTransform
from crossmamba.data.epic.dataset import split_file
from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.epic100 import (
    ActionScores,
    EpicScores,
    action_scores_of_head,
    anticipation_scores,
    mean_of_views,
    recognition_scores,
)
from crossmamba.metrics.epic100_score import write_epic_predictions
from crossmamba.models.mambavl_actions import known_actions
from crossmamba.questions.probe import guess_from_words
from crossmamba.questions.records import check_source, read_questions
from crossmamba.questions.tokens import WordTokenizer
from crossmamba.tasks.action import check_sample, recognize
from crossmamba.tasks.action_data import (
    CLIPS,
    NOTHING,
    full_name,
    open_segments,
    question_tokens,
    rows_of,
    tokenizer_of,
)
from crossmamba.tasks.avqa import move
from crossmamba.tasks.evaluate import unwrapped_errors
from crossmamba.tasks.run_folder import write_text_atomically

PERTURBATIONS = ("none", "question_only", "video_only")
"""The inputs as they are, without the video, without the questions."""
Scores = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class ActionReport:
    """What `evaluate_action` found; its text is `evaluate_action_text.table`.

    Attributes:
        task: "recognition" or "anticipation". split, segments: what was scored.
        question_source: of this evaluation. trained_source: in training.
        scores: by perturbation: `accuracy` (fractions by column; None where there is no segment), `detail` (all of the
            metrics, per cent), `question_source`, `seconds_per_clip`. Empty where the labels are hidden.
        prior: columns of the train split's class frequencies as scores; {} without its file. probe: top-1 of the words
            alone, by "verb", "noun", "action"; {} without questions. probe_note: why there is none.
        views, crops: clips in time and squares of each that were averaged.
        actions: train pairs that the model's head over actions scores; 0: an action is the product of verb and noun.
    """

    task: str
    split: str
    segments: int
    question_source: str
    trained_source: str
    scores: Scores
    prior: dict[str, float | None]
    probe: dict[str, float]
    probe_note: str = ""
    views: int = 1
    crops: int = 1
    actions: int = 0


def evaluate_action(
    model: nn.Module,
    root: str | Path,
    split: str = "validation",
    *,
    perturbations: Sequence[str] | None = None,
    question_source: str | None = None,
    questions: str | Path | None = None,
    task: str | None = None,
    media: str | Path | None = None,
    layout: str = "auto",
    views: int = 1,
    crops: int = 1,
    segments: int | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> ActionReport:
    """Scores `model` on every segment of a split. A segment that cannot be read is an error.

    Args:
        model: a `MambaVL`; runs on the device of its parameters.
        root, split: of the data set; "val" is "validation". Of a split without labels only predictions are made, which
            needs `out`; of a synthetic set's test split the labels are known.
        perturbations: of `PERTURBATIONS`, the first is the model's own; where questions are read, "question_only" is
            always among them. Default: "none".
        question_source: "none", "generic", "predicted", "oracle"; default: what the model was chosen with.
        questions: folder of the question files, default ROOT/questions.
        task: default: the model's.
        media: where pictures or stored tokens are, default ROOT. layout: of the pictures.
        views: clips in time, spread over the segment (recognition with the dense mode). crops: squares along the longer
            side of the picture, 1 (the middle) or 3. All views x crops of a segment are averaged as probabilities.
            ORViT has 10 x 3 for recognition, MambaVL on it 1 x 3 for anticipation, AVION 1 x 1.
        segments: only the first so many.
        preprocessing: what the card says by default. tokenizer: of RoBERTa, a folder or a name.
        batch_size, num_workers: of the loader; the scores do not depend on them.
        out: folder for `OUT/<split>.npz`, which `crossmamba score epic100` reads, and `OUT/<split>.csv` with the best
            classes; of the further perturbations in `OUT/<perturbation>/`.
        progress: show a bar on stderr.

    Raises:
        UsageError: no card, or inputs that do not fit the model. DataError: files or rows are missing or wrong.
    """
    card = getattr(model, "card", None) or {}
    facts, inputs = card.get("metadata", {}), preprocessing or card.get("preprocessing")
    if not inputs:
        raise UsageError("the model has no card with its preprocessing; give preprocessing={'video': ..., ...}")
    trained = facts.get("question_source", "none")
    source = check_source(question_source or facts.get("select_question_source", trained))
    task, split = task or facts.get("epic_task", "recognition"), full_name(split)
    classes = read_epic_classes(root)
    _check_classes(inputs, classes)
    rows = rows_of(root, split, classes)[:segments]
    folder = Path(questions) if questions is not None else Path(root) / "questions"
    tokens = None
    if source != "none":
        words = _tokenizer(inputs, classes, tokenizer)
        tokens = question_tokens(rows, source, folder, split, words)
    dataset = open_segments(
        root,
        split,
        rows,
        tokens,
        task=task,
        video=inputs["video"],
        media=media,
        train=False,
        views=views,
        crops=crops,
        layout=layout,
        transform=clip_transform(inputs) if inputs["video"] == CLIPS else None,
        **{name: inputs[name] for name in ("frames", "mode", "observed")},
    )
    check_sample(model, dataset[0])
    chosen = _chosen(perturbations, source, inputs["video"])
    labelled = all(row.labelled for row in rows)
    if not labelled and out is None:
        raise UsageError(f"the labels of {split} are hidden: there is nothing to score; give --out for predictions")
    known = labelled and split_file(root, "train").is_file()
    train = rows_of(root, "train", classes) if known else []  # a wrong row is told before the work, not after it
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers)
    bar = tqdm(loader, desc=f"{split}: {task}", unit="batch", file=sys.stderr, disable=not progress)
    pairs = known_actions(model)
    found = _predict(model, unwrapped_errors(bar), chosen, len(pairs))
    lists = {"tail_verbs": classes.tail_verbs, "tail_nouns": classes.tail_nouns, "unseen": classes.unseen}
    if lists["tail_verbs"] is None or lists["tail_nouns"] is None:
        lists |= {"tail_verbs": None, "tail_nouns": None}
    scores: Scores = {}
    for place, name in enumerate(chosen):
        *logits, seconds = found[name]
        verb, noun, *joint = (mean_of_views(x, views * crops) if views * crops > 1 else x for x in logits)
        actions = action_scores_of_head(joint[0], pairs, verb, noun) if joint else None
        asked = "none" if name == "video_only" else source
        if out is not None:
            write_predictions(Path(out) / (name if place else ""), split, rows, (verb, noun), classes, asked, actions)
        if labelled:
            judged = judge(task, verb, noun, rows, {**lists, "actions": actions})
            scores[name] = {
                "accuracy": columns(judged),
                "detail": judged.to_json(),
                "question_source": asked,
                "seconds_per_clip": seconds / len(rows),
            }
    prior, probe, note = {}, {}, ""
    if labelled and not known:
        note = f"no class prior and no probe of the words: {split_file(root, 'train')} is not there"
    elif labelled:
        prior = columns(judge(task, *_prior(train, rows, classes), rows, lists))
        probe, note = _probe(source, folder, split, train, rows)
    return ActionReport(task, split, len(rows), source, trained, scores, prior, probe, note, views, crops, len(pairs))


def clip_transform(inputs: Mapping[str, Any]) -> ClipTransform:
    """What a model's clips go through in evaluation, from its card's preprocessing."""
    return ClipTransform(inputs["image_size"], mean=tuple(inputs["mean"]), std=tuple(inputs["std"]))


def _tokenizer(inputs: Mapping[str, Any], classes: EpicClasses, source: str | None) -> Any:
    if inputs.get("text") is None:
        raise UsageError("the model was trained without questions; give --question-source none")
    made = tokenizer_of(
        inputs["text"], classes, *([source or inputs["tokenizer"]] if inputs["text"] != "words" else [])
    )
    if isinstance(made, WordTokenizer) and list(made.words) != list(inputs["vocabulary"]):
        raise DataError("the class tables have other words than those that the model learned")
    return made


def _check_classes(inputs: Mapping[str, Any], classes: EpicClasses) -> None:
    for name, table in (("verbs", classes.verbs), ("nouns", classes.nouns)):
        if list(table.keys) != list(inputs[name]):
            raise DataError(
                f"the data set's {name} are not those that the model learned: {len(table)} and {len(inputs[name])}, "
                f"such as {next(iter(set(table.keys) ^ set(inputs[name])), 'others in another order')}"
            )


def _chosen(given: Sequence[str] | None, source: str, video: str) -> list[str]:
    """The perturbations, with the one that must not be left out."""
    if unknown := [name for name in given or () if name not in PERTURBATIONS]:
        raise UsageError(f"there is no input {unknown[0]!r} for actions; there are {', '.join(PERTURBATIONS)}")
    chosen = list(dict.fromkeys(given or ("none",)))
    if source == "none" and (wrong := [name for name in chosen if name != "none"]):
        raise UsageError(f"input {wrong[0]!r}: there are no questions (question source none)")
    if video == NOTHING:
        if "video_only" in chosen:
            raise UsageError("input 'video_only': the model reads questions alone")
        return ["none" if name == "question_only" else name for name in chosen][:1]
    return chosen if source == "none" else [*chosen, *({"question_only"} - set(chosen))]


def _tampered(batch: Mapping[str, Any], name: str) -> dict[str, Any]:
    drop = {"none": (), "question_only": ("video", "tokens"), "video_only": ("verb_question", "noun_question")}[name]
    return {key: value for key, value in batch.items() if key not in drop}


def _predict(model: nn.Module, batches: Any, names: Sequence[str], actions: int = 0) -> dict[str, tuple[Any, ...]]:
    """(verb logits, noun logits, seconds) by perturbation, in the loader's order, in eval mode; with the logits of the
    first so many actions ahead of the seconds, if there are any."""
    device = next(model.parameters()).device
    kept: dict[str, list[list[Tensor]]] = {name: [[], [], *([[]] if actions else [])] for name in names}
    seconds, training = dict.fromkeys(names, 0.0), model.training
    model.eval()
    try:
        with torch.inference_mode():
            for batch in batches:
                batch = move(batch, device)
                for name in names:
                    started = time.perf_counter()
                    output = recognize(model, _tampered(batch, name))
                    joint = [output.action[:, :actions]] if actions else []
                    for part, logits in zip(kept[name], (output.verb, output.noun, *joint), strict=True):
                        part.append(logits.double().cpu())
                    seconds[name] += time.perf_counter() - started
    finally:
        model.train(training)
    return {n: (*(torch.cat(part).numpy() for part in parts), seconds[n]) for n, parts in kept.items()}


def judge(task: str, verb: Any, noun: Any, rows: Sequence[EpicRow], lists: Mapping[str, Any]) -> EpicScores:
    """The metrics of a task; `lists` are tail classes, unseen participants and, if there are any, scores of actions."""
    return (anticipation_scores if task == "anticipation" else recognition_scores)(verb, noun, rows, **lists)


def columns(scores: EpicScores) -> dict[str, float | None]:
    """The columns of a report, fractions of 1: top-1 accuracies, or official mean top-5 recalls (anticipation)."""
    everything, end = ("overall", "mt5r_official") if scores.task == "anticipation" else ("all", "accuracy_at_1")
    slots = ("verb", "noun", "action")
    names = {slot: f"{everything}_{slot}_{end}" for slot in slots}
    if scores.task != "anticipation":
        names |= {f"{slot}@5": f"all_{slot}_accuracy_at_5" for slot in slots}
    names |= {f"{subset} action": f"{subset}_action_{end}" for subset in ("tail", "unseen")}
    found = {column: scores.values.get(name) for column, name in names.items()}
    return {column: None if value is None else value / 100 for column, value in found.items()}


def _prior(train: Sequence[EpicRow], rows: Sequence[EpicRow], classes: EpicClasses) -> tuple[Any, Any]:
    """Log frequencies of the train split as scores of every row."""
    out = []
    for labels, table in (
        ([row.verb_class for row in train], classes.verbs),
        ([row.noun_class for row in train], classes.nouns),
    ):
        counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(table)) + 1e-3
        out.append(np.tile(np.log(counts / counts.sum()), (len(rows), 1)))
    return out[0], out[1]


def _probe(
    source: str, folder: Path, split: str, train: Sequence[EpicRow], rows: Sequence[EpicRow]
) -> tuple[dict[str, float], str]:
    """Top-1 accuracy of the words alone, learned from the train questions of the same source; or why there is none."""
    if source in ("none", "generic"):
        return {}, "" if source == "none" else "generic questions are alike: their words give the class prior"
    try:
        known = read_questions(folder / source / "train.jsonl")
        learned = [row for row in train if row.narration_id in known]
    except DataError as error:
        return {}, f"no probe of the words alone: {error}"
    if not learned:
        return {}, f"no probe of the words alone: {folder / source / 'train.jsonl'} has no train row"
    asked = read_questions(folder / source / f"{split}.jsonl")
    right = {}
    for slot in ("verb", "noun"):
        right[slot], _ = guess_from_words(
            [getattr(known[row.narration_id], f"{slot}_question_masked") for row in learned],
            [getattr(row, f"{slot}_class") for row in learned],
            [getattr(asked[row.narration_id], f"{slot}_question_masked") for row in rows],
            [getattr(row, f"{slot}_class") for row in rows],
        )
    right["action"] = right["verb"] & right["noun"]
    return {slot: float(hits.mean()) for slot, hits in right.items()}, ""


def write_predictions(
    folder: Path,
    split: str,
    rows: Sequence[EpicRow],
    scores: tuple[Any, Any],
    classes: EpicClasses,
    source: str,
    actions: ActionScores | None = None,
) -> None:
    """Writes `<split>.npz` with all scores and `<split>.csv` with the best classes, whole or not at all.

    Args:
        scores: logits of verbs (N, V) and nouns (N, M). source: of the questions, stated in the npz.
        actions: of a head over actions; they are in the npz.
    """
    folder.mkdir(parents=True, exist_ok=True)
    verb, noun = scores
    names = [row.narration_id for row in rows]
    write_epic_predictions(folder / f"{split}.npz", names, verb, noun, question_source=source, actions=actions)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["narration_id", "verb_class", "noun_class", "verb", "noun", "verb_probability", "noun_probability"])
    chances = [torch.from_numpy(np.asarray(logits)).softmax(dim=1).max(dim=1) for logits in (verb, noun)]
    for number, row in enumerate(rows):
        best = [int(chance.indices[number]) for chance in chances]
        words = [classes.verbs.keys[best[0]], classes.nouns.keys[best[1]]]
        sure = [f"{float(chance.values[number]):.4f}" for chance in chances]
        lines.writerow([row.narration_id, *best, *words, *sure])
    write_text_atomically(folder / f"{split}.csv", text.getvalue())
