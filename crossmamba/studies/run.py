"""Runs a study: every row with every seed trained and scored in processes of its own, then one table.

    OUT/settings.json             what decides the outcome; another call with other settings is refused
    OUT/prepared/seed0/           what the study makes first, if anything (`Preparation`); done/K: its step K is done
    OUT/ROW/seed0/run/            the run folder of `crossmamba train`
    OUT/ROW/seed0/predictions/    answers by question id, as `crossmamba eval --out` writes them
    OUT/ROW/seed0/scores.json     the test scores; a row and seed that has it is done and not done again
    OUT/study.json, study.md      the table (result.py)

A stopped study goes on from where it was with the same command: finished trainings are kept, others are resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from crossmamba.errors import CrossmambaError, DataError, UsageError
from crossmamba.studies.rows import BASES, Row, Study
from crossmamba.tasks.run_folder import write_text_atomically


@dataclass(frozen=True)
class StudyOptions:
    """How a study is run.

    Args:
        root: of the data set. out: the study's folder.
        seeds: of the trainings. scale: key of `BASES`. split: that is scored.
        train: further arguments of every row's `crossmamba train`. rows: names of the rows to run, None for all.
        prepare: further arguments of the trainings that come before the rows. folds: of cross-fitting, 0 without.
        jobs: trainings side by side. threads: of each; None shares the cores.
    """

    root: Path
    out: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    scale: str = "small"
    split: str = "test"
    train: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    folds: int = 0
    rows: tuple[str, ...] | None = None
    jobs: int = 1
    threads: int | None = None

    def check(self) -> None:
        """Raises UsageError for values that cannot be run with."""
        if self.scale not in BASES:
            raise UsageError(f"scale is {self.scale!r}; allowed: {', '.join(BASES)}")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UsageError(f"seeds are {list(self.seeds)}; give at least one, and none twice")
        if self.jobs < 1 or (self.threads is not None and self.threads < 1):
            raise UsageError(f"--jobs is {self.jobs} and --threads {self.threads}; both must be at least 1")
        if not self.root.is_dir():
            raise DataError(f"{self.root}: there is no such folder (`crossmamba data synth` makes one)")

    def settings(self, study: Study) -> dict[str, Any]:
        """What must be the same when a study goes on; rows and seeds may be added."""
        return {
            "study": study.name,
            "root": str(self.root.resolve()),
            "scale": self.scale,
            "split": self.split,
            "train": list(self.train),
            **({"prepare": list(self.prepare)} if study.preparation(self.scale, self.folds).steps else {}),
            **({"folds": self.folds} if self.folds else {}),  # so that studies from before there were folds go on
        }


@dataclass(frozen=True)
class Job:
    """A training with its scores. `folder`: OUT/ROW/seedN. `headline`: the column that is told at its end."""

    row: Row
    seed: int
    folder: Path
    headline: str = "All"

    @property
    def scores_file(self) -> Path:
        return self.folder / "scores.json"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def train_arguments(self, options: StudyOptions, more: Sequence[str] = ()) -> list[str]:
        """Of `crossmamba train`."""
        base = BASES[options.scale][self.row.model]
        return [
            *("train", "--config", base, "--data.root", str(options.root), "--run.dir", str(self.run)),
            *("--seed", str(self.seed), *self.row.overrides, *more, *options.train),
        ]

    def eval_arguments(self, options: StudyOptions, more: Sequence[str] = ()) -> list[str]:
        """Of `crossmamba eval`."""
        return [
            *("eval", str(self.run), "--data.root", str(options.root), "--split", options.split, "--json"),
            *("--perturb", ",".join(self.row.perturbations), "--out", str(self.folder / "predictions"), "--overwrite"),
            *more,
        ]


class Prepared:
    """What a study makes before its rows, once a seed; who comes while another makes it waits.

    Args:
        study, options: see there.
    """

    def __init__(self, study: Study, options: StudyOptions) -> None:
        self.options, self.about = options, study.preparation(options.scale, options.folds)
        self._locks = {seed: threading.Lock() for seed in options.seeds}

    def make(self, seed: int, processes: Processes) -> None:
        """Does the steps that are not done."""
        folder = self.folder(seed)
        with self._locks[seed]:
            for number, step in enumerate(self.about.steps):
                mark = folder / "done" / str(number)
                if mark.exists():
                    continue
                arguments = self.filled(step, seed)
                if arguments[0] == "train":
                    arguments = resumed([*arguments, *self.options.prepare])
                if "--out" in arguments:  # the commands want its folder to be there
                    Path(arguments[arguments.index("--out") + 1]).parent.mkdir(parents=True, exist_ok=True)
                processes.run(arguments, folder / "log.txt")
                mark.parent.mkdir(parents=True, exist_ok=True)
                mark.touch()

    def folder(self, seed: int) -> Path:
        """OUT/prepared/seedN."""
        return self.options.out / "prepared" / f"seed{seed}"

    def filled(self, texts: Sequence[str], seed: int) -> list[str]:
        """The texts with their places filled in."""
        places = {"{root}": str(self.options.root), "{seed}": str(seed), "{prepared}": str(self.folder(seed))}
        filled = list(texts)
        for place, value in places.items():
            filled = [text.replace(place, value) for text in filled]
        return filled


def resumed(arguments: Sequence[str]) -> list[str]:
    """Arguments of `crossmamba train`: those of a new run, or of the same one resumed where it was stopped."""
    run = Path(arguments[arguments.index("--run.dir") + 1])
    if (run / "config.yaml").exists():
        return ["train", "--resume", str(run)]
    if run.exists():  # a process killed while it made the folder leaves one that can neither be resumed nor written
        shutil.rmtree(run)
    return list(arguments)


def slug(name: str) -> str:
    """A row's name as a folder's: "CM / CM III" -> "cm-cm-iii"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Processes:
    """Commands of a study in processes of their own, which end together when one fails or the study is interrupted."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.stopping = False
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()

    def run(self, arguments: Sequence[str], log: Path) -> str:
        """Runs `crossmamba ARGUMENTS` and returns its standard output; its standard error goes to `log`.

        Raises:
            CrossmambaError: it failed; its last words are told. Bad data and wrong usage stay that.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with open(log, "a", encoding="utf-8") as errors:
            errors.write(f"$ crossmamba {shlex.join(arguments)}\n")
            errors.flush()
            with self._lock:
                if self.stopping:
                    raise CrossmambaError("stopped")
                process = subprocess.Popen(
                    [sys.executable, "-m", "crossmamba", *arguments],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                )
                self._running.add(process)
            output, _ = process.communicate()
        with self._lock:
            self._running.discard(process)
        if process.returncode:
            kind = {2: UsageError, 3: DataError}.get(process.returncode, CrossmambaError)
            raise kind(
                f"`crossmamba {arguments[0]}` ended with exit code {process.returncode}: {_last_line(log)} ({log}); "
                "the same study command goes on from here"
            )
        return output

    def stop(self) -> None:
        """Asks all to end; a training finishes its step and writes a checkpoint."""
        with self._lock:
            self.stopping = True
            for process in self._running:
                process.send_signal(signal.SIGTERM)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].rpartition("\r")[2].removeprefix("crossmamba: ") if lines else "it said nothing"


def jobs_of(study: Study, options: StudyOptions) -> list[Job]:
    """All trainings, the first seed of every row first: an early look at the table has all rows."""
    rows = study.chosen(None if options.rows is None else list(options.rows))
    return [
        Job(row, seed, options.out / slug(row.name) / f"seed{seed}", study.headline)
        for seed in options.seeds
        for row in rows
    ]


def run_study(study: Study, options: StudyOptions, *, progress: bool = True) -> list[Job]:
    """Does what is not done yet.

    Returns:
        All jobs of the study, each with its `scores.json`.

    Raises:
        UsageError: options that cannot be run with, or a folder of another study.
        CrossmambaError: a training or evaluation failed; what was finished stays.
    """
    options.check()
    jobs = jobs_of(study, options)
    _claim(study, options)
    waiting = [job for job in jobs if not job.scores_file.exists()]
    threads = options.threads or max(1, (os.cpu_count() or 1) // options.jobs)
    processes, prepared = Processes(threads), Prepared(study, options)
    bar = tqdm(
        total=len(jobs), initial=len(jobs) - len(waiting), desc=study.name, unit="training", disable=not progress
    )
    with bar, _sigterm_as_interrupt(), ThreadPoolExecutor(max_workers=options.jobs) as pool:
        first = dict.fromkeys(job.seed for job in waiting)  # so that no row waits for its seed while a core is idle
        futures = [pool.submit(prepared.make, seed, processes) for seed in first]
        futures += [pool.submit(_do, job, prepared, processes, bar) for job in waiting]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
        except BaseException:
            processes.stop()
            for future in futures:
                future.cancel()
            raise
    return jobs


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the study as Ctrl+C does, and so reaches its processes. Only the main thread may set signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _do(job: Job, prepared: Prepared, processes: Processes, bar: tqdm[Any]) -> None:
    prepared.make(job.seed, processes)  # waits for it, if it is being made
    started, options, log = time.monotonic(), prepared.options, job.folder / "log.txt"
    trained = job.run / "finished"
    if not trained.exists():
        more = prepared.filled(prepared.about.train, job.seed)
        processes.run(resumed(job.train_arguments(options, more)), log)
        trained.touch()
    scores = processes.run(job.eval_arguments(options, prepared.filled(prepared.about.evaluate, job.seed)), log)
    write_text_atomically(job.scores_file, scores)
    seconds = time.monotonic() - started
    told = _headline(json.loads(scores), job.headline)
    bar.write(f"{job.row.name}, seed {job.seed}: {told} ({seconds:.0f} s)", file=sys.stderr)
    bar.update()


def _headline(scores: dict[str, Any], column: str) -> str:
    shares = {name: values["accuracy"][column] for name, values in scores["scores"].items()}
    return ", ".join(
        f"{name} {column} {'-' if share is None else f'{100 * share:.1f}'}" for name, share in shares.items()
    )


def _claim(study: Study, options: StudyOptions) -> None:
    """Writes settings.json, or checks that the folder's are the same."""
    path, settings = options.out / "settings.json", options.settings(study)
    if path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path}: {error}; give another --out") from error
        keys = dict.fromkeys((*settings, *before))
        changed = [f"{key} was {before.get(key)!r}" for key in keys if before.get(key) != settings.get(key)]
        if changed:
            raise UsageError(
                f"{options.out} holds a study with other settings ({'; '.join(changed)}); give another --out"
            )
        return
    if options.out.exists() and any(options.out.iterdir()):
        raise UsageError(f"{options.out} is not empty and holds no study; give another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, json.dumps(settings, indent=1) + "\n")
