"""Inputs of the right shapes for any model, for counting and timing it.

Symbols: T seconds (MambaVL: frames), S pixels a side, (h, w) the grid of stored picture features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossmamba.encoders.text import LSTMQuestion
from crossmamba.errors import UsageError
from crossmamba.models.avqa import AVQAModel, ChoiceHead
from crossmamba.models.avs_mamba import AVSMamba
from crossmamba.models.mambavl import MambaVL

QUESTION_WORDS = 14
CHOICES = 4
GRIDS = {"avst": (14, 14), "av_mamba_small": (8, 8), "avst_small": (8, 8), "shmamba_small": (8, 8)}
"""Stored picture grids by model: ResNet-18's for AVST, the synthetic world's for the small ones; else `CLIP_GRID`."""
CLIP_GRID = (7, 7)
CLIP_FRAMES, QUESTION_TOKENS = 16, 40
"""MambaVL's."""


@dataclass(frozen=True)
class ExampleInputs:
    """A call `model(*inputs, **named)`.

    Attributes:
        inputs: by place. named: by name. shapes: what they are, in one line.
    """

    inputs: tuple[Tensor, ...]
    named: dict[str, Tensor]
    shapes: str


def default_seconds(model: nn.Module) -> tuple[int, ...]:
    """T at which a model is usually counted: 10 and 60 for questions, 5 for segmentation; 16 frames of an action, or
    what its encoder takes."""
    if isinstance(model, MambaVL):
        return (getattr(model.encoder, "frames", None) or CLIP_FRAMES,)
    return (10, 60) if isinstance(model, AVQAModel) else (5,)


def example_inputs(
    model: nn.Module,
    *,
    seconds: int,
    videos: int = 1,
    side: int = 224,
    grid: tuple[int, int] | None = None,
    device: torch.device | str = "meta",
) -> ExampleInputs:
    """Random inputs of the shapes that the model takes, one question a video.

    Args:
        model: a registered model. seconds: T. side: S, where it takes frames. grid: (h, w), where it takes stored
            picture features; None: the usual one of that model. device: "meta" allocates nothing.

    Raises:
        UsageError: a model of a kind that is not known here, or a size below 1.
    """
    if min(seconds, videos, side, *(grid or (1,))) < 1:
        raise UsageError(f"sizes are at least 1: seconds {seconds}, videos {videos}, side {side}, grid {grid}")
    lead = (videos, seconds)
    if isinstance(model, AVSMamba):
        named = {"frames": _draw((*lead, 3, side, side), device), "log_mel": _draw((*lead, 1, 96, 64), device)}
        return ExampleInputs(tuple(named.values()), {}, _say(named))
    if isinstance(model, MambaVL):
        return _action_inputs(model, seconds, videos, side, grid or (14, 14), device)
    if not isinstance(model, AVQAModel):
        raise UsageError(f"no example inputs are known for {type(model).__name__}")
    needs = model.needs
    rows, columns = grid or GRIDS.get(getattr(model, "registered_name", ""), CLIP_GRID)
    picture = needs["visual"]
    if picture == (3, None, None):
        picture = (3, side, side)
    elif picture[:2] == (None, None):
        picture = (rows, columns, picture[2])

    def ask(*shape: int) -> Tensor:
        if needs["question"] == "words":  # ones: a word that every vocabulary has
            return torch.ones(*shape, QUESTION_WORDS, dtype=torch.int64, device=device)
        return _draw((*shape, model.question.input_dim), device)

    named = {"audio": _draw((*lead, *needs["audio"]), device), "visual": _draw((*lead, *picture), device)}
    named["question"] = ask(videos)
    inputs = tuple(named.values())
    extra = {"choices": ask(videos, CHOICES)} if isinstance(model.head, ChoiceHead) else {}
    return ExampleInputs(inputs, extra, _say({**named, **extra}))


def few_seconds(model: nn.Module) -> int:
    """A small T that the model takes."""
    return default_seconds(model)[0] if isinstance(model, MambaVL) else 2


def _action_inputs(
    model: MambaVL, frames: int, videos: int, side: int, grid: tuple[int, int], device: torch.device | str
) -> ExampleInputs:
    """A clip, or stored tokens as ORViT's, of tubes of 2 frames and with a class token; and two questions."""
    needs, named = model.needs, {}
    if needs["video"] == "clip":
        named["video"] = _draw((videos, 3, frames, side, side), device)
    else:
        tokens = 1 + math.ceil(frames / 2) * math.prod(grid)
        named["video"] = _draw((videos, tokens, needs["video_dim"]), device)
    for name in ("verb_question", "noun_question"):
        shape = (videos, QUESTION_TOKENS)
        if needs["question"] == "stored":
            named[name] = _draw((*shape, model.text.dim), device)
        elif needs["question"] is not None:  # a word that every vocabulary has, and no padding
            named[name] = torch.full(shape, 2, dtype=torch.int64, device=device)
    return ExampleInputs(tuple(named.values()), {}, _say(named))


def read_whole_questions(model: nn.Module) -> nn.Module:
    """The model, changed to read the padding of questions too: on the meta device lengths cannot be read, so a count is
    for the longest question (14 words)."""
    for module in model.modules():
        if isinstance(module, LSTMQuestion):
            module.packed = False
    return model


def _draw(shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Numbers from a fixed seed; drawn a million at a time, so that large inputs are quick."""
    if torch.device(device).type == "meta":
        return torch.empty(shape, device=device)
    count = math.prod(shape)
    block = torch.randn(min(count, 2**20), generator=torch.Generator().manual_seed(count))
    return block.repeat(-(-count // block.numel()))[:count].reshape(shape).to(device)


def _say(named: dict[str, Any]) -> str:
    return ", ".join(f"{name} {tuple(value.shape)}" for name, value in named.items())
