"""AVION's video tower (Zhao and Krähenbühl 2023, arXiv 2309.16669): CLIP's ViT over all patches of all frames at once.

Symbols: B clips, T frames, P patches of a frame (196 for ViT-B/16, 256 for L/14 at 224 pixels), d width.

    x_0     = class + pos_0                        x_{t,p} = conv(frame_t)_p + pos_p + time_t
    x       = ln_pre(x);  twelve (24) blocks  x += attention(ln_1 x),  x += mlp(ln_2 x);  tokens = ln_post(x)

The published model keeps the class token alone; here all tokens take its way through `ln_post` (spec §1.1). Layer norms
have eps 1e-6. The activation: AVION's scripts ask for CLIP's quick GELU, but its constructors drop the option, so the
blocks compute the exact GELU (spec §6): `quick_gelu` is off.

Published weights: `https://github.com/zhaoyue-zephyrus/AVION`, its model zoo; torch files with `module.visual.*` beside
the command line. Two ways to store each of two things are read: patches by a matrix (`use_fast_conv1`) or a
convolution, blocks by flash-attention's names or torch's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crossmamba.encoders.egocentric import (
    Attention,
    DropPath,
    EgoEncoder,
    Mlp,
    VitSize,
    drop_path_rates,
    inflate_frames,
    place_tokens,
    split_heads,
)
from crossmamba.encoders.remap import rename
from crossmamba.errors import CheckpointError

__all__ = ["AvionEncoder"]

EPS = 1e-6


class AvionEncoder(EgoEncoder):
    """AVION's tokens: (B, 3, T, S, S) -> (B, 1 + T P, d): 3,137 for ViT-B/16 and 16 frames, 4,097 for ViT-L/14.

    Args:
        size: "b" (ViT-B/16), "l" (ViT-L/14), or the numbers.
        frames: T; weights of fewer frames are interpolated in time.
        image: side of the pictures in pixels.
        quick_gelu: CLIP's activation instead of the exact GELU.
        drop_path: probability of skipping the last block's branches, falling linearly to 0 at the first.
        classes: see `EgoEncoder`.
        order: see `VideoEncoder`. cls_place: see `VideoEncoder`.
        freeze: start frozen.
    """

    published = "the model zoo of https://github.com/zhaoyue-zephyrus/AVION (.pt)"

    def __init__(
        self,
        size: str | VitSize = "b",
        *,
        frames: int = 16,
        image: int = 224,
        quick_gelu: bool = False,
        drop_path: float = 0.0,
        classes: tuple[int, ...] = (),
        order: str = "time_major",
        cls_place: str = "first",
        freeze: bool = False,
    ) -> None:
        super().__init__(size, frames, image, classes, order=order, cls_place=cls_place, freeze=freeze)
        d, depth = self.vit.width, self.vit.depth
        self.conv1 = nn.Conv2d(3, d, self.patch, stride=self.patch, bias=False)
        self.class_embedding = nn.Parameter(0.02 * torch.randn(d))
        self.positional_embedding = nn.Parameter(0.02 * torch.randn(1 + self.cells**2, d))
        self.temporal_embedding = nn.Parameter(torch.zeros(frames, d))
        self.ln_pre, self.ln_post = nn.LayerNorm(d, EPS), nn.LayerNorm(d, EPS)
        self.blocks = nn.ModuleList(
            [_Block(d, self.vit.heads, quick_gelu, rate) for rate in drop_path_rates(drop_path, depth)]
        )
        self._initialise()
        self.set_frozen(freeze)

    def tokens_of(self, clip: Tensor) -> Tensor:
        """See `EgoEncoder.tokens_of`."""
        patches = self.conv1(clip.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)  # (B T, P, d)
        x = place_tokens(patches, self.class_embedding, self.positional_embedding, self.temporal_embedding)
        x = self.ln_pre(x)  # (B, 1 + T P, d)
        for block in self.blocks:
            x = self._run(block, x)
        return self.ln_post(x)

    def translate(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """AVION's pretrained or fine-tuned file, or the tower of a MambaVL one (`orvit.*`), to our names.

        Raises:
            CheckpointError: lists the keys that are not of this layout.
        """
        state, heads = split_heads(state_dict, ("visual.", "orvit."), len(self.fc_cls))
        state = rename(
            state, _translate, ("image_projection", "textual.", "logit_scale", "text_projection"), "layout of AVION"
        )
        if (conv := state.get("conv1.weight")) is not None and conv.ndim == 2:
            state["conv1.weight"] = _as_convolution(conv, self.patch)
        if (temporal := state.get("temporal_embedding")) is not None and temporal.ndim == 2:
            state["temporal_embedding"] = inflate_frames(temporal[None], self.temporal_embedding.shape[0])[0]
        return state | heads


class _Block(nn.Module):
    """Pre-norm transformer block. (B, L, d) -> same."""

    def __init__(self, width: int, heads: int, quick_gelu: bool, drop_path: float) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn, self.mlp = Attention(width, heads), Mlp(width, quick_gelu=quick_gelu)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.ln_1(x)))
        return x + self.drop_path(self.mlp(self.ln_2(x)))


_SINGLE = {"class_embedding", "positional_embedding", "temporal_embedding", "conv1.weight"} | {
    f"{norm}.{kind}" for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")
}
# Flash-attention's names, torch's and ours, to ours.
_PARTS = {
    "attn.Wqkv.": "attn.qkv.",
    "attn.in_proj_": "attn.qkv.",
    "attn.qkv.": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "attn.proj.": "attn.proj.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
    "mlp.c_proj.": "mlp.fc2.",
    "ln_1.": "ln_1.",
    "ln_2.": "ln_2.",
}


def _translate(key: str) -> str | None:
    if key in _SINGLE:
        return key
    match = re.fullmatch(r"(?:transformer\.res)?blocks\.(\d+)\.(.+?)(weight|bias)", key)
    if match is None or match[2] not in _PARTS:
        return None
    return f"blocks.{match[1]}.{_PARTS[match[2]]}{match[3]}"


def _as_convolution(matrix: Tensor, patch: int) -> Tensor:
    """The fast patch matrix, columns in the order (colour, row, column), as a convolution's weights."""
    if matrix.shape[1] != 3 * patch * patch:
        side = math.isqrt(matrix.shape[1] // 3)
        raise CheckpointError(
            f"does not fit this encoder: conv1.weight {tuple(matrix.shape)} is of patches of {side} x {side} pixels, "
            f"not {patch} x {patch}"
        )
    return matrix.unflatten(1, (3, patch, patch)).contiguous()
