"""transformers' video encoders: tokens are those of transformers' own models, in scan order; published files load."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from crossmamba.encoders import VIDEO_ENCODERS, VideoEncoder, build_video_encoder, load_encoder_weights
from crossmamba.encoders.clip_video import ClipVideo
from crossmamba.encoders.video import TimeSformer, VideoMAE, VideoSize, ViViT, VJepa2, stretch_frames
from crossmamba.errors import CheckpointError, UsageError

TINY = VideoSize(24, 2, 3, 40, 8, "the tiny file")
COMMON = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
PICTURE = {"image_size": 16, "patch_size": 8}
FAMILIES = ("videomae", "timesformer", "vivit", "vjepa2")
BUILDERS: dict[str, Callable[..., VideoEncoder]] = {
    "videomae": VideoMAE, "timesformer": TimeSformer, "vivit": ViViT, "vjepa2": VJepa2, "clip": ClipVideo
}  # fmt: skip


def theirs(family: str, frames: int = 4) -> nn.Module:
    """The published kind of model, with the parts around the encoder, every tensor random."""
    import transformers as t

    torch.manual_seed(0)
    if family == "videomae":
        config = t.VideoMAEConfig(**COMMON, **PICTURE, num_frames=frames, use_mean_pooling=False,
                                  decoder_hidden_size=12, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
                                  decoder_intermediate_size=16)  # fmt: skip
        model = t.VideoMAEForPreTraining(config)
    elif family == "timesformer":
        model = t.TimesformerForVideoClassification(t.TimesformerConfig(**COMMON, **PICTURE, num_frames=frames))
    elif family == "vivit":
        config = t.VivitConfig(**COMMON, image_size=16, num_frames=frames, tubelet_size=[2, 8, 8])
        model = t.VivitForVideoClassification(config)
    else:
        sizes = {key: COMMON[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
        config = t.VJEPA2Config(**sizes, mlp_ratio=40 / 24, crop_size=16, patch_size=8, pred_hidden_size=12,
                                pred_num_attention_heads=2, pred_num_hidden_layers=1)  # fmt: skip
        model = t.VJEPA2Model(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model.eval()


def their_tokens(family: str, model: nn.Module, clip: Tensor) -> Tensor:
    video = clip.transpose(1, 2)  # (B, T, 3, H, W)
    if family == "vjepa2":
        return model(video, skip_predictor=True).last_hidden_state
    return getattr(model, family)(video).last_hidden_state


def clips(frames: int = 4, side: int = 16) -> Tensor:
    return torch.randn(2, 3, frames, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def close(got: Tensor, expected: Tensor) -> None:
    assert expected.std() > 0.05, "a dead reference compares nothing"
    assert got.dtype == torch.float64, "so that rounding cannot hide a wrong eps"
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_transformers(tmp_path: Path, family: str) -> None:
    """The folder that `save_pretrained` writes loads whole; TimeSformer's tokens are put frame by frame."""
    model = theirs(family)
    model.save_pretrained(tmp_path)
    encoder = BUILDERS[family](TINY, frames=4, image=16)
    assert load_encoder_weights(encoder, tmp_path) == len(encoder.state_dict())
    with torch.no_grad():
        got, row = encoder.double()(clips()), their_tokens(family, model.double(), clips())
    cls = family in ("timesformer", "vivit")
    times = 4 if family == "timesformer" else 2
    assert (got.grid, got.has_cls) == ((times, 2, 2), cls)
    expected = [row[:, 0]] if cls else []
    for t in range(times):
        for place in range(4):
            number = place * times + t if family == "timesformer" else t * 4 + place
            expected.append(row[:, number + cls])
    close(got.tokens, torch.stack(expected, dim=1))


@pytest.mark.parametrize("family", ["timesformer", "vivit"])
def test_orders_and_class_token(family: str) -> None:
    torch.manual_seed(0)
    encoder = BUILDERS[family](TINY, frames=4, image=16).double().eval()
    with torch.no_grad():
        first = encoder(clips())
        encoder.cls_place, encoder.order = "last", "space_major"
        last = encoder(clips())
        encoder.cls_place = "drop"
        dropped = encoder(clips())
    times = first.grid[0]
    close(last.tokens[:, -1], first.tokens[:, 0])
    close(last.tokens[:, :-1], dropped.tokens)
    assert not dropped.has_cls
    close(dropped.tokens.unflatten(1, (4, times)).transpose(1, 2).flatten(1, 2), first.tokens[:, 1:])


def old_names(family: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Today's names to those of transformers 4, in which files were published."""
    renamed = {}
    for key, value in state.items():
        if family == "vivit":
            key = key.replace("vivit.layers.", "vivit.encoder.layer.")
            key = re.sub(r"attention\.([qkv])_proj", lambda m: f"attention.attention.{NAMES[m[1]]}", key)
            key = key.replace("attention.o_proj", "attention.output.dense")
            key = key.replace("mlp.fc1", "intermediate.dense").replace("mlp.fc2", "output.dense")
        elif family == "videomae":
            key = re.sub(r"attention\.(query|value)\.bias", lambda m: f"attention.{m[1][0]}_bias", key)
        renamed[key] = value
    return renamed


NAMES = {"q": "query", "k": "key", "v": "value"}


@pytest.mark.parametrize("family", ["videomae", "vivit"])
def test_files_in_the_names_of_transformers_4_load(tmp_path: Path, family: str) -> None:
    model = theirs(family)
    state = old_names(family, {key: value.clone() for key, value in model.state_dict().items()})
    wanted = {"videomae": "videomae.encoder.layer.1.attention.attention.q_bias",
              "vivit": "vivit.encoder.layer.1.attention.attention.query.weight"}[family]  # fmt: skip
    assert wanted in state
    torch.save(state, tmp_path / "pytorch_model.bin")
    encoder = BUILDERS[family](TINY, frames=4, image=16)
    load_encoder_weights(encoder, tmp_path)
    with torch.no_grad():
        got = encoder.double()(clips()).tokens
    close(got, their_tokens(family, model.double(), clips()))


def test_a_fine_tuned_videomae_has_its_norm_behind_the_mean(tmp_path: Path) -> None:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    torch.manual_seed(0)
    config = VideoMAEConfig(**COMMON, **PICTURE, num_frames=4, use_mean_pooling=True)
    model = VideoMAEForVideoClassification(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.save_pretrained(tmp_path)
    assert "fc_norm.weight" in load_file(tmp_path / "model.safetensors")
    encoder = VideoMAE(TINY, frames=4, image=16)
    load_encoder_weights(encoder, tmp_path)
    with torch.no_grad():
        row = their_tokens("videomae", model.double(), clips())
        norm = model.fc_norm
        expected = F.layer_norm(row, (24,), norm.weight, norm.bias, 1e-12)  # the encoder's eps; fc_norm has torch's
        close(encoder.double()(clips()).tokens, expected)


@pytest.mark.parametrize("family", ["timesformer", "vivit"])
@pytest.mark.parametrize("frames", [2, 8])
def test_weights_of_another_number_of_frames_are_stretched(tmp_path: Path, family: str, frames: int) -> None:
    model = theirs(family)
    model.save_pretrained(tmp_path)
    encoder = BUILDERS[family](TINY, frames=frames, image=16)
    load_encoder_weights(encoder, tmp_path)
    if family == "timesformer":
        old = model.timesformer.embeddings.time_embeddings[0]
        new = encoder.tower.embeddings.time_embeddings[0]
    else:
        old = model.vivit.embeddings.position_embeddings[0, 1:].unflatten(0, (2, 4))[:, 3]
        new = encoder.tower.embeddings.position_embeddings[0, 1:].unflatten(0, (frames // 2, 4))[:, 3]
    count, ratio = len(new), len(old) / len(new)
    for i in range(count):
        place = min(max((i + 0.5) * ratio - 0.5, 0), len(old) - 1)
        low = min(int(place), len(old) - 2)
        expected = old[low] + (place - low) * (old[low + 1] - old[low])
        torch.testing.assert_close(new[i], expected, rtol=0, atol=1e-6)
    assert encoder(clips(frames).float()).grid[0] == count


def test_stretching_to_the_same_number_changes_no_bit() -> None:
    table = torch.randn(3, 5, 4)
    assert torch.equal(stretch_frames(table, 5), table)


@pytest.mark.parametrize("layout", ["transformers", "openai"])
def test_clip_frame_by_frame(tmp_path: Path, layout: str) -> None:
    """Each frame alone through CLIP, all tokens behind the last norm; the mean of the class tokens; frames' vectors."""
    from published_features import _norm, _tower, openai_clip_shapes
    from published_layouts import random_state
    from transformers import CLIPVisionConfig, CLIPVisionModel

    if layout == "openai":
        state = random_state(openai_clip_shapes(16, 8, 24, 2, 16, 1, 12, 7, 40))
        save_file(state, tmp_path / "model.safetensors")

        def look(frames: Tensor) -> Tensor:
            p = {key: value.double() for key, value in state.items()}
            x = F.conv2d(frames, p["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)
            x = torch.cat([p["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + p["visual.positional_embedding"]
            return _norm(p, "visual.ln_post", _tower(p, "visual.", _norm(p, "visual.ln_pre", x), 3))

    else:
        torch.manual_seed(0)
        model = CLIPVisionModel(CLIPVisionConfig(**COMMON, **PICTURE)).eval()
        model.save_pretrained(tmp_path)
        model.double()

        def look(frames: Tensor) -> Tensor:
            norm = next(module for name, module in model.named_modules() if name.endswith("post_layernorm"))
            return norm(model(frames).last_hidden_state)

    size = VideoSize(24, 2, 3, 96 if layout == "openai" else 40, 8)
    encoder = ClipVideo(size, frames=4, image=16)
    load_encoder_weights(encoder, tmp_path)
    assert encoder.times is not None
    assert not encoder.times.any()
    nn.init.normal_(encoder.times)
    with torch.no_grad():
        got = encoder.double()(clips())
        rows = torch.stack([look(clips()[:, :, t]) for t in range(4)], dim=1) + encoder.times[:, None]
    close(got.tokens[:, 0], rows[:, :, 0].mean(1))
    close(got.tokens[:, 1:], rows[:, :, 1:].flatten(1, 2))
    torch.save(encoder.state_dict(), tmp_path / "own.pt")
    again = ClipVideo(size, frames=4, image=16)
    load_encoder_weights(again, tmp_path / "own.pt")
    assert torch.equal(again.times, encoder.times.float())


def test_clip_streams_without_frames_vectors() -> None:
    torch.manual_seed(0)
    encoder = ClipVideo(TINY, image=16, temporal_embedding=False, cls_place="drop").double().eval()
    assert encoder.streams
    with torch.no_grad():
        steps = [encoder.step(clips(7)[:, :, t]) for t in range(7)]
        close(torch.cat(steps, dim=1), encoder(clips(7)).tokens)
    for options in ({}, {"temporal_embedding": False}, {"cls_place": "drop"}):
        other = ClipVideo(TINY, image=16, frames=4, **options)
        assert not other.streams
        with pytest.raises(UsageError, match="does not stream"):
            other.step(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize("family", BUILDERS)
def test_gradients_freezing_and_checkpointing(family: str) -> None:
    torch.manual_seed(0)
    encoder = BUILDERS[family](TINY, frames=4, image=16).train()
    weights, results, sizes = None, [], []
    for checkpointing in (False, True):
        encoder.set_gradient_checkpointing(checkpointing)
        encoder.zero_grad()
        kept: list[int] = []

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            tokens = encoder(clips().float()).tokens
        sizes.append(sum(kept))
        weights = torch.randn_like(tokens) if weights is None else weights
        (tokens * weights).sum().backward()
        results.append([tokens, *(p.grad for p in encoder.parameters())])
    silent = [name for (name, _), grad in zip(encoder.named_parameters(), results[0][1:], strict=True) if grad is None]
    assert silent == []
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)
    assert sizes[1] < sizes[0] / 2, "values kept for the backward pass"
    frozen = BUILDERS[family](TINY, frames=4, image=16, freeze=True).train()
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(module.training for module in frozen.modules())


def test_drop_path_falls_to_zero_at_the_first_block() -> None:
    timesformer, vjepa = TimeSformer(TINY, frames=4, image=16, drop_path=0.2), VJepa2(TINY, image=16, drop_path=0.2)
    assert [layer.drop_path.probability for layer in timesformer.tower.encoder.layer] == pytest.approx([0, 0.2])
    assert [layer.drop_path.drop_prob for layer in vjepa.tower.encoder.layer] == pytest.approx([0, 0.2])
    timesformer.train()
    assert not torch.equal(timesformer(clips().float()).tokens, timesformer(clips().float()).tokens)


# Tokens as transformers' own models give them (spec §6), parameters without heads.
FULL: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "videomae_b": (1568, 768, 86_227_200, {}),
    "timesformer_b": (3137, 768, 121_264_896, {}),
    "vivit_b": (3137, 768, 88_646_400, {}),
    "clip_b": (3137, 768, 85_811_712, {}),
    "clip_l": (4097, 1024, 303_196_160, {}),
    "vjepa2_l": (1568, 1024, 303_885_312, {}),
}


@pytest.mark.parametrize("name", FULL)
def test_full_size(name: str) -> None:
    """Built without memory for the weights."""
    tokens, width, parameters, options = FULL[name]
    with torch.device("meta"):
        encoder = build_video_encoder(name, **options)
        encoded = encoder(torch.zeros(1, 3, 32 if name == "vivit_b" else 16, 224, 224))
    assert encoded.tokens.shape == (1, tokens, width) == (1, tokens, encoder.dim)
    assert sum(p.numel() for p in encoder.parameters()) == parameters


def test_names() -> None:
    assert {name.split("_")[0] for name in VIDEO_ENCODERS} == {*FAMILIES, "clip", "avion", "lavila", "small"}


def test_wrong_weights_and_calls(tmp_path: Path) -> None:
    model = theirs("vivit")
    model.save_pretrained(tmp_path)
    encoder = ViViT(TINY, frames=4, image=24)
    with pytest.raises(CheckpointError, match=r"position_embeddings \(1, 9, 24\) instead of \(1, 19, 24\).*the tiny"):
        load_encoder_weights(encoder, tmp_path)
    with pytest.raises(CheckpointError, match="not of the transformers layout of VideoMAE"):
        load_encoder_weights(VideoMAE(TINY, frames=4, image=16), tmp_path)
    with pytest.raises(CheckpointError, match="not of the layout of CLIP"):
        load_encoder_weights(ClipVideo(TINY, frames=4, image=16), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no such file in this folder: model\.safetensors or pytorch_model\.bin"):
        load_encoder_weights(encoder, tmp_path / "empty")
    with pytest.raises(UsageError, match="multiples of 2"):
        VJepa2(TINY, image=16)(torch.zeros(1, 3, 3, 16, 16))
    with pytest.raises(UsageError, match="multiples of 2"):
        VideoMAE(TINY, frames=5, image=16)
    with pytest.raises(UsageError, match="multiple of the patch, 8"):
        TimeSformer(TINY, image=20)
    with pytest.raises(UsageError, match="no size 'videomae'"):
        VideoMAE("videomae")
    with pytest.raises(UsageError, match="has no option width"):
        build_video_encoder("videomae_b", width=3)
