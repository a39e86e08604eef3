"""Token merging against the paper's algorithm written out with lists of patches in float64, and transformers' ViT."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import save_file

from crossmamba.encoders import load_encoder_weights
from crossmamba.encoders.egocentric import VitSize
from crossmamba.encoders.token_merging import ToMeFrames, match_tokens, merge_tokens
from crossmamba.errors import CheckpointError, UsageError

SMALL = VitSize(width=12, depth=4, heads=3, patch=8)


def tiny(merged=(3, 5, 4), seed=0):
    """25 patches and the class token, weights large enough that attention and similarity vary."""
    torch.manual_seed(seed)
    model = ToMeFrames(SMALL, 40, merged)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double()


def cosine(x, y):
    return float(x @ y / (x.norm() * y.norm()))


def pairs_by_the_paper(keys, r):
    """keys (L, C) -> (places of A, of B) of the merged pairs in the whole sequence, one picture, by loops (§3)."""
    a, b = range(0, len(keys), 2), range(1, len(keys), 2)
    edges = []
    for i in a:
        if i == 0:  # the class token
            continue
        near = max(b, key=lambda j: cosine(keys[i], keys[j]))
        edges.append((cosine(keys[i], keys[near]), i, near))
    edges.sort(reverse=True)
    return [(i, j) for _, i, j in edges[:r]]


def forward_by_the_paper(model, frame):
    """One picture (3, S, S) through the model in float64: tokens are (value, patches), everything by loops."""
    side, patch, heads = frame.shape[1] // SMALL.patch, SMALL.patch, SMALL.heads
    kernel, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    values = [model.cls_token[0, 0]]
    for row in range(side):
        for column in range(side):
            pixels = frame[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            values.append((kernel * pixels).sum((1, 2, 3)) + bias)
    tokens = [(value + model.pos_embed[0, place], {place}) for place, value in enumerate(values)]
    head = SMALL.width // heads
    for block, r in zip(model.blocks, model.merged, strict=True):
        rows = [block.attn.qkv(block.norm1(value)) for value, _ in tokens]
        queries, keys, contents = ([row.split(SMALL.width)[part] for row in rows] for part in range(3))
        attended = []
        for query in queries:
            out = []
            for h in range(heads):
                cut = slice(h * head, (h + 1) * head)
                logits = [
                    float(query[cut] @ key[cut]) / math.sqrt(head) + math.log(len(patches))
                    for key, (_, patches) in zip(keys, tokens, strict=True)
                ]
                weights = [math.exp(value - max(logits)) for value in logits]
                out.append(sum(w / sum(weights) * content[cut] for w, content in zip(weights, contents, strict=True)))
            attended.append(block.attn.proj(torch.cat(out)))
        tokens = [(x + y, patches) for (x, patches), y in zip(tokens, attended, strict=True)]
        mean_keys = torch.stack([key.reshape(heads, head).mean(0) for key in keys])
        limit = (len(tokens) - 1) // 2
        pairs = pairs_by_the_paper(mean_keys, min(r, limit))
        groups = {j: [tokens[j]] for j in range(1, len(tokens), 2)}
        for i, j in pairs:
            groups[j].append(tokens[i])
        gone = {i for i, _ in pairs}
        stay = [tokens[i] for i in range(0, len(tokens), 2) if i not in gone]
        joined = [
            (
                sum(len(patches) * value for value, patches in group) / sum(len(patches) for _, patches in group),
                set().union(*(patches for _, patches in group)),
            )
            for group in groups.values()
        ]
        tokens = stay + joined if pairs else tokens
        tokens = [(x + block.mlp(block.norm2(x)), patches) for x, patches in tokens]
    assert sorted(place for _, patches in tokens for place in patches) == list(range(1 + side * side)), "none is lost"
    return torch.stack([model.norm(value) for value, _ in tokens])


@torch.no_grad()
@pytest.mark.parametrize("merged", [(3, 5, 4), (), (9, 9, 9, 9), (0, 2)], ids=str)
def test_the_whole_model_is_the_papers_algorithm(merged):
    model, frames = tiny(merged), torch.randn(2, 3, 40, 40, dtype=torch.float64)
    made = model(frames)
    for number in range(2):
        expected = forward_by_the_paper(model, frames[number])
        torch.testing.assert_close(made.tokens[number], expected, atol=1e-10, rtol=1e-10)
    assert torch.equal(made.vector, made.tokens[:, 0])
    assert made.grid is None


@pytest.mark.parametrize(("length", "r", "left"), [(26, 3, 23), (26, 100, 14), (27, 100, 14), (3, 1, 2), (2, 1, 2)])
def test_matching_by_loops(length, r, left):
    """Every choice of pairs; the class token stays first and whole; sizes are counted."""
    torch.manual_seed(0)
    keys, x = torch.randn(3, length, 5, dtype=torch.float64), torch.randn(3, length, 4, dtype=torch.float64)
    size = torch.randint(1, 5, (3, length)).double()
    matching = match_tokens(keys, r)
    if matching is None:
        assert length == left
        return
    merged, sizes = merge_tokens(x, size, matching)
    assert merged.shape == (3, left, 4)
    torch.testing.assert_close(sizes.sum(1), size.sum(1))
    torch.testing.assert_close((merged * sizes[..., None]).sum(1), (x * size[..., None]).sum(1))
    assert torch.equal(merged[:, 0], x[:, 0])
    for number in range(3):
        pairs = pairs_by_the_paper(keys[number], min(r, (length - 1) // 2))
        edges = zip(matching.source[number].tolist(), matching.target[number].tolist(), strict=True)
        found = {(2 * a, 2 * b + 1) for a, b in edges}
        assert found == set(pairs)
        assert matching.kept[number].tolist() == sorted(set(range((length + 1) // 2)) - {i // 2 for i, _ in pairs})


def test_nothing_to_merge():
    assert match_tokens(torch.randn(1, 9, 4), 0) is None
    assert match_tokens(torch.randn(1, 2, 4), 5) is None


def test_merging_equal_tokens_changes_nothing():
    """Attention proportional to size: two equal tokens merged into one weigh as much as before (paper §3)."""
    model = tiny(())
    with torch.no_grad():
        model.pos_embed[:, 1:] = model.pos_embed[:, 1:2]
        frames = torch.ones(1, 3, 40, 40, dtype=torch.float64)  # 25 equal patches
        whole = model(frames)
        model.merged = (12, 6, 3, 0)
        merged = model(frames)
    assert merged.tokens.shape[1] == 26 - 12 - 6 - 3
    torch.testing.assert_close(merged.vector, whole.vector, atol=1e-9, rtol=1e-9)


def test_the_published_sizes():
    """TSPM's setting leaves 14 tokens of 1024 numbers, and the model has timm's 304.7 M parameters less its head."""
    with torch.device("meta"):
        model = ToMeFrames()
        assert sum(parameter.numel() for parameter in model.parameters()) == 304_715_752 - 1_025_000
        assert model.size == (384, 384)
    left = 577
    for r in model.merged:
        left -= min(r, (left - 1) // 2)
    assert left == 14
    small = ToMeFrames(VitSize(8, 24, 2, 16), 384)
    assert small(torch.randn(1, 3, 384, 384)).tokens.shape == (1, 14, 8)


@torch.no_grad()
def test_without_merging_it_is_transformers_vit():
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=12, num_hidden_layers=4, num_attention_heads=3, intermediate_size=48, image_size=40, patch_size=8,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    theirs, ours = ViTModel(config, add_pooling_layer=False).double().eval(), tiny(())
    state = theirs.state_dict()
    renamed = {
        "cls_token": state["embeddings.cls_token"], "pos_embed": state["embeddings.position_embeddings"],
        "norm.weight": state["layernorm.weight"], "norm.bias": state["layernorm.bias"],
    }  # fmt: skip
    for kind in ("weight", "bias"):
        renamed[f"patch_embed.proj.{kind}"] = state[f"embeddings.patch_embeddings.projection.{kind}"]
    layers = [key for key in state if "layer" in key and key.endswith(".weight")]
    for number in range(4):
        own = {key: state[key] for key in layers if f".{number}." in key}
        prefix = next(iter(own)).split(f".{number}.")[0] + f".{number}."
        for kind in ("weight", "bias"):

            def part(name, prefix=prefix, kind=kind):
                return state[f"{prefix}{name}.{kind}"]

            names = [key.removeprefix(prefix) for key in own]
            query, key, value = (
                next(n for n in names if n.endswith(end)).removesuffix(".weight")
                for end in (("query.weight", "q_proj.weight"), ("key.weight", "k_proj.weight"),
                            ("value.weight", "v_proj.weight"))
            )  # fmt: skip
            renamed[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat([part(query), part(key), part(value)])
            others = {
                "attn.proj": ("attention.output.dense", "attention.o_proj"),
                "mlp.fc1": ("intermediate.dense", "mlp.fc1"), "mlp.fc2": ("output.dense", "mlp.fc2"),
                "norm1": ("layernorm_before",), "norm2": ("layernorm_after",),
            }  # fmt: skip
            for mine, spellings in others.items():
                name = next(s for s in spellings if f"{s}.weight" in names)
                renamed[f"blocks.{number}.{mine}.{kind}"] = part(name)
    ours.load_state_dict(renamed)
    frames = torch.randn(2, 3, 40, 40, dtype=torch.float64)
    torch.testing.assert_close(ours(frames).tokens, theirs(frames).last_hidden_state, atol=1e-10, rtol=1e-10)


def test_timms_file_loads_and_others_do_not(tmp_path):
    model = tiny().float()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.3.attn.qkv.bias", "norm.bias"} <= state.keys()
    save_file(state | {"head.weight": torch.zeros(7, 12), "head.bias": torch.zeros(7)}, tmp_path / "timm.safetensors")
    other = ToMeFrames(SMALL, 40, (3, 5, 4))
    assert load_encoder_weights(other, tmp_path / "timm.safetensors") == len(state)
    frames = torch.randn(1, 3, 40, 40)
    torch.testing.assert_close(other(frames).tokens, model(frames).tokens)
    del state["blocks.3.attn.qkv.bias"]
    save_file(state, tmp_path / "half.safetensors")
    with pytest.raises(CheckpointError, match=r"blocks\.3\.attn\.qkv\.bias.*vit_large_patch16_384"):
        load_encoder_weights(other, tmp_path / "half.safetensors")


def test_wrong_numbers_are_named():
    with pytest.raises(UsageError, match="multiple of the patch, 8"):
        ToMeFrames(SMALL, 41)
    for merged in ((1,) * 5, (-1,)):
        with pytest.raises(UsageError, match="at most 4 numbers, none below 0"):
            ToMeFrames(SMALL, 40, merged)
    with pytest.raises(UsageError, match="takes"):
        tiny()(torch.zeros(1, 3, 48, 48))


def test_single_precision_and_batches_agree():
    model, frames = tiny(), torch.randn(3, 3, 40, 40, dtype=torch.float64)
    whole = model(frames).tokens
    torch.testing.assert_close(model(frames[1:2]).tokens, whole[1:2])
    torch.testing.assert_close(model.float()(frames.float()).tokens.double(), whole, atol=1e-4, rtol=1e-3)
