"""Optimisers and learning rate schedules of the recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from crossmamba.errors import UsageError

Schedule = Literal["none", "cosine", "step"]
OptimizerName = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True)
class Part:
    """Parameters that share a learning rate: `scale` times the run's. `decayed=False`: none of them is decayed."""

    name: str
    parameters: Sequence[nn.Parameter]
    scale: float = 1.0
    decayed: bool = True


def parameter_groups(
    model: nn.Module, encoders: nn.Module | None, *, learning_rate: float, encoder_lr_scale: float, weight_decay: float
) -> list[dict[str, object]]:
    """Groups of an optimiser: the encoders (whose rate is scaled) first, then the rest, each split by weight decay.

    Parameters flagged `_no_weight_decay` (A_log and D of the scans, as in mamba_ssm) are not decayed. Parameters that
    take no gradient (a frozen encoder) are left out.
    """
    inside = [] if encoders is None else list(encoders.parameters())
    known = {id(parameter) for parameter in inside}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    parts = [Part("encoder", inside, encoder_lr_scale), Part("model", rest)]
    return groups_of_parts(parts, learning_rate=learning_rate, weight_decay=weight_decay, undecayed=flagged)


def flagged(parameter: nn.Parameter) -> bool:
    """Whether a parameter says that it must not be decayed."""
    return bool(getattr(parameter, "_no_weight_decay", False))


def groups_of_parts(
    parts: Sequence[Part],
    *,
    learning_rate: float,
    weight_decay: float,
    undecayed: Callable[[nn.Parameter], bool],
) -> list[dict[str, object]]:
    """One or two groups a part: decayed parameters, and those that are not. Frozen ones are left out.

    Raises:
        UsageError: nothing is left to train.
    """
    groups: list[dict[str, object]] = []
    for part in parts:
        trainable = [parameter for parameter in part.parameters if parameter.requires_grad]
        for decay in (False, True):
            chosen = [p for p in trainable if (part.decayed and not undecayed(p)) is decay]
            if chosen:
                groups.append(
                    {
                        "name": part.name if decay else f"{part.name}, no decay",
                        "params": chosen,
                        "lr": learning_rate * part.scale,
                        "weight_decay": weight_decay if decay else 0.0,
                    }
                )
    if not groups:
        raise UsageError("the model has no parameter to train: everything is frozen")
    return groups


def build_optimizer(
    name: OptimizerName,
    groups: list[dict[str, object]],
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    momentum: float = 0.9,
) -> torch.optim.Optimizer:
    """Adam (weight decay, if any, is added to the gradient), AdamW (it is taken from the weights), or SGD with
    Nesterov's momentum (plain without momentum; weight decay is added to the gradient)."""
    kinds: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=momentum, nesterov=momentum > 0)
    if name not in kinds:
        raise UsageError(f"unknown optimizer {name!r}; choose one of {', '.join(get_args(OptimizerName))}")
    return kinds[name](groups, betas=tuple(betas))  # type: ignore[call-arg]


def learning_rate_schedule(
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    warmup_steps: int,
    total_steps: int,
    drop_every: int = 0,
    drop_factor: float = 0.1,
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over `warmup_steps`, then what `schedule` says.

    Args:
        schedule: "none" (constant), "cosine" (half a cosine down to 0 at `total_steps`), or "step" (times `drop_factor`
            after every `drop_every` steps, counted from the run's start).
        total_steps, drop_every: optimiser steps.

    Raises:
        UsageError: an unknown schedule, or "step" without `drop_every`.
    """
    if schedule not in get_args(Schedule):
        raise UsageError(f"unknown schedule {schedule!r}; choose one of {', '.join(get_args(Schedule))}")
    if schedule == "step" and drop_every < 1:
        raise UsageError(f"schedule 'step' drops the learning rate every {drop_every} steps; it must be at least 1")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "none":
            return 1.0
        if schedule == "step":
            return drop_factor ** (step // drop_every)
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
