"""How the Triton kernels' work is cut and what is tuned: arithmetic and files. No GPU, no Triton."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from scan_cases import Case, problem

from crossmamba.ops.triton import plan, tuning
from crossmamba.ops.triton.plan import Config, Shape

MAMBA = Shape(1, 2048, 1536, 16, 1, 1, True)
TIER_2 = Shape(640, 196, 1024, 16, 1, 1)
ROUTES = Shape(2, 10290, 512, 1, 8, 1)


@pytest.mark.parametrize("backward", [False, True])
def test_one_phase_where_programs_fill_the_gpu_and_three_where_not(backward):
    assert plan.choose(TIER_2, 132, backward).chunk == 0
    chosen = plan.choose(MAMBA, 132, backward)
    assert chosen.chunk > 0
    assert chosen.chunk % plan.CHECKPOINT == 0
    assert plan.choose(MAMBA._replace(tokens=64), 132, backward).chunk == 0


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("states", [1, 2, 3, 4, 8, 16, 17, 64, 256])
@pytest.mark.parametrize("gate", [False, True])
def test_every_candidate_can_be_compiled(states, backward, gate):
    shape = Shape(2, 3000, 192, states, 1 if gate else 8, 1, gate)
    found = tuning.candidates(shape, 132, backward)
    assert found[0] == plan.choose(shape, 132, backward)
    assert 2 <= len(found) <= tuning.MAX_CANDIDATES
    assert len(set(found)) == len(found)
    for config in found:
        assert config.block % 32 == 0
        assert plan.power_of_two(states) % config.parts == 0
        assert plan.CHECKPOINT % config.steps == 0
        assert config.block == 32 or not backward
        assert tuning._valid(vars(config)) == config


def test_a_lane_never_straddles_two_groups():
    for channels in (30, 48, 66, 96):
        shape = Shape(1, 10, channels, 4, 1, 3)
        for block in plan.blocks_for(shape, False):
            width = plan.lane_width(shape, block)
            assert (channels // 3) % width == 0
            assert block % width == 0


def test_the_key_of_a_tuned_scan_names_all_that_matters():
    cases = [
        Case(), Case(batch=3), Case(tokens=38), Case(channels=25), Case(states=5), Case(z=False), Case(B="short"),
        Case(C="constant"), Case(short_delta=True), Case(dtypes=(torch.bfloat16,)), Case(groups=2),
        Case(routes=2, z=False, order=True),
    ]  # fmt: skip
    keys = {tuning.shape_key(problem(case).inputs, backward) for case in cases for backward in (False, True)}
    assert len(keys) == 2 * len(cases)
    assert "forward 2 37 24 4 1 1 float32 token token token gate" in keys


def test_tuned_configurations_survive_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tuning.cache_file("NVIDIA H200 / 141 GB")
    assert path.parent == tmp_path / "crossmamba"
    assert path.name.startswith("triton-NVIDIA-H200-141-GB-")
    assert tuning.read_table(path) == {}
    table = {"forward": Config(64, 4, 1, 1, 128), "backward": Config(32, 4, 4, 1, 0)}
    tuning.write_table(path, table)
    assert tuning.read_table(path) == table
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "change", [{"block": 48}, {"block": 16}, {"steps": 0}, {"steps": 32}, {"chunk": 65}, {"chunk": -64}, {"warps": 1.5}]
)
def test_a_configuration_that_makes_no_sense_is_left_out(tmp_path, change):
    good = Config(32, 4, 4, 1, 64)
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"good": vars(good), "bad": vars(replace(good, **change)), "old": {"block": 32}}))
    assert tuning.read_table(path) == {"good": good}


def test_a_broken_file_is_named_and_does_no_harm(tmp_path, caplog):
    path = tmp_path / "table.json"
    path.write_text("{")
    with caplog.at_level(logging.WARNING):
        assert tuning.read_table(path) == {}
    assert str(path) in caplog.text
    path.write_text("[]")
    assert tuning.read_table(path) == {}
