"""The Triton kernels: in Triton's interpreter against float64, and what their back end says where it cannot run.

Triton reads TRITON_INTERPRET when it is imported, so the interpreter's tests lie in files of their own and run in
processes that set it. They take about a minute in all on one core; `-m slow` adds some 15 (8 to 11 s a case).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crossmamba.ops import TritonBackend, list_backends, registered_backend

HERE = Path(__file__).parent
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = pytest.mark.skipif(INTERPRETED, reason="TRITON_INTERPRET=1 is set: run the interpreted_*.py files instead")


def passes_in_the_interpreter(name: str, *options: str) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", str(HERE / name), "-p", "no:cacheprovider", "-rs", "--timeout=600", *options],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=HERE.parents[1],
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "skipped" not in run.stdout, run.stdout[-2000:]


@pytest.mark.timeout(1200)  # a machine that does much else at once
@pytest.mark.parametrize("name", ["interpreted_kernels.py", "interpreted_scans.py"])
def test_the_kernels_pass_in_the_interpreter(name):
    passes_in_the_interpreter(name)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_larger_matrix_passes_in_the_interpreter():
    passes_in_the_interpreter("interpreted_scans.py", "-m", "slow")


def test_on_a_cpu_it_says_that_it_runs_on_gpus():
    backend = registered_backend("triton")
    assert isinstance(backend, TritonBackend)
    assert "runs on GPUs" in list_backends("cpu")["triton"]
    assert backend.priority > registered_backend("native").priority


def test_float64_is_left_to_the_others():
    assert "float32, not torch.float64" in list_backends("cpu", torch.float64)["triton"]


def test_without_triton_a_gpu_user_learns_what_to_install(monkeypatch):
    from crossmamba.ops.triton import backend

    monkeypatch.setattr(backend, "_installed", lambda: False)
    assert "pip install triton" in TritonBackend().why_not(torch.device("cuda"), torch.float32)


@pytest.mark.parametrize(
    ("triton", "numpy", "runs"),
    [("3.6.0", "2.4.0", False), ("3.6.1", "2.10.1", False), ("3.6.0", "2.3.5", True), ("3.7.0", "2.5.0rc1", True)],
)
def test_an_interpreter_that_fails_is_named_with_both_versions(monkeypatch, triton, numpy, runs):
    from crossmamba.ops.triton import backend

    monkeypatch.setattr(backend, "version", {"triton": triton, "numpy": numpy}.__getitem__)
    reason = backend.interpreter_fault.__wrapped__()
    assert (reason is None) is runs
    assert runs or (triton in reason and numpy in reason and "pip install" in reason)


@pytest.mark.parametrize(("capability", "reason"), [((7, 5), "7.5 is below 8.0"), ((8, 0), None), ((12, 0), None)])
def test_old_gpus_are_refused_with_their_number(monkeypatch, capability, reason):
    from crossmamba.ops.triton import backend

    monkeypatch.setattr(backend, "_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = TritonBackend().why_not(torch.device("cuda"), torch.float32)
    assert found is None if reason is None else reason in found
