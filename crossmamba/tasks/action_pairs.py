"""The actions of a train split, as places of a head over actions (`models.mambavl_actions`), and its loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from crossmamba.metrics.epic100 import LabelledRow

UNKNOWN = -100
"""The place of an action that the train split does not have."""


def actions_of(rows: Iterable[LabelledRow]) -> list[tuple[int, int]]:
    """The different (verb, noun) of labelled rows, in ascending order."""
    pairs = {(r.verb_class, r.noun_class) for r in rows if r.verb_class is not None and r.noun_class is not None}
    return sorted(pairs)


class ActionPlaces:
    """Finds actions in a list.

    Args:
        actions: different (verb, noun).
    """

    def __init__(self, actions: Sequence[tuple[int, int]]) -> None:
        self.table = torch.tensor(list(actions), dtype=torch.int64).reshape(-1, 2)

    def __call__(self, verb: Tensor, noun: Tensor) -> Tensor:
        """Classes, int64 (B,) each -> places in the list, int64 (B,); `UNKNOWN` for a pair that is not there."""
        self.table = self.table.to(verb.device)
        same = (self.table[None] == torch.stack([verb, noun], dim=1)[:, None]).all(dim=2)
        if not same.shape[1]:
            return torch.full_like(verb, UNKNOWN)
        return torch.where(same.any(dim=1), same.int().argmax(dim=1), UNKNOWN)


def cross_entropy_of_known(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the rows whose label is not `UNKNOWN`; 0, with a gradient of 0, where there is none.

    Args:
        logits: (B, C). labels: int64 (B,).
    """
    total = F.cross_entropy(logits, labels, ignore_index=UNKNOWN, label_smoothing=label_smoothing, reduction="sum")
    return total / (labels != UNKNOWN).sum().clamp(min=1)
