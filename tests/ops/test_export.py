"""Exported programs: torch.export saved and loaded, and ONNX in onnxruntime, equal eager at lengths never seen."""

import io

import pytest
import torch
from test_compile import AVSBlocks, clip
from torch import nn
from torch.export import Dim, export

from crossmamba import Mamba, selective_scan_fn
from crossmamba.blocks import ScanLayer, ScanMixer

pytestmark = pytest.mark.filterwarnings("ignore::crossmamba.ops.SlowBackendWarning")
LENGTH = Dim("length", min=2, max=1 << 20)
T, H, W, H2, W2 = (Dim(name, min=2, max=1 << 10) for name in ("T", "H", "W", "H2", "W2"))
CLIP = ({1: T, 2: H, 3: W}, {1: T, 2: H2, 3: W2}, {1: T})


def saved_and_loaded(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("with_gradients", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_mamba_exports_with_any_batch_and_length(strict, with_gradients):
    torch.manual_seed(0)
    block = Mamba(16)
    with torch.set_grad_enabled(with_gradients):
        sizes = {0: Dim("batch", min=1, max=1 << 20), 1: LENGTH}
        program = export(block, (torch.randn(2, 8, 16),), dynamic_shapes=(sizes,), strict=strict)
    loaded = saved_and_loaded(program)
    for batch, length in [(2, 2), (1, 3), (32, 5), (3, 777)]:
        x = torch.randn(batch, length, 16)
        assert torch.equal(loaded(x), block(x))


def test_an_exported_program_can_still_be_trained():
    torch.manual_seed(0)
    block = Mamba(16)
    program = export(block, (torch.randn(2, 8, 16),), dynamic_shapes=({1: LENGTH},)).module()
    x = torch.randn(2, 11, 16)
    for module in (program, block):
        module(x).sin().sum().backward()
    for name, parameter in program.named_parameters():
        expected = dict(block.named_parameters())[name].grad
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-5)


def test_blocks_of_avs_mamba_export_with_free_grids():
    """Route tables are made in the program, for the grids that it meets."""
    torch.manual_seed(0)
    blocks = AVSBlocks()
    with torch.no_grad():
        loaded = saved_and_loaded(export(blocks, tuple(clip(3, 10, 14, 2)), dynamic_shapes=CLIP))
        for size in [(3, 10, 14), (6, 14, 10), (2, 5, 9)]:
            inputs = clip(*size, 2)
            for found, expected in zip(loaded(*inputs), blocks(*inputs), strict=True):
                assert torch.equal(found, expected)


class Scan(nn.Module):
    """A scan with its parameters and options."""

    def __init__(self, **options):
        super().__init__()
        self.A = nn.Parameter(-torch.rand(6, 4))
        self.C = nn.Parameter(torch.randn(6, 4))
        self.D = nn.Parameter(torch.randn(6))
        self.options = options

    def forward(self, u, delta, B, z, state, lengths):
        return selective_scan_fn(
            u,
            delta,
            self.A,
            B,
            self.C,
            self.D,
            z,
            None,
            True,
            True,
            initial_state=state,
            lengths=lengths,
            **self.options,
        )


def scan_inputs(length, steps=None):
    """Inputs of `Scan`; delta and B of `steps` steps if given."""
    short = length if steps is None else steps
    shapes = [(2, 6, length), (2, 6, short), (2, 2, 4, short), (2, 6, length), (2, 6, 4)]
    return (*(torch.randn(shape) for shape in shapes), torch.tensor([length, length // 2]))


def in_onnx(module, inputs, shapes):
    """A function that runs a module in onnxruntime; its loop is one Scan node."""
    pytest.importorskip("onnxscript", reason="ONNX export needs the extra [onnx]")
    onnxruntime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(module.eval(), inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert "Scan" in {node.op_type for node in program.model.graph}
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*values):
        given = {name: value.detach().numpy() for name, value in zip(names, values, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, given)]

    return run


@torch.no_grad()
def assert_onnx_equals_eager(module, run, inputs):
    expected = module(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for a, b in zip(run(*inputs), expected, strict=True):
        assert a.shape == b.shape
        assert torch.linalg.vector_norm(a - b) <= 1e-6 * torch.linalg.vector_norm(b)


def test_mamba_in_onnx():
    torch.manual_seed(0)
    block = Mamba(16)
    run = in_onnx(block, (torch.randn(2, 8, 16),), ({1: LENGTH},))
    for length in (1, 2, 9, 300):
        assert_onnx_equals_eager(block, run, (torch.randn(2, length, 16),))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("steps", [None, 1])
def test_scans_in_onnx(reverse, steps):
    """With lengths, groups, a constant C, a gate and a state; and time-invariant."""
    torch.manual_seed(0)
    module = Scan(reverse=reverse)
    along = {2: LENGTH}
    shapes = (along, {} if steps else along, {} if steps else {3: LENGTH}, along, {}, {})
    run = in_onnx(module, scan_inputs(7, steps), shapes)
    for length in (2, 7, 50):
        assert_onnx_equals_eager(module, run, scan_inputs(length, steps))


class TwoLevels(nn.Module):
    """A Temporal Mamba layer over two levels."""

    def __init__(self):
        super().__init__()
        self.layer = ScanLayer(4, ScanMixer(4, ["THW+", "WTH-", "HWT+"], d_state=2, expand=1, dt_rank=2))

    def forward(self, fine, coarse):
        return tuple(self.layer([fine, coarse]))


def test_routes_in_onnx_with_free_grids():
    """The route tables are made of ONNX's own operators."""
    torch.manual_seed(0)
    module = TwoLevels()
    run = in_onnx(module, tuple(clip(3, 4, 6, 2)[:2]), CLIP[:2])
    for size in [(3, 4, 6), (4, 6, 4), (2, 5, 9)]:
        assert_onnx_equals_eager(module, run, tuple(clip(*size, 2)[:2]))


@pytest.mark.slow
def test_blocks_of_avs_mamba_in_onnx_with_free_grids():
    torch.manual_seed(0)
    blocks = AVSBlocks()
    run = in_onnx(blocks, tuple(clip(3, 10, 14, 2)), CLIP)
    for size in [(3, 10, 14), (6, 14, 10), (2, 5, 9)]:
        assert_onnx_equals_eager(blocks, run, tuple(clip(*size, 2)))
