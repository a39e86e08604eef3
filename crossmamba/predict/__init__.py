"""A video in, a typed result out: masks of what sounds (`avs`), answers to questions (`avqa`), actions with their times
(`action`). No Lightning.

`load_pipeline` reads a run or a model folder and gives the pipeline of the task that its card names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crossmamba.errors import CheckpointError
from crossmamba.predict.action import ActionPipeline, load_actions
from crossmamba.predict.action_result import ActionResult, MomentResult
from crossmamba.predict.avqa import Answer, AVQAPipeline, AVQAResult
from crossmamba.predict.avqa_features import load_features
from crossmamba.predict.avs import FRAME_IN_SECOND, AVSPipeline, AVSResult, AVSStream, SecondResult
from crossmamba.predict.common import LEAST_SECOND, check_video, find_model, pick_device, task_of

__all__ = [
    "FRAME_IN_SECOND",
    "LEAST_SECOND",
    "AVQAPipeline",
    "AVQAResult",
    "AVSPipeline",
    "AVSResult",
    "AVSStream",
    "ActionPipeline",
    "ActionResult",
    "Answer",
    "MomentResult",
    "SecondResult",
    "check_video",
    "find_model",
    "load_pipeline",
    "pick_device",
    "task_of",
]


def load_pipeline(
    folder_or_run: str | Path,
    *,
    device: str = "cpu",
    threshold: float | None = None,
    weights: Mapping[str, str | Path] | None = None,
) -> Any:
    """Loads the model of a run folder or model folder, ready for videos.

    Args:
        folder_or_run: `runs/NAME` (its `model/` is taken) or a folder with config.json and model.safetensors.
        device: "cpu", "cuda", "mps", or "auto" for the fastest that is there.
        threshold: of a model that marks what sounds, see `AVSPipeline`.
        weights: of the feature encoders of a model that answers questions, by name, see `features.load_features`; of a
            model of actions, see `action.load_actions`.

    Returns:
        An `AVSPipeline`, an `AVQAPipeline` or an `ActionPipeline`, by the task that the card names.

    Raises:
        CheckpointError: nothing there, it does not load, or its task is not known.
        UsageError: a device that is not there.
    """
    from crossmamba.models import from_pretrained  # here, since it imports transformers, which takes seconds

    folder = find_model(folder_or_run)
    model = from_pretrained(folder)
    task, preprocessing = task_of(model.card), model.card.get("preprocessing", {})
    if task == "avs":
        return AVSPipeline(model, preprocessing, device=device, threshold=threshold)
    if task == "avqa":
        return AVQAPipeline(model, preprocessing, load_features(preprocessing, folder, weights or {}), device=device)
    if task == "action":
        return load_actions(model, folder, weights or {}, device=device)
    raise CheckpointError(f"{folder}: a model for the task {task!r}; this version predicts avs, avqa and action")
