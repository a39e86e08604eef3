"""Multiply-adds against closed forms, on real tensors and on the meta device; parameters that receive gradient."""

import pytest
import torch
from torch import nn

from crossmamba import Mamba, create_model
from crossmamba.benchmarking.count import count_multiply_adds, count_parameters
from crossmamba.models.examples import default_seconds, example_inputs, read_whole_questions
from crossmamba.ops import route_scan, route_table, selective_scan_fn


@pytest.fixture(params=["cpu", "meta"])
def device(request):
    with torch.device(request.param):
        yield request.param


def total(call, *inputs, **named):
    found = count_multiply_adds(call, *inputs, **named)
    assert found.uncounted == {}
    return found.total


def test_matrix_products(device):
    x = torch.randn(2, 5, 8)
    assert total(nn.Linear(8, 16), x) == 2 * 5 * 8 * 16
    assert total(lambda: torch.einsum("btd,bsd->bts", x, x)) == 2 * 5 * 5 * 8
    assert total(lambda: x @ torch.randn(8, 3)) == 2 * 5 * 8 * 3
    assert total(lambda: torch.randn(4, 8) @ torch.randn(8)) == 4 * 8
    assert total(lambda: torch.dot(torch.randn(8), torch.randn(8))) == 8
    assert total(lambda: torch.baddbmm(torch.randn(2, 5, 5), x, x.mT)) == 2 * 5 * 5 * 8
    assert total(lambda: x * x + torch.exp(x)) == 0  # products that are not added to something


def test_convolutions(device):
    assert total(nn.Conv2d(6, 8, 3, stride=2, padding=1), torch.randn(2, 6, 8, 8)) == 2 * 4 * 4 * 8 * 6 * 9
    assert total(nn.Conv1d(8, 8, 3, padding=1, groups=8), torch.randn(2, 8, 10)) == 2 * 10 * 8 * 3
    assert total(nn.Conv3d(4, 4, 3, padding=1, groups=2), torch.randn(1, 4, 3, 3, 3)) == 27 * 4 * 2 * 27
    assert total(nn.ConvTranspose2d(6, 8, 2, stride=2), torch.randn(2, 6, 4, 4)) == 2 * 16 * 6 * 8 * 4


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_fused_or_not(device, need_weights):
    block = nn.MultiheadAttention(16, 4, batch_first=True)
    query, keys = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    expected = 3 * (2 * 5 * 16 * 16 + 2 * 7 * 16 * 16 + 2 * 5 * 7 * 16)  # in and out of q, k and v, scores and mixing
    assert total(block, query, keys, keys, need_weights=need_weights) == expected
    with torch.no_grad():
        assert total(block, query, keys, keys, need_weights=need_weights) == expected


def test_transformer_layer_and_grouped_attention(device):
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert total(layer, torch.randn(2, 6, 16)) == 2 * (4 * 6 * 16 * 16 + 2 * 6 * 6 * 16 + 2 * 6 * 16 * 32)
    q, kv = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    attend = nn.functional.scaled_dot_product_attention
    assert total(lambda: attend(q, kv, kv, enable_gqa=True)) == 4 * 5 * 5 * 16


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_recurrent_layers(device, kind, gates, options):
    block = kind(8, 16, batch_first=True, **options)
    one = gates * 16 * (8 + 16)
    layers = 2 * (one + gates * 16 * (2 * 16 + 16)) if options else one
    assert total(block, torch.randn(3, 14, 8)) == 3 * 14 * layers


def test_packed_lstm_reads_no_padding():
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 9, 8), torch.tensor([9, 4]), batch_first=True)
    assert total(nn.LSTM(8, 16, batch_first=True), packed) == (9 + 4) * 64 * (8 + 16)


def test_the_scan(device):
    B, D, N, L = 2, 6, 4, 10
    u, A, pair, skip = torch.randn(B, D, L), -torch.ones(D, N), torch.randn(B, N, L), torch.ones(D)
    backend = {"backend": "portable"}
    state, output, through = 2 * B * D * N * L, B * D * N * L, B * D * L
    assert total(selective_scan_fn, u, u, A, pair, pair, **backend) == state + output
    assert total(selective_scan_fn, u, u, A, pair, pair, skip, z=u, **backend) == state + output + through
    constant = pair[..., :1]  # time-invariant: the same recurrence, the same count
    assert total(selective_scan_fn, u, u[..., :1], A, constant, constant, **backend) == state + output


def test_the_scan_along_routes_and_one_step(device):
    B, M, D, N, K = 2, 12, 6, 4, 2
    x, table = torch.randn(B, M, D), route_table(("HW+", "WH-"), [(3, 4)], device=device)
    pair = torch.randn(B, K, M, N)
    found = count_multiply_adds(
        route_scan, x, torch.randn(B, K, M, D), -torch.ones(K, D, N), pair, pair, table, D=torch.ones(K, D),
        backend="portable",
    )  # fmt: skip
    assert dict(found.by_kind) == {"scan": B * K * M * D * (3 * N + 1)}


def test_one_step_of_generation():
    state, x, pair = torch.zeros(2, 6, 4), torch.randn(2, 6), torch.randn(2, 4)
    step = torch.ops.crossmamba.step  # what a compiler sees of selective_state_update
    found = count_multiply_adds(
        lambda: step(state, x, x, -torch.ones(6, 4), pair, pair, torch.ones(6), None, None, True, "portable")
    )
    assert dict(found.by_kind) == {"scan": 2 * 6 * (3 * 4 + 1)}


@pytest.mark.parametrize(("width", "length"), [(512, 60), (256, 10)])
def test_a_mamba_block(device, width, length):
    """spec §2.6: about 0.103 G at L 60 and D 512; four blocks 0.41 G."""
    inner, states, rank, kernel = 2 * width, 16, width // 16, 4
    expected = {
        "matmul": length * (width * 2 * inner + inner * (rank + 2 * states) + rank * inner + inner * width),
        "convolution": (length + kernel - 1) * inner * kernel,  # the padding at the end is computed and cut off
        "scan": length * inner * (3 * states + 1),
    }
    found = count_multiply_adds(Mamba(width, backend="portable"), torch.randn(1, length, width))
    assert dict(found.by_kind) == expected
    if width == 512:
        assert found.total / 1e9 == pytest.approx(0.1035, abs=5e-4)


@pytest.mark.filterwarnings("ignore::crossmamba.ops.backends.SlowBackendWarning")
@pytest.mark.parametrize("name", ["shmamba_small", "av_mamba_small", "avst_small"])
def test_a_model_costs_the_same_on_no_device_at_all(name):
    totals, parameters = [], []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = read_whole_questions(create_model(name))
        sample = example_inputs(model, seconds=2, videos=2, device=device)
        totals.append(total(model, *sample.inputs, **sample.named))
        parameters.append(count_parameters(model, *sample.inputs, **sample.named))
    assert totals[0] == totals[1] > 0
    assert parameters[0] == parameters[1]
    one = example_inputs(model, seconds=2, videos=1)
    assert total(model, *one.inputs) * 2 == totals[1]


def test_shmamba_by_hand():
    with torch.device("meta"):
        model = create_model("shmamba")
    sample = example_inputs(model, seconds=10)
    assert sample.shapes == "audio (1, 10, 128), visual (1, 10, 7, 7, 512), question (1, 512)"
    blocks = count_multiply_adds(Mamba(256, device="meta", backend="portable"), torch.empty(1, 10, 256, device="meta"))
    encoders = 10 * (128 + 512) * 256 + 512 * 256 + 512
    fusion = 10 * (512 * 256 + 2 * (256 * 3 + 256 * 256)) + 512 * 256
    assert total(model, *sample.inputs) == 4 * blocks.total + encoders + fusion + 256 * 42


def test_parameters_that_receive_gradient():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused, self.frozen = nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(4, 4)
            self.norm = nn.BatchNorm1d(4)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return {"logits": self.norm(self.frozen(self.used(x))), "ids": torch.arange(3)}

    model = Model().eval()
    found = count_parameters(model, torch.randn(3, 4))
    assert (found.total, found.trainable, found.receiving) == (20 + 25 + 20 + 8, 20 + 25 + 8, 20 + 8)
    assert not model.training
    assert not model.norm.training
    assert model.norm.num_batches_tracked == 0  # counting leaves no trace
    assert model.used.weight.grad is None
    assert count_parameters(Model().requires_grad_(False), torch.randn(3, 4)).receiving == 0


def test_an_operator_without_a_formula_is_reported():
    @torch.library.custom_op("crossmamba_test::mystery", mutates_args=())
    def mystery(x: torch.Tensor) -> torch.Tensor:
        return x @ x

    found = count_multiply_adds(lambda: torch.cdist(mystery(torch.eye(3)), torch.eye(3)))
    assert found.uncounted["crossmamba_test.mystery"] == 1
    assert any("cdist" in name for name in found.uncounted)


def test_example_inputs_of_every_kind_of_model():
    with torch.device("meta"):
        words, choices = create_model("av_mamba_small"), create_model("shmamba", head="choices")
        raw = create_model("shmamba_small", audio_input="small_sound", visual_input="small_pyramid")
        masks = create_model("avs_mamba_small")
    assert [x.shape for x in example_inputs(words, seconds=3).inputs] == [(1, 3, 64), (1, 3, 8, 8, 64), (1, 14)]
    assert example_inputs(choices, seconds=3, grid=(2, 2)).named["choices"].shape == (1, 4, 512)
    assert example_inputs(raw, seconds=2, side=32).shapes.startswith(
        "audio (1, 2, 1, 96, 64), visual (1, 2, 3, 32, 32)"
    )
    assert "frames (1, 5, 3, 64, 64)" in example_inputs(masks, seconds=5, side=64).shapes
    assert default_seconds(words) == (10, 60)
    assert default_seconds(masks) == (5,)
    real = example_inputs(words, seconds=2, device="cpu").inputs
    assert torch.equal(real[0], example_inputs(words, seconds=2, device="cpu").inputs[0])
    with pytest.raises(ValueError, match="at least 1"):
        example_inputs(words, seconds=0)
    with pytest.raises(ValueError, match="Linear"):
        example_inputs(nn.Linear(2, 2), seconds=1)
