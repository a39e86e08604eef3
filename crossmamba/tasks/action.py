"""Training of actions (EPIC-KITCHENS-100): verb and noun heads, label smoothing, mixing of clips, optimiser, scores.

A model with a head over actions (`model_args.action_classes`, ours) learns the pairs of the train split besides: a
third cross-entropy of the same weight. The head's table of pairs is made of the train rows in `setup` and is part of
model and checkpoint; a resumed run keeps the checkpoint's and refuses a train split with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor, nn

from crossmamba.encoders import Encoder
from crossmamba.errors import DataError, UsageError
from crossmamba.models.mambavl import MambaVL, MambaVLOutput
from crossmamba.models.mambavl_actions import known_actions
from crossmamba.tasks.action_metric import ActionMetric
from crossmamba.tasks.action_optim import Decay, Optimization, RateSchedule, action_groups, scheduled
from crossmamba.tasks.action_pairs import ActionPlaces, cross_entropy_of_known
from crossmamba.tasks.base import TrainingTask
from crossmamba.tasks.mixing import Mixed, mix
from crossmamba.tasks.optim import OptimizerName, build_optimizer


class ActionTask(TrainingTask):
    """Cross-entropy of verb plus that of noun, as MambaVL is trained (spec §1.7, §1.8).

    What the model reads is the data's matter (`ActionDataModule`): a clip or stored tokens, with questions, without
    (`question_source: none`), or questions alone (`video: none`).

    Args:
        model, model_args: see `TrainingTask`; a `mambavl_*`.
        optimizer: "adamw", "sgd" (Nesterov with `momentum`) or "adam". betas: of the first and the last.
        learning_rate: highest rate of what is neither encoder nor fusion. weight_decay: of weights that are decayed.
        encoder_lr_scale, fusion_lr_scale: factors on it for the video encoder and for the scans.
        schedule, warmup_epochs, warmup_start, final_rate, drop_epochs, drop_factor: see `RateSchedule`.
        optimization: "ours", or "official" for the released code's groups and its jump after the warm-up, see
            `action_optim`.
        label_smoothing: of both cross-entropies in training.
        mixup, cutmix: alpha of each, 0 for none; of both, one is drawn for each step. They mix clips and labels, and
            questions cannot be mixed, so they are refused where there are any.
        freeze_encoder: the video encoder does not learn.
        gradient_checkpointing: of the video encoder: less memory, a third more time.
        video_weights, text_weights: published checkpoints of the video encoder and of RoBERTa (a path, a folder, a
            run's model folder, or `hf://owner/repo/file`).
        nan_policy: "stop", or "skip:N" steps that are not finite before stopping.
    """

    task = "action"
    score = "action"

    def __init__(
        self,
        model: str,
        model_args: dict[str, Any] | None = None,
        *,
        optimizer: OptimizerName = "adamw",
        learning_rate: float = 2e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.9,
        weight_decay: float = 0.05,
        encoder_lr_scale: float = 1.0,
        fusion_lr_scale: float = 1.0,
        schedule: Decay = "cosine",
        warmup_epochs: float = 0.0,
        warmup_start: float = 0.0,
        final_rate: float = 0.0,
        drop_epochs: tuple[float, ...] = (),
        drop_factor: float = 0.1,
        optimization: Optimization = "ours",
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        freeze_encoder: bool = False,
        gradient_checkpointing: bool = False,
        video_weights: str | None = None,
        text_weights: str | None = None,
        nan_policy: str = "stop",
    ) -> None:
        super().__init__(model, model_args, picture_weights=None, sound_weights=None, nan_policy=nan_policy)
        if not isinstance(self.model, MambaVL):
            raise UsageError(f"{model} is no model of actions; `crossmamba models` lists those: mambavl_...")
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"model.label_smoothing is {label_smoothing}; it must be in [0, 1)")
        if min(mixup, cutmix) < 0:
            raise UsageError(f"model.mixup is {mixup} and model.cutmix {cutmix}; both must be at least 0")
        self.encoder_weights = {"video": video_weights, "text": text_weights}
        if self.model.encoder is not None:
            self.model.encoder.set_frozen(freeze_encoder)
            self.model.encoder.set_gradient_checkpointing(gradient_checkpointing)
        elif gradient_checkpointing:
            raise UsageError("model.gradient_checkpointing is of the video encoder, and the model reads stored tokens")
        self.optimizer_name, self.betas, self.momentum = optimizer, betas, momentum
        self.rates = {
            "learning_rate": learning_rate,
            "encoder_lr_scale": encoder_lr_scale,
            "fusion_lr_scale": fusion_lr_scale,
            "weight_decay": weight_decay,
            "optimization": optimization,
        }
        self.schedule: dict[str, Any] = {
            "decay": schedule,
            "warmup_epochs": warmup_epochs,
            "warmup_start": warmup_start,
            "final_rate": final_rate,
            "drop_epochs": tuple(drop_epochs),
            "drop_factor": drop_factor,
            "official": optimization == "official",
        }
        RateSchedule(**self.schedule)  # says now what would be wrong
        self.label_smoothing, self.mixup, self.cutmix = label_smoothing, mixup, cutmix
        self.all_must_learn = False
        self.metric: Any = None  # the data set has the rows that are scored
        self.actions: list[tuple[int, int]] = []  # and the actions that a head for them learns
        self.places = ActionPlaces(self.actions)

    def encoders(self) -> Mapping[str, Encoder]:
        found = {"video": self.model.encoder, "text": getattr(self.model.text, "encoder", None)}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    # Set-up
    def check_trainer(self, trainer: Trainer) -> None:
        """Remembers whether parameters without a gradient are allowed; `check_data` knows whether there are any."""
        finds_unused = getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters", False)
        self.all_must_learn = trainer.world_size > 1 and not finds_unused

    def check_data(self, data: Any) -> None:
        """Raises UsageError if a sample does not fit the model; called before anything is written."""
        for role in ("train", "val"):
            sample = data.dataset(role)[0]
            check_sample(self.model, sample)
            unread = unread_parts(self.model, sample)
            if unread and self.all_must_learn:
                raise UsageError(
                    f"the data leave parts of the model without input ({', '.join(unread)}); several processes then "
                    "need --trainer.strategy ddp_find_unused_parameters_true"
                )
            if "verb_question" in sample and max(self.mixup, self.cutmix) > 0:
                raise UsageError(
                    "model.mixup and model.cutmix mix clips and labels but not questions: set both to 0, or "
                    "data.question_source=none"
                )
        check_classes(self.model, len(data.classes.verbs), len(data.classes.nouns), data.vocabulary_size)
        if self.model.action_head is not None:
            self.model.action_head.learn(data.train_actions)
        encoder = self.model.encoder
        if encoder is not None and data.video == "clips":
            for name, ours, theirs in (("mean", encoder.mean, data.mean), ("std", encoder.deviation, data.std)):
                if max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) > 1e-3:
                    raise UsageError(
                        f"data.{name} is {list(theirs)} and the video encoder expects pixels standardised by "
                        f"{[round(value, 5) for value in ours]}: set data.{name}"
                    )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = self.trainer.datamodule
        if self.model.action_head is not None:
            self.model.action_head.learn(data.train_actions)
        self.actions = known_actions(self.model)
        self.places = ActionPlaces(self.actions)
        self.metric = ActionMetric(data.task, data.dataset("val").rows, actions=self.actions)

    def on_fit_start(self) -> None:
        """Raises DataError if a checkpoint was loaded whose actions are not those of the train split."""
        if (held := known_actions(self.model)) != self.actions:
            raise DataError(
                f"the checkpoint's head knows {len(held)} actions and the train split has {len(self.actions)}, not the "
                "same ones: resume with the train split that the run was started with"
            )

    def configure_optimizers(self) -> dict[str, Any]:
        data = self.trainer.datamodule
        groups = action_groups(self.model, **self.rates)
        optimizer = build_optimizer(self.optimizer_name, groups, betas=self.betas, momentum=self.momentum)
        steps = data.steps_per_epoch
        schedule = RateSchedule(**self.schedule, epochs=data.total_steps / steps)
        rates = scheduled(optimizer, schedule, base=self.rates["learning_rate"], steps_per_epoch=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    # Steps
    def forward(self, batch: Mapping[str, Any]) -> MambaVLOutput:
        return recognize(self.model, batch)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        size = len(batch["index"])
        mixed = Mixed()
        if max(self.mixup, self.cutmix) > 0:
            key = "video" if "video" in batch else "tokens"
            clips, mixed = mix(batch[key], mixup=self.mixup, cutmix=self.cutmix)
            batch = {**batch, key: clips}
        output = self(batch)
        verb = self._loss(output.verb, batch["verb"], mixed)
        noun = self._loss(output.noun, batch["noun"], mixed)
        parts = {"loss_verb": verb, "loss_noun": noun}
        if output.action is not None:
            wanted = self.places(batch["verb"], batch["noun"])
            parts["loss_action"] = self._loss(output.action[:, : len(self.actions)], wanted, mixed, some_unknown=True)
        total = verb + noun + parts.get("loss_action", 0)
        for name, part in {"loss": total, **parts}.items():
            self.log(f"train/{name}", part.detach(), batch_size=size)
        return total

    def _loss(self, logits: Tensor, labels: Tensor, mixed: Mixed, *, some_unknown: bool = False) -> Tensor:
        def loss(wanted: Tensor) -> Tensor:
            cross_entropy = cross_entropy_of_known if some_unknown else F.cross_entropy
            return cross_entropy(logits.float(), wanted, label_smoothing=self.label_smoothing)

        if mixed.partner is None:
            return loss(labels)
        return mixed.share * loss(labels) + (1 - mixed.share) * loss(labels[mixed.partner])

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        output = self(batch)
        action = None if output.action is None else output.action[:, : len(self.actions)].float()
        verb, noun = output.verb.float(), output.noun.float()
        self.metric.update(verb, noun, batch["index"], action)
        loss = F.cross_entropy(verb, batch["verb"]) + F.cross_entropy(noun, batch["noun"])
        self.validation_loss.update(loss, weight=len(verb))

    def on_validation_epoch_end(self) -> None:
        scores = self.metric.compute()
        self.metric.reset()
        self.log_validation_loss()
        for name, value in scores.items():
            self.log(f"{self.select_on}/{name}", value.to(self.device), sync_dist=True)


def recognize(model: nn.Module, batch: Mapping[str, Any]) -> MambaVLOutput:
    """`model` on a batch of `ActionDataModule`: the clip or its tokens, and the questions, where they are there."""
    video = batch.get("video", batch.get("tokens"))
    return model(video, batch.get("verb_question"), batch.get("noun_question"))


def check_sample(model: nn.Module, sample: Mapping[str, Any]) -> None:
    """Whether a data set's item is what the model takes, as `model.needs` says.

    Raises:
        UsageError: pictures where stored tokens are needed, tokens of another width, or questions for a model without
            text, with what to change.
    """
    needs = model.needs
    if "video" in sample and needs["video"] == "tokens":
        raise UsageError(
            f"this model reads stored tokens of width {needs['video_dim']}, and the data are pictures: set data.video "
            "to the folder of stored tokens, or model.model_args.video to a video encoder"
        )
    if "tokens" in sample and sample["tokens"].shape[-1] != needs["video_dim"]:
        raise UsageError(
            f"the stored tokens have width {sample['tokens'].shape[-1]} and the model takes {needs['video_dim']}: set "
            "data.video to tokens of the model's encoder, or model.model_args.video_dim"
        )
    if "verb_question" in sample and needs["question"] is None:
        raise UsageError("the model has no text side: set data.question_source=none, or give the model a fusion")
    if not {"video", "tokens", "verb_question"} & sample.keys():
        raise UsageError("data.video is none and data.question_source is none: nothing is left to read")


def unread_parts(model: nn.Module, sample: Mapping[str, Any]) -> list[str]:
    """Parts of the model that learn and read nothing of such samples: "video encoder", "video", "text"."""
    encoder = model.encoder is not None and any(p.requires_grad for p in model.encoder.parameters())
    reads = {
        "video encoder": not encoder or "video" in sample,
        "video": "video" in sample or "tokens" in sample,
        "text": model.text is None or "verb_question" in sample,
    }
    return [part for part, read in reads.items() if not read]


def check_classes(model: nn.Module, verbs: int, nouns: int, words: int | None) -> None:
    """Whether the heads have the data set's classes, and the words the tokenizer's numbers (None: no question).

    Raises:
        UsageError: with the arguments that fit.
    """
    given = {"verbs": model.verb_head.out_features, "nouns": model.noun_head.out_features}
    wanted = {"verbs": verbs, "nouns": nouns}
    if words is not None and getattr(model.text, "needs", None) == "words":
        given["words"], wanted["words"] = model.text.words, words
    if wrong := [name for name in wanted if given[name] != wanted[name]]:
        said = ", ".join(f"{given[name]} {name} (the data have {wanted[name]})" for name in wrong)
        fix = " ".join(f"--model.model_args.{name} {wanted[name]}" for name in wrong)
        raise UsageError(f"the model is built for {said}; give {fix}")
