"""What models rely on: shapes, input checks, freezing, gradient checkpointing, names."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from crossmamba.encoders import (
    PICTURE_ENCODERS,
    SOUND_ENCODERS,
    PictureEncoder,
    build_picture_encoder,
    build_sound_encoder,
)
from crossmamba.encoders.pvt_v2 import PvtV2, PvtV2Size
from crossmamba.encoders.resnet import ResNet
from crossmamba.encoders.small import SmallPyramid
from crossmamba.errors import UsageError


def tiny(family: str, **options: float) -> PictureEncoder:
    torch.manual_seed(0)
    if family == "pvt_v2":
        return PvtV2(PvtV2Size((16, 20, 40, 48), (1, 2, 1, 1)), **options)
    if family == "resnet":
        return ResNet((16, 24, 32, 48), (1, 2, 1, 1), 8, **options)
    return SmallPyramid((8, 16, 24, 32), 8, **options)


FAMILIES = ("pvt_v2", "resnet", "small")


def test_names() -> None:
    assert set(PICTURE_ENCODERS) == {f"pvt_v2_b{i}" for i in range(6)} | {"resnet50", "small_pyramid"}
    assert set(SOUND_ENCODERS) == {"vggish", "small_sound"}
    with pytest.raises(UsageError, match="did you mean 'pvt_v2_b5'"):
        build_picture_encoder("pvtv2_b5")
    with pytest.raises(UsageError, match="no option depth; it has dim, width, levels, freeze"):
        build_sound_encoder("small_sound", depth=3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(32, 32), (33, 63), (64, 100)])
def test_pyramid_has_ceil_sizes(family: str, size: tuple[int, int]) -> None:
    encoder = tiny(family).eval()
    with torch.no_grad():
        levels = encoder(torch.randn(2, 3, *size))
    expected = [
        (2, c, math.ceil(size[0] / s), math.ceil(size[1] / s))
        for c, s in zip(encoder.channels, encoder.strides, strict=True)
    ]
    assert [tuple(level.shape) for level in levels] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_checked(family: str) -> None:
    encoder = tiny(family)
    with pytest.raises(UsageError, match=r"\(N, 3, H, W\)"):
        encoder(torch.zeros(1, 5, 3, 64, 64))
    with pytest.raises(UsageError, match=r"\(N, 3, H, W\)"):
        encoder(torch.zeros(1, 1, 64, 64))
    with pytest.raises(UsageError, match="at least 32 x 32"):
        encoder(torch.zeros(1, 3, 31, 64))
    with pytest.raises(UsageError, match="divide by 255"):
        encoder(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))


def test_log_mels_are_checked() -> None:
    encoder = build_sound_encoder("small_sound")
    with pytest.raises(UsageError, match=r"\(N, 1, 96, 64\)"):
        encoder(torch.zeros(2, 5, 1, 96, 64))
    with pytest.raises(UsageError, match=r"\(N, 1, 96, 64\)"):
        encoder(torch.zeros(2, 1, 64, 96))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_learns(family: str) -> None:
    encoder = tiny(family, **({"drop_path": 0.0} if family == "pvt_v2" else {})).train()
    sum((level * torch.randn_like(level)).sum() for level in encoder(torch.randn(2, 3, 64, 64))).backward()
    silent = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # a bias of all keys alike cancels in the softmax
    assert [name for name in silent if not name.endswith("attention.key.bias")] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_changes_nothing_but_memory(family: str) -> None:
    frames = torch.randn(2, 3, 64, 64)
    results = []
    for checkpointing in (False, True):
        encoder = tiny(family).train()
        encoder.set_gradient_checkpointing(checkpointing)
        kept: list[torch.Size] = []

        def keep(tensor: torch.Tensor, kept: list[torch.Size] = kept) -> torch.Tensor:
            kept.append(tensor.shape)
            return tensor

        torch.manual_seed(1)  # drop path
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            levels = encoder(frames)
        sum(level.square().mean() for level in levels).backward()
        results.append((levels, [p.grad for p in encoder.parameters()], sum(shape.numel() for shape in kept)))
    plain, light = results
    assert all(torch.equal(a, b) for a, b in zip(plain[0], light[0], strict=True))
    for a, b in zip(plain[1], light[1], strict=True):
        torch.testing.assert_close(a, b)
    assert light[2] < plain[2] / 2, "values kept for the backward pass"


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_stays_as_it_is(family: str) -> None:
    encoder = tiny(family, freeze=True)
    holder = nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    frames = torch.randn(2, 3, 64, 64, requires_grad=True)
    encoder(frames)[3].sum().backward()
    assert frames.grad is not None
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    encoder.set_frozen(False)
    holder.train()
    assert encoder.training
    assert all(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("freeze_batch_norm", [True, False])
def test_resnet_batch_norm(freeze_batch_norm: bool) -> None:
    encoder = tiny("resnet", freeze_batch_norm=freeze_batch_norm)
    norm = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    for prepare in (lambda: encoder, encoder.train):  # as built, and after .train()
        before = norm.running_mean.clone()
        prepare()(torch.randn(2, 3, 64, 64) + 3)
        assert torch.equal(before, norm.running_mean) is freeze_batch_norm
    assert norm.weight.requires_grad
    if not freeze_batch_norm:
        with pytest.raises(UsageError, match="twice"):
            encoder.set_gradient_checkpointing()


def test_sound_encoders_tell_sounds_apart_and_learn() -> None:
    encoder = build_sound_encoder("small_sound", dim=24)
    quiet, loud = torch.full((1, 1, 96, 64), -4.6), torch.full((1, 1, 96, 64), 1.0)
    out = encoder(torch.cat([quiet, loud]))
    assert out.shape == (2, 24) == (2, encoder.dim)
    assert not torch.allclose(out[0], out[1], atol=1e-3)
    encoder(torch.randn(4, 1, 96, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
    with pytest.raises(UsageError, match="multiple of 8"):
        build_sound_encoder("small_sound", width=12)
    with pytest.raises(UsageError, match="multiple of 8"):
        build_picture_encoder("small_pyramid", widths=(8, 16, 20, 32))


def test_vggish_is_frozen_unless_asked() -> None:
    with torch.device("meta"):
        assert not any(p.requires_grad for p in build_sound_encoder("vggish").train().parameters())
        assert all(p.requires_grad for p in build_sound_encoder("vggish", freeze=False).train().parameters())


def test_import_does_not_import_transformers() -> None:
    code = (
        "import sys, crossmamba.encoders; sys.exit('transformers' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
