"""What stops a training run that has gone wrong: losses that are not finite, and samples that cannot be read.

Both decide the same on every process, so that none waits for another that has left.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from crossmamba.errors import CrossmambaError, DataError, UsageError
from crossmamba.tasks.resume import EpochDataset, derive_seed


class NonFiniteError(CrossmambaError):
    """The loss or its gradient is NaN or infinite."""


class NonFiniteGuard(Callback):
    """Stops at a loss or gradient that is not finite and says at which step, on which samples and in which module.

    The check is made once per optimiser step, on the gradients after they were reduced over the processes, so that all
    of them see it; a loss that is infinite with finite gradients is made to count by poisoning its gradient.

    Args:
        policy: "stop", or "skip:N": leave the weights alone at up to N such steps of the run, counted and announced,
            and stop at the next. Not used with 16-bit float precision, whose loss scaler expects overflows.
        repeat: called as `repeat(step, batch_idx, rank)` before the batch is run again to find the module; seeds as
        training did.
        folder: where the offending batch is saved as `nonfinite_step_N.pt`, None for nowhere.
    """

    def __init__(
        self, policy: str = "stop", *, repeat: Callable[[int, int, int], None] | None = None, folder: Path | None = None
    ) -> None:
        self.skips_allowed = parse_policy(policy)
        self.repeat = repeat
        self.folder = folder
        self.skipped = 0
        self._batches: list[tuple[int, Any]] = []
        self._losses: list[Tensor] = []

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]

    def table_values(self) -> dict[str, float]:
        """Columns of metrics.csv."""
        return {"skipped_steps": self.skipped}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batches.append((batch_idx, batch))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        finite = torch.isfinite(loss.detach())
        self._losses.append(finite)
        if loss.requires_grad:
            loss.register_hook(lambda gradient: torch.where(finite, gradient, torch.nan))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        batches, losses = self._batches, self._losses
        self._batches, self._losses = [], []
        if trainer.precision in ("16-mixed", "16-true"):
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients or bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients))):
            return
        if self.skipped < self.skips_allowed:
            self.skipped += 1
            optimizer.zero_grad(set_to_none=True)  # a step without gradients changes nothing
            warnings.warn(
                f"step {trainer.global_step}: not finite, step skipped ({self.skipped} of {self.skips_allowed})",
                stacklevel=2,
            )
            return
        raise NonFiniteError(self._explain(trainer, pl_module, batches, losses))

    def _explain(self, trainer: Trainer, pl_module: LightningModule, batches: list[Any], losses: list[Tensor]) -> str:
        bad = [batch for batch, finite in zip(batches, losses, strict=False) if not bool(finite)]
        batch_idx, batch = (bad or batches)[0]
        ids = ", ".join(sample_ids(batch))
        if not bad:
            what = f"the gradient is not finite (the loss is) on samples {ids}"
            if trainer.world_size > 1:
                what += " of this process or on another process's samples"
            where = f"the first such gradient is that of {first_bad_gradient(pl_module)}"
        else:
            what = f"the loss is not finite on samples {ids}"
            if self.repeat is not None:
                self.repeat(trainer.global_step, batch_idx, trainer.global_rank)
            where = find_nonfinite_module(pl_module, lambda: pl_module.training_step(batch, batch_idx))
        saved = ""
        if self.folder is not None and isinstance(batch, dict):
            path = self.folder / f"nonfinite_step_{trainer.global_step}_rank_{trainer.global_rank}.pt"
            torch.save({k: v for k, v in batch.items() if isinstance(v, Tensor | list)}, path)
            saved = f" The batch is in {path}."
        return (
            f"step {trainer.global_step} (epoch {trainer.current_epoch + 1}): {what}; {where}.{saved} "
            "Lower the learning rate, clip gradients (trainer.gradient_clip_val) or train in 32-bit; "
            "model.nan_policy=skip:N skips up to N such steps."
        )


def parse_policy(policy: str) -> int:
    """Number of steps that may be skipped: "stop" -> 0, "skip:3" -> 3. Raises UsageError for anything else."""
    if policy == "stop":
        return 0
    if found := re.fullmatch(r"skip:(\d+)", policy):
        return int(found[1])
    raise UsageError(f"nan_policy {policy!r} is unknown; use 'stop' or 'skip:N', for example 'skip:3'")


def sample_ids(batch: Any) -> list[str]:
    """The ids of a batch's samples: its `clip_id` or `index`, as text."""
    if isinstance(batch, dict):
        for key in ("clip_id", "index"):
            if key in batch:
                values = batch[key].tolist() if isinstance(batch[key], Tensor) else batch[key]
                return [str(value) for value in values]
    return ["(the batch names none)"]


def first_bad_gradient(module: nn.Module) -> str:
    """Name of the first parameter whose gradient is not finite."""
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return name
    return "a parameter that could not be told"


def find_nonfinite_module(module: nn.Module, forward: Callable[[], Any]) -> str:
    """Runs `forward()` again and tells where the first value that is not finite arises.

    Args:
        module: its weights are checked first, then the outputs of its submodules, innermost first.
        forward: runs the module; its result is not used.
    Returns: a sentence part such as "it arises in model.encoder.conv1 (Conv2d)".
    """
    for name, parameter in module.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return f"the weight {name} already holds values that are not finite"
    found: list[str] = []

    def check(name: str, kind: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            if not found and not all_finite(output):
                came_in = "" if all_finite(inputs) else ", whose input is not finite either"
                found.append(f"it arises in {name} ({kind}){came_in}")

        return hook

    handles = [
        child.register_forward_hook(check(name, type(child).__name__)) for name, child in module.named_modules() if name
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else "every module's output is finite, so it arises in the loss"


def all_finite(value: Any) -> bool:
    """Whether every float tensor inside nested tuples, lists, dicts and dataclass-like objects is finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(all_finite(item) for item in value.values())
    if isinstance(value, list | tuple):
        return all(all_finite(item) for item in value)
    return all(all_finite(item) for item in vars(value).values()) if hasattr(value, "__dataclass_fields__") else True


class SubstituteBadSamples:
    """A training set whose unreadable samples are replaced by others, chosen by (seed, epoch, index).

    Each item gets `substituted`: "" or what was wrong with the sample it stands for; `BadSampleCount` counts those.

    Args:
        dataset: the real one; raises `DataError` for a sample that cannot be used.
        attempts: how many bad samples in a row are passed over before the error is raised.
    """

    def __init__(self, dataset: EpochDataset, *, seed: int, attempts: int = 8) -> None:
        self.dataset = dataset
        self.seed = seed
        self.attempts = attempts
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return {**self.dataset[index], "substituted": ""}
        except DataError as error:
            first = error
        for attempt in range(self.attempts):
            other = derive_seed(self.seed, "substitute", self.epoch, index, attempt) % len(self.dataset)
            try:
                return {**self.dataset[other], "substituted": f"sample {index}: {first}"}
            except DataError:
                continue
        raise DataError(f"{self.attempts + 1} samples in a row cannot be read; the first: {first}") from first


class BadSampleCount(Callback):
    """Counts the training samples that were substituted and stops the run when there are too many.

    Every bad sample is announced once with its reason. The limit is `limit` of the training set, but at least one
    sample and at most 100; it is checked at each batch, with several processes at the last one of each epoch.

    Args:
        limit: share of the training set, 0..1. 0 lets no bad sample pass.
    """

    def __init__(self, limit: float = 0.001) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"reasons": self.reasons}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.reasons = dict(state_dict["reasons"])

    def table_values(self) -> dict[str, float]:
        """Columns of metrics.csv."""
        return {"bad_samples": len(self.reasons)}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for reason in filter(None, batch.get("substituted", ()) if isinstance(batch, dict) else ()):
            sample = reason.partition(":")[0]
            if sample not in self.reasons:
                self.reasons[sample] = reason
                warnings.warn(f"unreadable training {reason}; another sample takes its place", stacklevel=2)
        if trainer.world_size > 1 and not trainer.is_last_batch:
            return  # all processes compare notes once an epoch, so that all stop together
        if trainer.world_size > 1:
            everyone: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, self.reasons)
            self.reasons = {sample: reason for part in everyone for sample, reason in sorted(part.items())}
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        size = len(trainer.datamodule.dataset("train"))
        allowed = min(100, max(1, int(self.limit * size))) if self.limit > 0 else 0
        if len(self.reasons) > allowed:
            shown = "; ".join(list(self.reasons.values())[:3])
            raise DataError(
                f"{len(self.reasons)} of {size} training samples cannot be read, more than the {allowed} allowed "
                f"(data.bad_sample_limit={self.limit}): {shown}"
            )
