"""Checkpoints in their published layout load with every key matched and give an independent forward's outputs."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from published_layouts import (
    State,
    pvt_forward,
    pvt_shapes,
    random_state,
    resnet_forward,
    resnet_shapes,
    vggish_forward,
    vggish_shapes,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from crossmamba.encoders import build_picture_encoder, build_sound_encoder, load_encoder_weights
from crossmamba.encoders.pvt_v2 import PVT_V2_SIZES, PvtV2, PvtV2Size, remap_pvt_v2
from crossmamba.encoders.resnet import ResNet, remap_resnet
from crossmamba.errors import CheckpointError

TINY_PVT = PvtV2Size((16, 20, 40, 48), (1, 2, 2, 1), (8, 8, 4, 4))
RESNET_WIDTHS, RESNET_DEPTHS, RESNET_STEM = (16, 24, 32, 48), (1, 2, 2, 1), 8


def pictures(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def save(state: State, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def double(state: State) -> State:
    return {key: value.double() for key, value in state.items()}


def assert_equal_levels(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected) == 4
    for level, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.shape == b.shape
        assert b.std() > 0.1, "a dead reference compares nothing"
        assert a.dtype == torch.float64, "so that rounding cannot hide a wrong eps"
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10, msg=lambda m, level=level: f"level {level}: {m}")


def tiny_pvt() -> PvtV2:
    return PvtV2(TINY_PVT).double().eval()


def tiny_pvt_state() -> State:
    return random_state(pvt_shapes(TINY_PVT.widths, TINY_PVT.depths, TINY_PVT.mlp_ratios))


def tiny_resnet() -> ResNet:
    return ResNet(RESNET_WIDTHS, RESNET_DEPTHS, RESNET_STEM).double().eval()


def tiny_resnet_state(counters: bool = True) -> State:
    return random_state(resnet_shapes(RESNET_WIDTHS, RESNET_DEPTHS, RESNET_STEM, counters))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("size", [(64, 64), (50, 71)])
def test_pvt_v2_equals_an_independent_forward(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    state, encoder = tiny_pvt_state(), tiny_pvt()
    loaded = load_encoder_weights(encoder, save(state, tmp_path / f"pvt{suffix}"))
    assert loaded == len(encoder.state_dict())
    with torch.no_grad():
        assert_equal_levels(encoder(pictures(*size)), pvt_forward(double(state), pictures(*size), TINY_PVT.depths))


def test_pvt_v2_layer_norm_eps_matters_here() -> None:
    """On weak activations the eps of transformers' defaults would show: this is what guards the two traps."""
    state, encoder = tiny_pvt_state(), tiny_pvt()
    for key in state:
        if ("patch_embed" in key and "proj" in key) or ".sr." in key:
            state[key] *= 1e-3
    encoder.load_state_dict(encoder.remap(state))
    with torch.no_grad():
        assert_equal_levels(encoder(pictures()), pvt_forward(double(state), pictures(), TINY_PVT.depths))
        for stage in encoder.backbone.encoder.layers:
            stage.patch_embedding.layer_norm.eps = 1e-6
        first, expected = encoder(pictures())[0], pvt_forward(double(state), pictures(), TINY_PVT.depths)[0]
        assert (first - expected).abs().max() > 1e-3


@pytest.mark.parametrize("prefix", ["module.", "encoder_backbone.", "module.encoder_backbone."])
def test_pvt_v2_in_wrapped_models(tmp_path: Path, prefix: str) -> None:
    state = tiny_pvt_state()
    wrapped = {prefix + key: value for key, value in state.items()}
    wrapped["module.other.weight" if prefix.startswith("module.") else "other.weight"] = torch.zeros(3)
    if prefix == "module.":  # no name tells the encoder from the rest: the stray key must be reported
        with pytest.raises(CheckpointError, match=r"1 of \d+ keys .*other\.weight"):
            remap_pvt_v2(wrapped)
        del wrapped["module.other.weight"]
    encoder = tiny_pvt()
    load_encoder_weights(encoder, save({"state_dict": wrapped}, tmp_path / "model.pth"))  # type: ignore[dict-item]
    with torch.no_grad():
        assert_equal_levels(encoder(pictures()), pvt_forward(double(state), pictures(), TINY_PVT.depths))


def test_pvt_v2_transformers_layout_and_own_layout(tmp_path: Path) -> None:
    source, target = PvtV2(TINY_PVT), PvtV2(TINY_PVT)
    transformers_layout = {f"pvt_v2.{k}": v for k, v in source.backbone.state_dict().items()}
    transformers_layout["classifier.weight"] = torch.zeros(10, 48)
    for name, state in (("hub", transformers_layout), ("own", source.state_dict())):
        nn.init.zeros_(target.backbone.encoder.layers[0].patch_embedding.proj.weight)
        load_encoder_weights(target, save(state, tmp_path / f"{name}.safetensors"))
        assert all(
            torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
        )


@pytest.mark.parametrize("name", PVT_V2_SIZES)
def test_pvt_v2_full_size_keys(name: str) -> None:
    """Key by key and shape by shape, without memory for the weights."""
    size = PVT_V2_SIZES[name]
    shapes = pvt_shapes(size.widths, size.depths, size.mlp_ratios)
    with torch.device("meta"):
        own = build_picture_encoder(name).state_dict()
        published = {key: torch.empty(shape) for key, shape in shapes.items()}
    remapped = remap_pvt_v2(published)
    assert {f"backbone.{k}": v.shape for k, v in remapped.items()} == {k: v.shape for k, v in own.items()}
    head = size.widths[-1] * 1000 + 1000
    assert sum(v.numel() for v in own.values()) == sum(v.numel() for v in published.values()) - head
    if name == "pvt_v2_b5":
        assert sum(v.numel() for v in own.values()) == 81_443_008


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("size", [(64, 64), (50, 71)])
def test_resnet_equals_an_independent_forward(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    state, encoder = tiny_resnet_state(), tiny_resnet()
    loaded = load_encoder_weights(encoder, save(state, tmp_path / f"resnet{suffix}"))
    assert loaded == len(encoder.state_dict())
    with torch.no_grad():
        assert_equal_levels(encoder(pictures(*size)), resnet_forward(double(state), pictures(*size), RESNET_DEPTHS))


def test_resnet_of_2017(tmp_path: Path) -> None:
    """resnet50-19c8e357.pth is a pre-zip file of Parameters in an OrderedDict, without num_batches_tracked."""
    state = tiny_resnet_state(counters=False)
    old = OrderedDict((k, v if "running" in k else nn.Parameter(v)) for k, v in state.items())
    torch.save(old, tmp_path / "resnet50.pth", _use_new_zipfile_serialization=False)
    encoder = tiny_resnet()
    load_encoder_weights(encoder, tmp_path / "resnet50.pth")
    with torch.no_grad():
        assert_equal_levels(encoder(pictures()), resnet_forward(double(state), pictures(), RESNET_DEPTHS))


def test_resnet_avsbench_names() -> None:
    """AVSBench's trunk has the third and fourth stage twice; its forward uses the copy named _1."""
    state = {k: v for k, v in tiny_resnet_state().items() if not k.startswith("fc.")}
    aliased = {}
    for key, value in state.items():
        for stage in ("layer3", "layer4"):
            key = key.replace(f"{stage}.", f"{stage}_1.")
        aliased[f"encoder_backbone.{key}"] = value
        if "_1." in key:
            aliased[f"encoder_backbone.{key.replace('_1.', '_2.')}"] = torch.full_like(value, 7)
    remapped = remap_resnet(aliased)
    expected = remap_resnet(state)
    assert remapped.keys() == expected.keys()
    assert all(torch.equal(remapped[key], expected[key]) for key in expected)
    with pytest.raises(CheckpointError, match="layer2_1"):
        remap_resnet({"layer2_1.0.conv1.weight": torch.zeros(1)})


def test_resnet50_full_size_keys() -> None:
    shapes = resnet_shapes((256, 512, 1024, 2048), (3, 4, 6, 3), 64)
    with torch.device("meta"):
        encoder = build_picture_encoder("resnet50")
        published = {key: torch.empty(shape) for key, shape in shapes.items()}
    own = {k: v.shape for k, v in encoder.state_dict().items()}
    assert {f"backbone.{k}": v.shape for k, v in remap_resnet(published).items()} == own
    assert len(shapes) == 320  # torchvision's resnet50 state dict
    assert sum(p.numel() for p in encoder.parameters()) == 23_508_032


def test_vggish_equals_an_independent_forward(tmp_path: Path) -> None:
    """At full size: 72 million parameters, a file as published."""
    state = random_state(vggish_shapes())
    encoder = build_sound_encoder("vggish")
    assert sum(p.numel() for p in encoder.parameters()) == 72_141_184
    assert sum(v.numel() for v in state.values()) == 72_141_184
    assert load_encoder_weights(encoder, save(state, tmp_path / "vggish-10086976.pth")) == len(state) == 18
    log_mel = torch.randn(3, 1, 96, 64, generator=torch.Generator().manual_seed(2)) - 2
    with torch.no_grad():
        got, expected = encoder(log_mel), vggish_forward(state, log_mel)
    assert got.shape == (3, 128)
    assert expected.std() > 0.01
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    with_pca = state | {"pproc.pca_means": torch.zeros(128, 1)}
    assert encoder.remap(with_pca).keys() == state.keys()
