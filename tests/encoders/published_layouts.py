"""PVT v2, ResNet and VGGish written a second time, as functions of a state dict in its published layout.

From the papers and the published files' keys; nothing here imports transformers or crossmamba. Each family has its
key list with shapes, and its forward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

HEADS, REDUCTIONS = (1, 2, 5, 8), (8, 4, 2, 1)


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """Random tensors; spread so that activations stay near 1, variances positive."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("running_var"):
            state[key] = 0.5 + noise.square()
        elif len(shape) > 1:
            state[key] = noise / noise[0].numel() ** 0.5
        else:
            state[key] = 0.2 * noise + (key.endswith("weight") * 1.0)
    return state


def with_bias(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def pvt_shapes(widths: tuple[int, ...], depths: tuple[int, ...], ratios: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    for s, (c, depth, ratio, reduction) in enumerate(zip(widths, depths, ratios, REDUCTIONS, strict=True), start=1):
        kernel, incoming = (7, 3) if s == 1 else (3, widths[s - 2])
        shapes |= with_bias(f"patch_embed{s}.proj", c, incoming, kernel, kernel) | with_bias(f"patch_embed{s}.norm", c)
        for b in range(depth):
            p = f"block{s}.{b}."
            shapes |= with_bias(p + "norm1", c) | with_bias(p + "attn.q", c, c) | with_bias(p + "attn.kv", 2 * c, c)
            shapes |= with_bias(p + "attn.proj", c, c)
            if reduction > 1:
                shapes |= with_bias(p + "attn.sr", c, c, reduction, reduction) | with_bias(p + "attn.norm", c)
            shapes |= with_bias(p + "norm2", c) | with_bias(p + "mlp.fc1", ratio * c, c)
            shapes |= with_bias(p + "mlp.dwconv.dwconv", ratio * c, 1, 3, 3) | with_bias(p + "mlp.fc2", c, ratio * c)
        shapes |= with_bias(f"norm{s}", c)
    return shapes | with_bias("head", 1000, widths[-1])


def pvt_forward(p: State, x: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
    def linear(name: str, t: Tensor) -> Tensor:
        return F.linear(t, p[name + ".weight"], p[name + ".bias"])

    def norm(name: str, t: Tensor, eps: float) -> Tensor:
        return F.layer_norm(t, t.shape[-1:], p[name + ".weight"], p[name + ".bias"], eps)

    def conv(name: str, t: Tensor, **kw: int) -> Tensor:
        return F.conv2d(t, p[name + ".weight"], p[name + ".bias"], **kw)

    def to_map(h: int, w: int, t: Tensor) -> Tensor:
        return t.transpose(1, 2).reshape(len(t), -1, h, w)

    levels = []
    for s, (depth, heads, reduction) in enumerate(zip(depths, HEADS, REDUCTIONS, strict=True), start=1):
        x = conv(f"patch_embed{s}.proj", x, stride=4 if s == 1 else 2, padding=3 if s == 1 else 1)
        n, c, h, w = x.shape
        t = norm(f"patch_embed{s}.norm", x.flatten(2).transpose(1, 2), 1e-5)
        for b in range(depth):
            name = f"block{s}.{b}."
            y = norm(name + "norm1", t, 1e-6)
            q = linear(name + "attn.q", y).reshape(n, -1, heads, c // heads).transpose(1, 2)
            if reduction > 1:
                y = conv(name + "attn.sr", to_map(h, w, y), stride=reduction).flatten(2).transpose(1, 2)
                y = norm(name + "attn.norm", y, 1e-5)
            k, v = linear(name + "attn.kv", y).reshape(n, -1, 2, heads, c // heads).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-1, -2) / (c // heads) ** 0.5).softmax(-1)
            t = t + linear(name + "attn.proj", (weights @ v).transpose(1, 2).reshape(n, -1, c))
            y = to_map(h, w, linear(name + "mlp.fc1", norm(name + "norm2", t, 1e-6)))
            y = conv(name + "mlp.dwconv.dwconv", y, padding=1, groups=y.shape[1]).flatten(2).transpose(1, 2)
            t = t + linear(name + "mlp.fc2", F.gelu(y))
        x = to_map(h, w, norm(f"norm{s}", t, 1e-6))
        levels.append(x)
    return levels


def resnet_shapes(widths: tuple[int, ...], depths: tuple[int, ...], stem: int, counters: bool = True) -> Shapes:
    def batch_norm(name: str, c: int) -> Shapes:
        shapes = {f"{name}.{kind}": (c,) for kind in ("weight", "bias", "running_mean", "running_var")}
        return shapes | ({f"{name}.num_batches_tracked": ()} if counters else {})

    shapes: Shapes = {"conv1.weight": (stem, 3, 7, 7)} | batch_norm("bn1", stem)
    incoming = stem
    for s, (c, depth) in enumerate(zip(widths, depths, strict=True), start=1):
        for b in range(depth):
            p = f"layer{s}.{b}."
            shapes |= {p + "conv1.weight": (c // 4, incoming, 1, 1), p + "conv2.weight": (c // 4, c // 4, 3, 3)}
            shapes |= {p + "conv3.weight": (c, c // 4, 1, 1)}
            shapes |= batch_norm(p + "bn1", c // 4) | batch_norm(p + "bn2", c // 4) | batch_norm(p + "bn3", c)
            if b == 0:
                shapes |= {p + "downsample.0.weight": (c, incoming, 1, 1)} | batch_norm(p + "downsample.1", c)
            incoming = c
    return shapes | with_bias("fc", 1000, widths[-1])


def resnet_forward(p: State, x: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
    def conv_norm(conv: str, norm: str, t: Tensor, **kw: int) -> Tensor:
        t = F.conv2d(t, p[conv + ".weight"], **kw)
        mean, var = p[norm + ".running_mean"], p[norm + ".running_var"]
        return F.batch_norm(t, mean, var, p[norm + ".weight"], p[norm + ".bias"], eps=1e-5)

    x = F.max_pool2d(conv_norm("conv1", "bn1", x, stride=2, padding=3).relu(), 3, stride=2, padding=1)
    levels = []
    for s, depth in enumerate(depths, start=1):
        for b in range(depth):
            name = f"layer{s}.{b}."
            stride = 2 if s > 1 and b == 0 else 1
            y = conv_norm(name + "conv1", name + "bn1", x).relu()
            y = conv_norm(name + "conv2", name + "bn2", y, stride=stride, padding=1).relu()  # v1.5: stride here
            y = conv_norm(name + "conv3", name + "bn3", y)
            if b == 0:
                x = conv_norm(name + "downsample.0", name + "downsample.1", x, stride=stride)
            x = (x + y).relu()
        levels.append(x)
    return levels


VGGISH_CONVS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}


def vggish_shapes() -> Shapes:
    shapes: Shapes = {}
    for i, (incoming, outgoing) in VGGISH_CONVS.items():
        shapes |= with_bias(f"features.{i}", outgoing, incoming, 3, 3)
    for i, (incoming, outgoing) in {0: (12288, 4096), 2: (4096, 4096), 4: (4096, 128)}.items():
        shapes |= with_bias(f"embeddings.{i}", outgoing, incoming)
    return shapes


def vggish_forward(p: State, x: Tensor) -> Tensor:
    for i in VGGISH_CONVS:
        x = F.conv2d(x, p[f"features.{i}.weight"], p[f"features.{i}.bias"], padding=1).relu()
        if i in (0, 3, 8, 13):
            x = F.max_pool2d(x, 2)
    x = torch.einsum("nchw->nhwc", x).reshape(len(x), -1)
    for i in (0, 2, 4):
        x = F.linear(x, p[f"embeddings.{i}.weight"], p[f"embeddings.{i}.bias"]).relu()
    return x
