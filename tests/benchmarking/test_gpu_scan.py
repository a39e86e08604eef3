"""benchmarks/gpu_scan.py without a GPU: its floors, what it hands to each side, and its page, on tiny shapes."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from crossmamba.errors import UsageError
from crossmamba.ops import selective_scan_ref

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu_scan.py"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_scan", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_scan"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "forward", "both", "exps"),
    [  # megabytes and 10^9 exponentials, counted by hand from the equations
        ("d", 25.3, 69.7, 0.057),
        ("a160", 130.5, 361.3, 0.29),
        ("a640", 1035.6, 2858.0, 2.31),
        ("a640, invariant", 513.8, 1284.5, 0.0),
        ("b5", 26.5, 77.1, 0.03),
        ("b10", 211.4, 613.8, 0.25),
        ("b10, N16", 221.3, 642.8, 1.52),
        ("c", 38.7, 106.8, 0.087),
    ],
)
def test_floors(gpu, name, forward, both, exps):
    moved, counted = gpu.work(gpu.SHAPES[name], torch.bfloat16, backward=False)
    assert moved / 1e6 == pytest.approx(forward, rel=0.01)
    assert counted / 1e9 == pytest.approx(exps, rel=0.03, abs=0.005)
    moved, counted_twice = gpu.work(gpu.SHAPES[name], torch.bfloat16, backward=True)
    assert moved / 1e6 == pytest.approx(both, rel=0.01)
    assert counted_twice == 2 * counted


@pytest.mark.parametrize("name", ["d", "a640, invariant", "b10"])
def test_mamba_ssm_is_given_the_same_problem(gpu, name):
    """Its arguments, by our loop of the same signature, give what ours gives; routes summed token by token."""
    shape = gpu.SHAPES[name].tiny()
    inputs = gpu.Inputs(shape, torch.float32, torch.device("cpu"))
    u, delta, A, B, C, D, z, bias = inputs.for_mamba_ssm()
    theirs = selective_scan_ref(u, delta, A, B, C, D, z, bias, True)
    steps = theirs.unflatten(1, (shape.routes, -1)).transpose(2, 3)  # (B, K, L, D)
    if inputs.table is not None:
        steps = steps[:, torch.arange(shape.routes)[:, None], inputs.table.inverse]
    mine = inputs.ours(inputs.leaves(), "portable")
    torch.testing.assert_close(steps.sum(dim=1), mine, rtol=1e-4, atol=1e-4)


def test_a_dry_run_fills_the_page_and_writes_nothing(gpu, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "write", lambda *_: pytest.fail("a dry run writes nothing"))
    page = gpu.main(["--dry-run", "--calls", "1", "--budget", "0", "--shapes", "d", "a640, invariant"])
    assert "no number means anything" in page
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + 4
    assert {line.count("|") for line in lines} == {len(gpu.HEAD) + 1}
    assert "| 0.0e+00 |" in lines[1]  # both sides were the portable one


def test_without_a_gpu_it_says_so(gpu, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="--dry-run"):
        gpu.main([])


def test_the_file_is_named_after_the_device(gpu):
    assert gpu.results_file("NVIDIA H200 / 141GB").name == "gpu_nvidia-h200-141gb.md"
