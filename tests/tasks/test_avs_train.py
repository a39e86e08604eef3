"""`crossmamba train` on a tiny AVS-Mamba and the synthetic world, in this process."""

import json
import shutil

import pytest
import torch

from crossmamba.cli import main
from crossmamba.encoders import build_picture_encoder
from crossmamba.models import from_pretrained
from crossmamba.tasks.evaluate import evaluate_avs
from crossmamba.tasks.progress import read_table
from crossmamba.tasks.resume import load_checkpoint


def test_run_folder_can_be_read_by_a_stranger(tiny_run, world):
    names = {path.relative_to(tiny_run).as_posix() for path in tiny_run.rglob("*") if path.is_file()}
    assert {"config.yaml", "metrics.csv", "environment.txt", "model/config.json", "model/model.safetensors"} <= names
    assert {"checkpoints/last.ckpt", "checkpoints/best.ckpt"} <= names
    assert any(name.startswith("tb/events") for name in names)
    rows = read_table(tiny_run / "metrics.csv")
    assert [(row["step"], row["epoch"]) for row in rows] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert all("train/loss" in row for row in rows)
    assert all({"val/M_J", "val/M_F", "val/loss", "bad_samples"} <= row.keys() for row in (rows[2], rows[5]))
    assert rows[5]["lr"] < rows[2]["lr"]
    environment = (tiny_run / "environment.txt").read_text()
    for part in ("command: ", "torch ", "git commit: ", "device: cpu"):
        assert part in environment
    card = json.loads((tiny_run / "model" / "config.json").read_text())
    assert card["preprocessing"]["framing"] == "aligned"
    assert "synthetic" in card["metadata"]["trained_on"]
    best = max(rows[2], rows[5], key=lambda row: row["val/M_J"])
    assert card["metadata"]["step"] == best["step"]
    assert card["metadata"]["metrics"]["val/M_J"] == best["val/M_J"]


def test_exported_model_is_the_best_and_scores_as_in_training(tiny_run, world):
    model = from_pretrained(tiny_run / "model")
    best = load_checkpoint(tiny_run / "checkpoints" / "best.ckpt")["state_dict"]
    assert all(torch.equal(best[f"model.{name}"], value) for name, value in model.state_dict().items())
    scores = evaluate_avs(model, world, "ms3", "val", progress=False)["none"]
    said = model.card["metadata"]["metrics"]
    assert scores["M_J"] == pytest.approx(said["val/M_J"], abs=1e-6)
    assert scores["M_F"] == pytest.approx(said["val/M_F"], abs=1e-6)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, tiny_run, train_tiny, workers):
    """The real task, with augmentation and drop path, in the middle of an epoch."""
    run = tmp_path / "run"
    callback = "[{class_path: kill_callbacks.SignalAt, init_args: {step: 4, name: SIGTERM}}]"
    options = ("--data.num_workers", workers, "--data.cache_in_memory", "false")
    assert train_tiny(run, "--trainer.callbacks", callback, *options) == 143
    assert main(["train", "--resume", str(run), "--trainer.callbacks", "null"]) == 0
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (run, tiny_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (read_table(path / "metrics.csv") for path in (run, tiny_run))
    assert [{**row, "seconds": 0} for row in ours] == [{**row, "seconds": 0} for row in theirs]
    assert (run / "config_until_step_4.yaml").exists()  # the changed setting's old value is kept


def test_nothing_is_overwritten_unasked(tmp_path, tiny_run, train_tiny, capsys):
    before = {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")}
    assert train_tiny(tiny_run) == 2
    message = capsys.readouterr().err
    assert "--resume" in message
    assert "--run.overwrite true" in message
    assert {path: path.stat().st_mtime_ns for path in tiny_run.rglob("*")} == before
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    assert train_tiny(other, "--run.overwrite", "true") == 2
    assert (other / "chapter.txt").exists()
    copy = tmp_path / "copy"
    shutil.copytree(tiny_run, copy)
    assert train_tiny(copy, "--run.overwrite", "true", "--trainer.max_epochs", "1") == 0
    assert len(read_table(copy / "metrics.csv")) == 3


def test_a_command_that_fails_at_once_leaves_no_folder(tmp_path, train_tiny, capsys):
    assert train_tiny(tmp_path / "run", root=tmp_path / "nowhere") == 3
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.depth", "3"], "Option 'depth' is not accepted"),
        (["--model.model_args.depth", "3"], "avs_mamba_small has no argument depth"),
        (["--model.model", "avs_mamba_huge"], "there is no model 'avs_mamba_huge'"),
        (["--data.batch_size", "two"], "batch_size: expected int, got two"),
        (["--data.subset", "s5"], "'s4', 'ms3'"),
        (["--data.augment.hflop", "1"], "Option 'hflop' is not accepted"),
        (["--trainer.max_epoch", "3"], "unrecognized arguments: --trainer.max_epoch"),
        (["--model.nan_policy", "hope"], "nan_policy 'hope' is unknown"),
        (["--data.seed", "3"], "give --seed N"),
        (["--resume", "somewhere"], "somewhere is not a run folder"),
    ],
)
def test_wrong_arguments_end_in_one_line_and_exit_code_2(tmp_path, train_tiny, capsys, arguments, words):
    assert train_tiny(tmp_path / "run", *arguments) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert "Union" not in message


def test_what_is_missing_is_named(tmp_path, capsys):
    assert main(["train", "--config", "avs/demo"]) == 2
    assert "--data.root DIR" in capsys.readouterr().err
    assert main(["train"]) == 2
    assert "--config FILE" in capsys.readouterr().err
    assert main(["train", "--config", "avs/dmeo"]) == 2
    assert "avs/demo" in capsys.readouterr().err
    broken = tmp_path / "broken.yaml"
    broken.write_text("modle: {depth: 3}\n")
    assert main(["train", "--config", str(broken)]) == 2
    assert "modle" in capsys.readouterr().err


def test_bad_training_clip_is_replaced_and_counted_and_a_bad_test_clip_is_an_error(
    tmp_path, world, tiny_run, train_tiny, capsys
):
    root = tmp_path / "world"
    shutil.copytree(world, root)
    data = root / "Multi-sources" / "ms3_data"
    for split in ("train", "test"):
        first = sorted((data / "gt_masks" / split).iterdir())[0]
        (first / f"{first.name}_2.png").write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match=r"unreadable training sample .*_2\.png"):
        assert train_tiny(tmp_path / "run", "--trainer.limit_train_batches", "1.0", root=root) == 0
    assert read_table(tmp_path / "run" / "metrics.csv")[-1]["bad_samples"] == 1
    capsys.readouterr()
    for workers in ("0", "2"):
        assert main(["eval", str(tiny_run), "--data.root", str(root), "--workers", workers]) == 3
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert "_2.png" in last
        assert "Traceback" not in last


def test_picture_encoder_is_frozen_first_and_then_learns(tmp_path, train_tiny):
    weights = tmp_path / "picture.pt"
    torch.save(build_picture_encoder("small_pyramid").state_dict(), weights)
    options = ("--model.picture_weights", str(weights), "--model.freeze_picture_epochs", "1")
    assert train_tiny(tmp_path / "one", *options, "--trainer.max_epochs", "1") == 0
    assert train_tiny(tmp_path / "two", *options) == 0
    given = torch.load(weights, weights_only=True)

    def unchanged(run: str) -> list[bool]:
        state = load_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")["state_dict"]
        return [torch.equal(state[f"model.picture.{name}"], value) for name, value in given.items()]

    assert all(unchanged("one"))
    assert not any(unchanged("two"))


def test_options_of_the_recipe_run(tmp_path, train_tiny):
    options = (
        "--trainer.precision bf16-mixed --trainer.accumulate_grad_batches 2 --model.gradient_checkpointing true "
        "--model.loss dice --model.encoder_lr_scale 0.1 --data.perturbation silence --trainer.max_epochs 1"
    )
    assert train_tiny(tmp_path / "run", *options.split()) == 0
    assert [row["step"] for row in read_table(tmp_path / "run" / "metrics.csv")] == [1, 2]


def test_choosing_on_test_is_possible_and_announced(tmp_path, train_tiny):
    with pytest.warns(UserWarning, match="optimistic"):
        assert train_tiny(tmp_path / "run", "--data.select_on", "test", "--trainer.max_epochs", "1") == 0
    assert "test/M_J" in read_table(tmp_path / "run" / "metrics.csv")[-1]
    card = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert card["metadata"]["selected_on"] == "test"
