"""The Triton back end: the scan on NVIDIA GPUs from sm_80 on, and (compiled, never run) on AMD's.

Nothing here imports Triton before a kernel is started, so that `import crossmamba` stays light.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from crossmamba.ops.backends import ScanGradients, ScanInputs, StepInputs
from crossmamba.ops.triton import backward, forward, tuning
from crossmamba.ops.triton.arguments import group_pairs, pairs
from crossmamba.ops.triton.launch import start
from crossmamba.ops.triton.plan import ceil_div, power_of_two

OLDEST = (8, 0)
"""Compute capability of the oldest NVIDIA GPU that the kernels are compiled for in the tests."""
STEP_TILE = 1024
"""Elements of the state that a program of the step kernel holds."""


def interpreted() -> bool:
    """Whether kernels run under Triton's interpreter, on the CPU. Triton reads the variable when it is imported."""
    return "TRITON_INTERPRET" in os.environ and os.environ["TRITON_INTERPRET"] == "1"


@cache
def interpreter_fault() -> str | None:
    """Why Triton's interpreter cannot run these kernels, or None: 3.6's needs numpy < 2.4 (Triton's issue 9171)."""
    triton, numpy = version("triton"), version("numpy")
    if triton.startswith("3.6.") and tuple(map(int, numpy.split(".")[:2])) >= (2, 4):
        return (
            f"the interpreter of triton {triton} fails with numpy {numpy} (loops whose bounds are tensors): "
            "pip install 'numpy<2.4', or triton 3.7 or later"
        )
    return None


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


class TritonBackend:
    """The scan in Triton. Always deterministic: no sum is taken by atomics, so there is no other mode to choose."""

    name, saved_version = "triton", 1

    @property
    def priority(self) -> int:
        """The best on a GPU. The interpreter is for tests: it runs only where it is asked for by name."""
        return -1 if interpreted() else 40

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        if dtype != torch.float32:
            return f"its state is float32, not {dtype}; the portable and the reference scan take float64"
        if device.type != "cuda" and not interpreted():
            return "it runs on GPUs; TRITON_INTERPRET=1 runs it on a CPU, thousands of times slower, for tests"
        if device.type != "cpu" and interpreted():
            return "TRITON_INTERPRET=1 is set, which is for the CPU: unset it"
        if not _installed():
            return "triton is not installed: pip install triton (it comes with torch's wheels for CUDA)"
        if interpreted():
            return interpreter_fault()
        if torch.version.hip is None:
            return _too_old(device)
        return None  # AMD: compiled for gfx942 in the tests, never run

    def saved_elements(self, inputs: ScanInputs) -> int:
        return forward.saved_elements(inputs)

    def forward(self, inputs: ScanInputs, save: bool) -> tuple[Tensor, Tensor, Tensor]:
        with _on(inputs.u.device):
            return forward.scan_forward(inputs, save, tuning.config_of(inputs, backward=False))

    def backward(self, inputs: ScanInputs, saved: Tensor, d_out: Tensor, d_state: Tensor) -> ScanGradients:
        with _on(inputs.u.device):
            return backward.scan_backward(inputs, saved, d_out, d_state, tuning.config_of(inputs, backward=True))

    def step(self, inputs: StepInputs) -> Tensor:
        from crossmamba.ops.triton.kernels_step import step_kernel

        batch, channels, states = inputs.state.shape
        out = torch.empty(batch, channels, dtype=inputs.x.dtype, device=inputs.x.device)
        padded = power_of_two(states)
        block = max(1, STEP_TILE // padded)
        blocks = ceil_div(channels, block)
        groups = max(value.shape[1] if value.dim() == 3 else 1 for value in (inputs.B, inputs.C))
        arguments: dict[str, Any] = {
            "state": inputs.state,
            "x": pairs(inputs.x),
            "dt": pairs(inputs.dt),
            "A": inputs.A.contiguous(),
            "B": group_pairs(inputs.B),
            "C": group_pairs(inputs.C),
            "D": None if inputs.D is None else inputs.D.contiguous(),
            "z": pairs(inputs.z),
            "dt_bias": None if inputs.dt_bias is None else inputs.dt_bias.contiguous(),
            "out": out,
            "channels": channels,
            "blocks": blocks,
            "group_channels": channels // groups,
        }
        constants = {"N": states, "PADDED_N": padded, "BLOCK_D": block, "SOFTPLUS": inputs.dt_softplus}
        with _on(inputs.x.device):
            start(step_kernel, batch * blocks, 4, **arguments, **constants)
        return out


def _too_old(device: torch.device) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST:
        return f"compute capability {capability[0]}.{capability[1]} is below {OLDEST[0]}.{OLDEST[1]}"
    return None


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton starts kernels on the current GPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
