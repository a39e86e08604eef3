"""Scores of actions during training: the logits of the whole split are kept, from all processes, and judged at the end.

They are `crossmamba.metrics.epic100`'s, as fractions of 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from crossmamba.metrics.epic100 import (
    EpicScores,
    LabelledRow,
    action_scores_of_head,
    anticipation_scores,
    recognition_scores,
)

SLOTS = ("verb", "noun", "action")


def headline(scores: EpicScores) -> dict[str, float | None]:
    """The scores that choose and compare models, per cent.

    Recognition: `verb`, `noun`, `action` are top-1 accuracies, `verb5` and so on top-5. Anticipation: the three are
    official mean top-5 recalls.
    """
    if scores.task == "anticipation":
        return {slot: scores.values[f"overall_{slot}_mt5r_official"] for slot in SLOTS}
    return {
        slot + ("" if k == 1 else str(k)): scores.values[f"all_{slot}_accuracy_at_{k}"]
        for k in (1, 5)
        for slot in SLOTS
    }


class ActionMetric(Metric):
    """Takes logits by the row's number; `compute` gives `headline` of the whole split as fractions, on any number of
    processes that share it in any way.

    Args:
        task: "recognition" or "anticipation". rows: labelled segments; `index` counts them.
        actions: (verb, noun) of the columns of a head over actions, whose scores then judge actions; without: the
            product of verb and noun.
    """

    full_state_update = False

    def __init__(
        self, task: str, rows: Sequence[LabelledRow], *, actions: Sequence[tuple[int, int]] = (), **options: Any
    ) -> None:
        super().__init__(**options)
        self.task, self.rows, self.actions = task, rows, list(actions)
        for name in ("verb", "noun", "index", *(["action"] if self.actions else [])):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, verb: Tensor, noun: Tensor, index: Tensor, action: Tensor | None = None) -> None:
        """Logits (B, verbs) and (B, nouns), int64 (B,); with `actions` their logits (B, actions)."""
        if self.actions:
            assert action is not None
            self.action.append(action.detach())
        self.verb.append(verb.detach())
        self.noun.append(noun.detach())
        self.index.append(index)

    def compute(self) -> dict[str, Tensor]:
        """Fractions by name; a score without segments is left out."""
        index = dim_zero_cat(self.index).cpu()
        verb, noun = (dim_zero_cat(state).cpu().double().numpy() for state in (self.verb, self.noun))
        judge = anticipation_scores if self.task == "anticipation" else recognition_scores
        rows = [self.rows[number] for number in index.tolist()]
        chosen = None
        if self.actions:
            joint = dim_zero_cat(self.action).cpu().double().numpy()
            chosen = action_scores_of_head(joint, self.actions, verb, noun)
        found = headline(judge(verb, noun, rows, actions=chosen))
        return {name: torch.tensor(value / 100) for name, value in found.items() if value is not None}
