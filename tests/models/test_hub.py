"""Models by name, and folders that load again or say why not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossmamba import create_model, from_pretrained, list_models, save_pretrained
from crossmamba.errors import CheckpointError, UsageError
from tests.models.test_avs_mamba import clip, tiny

PREPROCESSING = {"image_size": 32, "framing": "aligned", "seconds": 2, "threshold": 0.5}


def test_names_are_listed_and_filtered():
    names = list_models("avs_mamba_*")
    assert {"avs_mamba_small", "avs_mamba_resnet50", *(f"avs_mamba_pvt_v2_b{n}" for n in range(6))} <= set(names)
    assert list_models("nothing*") == []


@pytest.mark.parametrize("name", list_models())
def test_every_registered_model_can_be_built(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in create_model(name).parameters()) > 0


def test_unknown_names_and_arguments_are_usage_errors():
    with pytest.raises(UsageError, match="crossmamba models"):
        create_model("avs_mamba_pvt_v3")
    with pytest.raises(UsageError, match="no argument wdth"):
        create_model("avs_mamba_small", wdth=3)


@pytest.mark.parametrize("overrides", [{}, {"share_s4_temporal": True}, {"scan_orders": ["THW+", "HWT-"]}], ids=str)
@torch.no_grad()
def test_a_saved_model_loads_equal_in_eval_mode(tmp_path, overrides):
    model = tiny(**overrides).eval()
    save_pretrained(model, tmp_path / "m", preprocessing=PREPROCESSING, metadata={"trained_on": "nothing"})
    loaded = from_pretrained(tmp_path / "m")
    assert not loaded.training
    assert loaded.card["metadata"] == {"trained_on": "nothing"}
    assert loaded.card["preprocessing"] == PREPROCESSING
    inputs = clip()
    assert torch.equal(loaded(*inputs).logits, model(*inputs).logits)


def test_every_fault_of_a_folder_is_a_checkpoint_error(tmp_path):
    folder = save_pretrained(tiny(), tmp_path / "m", preprocessing=PREPROCESSING)
    weights, card = folder / "model.safetensors", folder / "config.json"
    good_weights, good_card = weights.read_bytes(), card.read_text()

    def broken(message):
        with pytest.raises(CheckpointError, match=message):
            from_pretrained(folder)
        weights.write_bytes(good_weights)
        card.write_text(good_card)

    state = load_file(weights)
    save_file({k: v for k, v in state.items() if k != "sound_proj.bias"}, weights)
    broken("1 keys missing .*sound_proj.bias")
    save_file({**state, "extra": torch.zeros(1)}, weights)
    broken("1 unexpected .*extra")
    save_file({**state, "sound_proj.bias": torch.zeros(3)}, weights)
    broken("1 of another shape")
    weights.write_bytes(good_weights[:100])
    broken("not a readable safetensors file")
    weights.unlink()
    broken("does not exist")
    card.write_text("{")
    broken("cannot be read")
    card.write_text(json.dumps({"format_version": 99}))
    broken("format_version")
    card.unlink()
    broken("does not exist")


def test_a_model_without_a_name_cannot_be_saved(tmp_path):
    with pytest.raises(CheckpointError, match="create_model"):
        save_pretrained(torch.nn.Linear(2, 2), tmp_path, preprocessing={})


def test_a_failed_save_leaves_the_old_files(tmp_path, monkeypatch):
    folder = save_pretrained(tiny(), tmp_path / "m", preprocessing=PREPROCESSING)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("crossmamba.models.hub.save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        save_pretrained(tiny(width=24), folder, preprocessing=PREPROCESSING)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_path_that_is_nothing_says_so():
    with pytest.raises(CheckpointError, match="neither a folder nor a hub id"):
        from_pretrained("/no/such/folder")
