"""CM-Mamba: a two-tier selective scan of a sequence, guided by a query (AV-Mamba, CVPR 2024 workshop, §2.2.2).

Symbols (paper -> here):
    s, L       sequence (B, L, C) and its length; each tier may scan a sequence of its own
    q          query (B, C_q)          s'  result of tier 1 (B, L, C)          O  result of tier 2 (B, L, C)
    D          expand * C inner channels of a mixer      N  d_state      R  rank of Δ      r  what conditions a mixer
    P1..P4     (B, C, Δ) of the four mixers, none of them shared: P1, P2 <- q;  P3, P4 <- s'

        s' = Mamba1(s, P1) + Mamba2(reverse(s), P2)       O = Mamba3(s, P3) + Mamba4(reverse(s), P4)

The query does not change along the sequence, so tier 1 is time-invariant for a fixed query: its Δ, B and C have
length 1, and the scan takes its time-invariant form. In tier 2 they change from token to token.

What the paper prints and what it leaves open (spec §1.1), with the options of `CMMamba`:
    stated         four parameter sets; tier 1 from q alone; tier 2 scans s again, s' only makes B, C and Δ
    inferred       a Mamba is the whole Mamba-1 mixer, where only the input of x_proj is replaced by the condition
    `unflip`       the printed sum adds token t to token L-1-t of the reversed scan; True (default) turns it back first
    `dt_rank`      the paper's preliminaries have rank 1 (Broadcast(Linear_1)), Mamba's code ceil(C / 16) ("auto", which
                   is the default)
    `norm`, `residual`, `cond_conv`, and Mamba-1's N, expand, kernel and starting values: not stated, our defaults
    `guide_norm`   ours, off by default. s' is small at the start, and so are Mamba's first step sizes (0.001 to 0.1):
                   another query moves O by a millionth of its size (C 64, N 8, L 10). With a LayerNorm on s' and
                   step sizes of 0.1 to 1 (`dt_min`, `dt_max`) it is 3 %; tests/blocks/test_cm_mamba.py measures it
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.layers import CausalConv1d
from crossmamba.blocks.mamba import Mamba
from crossmamba.ops import selective_scan_fn


class ConditionalMamba(Mamba):
    """The Mamba-1 mixer with Δ, B and C made of a condition in place of its own sequence.

    Condition -> Linear (no bias) -> D -> x_proj -> (Δ, B, C). Everything else, and the parameters' names, as `Mamba`.

    Args:
        d_model: C. d_condition: width of the condition, C if None. reverse: from the last token to the first; the
            result is in token order all the same. cond_conv: a causal convolution and SiLU on a condition that is a
            sequence, as on Mamba's own sequence. options: of `Mamba`.

    Parameter count at C = C_q = 128, 256, 512 with Mamba's defaults: 149,248, 568,832, 2,219,008.
    """

    def __init__(
        self,
        d_model: int,
        d_condition: int | None = None,
        *,
        reverse: bool = False,
        cond_conv: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(d_model, **options)
        factory = {"device": options.get("device"), "dtype": options.get("dtype")}
        self.reverse = reverse
        self.cond_proj = nn.Linear(d_model if d_condition is None else d_condition, self.d_inner, bias=False, **factory)
        self.cond_conv = CausalConv1d(self.d_inner, self.d_conv, **factory) if cond_conv else None

    def forward(self, sequence: Tensor, condition: Tensor) -> Tensor:
        """sequence (B, L, C), condition (B, C_q) for the whole sequence or (B, L, C_q) token by token -> (B, L, C)."""
        x, z = self.in_proj(sequence).chunk(2, dim=-1)  # (B, L, D) each
        x = F.silu(self._convolve(self.conv1d, x))
        return self.out_proj(self.scan(x, z, self.source(condition)))

    def source(self, condition: Tensor) -> Tensor:
        """What x_proj reads: (B, C_q) -> (B, 1, D), or (B, L, C_q) -> (B, L, D)."""
        if condition.dim() == 2:
            return self.cond_proj(condition[:, None])
        source = self.cond_proj(condition)
        return source if self.cond_conv is None else F.silu(self._convolve(self.cond_conv, source))

    def selection(self, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """source (B, L or 1, D) -> Δ before bias and softplus (B, L or 1, D), B and C (B, L or 1, N)."""
        dt, B, C = self.x_proj(source).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return F.linear(dt, self.dt_proj.weight), B, C

    def scan(self, x: Tensor, z: Tensor, source: Tensor) -> Tensor:
        """The scan of x (B, L, D) with gate z (B, L, D), conditioned on source (B, L or 1, D) -> (B, L, D)."""
        delta, B, C = self.selection(source)
        y = selective_scan_fn(
            x.transpose(1, 2),
            delta.transpose(1, 2),
            -_float(self.A_log).exp(),
            B.transpose(1, 2),
            C.transpose(1, 2),
            _float(self.D),
            z=z.transpose(1, 2),
            delta_bias=_float(self.dt_proj.bias),
            delta_softplus=True,
            reverse=self.reverse,
            backend=self.backend,
        )
        assert isinstance(y, Tensor)
        return y.transpose(1, 2)

    def _convolve(self, conv: CausalConv1d, x: Tensor) -> Tensor:
        """The convolution in this mixer's direction: for `reverse` each token sees itself and what follows it."""
        last, length = conv.kernel_size[0] - 1, x.shape[1]
        weight = conv.weight.flip(-1) if self.reverse else conv.weight
        if length == 0:
            return x
        if x.is_cuda:
            y = F.conv1d(x.transpose(1, 2), weight, conv.bias, padding=last, groups=conv.groups)
        else:  # channels last as a picture of height 1: no copy there and back, 40 % less time
            maps = x.transpose(1, 2)[:, :, None]
            y = F.conv2d(maps, weight[:, :, None], conv.bias, padding=(0, last), groups=conv.groups)[:, :, 0]
        y = y[..., last:] if self.reverse else y[..., :length]
        return y.transpose(1, 2)


class CMMamba(nn.Module):
    """A sequence, guided by a query through two tiers of two conditional Mambas each (paper Fig. 2).

    Args:
        d_model: C. d_query: C_q, C if None.
        norm: LayerNorm on both sequences (one for both tiers: every mixer has its own in_proj behind it) and on the
            query. residual: add tier 2's sequence to the result. guide_norm: LayerNorm on s' too.
        cond_conv: see `ConditionalMamba`; only in tier 2, whose condition is a sequence.
        unflip: turn the reversed scans' results back before they are added; False is the formula as printed.
        options: of `Mamba`: d_state, d_conv, expand, dt_rank, ... backend.

    Parameter count at C = C_q = 128, 256, 512, no norm: 596,992, 2,275,328, 8,876,032; the norms add 2 C + 2 C_q,
    guide_norm 2 C.
    """

    def __init__(
        self,
        d_model: int,
        d_query: int | None = None,
        *,
        norm: bool = True,
        residual: bool = True,
        guide_norm: bool = False,
        cond_conv: bool = False,
        unflip: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        d_query = d_model if d_query is None else d_query
        self.unflip, self.residual = unflip, residual
        self.norm = nn.LayerNorm(d_model) if norm else nn.Identity()
        self.query_norm = nn.LayerNorm(d_query) if norm else nn.Identity()
        self.guide_norm = nn.LayerNorm(d_model) if guide_norm else nn.Identity()
        self.mamba1 = ConditionalMamba(d_model, d_query, **options)
        self.mamba2 = ConditionalMamba(d_model, d_query, reverse=True, **options)
        self.mamba3 = ConditionalMamba(d_model, d_model, cond_conv=cond_conv, **options)
        self.mamba4 = ConditionalMamba(d_model, d_model, cond_conv=cond_conv, reverse=True, **options)

    @classmethod
    def paper_literal(cls, d_model: int, d_query: int | None = None, **options: Any) -> CMMamba:
        """The formulas as printed: nothing turned back, no norm, no residual, Δ of rank 1."""
        return cls(d_model, d_query, **{"norm": False, "residual": False, "unflip": False, "dt_rank": 1, **options})

    def forward(self, query: Tensor, first: Tensor, second: Tensor | None = None) -> Tensor:
        """query (B, C_q), first (B, L, C) and second (B, L, C): the sequences of the tiers, second = first if None.

        Returns:
            O (B, L, C).

        Raises:
            ValueError: shapes that do not fit each other.
        """
        self._check(query, first, second)
        residual = first if second is None else second
        first = self.norm(first)
        second = first if second is None else self.norm(second)
        guide = self.guide_norm(self.tier1(self.query_norm(query), first))  # s'
        out = self.mamba3(second, guide) + self._turned(self.mamba4(second, guide))
        return residual + out if self.residual else out

    def tier1(self, query: Tensor, first: Tensor) -> Tensor:
        """s' (B, L, C) of a (normalised) query and sequence."""
        return self.mamba1(first, query) + self._turned(self.mamba2(first, query))

    def _turned(self, backward: Tensor) -> Tensor:
        """A reversed mixer's result, which is in token order: as it is, or in the order in which it was made."""
        return backward if self.unflip else backward.flip(1)

    @staticmethod
    def _check(query: Tensor, first: Tensor, second: Tensor | None) -> None:
        if query.dim() != 2 or first.dim() != 3 or query.shape[0] != first.shape[0]:
            raise ValueError(
                f"query is (B, C_q) and the sequence (B, L, C), got {tuple(query.shape)} and {tuple(first.shape)}"
            )
        if second is not None and second.shape != first.shape:
            raise ValueError(f"both tiers' sequences have one shape, got {tuple(first.shape)}, {tuple(second.shape)}")


def _float(parameter: Tensor) -> Tensor:
    """float32, or float64 where the parameter is float64: what the state is computed in."""
    return parameter.to(torch.promote_types(parameter.dtype, torch.float32))
