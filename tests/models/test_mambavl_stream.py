"""MambaVL on a stream: after every frame the clip-wise result, in memory that does not grow."""

import pytest
import torch

from crossmamba import create_model
from crossmamba.encoders.clip_video import ClipVideo
from crossmamba.encoders.video import VideoSize
from crossmamba.errors import UsageError
from crossmamba.models.mambavl_stream import STREAMING_FUSIONS, MambaVLStream

FRAMES = 4


def small(fusion, **overrides):
    torch.manual_seed(0)
    options = {"words": 20, "width": 16, "d_state": 4, "video_args": {"width": 16, "stem_width": 8}, **overrides}
    return create_model("mambavl_small", fusion=fusion, **options).double().eval()


def clip(side=32, frames=FRAMES, batch=2):
    return torch.randn(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def questions(fusion, batch=2):
    if fusion == "none":
        return None, None
    generator = torch.Generator().manual_seed(2)
    asked = torch.randint(1, 20, (2, batch, 6), generator=generator)
    asked[0, 0, 4:] = 0
    asked[1, -1, 2:] = 0
    return asked[0], asked[1]


def same(one, other, atol=1e-11):
    torch.testing.assert_close(one.verb, other.verb, rtol=0, atol=atol)
    torch.testing.assert_close(one.noun, other.noun, rtol=0, atol=atol)


@pytest.mark.parametrize("by", ["step", "scan"])
@pytest.mark.parametrize("fusion", STREAMING_FUSIONS)
@torch.no_grad()
def test_after_every_frame_it_equals_the_clip(fusion, by):
    model, frames, asked = small(fusion), clip(), questions(fusion)
    stream = MambaVLStream(model, by=by)
    stream.start(*asked)
    for t in range(FRAMES):
        same(stream.step(frames[:, :, t]), model(frames[:, :, : t + 1], *asked))
    assert stream.frames == FRAMES


@pytest.mark.parametrize("fusion", STREAMING_FUSIONS)
@torch.no_grad()
def test_frames_as_stored_tokens(fusion):
    """(B, P, d) a frame, P may differ; a model without encoder, other widths."""
    model = small(fusion, video="features", video_dim=12, video_args=None, text="stored", text_dim=10)
    tokens = torch.randn(2, 9, 12, dtype=torch.float64)
    asked = (None, None) if fusion == "none" else torch.randn(2, 2, 5, 10, dtype=torch.float64).unbind()
    stream = MambaVLStream(model)
    stream.start(*asked)
    for piece in tokens.split([4, 1, 4], dim=1):
        out = stream.step(piece)
    same(out, model(tokens, *asked))


@pytest.mark.parametrize("fusion", ["shared_a", "concat", "mlp"])
@torch.no_grad()
def test_one_question_or_none_and_starting_again(fusion):
    model, frames, (verb, noun) = small(fusion), clip(), questions(fusion)
    stream = MambaVLStream(model)
    for asked in ((verb, None), (None, noun), (None, None), (verb, noun)):
        stream.start(*asked)
        for t in range(2):
            out = stream.step(frames[:, :, t])
        same(out, model(frames[:, :, :2], *asked))


@pytest.mark.parametrize("fusion", STREAMING_FUSIONS)
@torch.no_grad()
def test_memory_is_constant(fusion):
    model = small(fusion)
    stream, kept = MambaVLStream(model), set()
    stream.start(*questions(fusion, batch=1))
    for _ in range(12):
        stream.step(torch.randn(1, 3, 32, 32, dtype=torch.float64))
        kept.add(stream.state_bytes)
    assert len(kept) == 1
    assert 0 < kept.pop() < 60_000
    assert stream.frames == 12


@torch.no_grad()
def test_a_picture_encoder_frame_by_frame():
    """CLIP's tower on each frame, without class token and vectors of frames: the issue's live stream."""
    model = small("shared_a", video="features", video_dim=16, video_args=None)
    torch.manual_seed(3)
    options = {"frames": FRAMES, "image": 32, "temporal_embedding": False, "cls_place": "drop"}
    model.encoder = ClipVideo(VideoSize(16, 1, 2, 32), **options).double().eval()
    frames, asked = clip(), questions("shared_a")
    stream = MambaVLStream(model)
    stream.start(*asked)
    for t in range(FRAMES):
        same(stream.step(frames[:, :, t]), model(frames[:, :, : t + 1], *asked))
    model.encoder = ClipVideo(VideoSize(16, 1, 2, 32), frames=FRAMES, image=32).double().eval()
    with pytest.raises(UsageError, match="ClipVideo as it was built cannot encode a single frame"):
        MambaVLStream(model).step(frames[:, :, 0])


@torch.no_grad()
def test_one_question_for_many_streams():
    model, frames, asked = small("shared_a"), clip(), questions("shared_a", batch=1)
    stream = MambaVLStream(model)
    stream.start(*asked)
    out = stream.step(frames[:, :, 0])
    same(out, model(frames[:, :, :1], *(q.expand(2, -1) for q in asked)))


def test_the_frame_may_be_written_over():
    model, frames = small("shared_a"), clip()
    stream, buffer = MambaVLStream(model), torch.empty(2, 3, 32, 32, dtype=torch.float64)
    for t in range(3):
        out = stream.step(buffer.copy_(frames[:, :, t]))
    with torch.no_grad():
        same(out, model(frames[:, :, :3]))
    assert not out.verb.requires_grad


def test_what_cannot_stream_says_why():
    for fusion in ("transformer_6x4", "cm_mamba"):
        with pytest.raises(UsageError, match="needs the whole clip"):
            MambaVLStream(small(fusion))
    with pytest.raises(UsageError, match=r"call model.eval\(\)"):
        MambaVLStream(small("none").train())
    with pytest.raises(UsageError, match="space_major order"):
        MambaVLStream(small("none", video_args={"width": 16, "stem_width": 8, "order": "space_major"}))
    with pytest.raises(UsageError, match="by is 'step', 'scan' or None"):
        MambaVLStream(small("none"), by="jump")
    stream = MambaVLStream(small("none", video="features", video_args=None))
    with pytest.raises(UsageError, match="without encoder cannot encode a single frame"):
        stream.step(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UsageError, match=r"frame is \(B, 3, H, W\)"):
        stream.step(torch.zeros(1, 3, 2, 32, 32))
    stream = MambaVLStream(small("shared_a"))
    stream.start(*questions("shared_a", batch=3))
    with pytest.raises(UsageError, match="2 streams, but questions for 3"):
        stream.step(clip()[:, :, 0])
    for fusion in ("concat", "mlp"):
        stream = MambaVLStream(small(fusion))
        stream.start(*questions(fusion, batch=3))
        with pytest.raises(UsageError, match="2 streams, but the stream was started for 3"):
            stream.step(clip()[:, :, 0])
