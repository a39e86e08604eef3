"""A video in, a typed result out: masks of what sounds (`avs`), answers to questions (`avqa`). No Lightning.

`load_pipeline` reads a run or a model folder and gives the pipeline of the task that its card names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossmamba.errors import CheckpointError
from crossmamba.predict.avs import FRAME_IN_SECOND, AVSPipeline, AVSResult, AVSStream, SecondResult
from crossmamba.predict.common import LEAST_SECOND, check_video, find_model, pick_device, task_of

__all__ = [
    "FRAME_IN_SECOND",
    "LEAST_SECOND",
    "AVSPipeline",
    "AVSResult",
    "AVSStream",
    "SecondResult",
    "check_video",
    "find_model",
    "load_pipeline",
    "pick_device",
    "task_of",
]


def load_pipeline(folder_or_run: str | Path, *, device: str = "cpu", **options: Any) -> Any:
    """Loads the model of a run folder or model folder, ready for videos.

    Args:
        folder_or_run: `runs/NAME` (its `model/` is taken) or a folder with config.json and model.safetensors.
        device: "cpu", "cuda", "mps", or "auto" for the fastest that is there.
        options: `threshold` for `AVSPipeline`; `weights` for `AVQAPipeline`.

    Returns:
        An `AVSPipeline` or an `AVQAPipeline`, by the task that the card names.

    Raises:
        CheckpointError: nothing there, it does not load, or its task is not known.
        UsageError: a device that is not there.
    """
    from crossmamba.models import from_pretrained  # here, since it imports transformers, which takes seconds

    folder = find_model(folder_or_run)
    model = from_pretrained(folder)
    task = task_of(model.card)
    if task == "avs":
        return AVSPipeline(model, model.card.get("preprocessing", {}), device=device, **options)
    raise CheckpointError(f"{folder}: a model for the task {task!r}; this version predicts avs and avqa")
