"""A model of actions with its card: how it looks at a video, what it is asked, what it says of clips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossmamba.data.epic.crops import HALF, ClipTransform
from crossmamba.data.epic.sampling import GAP, WINDOW
from crossmamba.encoders import VideoEncoder
from crossmamba.errors import CheckpointError
from crossmamba.models.mambavl_actions import known_actions
from crossmamba.predict.action_names import ClassNames, Said
from crossmamba.predict.action_questions import Asked, ask
from crossmamba.predict.common import WithCard, pick_device

CLIPS = "clips"
KINDS = ("recognition", "anticipation")


@dataclass(frozen=True)
class Sight:
    """How a model looks at a video, by its card: T pictures, where in a window, how large, W seconds.

    Attributes:
        kind: "recognition" or "anticipation". frames: T. mode: "dense" or "uniform", of recognition.
        window: seconds that it sees at once. gap: seconds that anticipation looks ahead.
        transform: from pictures to a clip.
    """

    kind: str
    frames: int
    mode: str
    window: float
    gap: float
    transform: ClipTransform

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], facts: Mapping[str, Any]) -> Sight:
        """What a card's preprocessing and metadata say.

        Raises:
            CheckpointError: a value lacks, or is impossible.
        """
        missing = [key for key in ("frames", "image_size") if key not in preprocessing]
        missing += [] if "epic_task" in facts else ["epic_task"]
        if missing:
            raise CheckpointError(f"The model's card lacks {', '.join(missing)}; save the model again with them.")
        kind, mode = str(facts["epic_task"]), str(preprocessing.get("mode") or "dense")
        if kind not in KINDS or mode not in ("dense", "uniform"):
            raise CheckpointError(f"The model's card has epic_task {kind!r} and mode {mode!r}; these are not known.")
        transform = ClipTransform(
            int(preprocessing["image_size"]),
            mean=preprocessing.get("mean") or HALF,
            std=preprocessing.get("std") or HALF,
        )
        observed = float(preprocessing.get("observed") or WINDOW) if kind == "anticipation" else WINDOW
        return cls(kind, int(preprocessing["frames"]), mode, observed, GAP, transform)

    @property
    def places(self) -> str:
        """See `action_windows`."""
        return "past" if self.kind == "anticipation" else self.mode


class ActionModel(WithCard):
    """A model with the preprocessing it was trained with.

    Args:
        model: a `MambaVL`.
        preprocessing: `frames`, `image_size`, and optionally `video`, `mode`, `mean`, `std`, `observed`, `verbs`,
            `nouns`, `vocabulary`, `tokenizer`, as in a model folder's config.json.
        facts: its metadata: `epic_task` ("recognition" or "anticipation"), and optionally `question_source`.
        device: "cpu", "cuda", "mps", or "auto" for the fastest that is there.
        encoder: of a model on stored tokens, what makes them.
        folder: of the model, for its tokenizer. weights: may name the tokenizer's folder.

    Raises:
        CheckpointError: the card lacks a value, or the model cannot see. UsageError: a device that is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Mapping[str, Any],
        facts: Mapping[str, Any],
        *,
        device: str = "cpu",
        encoder: VideoEncoder | None = None,
        folder: Path | None = None,
        weights: Mapping[str, str | Path] | None = None,
    ) -> None:
        self.sight = Sight.of(preprocessing, facts)
        self.device = pick_device(device)
        self.model: Any = model.to(self.device).eval()
        self.preprocessing, self.facts = dict(preprocessing), dict(facts)
        self.folder, self.weights = folder, dict(weights or {})
        # Segments are joined by verbs and nouns; a head over actions speaks where a moment stands for itself.
        self.actions = np.array(known_actions(model) if self.kind == "anticipation" else [], np.int64).reshape(-1, 2)
        self.names = ClassNames.of(preprocessing, self.model.verb_head.out_features, self.model.noun_head.out_features)
        if preprocessing.get("video") == "none":
            raise CheckpointError("This model was trained on questions alone: it sees nothing of a video.")
        own = self.model.encoder
        self.encoder = None if encoder is None and own is None else (own or encoder).to(self.device).eval()
        if self.encoder is None:
            raise CheckpointError("This model reads stored tokens and has no encoder: give the one that made them.")

    @property
    def kind(self) -> str:
        """ "recognition" or "anticipation"."""
        return self.sight.kind

    def ask(self, source: str | None = None, *, verb: str | None = None, noun: str | None = None) -> Asked:
        """The questions that go with every clip; see `action_questions.ask`."""
        needs = self.model.needs["question"]
        card = {"question_source": self.facts.get("question_source", "generic"), **self.preprocessing}
        return ask(needs, card, self.folder, self.weights, source=source, verb=verb, noun=noun)

    @torch.inference_mode()
    def say(self, clips: list[Tensor], asked: Asked) -> list[Said]:
        """What the model says of clips, float32 (3, T, S, S) each."""
        batch = torch.stack(clips).to(self.device)
        video = batch if self.model.encoder is not None else self.encoder(batch).tokens
        questions = [None if ids is None else ids.to(self.device).expand(len(clips), -1) for ids in asked.ids]
        return said_of(self.model(video, *questions), self.actions)

    def describe(self) -> dict[str, Any]:
        """For `result.json`."""
        return {"name": self.card.get("name"), "kind": self.kind, **self.facts}


def said_of(output: Any, actions: NDArray[np.int64] | None = None) -> list[Said]:
    """Logits as probabilities in float64, one for each clip.

    Args:
        output: a `MambaVLOutput`. actions: (A, 2), what the first columns of its `action` stand for; none: not read.

    Raises:
        CheckpointError: values that are not finite.
    """
    joint = [output.action[:, : len(actions)]] if actions is not None and len(actions) else []
    sides = [logits.double().cpu() for logits in (output.verb, output.noun, *joint)]
    if not all(torch.isfinite(side).all() for side in sides):
        raise CheckpointError("The model answers with values that are not finite: its weights are damaged.")
    rows: Iterable[tuple[Tensor, ...]] = zip(*(side.softmax(-1) for side in sides), strict=True)
    pairs = actions if len(sides) == 3 else None
    return [Said(*(values.numpy() for values in row), pairs=pairs) for row in rows]
