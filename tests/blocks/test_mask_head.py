"""The mask head's exact table equals the MLP it stands for."""

import pytest
import torch

from crossmamba.blocks import MaskHead, mask_head
from crossmamba.blocks.mask_head import tabulate_scalar_mlp


@pytest.mark.parametrize("hidden", [1, 16, 64])
@pytest.mark.parametrize("spread", [1.0, 1e3])
def test_table_is_exact_in_float64_far_beyond_its_knots(hidden, spread):
    torch.manual_seed(hidden)
    mlp = MaskHead(8, hidden=hidden).double().mlp
    table = tabulate_scalar_mlp(mlp)
    s = torch.randn(4000, dtype=torch.float64) * spread
    expected = mlp(s[:, None])
    assert ((table(s) - expected).abs() / expected.abs().clamp(min=1)).max() < 1e-11


def test_table_survives_dead_units_equal_knots_and_zero_weights():
    torch.manual_seed(0)
    mlp = MaskHead(4, hidden=12).double().mlp
    with torch.no_grad():
        mlp[0].weight[:3] = 0.0
        mlp[0].weight[3:6] = 1.0
        mlp[0].bias[3:6] = 0.5  # three equal knots
        mlp[2].weight[:4] = 0.0
    s = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    torch.testing.assert_close(tabulate_scalar_mlp(mlp)(s), mlp(s[:, None]), atol=1e-12, rtol=0)


@torch.no_grad()
def test_full_width_head_by_table_equals_the_direct_form():
    torch.manual_seed(0)
    head = MaskHead(32).eval()  # the published hidden width of 2048
    query, features = 4 * torch.randn(2, 32), torch.randn(2, 32, 6, 6)
    direct = head(query, features, use_table=False)
    torch.testing.assert_close(head(query, features), direct, atol=2e-6, rtol=1e-5)
    assert 2048 < len(head.table().knots) < 20_000


def test_table_follows_the_weights_and_is_not_used_in_training(monkeypatch):
    head = MaskHead(8, hidden=16)
    query, features = torch.randn(1, 8), torch.randn(1, 8, 4, 4)
    calls = []
    monkeypatch.setattr(mask_head, "tabulate_scalar_mlp", lambda mlp: calls.append(1) or tabulate_scalar_mlp(mlp))
    head(query, features)
    head.eval()(query, features)  # gradients on: the direct form
    assert not calls
    with torch.no_grad():
        head(query, features)
        head(query, features)
        assert len(calls) == 1
        head.mlp[0].weight.mul_(2)
        torch.testing.assert_close(head(query, features), head(query, features, use_table=False), atol=1e-5, rtol=1e-5)
        assert len(calls) == 2


def test_too_many_knots_fall_back_to_the_direct_form(monkeypatch):
    monkeypatch.setattr(mask_head, "MAX_KNOTS", 3)
    head = MaskHead(8, hidden=16).eval()
    query, features = torch.randn(1, 8), torch.randn(1, 8, 4, 4)
    with torch.no_grad():
        assert head.table() is None
        assert torch.equal(head(query, features), head(query, features, use_table=False))


def test_head_parameter_integers():
    """spec §1.11."""
    for classes, last in [(1, 331_968), (71, 334_208)]:
        with torch.device("meta"):
            head = MaskHead(256, num_classes=classes)
        total = sum(p.numel() for p in head.parameters())
        mlp = sum(p.numel() for p in head.mlp.parameters())
        assert mlp == 4_724_992
        assert total - mlp == last
