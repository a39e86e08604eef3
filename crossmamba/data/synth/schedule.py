"""When who sounds: the law of one second, and its draw over a clip.

    size ~ size_law[n]          how many of the n visible objects sound
    subset | size  uniform      which ones

With `persistence` q a second keeps the subset of the second before with probability q and is otherwise drawn anew. The
law above is stationary under that step (with probability q nothing changes, with 1 - q it is drawn from the law
itself), so each single second has exactly this law, whatever q; that is all that the picture-only ceiling needs.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def subset_law(size_probabilities: tuple[float, ...]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Every subset of the visible objects with its probability in one second.

    Args:
        size_probabilities: P(0), ..., P(n) of the number of sounding objects.

    Returns:
        `members` bool (2^n, n), `probability` float64 (2^n,) with sum 1; subsets in binary order, the empty one first.
    """
    n = len(size_probabilities) - 1
    members = (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    sizes = members.sum(1)
    per_size = np.bincount(sizes, minlength=n + 1)
    probability = np.asarray(size_probabilities, np.float64)[sizes] / per_size[sizes]
    members.flags.writeable = probability.flags.writeable = False  # shared by the cache
    return members, probability


def draw_schedule(
    rng: np.random.Generator, size_probabilities: tuple[float, ...], seconds: int, persistence: float
) -> NDArray[np.bool_]:
    """Who sounds in each second, bool (seconds, n)."""
    members, probability = subset_law(size_probabilities)
    drawn = rng.choice(len(members), size=seconds, p=probability)
    keeps = rng.random(seconds) < persistence
    for t in range(1, seconds):
        if keeps[t]:
            drawn[t] = drawn[t - 1]
    return members[drawn]
