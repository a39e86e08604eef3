"""What the demos share: the folder with its finished stages, commands in processes of their own, what is printed.

A demo's folder has `demo.json`: its settings, and which stages are done in how many seconds. What is done is not
done again; a demo with other settings takes another folder.
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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossmamba.errors import CrossmambaError, DataError, UsageError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class DemoFolder:
    """The output folder and the list of finished stages."""

    def __init__(self, path: Path, settings: DataclassInstance) -> None:
        self.path = path
        self.settings = settings
        self._state_file = path / "demo.json"
        state = read_json(self._state_file)
        self.seconds: dict[str, float] = state.get("seconds", {})

    @classmethod
    def open(cls, wanted: str | Path, settings: DataclassInstance) -> DemoFolder:
        """The folder of a demo with these settings, see `choose_folder`; nothing is written yet."""
        return cls(choose_folder(wanted, settings), settings)

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

    def scores(self, score: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stage that scores the test split, and what it wrote to scores.json, now or before."""
        file = self.path / "scores.json"
        self.stage("scores", "scoring the test split", lambda: write_json(file, score()))
        return read_json(file)

    def announce(self, demo: str, seconds: float, steps: Sequence[str], warning: str) -> None:
        """Says what will be done.

        Args:
            demo: the command. seconds: about how long it takes on two cores.
            steps: what comes after what; where a text has several lines, they are indented. warning: comes last.
        """
        say(f"{demo}, in {self.path} (about {max(1, round(seconds / 60))} minutes on two CPU cores)")
        for number, step in enumerate(steps, start=1):
            say(f"  {number}. " + step.replace("\n", "\n     "))
        say(warning + "\n")

    def facts(self, *lines: tuple[str, str]) -> list[tuple[str, str]]:
        """The report's "How it was made": the command that ran, the lines of the demo, the time of each stage."""
        times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in self.seconds.items())
        return [("command", shlex.join(["crossmamba", *sys.argv[1:]])), *lines, ("time", times)]

    def say_where(self, names: Sequence[str], *trial: str) -> None:
        """Says what there is to open, of these names in the folder, and then the lines that say what to try."""
        say("Open:")
        for name in names:
            if (self.path / name).exists():
                say(f"  {self.path / name}")
        for line in trial:
            say(line)

    def save(self) -> None:
        """Writes demo.json, atomically."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self._state_file, {"settings": plain(self.settings), "seconds": self.seconds})


def choose_folder(wanted: str | Path, settings: DataclassInstance) -> Path:
    """`wanted` if it is free or holds a demo with these settings; else the first such among `wanted-2`, `-3`, ..."""
    wanted = Path(wanted)
    for number in range(1, 1000):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return path
        if read_json(path / "demo.json").get("settings") == plain(settings):
            return path
    raise UsageError(f"{wanted} and 999 folders like it are taken; give another --out")


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


def together(front: Sequence[str], *others: tuple[Sequence[str], Path]) -> None:
    """Runs a command whose output is shown, and beside it others, one after the other; each has half of the cores.

    Args:
        front: the arguments of the command that is shown.
        others: (arguments, file for the output).

    Raises:
        CrossmambaError: one failed; what still ran was asked to end.
    """
    threads = max(1, (os.cpu_count() or 1) // 2)
    waiting = list(others)
    running: list[Command] = []

    def start_next() -> None:
        if waiting:
            arguments, log = waiting.pop(0)
            log.parent.mkdir(parents=True, exist_ok=True)
            running.append(start(*arguments, threads=threads, log=log))

    try:
        start_next()
        running.insert(0, start(*front, threads=threads))
        while len(running) > 1:
            finish(running[-1])
            running.pop()
            start_next()
        finish(running[0])
    except BaseException:
        for command in running:
            command.terminate()  # a training writes a checkpoint, from which the same demo goes on
            command.process.wait()
        raise


def train_command(config: str, run: Path, seed: int, data: Path, *options: str) -> tuple[str, ...]:
    """The arguments of `crossmamba` that train as a user would, or go on with a training that was stopped.

    Args:
        config: a shipped configuration. run: the run's folder. data: root of the set.
        options: further arguments of a new training; one that goes on has its own.
    """
    if (run / "config.yaml").exists():
        return ("train", "--resume", str(run))
    fresh = ("train", "--config", config, "--run.dir", str(run), "--seed", str(seed), "--data.root", str(data))
    return (*fresh, *options)


def by_split(numbers: Sequence[int]) -> dict[str, int]:
    """Numbers of train, val and test clips by the names of the splits."""
    return dict(zip(("train", "val", "test"), numbers, strict=True))


def in_splits(numbers: Sequence[int]) -> str:
    """Numbers of train, val and test clips in words."""
    return "{} train, {} val, {} test".format(*numbers)


def copy_folder(source: Path, target: Path) -> None:
    """Copies a folder's files into another, over what is there."""
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)


def page_links(folder: Path, *files: Path) -> list[tuple[str, str]]:
    """What a report in `folder` links to: name and relative path of those files below it that are there."""
    return [(file.name, file.relative_to(folder).as_posix()) for file in files if file.exists()]


def page_video(video: Path | None, second: float) -> dict[str, Any]:
    """The report's `video` and its `poster`, uint8 (H, W, 3), the picture at a second; None where there is no video."""
    if video is None or not video.exists():
        return {"video": None, "poster": None}
    from crossmamba.data.media import frames_at

    return {"video": video, "poster": next(iter(frames_at(video, [second]))).rgb()}


def say(text: str) -> None:
    """Prints at once, so that lines keep their place among those of the commands."""
    print(text, flush=True)


def plain(settings: DataclassInstance) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    return json.loads(json.dumps(asdict(settings)))


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if there is none. Raises DataError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path}: {error}; delete the file, or give another --out") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
