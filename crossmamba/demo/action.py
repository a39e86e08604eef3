"""`crossmamba demo action`: a synthetic kitchen, trainings with and without questions, scores, actions in a video.

Every stage writes into one folder and is left out when it was already done there with the same settings:

    OUT/demo.json            the settings, and which stages are done
    OUT/data/                the synthetic set, in EPIC-KITCHENS-100's layout
    OUT/train/video/         the run that sees clips and is asked nothing (`crossmamba train`)
    OUT/tokens/              its encoder's tokens of all segments, its guesses, and the questions made of them
    OUT/train/{generic,predicted,ahead}/   runs on these tokens: with questions, and the one that anticipates
    OUT/model/, OUT/ahead/   a recogniser (the better of video and generic) and the anticipator, for `predict`
    OUT/scores.json          all scores of the test split
    OUT/predict/             `crossmamba predict` on a test video: actions.mp4, timeline.png, result.json
    OUT/report.html          everything on one page
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmamba.demo.action_page import anticipation_table, build_page, recognition_table
from crossmamba.demo.common import (
    DemoFolder,
    by_split,
    copy_folder,
    finish,
    in_splits,
    read_json,
    start,
    together,
    train_command,
    write_json,
)
from crossmamba.errors import DataError
from crossmamba.report import table_text, write_report

CLIPS, TOKENS, AHEAD = "action/demo_kitchen", "action/demo_kitchen_tokens", "action/demo_kitchen_anticipation"
FRAMES = 8  # of a clip, as in these configs
SPLITS = ("train", "validation", "test")
WARNING = """The world is synthetic: a drawn hand acts on drawn things, by a law of what follows what that is known
exactly. A model trained here knows nothing of real kitchens."""


@dataclass(frozen=True)
class ActionDemoSettings:
    """What decides the outcome. Two demos with equal settings on one machine have equal results.

    Attributes:
        videos: number of train, val and test videos. segments: mean number of each.
        size: side of the pictures in pixels.
        epochs: passes through the training set, of the run on clips. fusion_epochs: of those on its tokens.
        workers: processes that read clips beside the training; the result does not depend on them.
        options: further arguments of `crossmamba train` for the run on clips.
    """

    seed: int = 0
    videos: tuple[int, int, int] = (40, 8, 6)
    segments: int = 20
    size: int = 64
    epochs: int = 16
    fusion_epochs: int = 10
    workers: int = 1
    options: tuple[str, ...] = ()


QUICK = ActionDemoSettings(videos=(4, 1, 1), segments=8, epochs=1, fusion_epochs=1, workers=0)
CLIP_SECONDS = 0.03  # of a clip in training, for the announcement


def run_action_demo(out: str | Path, settings: ActionDemoSettings, *, predict: bool = True) -> dict[str, Any]:
    """Runs the stages that are not done yet and returns the scores (`scores.json`).

    Raises:
        CrossmambaError: a stage failed. What was finished stays, and the same call goes on from there.
    """
    folder = DemoFolder.open(out, settings)
    path = folder.path
    data, tokens, train = path / "data", path / "tokens", path / "train"
    _announce(folder, predict)
    folder.save()
    count = "{} + {} + {}".format(*settings.videos)
    folder.stage("data", f"rendering {count} kitchen videos", lambda: render_set(data, settings))
    folder.stage(
        "train",
        "training on clips, without questions",
        lambda: finish(start(*training("video", train / "video", data, tokens, settings))),
    )
    folder.stage(
        "tokens", "its tokens of all segments, its guesses, questions of them", lambda: prepare(path, settings)
    )
    folder.stage(
        "fusion",
        "training on the tokens: with generic and with predicted questions, and to anticipate",
        lambda: train_on_tokens(path, settings),
    )
    folder.stage("model", "putting the models in place", lambda: assemble(path))
    scores = folder.scores(lambda: score_models(path))
    print(f"\nTest split, {scores['segments']} segments, recognition, in per cent:\n")
    print(table_text(recognition_table(scores)))
    print("\nAnticipation one second ahead, official mean top-5 recall, in per cent:\n")
    print(table_text(anticipation_table(scores)) + "\n", flush=True)
    if predict:
        folder.stage("predict", "naming the actions in a test video", lambda: name_actions(path))
    write_report(path / "report.html", build_page(path, scores, _facts(folder)))
    folder.say_where(
        ("report.html", "predict/actions.mp4", "predict/timeline.png", "scores.json", "model"),
        f"Try it on one of {path}/data/videos:",
        f"  crossmamba predict VIDEO --task action --model {path} --anticipation {path}/ahead --out out",
    )
    return scores


def _announce(folder: DemoFolder, predict: bool) -> None:
    settings = folder.settings
    clips = settings.videos[0] * settings.segments
    seconds = 90 + sum(settings.videos) * 1.5 + clips * settings.epochs * CLIP_SECONDS + clips * 0.05
    show = "name the actions in a test video, now and one second ahead, and " if predict else ""
    steps = (
        "render long videos of a hand acting on things, in EPIC-KITCHENS-100's layout",
        "train a small MambaVL on clips without questions, store its encoder's tokens of every segment",
        "train on these tokens: with the same questions for all clips, with questions made of the first model's\n"
        "guesses, and one that anticipates",
        "score them beside what the questions alone and the class frequencies give",
        f"{show}write a report to open in a browser",
    )
    folder.announce("crossmamba demo action", seconds, steps, WARNING)


def render_set(data: Path, settings: ActionDemoSettings) -> None:
    """Renders the synthetic set of these settings; what is there already is kept."""
    from crossmamba.data.synth.kitchen import synthesize_epic100

    synthesize_epic100(
        data,
        videos=by_split(settings.videos),
        size=settings.size,
        segments=settings.segments,
        seed=settings.seed,
        workers=os.cpu_count() or 1,
    )


def training(name: str, run: Path, data: Path, tokens: Path, settings: ActionDemoSettings) -> tuple[str, ...]:
    """The arguments of `crossmamba` that train as a user would, or go on with a training that was stopped.

    Args:
        name: "video" (clips, no questions), "generic", "predicted" (tokens, with these questions) or "ahead" (tokens of
            the time before an action, no questions).
    """
    where = (run, settings.seed, data)
    if name == "video":
        options = (
            *("--trainer.max_epochs", str(settings.epochs), "--data.image_size", str(settings.size)),
            *("--data.jitter", f"[{settings.size}, {settings.size * 9 // 8}]"),
            *("--model.model_args.text", "none", "--data.question_source", "none"),
            *("--data.num_workers", str(settings.workers), *settings.options),
        )
        return train_command(CLIPS, *where, *options)
    kind = ("--data.question_source", name, "--data.questions", str(tokens / "questions"))
    if name == "ahead":
        kind = ("--data.question_source", "none", "--model.model_args.text", "none")
    # How the tokens were made: the card has to say it, since `predict` shows a video to the model by its card.
    made = ("--data.frames", str(FRAMES), "--data.mode", "uniform", "--data.image_size", str(settings.size))
    options = ("--data.media", str(tokens), *kind, *made, "--trainer.max_epochs", str(settings.fusion_epochs))
    return train_command(AHEAD if name == "ahead" else TOKENS, *where, *options)


def prepare(path: Path, settings: ActionDemoSettings) -> None:
    """Stores the encoder's tokens, lets the model guess, and asks by its guesses; tokens that are there are kept.

    As `crossmamba data extract epic100`, `crossmamba eval --out` and `crossmamba questions make` do.

    Raises:
        DataError: a segment cannot be read.
    """
    from crossmamba.extract.run_segments import extract_segments

    few = sum(settings.videos) * settings.segments < 300  # a process takes seconds to start
    for task in ("recognition", "anticipation"):
        report = extract_segments(
            ["small_video"],
            path / "data",
            path / "tokens",
            weights={"small_video": str(path / "train" / "video")},
            task=task,
            mode="uniform",
            frames=FRAMES,
            image=settings.size,
            workers=1 if few else os.cpu_count() or 1,
        )
        if report.bad:
            raise DataError(f"{report.bad} segments could not be read: {path / 'tokens'}")
    ask_by_guesses(path)


def ask_by_guesses(path: Path) -> None:
    """OUT/tokens/questions/predicted/{split}.jsonl of what the video-only model guesses."""
    from crossmamba.data.epic.classes import read_epic_classes
    from crossmamba.models import from_pretrained
    from crossmamba.questions.make import make_questions
    from crossmamba.questions.masking import Masker
    from crossmamba.questions.predicted import read_predicted
    from crossmamba.questions.records import write_questions
    from crossmamba.tasks.action_data import rows_of
    from crossmamba.tasks.evaluate_action import evaluate_action

    data, guesses, out = path / "data", path / "tokens" / "guesses", path / "tokens" / "questions" / "predicted"
    model, classes = from_pretrained(path / "train" / "video" / "model"), read_epic_classes(data)
    out.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        evaluate_action(model, data, split, out=guesses)
        predicted = read_predicted(guesses / f"{split}.csv")
        masker = Masker(classes.verbs, classes.nouns)
        rows = rows_of(data, split, classes)
        write_questions(out / f"{split}.jsonl", make_questions(rows, "predicted", masker, predicted=predicted))


def train_on_tokens(path: Path, settings: ActionDemoSettings) -> None:
    """Three trainings, two at once, each on half of the cores; the first one's progress is shown."""
    data, tokens = path / "data", path / "tokens"
    runs = {name: path / "train" / name for name in ("predicted", "generic", "ahead")}
    first, *others = (training(name, run, data, tokens, settings) for name, run in runs.items())
    logs = [run.with_suffix(".log") for name, run in runs.items() if name != "predicted"]
    together(first, *zip(others, logs, strict=True))


def assemble(path: Path) -> None:
    """OUT/model and OUT/ahead, with the encoder that made their tokens, so that they can see a video.

    OUT/model is the better one on the validation split of the two that can be asked about a new video: without
    questions, or with generic ones.
    """
    from crossmamba.predict.avqa_features import store_encoder

    train = path / "train"
    chosen = max(("video", "generic"), key=lambda name: _val_score(train / name / "model"))
    for name, folder in ((chosen, path / "model"), ("ahead", path / "ahead" / "model")):
        copy_folder(train / name / "model", folder)
        if name != "video":
            store_encoder(folder, "small_video", train / "video" / "model" / "model.safetensors")


def _val_score(model: Path) -> float:
    """Actions right on the validation split, by a model folder's card."""
    metrics = read_json(model / "config.json").get("metadata", {}).get("metrics", {})
    return float(metrics.get("val/action", 0.0))


def score_models(path: Path) -> dict[str, Any]:
    """Scores of the test split: each model with its text-only lines, the class prior, and the world's own bounds."""
    from crossmamba.models import from_pretrained
    from crossmamba.tasks.evaluate_action import evaluate_action
    from crossmamba.tasks.evaluate_action_text import to_json

    scores: dict[str, Any] = {"models": {}, "ceilings": read_ceilings(path / "data")}
    for name in ("video", "generic", "predicted", "ahead"):
        stored = {} if name == "video" else {"media": path / "tokens", "questions": path / "tokens" / "questions"}
        model = from_pretrained(path / "train" / name / "model")
        report = evaluate_action(model, path / "data", "test", **stored)
        scores["models"][name], scores["segments"] = to_json(report), report.segments
    return scores


def read_ceilings(data: Path) -> dict[str, Any]:
    """What the world's law allows on the test split, by task; per cent.

    Raises:
        DataError: the set's file is missing or unreadable.
    """
    file = data / "truth" / "ceilings.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return {task: found[task]["test"]["all"] for task in ("recognition", "anticipation")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file}: not the ceilings of a kitchen set ({error!r})") from error


def name_actions(path: Path) -> None:
    """`crossmamba predict` on a test video, with its true segments on the timeline; and around one moment of it."""
    video, moment = choose_video(path / "data")
    models = ("--model", str(path), "--anticipation", str(path / "ahead"), "--overwrite")
    truth = ("--annotations", str(path / "data" / "truth" / "EPIC_100_test.csv"))
    out = path / "predict"
    with_log = {"log": path / "predict.log"}
    finish(start("predict", str(video), "--task", "action", *models, *truth, "--out", str(out), **with_log))
    at = ("--at", f"{moment:.2f}", "--out", str(out / "moment"))
    finish(start("predict", str(video), "--task", "action", *models, *at, **with_log))
    write_json(out / "truth.json", {"video": str(video), "moment": moment})


def choose_video(data: Path) -> tuple[Path, float]:
    """The first test video of a participant who is not in train, else the first; and the middle of its third segment.

    Raises:
        DataError: no test video.
    """
    from crossmamba.data.epic.annotations import read_rows
    from crossmamba.data.epic.classes import read_epic_classes

    classes = read_epic_classes(data)
    sizes = {"verbs": len(classes.verbs), "nouns": len(classes.nouns)}
    rows = read_rows(data / "truth" / "EPIC_100_test.csv", **sizes)
    known = {row.participant_id for row in read_rows(data / "EPIC_100_train.csv", **sizes)}
    if not rows:
        raise DataError(f"{data}: the test split has no video")
    video = next((row.video_id for row in rows if row.participant_id not in known), rows[0].video_id)
    own = [row for row in rows if row.video_id == video]
    row = own[min(2, len(own) - 1)]
    middle = (row.start_timestamp + row.stop_timestamp) / 2
    return data / "videos" / row.participant_id / f"{video}.mp4", round(middle, 2)


def _facts(folder: DemoFolder) -> list[tuple[str, str]]:
    settings = folder.settings
    return folder.facts(
        ("videos", f"{in_splits(settings.videos)}, about {settings.segments} segments each, {settings.size} px"),
        ("training", f"{settings.epochs} epochs on clips, {settings.fusion_epochs} on tokens; seed {settings.seed}"),
    )
