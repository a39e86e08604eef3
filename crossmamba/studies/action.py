"""The studies of actions, as data: what each trains first, and its rows (see rows.py).

The chain, once a seed: MambaVL without questions (a scan over the video) learns end to end on clips; its encoder's
tokens of every segment are stored; its classes give the questions of "predicted", the true classes those of "oracle".
All rows learn from these tokens.

The model has learned from the train rows and is right about them more often than about others, so that a row of
"predicted" learns from better questions than it is tested with. With `--folds K` the train split's questions come from
K further models of the same training, each asked only about the videos that were kept from it (`questions.folds`). The
default is 0: the first training takes most of a study's time, and cross-fitting adds about K - 1 times it. The tokens
are the first model's in both cases.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from crossmamba.studies.rows import Preparation, Row, Study, model_args

FUSIONS = ("mlp", "transformer_6x4", "transformer_12x12", "concat", "shared_a", "separate_a", "cm_mamba")
SOURCES = ("generic", "predicted", "oracle")
_NOT_FITTED = "Predicted questions of train rows come from the model that learned from these rows (no cross-fitting)."
_ANNOTATIONS = (("train", "train"), ("validation", "validation"), ("test", "test_timestamps"))


def _asked(source: str) -> tuple[str, ...]:
    return ("--data.question_source", source)


def _train_first(root: str = "{root}", folder: str = "{prepared}") -> tuple[str, ...]:
    return (
        *("train", "--config", "action/demo_kitchen", "--data.root", root, "--run.dir", f"{folder}/run"),
        *("--seed", "{seed}", "--model.model_args.text", "none", *_asked("none")),
    )


def _extract(task: str) -> tuple[str, ...]:
    return (
        *("data", "extract", "epic100", "{root}", "--out", "{prepared}", "--features", "small_video", "--weights"),
        *("small_video={prepared}/run", "--task", task, "--sampling", "uniform", "--frames", "8", "--image-size", "64"),
    )


def _predict(task: str, split: str) -> tuple[str, ...]:
    return (
        *("eval", "{prepared}/run", "--data.root", "{root}", "--split", "val" if split == "validation" else split),
        *("--task", task, "--out", "{prepared}/predictions", "--overwrite"),
    )


def _crossfit(task: str, folds: int) -> list[tuple[str, ...]]:
    """Steps that predict each part of the train split by a model that learned from the other parts."""
    folders = [f"{{prepared}}/folds/{fold}" for fold in range(folds)]
    steps: list[tuple[str, ...]] = [
        (
            *("questions", "folds", "{root}", "--folds", str(folds), "--seed", "{seed}"),
            *("--out", "{prepared}/folds", "--overwrite"),
        )
    ]
    for folder in folders:
        steps.append((*_train_first(folder, folder), "--data.media", "{root}"))
        steps.append(
            (
                *("eval", f"{folder}/run", "--data.root", folder, "--media", "{root}", "--split", "test"),
                *("--task", task, "--out", f"{folder}/predictions", "--overwrite"),
            )
        )
    steps.append(
        _ask("predicted", "train", "EPIC_100_train.csv", [f"{folder}/predictions/test.csv" for folder in folders])
    )
    return steps


def _ask(source: str, split: str, file: str, files: Sequence[str] = ()) -> tuple[str, ...]:
    files = files or [f"{{prepared}}/predictions/{split}.csv"]
    predicted = ("--predicted", *files) if source == "predicted" else ()
    return (
        *("questions", "make", "--annotations", f"{{root}}/{file}", "--classes", "{root}", "--source", source),
        *(*predicted, "--out", f"{{prepared}}/questions/{source}/{split}.jsonl", "--overwrite"),
    )


def _prepared(folds: int = 0, *, task: str, oracle: bool) -> Preparation:
    steps = [_train_first(), _extract(task)]
    asked = [(split, name) for split, name in _ANNOTATIONS if not (folds and split == "train")]
    steps += [_predict(task, split) for split, _ in asked]
    steps += [_ask("predicted", split, f"EPIC_100_{name}.csv") for split, name in asked]
    steps += _crossfit(task, folds) if folds else []
    if oracle:
        steps += [_ask("oracle", split, f"EPIC_100_{split}.csv") for split in ("train", "validation")]
        steps.append(_ask("oracle", "test", "truth/EPIC_100_test.csv"))
    return Preparation(
        tuple(steps),
        train=("--data.media", "{prepared}", "--data.questions", "{prepared}/questions"),
        evaluate=("--media", "{prepared}", "--question-files", "{prepared}/questions"),
        note=f"Predicted questions of train rows are cross-fitted, {folds} folds by video." if folds else _NOT_FITTED,
    )


_RECOGNISED = functools.partial(_prepared, task="recognition", oracle=True)
_ANTICIPATED = functools.partial(_prepared, task="anticipation", oracle=False)


def _row(fusion: str, source: str, model: str = "action") -> Row:
    return Row(f"{fusion}, {source}", model, (*model_args(fusion=fusion), *_asked(source)))


def _text_only(source: str, model: str = "action") -> Row:
    overrides = (*model_args(fusion="shared_a"), *_asked(source), "--data.video", "none")
    return Row(f"text only, {source}", model, overrides)


ACTION = Study(
    "action",
    "MambaVL's Table 3 on the same tokens: fusions, and where the questions come from",
    "All fusions read all stored video tokens and all words of the questions. `generic`: the same two questions for "
    "every clip; `predicted`: made from the classes that the model without questions predicts; `oracle`: made from the "
    "true classes, so that the questions tell part of the answer. `none` sees the video alone. `text only` learns from "
    "the questions without any video: what they give away.",
    (
        Row("none", "action", (*model_args(fusion="none"), *_asked("none"))),
        *(_row(fusion, source) for source in SOURCES for fusion in FUSIONS),
        *(_text_only(source) for source in SOURCES),
    ),
    headline="action",
    unit="clip",
    measure="Per cent of the segments whose class is the best (verb, noun, action) or among the best five (@5)",
    prepare=(("small", _RECOGNISED()),),
    crossfit=(("small", _RECOGNISED),),
)

ACTION_ANTICIPATION = Study(
    "action-anticipation",
    "Anticipation one second ahead: official mean top-5 recall against the class prior",
    "Tokens of the 2.13 s that end one second before the action. `generic`: the same two questions for every clip; "
    "`predicted`: made from the action that a recognition model sees in that time, the one before. `video only` is "
    "without questions, by the mean over the tokens or by a scan. Actions are scored by a head over the train split's "
    "pairs (ours; `--train '--model.model_args.action_classes 0'` is the paper's product of two heads).",
    (
        Row("video only, mean", "anticipation", (*model_args(fusion="none"), *_asked("none"))),
        Row("video only, scan", "anticipation", (*model_args(fusion="shared_a", text="none"), *_asked("none"))),
        _row("shared_a", "generic", "anticipation"),
        _row("shared_a", "predicted", "anticipation"),
        _row("concat", "predicted", "anticipation"),
        _row("cm_mamba", "predicted", "anticipation"),
        _text_only("predicted", "anticipation"),
    ),
    headline="action",
    unit="clip",
    measure="Official mean top-5 recall in per cent",
    prepare=(("small", _ANTICIPATED()),),
    crossfit=(("small", _ANTICIPATED),),
)
