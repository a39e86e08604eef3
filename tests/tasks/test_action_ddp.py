"""Actions on two processes (DDP over gloo) give the rows of one process with the same samples in each step."""

import json

import action_toy
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


# With clips 130 s, with tokens 41 s, on one core beside a load of 16.
@pytest.mark.parametrize("way", [pytest.param("clips", marks=pytest.mark.slow), "tokens", "action head"])
def test_two_processes_give_the_rows_of_one(tmp_path, processes, way):  # noqa: F811
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
    one, two = tmp_path / "one", tmp_path / "two"
    assert processes([*common, "--data.batch_size", "4", "--run.dir", str(one)]) == [0]
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.batch_size", "2"]
    assert processes([*common, *ddp, "--run.dir", str(two)], ranks=2) == [0, 0]
    ours, theirs = (read_table(run / "metrics.csv") for run in (two, one))
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [1, 2]
    assert ours[-1].keys() == theirs[-1].keys() >= {"val/verb", "val/noun", "val/action", "val/action5", "val/loss"}
    for mine, other in zip(ours, theirs, strict=True):
        assert {**mine, "seconds": 0} == pytest.approx({**other, "seconds": 0}, rel=1e-4)
    ours, theirs = (load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"] for run in (two, one))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    metrics = [json.loads((run / "model" / "config.json").read_text())["metadata"]["metrics"] for run in (two, one)]
    assert metrics[0]["val/verb"] == metrics[1]["val/verb"]
