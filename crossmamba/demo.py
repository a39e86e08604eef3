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

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossmamba.demo_page import build_page, score_rows
from crossmamba.errors import CrossmambaError, DataError, UsageError
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


class DemoFolder:
    """The output folder and the list of finished stages."""

    def __init__(self, path: Path, settings: DemoSettings) -> None:
        self.path = path
        self.settings = settings
        self._state_file = path / "demo.json"
        state = _read_json(self._state_file)
        self.seconds: dict[str, float] = state.get("seconds", {})

    def done(self, stage: str) -> bool:
        """Whether a stage was finished here."""
        return stage in self.seconds

    def stage(self, stage: str, text: str, work: Callable[[], object]) -> None:
        """Does a stage unless it was done, and says so."""
        if self.done(stage):
            say(f"[{stage}] done before, kept")
            return
        say(f"[{stage}] {text}")
        started = time.monotonic()
        work()
        self.seconds[stage] = round(time.monotonic() - started, 1)
        self.save()
        say(f"[{stage}] {self.seconds[stage]:.0f} s")

    def save(self) -> None:
        """Writes demo.json, atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        _write_json(self._state_file, {"settings": _plain(self.settings), "seconds": self.seconds})


def choose_folder(wanted: str | Path, settings: DemoSettings) -> Path:
    """`wanted` if it is free or holds a demo with these settings; else the first such among `wanted-2`, `-3`, ..."""
    wanted = Path(wanted)
    for number in range(1, 1000):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return path
        if _read_json(path / "demo.json").get("settings") == _plain(settings):
            return path
    raise UsageError(f"{wanted} and 999 folders like it are taken; give another --out")


def run_demo(out: str | Path, settings: DemoSettings, *, predict: bool = True) -> dict[str, Any]:
    """Runs the stages that are not done yet and returns the scores (`scores.json`).

    Raises:
        CrossmambaError: a stage failed. What was finished stays, and the same call goes on from there.
    """
    folder = DemoFolder(choose_folder(out, settings), settings)
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
    folder.stage("model", "copying the best checkpoint", lambda: _copy_model(run / "model", path / "model"))
    scores_file = path / "scores.json"
    folder.stage("scores", "scoring the test split", lambda: _write_json(scores_file, score_runs(data, run, silent)))
    scores = _read_json(scores_file)
    print(f"\nTest split, {settings.clips[2]} clips that were never trained on, in per cent:\n")
    print(text_table(score_rows(scores)) + "\n", flush=True)
    if predict:
        folder.stage("predict", "marking who sounds in a test video", lambda: _predict(path, data))
    page = build_page(path, data, {"this run": run, "without sound": silent}, scores, _facts(folder))
    write_report(path / "report.html", page)
    _say_where(path)
    return scores


def _announce(folder: DemoFolder, predict: bool) -> None:
    settings = folder.settings
    steps = max(settings.steps, settings.silent_steps)  # side by side
    minutes = (30 + sum(settings.clips) * 0.05 + steps * STEP_SECONDS) / 60
    say(f"crossmamba demo, in {folder.path} (about {max(1, round(minutes))} minutes on two CPU cores)")
    say("  1. render a small set of videos with sound to files, in the layout of AVSBench MS3")
    say("  2. train a small AVS-Mamba to mark who sounds, and once more without any sound")
    say("  3. score it on clips it never saw, with the sound silenced and swapped, and against exact bounds")
    say("  4. " + ("mark who sounds in an mp4, and write" if predict else "write") + " a report to open in a browser")
    say(WARNING + "\n")


def render_set(data: Path, settings: DemoSettings, videos: int = VIDEOS) -> None:
    """Renders the synthetic set of these settings, with so many mp4 files per split; what is there already is kept."""
    from crossmamba.data.synth import synthesize

    synthesize(
        "ms3",
        data,
        clips=dict(zip(("train", "val", "test"), settings.clips, strict=True)),
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
    threads = max(1, (os.cpu_count() or 1) // 2)
    silent.parent.mkdir(parents=True, exist_ok=True)
    log = silent.with_suffix(".log")
    beside = start(*training(silent, data, settings, silent=True), threads=threads, log=log)
    try:
        finish(start(*training(run, data, settings), threads=threads))
    except BaseException:
        beside.terminate()  # it writes a checkpoint, from which the same demo goes on
        beside.process.wait()
        raise
    finish(beside)


def train_run(run: Path, data: Path, settings: DemoSettings, *, silent: bool = False) -> None:
    """One training by itself; arguments as `training`."""
    finish(start(*training(run, data, settings, silent=silent)))


def training(run: Path, data: Path, settings: DemoSettings, *, silent: bool = False) -> tuple[str, ...]:
    """The arguments of `crossmamba` that train as a user would, or go on with a training that was stopped.

    Args:
        silent: replace all sound by silence, and take `silent_steps` in place of `steps`.
    """
    if (run / "config.yaml").exists():
        return ("train", "--resume", str(run))
    epochs, length = epochs_of(settings, settings.silent_steps if silent else settings.steps)
    return (
        *("train", "--config", CONFIG, "--run.dir", str(run), "--seed", str(settings.seed)),
        *("--data.root", str(data), "--data.image_size", str(settings.size), "--data.framing", settings.framing),
        *("--data.seconds", str(settings.seconds), "--data.batch_size", str(settings.batch_size)),
        *("--trainer.max_epochs", str(epochs), "--trainer.limit_train_batches", str(length)),
        *settings.options,
        *(("--data.perturbation", "silence") if silent else ()),
    )


@dataclass
class Command:
    """A running `crossmamba` command. `log`: the file that has its output, if it is not shown."""

    verb: str
    process: subprocess.Popen[bytes]
    log: Path | None

    def terminate(self) -> None:
        """Asks it to stop; a training finishes its step and writes a checkpoint."""
        self.process.terminate()


def start(*arguments: str, threads: int | None = None, log: Path | None = None) -> Command:
    """Starts a `crossmamba` command in a process of its own, and shows it first."""
    say("  $ crossmamba " + shlex.join(arguments) + (f"  > {log}" if log else ""))
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with open(log, "ab") if log else contextlib.nullcontext() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "crossmamba", *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
        )
    return Command(arguments[0], process, log)


def finish(command: Command) -> None:
    """Waits for a command.

    Raises:
        CrossmambaError: it failed; its own message has been printed, or is in its log. Bad data and wrong usage stay
            that.
    """
    try:
        code = command.process.wait()
    except KeyboardInterrupt:
        command.process.wait()  # it got the signal too, and writes a checkpoint
        raise
    if code:
        kind = {2: UsageError, 3: DataError}.get(code, CrossmambaError)
        where = f" (see {command.log})" if command.log else ""
        raise kind(
            f"`crossmamba {command.verb}` ended with exit code {code}{where}; the same command goes on from here."
        )


def _copy_model(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)


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
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in folder.seconds.items())
    return [
        ("command", shlex.join(["crossmamba", *sys.argv[1:]])),
        ("clips", "{} train, {} val, {} test".format(*settings.clips) + f", {settings.size} px, {settings.seconds} s"),
        ("training", f"{settings.steps} steps; without sound {settings.silent_steps} steps; seed {settings.seed}"),
        ("log-mel framing", settings.framing),
        ("world", settings.world),
        ("time", times),
    ]


def _say_where(path: Path) -> None:
    say("Open:")
    for name in ("report.html", "predict/overlay.mp4", "scores.json", "model"):
        if (path / name).exists():
            say(f"  {path / name}")
    say(f"Try it on a video of yours: crossmamba predict VIDEO --model {path} --out out")


def say(text: str) -> None:
    """Prints at once, so that lines keep their place among those of the commands."""
    print(text, flush=True)


def _plain(settings: DemoSettings) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    return json.loads(json.dumps(asdict(settings)))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path}: {error}; delete the file, or give another --out") from error


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
