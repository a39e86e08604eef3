"""The picture and fusion blocks: parameter integers of the paper's sizes, and who sees whom."""

import pytest
import torch
from torch import nn

from crossmamba.blocks import DropPath, FusionScan, MixFFN, RouteSSM, ScanLayer, ScanMixer
from crossmamba.blocks.layers import CausalConv1d, DepthwiseConv
from crossmamba.blocks.scan_mixer import FRAME_ROUTES, TEMPORAL_ROUTES
from crossmamba.models.avs_mamba import FUSION_TEMPORAL_ROUTES

SMALL = {"d_state": 2, "expand": 1, "dt_rank": 2}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_integers_at_full_size():
    """spec §1.11; MixFFN without the released code's unused LayerNorm (512)."""
    with torch.device("meta"):
        assert count(RouteSSM(512, 16, 16, 4)) == 167_936
        assert count(RouteSSM(512, 16, 16, 8)) == 335_872
        assert count(ScanMixer(256, FRAME_ROUTES)) == 567_296
        assert count(MixFFN(256)) == 536_320 - 512
        assert count(ScanMixer(256, TEMPORAL_ROUTES[:8])) == 735_232
        assert count(ScanLayer(256, ScanMixer(256, TEMPORAL_ROUTES[:8]))) == 735_744
        assert count(FusionScan(256, "sound", FRAME_ROUTES)) == 701_952
        assert count(FusionScan(256, "picture", FUSION_TEMPORAL_ROUTES)) == 701_952


def levels(batch=2, seconds=3, dim=4):
    return [torch.randn(batch, seconds, 4, 2, dim), torch.randn(batch, seconds, 2, 1, dim)]


@pytest.mark.parametrize("routes", [FRAME_ROUTES, TEMPORAL_ROUTES])
@pytest.mark.parametrize("temporal_kernel", [1, 3])
def test_mixer_keeps_shapes_and_reaches_every_parameter(routes, temporal_kernel):
    mixer = ScanMixer(4, routes, temporal_kernel=temporal_kernel, **SMALL)
    inputs = levels()
    outputs = mixer(inputs)
    assert [o.shape for o in outputs] == [i.shape for i in inputs]
    sum(o.square().sum() for o in outputs).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mixer.parameters())


def changed_frames(module, inputs, second):
    """Which seconds of the first level's output change when one second of the second level's input does."""
    with torch.no_grad():
        before = module(inputs)[0]
        changed = [inputs[0], inputs[1].clone()]
        changed[1][:, second, ..., 0] += 1.0
        difference = (module(changed)[0] - before).abs().amax(dim=(0, 2, 3, 4))
    return (difference > 0).tolist()


def test_frame_routes_mix_scales_within_a_frame_and_temporal_routes_the_whole_clip():
    torch.manual_seed(0)
    inputs = levels()
    assert changed_frames(ScanMixer(4, FRAME_ROUTES, **SMALL), inputs, 1) == [False, True, False]
    assert changed_frames(ScanMixer(4, TEMPORAL_ROUTES[:8], **SMALL), inputs, 1) == [True, True, True]


def test_v2a_at_frame_level_hears_every_pixel_of_its_own_second_only():
    torch.manual_seed(0)
    block = FusionScan(4, "sound", FRAME_ROUTES, **SMALL).double()
    picture = torch.randn(1, 3, 4, 4, 4, dtype=torch.float64)
    sound = torch.randn(1, 3, 4, dtype=torch.float64)
    before = block(picture, sound)
    for row in range(4):
        for column in range(4):
            changed = picture.clone()
            changed[:, 1, row, column, 0] += 1.0
            moved = (block(changed, sound) - before).abs().amax(dim=(0, 2)) > 0
            assert moved.tolist() == [False, True, False], (row, column)


def test_v2a_at_temporal_level_hears_the_whole_clip():
    torch.manual_seed(0)
    block = FusionScan(4, "sound", FUSION_TEMPORAL_ROUTES, **SMALL).double()
    picture = torch.randn(1, 3, 2, 2, 4, dtype=torch.float64)
    sound = torch.randn(1, 3, 4, dtype=torch.float64)
    before = block(picture, sound)
    for second in range(3):
        changed = picture.clone()
        changed[:, second, ..., 0] += 1.0
        assert ((block(changed, sound) - before).abs().amax(dim=(0, 2)) > 0).all()


def test_a2v_brings_every_second_of_sound_to_every_pixel():
    torch.manual_seed(0)
    block = FusionScan(4, "picture", FUSION_TEMPORAL_ROUTES, **SMALL).double()
    picture = torch.randn(1, 3, 2, 2, 4, dtype=torch.float64)
    sound = torch.randn(1, 3, 4, dtype=torch.float64)
    before = block(picture, sound)
    assert before.shape == picture.shape
    for second in range(3):
        changed = sound.clone()
        changed[:, second, ..., 0] += 1.0
        assert ((block(picture, changed) - before).abs().amax(dim=(0, 4)) > 0).all()


def test_a2v_first_route_lets_no_later_pixel_speak():
    """spec §1.13, 5, at the level of the scan: one forward route, sound in front, token j unmoved by later ones."""
    torch.manual_seed(0)
    block = FusionScan(4, "picture", ["THW+"], **SMALL).double()
    x = torch.randn(1, 2, 2, 2, 4, dtype=torch.float64)
    sound = torch.randn(1, 2, 4, dtype=torch.float64)
    before = block._scan(x, sound)
    changed = x.clone()
    changed[:, 1, 0, 1] += 1.0  # token 5 of 8
    moved = (block._scan(changed, sound) - before).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [False] * 5 + [True] * 3


def test_a_causal_convolution_of_one_step_uses_its_last_tap():
    conv = CausalConv1d(3)
    x = torch.randn(2, 1, 3)
    torch.testing.assert_close(conv(x)[:, 0], x[:, 0] * conv.weight[:, 0, -1] + conv.bias)


def test_depthwise_conv_has_temporal_reach_only_when_asked():
    x = torch.randn(1, 3, 4, 4, 2)
    changed = x.clone()
    changed[:, 2] += 1
    for kernel, moved in [(1, [False, False, True]), (3, [False, True, True])]:
        conv = DepthwiseConv(2, kernel)
        assert ((conv(x) - conv(changed)).abs().amax(dim=(0, 2, 3, 4)) > 0).tolist() == moved
    with pytest.raises(ValueError, match="temporal_kernel"):
        DepthwiseConv(2, 2)


def test_drop_path_drops_whole_samples_in_training_only():
    drop = DropPath(0.5)
    x = torch.ones(64, 3)
    rows = drop(x)
    assert set(rows.unique().tolist()) == {0.0, 2.0}
    assert (rows == rows[:, :1]).all()
    assert torch.equal(drop.eval()(x), x)


def test_routes_of_one_block_are_of_one_kind():
    with pytest.raises(ValueError, match="unknown route"):
        ScanMixer(4, ["HW+", "THW+"])
    with pytest.raises(ValueError, match="keep is"):
        FusionScan(4, "text", FRAME_ROUTES)


def test_a_condition_of_its_own_changes_the_scan_but_not_its_input():
    from crossmamba.ops import route_table

    torch.manual_seed(0)
    ssm = RouteSSM(4, 2, 2, 2)
    table = route_table(["L+", "L-"], [(6,)])
    x, condition = torch.randn(1, 6, 4), torch.randn(1, 6, 4)
    assert torch.equal(ssm(x, table), ssm(x, table, condition=x))
    assert not torch.allclose(ssm(x, table), ssm(x, table, condition=condition))
