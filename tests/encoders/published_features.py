"""CLIP, ResNet-18 and R(2+1)D-18 written a second time, as functions of a state dict in its published layout.

From the papers and the published files' keys; nothing here imports transformers or crossmamba.
"""

from __future__ import annotations

import torch
from published_layouts import Shapes, State, with_bias
from torch import Tensor
from torch.nn import functional as F


def _tower_shapes(prefix: str, width: int, depth: int) -> Shapes:
    shapes: Shapes = {}
    for i in range(depth):
        p = f"{prefix}transformer.resblocks.{i}."
        shapes |= {p + "attn.in_proj_weight": (3 * width, width), p + "attn.in_proj_bias": (3 * width,)}
        shapes |= with_bias(p + "attn.out_proj", width, width)
        shapes |= with_bias(p + "ln_1", width) | with_bias(p + "ln_2", width)
        shapes |= with_bias(p + "mlp.c_fc", 4 * width, width) | with_bias(p + "mlp.c_proj", width, 4 * width)
    return shapes


def openai_clip_shapes(
    image: int, patch: int, width: int, depth: int, text_width: int, text_depth: int, dim: int, length: int, words: int
) -> Shapes:
    shapes: Shapes = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((image // patch) ** 2 + 1, width),
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.proj": (width, dim),
        "token_embedding.weight": (words, text_width),
        "positional_embedding": (length, text_width),
        "text_projection": (text_width, dim),
        "logit_scale": (),
    }
    shapes |= with_bias("visual.ln_pre", width) | with_bias("visual.ln_post", width) | with_bias("ln_final", text_width)
    return shapes | _tower_shapes("visual.", width, depth) | _tower_shapes("", text_width, text_depth)


def _norm(p: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], p[name + ".weight"], p[name + ".bias"], 1e-5)


def _tower(p: State, prefix: str, x: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    i = 0
    while f"{prefix}transformer.resblocks.{i}.ln_1.weight" in p:
        name = f"{prefix}transformer.resblocks.{i}."
        y = _norm(p, name + "ln_1", x) @ p[name + "attn.in_proj_weight"].T + p[name + "attn.in_proj_bias"]
        n, length, c = x.shape
        q, k, v = y.reshape(n, length, 3, heads, c // heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / (c // heads) ** 0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        y = (weights @ v).transpose(1, 2).reshape(n, length, c)
        x = x + F.linear(y, p[name + "attn.out_proj.weight"], p[name + "attn.out_proj.bias"])
        y = F.linear(_norm(p, name + "ln_2", x), p[name + "mlp.c_fc.weight"], p[name + "mlp.c_fc.bias"])
        y = y * torch.sigmoid(1.702 * y)
        x = x + F.linear(y, p[name + "mlp.c_proj.weight"], p[name + "mlp.c_proj.bias"])
        i += 1
    return x


def clip_tokens(p: State, pictures: Tensor, heads: int) -> Tensor:
    """(N, 3, S, S) -> (N, 1 + P, D)."""
    patch = p["visual.conv1.weight"].shape[-1]
    x = F.conv2d(pictures, p["visual.conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
    x = torch.cat([p["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1) + p["visual.positional_embedding"]
    return _norm(p, "visual.ln_post", _tower(p, "visual.", _norm(p, "visual.ln_pre", x), heads)) @ p["visual.proj"]


def clip_words(p: State, ids: Tensor, heads: int) -> Tensor:
    """(N, L) -> (N, L, D)."""
    length = ids.shape[1]
    x = p["token_embedding.weight"][ids] + p["positional_embedding"][:length]
    mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
    return _norm(p, "ln_final", _tower(p, "", x, heads, mask)) @ p["text_projection"]


def _batch_norm(name: str, c: int) -> Shapes:
    shapes: Shapes = {f"{name}.{kind}": (c,) for kind in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {f"{name}.num_batches_tracked": ()}


def basic_resnet_shapes(widths: tuple[int, ...], depths: tuple[int, ...], stem: int) -> Shapes:
    shapes: Shapes = {"conv1.weight": (stem, 3, 7, 7)} | _batch_norm("bn1", stem)
    incoming = stem
    for s, (c, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for b in range(depth):
            p = f"layer{s}.{b}."
            shapes |= {p + "conv1.weight": (c, incoming, 3, 3), p + "conv2.weight": (c, c, 3, 3)}
            shapes |= _batch_norm(p + "bn1", c) | _batch_norm(p + "bn2", c)
            if s > 1 and b == 0:
                shapes |= {p + "downsample.0.weight": (c, incoming, 1, 1)} | _batch_norm(p + "downsample.1", c)
            incoming = c
    return shapes | with_bias("fc", 1000, widths[-1])


def _normalised(p: State, name: str, x: Tensor) -> Tensor:
    mean, var = p[name + ".running_mean"], p[name + ".running_var"]
    return F.batch_norm(x, mean, var, p[name + ".weight"], p[name + ".bias"], eps=1e-5)


def basic_resnet_grid(p: State, x: Tensor, depths: tuple[int, ...]) -> Tensor:
    x = _normalised(p, "bn1", F.conv2d(x, p["conv1.weight"], stride=2, padding=3)).relu()
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for s, depth in enumerate(depths, start=1):
        for b in range(depth):
            name, stride = f"layer{s}.{b}.", 2 if s > 1 and b == 0 else 1
            y = F.conv2d(x, p[name + "conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(_normalised(p, name + "bn1", y).relu(), p[name + "conv2.weight"], padding=1)
            if name + "downsample.0.weight" in p:
                x = F.conv2d(x, p[name + "downsample.0.weight"], stride=stride)
                x = _normalised(p, name + "downsample.1", x)
            x = (x + _normalised(p, name + "bn2", y)).relu()
    return x


def r2plus1d_shapes(
    widths: tuple[int, ...], depths: tuple[int, ...], stem: tuple[int, int], middle: dict[str, int]
) -> Shapes:
    """`middle`: channels between the two halves of each block's convolutions, as the published file has them."""
    shapes: Shapes = {"stem.0.weight": (stem[0], 3, 1, 7, 7), "stem.3.weight": (stem[1], stem[0], 3, 1, 1)}
    shapes |= _batch_norm("stem.1", stem[0]) | _batch_norm("stem.4", stem[1])
    incoming = stem[1]
    for s, (c, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for b in range(depth):
            p, m = f"layer{s}.{b}.", middle[f"layer{s}.{b}"]
            for conv, i in (("conv1", incoming), ("conv2", c)):
                shapes |= {f"{p}{conv}.0.0.weight": (m, i, 1, 3, 3), f"{p}{conv}.0.3.weight": (c, m, 3, 1, 1)}
                shapes |= _batch_norm(f"{p}{conv}.0.1", m) | _batch_norm(f"{p}{conv}.1", c)
            if s > 1 and b == 0:
                shapes |= {p + "downsample.0.weight": (c, incoming, 1, 1, 1)} | _batch_norm(p + "downsample.1", c)
            incoming = c
    return shapes | with_bias("fc", 400, widths[-1])


def r2plus1d_vector(p: State, x: Tensor, depths: tuple[int, ...]) -> Tensor:
    def split(name: str, t: Tensor, stride: int) -> Tensor:
        t = F.conv3d(t, p[name + ".0.weight"], stride=(1, stride, stride), padding=(0, 1, 1))
        t = _normalised(p, name + ".1", t).relu()
        return F.conv3d(t, p[name + ".3.weight"], stride=(stride, 1, 1), padding=(1, 0, 0))

    x = _normalised(p, "stem.1", F.conv3d(x, p["stem.0.weight"], stride=(1, 2, 2), padding=(0, 3, 3))).relu()
    x = _normalised(p, "stem.4", F.conv3d(x, p["stem.3.weight"], padding=(1, 0, 0))).relu()
    for s, depth in enumerate(depths, start=1):
        for b in range(depth):
            name, stride = f"layer{s}.{b}.", 2 if s > 1 and b == 0 else 1
            y = _normalised(p, name + "conv1.1", split(name + "conv1.0", x, stride)).relu()
            y = _normalised(p, name + "conv2.1", split(name + "conv2.0", y, 1))
            if name + "downsample.0.weight" in p:
                x = _normalised(p, name + "downsample.1", F.conv3d(x, p[name + "downsample.0.weight"], stride=stride))
            x = (x + y).relu()
    return x.flatten(2).mean(2)
