"""AVION and LaViLa: published layouts load whole, safely, and give an independent forward's values."""

from __future__ import annotations

import argparse
import datetime
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from published_layouts import State, random_state
from published_video import avion_shapes, avion_tokens, lavila_shapes, lavila_tokens
from torch import Tensor
from torch.nn import functional as F

from crossmamba.encoders import build_video_encoder, load_encoder_weights
from crossmamba.encoders.avion import AvionEncoder
from crossmamba.encoders.egocentric import DropPath, EgoEncoder, VitSize, inflate_frames
from crossmamba.encoders.lavila import LavilaEncoder
from crossmamba.errors import CheckpointError, UsageError

TINY = VitSize(width=24, depth=2, heads=3, patch=8)
NUMBERS = (24, 8, 24, 2, 3)  # image, patch, width, depth, frames
OPTIONS = {"frames": 3, "image": 24}


def clips() -> Tensor:
    return torch.randn(2, 3, 3, 24, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def saved(path: Path, state: State) -> Path:
    """As both projects save: command line, counters and optimizer beside the weights."""
    arguments = argparse.Namespace(model="CLIP_VITB16", lr=3e-5, betas=(0.9, 0.98), output_dir="x", resume=None)
    content = {"epoch": 5, "state_dict": state, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-5}]}}
    torch.save(content | {"scaler": {"scale": 65536.0}, "best_acc1": 30.1, "args": arguments}, path)
    return path


def visual(state: State) -> State:
    return {k.removeprefix("module.visual."): v.double() for k, v in state.items() if k.startswith("module.visual.")}


def check(encoder: EgoEncoder, expected: list[Tensor]) -> None:
    """All orders of tokens against the naive rows."""
    with torch.no_grad():
        got = encoder.double()(clips())
    assert (got.grid, got.has_cls, got.tokens.dtype) == ((3, 3, 3), True, torch.float64)
    assert got.tokens.shape == (2, 1 + 27, 24)
    assert torch.stack(expected).std() > 0.05, "a dead reference compares nothing"
    torch.testing.assert_close(got.tokens, torch.stack(expected), rtol=0, atol=1e-10)
    encoder.order, encoder.cls_place = "space_major", "last"
    with torch.no_grad():
        turned = encoder(clips()).tokens
    torch.testing.assert_close(turned[:, -1], got.tokens[:, 0])
    torch.testing.assert_close(turned[:, 3 * 7 + 2], got.tokens[:, 1 + 2 * 9 + 7])  # place 7 at time 2


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("flash", [False, True])
@pytest.mark.parametrize("fast_conv", [False, True])
def test_avion_equals_an_independent_forward(tmp_path: Path, fast_conv: bool, flash: bool, quick: bool) -> None:
    state = random_state(avion_shapes(*NUMBERS, fast_conv=fast_conv, flash=flash))
    encoder = AvionEncoder(TINY, quick_gelu=quick, **OPTIONS)
    assert load_encoder_weights(encoder, saved(tmp_path / "avion.pt", state)) == len(encoder.state_dict())
    check(encoder, [avion_tokens(visual(state), clip, 3, quick=quick) for clip in clips()])


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_lavila_equals_an_independent_forward(tmp_path: Path, gated: bool, quick: bool) -> None:
    state = random_state(lavila_shapes(*NUMBERS, gated=gated))
    state |= {key: torch.tensor(0.7) for key in state if key.endswith("alpha_timeattn")}
    encoder = LavilaEncoder(TINY, gated=gated, quick_gelu=quick, **OPTIONS)
    assert load_encoder_weights(encoder, saved(tmp_path / "lavila.pth", state)) == len(encoder.state_dict())
    check(encoder, [lavila_tokens(visual(state), clip, 3, quick=quick) for clip in clips()])


def test_lavila_is_not_timesformer(tmp_path: Path) -> None:
    """The space branch is added to x: with the time residual kept instead, the tokens differ."""
    state = random_state(lavila_shapes(*NUMBERS, gated=False))
    encoder = LavilaEncoder(TINY, **OPTIONS)
    load_encoder_weights(encoder, saved(tmp_path / "lavila.pth", state))
    block, x = encoder.blocks[0], torch.randn(1, 28, 24)
    with torch.no_grad():
        time = block.timeattn(block.norm3(x), 3, "time")
        kept = x + time + block.attn(block.norm1(x + time), 3, "space")
        kept = kept + block.mlp(block.norm2(kept))
        assert (block(x, 3) - kept).abs().max() > 0.1


@pytest.mark.parametrize("family", ["avion", "lavila"])
def test_fine_tuned_heads(tmp_path: Path, family: str) -> None:
    """`fc_cls` of the class token; left out where the encoder has no heads; LaViLa's several heads."""
    if family == "avion":
        state = random_state(avion_shapes(*NUMBERS, fast_conv=True, flash=True, heads=11))
        build, rows = AvionEncoder, [avion_tokens(visual(state), clip, 3, quick=False) for clip in clips()]
    else:
        state = random_state(lavila_shapes(*NUMBERS, gated=False, heads=(11,)))
        build, rows = LavilaEncoder, [lavila_tokens(visual(state), clip, 3, quick=True) for clip in clips()]
    path = saved(tmp_path / "tuned.pt", state)
    encoder = build(TINY, classes=(11,), **OPTIONS)
    load_encoder_weights(encoder, path)
    weight, bias = state["module.fc_cls.weight"].double(), state["module.fc_cls.bias"].double()
    with torch.no_grad():
        (logits,) = encoder.double().classify(clips())
    torch.testing.assert_close(logits, torch.stack([F.linear(row[0], weight, bias) for row in rows]))
    without = build(TINY, **OPTIONS)
    load_encoder_weights(without, path)
    assert not any("fc_cls" in key for key in without.state_dict())
    with pytest.raises(UsageError, match="no classification heads"):
        without.classify(clips())
    with pytest.raises(CheckpointError, match=r"fc_cls\.1\.bias"):
        load_encoder_weights(build(TINY, classes=(11, 5), **OPTIONS), path)


def test_lavila_with_three_heads(tmp_path: Path) -> None:
    state = random_state(lavila_shapes(*NUMBERS, gated=False, heads=(5, 7, 11)))
    encoder = LavilaEncoder(TINY, classes=(5, 7, 11), **OPTIONS)
    assert load_encoder_weights(encoder, saved(tmp_path / "x.pth", state)) == len(state)
    assert [tuple(logits.shape) for logits in encoder.classify(clips().float())] == [(2, 5), (2, 7), (2, 11)]


@pytest.mark.parametrize("family", ["avion", "lavila"])
def test_weights_of_another_number_of_frames_are_stretched(tmp_path: Path, family: str) -> None:
    if family == "avion":
        state = random_state(avion_shapes(*NUMBERS, fast_conv=False, flash=False))
        key, build = "module.visual.temporal_embedding", AvionEncoder
    else:
        state = random_state(lavila_shapes(*NUMBERS, gated=False))
        key, build = "module.visual.temporal_embed", LavilaEncoder
    path = saved(tmp_path / "x.pt", state)
    for frames in (2, 3, 8):
        encoder = build(TINY, frames=frames, image=24)
        load_encoder_weights(encoder, path)
        got = encoder.state_dict()[key.removeprefix("module.visual.")].reshape(frames, 24)
        table = state[key].reshape(3, 24)
        if frames <= 3:
            assert torch.equal(got, table[:frames])
        else:  # frame i of 8 stands at (i + 0.5) * 3 / 8 - 0.5 of the old ones
            for i in range(frames):
                place = min(max((i + 0.5) * 3 / 8 - 0.5, 0), 2)
                low = min(int(place), 1)
                expected = table[low] + (place - low) * (table[low + 1] - table[low])
                torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-6)
    assert inflate_frames(torch.ones(1, 2, 4), 5).shape == (1, 5, 4)


def test_the_tower_of_a_mambavl_checkpoint_loads(tmp_path: Path) -> None:
    """`model_state` with `orvit.*` beside the fusion's own keys."""
    state = random_state(avion_shapes(*NUMBERS, fast_conv=True, flash=True, heads=11))
    inner = {"orvit." + k.removeprefix("module.visual."): v for k, v in state.items() if "fc_cls" not in k}
    torch.save({"model_state": inner | {"A_log": torch.zeros(2, 2)}, "epoch": 3, "cfg": "a: 1"}, tmp_path / "m.pyth")
    encoder = AvionEncoder(TINY, **OPTIONS)
    load_encoder_weights(encoder, tmp_path / "m.pyth")
    assert torch.equal(encoder.class_embedding, state["module.visual.class_embedding"])


@pytest.mark.parametrize("module", [b"core", b"_core"])
def test_a_best_score_may_be_a_numpy_number(tmp_path: Path, module: bytes) -> None:
    """As NumPy 1 and NumPy 2 write it."""
    state = random_state(avion_shapes(*NUMBERS, fast_conv=True, flash=True))
    torch.save({"state_dict": state, "best_acc1": np.float64(30.1)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as there, zipfile.ZipFile(tmp_path / "y.pt", "w") as made:
        for name in there.namelist():
            content = there.read(name)
            if name.endswith("data.pkl"):
                assert content.count(b"cnumpy._core.multiarray\n") + content.count(b"cnumpy.core.multiarray\n") == 1
                content = re.sub(rb"cnumpy\._?core\.", b"cnumpy." + module + b".", content)
            made.writestr(name, content)
    encoder = AvionEncoder(TINY, **OPTIONS)
    assert load_encoder_weights(encoder, tmp_path / "y.pt") == len(encoder.state_dict())


def test_a_command_line_may_hold_plain_values_only(tmp_path: Path) -> None:
    state = random_state(avion_shapes(*NUMBERS, fast_conv=True, flash=True))
    torch.save({"state_dict": state, "args": argparse.Namespace(when=datetime.date(2026, 1, 1))}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"refused, because it asks for datetime\.date"):
        load_encoder_weights(AvionEncoder(TINY, **OPTIONS), tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module.visual.surprise": (2,)}, r"1 of \d+ keys are not of the layout of AVION: surprise"),
        ({"module.visual.conv1.weight": (24, 3 * 16 * 16)}, "patches of 16 x 16 pixels, not 8 x 8"),
        ({"module.visual.positional_embedding": (17, 24)}, r"positional_embedding \(17, 24\) instead of \(10, 24\)"),
    ],
)
def test_another_model_is_refused(tmp_path: Path, change: dict[str, tuple[int, ...]], message: str) -> None:
    state = random_state(avion_shapes(*NUMBERS, fast_conv=True, flash=True) | change)
    with pytest.raises(CheckpointError, match=message):
        load_encoder_weights(AvionEncoder(TINY, **OPTIONS), saved(tmp_path / "x.pt", state))


def test_missing_keys_are_named(tmp_path: Path) -> None:
    state = random_state(avion_shapes(*NUMBERS, fast_conv=True, flash=True))
    del state["module.visual.transformer.resblocks.1.ln_2.bias"]
    with pytest.raises(CheckpointError, match=r"missing: blocks\.1\.ln_2\.bias.*zhaoyue-zephyrus/AVION"):
        load_encoder_weights(AvionEncoder(TINY, **OPTIONS), saved(tmp_path / "x.pt", state))
    for gated in (True, False):
        state = random_state(lavila_shapes(*NUMBERS, gated=gated))
        with pytest.raises(CheckpointError, match=f"build this encoder with gated={gated}"):
            load_encoder_weights(LavilaEncoder(TINY, gated=not gated, **OPTIONS), saved(tmp_path / "x.pt", state))


@pytest.mark.parametrize("build", [AvionEncoder, LavilaEncoder])
def test_own_weights_load_again_and_all_learn(tmp_path: Path, build: type[EgoEncoder]) -> None:
    encoder = build(TINY, drop_path=0.0, **OPTIONS)
    torch.save(encoder.state_dict(), tmp_path / "own.pt")
    load_encoder_weights(build(TINY, **OPTIONS), tmp_path / "own.pt")
    weights = torch.randn(2, 28, 24)
    results = []
    for checkpointing in (False, True):
        encoder.set_gradient_checkpointing(checkpointing)
        encoder.zero_grad()
        tokens = encoder(clips().float()).tokens
        (tokens * weights).sum().backward()
        results.append([tokens, *(p.grad for p in encoder.parameters())])
    names = [name for name, _ in encoder.named_parameters()]
    assert [name for name, grad in zip(names, results[0][1:], strict=True) if not grad.abs().sum() > 0] == []
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


def test_drop_path_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25).train(), torch.ones(4000, 2, 3)
    got = drop(x)
    torch.testing.assert_close(got.unique(), torch.tensor([0, 4 / 3]))
    assert torch.equal(got[:, :1, :1].expand_as(got), got), "a clip's branch is left out as a whole"
    assert got.mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(drop.eval()(x), x)
    with pytest.raises(UsageError, match="below 1"):
        DropPath(1.0)
    rates = [block.drop_path.probability for block in AvionEncoder(TINY, drop_path=0.1, **OPTIONS).blocks]
    assert rates == pytest.approx([0, 0.1])


# Parameters of the towers at 224 pixels and 16 frames, counted by hand from the layout (no head, no projection).
@pytest.mark.parametrize(
    ("name", "width", "depth", "patch", "tokens"),
    [("avion_b", 768, 12, 16, 3137), ("avion_l", 1024, 24, 14, 4097), ("lavila_b", 768, 12, 16, 3137)],
)
def test_full_size(name: str, width: int, depth: int, patch: int, tokens: int) -> None:
    """Built without memory for the weights."""
    with torch.device("meta"):
        encoder = build_video_encoder(name, cls_place="last")
        encoded = encoder(torch.zeros(1, 3, 16, 224, 224))
    cells = (224 // patch) ** 2
    assert encoded.tokens.shape == (1, tokens, width)
    assert encoded.grid == (16, 224 // patch, 224 // patch)
    attention, norm = 4 * width * (width + 1), 2 * width
    block = attention + norm + norm + 8 * width * width + 5 * width
    block += attention + norm if name.startswith("lavila") else 0
    expected = width * (1 + 1 + cells + 16 + 3 * patch**2) + 2 * norm + depth * block
    assert sum(p.numel() for p in encoder.parameters()) == expected


def test_wrong_calls() -> None:
    with pytest.raises(UsageError, match="no size 'h'; there are b, l"):
        AvionEncoder("h")
    with pytest.raises(UsageError, match="multiples of 16"):
        AvionEncoder("b", image=100)
    with pytest.raises(UsageError, match="takes 3: build it with frames=2"):
        AvionEncoder(TINY, **OPTIONS)(torch.zeros(1, 3, 2, 24, 24))
    with pytest.raises(UsageError, match="takes 24 x 24"):
        LavilaEncoder(TINY, **OPTIONS)(torch.zeros(1, 3, 3, 32, 32))
    with pytest.raises(UsageError, match="does not stream"):
        AvionEncoder(TINY, **OPTIONS).step(torch.zeros(1, 3, 24, 24))
