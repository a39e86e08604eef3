"""The Triton kernels compiled for GPUs that are not here: nothing spills, no sum is taken by atomics.

35 s of one core, 3 s from Triton's cache. `-m slow` does the same for sm_80 and gfx942 (about a minute each);
`benchmarks/triton_offline.py` has every variant.
"""

import importlib
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1 is set: kernels are interpreted, not compiled", allow_module_level=True)

import triton
import triton.language as tl

from crossmamba.ops import triton as package
from crossmamba.ops.triton import plan
from crossmamba.ops.triton.forward import scan_forward
from crossmamba.ops.triton.offline import compiling_for, meta_scan, start_planned, start_step
from crossmamba.ops.triton.plan import Shape

HALF, FULL = torch.bfloat16, torch.float32
FORWARD = {"scan_forward_kernel"}
BACKWARD = {"scan_backward_kernel", "sum_parts_kernel"}
STEP = {"step_kernel"}
PHASES = {"chunk_end_kernel", "carry_kernel", "chunk_adjoint_kernel"}
SCANS = {
    "Mamba": (Shape(1, 2048, 1536, 16, 1, 1, True), HALF, {}, FORWARD | BACKWARD | PHASES),
    "tier 2 in float32": (Shape(640, 196, 1024, 16, 1, 1), FULL, {}, FORWARD | BACKWARD),
    "tier 1": (Shape(640, 196, 1024, 16, 1, 1), HALF, {"invariant": True}, FORWARD | {"scan_backward_kernel"}),
    "8 routes": (Shape(2, 10290, 512, 1, 8, 1), HALF, {"order": True}, FORWARD | BACKWARD | PHASES),
}
scans = pytest.mark.parametrize("name", SCANS)


def compile_without_spills(name: str, backend: str, architecture: int | str) -> None:
    shape, dtype, options, kernels = SCANS[name]
    with compiling_for(backend, architecture) as found:
        start_planned(meta_scan(shape, dtype, **options))
    assert {variant.kernel for variant in found} == kernels
    assert all(variant.registers > 0 and variant.seconds > 0 for variant in found)
    assert not [variant for variant in found if variant.spilled]
    assert not [variant for variant in found if variant.atomics], "sums by atomics come in any order"


def test_every_kernel_is_among_those_compiled():
    files = Path(package.__file__).parent.glob("kernels_*.py")
    modules = [importlib.import_module(f"{package.__name__}.{file.stem}") for file in files]
    defined = {name for module in modules for name in vars(module) if name.endswith("_kernel")}
    assert defined == FORWARD | BACKWARD | PHASES | STEP


@scans
def test_nothing_spills_on_sm_90(name):
    compile_without_spills(name, "cuda", 90)


def test_a_step_on_sm_90():
    with compiling_for("cuda", 90) as found:
        start_step(8, 1536, 16, HALF)
    assert {variant.kernel for variant in found} == STEP
    assert found[0].spilled == found[0].atomics == 0


@triton.jit
def count_up(counter):
    tl.atomic_add(counter, 1)


@pytest.mark.parametrize(("backend", "architecture"), [("cuda", 90), ("hip", "gfx942")])
def test_an_atomic_would_be_seen(backend, architecture):
    with compiling_for(backend, architecture) as found:
        count_up[(1,)](torch.empty(1, dtype=torch.int32, device="meta"), enable_fp_fusion=True)
    assert found[0].atomics > 0


def test_a_spill_would_be_seen():
    """Far too many steps in flight: the tool must say so, or a zero would mean nothing."""
    wide = plan.Config(block=32, steps=16, parts=1, warps=1)
    with compiling_for("cuda", 90) as found:
        scan_forward(meta_scan(Shape(1, 256, 64, 64, 1, 1, True), FULL), False, wide)
    assert found[0].spilled > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@scans
@pytest.mark.parametrize(("backend", "architecture"), [("cuda", 80), ("hip", "gfx942")])
def test_nothing_spills_elsewhere(name, backend, architecture):
    compile_without_spills(name, backend, architecture)
