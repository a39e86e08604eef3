"""How well anybody could do: exact laws of the next action, what priors give, what one frame can tell.

Anticipation (what is done one second ahead), by what is known:
    true_past    the table and the last action before the one asked for, all true: the exact law of the chain. Nobody
                 who knows the past alone does better on average.
    seen_past    the same, but an action whose middle lies behind start - 1 s does not count as seen: the law is then
                 averaged over what it could be. The ceiling of a model that watches until one second before.
    last_action  the last action alone, not the table; its law is counted over many simulated actions.
    seen_window  the same, but of what the default window shows, the 2.13 s that end at start - 1 s: the last action
                 whose middle lies in it, and whether one has begun since; without any, the mean law. The ceiling of a
                 model that names actions without fault and does not read the table.
    prior        the train split's frequencies.
Recognition:
    prior        the train split's frequencies.
    true_noun, true_verb   the other label is known, and how often the train split has them together: what a question
                 that names the other label gives away.
    one_frame    the noun and the movement are known, but not its direction of time (see `motions.py`): the best that
                 one frame from the middle of an action can give, by the train split's frequencies.

Scores are in percent. `top1`, `top5`: segments whose class is the best, among the best five. `mt5r`: mean over the
classes that occur of their recall in the best five (official mean top-5 recall), with the ranking by probability;
`mt5r_lift` ranks by probability over prior, which mean recall rewards. `mt5r_heads`, of actions ahead: ranked as the
official metric ranks what two heads say, by the product of verb and noun over all pairs, which forgets which verb goes
with which noun. `expected_top1` is the mean of the largest probability: what `top1` is on average over all sets of this
world; given where the law is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.epic.sampling import GAP, WINDOW
from crossmamba.data.synth.kitchen.chain import Kitchen, act, fixed_of, furnish
from crossmamba.data.synth.kitchen.classes import ACTIONS, NOUNS, REVERSED, VERB_ID, VERBS
from crossmamba.data.synth.kitchen.plan import Video

AHEAD = GAP
"""Seconds between what is seen and the action asked for."""
SIMULATED = (1000, 20)
"""Videos and actions of each from which the law of the last action alone is counted."""

Law = NDArray[np.float64]
_VERB = np.array([a.verb for a in ACTIONS])
_NOUN = np.array([a.noun for a in ACTIONS])
_TASKS: dict[str, tuple[NDArray[np.int64], int]] = {
    "verb": (_VERB, len(VERBS)),
    "noun": (_NOUN, len(NOUNS)),
    "action": (np.arange(len(ACTIONS)), len(ACTIONS)),
}


def seen_law(video: Video, k: int) -> Law:
    """The law of a video's k-th action for one who watched until `AHEAD` seconds before its told start.

    Actions are at least 0.9 s long, so at most one action before it is unseen.
    """
    segment = video.segments[k]
    if k == 0:
        return segment.step.law
    before = video.segments[k - 1]
    if 0.5 * (before.start + before.stop) <= segment.told[0] / 100 - AHEAD:
        return segment.step.law
    return after_unknown(before.step.before, before.step.law)


def after_unknown(kitchen: Kitchen, law: Law) -> Law:
    """The law of the action after an unknown one: the mean over all that it could be, float64 (actions,)."""
    total = np.zeros(len(ACTIONS))
    for number in np.flatnonzero(law):
        then = kitchen.copy()
        # Where something is put does not matter to the law, only whether there is room.
        then.do(int(number), next(iter(then.free_places()), None))
        total += law[number] * then.law()
    return total


def window_law(video: Video, k: int) -> Law:
    """The law of a video's k-th action for one who saw what was done in the `WINDOW` seconds that end `AHEAD` seconds
    before its told start, and not the table. An action is seen whose middle lies there."""
    end = video.segments[k].told[0] / 100 - AHEAD
    after_one, after_two, mean = _counted()
    for back, law in ((1, after_one), (2, after_two)):  # at most one action in between is unseen, see `seen_law`
        if k >= back:
            before = video.segments[k - back]
            if end - WINDOW <= 0.5 * (before.start + before.stop) <= end:
                return np.asarray(law[before.step.number])
    return mean


def law_of_last() -> Law:
    """The law of the next action given the last alone, float64 (actions + 1, actions); the last row is for the start.

    Counted over simulated kitchens, as the mean of the exact laws after each action.
    """
    return _counted()[0]


@lru_cache(maxsize=1)
def _counted() -> tuple[Law, Law, Law]:
    """The law given the last action alone, given the last but one alone, both as `law_of_last`, and given nothing."""
    rng = np.random.default_rng(13)
    one, two = np.zeros((2, len(ACTIONS) + 1, len(ACTIONS)))
    videos, steps = SIMULATED
    for _ in range(videos):
        last, earlier = len(ACTIONS), len(ACTIONS)
        for step in act(furnish(rng, fixed_of(rng)), steps, rng):
            one[last] += step.law
            two[earlier] += step.law
            last, earlier = step.number, last
    mean = one.sum(0)
    one, two = one + 1e-6 * mean, two + 1e-6 * mean  # an action that never came has the mean law
    return one / one.sum(1, keepdims=True), two / two.sum(1, keepdims=True), mean / mean.sum()


def scores(laws: Law, labels: NDArray[np.int64], prior: Law, exact: bool) -> dict[str, Any]:
    """The scores of predictions.

    Args:
        laws: chance of every action, (n, actions).
        labels: number of the true action, (n,).
        prior: of the actions in the train split, (actions,).
        exact: whether `laws` is the true law, so that the expected score is known.
    """
    return {
        task: _task_scores(_fold(laws, of, count), of[labels], _fold(prior[None], of, count)[0], exact)
        for task, (of, count) in _TASKS.items()
    }


def _of_two_heads(laws: Law, labels: NDArray[np.int64]) -> float | None:
    """Mean top-5 recall of actions when all pairs of a verb and a noun are ranked by the product of their chances."""
    if not len(labels):
        return None
    verbs, nouns = (_fold(laws, *_TASKS[task]) for task in ("verb", "noun"))
    pairs: Law = (verbs[:, :, None] * nouns[:, None, :]).reshape(len(laws), -1)
    return _percent(_mean_recall(_hits(pairs, _VERB[labels] * len(NOUNS) + _NOUN[labels]), labels))


def _fold(laws: Law, of: NDArray[np.int64], count: int) -> Law:
    """Chances of actions to chances of verbs or nouns, (n, count)."""
    folded = np.zeros((len(laws), count))
    np.add.at(folded.T, of, laws.T)
    return folded


def _task_scores(laws: Law, labels: NDArray[np.int64], prior: Law, exact: bool) -> dict[str, float | None]:
    if not len(labels):
        return dict.fromkeys(("top1", "top5", "mt5r", "mt5r_lift"))
    hits = _hits(laws, labels)
    found: dict[str, float | None] = {
        "top1": _percent(_hits(laws, labels, 1).mean()),
        "top5": _percent(hits.mean()),
        "mt5r": _percent(_mean_recall(hits, labels)),
        "mt5r_lift": _percent(_mean_recall(_hits(laws / np.maximum(prior, 1e-6), labels), labels)),
    }
    if exact:
        found["expected_top1"] = _percent(laws.max(1).mean())
    return found


def _hits(laws: Law, labels: NDArray[np.int64], best: int = 5) -> NDArray[np.bool_]:
    order = np.argsort(-laws, 1, kind="stable")[:, :best]
    return np.asarray((order == labels[:, None]).any(1))


def _mean_recall(hits: NDArray[np.bool_], labels: NDArray[np.int64]) -> float:
    return float(np.mean([hits[labels == c].mean() for c in np.unique(labels)]))


def _percent(share: float) -> float:
    return round(100 * float(share), 3)


def kitchen_ceilings(videos: dict[str, list[Video]]) -> dict[str, Any]:
    """All reference scores of a set, see the top of this file.

    Args:
        videos: the plans by split: train, val, test.
    """
    counts: Law = np.bincount(_labels(videos["train"]), minlength=len(ACTIONS)).astype(np.float64) + 1e-3
    prior: Law = counts / counts.sum()
    found: dict[str, Any] = {"ahead_seconds": AHEAD, "prior": _prior(prior), "anticipation": {}, "recognition": {}}
    for split in ("val", "test"):
        if not videos[split]:
            continue
        groups = {"all": videos[split], "unseen": _unseen(videos[split], videos["train"])}
        found["anticipation"][split] = {name: _anticipation(group, prior) for name, group in groups.items()}
        found["recognition"][split] = {name: _recognition(group, prior, counts) for name, group in groups.items()}
    return found


def _unseen(videos: Sequence[Video], train: Sequence[Video]) -> list[Video]:
    known = {video.participant.id for video in train}
    return [video for video in videos if video.participant.id not in known]


def _labels(videos: Sequence[Video]) -> NDArray[np.int64]:
    return np.array([s.step.number for video in videos for s in video.segments], np.int64)


def _prior(prior: Law) -> dict[str, dict[str, float]]:
    """Train frequencies by name."""
    verbs, nouns = (_fold(prior[None], *_TASKS[task])[0] for task in ("verb", "noun"))
    return {
        "verb": {verb.key: round(float(p), 6) for verb, p in zip(VERBS, verbs, strict=True)},
        "noun": {noun.key: round(float(p), 6) for noun, p in zip(NOUNS, nouns, strict=True)},
        "action": {a.name: round(float(p), 6) for a, p in zip(ACTIONS, prior, strict=True)},
    }


def _anticipation(videos: Sequence[Video], prior: Law) -> dict[str, Any]:
    labels = _labels(videos)

    def laws(of: Callable[[Video, int], Law]) -> Law:
        found = [of(video, k) for video in videos for k in range(len(video.segments))]
        return np.array(found).reshape(-1, len(ACTIONS))

    def by_last(video: Video, k: int) -> Law:
        last = video.segments[k].step.before.last
        return np.asarray(law_of_last()[len(ACTIONS) if last is None else last])

    def scored(of: Callable[[Video, int], Law], exact: bool = False) -> dict[str, Any]:
        known = laws(of)
        found = scores(known, labels, prior, exact)
        found["action"]["mt5r_heads"] = _of_two_heads(known, labels)
        return found

    return {
        "segments": len(labels),
        "true_past": scored(lambda video, k: video.segments[k].step.law, exact=True),
        "seen_past": scored(seen_law, exact=True),
        "last_action": scored(by_last),
        "seen_window": scored(window_law),
        "prior": scored(lambda video, k: prior),
    }


def _recognition(videos: Sequence[Video], prior: Law, counts: Law) -> dict[str, Any]:
    labels = _labels(videos)
    motion = np.array([min(v, VERB_ID[REVERSED.get(VERBS[v].key, VERBS[v].key)]) for v in _VERB])

    def given(*known: NDArray[np.int64]) -> Law:
        """The train frequencies of the actions that share what is known with the true one."""
        same = np.ones((len(labels), len(ACTIONS)), bool)
        for values in known:
            same &= values[None] == values[labels][:, None]
        weights = same * counts
        return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), 1e-9))

    return {
        "segments": len(labels),
        "prior": scores(np.repeat(prior[None], len(labels), 0), labels, prior, False),
        "true_noun": scores(given(_NOUN), labels, prior, False),
        "true_verb": scores(given(_VERB), labels, prior, False),
        "one_frame": scores(given(_NOUN, motion), labels, prior, False),
    }
