"""The studies of actions, as data: what each trains first, and its rows (see studies.py).

The chain, once a seed: MambaVL without questions (a scan over the video) learns end to end on clips; its encoder's
tokens of every segment are stored; its classes give the questions of "predicted" (of the train split too, where it is
right more often than elsewhere), the true classes those of "oracle". All rows learn from these tokens.
"""

from __future__ import annotations

from crossmamba.tasks.study_rows import Preparation, Row, Study, model_args

FUSIONS = ("mlp", "transformer_6x4", "transformer_12x12", "concat", "shared_a", "separate_a", "cm_mamba")
SOURCES = ("generic", "predicted", "oracle")
_ANNOTATIONS = (("train", "train"), ("validation", "validation"), ("test", "test_timestamps"))


def _asked(source: str) -> tuple[str, ...]:
    return ("--data.question_source", source)


def _train_first() -> tuple[str, ...]:
    return (
        *("train", "--config", "action/demo_kitchen", "--data.root", "{root}", "--run.dir", "{prepared}/run"),
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


def _ask(source: str, split: str, file: str) -> tuple[str, ...]:
    predicted = ("--predicted", f"{{prepared}}/predictions/{split}.csv") if source == "predicted" else ()
    return (
        *("questions", "make", "--annotations", f"{{root}}/{file}", "--classes", "{root}", "--source", source),
        *(*predicted, "--out", f"{{prepared}}/questions/{source}/{split}.jsonl", "--overwrite"),
    )


def _prepared(task: str, *, oracle: bool) -> Preparation:
    steps = [_train_first(), _extract(task)]
    steps += [_predict(task, split) for split, _ in _ANNOTATIONS]
    steps += [_ask("predicted", split, f"EPIC_100_{name}.csv") for split, name in _ANNOTATIONS]
    if oracle:
        steps += [_ask("oracle", split, f"EPIC_100_{split}.csv") for split in ("train", "validation")]
        steps.append(_ask("oracle", "test", "truth/EPIC_100_test.csv"))
    return Preparation(
        tuple(steps),
        train=("--data.media", "{prepared}", "--data.questions", "{prepared}/questions"),
        evaluate=("--media", "{prepared}", "--question-files", "{prepared}/questions"),
    )


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
    prepare=(("small", _prepared("recognition", oracle=True)),),
)

ACTION_ANTICIPATION = Study(
    "action-anticipation",
    "Anticipation one second ahead: official mean top-5 recall against the class prior",
    "Tokens of the 2.13 s that end one second before the action. `generic`: the same two questions for every clip; "
    "`predicted`: made from the action that a recognition model sees in that time, the one before. `video only` is "
    "without questions, by the mean over the tokens or by a scan.",
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
    prepare=(("small", _prepared("anticipation", oracle=False)),),
)
