"""benchmarks/avqa_cost.py: the compared models are alike, every cell runs, the page says what was measured."""

import argparse
import json
import sys

import pytest
import torch


@pytest.fixture(scope="module")
def cost(benchmark_script):
    return benchmark_script("avqa_cost")


def settings(**changes):
    plain = {
        "small": True,
        "device": "cpu",
        "standard": [2],
        "lengths": [2, 4],
        "batch": 2,
        "memory": 4.0,
        "budget": 0.0,
    }
    return argparse.Namespace(**{**plain, **changes})


def test_the_transformer_has_as_many_parameters_as_the_mamba_blocks(cost):
    with torch.device("meta"):
        mamba, transformer = cost.build("SHMamba", False), cost.build("SHMamba, Transformer in time", False)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (mamba, transformer)]
    assert sizes[0] == 2_455_339
    assert abs(sizes[1] / sizes[0] - 1) < 0.002


@pytest.mark.filterwarnings("ignore::crossmamba.ops.backends.SlowBackendWarning")
@pytest.mark.parametrize("part", ["model", "time"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_every_growing_case_runs(cost, part, mode):
    for label in cost.GROWING:
        cost.program(label, part, mode, 3, 1, True, "cpu")()


def test_a_measurement_in_a_process_of_its_own(cost):
    from cost_common import measure_in_child

    cell = next(cell for cell in cost.cells(settings()) if cell["label"] == "AVST")
    found = measure_in_child(cost.__file__, cell, settings())
    assert found["seconds"] > 0
    assert found["peak_mib"] >= 0
    assert found["steps"] >= 3


def test_the_page(cost):
    args = settings()
    cells = list(cost.cells(args))
    assert len({cost.key(cell) for cell in cells}) == len(cells) == 2 * (5 + 2 * 4 * 2)
    found = {cost.key(cell): {"seconds": 0.001 * cell["seconds"] ** 2, "peak_mib": 7.0} for cell in cells}
    failed = next(cell for cell in cells if cell["part"] == "time" and cell["label"] == "SHMamba")
    found[cost.key(failed)] = {"failed": "over 4 GiB"}
    counts = {f"{label}/2": cost.count(label, True, 2) for label in cost.CASES}
    page = cost.Report(args, counts, json.loads(json.dumps(found))).text()
    assert "| SHMamba | 2 | 329,835 | 329,835 | 329,835 |" in page
    assert "| AV-Mamba | inference | 4.00 | 16.0 | 2.00 |" in page  # quadratic times, as put in
    assert "| SHMamba | inference | over 4 GiB | 16.0 | - |" in page
    assert "linear in T" in page


def test_other_machines_numbers_are_not_mixed_in(cost, tmp_path, monkeypatch):
    (tmp_path / "cost.json").write_text(json.dumps({"machine": "another", "measured": {}}))
    monkeypatch.setattr(sys, "argv", ["avqa_cost.py", "--small", "--out", str(tmp_path / "cost")])
    with pytest.raises(SystemExit, match="another machine"):
        cost.main()
