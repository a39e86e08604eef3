"""One action for each window of a video, chosen together: a change of action must be worth a penalty.

Windows overlap and are judged one by one, so the best action flickers from window to window. Here the actions a_1..a_T
of T windows are those with the highest

    sum_t  r (log p_t(verb of a_t) + log p_t(noun of a_t))  -  penalty * |{t > 1: a_t != a_(t-1)}|

with r = min(1, stride / window), so that every moment of the video counts once however much the windows overlap. The
penalty is in nats of one window's worth of pictures; 0 names every window by itself. This is the best path of a hidden
Markov model whose actions all follow each other with the same probability (Viterbi 1967; in segmentation: a Potts
prior). As a change costs the same whatever the two actions are, a window takes V N steps, not (V N)^2.

`smoothed` looks at the whole video before it decides. `OnlineSmoother` never looks ahead: its action of a window is the
end of the best path up to that window, and stays as said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossmamba.errors import UsageError
from crossmamba.predict.action_names import Said, Window

Action = tuple[int, int]
"""Class numbers of verb and noun."""

PENALTY = 0.5
"""Nats; how it was chosen: `smoothed`."""

_LEAST = float(np.finfo(np.float64).tiny)  # a probability of 0 counts as this, so that no action is excluded for ever


def check_penalty(penalty: float) -> float:
    """The penalty itself. Raises UsageError unless it is a number of at least 0."""
    if not 0 <= penalty < math.inf:
        raise UsageError(f"--smooth {penalty:g}: give nats of at least 0 (0: every window by itself)")
    return penalty


def share_of(stride: float, window: float) -> float:
    """r: the part of a window's seconds that no earlier window has seen."""
    return min(1.0, stride / window)


class OnlineSmoother:
    """The action of each window from this window and those before it.

    Args:
        penalty: nats, see above. share: r.

    Attributes:
        best: (V, N) float64: for each action the score of the best path that ends in it, less the highest of them.
        stays: (V, N) bool: which of these paths had the same action at the window before.
        before: the action at the window before that the others came from; None at the first window.

    Raises:
        UsageError: a penalty that is negative, infinite or NaN.
    """

    def __init__(self, penalty: float = PENALTY, share: float = 1.0) -> None:
        self.penalty, self.share = check_penalty(penalty), share
        self.best: NDArray[np.float64] | None = None
        self.stays: NDArray[np.bool_] | None = None
        self.before: Action | None = None

    @property
    def state_bytes(self) -> int:
        """Bytes that are kept between two windows."""
        return sum(array.nbytes for array in (self.best, self.stays) if array is not None)

    def step(self, said: Said) -> Action:
        """The next window; of equal actions the lowest class numbers."""
        verb, noun = (np.log(np.maximum(side, _LEAST)) for side in (said.verb, said.noun))
        gain = self.share * (verb[:, None] + noun[None])  # (V, N)
        if self.best is None:
            score = gain
        else:
            changed = self.best.max() - self.penalty
            self.stays, self.before = self.best >= changed, _highest(self.best)
            score = np.maximum(self.best, changed) + gain
        self.best = score - score.max()  # only differences matter, and so a stream of any length stays in range
        return _highest(self.best)


def smoothed(windows: Sequence[Window], penalty: float = PENALTY, *, online: bool = False) -> list[Action]:
    """The action of every window.

    Measured with one model of `crossmamba demo action` (seed 0), windows every 0.5 s. On the 8 validation videos of its
    kitchen, by which the default was chosen, the action is right in 23.2 % of the labelled time (19.4 % window by
    window) and 573 segments become 249 (167 are true); on its 6 test videos it is right in 21.6 % (20.6 %), and 408
    segments become 193 (122). Online: 21.5 % and 398 segments, 19.0 % and 295: fewer segments, no gain in time that is
    sure, so that a stream is smoothed only on demand. On other data the default is a guess.

    Args:
        windows: in order, at one distance; V + N probabilities each.
        penalty: nats.
        online: without looking ahead.

    Returns:
        (verb, noun) for each. Memory is V N bits for each window.

    Raises:
        UsageError: a penalty that is negative, infinite or NaN.
    """
    if check_penalty(penalty) == 0 or not windows:
        return [window.said.best for window in windows]
    first = windows[0]
    stride = windows[1].start - first.start if len(windows) > 1 else math.inf
    smoother = OnlineSmoother(penalty, share_of(stride, first.end - first.start))
    actions: list[Action] = []
    trace: list[tuple[NDArray[np.uint8], Action]] = []  # at t: which actions of t + 1 stay, and where the others were
    for window in windows:
        actions.append(smoother.step(window.said))
        if not online and smoother.stays is not None and smoother.before is not None:
            trace.append((np.packbits(smoother.stays), smoother.before))
    if online:
        return actions
    nouns = len(first.said.noun)
    path = [actions[-1]]
    for stays, before in reversed(trace):
        place = path[-1][0] * nouns + path[-1][1]
        path.append(path[-1] if stays[place // 8] >> (7 - place % 8) & 1 else before)
    return path[::-1]


def _highest(scores: NDArray[np.float64]) -> Action:
    verb, noun = np.unravel_index(int(scores.argmax()), scores.shape)
    return int(verb), int(noun)
