"""benchmarks/action_cost.py: the full-size counts of the paper, every cell runs, the page says what was measured."""

import argparse
import json

import pytest


@pytest.fixture(scope="module")
def cost(benchmark_script):
    return benchmark_script("action_cost")


def settings(**changes):
    plain = {
        "device": "cpu",
        "frames": [2, 4],
        "fusions": ["shared_a", "transformer_6x4"],
        "width": 16,
        "machine": "it",
    }
    return argparse.Namespace(**{**plain, "memory": 4.0, "budget": 0.0, "patience": 60.0, **changes})


def test_the_papers_numbers(cost):
    assert [cost.tokens_of(frames) for frames in (16, 32, 256)] == [1569, 3137, 25089]
    ours, released = cost.count("orvit_features"), cost.count("orvit_features", released=True)
    assert ours["parameters"] - ours["known"] == 9_288_192  # the fusion with the question's projection (spec §1.6)
    assert ours["text"] == 39_000_576
    extra = released["multiply_adds"] - released["scan"]
    assert extra == pytest.approx(7.24e9, rel=0.01)
    assert ours["multiply_adds"] < released["multiply_adds"]
    counts = {cost.ORVIT: ours, cost.RELEASED: released}
    cells = {cost.key(cell): {"seconds": 0.001, "peak_mib": 7.0} for cell in cost.cells(settings())}
    page = cost.page(settings(), counts, cells)
    assert "| ORViT's stated 148 M and 405 G, and that, as released | 157,288,192 | 39,000,576 | 412." in page


@pytest.mark.filterwarnings("ignore::crossmamba.ops.backends.SlowBackendWarning")
@pytest.mark.parametrize("mode", ["forward", "training"])
def test_every_fusion_runs(cost, mode):
    for fusion in cost.FUSIONS:
        cost.program(fusion, mode, 2, 24, "cpu")()


def test_a_measurement_in_a_process_of_its_own(cost):
    from cost_common import measure_in_child

    cell = next(cost.cells(settings()))
    found = measure_in_child(cost.__file__, cell, settings())
    assert found["seconds"] > 0
    assert found["steps"] >= 3
    assert measure_in_child(cost.__file__, cell, settings(patience=0.01)) == {"failed": "over 0.01 s"}


def test_the_page(cost):
    args = settings(frames=[16, 32])
    found = {
        cost.key(c): {"seconds": 1e-6 * cost.tokens_of(c["frames"]) ** 2, "peak_mib": 7.0} for c in cost.cells(args)
    }
    failed = next(c for c in cost.cells(args) if c["fusion"] == "shared_a" and c["frames"] == 32)
    found[cost.key(failed)] = {"failed": "over 4 GiB"}
    page = cost.page(args, {}, json.loads(json.dumps(found)))
    assert "| fusion | step | 16 (1,569) | 32 (3,137) | exponent |" in page
    assert "| transformer_6x4 | forward | 2,462 | 9,841 | 2.00 |" in page
    assert "| shared_a | forward | 2,462 | over 4 GiB | - |" in page
