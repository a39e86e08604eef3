"""A picture transformer whose tokens are merged on the way (ToMe; Bolya et al., ICLR 2023, arXiv 2210.09461).

Symbols (paper -> here):
    N pictures, L tokens with the class token at place 0, d width     r  tokens fewer after a layer, `merged[layer]`
    A, B    tokens at even and at odd places                          s  `size` (N, L), patches that a token stands for
    K       keys of the layer's attention, their mean over the heads

In each block, between attention and MLP (paper §3):
    1. every token of A finds the token of B whose key is most similar to its own (cosine); the class token does not
    2. the r most similar pairs are merged: the mean of their values weighted with s, at B's place; their s are summed
    3. what is left of A comes first, in its order, then B
Attention is proportional to size: softmax(Q K^T / sqrt(d_head) + log s) V. r is at most half of the patches' tokens.

The defaults are those of `visual_tome14`, the patches of TSPM and QA-TIGER, by TSPM's public script (GeWu-Lab/TSPM,
scripts/extract_ToMe/extract_tome14.py): ViT-L/16 at 384 pixels, r = 25 in 23 of 24 blocks, all tokens after the last
norm. 577 tokens become 27 after 22 blocks; the 23rd can merge 13 of these: 14 are left, the class token among them.
Written from the paper and a description of that script; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmamba.encoders.base import FrameEncoder, FrameFeatures
from crossmamba.encoders.egocentric import Attention, Mlp, VitSize
from crossmamba.encoders.remap import rename, select_encoder
from crossmamba.errors import UsageError

__all__ = ["Matching", "ToMeFrames", "match_tokens", "merge_tokens"]


@dataclass(frozen=True)
class Matching:
    """Which tokens of A go where.

    Attributes:
        kept: int64 (N, |A| - r), places in A of the tokens that stay, ascending; the class token is the first.
        source: int64 (N, r), places in A of those that are merged. target: int64 (N, r), places in B to which they go.
    """

    kept: Tensor
    source: Tensor
    target: Tensor


def match_tokens(keys: Tensor, r: int) -> Matching | None:
    """Bipartite soft matching: the r most similar pairs of a token of A and its nearest in B.

    Args:
        keys: (N, L, C), what similarity is measured on, the class token's at place 0.
        r: tokens to merge; at most (L - 1) // 2 are.

    Returns:
        The matching; None if nothing is to be merged.
    """
    r = min(r, (keys.shape[1] - 1) // 2)
    if r <= 0:
        return None
    keys = F.normalize(keys.detach(), dim=-1)
    scores = keys[:, ::2] @ keys[:, 1::2].transpose(1, 2)  # (N, |A|, |B|), cosines
    best, nearest = scores.max(dim=-1)  # (N, |A|)
    best[:, 0] = -torch.inf  # the class token is not merged
    order = best.argsort(dim=-1, descending=True, stable=True)
    source, kept = order[:, :r], order[:, r:].sort(dim=-1).values
    return Matching(kept, source, nearest.gather(1, source))


def merge_tokens(x: Tensor, size: Tensor, matching: Matching) -> tuple[Tensor, Tensor]:
    """x (N, L, d), size (N, L) -> (N, L - r, d), (N, L - r): what is kept of A, then B with what was merged into it."""
    weighted = torch.cat([x * size[..., None], size[..., None]], dim=-1)  # (N, L, d + 1)
    a, b = weighted[:, ::2], weighted[:, 1::2]

    def wide(places: Tensor) -> Tensor:
        return places[..., None].expand(-1, -1, weighted.shape[-1])

    b = b.scatter_add(1, wide(matching.target), a.gather(1, wide(matching.source)))
    merged = torch.cat([a.gather(1, wide(matching.kept)), b], dim=1)
    return merged[..., :-1] / merged[..., -1:], merged[..., -1]


class MergingBlock(nn.Module):
    """Attention proportional to size, merging, MLP; names of the parameters as timm has them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, quick_gelu=False)

    def forward(self, x: Tensor, size: Tensor, r: int) -> tuple[Tensor, Tensor]:
        """x (N, L, d), size (N, L) -> the same with at most r tokens less."""
        q, k, v = self.attn.split(self.norm1(x))  # (N, heads, L, d / heads) each
        bias = size.log()[:, None, None].to(q.dtype)  # (N, 1, 1, L)
        x = x + self.attn.join(F.scaled_dot_product_attention(q, k, v, attn_mask=bias))
        matching = match_tokens(k.mean(1), r)
        if matching is not None:
            x, size = merge_tokens(x, size, matching)
        return x + self.mlp(self.norm2(x)), size


class _Patches(nn.Module):
    """Patches side by side, each a vector."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, frames: Tensor) -> Tensor:
        return self.proj(frames).flatten(2).transpose(1, 2)


class ToMeFrames(FrameEncoder):
    """A ViT that merges its tokens. `tokens` are the class token, then the merged ones; they form no grid.

    Args:
        size: width, depth, heads and patch; ViT-L/16 if None. image: side of the pictures in pixels.
        merged: r of the first blocks; later ones merge nothing.
        freeze: keep the weights as loaded.

    Raises:
        UsageError: an image that is no multiple of the patch, more values of r than blocks, or a negative one.
    """

    published = "hf://timm/vit_large_patch16_384.augreg_in21k_ft_in1k/model.safetensors"

    def __init__(
        self,
        size: VitSize | None = None,
        image: int = 384,
        merged: Sequence[int] = (25,) * 23,
        *,
        freeze: bool = True,
    ) -> None:
        super().__init__(freeze=freeze)
        size = VitSize(1024, 24, 16, 16) if size is None else size
        if image < size.patch or image % size.patch:
            raise UsageError(f"pictures of {image} pixels; expected a multiple of the patch, {size.patch}")
        if len(merged) > size.depth or any(r < 0 for r in merged):
            raise UsageError(f"merged is {tuple(merged)}; expected at most {size.depth} numbers, none below 0")
        self.dim, self.size = size.width, (image, image)
        self.merged = (*merged, *[0] * (size.depth - len(merged)))
        self.patch_embed = _Patches(size.width, size.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (image // size.patch) ** 2, size.width) * 0.02)
        self.blocks = nn.ModuleList(MergingBlock(size.width, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, eps=1e-6)
        self.set_frozen(freeze)

    def look(self, frames: Tensor) -> FrameFeatures:
        """(N, 3, S, S) -> vector (N, d), the class token; tokens (N, 1 + merged patches, d). No grid."""
        x = self.patch_embed(frames)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        size = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
        for block, r in zip(self.blocks, self.merged, strict=True):
            x, size = block(x, size, r)
        tokens = self.norm(x)
        return FrameFeatures(tokens[:, 0], tokens)

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """timm's names are this module's; its classification head is left out."""
        state = select_encoder(state_dict, ())
        return rename(state, lambda key: key, ("head.", "fc_norm."), "timm layout of ViT")
