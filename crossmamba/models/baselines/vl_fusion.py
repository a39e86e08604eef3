"""Fusions to stand where MambaVL has SSM-Fusion: the same call and the same tokens, other mechanisms.

    tokens by modality (B, L_m, d), masks bool (B, L_m)  ->  (B, d)

| name | what meets what |
|---|---|
| `none` | the first modality alone, mean over time |
| `mlp` | means over time, concatenated, two layers (2d -> 2d -> d) |
| `transformer_6x4`, `transformer_12x12` | every token attends to every token of all modalities; layers x heads |
| `concat` | one Mamba over one sequence, the other modalities first and the first one last, which therefore sees them |
| `shared_a`, `separate_a` | `SSMFusion`, with one A or one each: a sum, nothing meets before the heads |
| `cm_mamba` | CM-Mamba scans the first modality, conditioned on the mean of the others |

The paper's Table 3 gives MLP and Transformer the video's class token and RoBERTa's pooled vector only, and Mamba all
tokens (spec §1.6), so it compares inputs as much as fusions. Here all get all tokens.

`none` cannot take the other modalities and says so. In all others a modality may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.cm_mamba import CMMamba
from crossmamba.blocks.layers import DropPath
from crossmamba.blocks.ssm_fusion import (
    PAD_MODES,
    SSMBranch,
    SSMFusion,
    check_choice,
    check_names,
    check_tokens,
    masked_mean,
    mean_of_packed,
    official_init_,
    pack_tokens,
    packing_order,
    sum_terms,
)
from crossmamba.errors import UsageError

VL_FUSIONS = ("none", "mlp", "transformer_6x4", "transformer_12x12", "concat", "shared_a", "separate_a", "cm_mamba")

Masks = Mapping[str, Tensor | None] | None


class TokenFusion(nn.Module):
    """What the fusions here share: names, one width, what padding means.

    Args:
        names: modalities; the first is the one that some fusions treat apart (the video). width: d of all tokens.
        pad_mode: "masked" or "official" (padding is read like any token), see `SSMFusion`.
    """

    additive = False
    """Whether the result is a sum of one term for each modality."""

    def __init__(self, names: Sequence[str], width: int, pad_mode: str = "masked") -> None:
        super().__init__()
        check_choice("pad_mode", pad_mode, PAD_MODES)
        check_names(names)
        self.names, self.width, self.pad_mode = tuple(names), width, pad_mode

    def checked(self, tokens: Mapping[str, Tensor], masks: Masks) -> Mapping[str, Tensor | None]:
        """The masks that count: those given, none with `pad_mode="official"`. UsageError for what does not fit."""
        masks = check_tokens(tokens, masks, dict.fromkeys(self.names, self.width))
        return masks if self.pad_mode == "masked" else {}


class FirstAlone(TokenFusion):
    """The mean over time of the first modality. No parameters."""

    additive = True

    def forward(self, tokens: Mapping[str, Tensor], masks: Masks = None) -> Tensor:
        """(B, L, d) of the first modality alone -> (B, d). UsageError if another one is given, or it is not."""
        return sum_terms(self.terms(tokens, masks))

    def terms(self, tokens: Mapping[str, Tensor], masks: Masks = None) -> dict[str, Tensor]:
        """The mean by name; arguments as `forward`."""
        masks, first = self.checked(tokens, masks), self.names[0]
        if set(tokens) != {first}:
            raise UsageError(
                f"fusion 'none' reads {first} alone, got {', '.join(tokens)}: leave the rest out, or choose "
                f"{', '.join(VL_FUSIONS[1:])}"
            )
        return {first: masked_mean(tokens[first], masks.get(first))}


class MLPFusion(TokenFusion):
    """Means over time side by side, Linear, ReLU, Linear; zeros for a modality that is missing.

    Parameter count for two modalities at d 768 and 1024: 3,541,248 and 6,294,528.
    """

    def __init__(self, names: Sequence[str], width: int, pad_mode: str = "masked") -> None:
        super().__init__(names, width, pad_mode)
        inner = len(self.names) * width
        self.layers = nn.Sequential(nn.Linear(inner, inner), nn.ReLU(), nn.Linear(inner, width))

    def forward(self, tokens: Mapping[str, Tensor], masks: Masks = None) -> Tensor:
        """(B, L_m, d) by name -> (B, d)."""
        masks = self.checked(tokens, masks)
        empty = torch.zeros_like(next(iter(tokens.values()))[:, 0])
        means = [masked_mean(tokens[m], masks.get(m)) if m in tokens else empty for m in self.names]
        return self.layers(torch.cat(means, dim=-1))


class TransformerFusion(TokenFusion):
    """Self-attention over [class token, tokens of modality 1, separator, tokens of modality 2, ...]; the class token's
    result after a norm.

    Layers before which a norm stands, four times as wide inside, exact GELU, no bias on q, k and v; a learned table of
    positions for each modality. With 5,000 positions that has the parameters of the released one to the integer
    (spec §1.6; how its four vectors besides layers and positions are used is inferred), which reads four tokens.

    A mask is exact for padding behind the tokens; tokens that stand behind padding keep the positions where they stand.

    Args:
        layers, heads: 6 and 4, or 12 and 12. positions: longest sequence of one modality. drop_path: of both branches
            of the last layer, growing linearly from 0 at the first.

    Parameter count for two modalities at d 768, 6 and 12 layers: 50,196,480 and 92,709,888.
    """

    def __init__(
        self,
        names: Sequence[str],
        width: int,
        pad_mode: str = "masked",
        *,
        layers: int = 6,
        heads: int = 4,
        positions: int = 5000,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(names, width, pad_mode)
        self.heads, self.positions = heads, positions
        self.cls = nn.Parameter(0.02 * torch.randn(width))
        self.separators = nn.Parameter(0.02 * torch.randn(len(self.names) - 1, width))
        self.places = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(positions, width)) for m in self.names})
        rates = [drop_path * index / max(1, layers - 1) for index in range(layers)]
        self.layers = nn.ModuleList([AttentionLayer(width, heads, rate) for rate in rates])
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Mapping[str, Tensor], masks: Masks = None) -> Tensor:
        """(B, L_m, d) by name -> (B, d). UsageError for more tokens than positions."""
        masks = self.checked(tokens, masks)
        batch = next(iter(tokens.values())).shape[0]
        parts, real = [self.cls.expand(batch, 1, -1)], []
        for index, name in enumerate(self.names):
            if name not in tokens:
                continue
            given = tokens[name]
            if given.shape[1] > self.positions:
                raise UsageError(
                    f"{name} has {given.shape[1]} tokens, this Transformer {self.positions} positions: build it with "
                    f"positions={given.shape[1]}"
                )
            if index:
                parts.append(self.separators[index - 1].expand(batch, 1, -1))
            mask = masks.get(name)
            if mask is not None:
                given = given.masked_fill(~mask[..., None], 0.0)  # NaN in the padding must not spread
            parts.append(given + self.places[name][: given.shape[1]])
            mask = torch.ones_like(given[..., 0], dtype=torch.bool) if mask is None else mask
            real += [mask.any(1, keepdim=True), mask] if index else [mask]  # no separator before nothing
        x, keys = torch.cat(parts, dim=1), None
        if any(mask is not None for mask in masks.values()):
            keys = torch.cat([x.new_ones(batch, 1, dtype=torch.bool), *real], dim=1)[:, None, None]  # (B, 1, 1, S)
        for layer in self.layers:
            x = layer(x, keys)
        return self.norm(x[:, 0])


class AttentionLayer(nn.Module):
    """x + Attention(norm(x)), x + MLP(norm(x)). Width of a head: d / heads, rounded up where that is no whole number.

    Parameter count where heads divide d: 12 d^2 + 10 d; 7,085,568 at d 768.
    """

    def __init__(self, width: int, heads: int, drop_path: float = 0.0) -> None:
        super().__init__()
        inner = heads * -(-width // heads)
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * inner, bias=False), nn.Linear(inner, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, keys: Tensor | None) -> Tensor:
        """x (B, S, d), keys bool (B, 1, 1, S), True at what may be attended to, or None for all -> (B, S, d)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, h, S, .)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        x = x + self.drop_path(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ConcatFusion(TokenFusion):
    """One Mamba over one sequence: the other modalities in their order, then the first, whose scan so begins with what
    the others left in the state. The sum of each modality's mean over its own tokens, as in `SSMFusion`.

    Args:
        options: of `Mamba`. A learned vector for each modality is added to its tokens.

    Parameter count for two modalities at d 768: 3,772,416.
    """

    def __init__(self, names: Sequence[str], width: int, pad_mode: str = "masked", **options: Any) -> None:
        super().__init__(names, width, pad_mode)
        self.kinds = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(width)) for m in self.names})
        self.branch = SSMBranch(width, **options)

    @property
    def order(self) -> tuple[str, ...]:
        """The modalities in the order of the sequence."""
        return (*self.names[1:], self.names[0])

    def forward(self, tokens: Mapping[str, Tensor], masks: Masks = None) -> Tensor:
        """(B, L_m, d) by name -> (B, d)."""
        x, mask, sizes = self.sequence(tokens, masks)
        packed, lengths = pack_tokens(x, mask)
        y = self.branch.inner(packed, lengths=lengths)  # (B, L, D)
        if mask is not None:  # back to the places where the tokens came from
            y = y.gather(1, packing_order(mask).argsort(dim=1)[..., None].expand_as(y))
        masks = [None] * len(sizes) if mask is None else mask.split(sizes, dim=1)
        means = [masked_mean(part, real) for part, real in zip(y.split(sizes, dim=1), masks, strict=True)]
        return self.branch.out_proj(sum(means[1:], means[0]))

    def sequence(self, tokens: Mapping[str, Tensor], masks: Masks = None) -> tuple[Tensor, Tensor | None, list[int]]:
        """The sequence (B, L, d), its mask (B, L) or None if all is real, and how many tokens each modality has."""
        masks = self.checked(tokens, masks)
        there = [m for m in self.order if m in tokens]
        x = torch.cat([tokens[m] + self.kinds[m] for m in there], dim=1)
        sizes = [tokens[m].shape[1] for m in there]
        if all(masks.get(m) is None for m in there):
            return x, None, sizes
        whole = [
            torch.ones_like(tokens[m][..., 0], dtype=torch.bool) if masks.get(m) is None else masks[m] for m in there
        ]
        return x, torch.cat(whole, dim=1), sizes


class CMFusion(TokenFusion):
    """CM-Mamba scans the first modality, guided by a query, which is the mean of the others' means; mean over time,
    plus a linear layer of the query. So another question makes another scan of the same video.

    Without other modalities (or for samples that have none of their tokens) a learned query stands in and there is no
    second term; without the first modality the second term is all.

    A mask on the first modality is exact, and slow: CM-Mamba scans backward too, so samples are scanned one by one.

    Args:
        options: of `CMMamba`. With `guide_norm` (default True here) and larger steps (`dt_min`, `dt_max`) the query is
            heard from the start of training, see blocks/cm_mamba.py.
    """

    def __init__(
        self, names: Sequence[str], width: int, pad_mode: str = "masked", *, guide_norm: bool = True, **options: Any
    ) -> None:
        super().__init__(names, width, pad_mode)
        self.scan = CMMamba(width, width, guide_norm=guide_norm, **options)
        self.unasked = nn.Parameter(0.02 * torch.randn(width))
        self.query_proj = nn.Linear(width, width, bias=False)

    def forward(self, tokens: Mapping[str, Tensor], masks: Masks = None) -> Tensor:
        """(B, L_m, d) by name -> (B, d)."""
        masks, first = self.checked(tokens, masks), self.names[0]
        sample = next(iter(tokens.values()))
        batch, terms = sample.shape[0], {}
        query = self.unasked.expand(batch, -1)
        others = [m for m in self.names[1:] if m in tokens]
        if others:
            means, counts = zip(*[self._mean(tokens[m], masks.get(m)) for m in others], strict=True)
            asked = sum(counts)[:, None]  # (B, 1), how many modalities have tokens
            mean = sum(means) / asked.clamp(min=1)
            query = torch.where(asked > 0, mean, query)
            terms["others"] = self.query_proj(mean)
        if first in tokens:
            terms[first] = self._scanned(query, tokens[first], masks.get(first))
        return sum_terms(terms)

    @staticmethod
    def _mean(tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The mean (B, d), 0 without tokens, and (B,) 1 where there are tokens and 0 elsewhere."""
        there = tokens.new_ones(tokens.shape[0]) if mask is None else mask.any(dim=1).to(tokens.dtype)
        return masked_mean(tokens, mask), there

    def _scanned(self, query: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return mean_of_packed(self.scan(query, tokens), None)
        rows = [self.scan(query[[b]], tokens[[b]][:, mask[b]]) for b in range(len(tokens))]
        return torch.cat([mean_of_packed(row, None) for row in rows])


def build_vl_fusion(
    name: str,
    names: Sequence[str],
    width: int,
    *,
    init: str = "paper",
    pad_mode: str = "masked",
    drop_path: float = 0.0,
    positions: int = 5000,
    pool_first: bool = True,
    guide_norm: bool = True,
    **scan: Any,
) -> SSMFusion | TokenFusion:
    """A fusion of `VL_FUSIONS`; each takes of the options what concerns it.

    Args:
        names: modalities, first the one that "none", "concat" and "cm_mamba" treat apart. width: of all tokens.
        init, pad_mode: see `SSMFusion`. positions: of the Transformers. pool_first: of `SSMFusion`. guide_norm: of
            "cm_mamba". drop_path: of the Transformers' layers, and of `SSMFusion`'s terms.
        scan: of Mamba, for all that scan: d_state, d_conv, expand, dt_rank, dt_min, dt_max, ... backend.

    Raises:
        UsageError: an unknown name, or options that do not fit.
    """
    if name in ("shared_a", "separate_a"):
        share = name == "shared_a"
        extra = {"pad_mode": pad_mode, "pool_first": pool_first, "drop_path": drop_path}
        return SSMFusion(dict.fromkeys(names, width), width, share_a=share, init=init, **extra, **scan)
    if name in ("transformer_6x4", "transformer_12x12"):
        layers, heads = (6, 4) if name == "transformer_6x4" else (12, 12)
        size = {"layers": layers, "heads": heads, "positions": positions, "drop_path": drop_path}
        made: TokenFusion = TransformerFusion(names, width, pad_mode, **size)
    elif name == "cm_mamba":
        made = CMFusion(names, width, pad_mode, guide_norm=guide_norm, **scan)
    elif name == "concat":
        made = ConcatFusion(names, width, pad_mode, **scan)
    else:
        check_choice("fusion", name, VL_FUSIONS)
        made = (FirstAlone if name == "none" else MLPFusion)(names, width, pad_mode)
    if init == "official":
        official_init_(made)
    return made
