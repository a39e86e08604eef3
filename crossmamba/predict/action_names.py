"""What a model of actions says, in words: the best verbs, nouns and actions of a clip, segments of a video, and JSON.

An action is a pair; its probability is that of its verb times that of its noun, as in the challenge's scores. With a
head over actions (anticipation) it is what that says, and only the train split's pairs have one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmamba.errors import CheckpointError
from crossmamba.overlay import TimedName

Probabilities = NDArray[np.float64]
TOP = 5


@dataclass(frozen=True)
class ClassNames:
    """Keys of the classes, in the order of the model's outputs."""

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]

    @classmethod
    def of(cls, preprocessing: Mapping[str, Any], verbs: int, nouns: int) -> ClassNames:
        """Those of a card; numbers ("verb 12") where it has none.

        Raises:
            CheckpointError: the card names another number of classes than the model has.
        """
        named = []
        for kind, count in (("verb", verbs), ("noun", nouns)):
            keys = preprocessing.get(f"{kind}s") or [f"{kind} {number}" for number in range(count)]
            if len(keys) != count:
                raise CheckpointError(f"the model has {count} {kind}s, its card names {len(keys)}; save it again")
            named.append(tuple(str(key) for key in keys))
        return cls(*named)


@dataclass(frozen=True)
class Said:
    """What a model says of a clip: `verb` (V,) and `noun` (N,), each sums to 1.

    With a head over actions `action` (A,) sums to 1 too, and `pairs` (A, 2) are their verbs and nouns.
    """

    verb: Probabilities
    noun: Probabilities
    action: Probabilities | None = None
    pairs: NDArray[np.int64] | None = None

    @property
    def best(self) -> tuple[int, int]:
        """Class numbers of the most probable action."""
        if self.action is not None and self.pairs is not None:
            verb, noun = self.pairs[self.action.argmax()].tolist()
            return verb, noun
        return int(self.verb.argmax()), int(self.noun.argmax())

    @property
    def probability(self) -> float:
        """Of the most probable action."""
        return float(self.verb.max() * self.noun.max() if self.action is None else self.action.max())


@dataclass(frozen=True)
class Window:
    """What a model says of the pictures from `start` to `end` (s). Of an anticipation: of what begins `gap` after."""

    start: float
    end: float
    said: Said


@dataclass(frozen=True)
class Segment:
    """Neighbouring windows that got the same action, from `start` to `end` (s); `said` is their mean."""

    start: float
    end: float
    action: tuple[int, int]
    said: Said
    windows: int

    @property
    def probability(self) -> float:
        """Of its action in the mean of its windows; with smoothing another may be higher."""
        return float(self.said.verb[self.action[0]] * self.said.noun[self.action[1]])


def top_classes(values: Probabilities, names: Sequence[str], count: int) -> list[tuple[str, float]]:
    """The best `count` with their probabilities, the lower class number first where equal."""
    order = np.argsort(-values, kind="stable")[:count]
    return [(names[number], float(values[number])) for number in order]


def top_actions(said: Said, names: ClassNames, count: int) -> list[tuple[str, str, float]]:
    """The best `count` (verb, noun, probability)."""
    if said.action is not None and said.pairs is not None:
        best = np.argsort(-said.action, kind="stable")[:count]
        return [(names.verbs[v], names.nouns[n], float(said.action[k])) for k in best for v, n in said.pairs[k : k + 1]]
    verbs, nouns = (np.argsort(-values, kind="stable")[:count] for values in (said.verb, said.noun))
    product = said.verb[verbs][:, None] * said.noun[nouns][None]  # the best pairs are among the best of each
    places = np.argsort(-product, axis=None, kind="stable")[:count]
    rows, columns = np.unravel_index(places, product.shape)
    return [
        (names.verbs[verbs[row]], names.nouns[nouns[column]], float(product[row, column]))
        for row, column in zip(rows, columns, strict=True)
    ]


def describe(said: Said, names: ClassNames, top: int = TOP) -> dict[str, Any]:
    """The best verbs, nouns and actions for `result.json`."""

    def listed(pairs: Iterable[tuple[str, float]]) -> list[dict[str, Any]]:
        return [{"name": name, "probability": round(value, 6)} for name, value in pairs]

    return {
        "verbs": listed(top_classes(said.verb, names.verbs, top)),
        "nouns": listed(top_classes(said.noun, names.nouns, top)),
        "actions": [
            {"verb": verb, "noun": noun, "probability": round(value, 6)}
            for verb, noun, value in top_actions(said, names, top)
        ],
    }


def describe_segment(segment: Segment, names: ClassNames, top: int = TOP) -> dict[str, Any]:
    """For `result.json`."""
    verb, noun = segment.action
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "verb": names.verbs[verb],
        "noun": names.nouns[noun],
        "probability": round(segment.probability, 6),
        "windows": segment.windows,
        **describe(segment.said, names, top),
    }


def join_windows(
    windows: Sequence[Window], end: float, actions: Sequence[tuple[int, int]] | None = None
) -> list[Segment]:
    """Segments from 0 to the video's end: between the middles of two windows with other actions lies a border.

    Args:
        windows: in order. end: of the video, seconds.
        actions: of each window (`action_smoothing.smoothed`); None for the best of each by itself.
    """
    if not windows:
        return []
    actions = [window.said.best for window in windows] if actions is None else actions
    middles = np.array([(window.start + window.end) / 2 for window in windows])
    borders = [0.0, *((middles[1:] + middles[:-1]) / 2).tolist(), max(end, float(middles[-1]))]
    segments: list[Segment] = []
    first = 0
    for last in range(len(windows)):
        if last + 1 < len(windows) and actions[last + 1] == actions[first]:
            continue
        said = [window.said for window in windows[first : last + 1]]
        mean = Said(np.mean([s.verb for s in said], axis=0), np.mean([s.noun for s in said], axis=0))
        segments.append(Segment(borders[first], borders[last + 1], actions[first], mean, len(said)))
        first = last + 1
    return segments


def timed(segment: Segment, names: ClassNames, top: int = 3) -> TimedName:
    """A segment as it is drawn."""
    verb, noun = segment.action
    sides = top_classes(segment.said.verb, names.verbs, top), top_classes(segment.said.noun, names.nouns, top)
    return TimedName(segment.start, segment.end, names.verbs[verb], names.nouns[noun], segment.probability, *sides)


def timed_ahead(windows: Sequence[Window], names: ClassNames, end: float, top: int = 3) -> list[TimedName]:
    """Anticipations as they are drawn: each from when it was made until the next one."""
    found = []
    for number, window in enumerate(windows):
        until = windows[number + 1].end if number + 1 < len(windows) else max(end, window.end)
        verb, noun = window.said.best
        sides = top_classes(window.said.verb, names.verbs, top), top_classes(window.said.noun, names.nouns, top)
        found.append(
            TimedName(window.end, until, names.verbs[verb], names.nouns[noun], window.said.probability, *sides)
        )
    return found
