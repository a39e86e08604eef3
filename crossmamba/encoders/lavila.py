"""LaViLa's video tower (Zhao et al. 2022, arXiv 2212.04501): TimeSformer blocks as in Frozen in Time (2104.00650).

Symbols: B clips, T frames, P patches of a frame, d width; x holds the class token, then a frame after the other.

    x_0   = cls + pos_0                       x_{t,p} = conv(frame_t)_p + pos_p + time_t;   x = ln_pre(x)
    time  = timeattn(norm3 x)                 a patch sees its own place in all frames, and the class token
    space = attn(norm1(x + time))             a patch sees its own frame, and the class token
    x     = x + space                         Frozen in Time: to x, not to x + time as TimeSformer has it
    x     = x + mlp(norm2 x)                  at the end tokens = norm(x)

In both attentions the class token sees all tokens. Gated models scale `time` by tanh of a learned number
(`alpha_timeattn`). Because of the third line transformers' TimesformerModel is another model (spec §6).
The activation is the quick GELU of CLIP, from whose weights LaViLa starts; eps is 1e-5 in ln_pre (torch's own) and 1e-6
elsewhere.

Published weights: the model zoo of https://github.com/facebookresearch/LaViLa, torch files with `module.visual.*`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

__all__ = ["LavilaEncoder"]

EPS = 1e-6


class LavilaEncoder(EgoEncoder):
    """LaViLa's tokens: (B, 3, T, S, S) -> (B, 1 + T P, d).

    Args:
        size: "b" (ViT-B/16), "l" (ViT-L/14), or the numbers.
        frames: T; weights of fewer frames (4 in pretraining) are interpolated in time.
        image: side of the pictures in pixels.
        gated: the time attention of each block is scaled by tanh(alpha_timeattn), 0 at first.
        quick_gelu: CLIP's activation; False for the exact GELU.
        drop_path: probability of skipping the last block's branches, falling linearly to 0 at the first.
        classes: see `EgoEncoder`.
        order: see `VideoEncoder`. cls_place: see `VideoEncoder`.
        freeze: start frozen.
    """

    published = "the model zoo of https://github.com/facebookresearch/LaViLa (.pth)"

    def __init__(
        self,
        size: str | VitSize = "b",
        *,
        frames: int = 16,
        image: int = 224,
        gated: bool = False,
        quick_gelu: bool = True,
        drop_path: float = 0.0,
        classes: tuple[int, ...] = (),
        order: str = "time_major",
        cls_place: str = "first",
        freeze: bool = False,
    ) -> None:
        super().__init__(size, frames, image, classes, order=order, cls_place=cls_place, freeze=freeze)
        d, depth = self.vit.width, self.vit.depth
        self.gated = gated
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, d, self.patch, stride=self.patch, bias=False)})
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, d))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + self.cells**2, d))
        self.temporal_embed = nn.Parameter(torch.zeros(1, frames, d))
        self.ln_pre, self.norm = nn.LayerNorm(d, 1e-5), nn.LayerNorm(d, EPS)
        self.blocks = nn.ModuleList(
            [_Block(d, self.vit.heads, gated, quick_gelu, rate) for rate in drop_path_rates(drop_path, depth)]
        )
        self._initialise()
        self.set_frozen(freeze)

    def tokens_of(self, clip: Tensor) -> Tensor:
        """See `EgoEncoder.tokens_of`."""
        patches = self.patch_embed["proj"](clip.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)  # (B T, P, d)
        x = place_tokens(patches, self.cls_token[0, 0], self.pos_embed[0], self.temporal_embed[0])
        x = self.ln_pre(x)  # (B, 1 + T P, d)
        for block in self.blocks:
            x = self._run(block, x, clip.shape[2])
        return self.norm(x)

    def translate(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """LaViLa's pretrained or fine-tuned file to our names.

        Raises:
            CheckpointError: lists the keys that are not of this layout, or `gated` is not as in the file.
        """
        state, heads = split_heads(state_dict, ("visual.",), len(self.fc_cls))
        gates = any(key.endswith("alpha_timeattn") for key in state)
        if gates != self.gated:
            raise CheckpointError(
                f"has {'' if gates else 'no '}alpha_timeattn: build this encoder with gated={gates} to load it"
            )
        state = rename(state, _translate, ("head.", "pre_logits."), "layout of LaViLa")
        if (temporal := state.get("temporal_embed")) is not None and temporal.ndim == 3:
            state["temporal_embed"] = inflate_frames(temporal, self.temporal_embed.shape[1])
        return state | heads


class _DividedAttention(Attention):
    """Attention within groups of patches, the class token beside each group; the class token sees everything."""

    def forward(self, x: Tensor, frames: int, over: str) -> Tensor:
        """(B, 1 + T P, d) -> same; a patch sees its place in all frames (over="time") or its frame ("space")."""
        queries, keys, values = self.split(x)  # (B, heads, L, c)
        cls = F.scaled_dot_product_attention(queries[:, :, :1], keys, values)

        def groups(part: Tensor) -> Tensor:  # (B, heads, groups, members, c)
            patches = part[:, :, 1:].unflatten(2, (frames, -1))
            return patches.transpose(2, 3) if over == "time" else patches

        def with_cls(part: Tensor) -> Tensor:
            inner = groups(part)
            return torch.cat([part[:, :, None, :1].expand(-1, -1, inner.shape[2], -1, -1), inner], dim=3)

        seen = F.scaled_dot_product_attention(groups(queries), with_cls(keys), with_cls(values))
        seen = seen.transpose(2, 3) if over == "time" else seen
        return self.join(torch.cat([cls, seen.flatten(2, 3)], dim=2))


class _Block(nn.Module):
    """One block as in the head of this file. (B, 1 + T P, d) -> same."""

    def __init__(self, width: int, heads: int, gated: bool, quick_gelu: bool, drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width, EPS) for _ in range(3))
        self.attn, self.timeattn = _DividedAttention(width, heads), _DividedAttention(width, heads)
        self.alpha_timeattn = nn.Parameter(torch.zeros(())) if gated else None
        self.mlp = Mlp(width, quick_gelu=quick_gelu)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        time = self.timeattn(self.norm3(x), frames, "time")
        if self.alpha_timeattn is not None:
            time = torch.tanh(self.alpha_timeattn) * time
        space = self.attn(self.norm1(x + time), frames, "space")
        x = x + self.drop_path(space)
        return x + self.drop_path(self.mlp(self.norm2(x)))


_NAMES = re.compile(
    r"cls_token|pos_embed|temporal_embed|patch_embed\.proj\.weight|(ln_pre|norm)\.(weight|bias)|blocks\.\d+\."
    r"(alpha_timeattn|(norm[123]|(time)?attn\.(qkv|proj)|mlp\.fc[12])\.(weight|bias))"
)


def _translate(key: str) -> str | None:
    """LaViLa's names are ours."""
    return key if _NAMES.fullmatch(key) else None
