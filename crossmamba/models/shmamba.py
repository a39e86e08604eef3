"""SHMamba: structured hyperbolic state-space model for audio-visual question answering (arXiv 2406.09833, TASLP 33).

The paper's body was not at hand, only its abstract and a summary. So this is a model after its description and not a
reproduction of its numbers: width, T, the CLIP model, k0, the loss' weights and form, and the recipe are not known.

Stated in the source, and fixed here:
    features    VGGish sound, CLIP picture, CLIP question; then "linear encoding"
    curvature   k < 0;  k = k0 sigmoid(MLP(K_av)), the MLP a linear layer, K_av sound and picture concatenated
    ball        Poincaré ball, reached by exponential map and projection
    loss        a hyperbolic alignment loss plus cross-entropy
    time        four Mamba blocks for sound and picture; sharing them is named as a trade-off
    fusion      a cross fusion block of gating and convolution, against redundant features
    answer      a linear classifier
    order       features, encoding, ball and alignment, Mamba, cross fusion, answer

Not stated, so ours, each an argument of `shmamba` unless it says "always":
    encoders    one Linear each, to D = 256 (`width`); a picture grid is averaged to one vector (`picture_grid`)
    curvature   k = -c, c = c_min + k0 sigmoid(.), k0 1, c_min 1e-3, one c a video; K_av the mean over time (always)
    ball        tangent vectors clipped to 2 / sqrt(c) (always); the Mamba blocks read log0 of the points (`space`)
    loss        InfoNCE on the distance of each video's two points, weight 0.1 (`alignment`, `alignment_weight`). The
                spec proposes the bare mean distance of a second's two points; nothing in that keeps different videos
                apart, and `shmamba_small` collapsed under it: every video became one point, and only the question
                spoke (README). Whether the paper's loss has negatives is not known
    time        two blocks a modality, own weights (`share`); Mamba-1 behind RMSNorm with residual (always)
    fusion      the formulas below (`fusion`, `gates`), then the mean over time (always)
    question    product with the fused vector, then tanh, as in AVST (`merge`); a word encoder (`question_input`)
    answer      42 answers, or scores of given choices for AVQA (`head`)

Symbols:
    V videos, B questions, T seconds, D width      a, v  (V, T, D) sound, picture     q  (B, D) question
    cross fusion:   g_a = sigmoid(W [a; v]),  g_v = 1 - g_a  (or a gate of its own)
                    a' = a + g_a Conv(v),  v' = v + g_v Conv(a),  Conv depth-wise over 3 seconds, then point-wise
                    f = W_f [mean_t a'; mean_t v']
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.alignment import HyperbolicAlignment, NoAlignment, build_alignment
from crossmamba.blocks.mamba import Mamba
from crossmamba.encoders.text import LSTMQuestion, VectorQuestion, build_question_input
from crossmamba.errors import UsageError
from crossmamba.models.av_mamba import check_grid
from crossmamba.models.avqa import (
    ANSWERS,
    AnswerHead,
    AVQAModel,
    ChoiceHead,
    EncodedPicture,
    EncodedSound,
    Fused,
    NetworkMerge,
    ProductMerge,
    StoredPicture,
    StoredSound,
    build_audio_input,
    build_head,
    build_merge,
    build_visual_input,
)
from crossmamba.models.registry import register_model

SHARES = ("none", "across_modality", "all")


class PictureVector(nn.Module):
    """A picture's grid as one vector: the mean of each cell of a coarse grid, side by side, and a linear layer.

    Args:
        channels: C. width: D. grid: (1, 1) is the mean over the picture; a finer one keeps where things are.
    """

    def __init__(self, channels: int, width: int, grid: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.grid = check_grid(grid)
        self.linear = nn.Linear(channels * self.grid[0] * self.grid[1], width)

    def forward(self, visual: Tensor) -> Tensor:
        """(V, T, h, w, C) -> (V, T, D).

        Raises:
            UsageError: the picture's grid is coarser than the cells asked for.
        """
        if visual.shape[2] < self.grid[0] or visual.shape[3] < self.grid[1]:
            raise UsageError(f"a picture of {tuple(visual.shape[2:4])} cells has no {self.grid}: lower picture_grid")
        if self.grid == (1, 1):
            return self.linear(visual.mean((2, 3)))
        cells = F.adaptive_avg_pool2d(visual.flatten(0, 1).permute(0, 3, 1, 2), self.grid)  # (V*T, C, rows, columns)
        return self.linear(cells.flatten(1).unflatten(0, visual.shape[:2]))


class ResidualMamba(nn.Module):
    """x + Mamba(RMSNorm(x))."""

    def __init__(self, width: int, **mamba: Any) -> None:
        super().__init__()
        self.norm, self.mamba = nn.RMSNorm(width, eps=1e-5), Mamba(width, **mamba)

    def forward(self, x: Tensor) -> Tensor:
        """(V, T, D) -> (V, T, D)."""
        return x + self.mamba(self.norm(x))


class TemporalMamba(nn.Module):
    """A stack of blocks for each modality; the same block may stand at several places (shared weights).

    Args:
        audio, visual: blocks in order.
    """

    def __init__(self, audio: list[nn.Module], visual: list[nn.Module]) -> None:
        super().__init__()
        self.audio, self.visual = nn.Sequential(*audio), nn.Sequential(*visual)

    def forward(self, a: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """(V, T, D) each -> the same shapes."""
        return self.audio(a), self.visual(v)


class TimeConv(nn.Module):
    """Depth-wise convolution over 3 seconds (padded with zeros), then point-wise."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.pointwise = nn.Conv1d(width, width, 3, padding=1, groups=width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(V, T, D) -> (V, T, D)."""
        return self.pointwise(self.depthwise(x.transpose(1, 2)).transpose(1, 2))


class CrossFusion(nn.Module):
    """Each modality takes a gated, convolved part of the other; the means over time become one vector.

    Args:
        width: D. gates: "complement" (g_v = 1 - g_a: at every second and channel one modality gives what the other
            does not) or "independent".

    Raises:
        ValueError: unknown gates.
    """

    def __init__(self, width: int, gates: str = "complement") -> None:
        super().__init__()
        if gates not in ("complement", "independent"):
            raise ValueError(f"gates are 'complement' or 'independent', not {gates!r}")
        self.complement = gates == "complement"
        self.gate = nn.Linear(2 * width, width if self.complement else 2 * width)
        self.from_visual, self.from_audio = TimeConv(width), TimeConv(width)
        self.out = ConcatFusion(width)

    def forward(self, a: Tensor, v: Tensor) -> Tensor:
        """(V, T, D), (V, T, D) -> (V, D)."""
        gate = torch.sigmoid(self.gate(torch.cat([a, v], dim=-1)))
        g_a, g_v = (gate, 1 - gate) if self.complement else gate.chunk(2, dim=-1)
        return self.out(a + g_a * self.from_visual(v), v + g_v * self.from_audio(a))


class ConcatFusion(nn.Module):
    """Means over time side by side, and a linear layer (the ablation "concatenation")."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, width)

    def forward(self, a: Tensor, v: Tensor) -> Tensor:
        """(V, T, D), (V, T, D) -> (V, D)."""
        return self.linear(torch.cat([a.mean(1), v.mean(1)], dim=-1))


class SumFusion(nn.Module):
    """The sum of the means over time, without parameters (the ablation "no cross fusion")."""

    def forward(self, a: Tensor, v: Tensor) -> Tensor:
        """(V, T, D), (V, T, D) -> (V, D)."""
        return a.mean(1) + v.mean(1)


class SHMamba(AVQAModel):
    """The whole model. Built by `shmamba` from plain values; here the parts are passed in.

    Args:
        audio, visual, question, head, merge: as `AVQAModel`. audio_proj, visual_proj: linear encoders to D.
        align: hyperbolic alignment. temporal: Mamba blocks. cross: fusion to one vector.
    """

    def __init__(
        self,
        audio: StoredSound | EncodedSound,
        visual: StoredPicture | EncodedPicture,
        question: LSTMQuestion | VectorQuestion,
        head: AnswerHead | ChoiceHead,
        merge: ProductMerge | NetworkMerge | None = None,
        *,
        audio_proj: nn.Module,
        visual_proj: nn.Module,
        align: HyperbolicAlignment | NoAlignment,
        temporal: TemporalMamba,
        cross: nn.Module,
    ) -> None:
        super().__init__(audio, visual, question, head, merge)
        self.audio_proj, self.visual_proj = audio_proj, visual_proj
        self.align, self.temporal, self.cross = align, temporal, cross

    def fuse(self, audio: Tensor, visual: Tensor, question: Tensor, video: Tensor) -> Fused:
        """audio (V, T, A), visual (V, T, h, w, C), question (B, D), video (B,) -> `Fused`; nothing here asks for the
        question, so all of it runs once a video, and there are no attention weights for `explain`."""
        a, v = self.audio_proj(audio), self.visual_proj(visual)  # (V, T, D) each
        a, v, losses = self.align(a, v)
        a, v = self.temporal(a, v)
        return Fused(self.cross(a, v)[video], losses)


def shmamba(
    *,
    width: int = 256,
    audio_input: str = "features",
    audio_dim: int = 128,
    audio_args: dict[str, Any] | None = None,
    visual_input: str = "features",
    visual_dim: int = 512,
    visual_args: dict[str, Any] | None = None,
    picture_grid: tuple[int, int] = (1, 1),
    question_input: str = "features",
    question_dim: int = 512,
    words: int = 93,
    packed: bool = False,
    head: str = "answers",
    merge: str = "product",
    answers: int = ANSWERS,
    alignment: str = "infonce",
    alignment_weight: float | None = None,
    temperature: float = 0.2,
    curvature: str = "adaptive",
    k0: float = 1.0,
    c_min: float = 1e-3,
    space: str = "tangent",
    mamba: bool = True,
    share: str = "none",
    d_state: int = 16,
    expand: int = 2,
    dt_rank: int | None = None,
    fusion: str = "cross",
    gates: str = "complement",
) -> SHMamba:
    """Builds SHMamba; every ablation is a value. The table on top says what the paper states and what is ours.

    Args:
        width: D. audio_input, visual_input: "features" (stored, `*_dim` channels), or an encoder's name with `*_args`.
        picture_grid: (1, 1) takes the mean over a grid; a finer one keeps where things are, see `PictureVector`.
        question_input: "features" (a CLIP vector of question_dim) or "lstm" (word ids; `words`, `packed`).
        head: "answers" (a fixed list of `answers`) or "choices" (AVQA).
        merge: of feature and question, "product" or "network" (`NetworkMerge`).
        alignment: "infonce" (with `temperature`), "distance", "gram_mse" or "none" (flat space, no loss).
        alignment_weight: of the loss; None: 1e-3 for gram_mse, 0.1 otherwise.
        curvature: "adaptive" (c in (c_min, c_min + k0)) or "fixed" (c_min + k0 / 2).
        space: what the Mamba blocks read, "tangent" vectors or coordinates in the "ball".
        mamba: False leaves the four blocks out. d_state, expand, dt_rank: of each block.
        share: "none" (four blocks), "across_modality" (both first ones are one, both second ones are one) or "all".
        fusion: "cross" (with `gates`), "concat" or "none" (the sum of the means).

    Raises:
        ValueError: an unknown value; the message names the allowed ones. UsageError: an unknown input or head.
    """
    fusions = {"cross": lambda: CrossFusion(width, gates), "concat": lambda: ConcatFusion(width), "none": SumFusion}
    if fusion not in fusions:
        raise ValueError(f"fusion is {', '.join(fusions)}, not {fusion!r}")
    audio = build_audio_input(audio_input, audio_dim, **(audio_args or {}))
    visual = build_visual_input(visual_input, visual_dim, **(visual_args or {}))
    align = build_alignment(
        alignment, width, curvature=curvature, k0=k0, c_min=c_min, weight=alignment_weight, temperature=temperature,
        space=space,
    )  # fmt: skip
    return SHMamba(
        audio,
        visual,
        build_question_input(question_input, width, words=words, dim=question_dim, packed=packed),
        build_head(head, width, answers),
        build_merge(merge, width),
        audio_proj=nn.Linear(audio.dim, width),
        visual_proj=PictureVector(visual.dim, width, picture_grid),
        align=align,
        temporal=_temporal(width, mamba, share, d_state=d_state, expand=expand, dt_rank=dt_rank or "auto"),
        cross=fusions[fusion](),
    )


def _temporal(width: int, mamba: bool, share: str, **options: Any) -> TemporalMamba:
    """Two blocks for sound and two for the picture, or none."""
    if share not in SHARES:
        raise ValueError(f"share is {', '.join(SHARES)}, not {share!r}")
    if not mamba:
        return TemporalMamba([], [])
    distinct = {"none": 4, "across_modality": 2, "all": 1}[share]
    blocks = [ResidualMamba(width, **options) for _ in range(distinct)]
    places = {"none": (0, 1, 2, 3), "across_modality": (0, 1, 0, 1), "all": (0, 0, 0, 0)}[share]
    first, second, third, fourth = (blocks[place] for place in places)
    return TemporalMamba([first, second], [third, fourth])


register_model("shmamba", shmamba)
register_model(
    "shmamba_small",
    shmamba,
    width=64,
    audio_dim=64,
    visual_dim=64,
    picture_grid=(4, 4),
    question_input="lstm",
    packed=True,
    merge="network",
    d_state=8,
)
