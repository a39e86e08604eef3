"""Training of audio-visual question answering (MUSIC-AVQA, AVQA): model, losses, optimiser and validation score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.encoders import Encoder
from crossmamba.errors import UsageError
from crossmamba.models.avqa import AVQAOutput
from crossmamba.tasks.base import TrainingTask
from crossmamba.tasks.optim import OptimizerName, Schedule, build_optimizer, learning_rate_schedule, parameter_groups


class AVQATask(TrainingTask):
    """Cross-entropy over the answers plus the model's own weighted losses. The defaults are AVST's recipe (spec §1.5).

    Args:
        model, model_args: see `TrainingTask`.
        optimizer: "adam" (AVST, PSTP-Net) or "adamw". betas: its moments' decay (0.95, 0.999 in QA-TIGER).
        learning_rate, weight_decay: of the optimiser. Weight decay leaves out the scans' A and D.
        schedule: after the warm-up: "step" (times `drop_factor` every `drop_epochs` epochs: AVST's StepLR), "cosine"
            (to 0 at the run's end) or "none".
        warmup_steps: of a linear warm-up.
        freeze_encoders: encoders of raw pictures and sound do not learn; with stored features there are none.
        encoder_lr_scale: factor on the learning rate of encoders that do learn.
        picture_weights, sound_weights: published checkpoints of the encoders (a path or `hf://owner/repo/file`).
        label_smoothing: of the cross-entropy in training.
        nan_policy: "stop", or "skip:N" steps that are not finite before stopping.
    """

    task = "avqa"
    score = "All"

    def __init__(
        self,
        model: str,
        model_args: dict[str, Any] | None = None,
        *,
        optimizer: OptimizerName = "adam",
        learning_rate: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        schedule: Schedule = "step",
        drop_epochs: int = 8,
        drop_factor: float = 0.1,
        warmup_steps: int = 0,
        freeze_encoders: bool = True,
        encoder_lr_scale: float = 1.0,
        picture_weights: str | None = None,
        sound_weights: str | None = None,
        label_smoothing: float = 0.0,
        nan_policy: str = "stop",
    ) -> None:
        super().__init__(
            model, model_args, picture_weights=picture_weights, sound_weights=sound_weights, nan_policy=nan_policy
        )
        if drop_epochs < 1:
            raise UsageError(f"model.drop_epochs is {drop_epochs}; it must be at least 1")
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"model.label_smoothing is {label_smoothing}; it must be in [0, 1)")
        for encoder in self.encoders().values():
            encoder.set_frozen(freeze_encoders)
        self.optimizer_name, self.betas = optimizer, betas
        self.learning_rate, self.weight_decay, self.encoder_lr_scale = learning_rate, weight_decay, encoder_lr_scale
        self.schedule, self.drop_epochs, self.drop_factor = schedule, drop_epochs, drop_factor
        self.warmup_steps, self.label_smoothing = warmup_steps, label_smoothing
        self.metric: Any = None  # the data set says by which types its answers are counted

    def encoders(self) -> Mapping[str, Encoder]:
        found = {"picture": self.model.visual, "sound": self.model.audio}
        return {name: part.encoder for name, part in found.items() if hasattr(part, "encoder")}

    # Set-up
    def check_data(self, data: Any) -> None:
        """Raises UsageError if a sample does not fit the model; called before anything is written."""
        for role in ("train", "val"):
            check_sample(self.model, data.dataset(role)[0])
        check_words(self.model, data.preprocessing().get("vocabulary"))

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.metric = self.trainer.datamodule.metric()

    def configure_optimizers(self) -> dict[str, Any]:
        data = self.trainer.datamodule
        groups = parameter_groups(
            self.model,
            nn.ModuleList(self.encoders().values()),
            learning_rate=self.learning_rate,
            encoder_lr_scale=self.encoder_lr_scale,
            weight_decay=self.weight_decay,
        )
        optimizer = build_optimizer(self.optimizer_name, groups, betas=self.betas)
        schedule = learning_rate_schedule(
            optimizer,
            self.schedule,
            warmup_steps=self.warmup_steps,
            total_steps=data.total_steps,
            drop_every=self.drop_epochs * data.steps_per_epoch,
            drop_factor=self.drop_factor,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Steps
    def forward(self, batch: dict[str, Any]) -> AVQAOutput:
        return answer_questions(self.model, batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        output = self(batch)
        answer = F.cross_entropy(output.logits.float(), batch["answer"], label_smoothing=self.label_smoothing)
        loss = answer + sum(output.losses.values())
        size = len(batch["index"])
        self.log("train/loss", loss.detach(), batch_size=size)
        self.log("train/loss_answer", answer.detach(), batch_size=size)
        for name, part in output.losses.items():
            self.log(f"train/loss_{name}", part.detach(), batch_size=size)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        logits = self(batch).logits.float()
        self.validation_loss.update(F.cross_entropy(logits, batch["answer"]), weight=len(batch["index"]))
        self.metric.update(logits.argmax(dim=1), batch["answer"], batch["kind"], index=batch["index"])

    def on_validation_epoch_end(self) -> None:
        scores = self.metric.compute()
        self.metric.reset()
        self.log_validation_loss()
        for name, value in scores.items():
            if torch.isfinite(value):  # a type without questions has no score
                self.log(f"{self.select_on}/{name}", value.float().to(self.device), sync_dist=True)


def answer_questions(model: nn.Module, batch: Mapping[str, Any]) -> AVQAOutput:
    """`model` on a batch of `collate_questions`: each video goes through it once, whatever the number of questions."""
    return model(batch["audio"], batch["visual"], batch["question"], choices=batch.get("choices"), video=batch["video"])


def check_sample(model: nn.Module, sample: Mapping[str, Any]) -> None:
    """Whether a data set's item is what the model takes, as `model.needs` says.

    Raises:
        UsageError: other features, or words where vectors are needed, with what to change.
    """
    needs = model.needs
    for name in ("audio", "visual"):
        wanted, given = tuple(needs[name]), tuple(sample[name].shape[1:])
        one_vector = len(wanted) == 3 and wanted[:2] == (None, None) and given == wanted[2:]
        fits = len(wanted) == len(given) and all(w in (None, g) for w, g in zip(wanted, given, strict=True))
        if not (fits or one_vector):
            raise UsageError(
                f"the {name} features have shape {_shape(given)} a second and the model takes {_shape(wanted)}: choose "
                f"others by data.{name}, or build the model for these by model.model_args.{name}_dim or {name}_input"
            )
    kind = "features" if sample["question"].is_floating_point() else "words"
    if needs["question"] != kind:
        raise UsageError(
            f"the questions come as {kind} and the model takes {needs['question']}: set data.question or "
            "model.model_args.question_input"
        )
    length, given = getattr(model.question, "input_dim", None), tuple(sample["question"].shape)
    if length is not None and given != (length,):
        raise UsageError(
            f"a question is {_shape(given)} numbers and the model takes one vector of {length}: choose another kind by "
            "data.question, or build the model for it by model.model_args.question_dim"
        )
    fixed = isinstance(getattr(getattr(model, "head", None), "out_features", None), int)
    if fixed is not ("choices" not in sample):
        heads = ("choices", "answers") if fixed else ("answers", "choices")
        raise UsageError(
            f"this data set needs a model with model.model_args.head={heads[0]}, and the model has head={heads[1]}"
        )


def check_words(model: nn.Module, words: Sequence[str] | None) -> None:
    """Whether a model that reads words has as many as the data set.

    Args:
        words: the data set's; None if its questions come as vectors.

    Raises:
        UsageError: it has fewer, with what to change.
    """
    known = getattr(model.question, "words", None)
    if words is not None and known is not None and len(words) > known:
        raise UsageError(
            f"the questions have {len(words)} words and the model knows {known}: set model.model_args.words to "
            f"{len(words)}"
        )


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def move(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
