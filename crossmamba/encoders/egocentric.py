"""What the two egocentric video transformers, AVION's and LaViLa's, have in common: parts, sizes, heads, key remaps.

Symbols: B clips, T frames, P patches of a frame, d width, L = 1 + T P tokens, class token first.
Their weights expect RGB of 0..255 less (108.327, 116.746, 104.094) over (68.50, 66.63, 70.32): both codes have this odd
first mean (spec §3.4), so it belongs to the weights. Here it is written for pixels in [0, 1].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmamba.encoders.remap import select_encoder
from crossmamba.encoders.video_base import VideoEncoder
from crossmamba.errors import UsageError

__all__ = [
    "VIT_SIZES",
    "Attention",
    "DropPath",
    "EgoEncoder",
    "Mlp",
    "VitSize",
    "drop_path_rates",
    "inflate_frames",
    "place_tokens",
    "split_heads",
]


@dataclass(frozen=True)
class VitSize:
    """The size of a picture transformer: width d, number of blocks, heads, side of a patch in pixels."""

    width: int
    depth: int
    heads: int
    patch: int


VIT_SIZES: dict[str, VitSize] = {"b": VitSize(768, 12, 12, 16), "l": VitSize(1024, 24, 16, 14)}
"""ViT-B/16 and ViT-L/14."""


class DropPath(nn.Module):
    """Leaves a branch out of each clip with a probability, in training; the others are scaled up to keep the mean.

    Args:
        probability: in [0, 1).

    Raises:
        UsageError: another probability.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise UsageError(f"drop_path is {probability}; expected a probability below 1")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.probability
        return x * kept.to(x.dtype) / (1 - self.probability)


def drop_path_rates(last: float, depth: int) -> list[float]:
    """Probabilities of `depth` blocks: 0 at the first, rising linearly to `last`."""
    return torch.linspace(0, last, depth, device="cpu").tolist()


class Mlp(nn.Module):
    """Two linear layers, four times as wide in between.

    Args:
        width: d.
        quick_gelu: x sigmoid(1.702 x), as OpenAI's CLIP, instead of the exact GELU.
    """

    def __init__(self, width: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.quick_gelu = quick_gelu

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x) if self.quick_gelu else F.gelu(x))


class Attention(nn.Module):
    """Attention of all tokens to all; queries, keys and values are one matrix, in this order of rows."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"width {width} cannot be split into {heads} heads")
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, d) -> queries, keys, values (B, heads, L, d / heads)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def join(self, x: Tensor) -> Tensor:
        """(B, heads, L, d / heads) -> (B, L, d), projected."""
        return self.proj(x.transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.join(F.scaled_dot_product_attention(*self.split(x)))


class EgoEncoder(VideoEncoder):
    """Common parts of AVION's and LaViLa's encoders. Subclasses implement `tokens_of` and `translate`.

    Args:
        size: "b" (ViT-B/16), "l" (ViT-L/14), or the numbers.
        frames: T. image: side of the pictures in pixels, a multiple of the patch.
        classes: sizes of the classification heads of a fine-tuned checkpoint, (3806,) for actions; they belong to
            `classify`. Without any, a checkpoint's heads are left out.
        order: see `VideoEncoder`.
        cls_place: see `VideoEncoder`.
        freeze: start frozen.

    Raises:
        UsageError: an unknown size, numbers that do not fit.
    """

    sizes: ClassVar[Mapping[str, VitSize]] = VIT_SIZES
    mean = (108.3272985 / 255, 116.7460125 / 255, 104.09373615 / 255)
    deviation = (68.5005327 / 255, 66.6321579 / 255, 70.32316305 / 255)

    def __init__(
        self,
        size: str | VitSize,
        frames: int,
        image: int,
        classes: tuple[int, ...],
        *,
        order: str,
        cls_place: str,
        freeze: bool,
    ) -> None:
        super().__init__(order=order, cls_place=cls_place, freeze=freeze)
        if isinstance(size, str) and size not in self.sizes:
            raise UsageError(f"no size {size!r}; there are {', '.join(self.sizes)}")
        self.vit = self.sizes[size] if isinstance(size, str) else replace(size)
        if frames < 1 or image < self.vit.patch or image % self.vit.patch:
            raise UsageError(f"{frames} frames of {image} pixels; expected one or more, multiples of {self.vit.patch}")
        self.dim, self.patch, self.frames, self.size = self.vit.width, self.vit.patch, frames, (image, image)
        self.cells = image // self.vit.patch
        self.fc_cls = nn.ModuleList([nn.Linear(self.dim, count) for count in classes])

    @abstractmethod
    def tokens_of(self, clip: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, 1 + T P, d), normed, class token first, then a frame after the other."""

    def watch(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, H, W) -> cells (B, T, H', W', d), class token (B, d)."""
        tokens = self.tokens_of(clip)
        return tokens[:, 1:].unflatten(1, (clip.shape[2], self.cells, self.cells)), tokens[:, 0]

    def classify(self, clip: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, T, H, W) -> for each head (B, classes), the logits that the fine-tuned model gives.

        Raises:
            UsageError: no heads, or a clip that `forward` would not take.
        """
        if not len(self.fc_cls):
            raise UsageError(f"this {type(self).__name__} has no classification heads: build it with classes=(3806,)")
        self.check_clip(clip)
        cls = self.tokens_of(clip)[:, 0]
        return tuple(head(cls) for head in self.fc_cls)

    def _initialise(self) -> None:
        """timm's way, as both codes: narrow normal weights, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


def place_tokens(patches: Tensor, cls: Tensor, positions: Tensor, times: Tensor) -> Tensor:
    """x_0 of both encoders: the class token and all patches of a clip, with where and when they are added.

    Args:
        patches: (B T, P, d). cls: (d,). positions: (1 + P, d), the class token's first. times: (T, d).

    Returns:
        (B, 1 + T P, d).
    """
    patches = patches.unflatten(0, (-1, len(times))) + (positions[1:] + times[:, None])  # (B, T, P, d)
    first = (cls + positions[0]).expand(len(patches), 1, -1)
    return torch.cat([first, patches.flatten(1, 2)], dim=1)


def inflate_frames(temporal: Tensor, frames: int) -> Tensor:
    """A learned vector of each frame, for another number of frames: (1, T, d) -> (1, frames, d).

    As LaViLa and AVION load: fewer frames keep the first ones; more are interpolated.
    """
    if frames <= temporal.shape[1]:
        return temporal[:, :frames]
    return F.interpolate(temporal[None], (frames, temporal.shape[2]), mode="bilinear", align_corners=False)[0]


def split_heads(
    state_dict: Mapping[str, Tensor], towers: tuple[str, ...], heads: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A checkpoint's picture tower, without its prefix, and its classification heads as `fc_cls.{i}.*`.

    Args:
        towers: the tower's possible prefixes; a state dict without any of them is the tower itself.
        heads: how many heads the encoder has; 0 leaves a checkpoint's out.
    """
    state = select_encoder(state_dict, ())
    found: dict[str, Tensor] = {}
    for key in [key for key in state if key.startswith("fc_cls.")]:
        value = state.pop(key)
        if heads:
            found[key if key.split(".")[1].isdigit() else key.replace("fc_cls.", "fc_cls.0.", 1)] = value
    for prefix in towers:
        inner = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if inner:
            return inner, found
    return state, found
