"""Compiles the kernels for a GPU that is not there: every variant that a call would start, and what each one uses.

The launches run as they are, on tensors of torch's "meta" device, and each kernel that they start is compiled for the
target in its place: nothing about a variant is written down twice. `cuobjdump`, which comes with Triton, reads the
registers and the local memory (spills) out of NVIDIA's binaries; of AMD's, the assembly says it.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from crossmamba.ops.backends import ScanInputs, StepInputs
from crossmamba.ops.triton import plan
from crossmamba.ops.triton.backend import TritonBackend
from crossmamba.ops.triton.backward import scan_backward
from crossmamba.ops.triton.forward import saved_elements, scan_forward
from crossmamba.ops.triton.launch import processors, shape_of
from crossmamba.ops.triton.plan import Shape

WARP = {"cuda": 32, "hip": 64}
ATOMICS = ("ATOM", "ATOMG", "ATOMS", "RED", "REDG", "REDAS")
"""NVIDIA's instructions that read and write memory in one. (REDUX is a sum over a warp.)"""
AMD_ATOMIC = r"^\s+(?:\w+_atomic\w*|ds_(?:add|sub|min|max|and|or|xor|cmpst)_\w+)"
"""AMD's: global_atomic_add_f32 and so on; in shared memory ds_add_u32 and so on."""


class Compiled(NamedTuple):
    """A kernel compiled for a target.

    registers: of a thread. spilled: bytes of local memory of a thread, 0 if all fits the registers. shared: bytes of a
    program. exchanges, barriers: instructions of that kind in the binary (NVIDIA). atomics: instructions that read and
    write memory in one. seconds: what compiling took.
    """

    kernel: str
    warps: int
    registers: int
    spilled: int
    shared: int
    instructions: int
    exchanges: int
    barriers: int
    atomics: int
    seconds: float


class _Driver:
    """What Triton asks of a GPU's driver before it compiles."""

    def __init__(self, target: Any, device: int) -> None:
        self.target, self.device = target, device

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self.target


@contextmanager
def compiling_for(backend: str, architecture: int | str) -> Iterator[list[Compiled]]:
    """Inside, starting a kernel compiles it for ("cuda", 90), ("hip", "gfx942") and so on, and runs nothing.

    Yields:
        The variants compiled, in the order they were asked for, each once.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    if triton.knobs.runtime.interpret:
        raise ValueError("TRITON_INTERPRET is set: kernels are interpreted, not compiled; unset it")
    found: list[Compiled] = []
    seen: set[int] = set()
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        start = time.perf_counter()
        if backend == "hip":
            options.pop("maxnreg", None)  # as `launch.start` does where torch is built for AMD
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        if id(kernel) not in seen:
            seen.add(id(kernel))
            found.append(_describe(self.__name__, kernel, time.perf_counter() - start, backend))
        return kernel

    target = GPUTarget(backend, architecture, WARP[backend])
    previous = driver._active
    driver.set_active(_Driver(target, hash((backend, architecture))))
    JITFunction.run = compile_only
    try:
        yield found
    finally:
        JITFunction.run = run
        driver._active = previous


def _describe(name: str, kernel: Any, seconds: float, backend: str) -> Compiled:
    warps, shared = kernel.metadata.num_warps, kernel.metadata.shared
    if backend == "hip":
        text = kernel.asm["amdgcn"]
        registers = int(_find(r"\.vgpr_count:\s+(\d+)", text))
        spilled = int(_find(r"\.private_segment_fixed_size:\s+(\d+)", text))
        atomics = len(re.findall(AMD_ATOMIC, text, re.MULTILINE))
        return Compiled(name, warps, registers, spilled, shared, 0, 0, text.count("s_barrier"), atomics, seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kernel.cubin")
        with open(path, "wb") as file:
            file.write(kernel.asm["cubin"])
        usage, code = _tool("cuobjdump", "--dump-resource-usage", path), _tool("cuobjdump", "-sass", path)
    operations = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", code, re.MULTILINE)
    stack, local = int(_find(r"STACK:(\d+)", usage)), int(_find(r"LOCAL:(\d+)", usage))
    return Compiled(
        name,
        warps,
        int(_find(r"REG:(\d+)", usage)),
        stack + local,
        shared,
        len(operations),
        operations.count("SHFL"),
        operations.count("BAR"),
        sum(operation in ATOMICS for operation in operations),
        seconds,
    )


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise ValueError(f"no {pattern!r} in what the compiler's tools say:\n{text[:2000]}")
    return match.group(1)


def _tool(name: str, *arguments: str) -> str:
    """Runs a tool of the CUDA toolkit that Triton carries."""
    import triton

    path = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia", "bin", name)
    return subprocess.run([path, *arguments], capture_output=True, text=True, check=True).stdout


def meta_scan(
    shape: Shape,
    dtype: torch.dtype,
    *,
    order: bool = False,
    lengths: bool = False,
    reverse: bool = False,
    invariant: bool = False,
) -> ScanInputs:
    """A scan without memory. invariant: delta, B and C are constant along the sequence."""
    batch, tokens, channels, states, routes, groups, gate = shape
    length = 1 if invariant else tokens

    def empty(*sizes: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    wide = torch.float32
    return ScanInputs(
        u=empty(batch, tokens, channels),
        delta=empty(batch, routes, length, channels),
        A=empty(routes, channels, states, dtype=wide),
        B=empty(batch, routes, groups, length, states),
        C=empty(batch, routes, groups, length, states),
        D=empty(routes, channels, dtype=wide),
        z=empty(batch, tokens, channels) if gate else None,
        delta_bias=empty(routes, channels, dtype=wide),
        initial_state=None,
        lengths=empty(batch, dtype=torch.int64) if lengths else None,
        order=empty(routes, tokens, dtype=torch.int32) if order else None,
        softplus=True,
        reverse=reverse,
    )


def start_scan(inputs: ScanInputs) -> None:
    """Starts a scan's forward and backward, in one phase and in three."""
    shape = shape_of(inputs)
    d_state = inputs.A.new_empty(shape.batch, shape.routes, shape.channels, shape.states)
    saved = inputs.A.new_empty(saved_elements(inputs))
    for chunk in (0, plan.CHECKPOINT):
        for block in plan.blocks_for(shape, backward=False):
            out, _, _ = scan_forward(inputs, True, plan.config_for(shape, block, chunk, backward=False))
        config = plan.config_for(shape, 32, chunk, backward=True)
        scan_backward(inputs, saved, torch.empty_like(out), d_state, config)


def start_step(batch: int, channels: int, states: int, dtype: torch.dtype) -> None:
    """Starts a step."""

    def empty(*sizes: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    wide, row = torch.float32, (batch, channels)
    state, A, D = empty(*row, states, dtype=wide), empty(channels, states, dtype=wide), empty(channels, dtype=wide)
    projection = empty(batch, states)
    TritonBackend().step(
        StepInputs(state, empty(*row), empty(*row), A, projection, projection, D, empty(*row), D, True)
    )


def start_planned(inputs: ScanInputs) -> None:
    """Starts a scan's forward and backward as a first training step would on a GPU of `launch.DEFAULT_PROCESSORS`."""
    shape = shape_of(inputs)
    choose = [plan.choose(shape, processors(inputs.u.device), backward) for backward in (False, True)]
    out, state, saved = scan_forward(inputs, True, choose[0])
    scan_backward(inputs, saved, torch.empty_like(out), torch.empty_like(state), choose[1])
