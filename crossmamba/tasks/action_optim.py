"""Parameter groups and learning rates of MambaVL's recipes (spec §1.8).

| group | what is in it | rate |
|---|---|---|
| encoder | the video encoder | `encoder_lr_scale` times the learning rate |
| fusion | the scans (or what stands in their place) with their A, and norms behind them | `fusion_lr_scale` times it |
| rest | projections, words, heads | the learning rate |

A rate is a function of the epoch e, a fraction inside an epoch: from `warmup_start` linearly to the group's own rate
during the warm-up, then a half cosine down to `final_rate` at the run's end, or steps.

`optimization="official"` is what the released code does in place of that, for replication: the groups are chosen by
names with "mamba" in them, so that the shared A is in the rest and is decayed, as are all biases and norms; the warm-up
aims at the rest's rate for every group, so that the fusion's rate jumps when it ends; and the cosine counts from the
run's start.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from crossmamba.errors import UsageError
from crossmamba.tasks.optim import Part, flagged, groups_of_parts

Optimization = Literal["ours", "official"]
Decay = Literal["cosine", "step", "none"]


@dataclass(frozen=True)
class RateSchedule:
    """Learning rate by epoch.

    Args:
        decay: "cosine", "step" (times `drop_factor` at each epoch of `drop_epochs`) or "none".
        epochs: of the whole run.
        warmup_epochs: of the linear warm-up, from `warmup_start` for every group; may be a fraction.
        final_rate: of every group at the end of the cosine (a group whose peak is lower keeps its peak).
        official: see the module.

    Raises:
        UsageError: a value out of range.
    """

    decay: Decay = "cosine"
    epochs: float = 100.0
    warmup_epochs: float = 0.0
    warmup_start: float = 0.0
    final_rate: float = 0.0
    drop_epochs: tuple[float, ...] = field(default=())
    drop_factor: float = 0.1
    official: bool = False

    def __post_init__(self) -> None:
        if self.decay not in get_args(Decay):
            raise UsageError(f"unknown schedule {self.decay!r}; choose one of {', '.join(get_args(Decay))}")
        if min(self.warmup_epochs, self.warmup_start, self.final_rate) < 0 or self.epochs <= 0:
            raise UsageError(
                f"warm-up of {self.warmup_epochs} epochs from {self.warmup_start} to end at {self.final_rate} after "
                f"{self.epochs} epochs: negative, or an empty run"
            )
        if list(self.drop_epochs) != sorted(self.drop_epochs):
            raise UsageError(f"drop_epochs {list(self.drop_epochs)} must ascend")

    def rate(self, epoch: float, peak: float, base: float) -> float:
        """Of a group whose highest rate is `peak`, where the rest's is `base`."""
        if epoch >= self.warmup_epochs:
            return self._after(epoch, peak)
        target = self._after(self.warmup_epochs, base if self.official else peak)
        return self.warmup_start + (target - self.warmup_start) * epoch / self.warmup_epochs

    def _after(self, epoch: float, peak: float) -> float:
        if self.decay == "none":
            return peak
        if self.decay == "step":
            return peak * self.drop_factor ** sum(epoch >= drop for drop in self.drop_epochs)
        begin = 0.0 if self.official else min(self.warmup_epochs, self.epochs)
        progress = min(1.0, (epoch - begin) / max(self.epochs - begin, 1e-9))
        low = min(self.final_rate, peak)
        return low + (peak - low) * (math.cos(math.pi * progress) + 1) / 2


def action_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    encoder_lr_scale: float,
    fusion_lr_scale: float,
    weight_decay: float,
    optimization: Optimization,
) -> list[dict[str, object]]:
    """The groups of the module's table for a `MambaVL`.

    Raises:
        UsageError: nothing to train, or an unknown optimisation.
    """
    if optimization not in get_args(Optimization):
        raise UsageError(f"optimization is {optimization!r}; one of {', '.join(get_args(Optimization))}")
    official = optimization == "official"
    encoder = [] if model.encoder is None else list(model.encoder.parameters())
    fusion = [
        parameter
        for name, parameter in model.named_parameters()
        if name.startswith(("fusion.", "norms.")) and not (official and name == "fusion.A_log")
    ]
    known = {id(parameter) for parameter in (*encoder, *fusion)}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return groups_of_parts(
        [Part("encoder", encoder, encoder_lr_scale), Part("fusion", fusion, fusion_lr_scale), Part("rest", rest)],
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        undecayed=(lambda parameter: False) if official else _vector_or_flagged,
    )


def _vector_or_flagged(parameter: nn.Parameter) -> bool:
    """Biases and norms, and what says so itself: A and D of the scans."""
    return parameter.ndim < 2 or flagged(parameter)


def scheduled(
    optimizer: torch.optim.Optimizer, schedule: RateSchedule, *, base: float, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """`schedule` for every group of an optimiser whose groups start at their peaks; one call a step."""

    def factor(peak: float) -> Callable[[int], float]:
        return lambda step: schedule.rate(step / steps_per_epoch, peak, base) / peak if peak > 0 else 0.0

    groups: list[dict[str, Any]] = optimizer.param_groups
    return torch.optim.lr_scheduler.LambdaLR(optimizer, [factor(group["lr"]) for group in groups])
