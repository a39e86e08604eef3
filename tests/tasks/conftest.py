"""A small synthetic set, made once, and a command line that trains a tiny AVS-Mamba on it in a second."""

from pathlib import Path

import pytest

from crossmamba.cli import main
from crossmamba.data.synth import synthesize

TINY = (
    "--data.image_size 32 --data.batch_size 2 --model.model_args.width 16 --model.model_args.d_state 2 "
    "--model.model_args.scan_orders 2 --model.model_args.drop_path 0.1 --model.warmup_steps 2 "
    "--trainer.limit_train_batches 3 --trainer.max_epochs 2 --trainer.enable_progress_bar false --run.log_every 1"
)  # 2 epochs x 3 steps


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
