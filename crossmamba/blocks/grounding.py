"""Grounding of audio-visual question answering: where in each picture (by its sound), and when (by the question).

Symbols:
    N videos or questions, T seconds, (h, w) picture grid, D model width, C width of the CM-Mamba blocks
    sound    f_a (N, T, D)    picture f_v (N, T, h, w, D)    asked f_q (N, D)

Space modules: `module(sound, picture)` -> `(grounded (N, T, D), weights (N, T, h, w) or None)`.
Time modules:  `module(asked, sound, seen)` with seen (N, T, D) -> `(sound (N, D), seen (N, D), weights)`, where weights
are the attention of each modality over time, {"audio": (N, T), "visual": (N, T)}, or empty.

Sources: AV-Mamba §2.2.2 and Table 2 (its rows AP, WP, CM for space; CA, CM I, II, III for time), AVST's public code in
words (spec §1.2 to 1.4). What no source states is marked "ours".
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.cm_mamba import CMMamba


class AveragePool(nn.Module):
    """AP: the mean over the grid; the sound has no say."""

    def forward(self, sound: Tensor, picture: Tensor) -> tuple[Tensor, None]:
        """See the top of the file."""
        return picture.mean(dim=(2, 3)), None


class WeightedPool(nn.Module):
    """WP, AVST's spatial grounding: softmax over the grid of cosine similarity with the second's sound, no temperature.

    The weights sum the normalised patches, as released, not the patches themselves.
    """

    def forward(self, sound: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """See the top of the file."""
        patches = F.normalize(picture.flatten(2, 3), dim=-1)  # (N, T, h*w, D)
        similarity = torch.einsum("ntpd,ntd->ntp", patches, F.normalize(sound, dim=-1))
        weights = similarity.softmax(dim=-1)
        return torch.einsum("ntp,ntpd->ntd", weights, patches), weights.unflatten(2, picture.shape[2:4])


class CMSpace(nn.Module):
    """CM: two CM-Mambas over each frame's tokens, row by row and column by column, with that second's sound as query.

    Stated: the query, the sequence, the two modules. Ours: the results are summed in row order (as VMamba merges its
    scans), then averaged over the grid; a linear layer in and out where D and C differ.

    Args:
        width: D. cm_width: C. options: of `CMMamba`.
    """

    def __init__(self, width: int, cm_width: int | None = None, **options: Any) -> None:
        super().__init__()
        inner = cm_width or width
        self.enter = linear_or_identity(width, inner)
        self.horizontal = CMMamba(inner, width, **options)
        self.vertical = CMMamba(inner, width, **options)
        self.leave = linear_or_identity(inner, width)

    def forward(self, sound: Tensor, picture: Tensor) -> tuple[Tensor, None]:
        """See the top of the file."""
        return self.leave(self.tokens(sound, picture).mean(dim=(2, 3))), None

    def tokens(self, sound: Tensor, picture: Tensor) -> Tensor:
        """The grounded grid before pooling (N, T, h, w, C)."""
        size = picture.shape[:4]
        query = sound.flatten(0, 1)  # (N*T, D)
        frames = self.enter(picture).flatten(0, 1)  # (N*T, h, w, C)
        rows = self.horizontal(query, frames.flatten(1, 2))  # (N*T, h*w, C)
        columns = self.vertical(query, frames.transpose(1, 2).flatten(1, 2))  # (N*T, w*h, C)
        columns = columns.unflatten(1, (size[3], size[2])).transpose(1, 2)  # (N*T, h, w, C)
        return (rows.unflatten(1, size[2:]) + columns).unflatten(0, size[:2])


class QuestionAttention(nn.Module):
    """CA of one modality: AVST's attention of the question to a sequence, a small network, LayerNorm, plus the mean.

    x = MHA(q, s, s); x = LayerNorm(x + dropout(W2 dropout(relu(W1 x)))); result x + mean_t s. There is no residual
    around the attention, as released.

    Args:
        width: D. heads: 4 in AVST. dropout: 0.1 in AVST.

    Parameter count at D 512: 1,576,960.
    """

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.network = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, asked: Tensor, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """asked (N, D), sequence (N, T, D) -> (N, D), and the weights over time (N, T), the mean of the heads."""
        x, weights = self.attention(asked[:, None], sequence, sequence)  # (N, 1, D), (N, 1, T)
        x = x[:, 0]
        return self.norm(x + self.network(x)) + sequence.mean(dim=1), weights[:, 0]


class AttentionTime(nn.Module):
    """CA: `QuestionAttention` for each modality, with parameters of its own."""

    def __init__(self, width: int, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        self.audio = QuestionAttention(width, heads, dropout)
        self.visual = QuestionAttention(width, heads, dropout)

    def forward(self, asked: Tensor, sound: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """See the top of the file."""
        heard, audio_weights = self.audio(asked, sound)
        looked, visual_weights = self.visual(asked, seen)
        return heard, looked, {"audio": audio_weights, "visual": visual_weights}


class OwnSequence(nn.Module):
    """A tier's input s_i: the modality's own sequence, brought to the CM-Mamba's width."""

    def __init__(self, width: int, cm_width: int) -> None:
        super().__init__()
        self.own = linear_or_identity(width, cm_width)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """own, other (N, T, D) -> (N, T, C)."""
        return self.own(own)


class FusedSequence(nn.Module):
    """A tier's input s_av = Linear(s_a) + Linear(s_v). Each CM-Mamba has its own pair of layers (ours)."""

    def __init__(self, width: int, cm_width: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(width, cm_width), nn.Linear(width, cm_width)

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """own, other (N, T, D) -> (N, T, C)."""
        return self.own(own) + self.other(other)


class QuestionScan(nn.Module):
    """CM of one modality: a CM-Mamba over time with the question as query; the mean over time plus the raw mean.

    Args:
        first, second: what each tier scans (`OwnSequence` or `FusedSequence`). scan: the CM-Mamba. leave: from its
            width to D. The sum `mean_t O + mean_t f` follows AVST's cross-attention (ours: the paper is silent).
    """

    def __init__(self, first: nn.Module, second: nn.Module, scan: CMMamba, leave: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.scan, self.leave = first, second, scan, leave

    def forward(self, asked: Tensor, own: Tensor, other: Tensor) -> Tensor:
        """asked (N, D), own and other modality (N, T, D) -> (N, D)."""
        out = self.scan(asked, self.first(own, other), self.second(own, other))  # (N, T, C)
        return self.leave(out.mean(dim=1)) + own.mean(dim=1)


class CMTime(nn.Module):
    """CM: a `QuestionScan` for each modality."""

    def __init__(self, audio: QuestionScan, visual: QuestionScan) -> None:
        super().__init__()
        self.audio, self.visual = audio, visual

    def forward(self, asked: Tensor, sound: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """See the top of the file."""
        return self.audio(asked, sound, seen), self.visual(asked, seen, sound), {}


class GroundedPicture(nn.Module):
    """One vector a frame from what is there and what sounds: Linear(tanh(cat(mean of the grid, grounded))) (AVST).

    Args:
        width: D. space: a space module.
    """

    def __init__(self, width: int, space: nn.Module) -> None:
        super().__init__()
        self.space, self.combine = space, nn.Linear(2 * width, width)

    def forward(self, sound: Tensor, picture: Tensor) -> tuple[Tensor, Tensor | None]:
        """sound (N, T, D), picture (N, T, h, w, D) -> (N, T, D), and the space module's weights."""
        grounded, weights = self.space(sound, picture)
        both = torch.cat([picture.mean(dim=(2, 3)), grounded], dim=-1)
        return self.combine(torch.tanh(both)), weights


def linear_or_identity(incoming: int, outgoing: int) -> nn.Module:
    """A linear layer where the widths differ, nothing where they are equal (as AVST, whose features are D wide)."""
    return nn.Identity() if incoming == outgoing else nn.Linear(incoming, outgoing)
