"""What all models of audio-visual question answering share: inputs, answer heads, output, and where the model looked.

Symbols:
    V videos, B questions (several may be about one video), T seconds, (h, w) grid of a picture, D model width
    audio     (V, T, .)         stored sound vectors, or log-mel (V, T, 1, 96, 64)
    visual    (V, T, h, w, C)   stored picture grid or (V, T, C) one vector a frame, or frames (V, T, 3, S, S)
    question  (B, L) word ids or (B, C) vectors        video (B,)  each question's row of audio and visual
    choices   (B, K, L) or (B, K, C)                   AVQA's candidate answers, as the question

A model is an `AVQAModel` with its own `fuse`; everything round it is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from crossmamba.encoders import (
    FRAME_ENCODERS,
    PICTURE_ENCODERS,
    FrameEncoder,
    FrameFeatures,
    PictureEncoder,
    SoundEncoder,
    build_frame_encoder,
    build_picture_encoder,
    build_sound_encoder,
)
from crossmamba.encoders.text import LSTMQuestion, VectorQuestion
from crossmamba.errors import UsageError

ANSWERS = 42
"""MUSIC-AVQA's answers."""


@dataclass
class AVQAOutput:
    """What a model returns.

    Attributes:
        logits: (B, 42), or (B, choices).
        losses: weighted auxiliary losses to add to the cross-entropy, by name; empty in eval mode.
    """

    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class AVQAMaps:
    """Where and when a model looked for each question. Nothing is negative.

    Attributes:
        spatial: (B, T, h, w), each frame sums to 1. audio, visual: (B, T), each question sums to 1.
    """

    spatial: Tensor
    audio: Tensor
    visual: Tensor


@dataclass
class Fused:
    """What `AVQAModel.fuse` returns.

    Attributes:
        feature: (B, D), sound and picture for each question.
        losses: as in `AVQAOutput`.
        attention: weights that the model has anyway, under the names and shapes of `AVQAMaps` (before scaling); what
            is missing is found by gradient times input.
    """

    feature: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, Tensor] = field(default_factory=dict)


class StoredSound(nn.Module):
    """Stored sound vectors, one a second: (V, T, dim) as they are. `project` of the model makes them D wide."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.needs = dim, (dim,)

    def forward(self, audio: Tensor) -> Tensor:
        """(V, T, dim) -> the same.

        Raises:
            UsageError: another shape.
        """
        if audio.dim() != 3 or audio.shape[2] != self.dim:
            raise UsageError(f"audio is (videos, seconds, {self.dim}), got {tuple(audio.shape)}: other sound features?")
        return audio


class EncodedSound(nn.Module):
    """Log-mel through a sound encoder, one vector a second."""

    def __init__(self, encoder: SoundEncoder) -> None:
        super().__init__()
        self.encoder, self.dim, self.needs = encoder, encoder.dim, (1, 96, 64)

    def forward(self, audio: Tensor) -> Tensor:
        """(V, T, 1, 96, 64) -> (V, T, dim).

        Raises:
            UsageError: another shape.
        """
        if audio.dim() != 5:
            raise UsageError(f"audio is log-mel (videos, seconds, 1, 96, 64), got {tuple(audio.shape)}")
        return self.encoder(audio.flatten(0, 1)).unflatten(0, audio.shape[:2])


class StoredPicture(nn.Module):
    """Stored picture features, a grid or (as a grid of 1 x 1) one vector a frame."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.needs = dim, (None, None, dim)

    def forward(self, visual: Tensor) -> Tensor:
        """(V, T, h, w, dim) or (V, T, dim) -> (V, T, h, w, dim).

        Raises:
            UsageError: another shape.
        """
        if visual.dim() not in (3, 5) or visual.shape[-1] != self.dim:
            raise UsageError(
                f"visual is (videos, seconds, h, w, {self.dim}) or (videos, seconds, {self.dim}), got "
                f"{tuple(visual.shape)}: other picture features?"
            )
        return visual[:, :, None, None] if visual.dim() == 3 else visual


class EncodedPicture(nn.Module):
    """Frames through a picture encoder: CLIP's or ResNet-18's grid, or the coarsest level (stride 32) of a pyramid."""

    def __init__(self, encoder: PictureEncoder | FrameEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        if isinstance(encoder, PictureEncoder):
            self.dim, size = encoder.channels[-1], None
        else:
            self.dim, size = encoder.dim, encoder.size
        self.needs = (3, *(size or (None, None)))

    def forward(self, visual: Tensor) -> Tensor:
        """(V, T, 3, S, S) RGB, normalised as the encoder wants it -> (V, T, h, w, dim).

        Raises:
            UsageError: another shape, or an encoder that gives no grid.
        """
        if visual.dim() != 5 or visual.shape[2] != 3:
            raise UsageError(f"visual is frames (videos, seconds, 3, S, S), got {tuple(visual.shape)}")
        seen = self.encoder(visual.flatten(0, 1))
        grid = seen.grid if isinstance(seen, FrameFeatures) else seen[-1]  # (V*T, C, h, w)
        if grid is None:
            raise UsageError(f"{type(self.encoder).__name__} gives no grid: choose an encoder with one")
        return grid.permute(0, 2, 3, 1).unflatten(0, visual.shape[:2])


def build_audio_input(name: str, dim: int, /, **options: Any) -> StoredSound | EncodedSound:
    """ "features" (stored vectors of `dim` numbers), or a sound encoder's name with its options, on log-mel."""
    return StoredSound(dim) if name == "features" else EncodedSound(build_sound_encoder(name, **options))


def build_visual_input(name: str, dim: int, **options: Any) -> StoredPicture | EncodedPicture:
    """ "features" (stored, `dim` channels), or a picture or frame encoder's name with its options, on frames.

    Raises:
        UsageError: an unknown name or option.
    """
    if name == "features":
        return StoredPicture(dim)
    if name in FRAME_ENCODERS:
        return EncodedPicture(build_frame_encoder(name, **options))
    if name in PICTURE_ENCODERS:
        return EncodedPicture(build_picture_encoder(name, **options))
    raise UsageError(
        f"visual_input is 'features' or one of {', '.join([*PICTURE_ENCODERS, *FRAME_ENCODERS])}, not {name!r}"
    )


class ProductMerge(nn.Module):
    """tanh(feature * question), AVST's way and AV-Mamba's (spec §1.4). No parameters."""

    def forward(self, feature: Tensor, asked: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B, D)."""
        return torch.tanh(feature * asked)


class NetworkMerge(nn.Module):
    """A small network on feature, question and their product (ours): for narrow models.

    With 64 channels and the product, `avst_small` and `shmamba_small` stood after 600 and 450 steps on the concert
    world where the question alone leads (37.7 and 35.7 % of the questions); with this at 47.6 and 47.9 (one seed).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3 * dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, feature: Tensor, asked: Tensor) -> Tensor:
        """(B, D), (B, D) -> (B, D)."""
        return self.leave(torch.relu(self.enter(torch.cat([feature, asked, feature * asked], dim=-1))))


def build_merge(name: str, dim: int) -> ProductMerge | NetworkMerge:
    """How feature and question meet before the head: "product" (published) or "network" (ours)."""
    if name not in ("product", "network"):
        raise UsageError(f"merge is 'product' or 'network', not {name!r}")
    return ProductMerge() if name == "product" else NetworkMerge(dim)


class AnswerHead(nn.Linear):
    """One logit for each of the fixed answers. Parameter count at D 512: 21,546."""

    def __init__(self, dim: int, answers: int = ANSWERS) -> None:
        super().__init__(dim, answers)

    def forward(self, fused: Tensor, choices: Tensor | None = None) -> Tensor:
        """(B, D) -> (B, answers). UsageError if there are choices: this head has its own answers."""
        if choices is not None:
            raise UsageError('this model answers from its own list: build it with head="choices" for given choices')
        return super().forward(fused)


class ChoiceHead(nn.Module):
    """Scores each given choice by its scaled product with the fused feature (AVQA; ours, no paper states one)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fused, self.choice = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, fused: Tensor, choices: Tensor | None = None) -> Tensor:
        """fused (B, D), choices (B, K, D) -> (B, K). UsageError without choices."""
        if choices is None:
            raise UsageError("this model answers by choosing: give it choices (questions, 4, .)")
        return torch.einsum("bd,bkd->bk", self.fused(fused), self.choice(choices)) * fused.shape[-1] ** -0.5


def build_head(name: str, dim: int, answers: int = ANSWERS) -> AnswerHead | ChoiceHead:
    """ "answers" (a fixed list) or "choices" (given with the question)."""
    if name not in ("answers", "choices"):
        raise UsageError(f"head is 'answers' or 'choices', not {name!r}")
    return AnswerHead(dim, answers) if name == "answers" else ChoiceHead(dim)


class AVQAModel(nn.Module, ABC):
    """Inputs, `fuse` (the model itself), merge with the question, head (AVST's order; spec §1.4 and 2.3).

    Args:
        audio, visual: input modules with `.dim` and `.needs`. question: encoder to (B, D). head: answer head.
        merge: of feature and question, `ProductMerge` if None.
    """

    def __init__(
        self,
        audio: StoredSound | EncodedSound,
        visual: StoredPicture | EncodedPicture,
        question: LSTMQuestion | VectorQuestion,
        head: AnswerHead | ChoiceHead,
        merge: ProductMerge | NetworkMerge | None = None,
    ) -> None:
        super().__init__()
        self.audio, self.visual, self.question, self.head = audio, visual, question, head
        self.merge = merge or ProductMerge()

    @abstractmethod
    def fuse(self, audio: Tensor, visual: Tensor, question: Tensor, video: Tensor) -> Fused:
        """audio (V, T, A), visual (V, T, h, w, C), question (B, D), video int64 (B,) -> `Fused`.

        What does not depend on the question is computed for the V videos and then indexed by `video`. Auxiliary
        losses are made only in training mode.
        """

    @property
    def needs(self) -> dict[str, Any]:
        """What an input looks like after (videos, seconds): shapes with None for what is free, and the question's kind.

        A model that needs (None, None, C) takes (C,) too, as a grid of 1 x 1.
        """
        return {"audio": self.audio.needs, "visual": self.visual.needs, "question": self.question.needs}

    def forward(
        self,
        audio: Tensor,
        visual: Tensor,
        question: Tensor,
        *,
        choices: Tensor | None = None,
        video: Tensor | None = None,
    ) -> AVQAOutput:
        """Answers B questions about V videos.

        Args:
            audio, visual, question, choices: see the top of the file; `model.needs` says which kinds.
            video: int64 (B,), row of audio and visual for each question; None: question i is about video i.

        Raises:
            UsageError: shapes that do not fit each other or the model.
        """
        video = self._check(audio, visual, question, video)
        asked = self.question(question)  # (B, D)
        fused = self.fuse(self.audio(audio), self.visual(visual), asked, video)
        return AVQAOutput(self._answer(fused.feature, asked, choices), fused.losses)

    def _answer(self, feature: Tensor, asked: Tensor, choices: Tensor | None) -> Tensor:
        return self.head(self.merge(feature, asked), None if choices is None else self.question(choices))

    def explain(
        self,
        audio: Tensor,
        visual: Tensor,
        question: Tensor,
        *,
        answer: Tensor | None = None,
        choices: Tensor | None = None,
        video: Tensor | None = None,
    ) -> AVQAMaps:
        """Where and when the model looked, for each question; arguments as `forward`. Runs in eval mode.

        Attention weights where the model has them (`Fused.attention`). Elsewhere gradient times input: the positive
        part of (input feature . gradient of the answer's logit), for the picture summed over channels at each place.
        Where nothing speaks for the answer the map is uniform.

        Args:
            answer: int64 (B,), the answers to explain; None: the model's own.
        """
        training = self.training
        self.eval()
        try:
            with torch.inference_mode(False), torch.enable_grad():
                return self._explain(audio, visual, question, answer, choices, video)
        finally:
            self.train(training)

    def _explain(
        self,
        audio: Tensor,
        visual: Tensor,
        question: Tensor,
        answer: Tensor | None,
        choices: Tensor | None,
        video: Tensor | None,
    ) -> AVQAMaps:
        video = self._check(audio, visual, question, video)
        with torch.no_grad():  # clone: an input may be an inference tensor, which autograd refuses
            asked = self.question(question.clone())
            choices = None if choices is None else choices.clone()
            sound, picture = self.audio(audio.clone())[video], self.visual(visual.clone())[video]
        sound.requires_grad_()
        picture.requires_grad_()
        fused = self.fuse(sound, picture, asked, torch.arange(len(video), device=video.device))  # a row per question
        logits = self._answer(fused.feature, asked, choices)
        chosen = logits.argmax(dim=1) if answer is None else answer.to(logits.device)
        score = logits.gather(1, chosen[:, None]).sum()
        by_sound, by_picture = torch.autograd.grad(score, (sound, picture), materialize_grads=True)
        places = (by_picture * picture).sum(-1).detach()  # (B, T, h, w)
        maps = {
            "spatial": places.clamp(min=0),
            "audio": (by_sound * sound).sum(-1).detach().clamp(min=0),
            "visual": places.sum((2, 3)).clamp(min=0),
        }
        maps.update({name: weights.detach() for name, weights in fused.attention.items()})
        return AVQAMaps(_shares(maps["spatial"], 2), _shares(maps["audio"], 1), _shares(maps["visual"], 1))

    @staticmethod
    def _check(audio: Tensor, visual: Tensor, question: Tensor, video: Tensor | None) -> Tensor:
        """`video`, or 0..B-1; UsageError where the sizes contradict each other."""
        if audio.dim() < 2 or audio.shape[:2] != visual.shape[:2]:
            raise UsageError(
                f"audio is {tuple(audio.shape)} and visual {tuple(visual.shape)}: both start with the same (videos, "
                "seconds); take the same seconds of both"
            )
        questions = question.shape[0]
        if video is None:
            if questions != audio.shape[0]:
                raise UsageError(f"{questions} questions about {audio.shape[0]} videos: give `video`, each one's row")
            return torch.arange(questions, device=audio.device)
        if video.shape != (questions,) or video.dtype != torch.int64:
            raise UsageError(f"video is int64 ({questions},), got {video.dtype} of shape {tuple(video.shape)}")
        return video


def _shares(values: Tensor, kept: int) -> Tensor:
    """Non-negative values scaled to sum 1 over all dimensions after the first `kept`; uniform where all are 0."""
    flat = values.float().flatten(kept)
    total = flat.sum(-1, keepdim=True)
    uniform = torch.full_like(flat, 1.0 / flat.shape[-1])
    return torch.where(total > 0, flat / total.clamp(min=torch.finfo(flat.dtype).tiny), uniform).reshape(values.shape)
