"""CLIP, ResNet-18 and R(2+1)D: published layouts load whole and give an independent forward's values; the contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from published_features import (
    basic_resnet_grid,
    basic_resnet_shapes,
    clip_tokens,
    clip_words,
    openai_clip_shapes,
    r2plus1d_shapes,
    r2plus1d_vector,
)
from published_layouts import State, random_state
from safetensors.torch import save_file
from torch import Tensor

from crossmamba.encoders import (
    FRAME_ENCODERS,
    MOTION_ENCODERS,
    TEXT_ENCODERS,
    build_frame_encoder,
    build_motion_encoder,
    build_text_encoder,
    load_encoder_weights,
)
from crossmamba.encoders.clip import ClipFrames, ClipSize, ClipText
from crossmamba.encoders.r2plus1d import R2Plus1D
from crossmamba.encoders.resnet import ResNetFrames
from crossmamba.errors import CheckpointError, UsageError

TINY = ClipSize(64, 16, 32, 2, 4, 24, 3, 2, 20, length=12, vocabulary=40, published="the tiny file")
OPENAI = (64, 16, 32, 2, 24, 3, 20, 12, 40)
WIDTHS, DEPTHS = (8, 12, 16, 24), (2, 1, 2, 1)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def double(state: State) -> State:
    return {key: value.double() for key, value in state.items()}


def close(got: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05, "a dead reference compares nothing"
    assert got.dtype == torch.float64, "so that rounding cannot hide a wrong eps"
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def openai_state() -> State:
    return random_state(openai_clip_shapes(*OPENAI))


def test_clip_in_openai_layout_equals_an_independent_forward(tmp_path: Path) -> None:
    """All tokens after ln_post, times the projection; the class token is the picture's vector; grid row by row."""
    state = openai_state()
    torch.save(state | {"input_resolution": torch.tensor(64), "context_length": torch.tensor(12)}, tmp_path / "clip.pt")
    encoder = ClipFrames(TINY).double()
    assert load_encoder_weights(encoder, tmp_path / "clip.pt") == len(encoder.state_dict())
    with torch.no_grad():
        got, expected = encoder(noise(2, 3, 64, 64)), clip_tokens(double(state), noise(2, 3, 64, 64), 4)
    assert got.tokens is not None
    assert got.grid is not None
    close(got.tokens, expected)
    close(got.vector, expected[:, 0])
    close(got.grid[:, :, 1, 2], expected[:, 1 + 4 * 1 + 2])


def test_clip_text_in_openai_layout_equals_an_independent_forward(tmp_path: Path) -> None:
    """Causal attention; the vector is at the largest id, the end of the text, and pads behind it cannot move it."""
    state, ids = openai_state(), torch.tensor([[38, 5, 7, 39, 0, 0, 0], [38, 39, 0, 0, 0, 0, 0]])
    save_file(state, tmp_path / "clip.safetensors")
    encoder = ClipText(TINY).double()
    load_encoder_weights(encoder, tmp_path / "clip.safetensors")
    with torch.no_grad():
        got, expected = encoder(ids), clip_words(double(state), ids, 2)
        close(got.words, expected)
        close(got.vector, torch.stack([expected[0, 3], expected[1, 1]]))
        close(encoder(ids[:, :5]).vector, got.vector)


def test_clip_in_transformers_layout_equals_transformers_own_model(tmp_path: Path) -> None:
    """The file of openai/clip-vit-base-patch32: both towers and the position_ids of older files in one state dict."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        vision_config={"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                       "image_size": 64, "patch_size": 16},
        text_config={"hidden_size": 24, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2,
                     "vocab_size": 40, "max_position_embeddings": 12, "eos_token_id": 39},
        projection_dim=20,
    )  # fmt: skip
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    state = {key: value + 0.1 * torch.randn_like(value) for key, value in model.state_dict().items()}
    model.load_state_dict(state)
    for side in ("vision", "text"):
        state[f"{side}_model.embeddings.position_ids"] = torch.arange(12)[None]
    save_file(state, tmp_path / "model.safetensors")
    frames, text = ClipFrames(TINY).double(), ClipText(TINY).double()
    for encoder in (frames, text):
        load_encoder_weights(encoder, tmp_path / "model.safetensors")
    model, ids = model.double(), torch.tensor([[38, 5, 7, 39], [38, 9, 39, 39]])
    with torch.no_grad():
        close(frames(noise(2, 3, 64, 64)).vector, model.get_image_features(noise(2, 3, 64, 64)).pooler_output)
        close(text(ids).vector, model.get_text_features(input_ids=ids).pooler_output)


def test_resnet18_equals_an_independent_forward(tmp_path: Path) -> None:
    state = random_state(basic_resnet_shapes(WIDTHS, DEPTHS, 8))
    torch.save(state, tmp_path / "resnet18.pth")
    encoder = ResNetFrames(WIDTHS, DEPTHS, 8).double()
    assert load_encoder_weights(encoder, tmp_path / "resnet18.pth") == len(encoder.state_dict())
    with torch.no_grad():
        got, expected = encoder(noise(2, 3, 96, 64)), basic_resnet_grid(double(state), noise(2, 3, 96, 64), DEPTHS)
    assert got.grid is not None
    assert got.grid.shape == (2, 24, 3, 2)
    close(got.grid, expected)
    close(got.vector, expected.mean((2, 3)))


def test_r2plus1d_equals_an_independent_forward(tmp_path: Path) -> None:
    # floor(27 i o / (9 i + 3 o)), from each block's own input and output, once per block
    middle = {"layer1.0": 18, "layer1.1": 18, "layer2.0": 24, "layer3.0": 33, "layer3.1": 36, "layer4.0": 48}
    state = random_state(r2plus1d_shapes(WIDTHS, DEPTHS, (5, 8), middle))
    torch.save(state, tmp_path / "r2plus1d.pth")
    encoder = R2Plus1D(WIDTHS, DEPTHS, (5, 8)).double()
    assert load_encoder_weights(encoder, tmp_path / "r2plus1d.pth") == len(encoder.state_dict())
    with torch.no_grad():
        close(encoder(noise(2, 3, 8, 32, 48)), r2plus1d_vector(double(state), noise(2, 3, 8, 32, 48), DEPTHS))


# Parameters with both towers and the classification heads, as the publishers state them.
PUBLISHED_COUNTS = {
    "clip_vit_b32": 151_277_313,
    "clip_vit_l14": 427_616_513,
    "clip_vit_l14_336": 427_944_193,
    "resnet18": 11_689_512,
    "r2plus1d_18": 31_505_325,
}


@pytest.mark.parametrize("name", PUBLISHED_COUNTS)
def test_full_size_counts(name: str) -> None:
    """Built without memory for the weights."""
    with torch.device("meta"):
        if name.startswith("clip"):
            encoders = [build_frame_encoder(name), build_text_encoder(name.replace("clip_", "clip_text_"))]
            others = 1  # the logits' scale
        elif name == "resnet18":
            encoders, others = [build_frame_encoder(name)], 1000 * 513
        else:
            encoders, others = [build_motion_encoder(name)], 400 * 513
    assert sum(p.numel() for encoder in encoders for p in encoder.parameters()) + others == PUBLISHED_COUNTS[name]


def test_r2plus1d_18_has_the_published_middle_channels() -> None:
    with torch.device("meta"):
        state = build_motion_encoder("r2plus1d_18").state_dict()
    assert state["layer1.0.conv1.0.0.weight"].shape == (144, 64, 1, 3, 3)
    assert state["layer2.0.conv2.0.0.weight"].shape == (230, 128, 1, 3, 3)


@pytest.mark.parametrize("layout", ["openai", "resnet"])
def test_keys_of_another_layout_are_named(tmp_path: Path, layout: str) -> None:
    state = openai_state() if layout == "openai" else random_state(basic_resnet_shapes(WIDTHS, DEPTHS, 8))
    state["surprise.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "x.safetensors")
    encoder = ClipFrames(TINY) if layout == "openai" else ResNetFrames(WIDTHS, DEPTHS, 8)
    with pytest.raises(CheckpointError, match=r"surprise\.weight"):
        load_encoder_weights(encoder, tmp_path / "x.safetensors")


def test_a_checkpoint_of_another_size_is_refused_with_the_address_of_the_right_one(tmp_path: Path) -> None:
    save_file(openai_state(), tmp_path / "x.safetensors")
    encoder = ClipFrames(replace(TINY, width=48))
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"another shape.*the tiny file"):
        load_encoder_weights(encoder, tmp_path / "x.safetensors")
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_names_and_input_checks() -> None:
    clip = {name.replace("clip_", "clip_text_") for name in FRAME_ENCODERS if "clip" in name}
    assert set(TEXT_ENCODERS) == clip | {"roberta_embeddings", "roberta_encoder"}
    assert set(MOTION_ENCODERS) == {"r2plus1d_18"}
    with pytest.raises(UsageError, match="did you mean 'clip_vit_b32'"):
        build_frame_encoder("clip_vit_b3")
    frames, text = ClipFrames(TINY), ClipText(TINY)
    assert not any(p.requires_grad for p in frames.parameters())
    for wrong in (torch.zeros(1, 3, 64, 32), torch.zeros(2, 1, 3, 64, 64)):
        with pytest.raises(UsageError, match=r"\(N, 3, 64, 64\)"):
            frames(wrong)
    with pytest.raises(UsageError, match="floating point"):
        frames(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(UsageError, match="int64"):
        text(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(UsageError, match="knows 0 to 39"):
        text(torch.tensor([[3, 40]]))
    with pytest.raises(UsageError, match="F, H"):
        R2Plus1D(WIDTHS, DEPTHS, (5, 8))(torch.zeros(1, 3, 32, 32))
