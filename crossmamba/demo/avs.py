"""`crossmamba demo`: a synthetic data set, a training, scores with their controls, a prediction and a report.

Every stage writes into one folder and is left out when it was already done there with the same settings:

    OUT/demo.json        the settings, and which stages are done
    OUT/data/            the synthetic set, in AVSBench's MS3 layout
    OUT/train/           the run (`crossmamba train`)
    OUT/controls/        the same model trained on silence
    OUT/model/           the trained model: `crossmamba predict VIDEO --model OUT`
    OUT/scores.json      all scores
    OUT/predict/         `crossmamba predict` on a test clip: masks, overlay.mp4, result.json
    OUT/report.html      everything on one page
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossmamba.demo.avs_page import build_page, score_rows
from crossmamba.demo.common import (
    DemoFolder,
    by_split,
    copy_folder,
    finish,
    in_splits,
    start,
    together,
    train_command,
)
from crossmamba.report import text_table, write_report

CONFIG = "avs/demo"
VIDEOS = 4  # mp4 files per split: one to predict on, some to try
WARNING = """The world is synthetic: coloured shapes with voices. A model trained on it knows nothing of the real world;
what is shown is that the whole path works and that the model uses the sound."""


@dataclass(frozen=True)
class DemoSettings:
    """What decides the outcome. Two demos with equal settings on one machine have equal results.

    Attributes:
        clips: number of train, val and test clips.
        steps, silent_steps: optimiser steps of the main training and of the one without sound (see `epochs_of`).
        world: `default` or `hard`. seconds: length of the clips. framing: of the log-mel, `aligned` or `published`.
        options: further arguments of `crossmamba train`, for both trainings.
    """

    seed: int = 0
    clips: tuple[int, int, int] = (1000, 100, 300)
    size: int = 64
    batch_size: int = 4
    steps: int = 600
    silent_steps: int = 600
    world: str = "default"
    seconds: int = 5
    framing: str = "aligned"
    options: tuple[str, ...] = ()


EPOCH_STEPS = 100
STEP_SECONDS = 0.55  # per optimiser step of two trainings on two cores, for the announcement
QUICK = DemoSettings(clips=(40, 8, 12), steps=20, silent_steps=10)


def run_demo(out: str | Path, settings: DemoSettings, *, predict: bool = True) -> dict[str, Any]:
    """Runs the stages that are not done yet and returns the scores (`scores.json`).

    Raises:
        CrossmambaError: a stage failed. What was finished stays, and the same call goes on from there.
    """
    folder = DemoFolder.open(out, settings)
    path = folder.path
    data, run, silent = path / "data", path / "train", path / "controls" / "without_sound"
    _announce(folder, predict)
    folder.save()
    folder.stage("data", "rendering {} + {} + {} clips".format(*settings.clips), lambda: render_set(data, settings))
    folder.stage(
        "train",
        f"training for {settings.steps} steps, and beside it the same model without sound for {settings.silent_steps}",
        lambda: train_both(run, silent, data, settings),
    )
    folder.stage("model", "copying the best checkpoint", lambda: copy_folder(run / "model", path / "model"))
    scores = folder.scores(lambda: score_runs(data, run, silent))
    print(f"\nTest split, {settings.clips[2]} clips that were never trained on, in per cent:\n")
    print(text_table(score_rows(scores)) + "\n", flush=True)
    if predict:
        folder.stage("predict", "marking who sounds in a test video", lambda: _predict(path, data))
    page = build_page(path, data, {"this run": run, "without sound": silent}, scores, _facts(folder))
    write_report(path / "report.html", page)
    folder.say_where(
        ("report.html", "predict/overlay.mp4", "scores.json", "model"),
        f"Try it on a video of yours: crossmamba predict VIDEO --model {path} --out out",
    )
    return scores


def _announce(folder: DemoFolder, predict: bool) -> None:
    settings = folder.settings
    steps = max(settings.steps, settings.silent_steps)  # side by side
    seconds = 30 + sum(settings.clips) * 0.05 + steps * STEP_SECONDS
    mark = "mark who sounds in an mp4, and " if predict else ""
    lines = (
        "render a small set of videos with sound to files, in the layout of AVSBench MS3",
        "train a small AVS-Mamba to mark who sounds, and once more without any sound",
        "score it on clips it never saw, with the sound silenced and swapped, and against exact bounds",
        f"{mark}write a report to open in a browser",
    )
    folder.announce("crossmamba demo", seconds, lines, WARNING)


def render_set(data: Path, settings: DemoSettings, videos: int = VIDEOS) -> None:
    """Renders the synthetic set of these settings, with so many mp4 files per split; what is there already is kept."""
    from crossmamba.data.synth import synthesize

    synthesize(
        "ms3",
        data,
        clips=by_split(settings.clips),
        size=settings.size,
        seconds=settings.seconds,
        seed=settings.seed,
        world=settings.world,
        mp4=videos,
        workers=os.cpu_count() or 1,
    )


def epochs_of(settings: DemoSettings, steps: int) -> tuple[int, int]:
    """Steps as (epochs, steps of an epoch): validation follows each epoch, every 100 steps or once through the set.

    The product is `steps`, rounded up to whole epochs.
    """
    length = max(1, min(EPOCH_STEPS, steps, settings.clips[0] // settings.batch_size))
    return -(-steps // length), length


def train_both(run: Path, silent: Path, data: Path, settings: DemoSettings) -> None:
    """The main training and the one without sound side by side, each on half of the cores.

    A step is many small operations, which one core does nearly as fast as two. What the second training prints goes
    to a file beside it.
    """
    beside = (training(silent, data, settings, silent=True), silent.with_suffix(".log"))
    together(training(run, data, settings), beside)


def train_run(run: Path, data: Path, settings: DemoSettings, *, silent: bool = False) -> None:
    """One training by itself; arguments as `training`."""
    finish(start(*training(run, data, settings, silent=silent)))


def training(run: Path, data: Path, settings: DemoSettings, *, silent: bool = False) -> tuple[str, ...]:
    """The arguments of `crossmamba` that train as a user would, or go on with a training that was stopped.

    Args:
        silent: replace all sound by silence, and take `silent_steps` in place of `steps`.
    """
    epochs, length = epochs_of(settings, settings.silent_steps if silent else settings.steps)
    options = (
        *("--data.image_size", str(settings.size), "--data.framing", settings.framing),
        *("--data.seconds", str(settings.seconds), "--data.batch_size", str(settings.batch_size)),
        *("--trainer.max_epochs", str(epochs), "--trainer.limit_train_batches", str(length)),
        *settings.options,
        *(("--data.perturbation", "silence") if silent else ()),
    )
    return train_command(CONFIG, run, settings.seed, data, *options)


def score_runs(data: Path, run: Path, silent: Path | None = None) -> dict[str, Any]:
    """Scores of the test split: of a run, as it is and with its sound tampered with, of its control, and the bounds."""
    from crossmamba.data.synth import reference_scores
    from crossmamba.models import from_pretrained
    from crossmamba.tasks.evaluate import evaluate_avs

    model = from_pretrained(run / "model")
    tampered = evaluate_avs(model, data, "ms3", "test", perturbations=("none", "silence", "swap"))
    scores = {"run": tampered["none"], "silenced": tampered["silence"], "swapped": tampered["swap"]}
    if silent is not None:
        control = from_pretrained(silent / "model")
        scores["without_sound"] = evaluate_avs(control, data, "ms3", "test", perturbations=("silence",))["silence"]
    return {**scores, "reference": reference_scores(data, "ms3", "test")}


def _predict(path: Path, data: Path) -> None:
    video = sorted((data / "Multi-sources" / "ms3_data" / "raw_videos").glob("*_test_*.mp4"))[0]
    finish(start("predict", str(video), "--model", str(path), "--out", str(path / "predict"), "--overwrite"))


def _facts(folder: DemoFolder) -> list[tuple[str, str]]:
    settings = folder.settings
    return folder.facts(
        ("clips", f"{in_splits(settings.clips)}, {settings.size} px, {settings.seconds} s"),
        ("training", f"{settings.steps} steps; without sound {settings.silent_steps} steps; seed {settings.seed}"),
        ("log-mel framing", settings.framing),
        ("world", settings.world),
    )
