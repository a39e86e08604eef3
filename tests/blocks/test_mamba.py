"""Mamba against transformers' mixer on the same weights, and with mamba_ssm's names."""

import pytest
import torch

from crossmamba import Mamba

MAMBA_SSM_KEYS = {
    "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight",
    "dt_proj.weight", "dt_proj.bias", "out_proj.weight",
}  # fmt: skip


def test_names_and_shapes_are_mamba_ssms():
    block = Mamba(32, d_state=8, d_conv=4, expand=2)
    shapes = {name: tuple(value.shape) for name, value in block.state_dict().items()}
    assert set(shapes) == MAMBA_SSM_KEYS
    assert shapes["in_proj.weight"] == (128, 32)
    assert shapes["conv1d.weight"] == (64, 1, 4)
    assert shapes["x_proj.weight"] == (2 + 16, 64)
    assert shapes["dt_proj.weight"] == (64, 2)
    assert shapes["A_log"] == (64, 8)
    assert block.A_log._no_weight_decay
    assert block.D._no_weight_decay
    assert block.dt_proj.bias._no_reinit


def test_equals_transformers_mixer_on_the_same_weights():
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    torch.manual_seed(0)
    config = MambaConfig(hidden_size=24, state_size=6, conv_kernel=4, expand=2, time_step_rank=3)
    mixer = MambaMixer(config, layer_idx=0)
    block = Mamba(24, d_state=6, dt_rank=3)
    block.load_state_dict(mixer.state_dict())
    x = torch.randn(2, 13, 24, requires_grad=True)
    expected = mixer(x)
    ours = block(x)
    torch.testing.assert_close(ours, expected, atol=2e-6, rtol=1e-5)
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weight).sum(), x)[0],
        torch.autograd.grad((expected * weight).sum(), x)[0],
        atol=1e-5,
        rtol=1e-4,
    )


def test_lengths_make_padding_invisible():
    torch.manual_seed(0)
    block = Mamba(16, bias=False).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    padded = x.clone()
    padded[0, 5:] = float("nan")
    out = block(padded, lengths=torch.tensor([5, 9]))
    torch.testing.assert_close(out[0, :5], block(x[:1, :5])[0])
    torch.testing.assert_close(out[1], block(x[1:])[0])
    assert (out[0, 5:] == 0).all()


def test_is_causal_and_takes_empty_sequences():
    block = Mamba(16)
    x = torch.randn(1, 8, 16)
    changed = x.clone()
    changed[:, 5] += 1
    assert torch.equal(block(x)[:, :5], block(changed)[:, :5])
    assert block(x[:, :0]).shape == (1, 0, 16)


def test_unknown_start_of_dt_is_refused():
    with pytest.raises(ValueError, match="dt_init"):
        Mamba(16, dt_init="zeros")
