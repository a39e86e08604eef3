"""The folder of a training run, made to be read by a stranger.

RUN/config.yaml         every setting, resolved; `crossmamba train --resume RUN` continues from it
RUN/environment.txt     versions, device, git commit and command of each start
RUN/metrics.csv         one row per logged step: step, epoch (from 1), seconds, train/loss, val/M_J, ...
RUN/checkpoints/        last.ckpt (everything, for resuming), best.ckpt (weights of the best validation)
RUN/model/              the best model as safetensors: what `eval`, `predict` and `from_pretrained` take
RUN/predictions/        where `crossmamba eval RUN --out RUN/predictions` writes masks
RUN/tb/                 TensorBoard
"""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from crossmamba.errors import UsageError

PACKAGES = ("crossmamba", "torch", "lightning", "transformers", "numpy", "av", "safetensors", "jsonargparse")


class RunFolder:
    """Paths of a run and the rules for writing there. `RunFolder(path)` touches nothing."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"
        self.environment = self.path / "environment.txt"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.model = self.path / "model"
        self.predictions = self.path / "predictions"

    def check_free(self, *, overwrite: bool = False) -> None:
        """Makes sure that a new run may be written here; changes nothing.

        Raises:
            UsageError: it exists and is not empty, and `overwrite` was not asked for or it does not look like a run.
        """
        if self.path.is_dir() and not any(self.path.iterdir()):
            return
        if self.path.exists() and not overwrite:
            raise UsageError(
                f"{self.path} exists. Continue that run with --resume {self.path}, choose another --run.dir, "
                "or replace it with --run.overwrite true"
            )
        if self.path.exists() and not self.config.is_file():
            raise UsageError(f"{self.path} is not a run folder (no config.yaml), so it is not overwritten")

    def create(self) -> None:
        """Makes the folder for a new run; what is there goes. Call `check_free` first."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.checkpoints.mkdir(parents=True)

    def require(self) -> None:
        """Raises UsageError unless this is an existing run."""
        if not self.config.is_file():
            raise UsageError(f"{self.path} is not a run folder: it has no config.yaml")

    def write_config(self, text: str, step: int) -> None:
        """Writes config.yaml; a different earlier one is kept as `config_until_step_N.yaml`."""
        if self.config.exists() and self.config.read_text() != text:
            os.replace(self.config, self.path / f"config_until_step_{step}.yaml")
        write_text_atomically(self.config, text)

    def note_environment(self, device: str) -> None:
        """Appends one block to environment.txt."""
        with open(self.environment, "a") as file:
            file.write("\n".join([*environment_lines(device), "", ""]))


def environment_lines(device: str) -> list[str]:
    """What one needs to repeat a run: time (UTC), command, versions, machine, git commit."""
    versions = [f"{name} {_version(name)}" for name in PACKAGES]
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [
        f"started: {datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}",
        f"command: {shlex.join(sys.argv)}",
        f"folder: {Path.cwd()}",
        f"git commit: {_git_commit()}",
        f"python: {platform.python_version()}",
        *(f"package: {version}" for version in versions),
        f"device: {device}",
        f"machine: {platform.platform()}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        f"gpus: {', '.join(gpus) if gpus else 'none'} (CUDA {torch.version.cuda or 'none'})",
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git_commit() -> str:
    source = Path(__file__).parent
    try:
        _git(source, "ls-files", "--error-unmatch", Path(__file__).name)  # not some other project's checkout around us
        commit = _git(source, "rev-parse", "HEAD")
        changed = _git(source, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return "unknown (the package does not run from a git checkout)"
    return commit + (" with uncommitted changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return result.stdout.strip()


def write_text_atomically(path: Path, text: str) -> None:
    """Writes `path` so that a reader sees the old or the new text, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
