"""AV-Mamba: audio-visual question answering with CM-Mamba (Huang et al., CVPR 2024 workshop "Sight and Sound").

Symbols (paper -> here):
    f_a      sound    (V, T, D)          one vector a second             f_q   asked  (B, D)
    f_v^t    picture  (V, T, h, w, D)    each frame's patches            D     width
    Fig. 3   `ground` (spatial grounding, once a video)                  Fig. 4   `time` (temporal grounding)

The paper is four pages and states neither widths nor a recipe. Where each value comes from (spec §1):
    stated          LSTM question encoder, VGGish sound, CLIP picture, 10 frames of 60 s; two CM-Mambas in space, one
                    for each modality in time; tier 1 of the latter scans Linear(s_a) + Linear(s_v); Table 2's rows
    from AVST       width 512, the question encoder, Linear-ReLU-Linear on the sound, the combination with the mean of
                    the grid, the mean added after temporal grounding, head, dropout 0.1 and 4 heads of its attention
    our default     CLIP ViT-B/32's 7 x 7 patches, CM-Mamba width 256 with Mamba's N 16, expand 2 and kernel 4, norm and
                    residual, mean over the grid; which inputs "CM II" has (the text lost a sentence), and "cm4"
    `av_mamba_small` is ours altogether.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.cm_mamba import CMMamba
from crossmamba.blocks.grounding import (
    AttentionTime,
    AveragePool,
    CMSpace,
    CMTime,
    FusedSequence,
    GroundedPicture,
    OwnSequence,
    QuestionScan,
    WeightedPool,
    linear_or_identity,
)
from crossmamba.encoders.text import build_question_input
from crossmamba.errors import UsageError
from crossmamba.models.avqa import (
    ANSWERS,
    AVQAModel,
    Fused,
    build_audio_input,
    build_head,
    build_merge,
    build_visual_input,
)
from crossmamba.models.registry import register_model

TIERS = {
    "cm1": (OwnSequence, OwnSequence),
    "cm2": (OwnSequence, FusedSequence),
    "cm3": (FusedSequence, OwnSequence),
    "cm4": (FusedSequence, FusedSequence),
}
"""What the two tiers of the temporal CM-Mambas scan: s_i or s_av. cm3 is the paper's model, cm1 its "CM I"; cm2 is the
likely meaning of "CM II" (spec §1.3), cm4 the combination that is left."""

TABLE_2 = {
    "AP/CA": {"space": "average", "time": "attention"},
    "WP/CA": {"space": "weighted", "time": "attention"},
    "CM/CA": {"space": "cm", "time": "attention"},
    "CM/CM I": {"space": "cm", "time": "cm1"},
    "CM/CM II": {"space": "cm", "time": "cm2"},
    "CM/CM III": {"space": "cm", "time": "cm3"},
}
"""Rows of the paper's Table 2 (spatial / temporal grounding) as overrides of `av_mamba` and `av_mamba_small`."""


class AVMamba(AVQAModel):
    """The paper's Fig. 1. Built by `av_mamba` from plain values; here the parts are passed in.

    Args:
        inputs: `audio`, `visual`, `question`, `head`, `merge` of `AVQAModel`.
        audio_proj, visual_proj: to the width D. ground: `GroundedPicture`. time: a time module of `blocks.grounding`.
        join: (B, 2 D) -> (B, D).
    """

    def __init__(
        self,
        *inputs: Any,
        audio_proj: nn.Module,
        visual_proj: nn.Module,
        ground: GroundedPicture,
        time: nn.Module,
        join: nn.Module,
    ) -> None:
        super().__init__(*inputs)
        self.audio_proj, self.visual_proj = audio_proj, visual_proj
        self.ground, self.time, self.join = ground, time, join

    def fuse(self, audio: Tensor, visual: Tensor, question: Tensor, video: Tensor) -> Fused:
        """See `AVQAModel.fuse`."""
        sound, picture = self.audio_proj(audio), self.visual_proj(visual)
        seen, where = self.ground(sound, picture)  # (V, T, D), (V, T, h, w)
        heard, looked, attention = self.time(question, sound[video], seen[video])  # (B, D) each
        if where is not None:
            attention = {**attention, "spatial": where[video]}
        return Fused(self.join(torch.tanh(torch.cat([heard, looked], dim=-1))), attention=attention)


def check_grid(grid: Any) -> tuple[int, int]:
    """(rows, columns) of a coarser picture. UsageError for anything but two whole numbers above 0."""
    if not isinstance(grid, Sequence) or len(grid) != 2 or any(type(n) is not int or n < 1 for n in grid):
        raise UsageError(f"picture_grid is {grid!r}; expected two whole numbers above 0, such as [4, 4]")
    return grid[0], grid[1]


class GridPool(nn.Module):
    """Means over the cells of a coarser grid: the scans in space cost as much as there are cells.

    Args:
        grid: (h, w) of the result.
    """

    def __init__(self, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = check_grid(grid)

    def forward(self, picture: Tensor) -> Tensor:
        """(V, T, h, w, C) -> (V, T, *grid, C). UsageError for a picture that is coarser already."""
        if picture.shape[2] < self.grid[0] or picture.shape[3] < self.grid[1]:
            raise UsageError(f"a picture of {tuple(picture.shape[2:4])} cells has no {self.grid}: lower picture_grid")
        cells = F.adaptive_avg_pool2d(picture.flatten(0, 1).movedim(-1, 1), self.grid)  # (V*T, C, *grid)
        return cells.movedim(1, -1).unflatten(0, picture.shape[:2])


def sound_projection(dim: int, width: int) -> nn.Sequential:
    """AVST's Linear, ReLU, Linear on a sound vector: 328,704 parameters from 128 to 512."""
    return nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, width))


def normed(projection: nn.Module, width: int, norm: bool) -> nn.Module:
    """A projection with LayerNorm behind it, for features of any scale (ours); as it is without `norm`.

    Without norms and with larger step sizes `av_mamba_small` with CM over time stayed for 12 passes at what the
    question alone can answer on the concert world, whose stored sound has a standard deviation of 4.3 (one seed).
    """
    return nn.Sequential(projection, nn.LayerNorm(width)) if norm else projection


def build_space(name: str, width: int, cm_width: int, **options: Any) -> nn.Module:
    """The spatial grounding "average", "weighted" or "cm" (with `CMMamba`'s options)."""
    if name == "cm":
        return CMSpace(width, cm_width, **options)
    if name not in ("average", "weighted"):
        raise UsageError(f"space is 'average', 'weighted' or 'cm', not {name!r}")
    return AveragePool() if name == "average" else WeightedPool()


def build_time(
    name: str, width: int, cm_width: int, *, heads: int, dropout: float, norm: bool = False, **options: Any
) -> nn.Module:
    """The temporal grounding "attention" (heads, dropout) or "cm1" to "cm4" (norm, `CMMamba`'s options)."""
    if name == "attention":
        return AttentionTime(width, heads, dropout)
    if name not in TIERS:
        raise UsageError(f"time is 'attention' or one of {', '.join(TIERS)}, not {name!r}")

    def scan() -> QuestionScan:
        first, second = (tier(width, cm_width) for tier in TIERS[name])
        leave = normed(linear_or_identity(cm_width, width), width, norm)
        return QuestionScan(first, second, CMMamba(cm_width, width, **options), leave)

    return CMTime(scan(), scan())


def av_mamba(
    *,
    audio_input: str = "features",
    audio_dim: int = 128,
    audio_args: dict[str, Any] | None = None,
    visual_input: str = "features",
    visual_dim: int = 512,
    visual_args: dict[str, Any] | None = None,
    picture_grid: tuple[int, int] | None = None,
    question_input: str = "lstm",
    question_dim: int = 512,
    words: int = 93,
    packed: bool = False,
    head: str = "answers",
    merge: str = "product",
    answers: int = ANSWERS,
    extra_norms: bool = False,
    width: int = 512,
    space: str = "cm",
    time: str = "cm3",
    cm_width: int = 256,
    d_state: int = 16,
    expand: int = 2,
    dt_rank: int | str = "auto",
    cm_args: dict[str, Any] | None = None,
    heads: int = 4,
    dropout: float = 0.1,
) -> AVMamba:
    """Builds AV-Mamba: the paper's model by default; every row of its Table 2 is a value (`TABLE_2`).

    Args:
        audio_input: "features" (stored vectors of `audio_dim` numbers), or a sound encoder ("vggish", "small_sound")
            with `audio_args`, on log-mel.
        visual_input: "features" (stored grids or vectors of `visual_dim` channels), or a picture encoder with
            `visual_args`, on frames. A linear layer follows where the channels are not `width`.
        picture_grid: take the means over so many cells of the picture; None takes it as it comes.
        question_input: "lstm" (`words`, `packed`) or "features" (stored vectors of `question_dim` numbers).
        head: "answers" (`answers` fixed ones) or "choices" (given with each question).
        merge: of feature and question, "product" (AVST) or "network" (`NetworkMerge`, ours, for narrow models).
        extra_norms: LayerNorm on the projected sound and picture, and on what CM-Mamba leaves of each modality over
            time (see `normed`). With attention over time the latter has a norm as AVST's.
        width: D. space: "average", "weighted" or "cm". time: "attention" or "cm1" to "cm4" (see `TIERS`).
        cm_width, d_state, expand, dt_rank, cm_args: of the CM-Mambas; `cm_args` may hold norm, residual, cond_conv,
            unflip, d_conv and the like (see `CMMamba`).
        heads, dropout: of the attention.

    Raises:
        UsageError: an unknown value; the message names the allowed ones.
    """
    audio = build_audio_input(audio_input, audio_dim, **(audio_args or {}))
    visual = build_visual_input(visual_input, visual_dim, **(visual_args or {}))
    see = linear_or_identity(visual.dim, width)
    if picture_grid is not None:
        see = nn.Sequential(GridPool(picture_grid), see)
    scan = {"d_state": d_state, "expand": expand, "dt_rank": dt_rank, **(cm_args or {})}
    return AVMamba(
        audio,
        visual,
        build_question_input(question_input, width, words=words, dim=question_dim, packed=packed),
        build_head(head, width, answers),
        build_merge(merge, width),
        audio_proj=normed(sound_projection(audio.dim, width), width, extra_norms),
        visual_proj=normed(see, width, extra_norms),
        ground=GroundedPicture(width, build_space(space, width, cm_width, **scan)),
        time=build_time(time, width, cm_width, heads=heads, dropout=dropout, norm=extra_norms, **scan),
        join=nn.Linear(2 * width, width),
    )


register_model("av_mamba", av_mamba)
register_model(
    "av_mamba_small",
    av_mamba,
    audio_dim=64,
    visual_dim=64,
    merge="network",
    packed=True,
    extra_norms=True,
    width=64,
    cm_width=48,
    d_state=8,
    expand=1,
    cm_args={"guide_norm": True},
)
