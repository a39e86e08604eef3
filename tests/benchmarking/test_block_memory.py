"""benchmarks/block_memory.py, and what it is for: no block puts its activations in another order on the way."""

from __future__ import annotations

import pytest

from crossmamba.ops import list_backends

BLOCKS = ("VSS", "Temporal Mamba", "V2A over the clip", "A2V over the clip", "Mamba")
SCALARS = 1e-4
"""MiB; the smallest activation in the blocks here is twice that."""


@pytest.fixture
def script(benchmark_script):
    return benchmark_script("block_memory")


def test_every_block_is_measured(script) -> None:
    assert script.BLOCKS == BLOCKS


@pytest.mark.skipif(list_backends().get("native") is not None, reason="the kernels are not installed")
@pytest.mark.parametrize("block", BLOCKS)
def test_no_block_reorders_its_activations(script, monkeypatch: pytest.MonkeyPatch, block: str) -> None:
    monkeypatch.setenv("CROSSMAMBA_BACKEND", "native")
    moved = script.copies(script.build(block, 32, 2, 64))
    assert moved["reordered"] < SCALARS
    assert moved["convolution"] > 0  # the profiler saw the copies that are there


@pytest.mark.filterwarnings("ignore::crossmamba.ops.SlowBackendWarning")
@pytest.mark.parametrize("block", BLOCKS)
def test_the_portable_back_end_does(script, monkeypatch: pytest.MonkeyPatch, block: str) -> None:
    """So that the test above can fail."""
    monkeypatch.setenv("CROSSMAMBA_BACKEND", "portable")
    assert script.copies(script.build(block, 32, 2, 64))["reordered"] > 10 * SCALARS
