"""How well the words of a text tell its class: a linear model of which words occur, without any video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmamba.questions.tokens import words_of

__all__ = ["guess_from_words"]

_BATCH = 512  # different texts in one step
_STEPS = (150, 2000)  # at least, at most
_PASSES = 20  # over the different texts, between those bounds
_RATE, _DECAY = 0.05, 1e-4


def guess_from_words(
    train_texts: Sequence[str], train_labels: Sequence[int], texts: Sequence[str], labels: Sequence[int]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which labels softmax regression on the words gets right, and which the commonest train class.

    It starts at the frequencies of the classes and no word telling anything, so texts that are all alike give the
    commonest class. Always the same for the same arguments on one machine.

    Args:
        train_texts, train_labels: N texts and their classes, N at least 1. texts, labels: M to guess.

    Returns:
        two bool (M,).
    """
    classes, place = np.unique(np.asarray(train_labels), return_inverse=True)
    counts = np.bincount(place)
    words: dict[str, int] = {}
    targets: dict[str, Counter[int]] = {}  # many rows share one text
    for text, row in zip(train_texts, place.tolist(), strict=True):
        targets.setdefault(text, Counter())[row] += 1
        for word in words_of(text):
            words.setdefault(word, len(words) + 1)  # row 0: unknown words, and padding
    weight = torch.zeros(len(words) + 1, len(classes))
    bias = torch.from_numpy(np.log(counts / counts.sum())).float()
    _fit(weight, bias, _numbers(list(targets), words), list(targets.values()))
    different = list(dict.fromkeys(texts))
    scores = _scores(weight, bias, _numbers(different, words))
    guesses = dict(zip(different, classes[scores.argmax(dim=1).numpy()].tolist(), strict=True))
    truth = np.asarray(labels)
    return np.array([guesses[text] for text in texts]) == truth, truth == classes[int(counts.argmax())]


def _numbers(texts: Sequence[str], words: dict[str, int]) -> Tensor:
    """int64 (texts, most words): each text's different words, 0 for unknown ones and at the end."""
    rows = [sorted({words.get(word, 0) for word in words_of(text)} - {0}) for text in texts]
    longest = max((len(row) for row in rows), default=1) or 1
    table = torch.zeros(len(rows), longest, dtype=torch.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = torch.tensor(row, dtype=torch.int64)
    return table


def _scores(weight: Tensor, bias: Tensor, numbers: Tensor) -> Tensor:
    return torch.nn.functional.embedding_bag(numbers, weight, mode="sum", padding_idx=0) + bias


def _fit(weight: Tensor, bias: Tensor, numbers: Tensor, targets: Sequence[Counter[int]]) -> None:
    """Changes weight and bias in place."""
    wanted = torch.zeros(len(targets), weight.shape[1])
    for number, counter in enumerate(targets):
        for row, count in counter.items():
            wanted[number, row] = count
    weight.requires_grad_()
    bias.requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=_RATE)
    steps = min(max(_PASSES * len(targets) // _BATCH, _STEPS[0]), _STEPS[1])
    order = torch.Generator().manual_seed(0)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * (1 - step / steps)  # to 0, so that the last steps do not matter much
        chosen = torch.randperm(len(targets), generator=order)[:_BATCH]
        loss = (
            -(wanted[chosen] * _scores(weight, bias, numbers[chosen]).log_softmax(dim=1)).sum() / wanted[chosen].sum()
        )
        loss = loss + _DECAY * weight.square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    weight.requires_grad_(False)
    bias.requires_grad_(False)
