"""AVS-Mamba: parameter integers, shapes, invariances, switches, learning."""

import itertools

import pytest
import torch
from torch import nn

from crossmamba import create_model
from crossmamba.data.logmel import SILENCE_LOG_MEL
from crossmamba.models.avs_mamba import temporal_scan_orders

TINY = {
    "width": 16, "d_state": 2, "scan_orders": 2, "head_hidden": 8, "head_channels": (8, 8), "mad_layers": 2,
    "picture_args": {"widths": (8, 8, 8, 8), "stem_width": 8}, "sound_args": {"dim": 8, "width": 8},
}  # fmt: skip


def tiny(**overrides):
    torch.manual_seed(0)
    return create_model("avs_mamba_small", **{**TINY, **overrides})


def clip(batch=1, seconds=2, size=(32, 32)):
    return torch.randn(batch, seconds, 3, *size), torch.randn(batch, seconds, 1, 96, 64)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "trunk", "neck"), [("pvt_v2_b5", 81_443_008, 26_421_696), ("resnet50", 23_508_032, 27_142_592)]
)
def test_parameter_integers(name, trunk, neck):
    """spec §1.11. The table counts two LayerNorms (512 each) that the released code makes and never uses; we do not."""
    with torch.device("meta"):
        model = create_model(f"avs_mamba_{name}")
    assert count(model.picture) == trunk
    assert count(model.sound) == 72_141_184
    assert count(model.encoder) == 3_680_768 - 2 * 512
    assert count(model.decoder) == 8_423_424
    assert count(model.pyramid) == 8_962_304
    assert count(model.head) == 4_724_992 + 331_968
    assert count(model.sound_proj) == 33_024
    assert count(model.project) == {"pvt_v2_b5": 265_216, "resnet50": 986_112}[name]
    assert count(model) - trunk - 72_141_184 == neck - 2 * 512


def test_sharing_the_stride_4_temporal_mamba_frees_its_parameters():
    with torch.device("meta"):
        own, shared = (create_model("avs_mamba_pvt_v2_b0", share_s4_temporal=share) for share in (False, True))
    assert count(own) - count(shared) == 735_744
    assert count(shared) - count(shared.picture) - count(shared.sound) == 25_684_928 - 265_216 + count(shared.project)


@pytest.mark.parametrize("seconds", [1, 5, 10])
@pytest.mark.parametrize("size", [(64, 64), (96, 64), (50, 38)])
def test_output_shapes_at_any_length_and_size(seconds, size):
    model = tiny(num_classes=3)
    frames, log_mel = clip(1, seconds, size)
    out = model(frames, log_mel)
    assert out.logits.shape == (1, seconds, 3, *size)
    assert [i.shape for i in out.intermediate] == [out.logits.shape]
    out = model.eval()(frames, log_mel)
    assert out.logits.shape == (1, seconds, 3, *size)
    assert out.intermediate == ()


@torch.no_grad()
def test_skipping_the_first_head_and_using_the_table_change_nothing():
    model = tiny(drop_path=0.0)
    frames, log_mel = clip()
    trained_form = model.train()(frames, log_mel).logits
    torch.testing.assert_close(model.eval()(frames, log_mel).logits, trained_form, atol=1e-5, rtol=1e-5)


SWITCHES = [
    {"mte_layers": 0}, {"mte_vss": False, "mte_ffn": "none"}, {"mte_temporal": False}, {"mte_ffn": "none"},
    {"mad_layers": 0}, {"mad_frame": False}, {"mad_temporal": False},
    {"cip_temporal": False}, {"cip_fusion": False}, {"cip_temporal": False, "cip_fusion": False},
    *({"scan_orders": n} for n in (2, 4, 6, 8, 10, 12)), {"scan_orders": ["HTW-", "THW+"]},
    {"fusion": "film"}, {"fusion": "cm_mamba"}, {"fusion": "cross_attention"}, {"fusion": "none"},
    {"share_s4_temporal": True}, {"upsampling": "bilinear"}, {"temporal_kernel": 3}, {"linear_init": "trunc_normal"},
]  # fmt: skip


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_switch_trains_a_step_and_uses_all_it_builds(switch):
    model = tiny(**switch)
    out = model(*clip())
    (out.logits.square().mean() + sum(i.square().mean() for i in out.intermediate)).backward()
    unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if switch.get("fusion") != "none" and "mad_layers" not in switch:
        assert unused == []


@pytest.mark.parametrize(
    "bad",
    [
        {"scan_orders": 5},
        {"fusion": "magic"},
        {"mte_ffn": "big"},
        {"linear_init": "he"},
        {"picture": "vgg"},
        {"wdth": 3},
    ],
    ids=str,
)
def test_unknown_values_are_errors(bad):
    with pytest.raises(ValueError):
        tiny(**bad)


def test_scan_order_sets_are_nested_as_in_table_vii():
    sets = [temporal_scan_orders(n) for n in (2, 4, 6, 8, 10, 12)]
    assert all(set(a) < set(b) for a, b in itertools.pairwise(sets))
    assert sets[3] == ("THW+", "THW-", "TWH+", "TWH-", "HWT+", "HWT-", "WHT+", "WHT-")
    assert len({name[:3] for name in sets[-1]}) == 6


@torch.no_grad()
def test_a_clip_does_not_see_the_other_clips_of_its_batch():
    model = tiny().eval()
    frames, log_mel = clip(3)
    whole = model(frames, log_mel).logits
    alone = model(frames[1:2], log_mel[1:2]).logits
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_silence_and_black_frames_stay_finite():
    model = tiny().eval()
    out = model(torch.zeros(1, 2, 3, 32, 32), torch.full((1, 2, 1, 96, 64), SILENCE_LOG_MEL))
    assert torch.isfinite(out.logits).all()
    assert torch.isfinite(model(torch.zeros(1, 2, 3, 32, 32), torch.zeros(1, 2, 1, 96, 64)).logits).all()


def test_equal_seeds_give_equal_weights_and_outputs():
    first, second = tiny(), tiny()
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    inputs = clip()
    assert torch.equal(first(*inputs).logits, second(*inputs).logits)


def test_gradient_checkpointing_changes_no_gradient():
    inputs = clip()
    gradients = []
    for enabled in (False, True):
        model = tiny()
        model.set_gradient_checkpointing(enabled)
        model(*inputs).logits.square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)


def test_bf16_autocast_runs_with_float32_states():
    model = tiny()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(*clip())
    out.logits.float().square().mean().backward()
    assert torch.isfinite(out.logits).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_one_clip_can_be_learned_by_heart():
    """spec §1.13, 11: Dice below 0.05 in under 200 steps."""
    from crossmamba.tasks.losses import dice_per_frame

    model = tiny(mad_layers=1)
    frames, log_mel = clip()
    masks = torch.zeros(1, 2, 1, 32, 32)
    masks[:, 0, :, 4:20, 6:24] = 1
    masks[:, 1, :, 10:30, 12:28] = 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(199):
        loss = dice_per_frame(model(frames, log_mel).logits, masks).mean()
        if loss < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"Dice loss is {loss:.3f} after 199 steps")


@pytest.mark.parametrize(
    ("frames", "log_mel", "message"),
    [
        (torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 1, 96, 64), "frames are"),
        (torch.zeros(1, 2, 3, 32, 32), torch.zeros(1, 3, 1, 96, 64), "log_mel is"),
        (torch.zeros(1, 2, 3, 32, 32), torch.zeros(1, 2, 96, 64), "log_mel is"),
    ],
)
def test_inputs_that_do_not_fit_are_named(frames, log_mel, message):
    with pytest.raises(ValueError, match=message):
        tiny()(frames, log_mel)
