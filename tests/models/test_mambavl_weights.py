"""Loading the released layout: files with its exact names, for AVION and ORViT, and everything that may be wrong."""

import pytest
import torch

from crossmamba import create_model
from crossmamba.encoders.avion import AvionEncoder
from crossmamba.encoders.egocentric import VitSize
from crossmamba.encoders.roberta import RobertaSize
from crossmamba.errors import CheckpointError, UsageError
from crossmamba.models.mambavl_weights import convert_released, load_released

TEXT = {"size": RobertaSize(12, 1, 2, vocabulary=30, places=44)}
BRANCH = {
    "in_proj.weight": (64, 16), "conv1d.weight": (32, 1, 4), "conv1d.bias": (32,), "x_proj.weight": (33, 32),
    "dt_proj.weight": (32, 1), "dt_proj.bias": (32,), "D": (32,), "out_proj.weight": (16, 32),
}  # fmt: skip


def avion(seed=0, **overrides):
    torch.manual_seed(seed)
    options = {"video": "features", "video_dim": 16, "text_args": TEXT, "width": 16, **overrides}
    model = create_model("mambavl_avion_b", **options)
    model.encoder = AvionEncoder(VitSize(16, 1, 2, 16), frames=2, image=32)  # registered names have published sizes
    return model.eval()


def orvit(seed=0, **overrides):
    torch.manual_seed(seed)
    return create_model("mambavl_orvit_features", text_args=TEXT, width=16, video_dim=16, **overrides).eval()


def released(backbone):
    """A `model_state` with the names and shapes of spec §1.5, written out and not made of our model."""
    shapes = {"A_log": (32, 16)}
    for name in ("mamba_video", "mamba_text"):
        shapes |= {f"{name}.{key}": shape for key, shape in BRANCH.items()}
    shapes |= {"txt_proj.0.weight": (16, 12)}
    for layer in (2, 4):
        shapes |= {f"txt_proj.{layer}.weight": (16, 16), f"txt_proj.{layer}.bias": (16,)}
    shapes |= {"head0.weight": (97, 16), "head0.bias": (97,), "head1.weight": (300, 16), "head1.bias": (300,)}
    text = {"word_embeddings.weight": (30, 12), "position_embeddings.weight": (44, 12), "LayerNorm.bias": (12,)}
    text |= {"token_type_embeddings.weight": (1, 12), "LayerNorm.weight": (12,)}
    shapes |= {f"text_model.embeddings.{key}": shape for key, shape in text.items()}
    shapes |= {"text_model.encoder.layer.0.output.dense.weight": (12, 48), "text_model.pooler.dense.bias": (12,)}
    if backbone == "avion":
        shapes |= avion_tower()
    else:
        shapes |= {"blocks.0.norm1.weight": (16,), "patch_embed_3d.proj.weight": (16, 3, 2, 16, 16), "B_log": (32, 16)}
        shapes |= {"cls_token": (1, 1, 16), "pre_logits.fc.weight": (16, 16), "pre_logits.fc.bias": (16,)}
    generator = torch.Generator().manual_seed(5)
    return {key: 0.3 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def avion_tower():
    shapes = {"conv1.weight": (16, 3 * 256), "class_embedding": (16,), "positional_embedding": (5, 16)}
    shapes |= {"temporal_embedding": (2, 16), "image_projection": (16, 8)}
    block = {"attn.Wqkv": 48, "attn.out_proj": 16, "mlp.fc1": 64}
    for key, rows in block.items():
        shapes |= {f"transformer.resblocks.0.{key}.weight": (rows, 16), f"transformer.resblocks.0.{key}.bias": (rows,)}
    shapes |= {"transformer.resblocks.0.mlp.fc2.weight": (16, 64), "transformer.resblocks.0.mlp.fc2.bias": (16,)}
    for norm in ("ln_pre", "ln_post", "transformer.resblocks.0.ln_1", "transformer.resblocks.0.ln_2"):
        shapes |= {f"{norm}.weight": (16,), f"{norm}.bias": (16,)}
    return {f"orvit.{key}": shape for key, shape in shapes.items()}


def save(path, state):
    """The whole file, as the authors' trainer writes it."""
    content = {"epoch": 7, "model_state": state, "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.1}]}}
    torch.save({**content, "cfg": "NUM_GPUS: 8\n", "scaler_state": {"scale": 65536.0}}, path)
    return path


@pytest.mark.parametrize("wrapped", [False, True])
def test_avion_loads_whole(tmp_path, wrapped):
    state = released("avion")
    file = save(tmp_path / "c.pyth", {f"module.{key}" if wrapped else key: value for key, value in state.items()})
    model = avion()
    report = load_released(model, file)
    own = model.state_dict()
    assert report.loaded == len(own)
    assert report.left == ("text_model.encoder.layer.0.output.dense.weight", "text_model.pooler.dense.bias")
    for ours, theirs in {
        "fusion.A_log": "A_log",
        "fusion.branches.video.x_proj.weight": "mamba_video.x_proj.weight",
        "fusion.branches.text.D": "mamba_text.D",
        "text_proj.4.bias": "txt_proj.4.bias",
        "verb_head.weight": "head0.weight",
        "noun_head.bias": "head1.bias",
        "text.encoder.tower.word_embeddings.weight": "text_model.embeddings.word_embeddings.weight",
        "encoder.temporal_embedding": "orvit.temporal_embedding",
    }.items():
        assert torch.equal(own[ours], state[theirs]), ours
    other = avion(seed=1)
    load_released(other, file)
    inputs = torch.randn(1, 3, 2, 32, 32), torch.randint(2, 30, (1, 40)), torch.randint(2, 30, (1, 40))
    with torch.no_grad():
        assert torch.equal(model(*inputs).verb, other(*inputs).verb)
        assert not torch.equal(model(*inputs).verb, avion()(*inputs).verb)


def test_orvit_loads_what_stands_behind_the_backbone(tmp_path):
    model, state = orvit(), released("orvit")
    report = load_released(model, save(tmp_path / "c.pyth", state))
    assert report.loaded == len(model.state_dict())
    assert {"B_log", "blocks.0.norm1.weight", "patch_embed_3d.proj.weight", "cls_token"} < set(report.left)
    assert torch.equal(model.video_proj.fc.weight, state["pre_logits.fc.weight"])
    assert "pre_logits.fc.bias" in convert_released(orvit(video_proj="none"), state)[1]


def test_the_released_model_equals_the_equations():
    """One forward written out again from the checkpoint alone, padding read as the released code does."""
    state = {key: value.double() for key, value in released("orvit").items()}
    model = orvit(pad_mode="official").double()
    model.load_state_dict({k: v.double() for k, v in convert_released(model, state)[0].items()})
    video, ids = torch.randn(2, 5, 16, dtype=torch.float64), torch.randint(2, 30, (2, 4))
    ids[1, 2:] = 1
    text = {k.removeprefix("text_model.embeddings."): v for k, v in state.items() if "text_model.embeddings." in k}
    places = torch.where(ids == 1, 1, (ids != 1).cumsum(1) + 1)  # RoBERTa counts from 2, padding is place 1
    words = text["word_embeddings.weight"][ids] + text["position_embeddings.weight"][places]
    words = words + text["token_type_embeddings.weight"][0]
    words = torch.nn.functional.layer_norm(words, (12,), text["LayerNorm.weight"], text["LayerNorm.bias"], 1e-5)
    x = torch.relu(words @ state["txt_proj.0.weight"].T)
    x = torch.relu(x @ state["txt_proj.2.weight"].T + state["txt_proj.2.bias"])
    x = x @ state["txt_proj.4.weight"].T + state["txt_proj.4.bias"]
    seen = torch.tanh(video @ state["pre_logits.fc.weight"].T + state["pre_logits.fc.bias"])
    fused = mamba(state, "mamba_video", seen) + mamba(state, "mamba_text", x)
    with torch.no_grad():
        out = model(video, ids, ids)
    verb, noun = (fused @ state[f"head{i}.weight"].T + state[f"head{i}.bias"] for i in (0, 1))
    torch.testing.assert_close(out.verb, verb, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out.noun, noun, rtol=1e-10, atol=1e-10)


def mamba(state, name, tokens):
    """A block and its mean, in loops."""
    p = {key: state[f"{name}.{key}"] for key in BRANCH}
    A = -state["A_log"].exp()
    x, z = (tokens @ p["in_proj.weight"].T).chunk(2, dim=-1)
    padded, outs = torch.cat([x.new_zeros(len(x), 3, 32), x], dim=1), []
    h = x.new_zeros(len(x), 32, 16)
    for t in range(x.shape[1]):
        taps = (padded[:, t : t + 4] * p["conv1d.weight"][:, 0].T).sum(1) + p["conv1d.bias"]
        u = taps * torch.sigmoid(taps)
        dt, B, C = (u @ p["x_proj.weight"].T).split([1, 16, 16], dim=-1)
        dt = torch.logaddexp(torch.zeros(()), dt @ p["dt_proj.weight"].T + p["dt_proj.bias"])
        h = torch.exp(dt[..., None] * A) * h + (dt * u)[..., None] * B[:, None]
        y = (h * C[:, None]).sum(-1) + p["D"] * u
        outs.append((y * z[:, t] * torch.sigmoid(z[:, t])) @ p["out_proj.weight"].T)
    return torch.stack(outs).mean(0)


def test_every_fault_is_said_and_changes_nothing(tmp_path):
    good, model = released("avion"), avion()
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def refused(message, change, error=CheckpointError):
        state = dict(good)
        change(state)
        with pytest.raises(error, match=message):
            load_released(model, save(tmp_path / "bad.pyth", state))
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())

    refused("1 keys are missing: fusion.A_log", lambda s: s.pop("A_log"))
    refused("text.encoder.tower.word", lambda s: s.pop("text_model.embeddings.word_embeddings.weight"))
    refused(
        r"verb_head.weight \(96, 16\) instead of \(97, 16\)", lambda s: s.update({"head0.weight": torch.ones(96, 16)})
    )
    refused("1 keys fit nothing: fusion.branches.text.E", lambda s: s.update({"mamba_text.E": torch.ones(1)}))
    refused("not AVION's.*mambavl_orvit_features", lambda s: s.update({"blocks.0.norm1.weight": torch.ones(16)}))
    (tmp_path / "junk.pyth").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"junk\.pyth"):
        load_released(model, tmp_path / "junk.pyth")
    for other in ({"fusion": "separate_a"}, {"fusion": "concat"}):
        with pytest.raises(UsageError, match='are of fusion "shared_a"'):
            convert_released(avion(**other), good)
    with pytest.raises(UsageError, match='text="roberta_embeddings"'):
        convert_released(avion(text="stored", text_args=None), good)
