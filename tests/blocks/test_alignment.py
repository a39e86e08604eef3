"""Curvature and alignment losses: range, gradients, invariances, what each loss sees (spec §2.4)."""

import pytest
import torch
import torch.nn.functional as F

from crossmamba.blocks.alignment import (
    AdaptiveCurvature,
    DistanceLoss,
    FixedCurvature,
    GramLoss,
    HyperbolicAlignment,
    InfoNCELoss,
    NoAlignment,
    build_alignment,
    to_ball,
)
from crossmamba.blocks.hyperbolic import dist, exp0

PLAIN = {"curvature": "adaptive", "k0": 1.0, "c_min": 1e-3, "weight": None, "temperature": 0.2, "space": "tangent"}


def pair(videos=5, seconds=4, width=16, scale=0.5):
    torch.manual_seed(0)
    return scale * torch.randn(videos, seconds, width), scale * torch.randn(videos, seconds, width)


def curvature_gradient(name: str, scale: float) -> float:
    """The largest gradient that the alignment loss alone gives to the curvature's layer."""
    block = build_alignment(name, 16, **PLAIN)
    _, _, losses = block(*pair(scale=scale))
    losses["alignment"].backward()
    return block.curvature.linear.weight.grad.abs().max().item()


def test_curvature_is_the_formula_and_stays_in_its_range():
    bend = AdaptiveCurvature(16, k0=0.7, c_min=0.01)
    a, v = pair(scale=3)
    c = bend(a, v)
    assert c.shape == (5, 1, 1)
    k_av = torch.cat([a.mean(1), v.mean(1)], 1)
    expected = 0.01 + 0.7 / (1 + torch.exp(-(k_av @ bend.linear.weight.T + bend.linear.bias)))
    torch.testing.assert_close(c[:, 0], expected)
    assert ((c > 0.01) & (c < 0.71)).all()
    assert len(c.unique()) == 5  # each video its own


def test_fixed_curvature_is_the_middle_of_the_range():
    c = FixedCurvature(k0=1.0, c_min=0.1)(*pair())
    assert torch.equal(c, torch.full((5, 1, 1), 0.6))


@pytest.mark.parametrize("name", ["distance", "infonce"])
@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_distances_move_the_curvature(name, scale):
    assert curvature_gradient(name, scale) > 1e-6


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_the_gram_loss_cannot_move_the_curvature(scale):
    """spec §2.2: the published scheme's loss does not depend on c at all; what is left is rounding."""
    assert curvature_gradient("gram_mse", scale) < 1e-9


@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_the_gram_loss_is_the_flat_one_at_any_curvature(scale):
    a, v = (x.double() for x in pair(scale=scale))
    flat = F.mse_loss(*(F.normalize(x.mean(1), dim=-1) @ F.normalize(x.mean(1), dim=-1).T for x in (a, v)))
    for c in (0.01, 0.1, 1.0, 5.0):
        torch.testing.assert_close(GramLoss()(a, v, torch.full((5, 1, 1), c, dtype=torch.float64)), flat)


def test_distance_loss_in_flat_space_is_twice_the_mean_gap():
    a, v = pair()
    found = DistanceLoss()(a, v, torch.full((5, 1, 1), 1e-8))
    torch.testing.assert_close(found, 2 * (a - v).norm(dim=-1).mean(), atol=1e-4, rtol=1e-4)


def test_infonce_uses_row_i_s_curvature_in_row_i():
    a, v = pair()
    c = torch.linspace(0.1, 1.0, 5).reshape(5, 1, 1)
    a_mean, v_mean = a.mean(1), v.mean(1)
    rows = []
    for anchors, others in ((a_mean, v_mean), (v_mean, a_mean)):
        for i in range(5):
            x, y = exp0(anchors[i : i + 1], c[i, 0]), exp0(others, c[i, 0])  # short enough that nothing is clipped
            rows.append(torch.logsumexp(-dist(x, y, c[i, 0]) / 0.2, 0) + dist(x, y, c[i, 0])[i] / 0.2)
    torch.testing.assert_close(InfoNCELoss(0.2)(a, v, c), torch.stack(rows).mean())
    assert InfoNCELoss()(a[:1], v[:1], c[:1]) == 0  # one video: nothing to tell apart


def test_infonce_is_small_where_pairs_match_and_large_where_they_are_swapped():
    a, _ = pair(scale=1.0)
    c = torch.ones(5, 1, 1)
    assert InfoNCELoss()(a, a, c) < 0.05 < 3 < InfoNCELoss()(a, a.roll(1, 0), c)


@pytest.mark.parametrize("name", ["distance", "infonce", "gram_mse"])
def test_the_order_of_the_batch_does_not_matter(name):
    block = build_alignment(name, 16, **PLAIN)
    a, v = pair()
    order = torch.tensor([3, 0, 4, 1, 2])
    one, other = block(a, v), block(a[order], v[order])
    torch.testing.assert_close(one[0][order], other[0])
    torch.testing.assert_close(one[1][order], other[1])
    torch.testing.assert_close(one[2]["alignment"], other[2]["alignment"])
    torch.testing.assert_close(block(a[:2], v[:2])[0], one[0][:2])  # a video does not see the others


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["distance", "infonce", "gram_mse"])
def test_autocast_changes_nothing(name, dtype):
    block = build_alignment(name, 16, **PLAIN)
    expected = block(*pair())
    with torch.autocast("cpu", dtype):
        found = block(*pair())
    assert torch.equal(found[2]["alignment"], expected[2]["alignment"])
    assert torch.equal(found[0], expected[0])


def test_tangent_space_is_the_clipped_input_and_the_ball_is_inside_the_rim():
    a, v = pair(scale=0.1)
    tangent = build_alignment("distance", 16, **PLAIN)
    torch.testing.assert_close(tangent(a, v)[0], a, atol=1e-6, rtol=1e-5)
    large = tangent(100 * a, 100 * v)[0]
    c = tangent.curvature(100 * a, 100 * v)
    torch.testing.assert_close(large.norm(dim=-1), (2 / c.sqrt())[..., 0].expand(5, 4), atol=0, rtol=1e-4)
    ball = HyperbolicAlignment(tangent.curvature, DistanceLoss(), space="ball")
    torch.testing.assert_close(ball(100 * a, 100 * v)[0], to_ball(100 * a, c))
    assert (ball(100 * a, 100 * v)[0].norm(dim=-1) * c.sqrt()[..., 0] < 0.97).all()


def test_no_loss_in_eval_mode_and_none_without_an_alignment():
    block = build_alignment("distance", 16, **PLAIN)
    assert set(block(*pair())[2]) == {"alignment"}
    assert block.eval()(*pair())[2] == {}
    a, v = pair()
    onward = NoAlignment()(a, v)
    assert onward[0] is a
    assert onward[2] == {}


def test_weights_of_the_losses():
    weights = {name: build_alignment(name, 8, **PLAIN).weight for name in ("distance", "infonce", "gram_mse")}
    assert weights == {"distance": 0.1, "infonce": 0.1, "gram_mse": 1e-3}
    assert build_alignment("distance", 8, **{**PLAIN, "weight": 0.3}).weight == 0.3


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cosine", {}),
        ("distance", {"curvature": "learned"}),
        ("distance", {"space": "sphere"}),
        ("none", {"space": "ball"}),
        ("distance", {"c_min": 0.0}),
        ("distance", {"k0": -1.0}),
        ("infonce", {"temperature": 0.0}),
    ],
)
def test_unknown_values_are_errors(name, change):
    with pytest.raises(ValueError):
        build_alignment(name, 8, **{**PLAIN, **change})
