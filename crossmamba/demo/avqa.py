"""`crossmamba demo avqa`: concerts with questions, feature encoders, trainings, scores, answers and a report.

Every stage writes into one folder and is left out when it was already done there with the same settings:

    OUT/demo.json         the settings, and which stages are done
    OUT/data/             the synthetic set, in MUSIC-AVQA's layout, with its features
    OUT/encoders/         the run of the two small feature encoders
    OUT/train/MODEL/      the runs of the question answering models (`crossmamba train`)
    OUT/model/            the trained AV-Mamba with its encoders: `crossmamba predict VIDEO --model OUT --question ...`
    OUT/scores.json       all scores, and what can be scored without a sense
    OUT/predict/          `crossmamba predict` on a test video: answers, pictures, result.json
    OUT/report.html       everything on one page
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmamba.demo.avqa_page import build_page, score_table, tag_line
from crossmamba.demo.common import (
    DemoFolder,
    by_split,
    copy_folder,
    finish,
    in_splits,
    read_json,
    say,
    start,
    together,
    train_command,
    write_json,
)
from crossmamba.errors import DataError
from crossmamba.report import table_text, write_report

ENCODERS = "avqa/demo_features"
CONFIGS = {"av_mamba": "avqa/demo_av_mamba", "shmamba": "avqa/demo_shmamba", "avst": "avqa/demo_avst"}
FEATURES = ("small_sound", "small_picture")
PERTURBATIONS = ("none", "silence", "blank")
QUESTIONS = 4  # asked about a test video, for the pictures
WARNING = """The world is synthetic: coloured shapes with instruments' names and voices of a few partials. The feature
encoders, too, are trained on it, on tags of its scene truth (who sounds, what stands where), and then stay as they are:
as the papers' models build on VGGish and CLIP. A model trained here knows nothing of real music."""


@dataclass(frozen=True)
class AVQADemoSettings:
    """What decides the outcome. Two demos with equal settings on one machine have equal results.

    Attributes:
        videos: number of train, val and test videos. questions: mean number for each.
        seconds: length of a video. size: side of the pictures in pixels.
        encoder_epochs, epochs: passes through the training set, of the encoders and of the models.
        models: keys of `CONFIGS`; the first is the one that answers the questions at the end.
        options: further arguments of `crossmamba train` for the models.
    """

    seed: int = 0
    videos: tuple[int, int, int] = (600, 100, 200)
    questions: int = 24
    seconds: int = 10
    size: int = 64
    encoder_epochs: int = 16
    epochs: int = 16
    models: tuple[str, ...] = ("av_mamba", "shmamba", "avst")
    options: tuple[str, ...] = ()


QUICK = AVQADemoSettings(videos=(24, 8, 12), questions=6, encoder_epochs=3, epochs=2, models=("av_mamba", "shmamba"))
STEP_SECONDS = 0.1  # of AV-Mamba on one core, for the announcement
STEP_VIDEOS = 4  # of a training; with all questions about each, since most of a step's time goes by the video


def run_avqa_demo(out: str | Path, settings: AVQADemoSettings, *, predict: bool = True) -> dict[str, Any]:
    """Runs the stages that are not done yet and returns the scores (`scores.json`).

    Raises:
        CrossmambaError: a stage failed. What was finished stays, and the same call goes on from there.
    """
    folder = DemoFolder.open(out, settings)
    path = folder.path
    data, encoders = path / "data", path / "encoders"
    runs = {name: path / "train" / name for name in settings.models}
    _announce(folder, predict)
    folder.save()
    count = "{} + {} + {}".format(*settings.videos)
    folder.stage("data", f"rendering {count} concerts and asking about them", lambda: render_set(data, settings))
    folder.stage(
        "encoders",
        "training a small sound and a small picture encoder to tag instruments",
        lambda: finish(start(*encoder_training(encoders, data, settings))),
    )
    folder.stage("features", "one pass of all videos through them", lambda: finish(start(*extraction(data, encoders))))
    say(tag_line(read_json(encoders / "model" / "tags.json")))
    folder.stage("train", f"training {', '.join(runs)}", lambda: train_models(runs, data, settings))
    first = runs[settings.models[0]]
    folder.stage("model", "putting model and encoders together", lambda: assemble(first, encoders, path))
    scores = folder.scores(lambda: score_models(data, runs))
    print(f"\nTest split, {scores['questions']} questions about {settings.videos[2]} videos, in per cent:\n")
    print(table_text(score_table(scores)) + "\n", flush=True)
    if predict:
        folder.stage("predict", "answering questions about a test video", lambda: answer_questions(path, data))
    write_report(path / "report.html", build_page(path, runs, scores, _facts(folder)))
    folder.say_where(
        ("report.html", "predict/answer_1.png", "scores.json", "model"),
        f"Try it on one of {path}/data/videos:",
        f'  crossmamba predict VIDEO --model {path} --out out --question "Where is the loudest instrument?"',
    )
    return scores


def _announce(folder: DemoFolder, predict: bool) -> None:
    settings = folder.settings
    seconds = 30 + sum(settings.videos) * 0.1 + settings.videos[0] * settings.encoder_epochs * 0.006
    seconds += settings.videos[0] / STEP_VIDEOS * settings.epochs * STEP_SECONDS
    answer = "answer questions about a test video, and " if predict else ""
    steps = (
        "render concerts with sound, and ask MUSIC-AVQA's 33 kinds of question about them, in its layout",
        "train two small encoders to tag instruments, and store their features for every second",
        f"train {', '.join(settings.models)} to answer from these features",
        "score them by kind of question, also with the sound silenced or the picture blanked, and beside what the\n"
        "question, the picture or the sound alone can give",
        f"{answer}write a report to open in a browser",
    )
    folder.announce("crossmamba demo avqa", seconds, steps, WARNING)


def render_set(data: Path, settings: AVQADemoSettings) -> None:
    """Renders the synthetic set of these settings; what is there already is kept."""
    from crossmamba.data.synth.music import synthesize_music_avqa

    synthesize_music_avqa(
        data,
        videos=by_split(settings.videos),
        size=settings.size,
        seconds=settings.seconds,
        questions_per_video=settings.questions,
        seed=settings.seed,
        workers=os.cpu_count() or 1,
    )


def encoder_training(run: Path, data: Path, settings: AVQADemoSettings) -> tuple[str, ...]:
    """The arguments of `crossmamba` that train the feature encoders, or go on with a training that was stopped."""
    options = (
        *("--data.size", str(settings.size), "--trainer.max_epochs", str(settings.encoder_epochs)),
        *("--trainer.check_val_every_n_epoch", str(max(1, settings.encoder_epochs // 2))),
    )
    return train_command(ENCODERS, run, settings.seed, data, *options)


def extraction(data: Path, encoders: Path) -> tuple[str, ...]:
    """The arguments of `crossmamba` that store the features of all videos; what is there already is kept."""
    return (
        *("data", "extract", "music-avqa", str(data), "--features", *FEATURES),
        *("--weights", *(f"{name}={encoders}" for name in FEATURES), "--workers", str(os.cpu_count() or 1)),
    )


def train_models(runs: dict[str, Path], data: Path, settings: AVQADemoSettings) -> None:
    """The first training on half of the cores, with its progress shown, and beside it the others in turn."""
    first, *others = runs
    beside = [(training(name, runs[name], data, settings), runs[name].with_suffix(".log")) for name in others]
    together(training(first, runs[first], data, settings), *beside)


def training(name: str, run: Path, data: Path, settings: AVQADemoSettings) -> tuple[str, ...]:
    """The arguments of `crossmamba` that train a model as a user would, or go on with a training that was stopped."""
    options = (
        *("--trainer.max_epochs", str(settings.epochs), "--data.batch_size", str(STEP_VIDEOS * settings.questions)),
        *("--data.questions_per_video", str(settings.questions)),
        *settings.options,
    )
    return train_command(CONFIGS[name], run, settings.seed, data, *options)


def assemble(run: Path, encoders: Path, out: Path) -> None:
    """OUT/model: the best model of a run, with the encoders that made its features, so that it can see a raw video."""
    from crossmamba.predict.avqa_features import store_encoder

    copy_folder(run / "model", out / "model")
    for name in FEATURES:
        store_encoder(out / "model", name, encoders / "model" / f"{name}.safetensors")


def score_models(data: Path, runs: dict[str, Path]) -> dict[str, Any]:
    """Accuracies of the test split in per cent: of each model, as it is and with a sense taken away; the ceilings."""
    from crossmamba.models import from_pretrained
    from crossmamba.studies.ceilings import read_ceilings
    from crossmamba.tasks.evaluate_avqa import evaluate_avqa

    scores: dict[str, Any] = {"models": {}, "ceilings": read_ceilings(data, "test").lines}
    for name, run in runs.items():
        results = evaluate_avqa(from_pretrained(run / "model"), data, perturbations=PERTURBATIONS)
        scores["models"][name] = {
            perturbation: {column: _percent(value) for column, value in result["accuracy"].items()}
            for perturbation, result in results.items()
        }
        scores["questions"] = results["none"]["total"]["All"]
    return scores


def _percent(fraction: float) -> float | None:
    return None if math.isnan(fraction) else round(100 * fraction, 3)


def answer_questions(path: Path, data: Path) -> None:
    """`crossmamba predict` on a test video; the true answers go beside, to `truth.json`."""
    video, asked = choose_questions(data)
    questions = [part for question, _ in asked for part in ("--question", question)]
    arguments = ("predict", str(video), "--model", str(path), "--out", str(path / "predict"), "--overwrite", *questions)
    finish(start(*arguments))
    write_json(path / "predict" / "truth.json", {"video": str(video), "questions": asked})


def choose_questions(data: Path, count: int = QUESTIONS) -> tuple[Path, list[tuple[str, str]]]:
    """A test video and questions about it with their true answers, of as many kinds as there are, audio-visual first.

    They are chosen by the annotations, not by how well the model does.

    Raises:
        DataError: no video of the test split is there.
    """
    from crossmamba.data.qa.annotations import read_questions

    by_video: dict[str, dict[tuple[str, str], tuple[str, str]]] = {}
    for row in read_questions(data, "test"):
        kinds = by_video.setdefault(row.video_id, {})
        kinds.setdefault((row.modality, row.kind), (" ".join(row.words) + "?", row.answer))
    if not by_video:
        raise DataError(f"{data}: the test split has no question")
    together_first = {
        video: sorted(kinds.items(), key=lambda item: item[0][0] != "Audio-Visual")[:count]
        for video, kinds in by_video.items()
    }

    def audio_visual(video: str) -> int:
        return sum(kind[0] == "Audio-Visual" for kind, _ in together_first[video])

    best = max(sorted(together_first), key=audio_visual)
    return data / "videos" / f"{best}.mp4", [asked for _, asked in together_first[best]]


def _facts(folder: DemoFolder) -> list[tuple[str, str]]:
    settings = folder.settings
    return folder.facts(
        ("videos", f"{in_splits(settings.videos)}, {settings.size} px, {settings.seconds} s"),
        ("encoders", f"{settings.encoder_epochs} epochs on tags of the train split"),
        ("training", f"{', '.join(settings.models)}: {settings.epochs} epochs each; seed {settings.seed}"),
    )
