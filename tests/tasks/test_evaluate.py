import json

import numpy as np
import pytest
import torch
from PIL import Image

from crossmamba.cli import main
from crossmamba.errors import UsageError
from crossmamba.models import AVSOutput, create_model, from_pretrained
from crossmamba.tasks.evaluate import evaluate_avs, table, without_worker_traceback


@pytest.fixture(scope="module")
def model(tiny_run):
    return from_pretrained(tiny_run / "model")


class Ear(torch.nn.Module):
    """Marks everything in seconds that are not silent."""

    def __init__(self, card):
        super().__init__()
        self.card = card
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, frames, log_mel):
        loud = log_mel.flatten(2).amax(-1) > -4.0
        logits = torch.where(loud, 9.0, -9.0)[:, :, None, None, None].expand(-1, -1, 1, *frames.shape[-2:])
        return AVSOutput(logits)


class Eye(Ear):
    """Marks what is bright, surely or less so."""

    def forward(self, frames, log_mel):
        return AVSOutput(3 * frames.mean(2, keepdim=True))


def test_scores_do_not_depend_on_the_loader(model, world):
    one = evaluate_avs(model, world, "ms3", batch_size=1, progress=False)
    three = evaluate_avs(model, world, "ms3", batch_size=3, num_workers=1, progress=False)
    assert one["none"]["M_J"] == pytest.approx(three["none"]["M_J"], abs=1e-6)
    assert one["none"]["M_F_official"] == pytest.approx(three["none"]["M_F_official"], abs=1e-6)
    assert (one["none"]["clips"], one["none"]["frames"]) == (4, 20)
    assert len(one["none"]["M_J_per_second"]) == 5


def test_perturbations_reach_the_model_and_their_cost_is_told(model, world):
    scores = evaluate_avs(model, world, "ms3", perturbations=("none", "silence", "swap"), progress=False)
    assert scores["none"]["delta_M_J"] == 0
    assert scores["silence"]["delta_M_J"] == pytest.approx(scores["none"]["M_J"] - scores["silence"]["M_J"])
    text = table(scores, model="m", data="d")
    assert "protocol dataset" in text
    assert "1 clip per batch" in text
    assert [line.split()[0] for line in text.splitlines()[3:]] == ["none", "silence", "swap"]

    heard = evaluate_avs(Ear(model.card), world, "ms3", perturbations=("none", "silence"), progress=False)
    assert heard["silence"]["FPR"] == 0
    assert heard["silence"]["black_kept"] == 1
    assert heard["none"]["FPR"] > 0.5


def test_a_model_in_training_mode_is_scored_in_eval_mode_and_left_as_it_was(model, world):
    reference = evaluate_avs(model, world, "ms3", progress=False)
    model.train()
    assert evaluate_avs(model, world, "ms3", progress=False) == reference
    assert model.training
    model.eval()


def test_model_without_a_card_needs_its_preprocessing(world):
    bare = create_model("avs_mamba_small", width=16, fusion="none", mte_layers=0, cip_temporal=False)
    with pytest.raises(UsageError, match="preprocessing"):
        evaluate_avs(bare, world, "ms3", progress=False)
    how = {"image_size": 32, "framing": "aligned", "seconds": 5}
    assert evaluate_avs(bare, world, "ms3", preprocessing=how, progress=False)["none"]["clips"] == 4


def test_written_masks_score_as_the_model_did(tmp_path, model, world, capsys):
    truth = world / "Multi-sources" / "ms3_data" / "gt_masks" / "test"
    for soft in (False, True):
        out = tmp_path / f"soft {soft}"
        said = evaluate_avs(Eye(model.card), world, "ms3", out=out, soft=soft, progress=False)["none"]
        assert {p.relative_to(out) for p in out.rglob("*.png")} == {p.relative_to(truth) for p in truth.rglob("*.png")}
        masks = np.stack([np.asarray(Image.open(path)) for path in sorted(out.rglob("*.png"))])
        assert said["FPR"] == pytest.approx((masks > 127.5).mean(), abs=1e-6)
        assert (len(np.unique(masks)) > 2) is soft
        assert main(["score", "avs", "--pred", str(out), "--gt", str(truth), "--json"]) == 0
        judged = json.loads(capsys.readouterr().out)["scores"]
        assert judged["M_J"] == pytest.approx(said["M_J"], abs=1e-6)
        if soft:
            assert judged["M_F"] == pytest.approx(said["M_F"], abs=0.01)  # 8 bits


def test_masks_are_written_at_the_truths_size_whatever_the_models_is(tmp_path, model, world):
    card = {**model.card, "preprocessing": {**model.card["preprocessing"], "image_size": 64}}
    truth = world / "Multi-sources" / "ms3_data" / "gt_masks" / "test"
    evaluate_avs(Eye(card), world, "ms3", out=tmp_path, soft=True, clips=1, progress=False)
    for path in tmp_path.rglob("*.png"):
        assert Image.open(path).size == Image.open(truth / path.relative_to(tmp_path)).size != (64, 64)


def test_command_prints_json_and_does_not_overwrite(tmp_path, tiny_run, world, capsys):
    out = tmp_path / "masks"
    arguments = [
        "eval",
        str(tiny_run),
        "--data.root",
        str(world),
        "--json",
        "--perturb",
        "none,swap",
        "--out",
        str(out),
    ]
    assert main(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["scores"].keys() == {"none", "swap"}
    assert {path.name for path in out.iterdir()} == {"none", "swap"}
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--perturb", "none,sihlence"], 2, "sihlence"),
        (["--batch-size", "0"], 2, "--batch-size is 0"),
        (["--subset", "s4"], 3, "s4_meta_data.csv"),
        (["--device", "tpu"], 2, "tpu"),
    ],
)
def test_wrong_arguments_are_told(tiny_run, world, capsys, arguments, code, words):
    assert main(["eval", str(tiny_run), "--data.root", str(world), *arguments]) == code
    assert words in capsys.readouterr().err


def test_errors_of_loader_workers_lose_their_traceback():
    raw = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback:\n  File x\n"
    raw += "crossmamba.errors.DataError: a.png: empty\n"
    assert without_worker_traceback(raw) == "a.png: empty"
    assert without_worker_traceback("a.png: empty") == "a.png: empty"
