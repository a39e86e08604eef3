"""AVION's and LaViLa's video towers written a second time, token by token, from a state dict in its published layout.

From the spec's words; nothing here imports crossmamba. Slow on purpose: attention of one token at a time.
"""

from __future__ import annotations

import math

import torch
from published_layouts import Shapes, State, with_bias
from torch import Tensor
from torch.nn import functional as F


def avion_shapes(
    image: int, patch: int, width: int, depth: int, frames: int, *, fast_conv: bool, flash: bool, heads: int = 0
) -> Shapes:
    """A whole file of AVION: the picture tower and, pretrained, text and scale; fine-tuned (`heads`), its head."""
    v = "module.visual."
    conv = (width, 3 * patch * patch) if fast_conv else (width, 3, patch, patch)
    shapes: Shapes = {
        v + "class_embedding": (width,),
        v + "positional_embedding": (1 + (image // patch) ** 2, width),
        v + "temporal_embedding": (frames, width),
        v + "conv1.weight": conv,
    }
    shapes |= with_bias(v + "ln_pre", width) | with_bias(v + "ln_post", width)
    for i in range(depth):
        b = f"{v}transformer.resblocks.{i}."
        shapes |= with_bias(b + "ln_1", width) | with_bias(b + "ln_2", width)
        shapes |= with_bias(b + "attn.out_proj", width, width)
        if flash:
            shapes |= with_bias(b + "attn.Wqkv", 3 * width, width)
            shapes |= with_bias(b + "mlp.fc1", 4 * width, width) | with_bias(b + "mlp.fc2", width, 4 * width)
        else:
            shapes |= {b + "attn.in_proj_weight": (3 * width, width), b + "attn.in_proj_bias": (3 * width,)}
            shapes |= with_bias(b + "mlp.c_fc", 4 * width, width) | with_bias(b + "mlp.c_proj", width, 4 * width)
    if heads:
        return shapes | with_bias("module.fc_cls", heads, width)
    t = "module.textual."
    shapes |= {v + "image_projection": (width, 8), t + "token_embedding.weight": (40, 8), t + "text_projection": (8, 8)}
    return shapes | {t + "positional_embedding": (7, 8), "module.logit_scale": ()} | with_bias(t + "ln_final", 8)


def lavila_shapes(
    image: int, patch: int, width: int, depth: int, frames: int, *, gated: bool, heads: tuple[int, ...] = ()
) -> Shapes:
    """A whole file of LaViLa: pretrained with OpenAI's text tower, or fine-tuned with one head or several."""
    v = "module.visual."
    shapes: Shapes = {
        v + "cls_token": (1, 1, width),
        v + "pos_embed": (1, 1 + (image // patch) ** 2, width),
        v + "temporal_embed": (1, frames, width),
        v + "patch_embed.proj.weight": (width, 3, patch, patch),
    }
    shapes |= with_bias(v + "ln_pre", width) | with_bias(v + "norm", width)
    for i in range(depth):
        b = f"{v}blocks.{i}."
        for norm in ("norm1", "norm2", "norm3"):
            shapes |= with_bias(b + norm, width)
        for kind in ("attn", "timeattn"):
            shapes |= with_bias(f"{b}{kind}.qkv", 3 * width, width) | with_bias(f"{b}{kind}.proj", width, width)
        shapes |= with_bias(b + "mlp.fc1", 4 * width, width) | with_bias(b + "mlp.fc2", width, 4 * width)
        if gated:
            shapes[b + "alpha_timeattn"] = ()
    if len(heads) == 1:
        return shapes | with_bias("module.fc_cls", heads[0], width)
    for i, classes in enumerate(heads):
        shapes |= with_bias(f"module.fc_cls.{i}", classes, width)
    if not heads:
        shapes |= {"module.image_projection": (width, 8), "module.text_projection": (8, 8), "module.logit_scale": ()}
        shapes |= {"module.token_embedding.weight": (40, 8), "module.positional_embedding": (7, 8)}
        shapes |= with_bias("module.ln_final", 8) | with_bias("module.transformer.resblocks.0.ln_1", 8)
    return shapes


def _norm(p: State, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * p[name + ".weight"] + p[name + ".bias"]


def _activate(x: Tensor, quick: bool) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x)) if quick else x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """One query (d,) to keys and values (n, d): softmax over n of the scaled products of each head's part."""
    parts = []
    for qh, kh, vh in zip(q.chunk(heads), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        weights = torch.exp(kh @ qh / len(qh) ** 0.5)
        parts.append((weights / weights.sum()) @ vh)
    return torch.cat(parts)


def _attention(x: Tensor, qkv: tuple[Tensor, Tensor], proj: tuple[Tensor, Tensor], heads: int, seen) -> Tensor:
    """x (L, d); token i attends to the tokens `seen(i)`."""
    q, k, v = (x @ qkv[0].T + qkv[1]).chunk(3, -1)
    rows = [_attend(q[i], k[seen(i)], v[seen(i)], heads) for i in range(len(x))]
    return torch.stack(rows) @ proj[0].T + proj[1]


def _embed(clip: Tensor, conv: Tensor, cls: Tensor, places: Tensor, times: Tensor) -> Tensor:
    """A clip (3, T, H, W) -> (1 + T P, d): each patch alone, colour by colour, row by row."""
    patch = conv.shape[-1]
    rows = [cls + places[0]]
    for t in range(clip.shape[1]):
        number = 0
        for y in range(0, clip.shape[2], patch):
            for x in range(0, clip.shape[3], patch):
                pixels = clip[:, t, y : y + patch, x : x + patch].reshape(-1)
                number += 1
                rows.append(conv.reshape(len(conv), -1) @ pixels + places[number] + times[t])
    return torch.stack(rows)


def avion_tokens(p: State, clip: Tensor, heads: int, *, quick: bool) -> Tensor:
    """(3, T, H, W) -> (1 + T P, d) after ln_post. `p` without `module.visual.`, of any of the variants."""
    width = len(p["class_embedding"])
    patch = math.isqrt(p["conv1.weight"].numel() // width // 3)
    conv = p["conv1.weight"].reshape(width, 3, patch, patch)
    x = _embed(clip, conv, p["class_embedding"], p["positional_embedding"], p["temporal_embedding"])
    x = _norm(p, "ln_pre", x, 1e-6)
    i = 0
    while (b := f"transformer.resblocks.{i}.") + "ln_1.weight" in p:
        flash = b + "attn.Wqkv.weight" in p
        names = ("attn.Wqkv.", "mlp.fc1.", "mlp.fc2.") if flash else ("attn.in_proj_", "mlp.c_fc.", "mlp.c_proj.")
        qkv, first, second = ((p[f"{b}{name}weight"], p[f"{b}{name}bias"]) for name in names)
        proj = p[b + "attn.out_proj.weight"], p[b + "attn.out_proj.bias"]
        x = x + _attention(_norm(p, b + "ln_1", x, 1e-6), qkv, proj, heads, lambda _: slice(None))
        x = x + F.linear(_activate(F.linear(_norm(p, b + "ln_2", x, 1e-6), *first), quick), *second)
        i += 1
    return _norm(p, "ln_post", x, 1e-6)


def lavila_tokens(p: State, clip: Tensor, heads: int, *, quick: bool) -> Tensor:
    """(3, T, H, W) -> (1 + T P, d) after the last norm. `p` without `module.visual.`."""
    conv = p["patch_embed.proj.weight"]
    x = _embed(clip, conv, p["cls_token"][0, 0], p["pos_embed"][0], p["temporal_embed"][0])
    x = _norm(p, "ln_pre", x, 1e-5)
    patches = (len(x) - 1) // clip.shape[1]

    def same_place(i: int) -> list[int]:
        return list(range(len(x))) if i == 0 else [0, *(j for j in range(1, len(x)) if (j - i) % patches == 0)]

    def same_frame(i: int) -> list[int]:
        frame = (i - 1) // patches
        return list(range(len(x))) if i == 0 else [0, *range(1 + frame * patches, 1 + (frame + 1) * patches)]

    i = 0
    while (b := f"blocks.{i}.") + "norm1.weight" in p:

        def attention(kind: str, y: Tensor, seen, b: str = b) -> Tensor:
            qkv, proj = ((p[f"{b}{kind}.{m}.weight"], p[f"{b}{kind}.{m}.bias"]) for m in ("qkv", "proj"))
            return _attention(y, qkv, proj, heads, seen)

        time = attention("timeattn", _norm(p, b + "norm3", x, 1e-6), same_place)
        if b + "alpha_timeattn" in p:
            time = math.tanh(float(p[b + "alpha_timeattn"])) * time
        x = x + attention("attn", _norm(p, b + "norm1", x + time, 1e-6), same_frame)
        first, second = ((p[f"{b}mlp.{m}.weight"], p[f"{b}mlp.{m}.bias"]) for m in ("fc1", "fc2"))
        x = x + F.linear(_activate(F.linear(_norm(p, b + "norm2", x, 1e-6), *first), quick), *second)
        i += 1
    return _norm(p, "norm", x, 1e-6)
