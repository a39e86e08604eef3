"""Every shipped config and every ablation row parses and builds (on torch's meta device: no memory, no weights)."""

import re
from pathlib import Path

import pytest

from crossmamba.cli.configs import config_names, config_root, find_config
from crossmamba.cli.train import validate_config
from crossmamba.tasks.runner import parse

ABLATIONS = (config_root() / "avs" / "ABLATIONS.md").read_text()
ROW = re.compile(r"^\| ([^|]+?) \| ([^|]+?) \|(?: `([^`]*)`)? \|$", flags=re.M)
ROWS = ROW.findall(ABLATIONS)
AVQA_ROWS = [row for row in ROW.findall((config_root() / "avqa" / "ABLATIONS.md").read_text()) if row[0] != "config"]


@pytest.mark.parametrize("name", config_names())
def test_config_builds(name):
    assert validate_config(find_config(name)) == ""


def test_every_recipe_is_there():
    wanted = {
        f"avs/avs_mamba_{s}_{b}_{n}" for s in ("s4", "ms3") for b in ("pvt_v2_b5", "resnet50") for n in (224, 512)
    }
    wanted |= {"avs/demo", "avs/avs_mamba_ms3_pvt_v2_b5_224_official"}
    wanted |= {f"avqa/{m}_{s}" for m in ("av_mamba", "shmamba", "avst") for s in ("music_avqa", "avqa")}
    wanted |= {f"avqa/demo_{m}" for m in ("av_mamba", "shmamba", "avst")}
    wanted |= {f"avqa/table2_{row}" for row in ("ap_ca", "wp_ca", "cm_ca", "cm_cm1", "cm_cm2", "cm_cm3")}
    backbones = (*("avion_b", "avion_l", "lavila_b", "clip_b", "videomae_b"), "timesformer_b", "vivit_b", "vjepa2_l")
    wanted |= {f"action/{t}_{b}" for t in ("recognition", "anticipation") for b in (*backbones, "orvit_features")}
    wanted |= {f"action/demo_kitchen{kind}" for kind in ("", "_tokens", "_anticipation")}
    assert wanted <= set(config_names())


def test_a_wrong_config_is_found(tmp_path):
    text = find_config("avs/demo").read_text()
    for old, new, words in (
        ("loss: dice_bce", "loss: dice_bec", "dice_bec"),
        ("avs_mamba_small", "avs_mamba_smal", "avs_mamba_smal"),
        ("vflip: 0.5", "vflip: 7", "vflip"),
        ("max_epochs: 6", "max_epoch: 6", "max_epoch"),
    ):
        path = tmp_path / "x.yaml"
        assert old in text
        path.write_text(text.replace(old, new))
        assert words in validate_config(path)


@pytest.mark.parametrize(("table", "variant", "overrides"), ROWS, ids=[f"{row[0]}: {row[1]}" for row in ROWS])
def test_ablation_builds(table, variant, overrides):
    base = str(Path(find_config("avs/avs_mamba_ms3_pvt_v2_b5_224")))
    cli = parse(["--config", base, "--data.root", ".", *overrides.split()])
    cli.build_without_weights()
    expected = len(re.findall(r"--model\.model_args\.", overrides))
    assert len(cli.config.model.init_args.model_args or {}) == expected


def test_the_ablation_table_was_read():
    assert len(ROWS) == 23
    assert sum(row[0] == "VII" for row in ROWS) == 6


@pytest.mark.parametrize(
    ("config", "variant", "overrides"), AVQA_ROWS, ids=[f"{row[0]}: {row[1]}" for row in AVQA_ROWS]
)
def test_question_answering_ablation_builds(config, variant, overrides):
    name = "av_mamba_music_avqa" if config == "any" else config
    cli = parse(["--config", str(find_config(f"avqa/{name}")), "--data.root", ".", *overrides.split()])
    cli.build_without_weights()
    said = cli.config.model.init_args.model_args or {}
    assert all(key.split(".")[0] in said for key in re.findall(r"--model\.model_args\.(\S+)", overrides))


def test_the_question_answering_table_was_read():
    assert len(AVQA_ROWS) == 27
