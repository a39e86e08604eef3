"""Sound perturbations: does a model hear, or does it mark what stands out? (spec §7)

The pictures and the masks stay; the log-mel is replaced. What the sound is replaced by depends on (seed, clip) alone.

| name | the clip's log-mel becomes |
|---|---|
| none | itself |
| silence | log(0.01) throughout, which is what digital silence gives (zeros would be a loud, flat noise) |
| noise | that of white uniform noise over the full 16-bit range |
| swap | that of another clip of the split, from another category where there are categories |
| shift | itself, turned round by whole seconds |
| gain | that of the same sound at another loudness |
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from crossmamba.data.logmel import LOG_OFFSET, SAMPLE_RATE, SILENCE_LOG_MEL, Framing, clip_log_mel
from crossmamba.errors import DataError, UsageError

__all__ = ["PERTURBATIONS", "Perturbation", "check_perturbation", "derangement", "gain", "noise", "shift", "silence"]

Perturbation = Literal["none", "silence", "swap", "noise", "shift", "gain"]
PERTURBATIONS: tuple[Perturbation, ...] = get_args(Perturbation)

SHIFT_SECONDS = 2  # of five: every second hears one that is two away
GAIN_DECIBELS = -20.0


def check_perturbation(name: str) -> None:
    """Raises UsageError unless `name` is one of `PERTURBATIONS`."""
    if name not in PERTURBATIONS:
        raise UsageError(f"perturbation is {name!r}; allowed: {', '.join(PERTURBATIONS)}")


def silence(log_mel: Tensor) -> Tensor:
    """Digital silence of the same length: (T, 1, 96, 64) of log(0.01)."""
    return torch.full_like(log_mel, SILENCE_LOG_MEL)


def noise(seconds: int, seed: int, clip: int, framing: Framing = "published") -> Tensor:
    """White uniform noise as 16-bit samples over their full range, as log-mel (seconds, 1, 96, 64).

    AVSBench-Robust's script writes float64 bytes under a 16-bit header, which is no white noise; this is.

    Args:
        seconds: of the clip.
        seed, clip: decide the samples, together and alone.
        framing: of the log-mel.
    """
    rng = np.random.default_rng([seed, clip])
    samples = rng.integers(-32768, 32768, size=seconds * SAMPLE_RATE, dtype=np.int16)
    return clip_log_mel(samples.astype(np.float32) / 32768, seconds, framing)


def shift(log_mel: Tensor, seconds: int = SHIFT_SECONDS) -> Tensor:
    """The sound turned round: second t hears what second t - `seconds` heard, the end comes first.

    Args:
        log_mel: (T, 1, 96, 64).
        seconds: whole; its multiple of T changes nothing.
    """
    return log_mel.roll(seconds, dims=0)


def gain(log_mel: Tensor, decibels: float = GAIN_DECIBELS) -> Tensor:
    """The log-mel of the same sound at another loudness, exactly: log(g (exp(x) - 0.01) + 0.01), g = 10^(dB / 20).

    Exact because the mel bands are linear in the magnitude; a real recording would also clip and round.

    Args:
        log_mel: any shape.
        decibels: of the amplitude; negative is quieter.

    Raises:
        UsageError: `decibels` is not finite.
    """
    if not math.isfinite(decibels):
        raise UsageError(f"decibels is {decibels}; for no sound at all use the perturbation 'silence'")
    mel = (log_mel.double().exp() - LOG_OFFSET).clamp(min=0.0)  # rounding may leave a trace below zero
    return (mel * 10 ** (decibels / 20) + LOG_OFFSET).log().to(log_mel.dtype)


def derangement(groups: Sequence[Hashable], seed: int) -> list[int]:
    """For each item the item that replaces it, of another group; every item is used once.

    The items are shuffled, put together by group, and turned round by the size of the largest group.

    Args:
        groups: one label an item, such as S4's category; all different (or the item's own number) when any other item
            will do.
        seed: decides the shuffle.

    Raises:
        DataError: one group has more than half of the items, so that it cannot be done.
    """
    order = np.random.default_rng(seed).permutation(len(groups)).tolist()
    members: dict[Hashable, list[int]] = {}
    for item in order:
        members.setdefault(groups[item], []).append(item)
    largest = max((len(m) for m in members.values()), default=0)
    if largest * 2 > len(groups):
        raise DataError(
            f"sound cannot be swapped: {largest} of {len(groups)} clips are of one kind, and each needs a partner of "
            "another; take more clips"
        )
    line = [item for group in members.values() for item in group]
    partner = [0] * len(line)
    for position, item in enumerate(line):
        partner[item] = line[(position + largest) % len(line)]
    return partner
