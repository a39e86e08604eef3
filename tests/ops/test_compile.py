"""torch.compile with symbolic sizes equals eager: outputs and gradients, and one program serves every length."""

import pytest
import torch
from torch import nn

from crossmamba import Mamba, selective_scan_fn, selective_state_update
from crossmamba.blocks import FusionScan, MixFFN, ScanLayer, ScanMixer
from crossmamba.blocks.scan_mixer import FRAME_ROUTES, TEMPORAL_ROUTES
from crossmamba.models.avs_mamba import FUSION_TEMPORAL_ROUTES
from crossmamba.ops import RouteTable, list_backends, route_scan, route_table

pytestmark = pytest.mark.filterwarnings("ignore::crossmamba.ops.SlowBackendWarning")
BACKENDS = [name for name in ("portable", "native") if list_backends().get(name, "") is None]


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    torch.manual_seed(0)


def outcome(function, inputs, parameters=()):
    """Outputs and the gradients of a loss over all of them."""
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    wanted = [value for value in [*inputs, *parameters] if value.requires_grad]
    return [*outputs, *torch.autograd.grad(sum(out.sin().sum() for out in outputs), wanted)]


def assert_close(found, expected, tolerance=1e-5):
    for a, b in zip(found, expected, strict=True):
        assert torch.linalg.vector_norm(a - b) <= tolerance * torch.linalg.vector_norm(b).clamp(min=1e-6)


def scan_inputs(length, batch=3, channels=70, states=5):
    shapes = [(batch, channels, length), (batch, channels, 1), (channels, states), (batch, states, length)]
    values = [torch.randn(shape) for shape in shapes]
    values[2] = -values[2].abs()
    return [value.requires_grad_() for value in [*values, torch.randn(batch, 2, states, length), torch.randn(channels)]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_scan(backend):
    """With an expanded delta, groups and the last state; Inductor compiles what is around the operator."""

    def run(u, delta, A, B, C, D):
        delta = delta.expand_as(u)
        return selective_scan_fn(u, delta, A, B * 2.0, C, D, None, None, True, True, reverse=True, backend=backend)

    compiled = torch.compile(run, fullgraph=True, dynamic=True)
    for length in (9, 33):
        inputs = scan_inputs(length)
        assert_close(outcome(compiled, inputs), outcome(run, inputs))


@pytest.mark.parametrize("length", [4, 16])
def test_the_portable_scan_where_inductor_goes_wrong(length):
    """Batch 10, 512 channels, 16 states: a hand-written loop compiled by Inductor is wrong by 0.15 to 0.31 of its norm
    there (the spec of the operators, §1); ours is one operator to the compiler, which therefore never sees the loop."""

    def run(*inputs):
        return selective_scan_fn(*inputs[:4], inputs[4], inputs[5], None, None, True, backend="portable")

    inputs = scan_inputs(length, batch=10, channels=512, states=16)
    inputs[1] = torch.randn(10, 512, length, requires_grad=True)
    assert_close(outcome(torch.compile(run, fullgraph=True), inputs), outcome(run, inputs), 1e-6)


def test_mamba():
    block = Mamba(16)
    compiled = torch.compile(block, fullgraph=True, dynamic=True)
    for length in (7, 40):
        inputs = [torch.randn(3, length, 16, requires_grad=True)]
        parameters = list(block.parameters())
        assert_close(outcome(compiled, inputs, parameters), outcome(block, inputs, parameters))


def test_the_state_update_changes_its_state_in_a_compiled_program():
    def run(state, x, dt, A, B, C, D):
        return selective_state_update(state, x + 1.0, dt, A, B, C, D, dt_softplus=True) * 2.0

    inputs = [torch.randn(shape) for shape in [(2, 6, 4), (2, 6), (2, 6), (6, 4), (2, 4), (2, 4), (6,)]]
    inputs[3] = -inputs[3].abs()
    mine, compilers = inputs[0].clone(), inputs[0].clone()
    expected = run(mine, *inputs[1:])
    found = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")(compilers, *inputs[1:])
    assert torch.equal(found, expected)
    assert torch.equal(mine, compilers)
    assert not torch.equal(mine, inputs[0])


def test_a_route_table_from_outside():
    def run(u, delta, A, B, C, table):
        return route_scan(u * 2.0, delta, A, B, C, table, delta_softplus=True)

    shapes = [(2, 12, 5), (2, 2, 12, 5), (2, 5, 3), (2, 2, 12, 3), (2, 2, 12, 3)]
    inputs = [torch.randn(shape) for shape in shapes]
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for order in (route_table(["HW+", "WH-"], [(3, 4)]), RouteTable(["a", "b"], torch.stack([torch.randperm(12)] * 2))):
        assert torch.equal(compiled(*inputs, order), run(*inputs, order))


class AVSBlocks(nn.Module):
    """Blocks of AVS-Mamba as the model stacks them: VSS, MixFFN, Temporal Mamba, V2A, A2V; two levels."""

    def __init__(self):
        super().__init__()
        size = {"d_state": 2, "expand": 1, "dt_rank": 2}
        self.encoder = nn.Sequential(
            ScanLayer(4, ScanMixer(4, FRAME_ROUTES, **size)),
            ScanLayer(4, MixFFN(4)),
            ScanLayer(4, ScanMixer(4, TEMPORAL_ROUTES[:8], **size)),
        )
        self.hear = FusionScan(4, "sound", FRAME_ROUTES, **size)
        self.show = FusionScan(4, "picture", FUSION_TEMPORAL_ROUTES, **size)

    def forward(self, fine, coarse, sound):
        fine, coarse = self.encoder([fine, coarse])
        queries = self.hear(fine, sound)
        return self.show(coarse, queries), queries


def clip(seconds, height, width, batch=9):
    levels = [(height, width), (height // 2, width // 2)]
    values = [torch.randn(batch, seconds, *size, 4) for size in levels]
    return [value.requires_grad_() for value in [*values, torch.randn(batch, seconds, 4)]]


def test_blocks_of_avs_mamba_with_every_size_free():
    """Graph capture and symbolic shapes; the operators themselves run eagerly, so not a bit may differ."""
    blocks = AVSBlocks()
    compiled = torch.compile(blocks, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in [(3, 10, 14), (6, 14, 10)]:
        inputs, parameters = clip(*size), list(blocks.parameters())
        found, expected = outcome(compiled, inputs, parameters), outcome(blocks, inputs, parameters)
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_blocks_of_avs_mamba_through_inductor():
    """On the CPU, Inductor's choice of layouts cannot order symbolic strides of convolutions in a graph with a backward
    (TypeError: cannot determine truth value of Relational; torch 2.13), so that pass is switched off."""
    blocks = AVSBlocks()
    inputs, parameters = clip(3, 10, 14), list(blocks.parameters())
    compiled = torch.compile(blocks, fullgraph=True, dynamic=True, options={"layout_optimization": False})
    expected = outcome(blocks, inputs, parameters)
    assert_close(outcome(compiled, inputs, parameters), expected, 1e-4)
    torch._dynamo.reset()
    with torch.no_grad():  # without a backward it needs no option
        found = torch.compile(blocks, fullgraph=True, dynamic=True)(*inputs)
    assert_close(found, expected[: len(found)])
