"""Two processes (DDP over gloo) give the rows and weights of one process with the same samples in each step."""

import json

import action_toy
import avqa_toy
import pytest
import torch
from test_killed import processes  # noqa: F401  a fixture

from crossmamba.cli.configs import find_config
from crossmamba.tasks.progress import read_table
from crossmamba.tasks.resume import load_checkpoint

# Plain SGD without clipping: where a gradient is about 0, AdamW makes whole steps of differences of rounding.
OPTIONS = (
    "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --model.optimizer sgd --trainer.gradient_clip_val null"
)


def assert_equal(tmp_path, processes, common, batch, scores, prefix=""):  # noqa: F811
    """`batch` samples a step on one process, and half of them on each of two; the columns that start with `prefix`."""
    one, two = tmp_path / "one", tmp_path / "two"
    assert processes([*common, "--data.batch_size", str(batch), "--run.dir", str(one)]) == [0]
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.batch_size", str(batch // 2)]
    assert processes([*common, *ddp, "--run.dir", str(two)], ranks=2) == [0, 0]
    ours, theirs = (read_table(run / "metrics.csv") for run in (two, one))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2]
    assert ours[-1].keys() == theirs[-1].keys() >= scores
    for mine, other in zip(ours, theirs, strict=True):
        pair = ({k: v for k, v in row.items() if k != "seconds" and k.startswith(prefix)} for row in (mine, other))
        assert next(pair) == pytest.approx(next(pair), rel=1e-4)
    ours, theirs = (load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (two, one))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    metrics = [json.loads((run / "model" / "config.json").read_text())["metadata"]["metrics"] for run in (two, one)]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)


# With clips 130 s, with tokens 41 s, on one core beside a load of 16.
@pytest.mark.parametrize("way", [pytest.param("clips", marks=pytest.mark.slow), "tokens", "action head"])
def test_actions(tmp_path, processes, way):  # noqa: F811
    """8 segments in 2 steps of 4, on one process or 2 + 2; and 5 of validation, which two share unevenly."""
    root = action_toy.make_set(tmp_path / "kitchen")
    path = root / "EPIC_100_validation.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:6]))
    assert len(lines) >= 6
    config, tiny = {
        "clips": ("action/demo_kitchen", action_toy.CLIPS),
        "tokens": ("action/demo_kitchen_tokens", action_toy.TOKENS),
        "action head": (
            "action/demo_kitchen_tokens",
            f"{action_toy.TOKENS} --model.model_args.action_classes 192",
        ),
    }[way]
    common = ["--config", str(find_config(config)), "--data.root", str(root), *tiny.split(), *OPTIONS.split()]
    scores = {"val/verb", "val/noun", "val/action", "val/action5", "val/loss"}
    assert_equal(tmp_path, processes, common, 4, scores)


def test_questions(tmp_path, processes):  # noqa: F811
    """33 questions of validation, which two share unevenly. Batches of questions follow the videos and the number of
    processes, so nothing is learned here."""
    root = avqa_toy.make_set(tmp_path / "avqa")
    common = ["--config", str(find_config("avqa/demo_av_mamba")), "--data.root", str(root)]
    common += [*avqa_toy.TINY.split(), *OPTIONS.split(), "--model.learning_rate", "0"]
    assert_equal(tmp_path, processes, common, 12, {"val/All", "val/loss"}, prefix="val/")
