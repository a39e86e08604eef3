"""Training of audio-visual segmentation (AVSBench S4, MS3): model, loss, optimiser and validation score together."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from crossmamba.errors import UsageError
from crossmamba.metrics import AVSMetric
from crossmamba.tasks.base import TrainingTask
from crossmamba.tasks.losses import LOSSES, segmentation_loss
from crossmamba.tasks.optim import build_optimizer, learning_rate_schedule, parameter_groups

LOGGED_SCORES = ("M_J", "M_F", "M_F_official", "black_kept", "FPR")  # fractions of 1, see `AVSMetric`
LossName = Literal["dice", "dice_bce", "bce"]


class AVSTask(TrainingTask):
    """Recipe of AVS-Mamba (spec §1.10), with the mended defaults.

    Args:
        model: a registered name, see `crossmamba models`.
        model_args: arguments of its builder in place of the defaults.
        loss: "dice_bce" (recommended: black frames teach too), "dice" (published), "bce".
        intermediate_loss_weight: weight of the earlier decoder layers' masks.
        learning_rate, weight_decay: of AdamW. encoder_lr_scale: factor on the picture encoder's learning rate.
        warmup_steps: linear warm-up. schedule: afterwards "none" (constant) or "cosine" (to 0 at the run's end).
        freeze_picture_epochs: the picture encoder does not learn in the first so many epochs (20 on S4 and MS3 in the
            released code). With several processes this needs `trainer.strategy=ddp_find_unused_parameters_true`.
        picture_weights, sound_weights: published checkpoints of the encoders (a path or `hf://owner/repo/file`).
        gradient_checkpointing: recompute in the backward pass, for less memory.
        nan_policy: "stop", or "skip:N" steps that are not finite before stopping.
    """

    task = "avs"
    score = "M_J"

    def __init__(
        self,
        model: str,
        model_args: dict[str, Any] | None = None,
        *,
        loss: LossName = "dice_bce",
        intermediate_loss_weight: float = 1.0,
        learning_rate: float = 2e-5,
        weight_decay: float = 0.01,
        encoder_lr_scale: float = 1.0,
        warmup_steps: int = 0,
        schedule: Literal["none", "cosine"] = "none",
        freeze_picture_epochs: int = 0,
        picture_weights: str | None = None,
        sound_weights: str | None = None,
        gradient_checkpointing: bool = False,
        nan_policy: str = "stop",
    ) -> None:
        super().__init__(
            model, model_args, picture_weights=picture_weights, sound_weights=sound_weights, nan_policy=nan_policy
        )
        if loss not in LOSSES:
            raise UsageError(f"unknown loss {loss!r}; choose one of {', '.join(LOSSES)}")
        self.model.set_gradient_checkpointing(gradient_checkpointing)
        self.loss_name, self.intermediate_loss_weight = loss, intermediate_loss_weight
        self.learning_rate, self.weight_decay, self.encoder_lr_scale = learning_rate, weight_decay, encoder_lr_scale
        self.warmup_steps, self.schedule = warmup_steps, schedule
        self.freeze_picture_epochs = freeze_picture_epochs
        self.metric = AVSMetric()

    # Set-up
    def check_trainer(self, trainer: Trainer) -> None:
        """Raises UsageError if the recipe cannot run on this trainer; called before anything is written."""
        finds_unused = getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters", False)
        if self.freeze_picture_epochs and trainer.world_size > 1 and not finds_unused:
            raise UsageError(
                f"model.freeze_picture_epochs={self.freeze_picture_epochs} with several processes needs "
                "--trainer.strategy ddp_find_unused_parameters_true"
            )

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = build_optimizer(
            "adamw",
            parameter_groups(
                self.model,
                self.model.picture,
                learning_rate=self.learning_rate,
                encoder_lr_scale=self.encoder_lr_scale,
                weight_decay=self.weight_decay,
            ),
        )
        schedule = learning_rate_schedule(
            optimizer,
            self.schedule,
            warmup_steps=self.warmup_steps,
            total_steps=self.trainer.datamodule.total_steps,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Freezing of the picture encoder. It is switched after DDP has wrapped the model, which then knows all parameters.
    def on_train_start(self) -> None:
        self._freeze_or_train()

    def on_train_epoch_start(self) -> None:
        self._freeze_or_train()

    def _freeze_or_train(self) -> None:
        frozen = self.trainer.current_epoch < self.freeze_picture_epochs
        if self.freeze_picture_epochs and self.model.picture.frozen is not frozen:
            self.model.picture.set_frozen(frozen)
            self.model.train()

    # Steps
    def forward(self, frames: Tensor, log_mel: Tensor) -> Any:
        return self.model(frames, log_mel)

    def compute_loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """`segmentation_loss` of a batch (see `AVSBenchDataset` for its keys)."""
        output = self.model(batch["frames"], batch["log_mel"])
        return segmentation_loss(
            self.loss_name, output, batch["masks"], batch["annotated"], self.intermediate_loss_weight
        )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        parts = self.compute_loss(batch)
        size = len(batch["index"])
        self.log("train/loss", parts["loss"].detach(), batch_size=size)
        self.log("train/loss_final", parts["final"], batch_size=size)
        return parts["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        output = self.model(batch["frames"], batch["log_mel"])
        parts = segmentation_loss(self.loss_name, output, batch["masks"], batch["annotated"], 0.0)
        self.validation_loss.update(parts["loss"], weight=len(batch["index"]))
        probability = torch.sigmoid(output.logits.float())
        self.metric.update(probability, batch["masks"], index=batch["index"], annotated=batch["annotated"])

    def on_validation_epoch_end(self) -> None:
        scores = self.metric.compute()
        self.metric.reset()
        self.log_validation_loss()
        for name in LOGGED_SCORES:
            self.log(f"{self.select_on}/{name}", scores[name].float(), sync_dist=True)
