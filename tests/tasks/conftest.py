"""A small synthetic set, made once, and a command line that trains a tiny AVS-Mamba on it in a second."""

from pathlib import Path

import pytest
from toy import TINY

from crossmamba.cli import main
from crossmamba.data.synth import synthesize


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """An MS3 set of 8 + 3 + 4 clips at 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("world")
    clips = {"train": 8, "val": 3, "test": 4}
    return synthesize("avsbench-ms3", folder, clips=clips, size=32, mp4="none", workers=1, progress=False)


@pytest.fixture(scope="session")
def train_tiny(world):
    """`train_tiny(run, *overrides)` runs `crossmamba train` in this process and returns its exit code."""

    def train(run: Path, *overrides: str, root: Path = world) -> int:
        return main(
            [
                "train",
                "--config",
                "avs/demo",
                "--data.root",
                str(root),
                "--run.dir",
                str(run),
                *TINY.split(),
                *overrides,
            ]
        )

    return train


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, train_tiny) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("tiny") / "run"
    assert train_tiny(run) == 0
    return run
