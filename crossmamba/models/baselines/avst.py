"""AVST (Li et al., CVPR 2022, "Learning to Answer Questions in Dynamic Audio-Visual Scenarios"), AV-Mamba's baseline.

Symbols:
    sound (V, T, D), picture (V, T, h, w, D), asked (B, D); D = 512
    match   a small network tells whether a second's sound and a frame belong together: 1 for the second's own frame,
            0 for a frame of another video; its cross-entropy is added to the loss (paper's L_s, weight 0.5)

Written from a description of the public code in words (spec §1.2 to 1.5); nothing is copied. The released class also
holds an ImageNet ResNet-18 that its forward never reaches and further layers without gradient (22.3 million numbers);
here is what computes: 7,916,716 parameters, 7,227,434 without the match network.

Not here: the grounding stage's own pre-training of 30 epochs, whose checkpoint the released training starts from.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.grounding import AttentionTime, GroundedPicture, WeightedPool, linear_or_identity
from crossmamba.encoders.text import build_question_input
from crossmamba.models.av_mamba import sound_projection
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


class MatchNetwork(nn.Sequential):
    """cat(sound, frame) 2 D -> D -> D/2 -> D/4 -> 2, with ReLU between; 689,282 parameters at D 512."""

    def __init__(self, width: int) -> None:
        sizes = (2 * width, width, width // 2, width // 4)
        layers: list[nn.Module] = []
        for incoming, outgoing in itertools.pairwise(sizes):
            layers += [nn.Linear(incoming, outgoing), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], 2))


class AVST(AVQAModel):
    """Sound-guided weighting of each frame's patches, question-guided attention over time, product with the question.

    Args:
        inputs: `audio`, `visual`, `question`, `head`, `merge` of `AVQAModel`.
        audio_proj, visual_proj: to the width D. ground: with `WeightedPool`. time: `AttentionTime`.
        join: (B, 2 D) -> (B, D). match: `MatchNetwork` or None. match_loss_weight: of its cross-entropy.
    """

    def __init__(
        self,
        *inputs: Any,
        audio_proj: nn.Module,
        visual_proj: nn.Module,
        ground: GroundedPicture,
        time: AttentionTime,
        join: nn.Module,
        match: MatchNetwork | None,
        match_loss_weight: float,
    ) -> None:
        super().__init__(*inputs)
        self.audio_proj, self.visual_proj = audio_proj, visual_proj
        self.ground, self.time, self.join = ground, time, join
        self.match, self.match_loss_weight = match, match_loss_weight

    def fuse(self, audio: Tensor, visual: Tensor, question: Tensor, video: Tensor) -> Fused:
        """See `AVQAModel.fuse`. Explained by its attention, in space and time."""
        sound, picture = self.audio_proj(audio), self.visual_proj(visual)
        seen, where = self.ground(sound, picture)  # (V, T, D), (V, T, h, w)
        heard, looked, attention = self.time(question, sound[video], seen[video])  # (B, D) each
        feature = self.join(torch.tanh(torch.cat([heard, looked], dim=-1)))
        losses = {"match": self._match_loss(sound, picture, seen)} if self.training and self.match is not None else {}
        return Fused(feature, losses, {**attention, "spatial": where[video]})

    def _match_loss(self, sound: Tensor, picture: Tensor, seen: Tensor) -> Tensor:
        """Weighted cross-entropy over 2 V T pairs, an own and a foreign frame for every second of every video.

        The foreign frame is drawn from the other videos of the batch by torch's random state, and is grounded by the
        second's own sound. The released loader reads it from any other video of the training set instead (10 more
        files a sample), and pairs the frames of a video once for each question about it; here a video counts once.
        A batch with one video has no foreign frames: its match loss is 0.
        """
        assert self.match is not None
        videos, seconds = sound.shape[:2]
        own = self.match(torch.cat([sound, seen], dim=-1))  # (V, T, 2)
        if videos < 2:
            return own.sum() * 0.0  # keeps a gradient (of zero) for every parameter
        steps = torch.randint(1, videos, (videos, seconds), device=sound.device)
        other = (torch.arange(videos, device=sound.device)[:, None] + steps) % videos
        second = torch.randint(seconds, (videos, seconds), device=sound.device)
        foreign = self.match(torch.cat([sound, self.ground(sound, picture[other, second])[0]], dim=-1))
        logits = torch.stack([own, foreign], dim=2).flatten(0, 2)  # (V*T*2, 2), own and foreign in turn
        labels = torch.tensor([1, 0], device=sound.device).repeat(videos * seconds)
        return self.match_loss_weight * F.cross_entropy(logits, labels)


def avst(
    *,
    audio_input: str = "features",
    audio_dim: int = 128,
    audio_args: dict[str, Any] | None = None,
    visual_input: str = "features",
    visual_dim: int = 512,
    visual_args: dict[str, Any] | None = None,
    question_input: str = "lstm",
    question_dim: int = 512,
    words: int = 93,
    packed: bool = False,
    head: str = "answers",
    merge: str = "product",
    answers: int = ANSWERS,
    width: int = 512,
    heads: int = 4,
    dropout: float = 0.1,
    match_loss_weight: float = 0.5,
) -> AVST:
    """Builds AVST: as released by default, for stored VGGish vectors and a 14 x 14 x 512 grid of ResNet-18.

    Args:
        audio_input to answers: as `crossmamba.models.av_mamba.av_mamba`.
        width: D. heads, dropout: of the attention. match_loss_weight: 0 builds no match network.

    Raises:
        UsageError: an unknown value; the message names the allowed ones.
    """
    audio = build_audio_input(audio_input, audio_dim, **(audio_args or {}))
    visual = build_visual_input(visual_input, visual_dim, **(visual_args or {}))
    return AVST(
        audio,
        visual,
        build_question_input(question_input, width, words=words, dim=question_dim, packed=packed),
        build_head(head, width, answers),
        build_merge(merge, width),
        audio_proj=sound_projection(audio.dim, width),
        visual_proj=linear_or_identity(visual.dim, width),
        ground=GroundedPicture(width, WeightedPool()),
        time=AttentionTime(width, heads, dropout),
        join=nn.Linear(2 * width, width),
        match=MatchNetwork(width) if match_loss_weight else None,
        match_loss_weight=match_loss_weight,
    )


register_model("avst", avst)
register_model("avst_small", avst, audio_dim=64, visual_dim=64, packed=True, merge="network", width=64)
