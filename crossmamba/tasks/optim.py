"""Optimiser and schedule of the recipes."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from crossmamba.errors import UsageError

Schedule = Literal["none", "cosine"]


def parameter_groups(
    model: nn.Module, encoder: nn.Module | None, *, learning_rate: float, encoder_lr_scale: float, weight_decay: float
) -> list[dict[str, object]]:
    """Groups for AdamW: the picture encoder first, then the rest, each split by whether weight decay applies.

    Parameters flagged `_no_weight_decay` (A_log and D of the scans, as in mamba_ssm) are not decayed. Parameters that
    take no gradient (a frozen encoder) are left out.
    """
    encoder_ids = {id(parameter) for parameter in encoder.parameters()} if encoder is not None else set()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = []
    for name, inside, scale in (("encoder", True, encoder_lr_scale), ("model", False, 1.0)):
        members = [parameter for parameter in trainable if (id(parameter) in encoder_ids) is inside]
        for decay in (False, True):
            chosen = [p for p in members if getattr(p, "_no_weight_decay", False) is not decay]
            if chosen:
                groups.append(
                    {
                        "name": name if decay else f"{name}, no decay",
                        "params": chosen,
                        "lr": learning_rate * scale,
                        "weight_decay": weight_decay if decay else 0.0,
                    }
                )
    if not groups:
        raise UsageError("the model has no parameter to train: everything is frozen")
    return groups


def learning_rate_schedule(
    optimizer: torch.optim.Optimizer, schedule: Schedule, *, warmup_steps: int, total_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up over `warmup_steps`, then constant ("none") or half a cosine down to 0 at `total_steps`."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "none":
            return 1.0
        progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
