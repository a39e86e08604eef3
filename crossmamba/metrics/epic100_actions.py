"""Scores of verbs and nouns, and of the actions that they make (spec §4.2): plain numpy in float64.

A submission scores verbs and nouns; an action is a pair. Its score is the product of the two softmaxes, that is the sum
of the two log-softmaxes of the row, over all 97 x 300 pairs and not only over those that occur. The official code of
recognition normalises over the whole array in float32: the order within a row is the same in exact numbers, but rows
60 below the others underflow to zero and their actions become arbitrary. Here every row stands for itself.

Symbols: N segments, K pairs kept of each (officially 100).

Ties. The lower class number wins, and for pairs the better verb rank, then the better noun rank. Officially a reversed
unstable sort decides; scores that differ are not touched by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossmamba.errors import UsageError

__all__ = [
    "ACTIONS_KEPT",
    "ActionScores",
    "action_scores",
    "action_scores_of_head",
    "action_scores_of_joint",
    "check_scores",
    "closed_action_scores",
    "log_softmax",
    "marginalise",
    "mean_of_views",
    "top_classes",
]

ACTIONS_KEPT = 100
"""Pairs that a submission keeps of each segment."""

_SUM_SLACK = 5e-3  # float16 softmaxes of 300 classes add up to 1 this well
_CHUNK = 512  # rows at once where all pairs of a row are needed

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ActionScores:
    """The best pairs of every segment, best first.

    Attributes:
        pairs: int64 (N, K, 2), verb and noun.
        scores: float64 (N, K), log-probabilities up to a constant of the row, or what a submission says.
    """

    pairs: NDArray[np.int64]
    scores: Scores

    @property
    def ids(self) -> NDArray[np.int64]:
        """The challenge's action numbers, 1000 verb + noun, int64 (N, K)."""
        return self.pairs[..., 0] * 1000 + self.pairs[..., 1]


def check_scores(values: ArrayLike, what: str, classes: int | None = None, *, names: Sequence[str] = ()) -> Scores:
    """Scores as float64 (N, classes), after looking for what would be judged wrongly without a word.

    Probabilities are refused: they would go through a softmax once more, which leaves the best class but changes the
    action's top five in half of the rows. So are sums of softmaxes over views. Logits and log-probabilities pass.

    Args:
        values: of any real type; a tensor must be on the CPU.
        what: "verb", "noun" or "action", for messages.
        classes: their number; None takes any.
        names: narration ids of the rows, for messages.

    Raises:
        UsageError: another shape, a value that is no finite number, probabilities.
    """
    scores = np.asarray(values)
    if scores.ndim != 2 or (classes is not None and scores.shape[1] != classes):
        wanted = f"(segments, {'classes' if classes is None else classes})"
        raise UsageError(f"{what} scores have shape {scores.shape}; expected {wanted}")
    if scores.dtype.kind not in "fiu":
        raise UsageError(f"{what} scores are of type {scores.dtype}; expected real numbers")
    scores = scores.astype(np.float64)
    finite = np.isfinite(scores).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        bad = scores[row][~np.isfinite(scores[row])][0]
        raise UsageError(
            f"{what} scores of {_name(row, names)} hold {bad}; every class needs a finite number "
            f"({int((~finite).sum())} of {len(scores)} segments are wrong)"
        )
    _refuse_probabilities(scores, what, names)
    return scores


def _refuse_probabilities(scores: Scores, what: str, names: Sequence[str]) -> None:
    if not scores.size or scores.shape[1] < 2:
        return
    totals = scores.sum(axis=1)
    positive = scores.min(axis=1) >= 0
    probabilities = positive & (np.abs(totals - 1) <= _SUM_SLACK)
    if probabilities.any():
        row = int(np.flatnonzero(probabilities)[0])
        raise UsageError(
            f"{what} scores of {_name(row, names)} are probabilities: none is negative and they add up to "
            f"{totals[row]:.4f} ({int(probabilities.sum())} of {len(scores)} segments). They would be put through a "
            "softmax again, which changes the actions' order: give logits, or the logarithm of the probabilities"
        )
    views = round(float(np.median(totals)))
    summed = positive & (views >= 2) & (np.abs(totals - views) <= _SUM_SLACK * views) & (scores.max(axis=1) <= views)
    whole = bool((scores == np.round(scores)).all())  # votes or made-up scores, no softmaxes
    if len(scores) > 1 and summed.all() and not whole:
        raise UsageError(
            f"{what} scores are sums of {views} softmaxes: none is negative and every segment adds up to {views}. "
            f"Divide by {views} and take the logarithm"
        )


def _name(row: int, names: Sequence[str]) -> str:
    return f"narration {names[row]}" if len(names) > row else f"segment {row}"


def log_softmax(scores: Scores) -> Scores:
    """log softmax of every row, (N, C); also log-probabilities that do not quite add up become exact."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def mean_of_views(scores: ArrayLike, views: int) -> Scores:
    """Logits of several views of each segment to log-probabilities: the logarithm of the mean softmax.

    (MambaVL's code adds up softmaxes, which orders alike but is no input for an action score.)

    Args:
        scores: (N x views, C); the views of a segment follow each other.
        views: of each segment.

    Returns:
        float64 (N, C).

    Raises:
        UsageError: as `check_scores`, or rows that are no multiple of `views`.
    """
    single = log_softmax(check_scores(scores, "view"))
    if views < 1 or len(single) % views:
        raise UsageError(f"{len(single)} rows of scores are no multiple of {views} views")
    grouped = single.reshape(-1, views, single.shape[1])
    top = grouped.max(axis=1)
    return top + np.log(np.exp(grouped - top[:, None]).mean(axis=1))


def top_classes(scores: Scores, count: int) -> NDArray[np.int64]:
    """The best classes of every row, best first, int64 (N, min(count, C)); of equal ones the lower number first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def action_scores(verb: ArrayLike, noun: ArrayLike, keep: int = ACTIONS_KEPT) -> ActionScores:
    """The `keep` best pairs of every segment by log-softmax(verb) + log-softmax(noun).

    Pair (i-th best verb, j-th best noun) can only be among the K best if i j <= K, because all pairs of an equal or
    better verb and an equal or better noun come before it: some 480 sums a segment decide instead of 29,100, exactly.

    Args:
        verb: (N, V), noun: (N, M): logits or log-probabilities.
        keep: pairs of each segment; fewer where V M is smaller.

    Raises:
        UsageError: as `check_scores`, other numbers of rows, or `keep` below 1.
    """
    verbs, nouns = check_scores(verb, "verb"), check_scores(noun, "noun")
    _same_rows(verbs, nouns)
    if keep < 1:
        raise UsageError(f"keep is {keep}; at least one pair must be kept")
    of_verb, of_noun = top_classes(verbs, keep), top_classes(nouns, keep)
    first = np.take_along_axis(log_softmax(verbs), of_verb, axis=1)
    second = np.take_along_axis(log_softmax(nouns), of_noun, axis=1)
    cells = [
        (i, j)
        for i in range(first.shape[1])
        for j in range(min(second.shape[1], keep // (i + 1)))  # (i + 1)(j + 1) <= keep
    ]
    i, j = np.array(cells, dtype=np.int64).T
    sums = first[:, i] + second[:, j]
    order = np.argsort(-sums, axis=1, kind="stable")[:, :keep]
    pairs = np.stack([np.take_along_axis(of_verb, i[order], 1), np.take_along_axis(of_noun, j[order], 1)], axis=-1)
    return ActionScores(pairs, np.take_along_axis(sums, order, axis=1))


def closed_action_scores(
    verb: ArrayLike, noun: ArrayLike, actions: Sequence[tuple[int, int]], keep: int = ACTIONS_KEPT
) -> ActionScores:
    """As `action_scores`, but only pairs of the list can be chosen (3,806 occur in train and validation).

    Raises:
        UsageError: as `action_scores`; an empty list, or a pair beyond the classes.
    """
    verbs, nouns = check_scores(verb, "verb"), check_scores(noun, "noun")
    _same_rows(verbs, nouns)
    table = _pair_table(actions, verbs.shape[1], nouns.shape[1])
    first, second = log_softmax(verbs), log_softmax(nouns)
    pairs, scores = [], []
    for start in range(0, len(verbs), _CHUNK):
        rows = slice(start, start + _CHUNK)
        sums = first[rows][:, table[:, 0]] + second[rows][:, table[:, 1]]
        best = top_classes(sums, keep)
        pairs.append(table[best])
        scores.append(np.take_along_axis(sums, best, axis=1))
    if not pairs:
        return ActionScores(np.zeros((0, 0, 2), np.int64), np.zeros((0, 0)))
    return ActionScores(np.concatenate(pairs), np.concatenate(scores))


def action_scores_of_joint(
    joint: ArrayLike, actions: Sequence[tuple[int, int]], keep: int = ACTIONS_KEPT
) -> ActionScores:
    """The best pairs of a model with one head over actions (AVION, AVT), (N, actions) in the order of the list.

    Raises:
        UsageError: as `check_scores`, or another number of columns.
    """
    scores = log_softmax(check_scores(joint, "action", len(actions)))
    table = np.array(actions, dtype=np.int64)
    best = top_classes(scores, keep)
    return ActionScores(table[best], np.take_along_axis(scores, best, axis=1))


def action_scores_of_head(
    joint: ArrayLike,
    actions: Sequence[tuple[int, int]],
    verb: ArrayLike,
    noun: ArrayLike,
    keep: int = ACTIONS_KEPT,
) -> ActionScores:
    """As `action_scores_of_joint`, for a model that has heads over verbs and nouns besides.

    Where the list has fewer than `keep` actions (a challenge's file needs exactly 100), all others come behind them, in
    the order of `action_scores` and one unit lower than the last of the list.

    Args:
        joint: (N, actions). actions: different pairs. verb: (N, V). noun: (N, M). keep: as `action_scores`.

    Raises:
        UsageError: as `action_scores_of_joint` and `action_scores`; a pair beyond the classes.
    """
    verbs, nouns = check_scores(verb, "verb"), check_scores(noun, "noun")
    table = _pair_table(actions, verbs.shape[1], nouns.shape[1])
    chosen = action_scores_of_joint(joint, actions, keep)
    if len(chosen.pairs) != len(verbs):
        raise UsageError(f"{len(chosen.pairs)} rows of action scores and {len(verbs)} of verb scores")
    product = action_scores(verbs, nouns, keep)
    lacking = product.pairs.shape[1] - chosen.pairs.shape[1]
    if lacking <= 0:
        return chosen
    listed = np.isin(product.ids, table[:, 0] * 1000 + table[:, 1])
    others = np.argsort(listed, axis=1, kind="stable")[:, :lacking]  # len(actions) at most are listed: enough are left
    pairs = np.take_along_axis(product.pairs, others[..., None], axis=1)
    scores = np.take_along_axis(product.scores, others, axis=1)
    scores = scores - scores[:, :1] + chosen.scores[:, -1:] - 1
    return ActionScores(np.concatenate([chosen.pairs, pairs], axis=1), np.concatenate([chosen.scores, scores], axis=1))


def marginalise(
    joint: ArrayLike, actions: Sequence[tuple[int, int]], verbs: int = 97, nouns: int = 300
) -> tuple[Scores, Scores]:
    """(verb, noun) log-probabilities of a joint head: P(v) is the sum of P(a) over its actions.

    A class without any action gets the lowest log-probability that float64 holds of a probability, about -744.

    Raises:
        UsageError: as `action_scores_of_joint`; a pair beyond the classes.
    """
    probabilities = np.exp(log_softmax(check_scores(joint, "action", len(actions))))
    table = _pair_table(actions, verbs, nouns)
    marginals = []
    for column, count in ((0, verbs), (1, nouns)):
        members = np.zeros((len(table), count))
        members[np.arange(len(table)), table[:, column]] = 1.0
        marginals.append(np.log(np.maximum(probabilities @ members, np.nextafter(0.0, 1.0))))
    return marginals[0], marginals[1]


def _same_rows(verbs: Scores, nouns: Scores) -> None:
    if len(verbs) != len(nouns):
        raise UsageError(f"{len(verbs)} rows of verb scores and {len(nouns)} of noun scores; both need every segment")


def _pair_table(actions: Sequence[tuple[int, int]], verbs: int, nouns: int) -> NDArray[np.int64]:
    table = np.array(actions, dtype=np.int64).reshape(-1, 2)
    if not len(table):
        raise UsageError("the list of actions is empty")
    beyond = (table < 0).any(axis=1) | (table[:, 0] >= verbs) | (table[:, 1] >= nouns)
    if beyond.any():
        verb, noun = table[int(np.flatnonzero(beyond)[0])]
        raise UsageError(f"action ({verb}, {noun}) is beyond the {verbs} verbs and {nouns} nouns")
    return table
