"""The scores of EPIC-KITCHENS-100: recognition (C1) and anticipation (C3), as the official code gives them (spec §4).

Percent throughout. Each number is over one subset of the segments:

| subset | verb | noun | action |
|---|---|---|---|
| all / overall | all | all | all |
| tail | verb class is rare | noun class is rare | either is rare |
| unseen | the participant is not in train | likewise | likewise |

A subset without segments gives None, never NaN. Three numbers go by the name "mean top-5 recall of actions"; they have
three names here and the official one comes first:

| name | an action is recalled if |
|---|---|
| `mt5r_official` | its pair is among the five best of all 97 x 300 pairs |
| `mt5r_joint_hit` | its verb is among five verbs and its noun among five nouns (InAViT's and MambaVL's own meter) |
| `mt5r_closed3806` | its pair is among the five best of the pairs that occur in train and validation |

On the same scores these were 29.6, 42.1 and 51.3: never compare one with another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossmamba.errors import UsageError
from crossmamba.metrics.epic100_actions import (
    ACTIONS_KEPT,
    ActionScores,
    action_scores,
    action_scores_of_head,
    action_scores_of_joint,
    check_scores,
    closed_action_scores,
    log_softmax,
    marginalise,
    mean_of_views,
    top_classes,
)

__all__ = [
    "ACTIONS_KEPT",
    "ActionScores",
    "EpicScores",
    "LabelledRow",
    "action_scores",
    "action_scores_of_head",
    "action_scores_of_joint",
    "anticipation_scores",
    "check_scores",
    "closed_action_scores",
    "joint_topk",
    "log_softmax",
    "marginalise",
    "mean_class_recall",
    "mean_of_views",
    "mt5r_closed3806",
    "mt5r_joint_hit",
    "mt5r_official",
    "recognition_scores",
]

Hits = NDArray[np.bool_]
Classes = NDArray[np.int64]
_SLOTS = ("verb", "noun", "action")


class LabelledRow(Protocol):
    """What is needed of a segment; `crossmamba.data.epic.annotations.EpicRow` has it."""

    @property
    def narration_id(self) -> str: ...

    @property
    def participant_id(self) -> str: ...

    @property
    def verb_class(self) -> int | None: ...

    @property
    def noun_class(self) -> int | None: ...


@dataclass
class EpicScores:
    """A table of scores.

    Attributes:
        task: "recognition" or "anticipation".
        values: name -> percent; None where the subset has no segments or its list was not given.
        counts: subset and slot, such as `tail_action` -> segments.
        classes: the same -> different classes among them.
        notes: what a reader must know, such as an empty subset.
    """

    task: str
    values: dict[str, float | None] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> float | None:
        return self.values[name]

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return {
            "task": self.task,
            "percent": self.values,
            "segments": self.counts,
            "classes": self.classes,
            "notes": self.notes,
        }

    @property
    def text(self) -> str:
        """For a terminal: one line a subset and measure, columns verb, noun, action."""
        lines = [f"{'':30}{'verb':>9}{'noun':>9}{'action':>9}"]
        for name in dict.fromkeys(_row_of(key) for key in self.values):
            cells = [self.values.get(name.replace("*", slot), "") for slot in _SLOTS]
            shown = ("" if cell == "" else "-" if cell is None else f"{cell:.4f}" for cell in cells)
            lines.append(f"{name.replace('_*_', ' '):30}" + "".join(f"{cell:>9}" for cell in shown))
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _row_of(key: str) -> str:
    for slot in _SLOTS:
        if f"_{slot}_" in key:
            return key.replace(f"_{slot}_", "_*_", 1)
    return key


@dataclass(frozen=True)
class _Truth:
    """Labels of the segments and the subsets that they form."""

    verb: Classes
    noun: Classes
    subsets: dict[str, dict[str, Hits]]  # name -> slot -> which segments

    @property
    def action(self) -> Classes:
        return self.verb * 1000 + self.noun

    def of(self, slot: str) -> Classes:
        return {"verb": self.verb, "noun": self.noun, "action": self.action}[slot]


def _truth(
    rows: Sequence[LabelledRow],
    verbs: int,
    nouns: int,
    tail: tuple[Collection[int] | None, Collection[int] | None],
    unseen: Collection[str] | None,
    notes: list[str],
    everything: str,
) -> _Truth:
    verb, noun = labels_of(rows, verbs, nouns)
    whole = np.ones(len(rows), dtype=bool)
    subsets = {everything: dict.fromkeys(_SLOTS, whole)}
    if (tail[0] is None) != (tail[1] is None):
        raise UsageError("give the tail classes of verbs and of nouns, or neither")
    if tail[0] is not None and tail[1] is not None:
        rare_verb, rare_noun = np.isin(verb, list(tail[0])), np.isin(noun, list(tail[1]))
        subsets["tail"] = {"verb": rare_verb, "noun": rare_noun, "action": rare_verb | rare_noun}
        for slot, members in subsets["tail"].items():
            if not members.any():
                notes.append(f"no segment has a tail {slot}: there is no tail score of it")
    if unseen is not None:
        members = np.array([row.participant_id in unseen for row in rows], dtype=bool)
        if not members.any():
            notes.append(
                f"no segment is of an unseen participant ({', '.join(sorted(unseen)) or 'empty list'}): is this the "
                "list of another split? There are no unseen scores"
            )
        subsets["unseen"] = dict.fromkeys(_SLOTS, members)
    return _Truth(verb, noun, subsets)


def labels_of(rows: Sequence[LabelledRow], verbs: int, nouns: int) -> tuple[Classes, Classes]:
    """Verb and noun classes, int64 (N,) each.

    Raises:
        UsageError: no rows, a row without classes, or a class that has no score.
    """
    if not rows:
        raise UsageError("there are no segments to judge")
    found: dict[str, list[int]] = {"verb": [], "noun": []}
    for row in rows:
        for slot, value, count in (("verb", row.verb_class, verbs), ("noun", row.noun_class, nouns)):
            if value is None:
                raise UsageError(
                    f"narration {row.narration_id} has no {slot} class: labels of the test split are hidden; judge "
                    "the validation split"
                )
            if not 0 <= value < count:
                raise UsageError(
                    f"narration {row.narration_id} has {slot} class {value}; the predictions score 0 to {count - 1}"
                )
            found[slot].append(value)
    return np.array(found["verb"], dtype=np.int64), np.array(found["noun"], dtype=np.int64)


def _prepared(
    verb: ArrayLike, noun: ArrayLike, rows: Sequence[LabelledRow], actions: ActionScores | None, keep: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], ActionScores]:
    names = [row.narration_id for row in rows]
    verbs, nouns = check_scores(verb, "verb", names=names), check_scores(noun, "noun", names=names)
    for what, scores in (("verb", verbs), ("noun", nouns)):
        if len(scores) != len(rows):
            raise UsageError(f"{len(scores)} rows of {what} scores for {len(rows)} segments")
    chosen = action_scores(verbs, nouns, keep) if actions is None else actions
    if len(chosen.pairs) != len(rows):
        raise UsageError(f"{len(chosen.pairs)} rows of action scores for {len(rows)} segments")
    return verbs, nouns, chosen


def recognition_scores(
    verb: ArrayLike,
    noun: ArrayLike,
    rows: Sequence[LabelledRow],
    *,
    tail_verbs: Collection[int] | None = None,
    tail_nouns: Collection[int] | None = None,
    unseen: Collection[str] | None = None,
    actions: ActionScores | None = None,
) -> EpicScores:
    """Accuracy as in challenge C1, percent.

    Values: `all_{verb,noun,action}_accuracy_at_1` and `_at_5`, `tail_*_accuracy_at_1`, `unseen_*_accuracy_at_1` where
    the lists are given, and `all_action_joint_hit_at_5` (`joint_topk`), which is no action accuracy.

    Args:
        verb: logits or log-probabilities (N, V), in the order of `rows`. noun: (N, M).
        rows: the segments.
        tail_verbs, tail_nouns: numbers of rare classes, both or neither.
        unseen: participants that are not in train.
        actions: explicit scores of pairs, best first; None makes them of verbs and nouns (`action_scores`).

    Raises:
        UsageError: shapes, values that are not finite, probabilities for logits, rows without labels.
    """
    report = EpicScores("recognition")
    verbs, nouns, chosen = _prepared(verb, noun, rows, actions, 5)
    truth = _truth(
        rows, verbs.shape[1], nouns.shape[1], (tail_verbs, tail_nouns), unseen, report.notes, everything="all"
    )
    ranked = {"verb": top_classes(verbs, 5), "noun": top_classes(nouns, 5), "action": chosen.ids[:, :5]}
    for subset, members in truth.subsets.items():
        for k in (1, 5) if subset == "all" else (1,):
            for slot in _SLOTS:
                hits = (ranked[slot][:, :k] == truth.of(slot)[:, None]).any(axis=1)[members[slot]]
                report.values[f"{subset}_{slot}_accuracy_at_{k}"] = 100 * float(hits.mean()) if hits.size else None
        _count(report, subset, members, truth)
    report.values["all_action_joint_hit_at_5"] = joint_topk(verbs, nouns, rows, 5)
    return report


def anticipation_scores(
    verb: ArrayLike,
    noun: ArrayLike,
    rows: Sequence[LabelledRow],
    *,
    tail_verbs: Collection[int] | None = None,
    tail_nouns: Collection[int] | None = None,
    unseen: Collection[str] | None = None,
    actions: ActionScores | None = None,
    closed: Sequence[tuple[int, int]] | None = None,
) -> EpicScores:
    """Mean top-5 recall as in challenge C3, percent.

    Values: `{overall,unseen,tail}_{verb,noun,action}_mt5r_official`; the classes are those among the labels of the
    subset. Beside them `overall_action_mt5r_joint_hit` and, with `closed`, `overall_action_mt5r_closed3806`.

    Args:
        verb, noun, rows, tail_verbs, tail_nouns, unseen, actions: see `recognition_scores`.
        closed: the pairs that occur in train and validation (`crossmamba.data.epic.classes.action_list`).

    Raises:
        UsageError: as `recognition_scores`.
    """
    report = EpicScores("anticipation")
    verbs, nouns, chosen = _prepared(verb, noun, rows, actions, 5)
    truth = _truth(
        rows, verbs.shape[1], nouns.shape[1], (tail_verbs, tail_nouns), unseen, report.notes, everything="overall"
    )
    ranked = {"verb": top_classes(verbs, 5), "noun": top_classes(nouns, 5), "action": chosen.ids[:, :5]}
    for subset in ("overall", "unseen", "tail"):
        members = truth.subsets.get(subset)
        if members is None:
            continue
        for slot in _SLOTS:
            labels, which = truth.of(slot), members[slot]
            hits = (ranked[slot] == labels[:, None]).any(axis=1)
            report.values[f"{subset}_{slot}_mt5r_official"] = mean_class_recall(hits[which], labels[which])
        _count(report, subset, members, truth)
    report.values["overall_action_mt5r_joint_hit"] = mt5r_joint_hit(verbs, nouns, rows)
    if closed is not None:
        report.values["overall_action_mt5r_closed3806"] = mt5r_closed3806(verbs, nouns, rows, closed)
    return report


def _count(report: EpicScores, subset: str, members: dict[str, Hits], truth: _Truth) -> None:
    for slot in _SLOTS:
        report.counts[f"{subset}_{slot}"] = int(members[slot].sum())
        report.classes[f"{subset}_{slot}"] = len(np.unique(truth.of(slot)[members[slot]]))


def mean_class_recall(hits: ArrayLike, labels: ArrayLike) -> float | None:
    """Percent: the mean over the classes among `labels` of the share of their segments that are hits; None of none.

    Args:
        hits: bool (N,). labels: (N,).
    """
    _, members = np.unique(np.asarray(labels), return_inverse=True)
    if not members.size:
        return None
    right = np.bincount(members, weights=np.asarray(hits, dtype=np.float64))
    return 100 * float((right / np.bincount(members)).mean())


def mt5r_official(verb: ArrayLike, noun: ArrayLike, rows: Sequence[LabelledRow]) -> float | None:
    """The official mean top-5 recall of actions, percent, over all rows; arguments as `recognition_scores`."""
    verbs, nouns, chosen = _prepared(verb, noun, rows, None, 5)
    first, second = labels_of(rows, verbs.shape[1], nouns.shape[1])
    labels = first * 1000 + second
    return mean_class_recall((chosen.ids == labels[:, None]).any(axis=1), labels)


def mt5r_joint_hit(verb: ArrayLike, noun: ArrayLike, rows: Sequence[LabelledRow]) -> float | None:
    """What InAViT and MambaVL call mean top-5 recall of actions, percent: verb in five and noun in five. Laxer."""
    hits, labels = _joint_hits(verb, noun, rows, 5)
    return mean_class_recall(hits, labels)


def mt5r_closed3806(
    verb: ArrayLike, noun: ArrayLike, rows: Sequence[LabelledRow], actions: Sequence[tuple[int, int]]
) -> float | None:
    """Mean top-5 recall of actions, percent, where only the pairs of the list compete. Laxer than the official one."""
    first, second = labels_of(rows, np.asarray(verb).shape[1], np.asarray(noun).shape[1])
    labels = first * 1000 + second
    chosen = closed_action_scores(verb, noun, actions, 5)
    return mean_class_recall((chosen.ids == labels[:, None]).any(axis=1), labels)


def joint_topk(verb: ArrayLike, noun: ArrayLike, rows: Sequence[LabelledRow], k: int = 5) -> float | None:
    """Percent of the segments whose verb is among the k best verbs and whose noun is among the k best nouns.

    MambaVL's and SlowFast's meter. For k = 1 it equals action accuracy; for k = 5 it is not action accuracy at 5.
    """
    hits, _ = _joint_hits(verb, noun, rows, k)
    return 100 * float(hits.mean()) if hits.size else None


def _joint_hits(verb: ArrayLike, noun: ArrayLike, rows: Sequence[LabelledRow], k: int) -> tuple[Hits, Classes]:
    verbs, nouns, _ = _prepared(verb, noun, rows, None, 1)
    first, second = labels_of(rows, verbs.shape[1], nouns.shape[1])
    of_verb = (top_classes(verbs, k) == first[:, None]).any(axis=1)
    of_noun = (top_classes(nouns, k) == second[:, None]).any(axis=1)
    return of_verb & of_noun, first * 1000 + second
