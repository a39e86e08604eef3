"""What the training tasks share: the encoders' weights, the metric that chooses the model, the exported model."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch import LightningModule
from torch import nn
from torchmetrics import MeanMetric

from crossmamba.encoders import Encoder, load_encoder_weights
from crossmamba.errors import UsageError
from crossmamba.models import create_model, save_pretrained
from crossmamba.tasks.guards import parse_policy


class TrainingTask(LightningModule):
    """Base of the tasks: a registered model with its recipe.

    A subclass sets `task` and `score`, gives `configure_optimizers` and the steps, and may give `encoders()`. Its
    validation step puts its loss into `validation_loss`, weighted by the samples.

    Args:
        model, model_args: a registered name (`crossmamba models`) and arguments in place of its builder's defaults.
        picture_weights, sound_weights: published checkpoints of the encoders (a path or `hf://owner/repo/file`).
        nan_policy: "stop", or "skip:N" steps that are not finite before stopping.
    """

    task: ClassVar[str]
    """Name of the task in the model's card."""
    score: ClassVar[str]
    """The validation score that chooses the best model, such as "M_J"."""

    def __init__(
        self,
        model: str,
        model_args: dict[str, Any] | None,
        *,
        picture_weights: str | None,
        sound_weights: str | None,
        nan_policy: str,
    ) -> None:
        super().__init__()
        parse_policy(nan_policy)
        self.model = create_model(model, **(model_args or {}))
        self.encoder_weights = {"picture": picture_weights, "sound": sound_weights}
        self.nan_policy = nan_policy
        self.validation_loss = MeanMetric()  # over samples, however unevenly processes share them

    @property
    def select_on(self) -> str:
        """The split that validation runs on; prefix of its metrics."""
        return getattr(self.trainer.datamodule, "select_on", "val")

    @property
    def monitor(self) -> str:
        """The metric that chooses the best model."""
        return f"{self.select_on}/{self.score}"

    def log_validation_loss(self) -> None:
        """Logs the mean of what `validation_loss` was given, as `<split>/loss`, and forgets it."""
        self.log(f"{self.select_on}/loss", self.validation_loss.compute(), sync_dist=True)
        self.validation_loss.reset()

    def encoders(self) -> Mapping[str, Encoder]:
        """The encoders of raw pictures and sound that the model has, under "picture" and "sound"."""
        found = {name: getattr(self.model, name, None) for name in ("picture", "sound")}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.trainer.ckpt_path is None:  # a resumed run has its weights in the checkpoint
            self._load_encoders()

    def _load_encoders(self) -> None:
        encoders = self.encoders()
        for name, source in self.encoder_weights.items():
            encoder: nn.Module | None = encoders.get(name)
            if source is not None and encoder is None:
                raise UsageError(f"model.{name}_weights is {source}, but the model has no {name} encoder to load it in")
            if source is not None:
                load_encoder_weights(encoder, source)
            elif getattr(encoder, "published", ""):
                warnings.warn(
                    f"the {name} encoder starts from random weights, although published ones exist "
                    f"({encoder.published}); give their file as --model.{name}_weights",
                    stacklevel=2,
                )

    # The trained model
    def export_model(self, folder: Path, metrics: dict[str, float]) -> None:
        """Writes the model as it is now, with its preprocessing and scores, for `eval`, `predict` and others."""
        data = self.trainer.datamodule
        metadata = {
            "task": self.task,
            "trained_on": data.describe(),
            **data.facts(),
            "selected_on": self.select_on if metrics else "the last step (no validation ran)",
            "step": self.trainer.global_step,
            "epoch": self.trainer.current_epoch + 1,
            "metrics": {k: v for k, v in metrics.items() if not k.startswith("train/") and math.isfinite(v)},
        }
        save_pretrained(self.model, folder, preprocessing=data.preprocessing(), metadata=metadata)
