"""The small video encoder: causal, frame by frame as clip-wise, motion in its tokens, orders of tokens."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from crossmamba.encoders import (
    SmallVideoEncoder,
    VideoTokens,
    arrange_tokens,
    build_video_encoder,
    load_encoder_weights,
)
from crossmamba.errors import CheckpointError, UsageError


def clip(frames: int = 5, side: int = 64, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def small(**options: object) -> SmallVideoEncoder:
    torch.manual_seed(0)
    return SmallVideoEncoder(**options).double().eval()


@torch.no_grad()
def test_tokens_of_a_clip() -> None:
    encoded = small(width=24)(clip())
    assert isinstance(encoded, VideoTokens)
    assert encoded.tokens.shape == (2, 5 * 16, 24)
    assert (encoded.grid, encoded.has_cls, encoded.order) == ((5, 4, 4), False, "time_major")
    assert small(width=24)(clip(1, 96)).grid == (1, 6, 6)


@torch.no_grad()
def test_one_token_a_frame() -> None:
    encoded = small(width=24, per_frame=True)(clip())
    assert encoded.tokens.shape == (2, 5, 24)
    assert encoded.grid == (5, 1, 1)
    with pytest.raises(CheckpointError, match=r"gather"):
        load_encoder_weights_of(small(width=24, per_frame=True), small(width=24))


def load_encoder_weights_of(encoder: SmallVideoEncoder, other: SmallVideoEncoder) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_file(other.state_dict(), Path(folder) / "x.safetensors")
        load_encoder_weights(encoder, Path(folder) / "x.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("side", [64, 96])
def test_steps_equal_the_clip(side: int, per_frame: bool) -> None:
    encoder, frames = small(per_frame=per_frame), clip(side=side)
    steps, previous = [], None
    for i in range(frames.shape[2]):
        steps.append(encoder.step(frames[:, :, i], previous))
        previous = frames[:, :, i]
    torch.testing.assert_close(torch.cat(steps, dim=1), encoder(frames).tokens, rtol=0, atol=1e-12)


@torch.no_grad()
def test_nothing_looks_ahead_and_motion_counts() -> None:
    encoder, frames = small(), clip()
    changed = frames.clone()
    changed[:, :, 3] += 1.0
    before, after = (encoder(x).tokens.unflatten(1, (5, 16)) for x in (frames, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    for i in (3, 4):  # the changed frame, and the one that differs from it by another amount
        assert not torch.allclose(before[:, i], after[:, i], atol=1e-2)
    still = encoder(frames[:, :, :1].expand(-1, -1, 4, -1, -1)).tokens.unflatten(1, (4, 16))
    assert torch.allclose(still[:, 0], still[:, 3], atol=1e-12)


def test_every_parameter_learns() -> None:
    encoder = SmallVideoEncoder(16)
    tokens = encoder(clip(2).float()).tokens
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_orders_of_tokens() -> None:
    t, y, x = torch.meshgrid(torch.arange(2), torch.arange(3), torch.arange(4), indexing="ij")
    cells, cls = (100 * t + 10 * y + x)[None, ..., None], torch.tensor([[-1]])
    rows = {}
    for order in ("time_major", "space_major"):
        for place in ("first", "last", "drop"):
            arranged = arrange_tokens(cells, cls, order=order, cls_place=place)
            assert (arranged.grid, arranged.has_cls) == ((2, 3, 4), place != "drop")
            rows[order, place] = arranged.tokens[0, :, 0].tolist()
    assert rows["time_major", "first"][:6] == [-1, 0, 1, 2, 3, 10]
    assert rows["space_major", "last"] == [
        *(a + b for a in (*range(4), *range(10, 14), *range(20, 24)) for b in (0, 100)),
        -1,
    ]
    assert rows["space_major", "drop"] == rows["space_major", "last"][:-1]
    assert rows["time_major", "last"] == [*rows["time_major", "drop"], -1]
    assert not arrange_tokens(cells, None).has_cls
    with pytest.raises(UsageError, match="time_major or space_major"):
        arrange_tokens(cells, cls, order="THW")
    with pytest.raises(UsageError, match="first or last or drop"):
        SmallVideoEncoder(cls_place="middle")


def test_wrong_clips_are_refused() -> None:
    encoder = build_video_encoder("small_video", width=16)
    with pytest.raises(UsageError, match=r"\(B, 3, T, H, W\)"):
        encoder(torch.zeros(1, 2, 3, 64, 64))
    with pytest.raises(UsageError, match="divide by 255"):
        encoder(torch.zeros(1, 3, 2, 64, 64, dtype=torch.uint8))
    with pytest.raises(UsageError, match="multiples of 16"):
        encoder(torch.zeros(1, 3, 2, 64, 60))
    with pytest.raises(UsageError, match="has 0 frames"):
        encoder(torch.zeros(1, 3, 0, 64, 64))
    with pytest.raises(UsageError, match=r"expected floating point \(B, 3, H, W\)"):
        encoder.step(torch.zeros(1, 3, 1, 64, 64))
    with pytest.raises(UsageError, match="expected equal"):
        encoder.step(torch.zeros(2, 3, 64, 64), torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="not in time-major order"):
        SmallVideoEncoder(16, order="space_major").step(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="multiple of 8"):
        SmallVideoEncoder(12)
    with pytest.raises(UsageError, match="did you mean 'small_video'"):
        build_video_encoder("small_vido")


@torch.no_grad()
def test_the_encoder_of_a_whole_model_loads(tmp_path: Path) -> None:
    """A run's `model/` folder: the video encoder is under `encoder.`, beside the fusion and the heads."""
    encoder = SmallVideoEncoder(16)
    state = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    save_file(
        state | {"verb_head.weight": torch.zeros(2, 2), "fusion.A_log": torch.zeros(2)}, tmp_path / "model.safetensors"
    )
    other = SmallVideoEncoder(16)
    assert load_encoder_weights(other, tmp_path) == len(state)
    assert torch.equal(other(clip().float()).tokens, encoder(clip().float()).tokens)
