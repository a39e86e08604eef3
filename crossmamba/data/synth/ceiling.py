"""What predictors that lack something can score on a synthetic set, from its scene truth alone.

The score of a frame (spec §3.1), with prediction p, truth g, and HW pixels:

    M_J = |p and g| / (|p or g| + 1e-7)         if g has pixels
    M_J = share of pixels that p leaves black   if g is black

Why looking at subsets of the visible objects is enough for the exact ceiling of a predictor that sees only the picture.
Let the visible regions of the objects (disjoint by construction) have areas a_j, let the prediction paint x_j pixels of
region j, 0 <= x_j <= a_j, and b background pixels. Given the picture, the sounding subset G has the known law P(G), as
the schedule is drawn independently of the picture. The expected score is sum_G P(G) f_G(x, b) with

    f_G = sum_{j in G} x_j / (sum_{j in G} a_j + sum_{j not in G} x_j + b + 1e-7)     if G has pixels
    f_G = 1 - (sum_j x_j + b) / HW                                                    if not

Each f_G falls with b, so b = 0 is best. In one x_j, all else fixed, f_G is linear (j in G, or G without pixels) or of
the form c / (d + x_j) with c >= 0, d > 0, which is convex; so the expectation is convex in each x_j by itself and is
largest at x_j = 0 or x_j = a_j. Moving one coordinate after the other to its better end never lowers the expectation:
some subset of whole objects is optimal among all masks. Randomising does not help, and neither does seeing the other
frames, as the law of each second does not depend on the picture of any. The same holds for the law given more
knowledge, such as which classes are heard, which gives `per_second_oracle`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.layout import Layout
from crossmamba.data.synth.schedule import subset_law
from crossmamba.data.synth.truth import SceneTruth
from crossmamba.errors import DataError, UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FrameScores:
    """Scores of one frame under every subset painted and every subset sounding.

    Attributes:
        members: bool (2^n, n), the subsets.
        law: float64 (2^n,), the probability that the subset sounds.
        table: float64 (2^n, 2^n), M_J when the row is painted and the column sounds.
    """

    members: NDArray[np.bool_]
    law: Floats
    table: Floats


def score_table(areas: NDArray[np.int64], pixels: int, size_probabilities: tuple[float, ...]) -> FrameScores:
    """The scores of painting whole objects in one frame.

    Args:
        areas: (n,) visible pixels of each object.
        pixels: of the whole frame.
        size_probabilities: P(0), ..., P(n) of the number of sounding objects.
    """
    members, law = subset_law(size_probabilities)
    painted = members @ areas.astype(np.float64)  # (2^n,), also the truth's pixels when the subset sounds
    both = (members * areas) @ members.T.astype(np.float64)  # (2^n, 2^n)
    either = painted[:, None] + painted[None, :] - both
    table = np.where(painted[None, :] == 0, 1 - painted[:, None] / pixels, both / (either + 1e-7))
    return FrameScores(members, law, table)


def picture_only_choice(scores: FrameScores) -> int:
    """The subset that a predictor without sound paints best: the row with the largest expected score."""
    return int(np.argmax(scores.table @ scores.law))


def per_second_law(scores: FrameScores, classes: tuple[str, ...], heard: int) -> Floats:
    """The law of the sounding subset given how many objects of each class sound, float64 (2^n,).

    Args:
        scores: of the frame.
        classes: class of each object, n names.
        heard: the subset that really sounds, whose number of voices of each class is known.
    """
    counts = np.stack([scores.members[:, [c == name for c in classes]].sum(1) for name in sorted(set(classes))], 1)
    law = scores.law * (counts == counts[heard]).all(1)
    return law / law.sum()


def reference_scores(root: str | Path, subset: str, split: str) -> dict[str, float]:
    """M_J of reference predictors over a split, computed from `scene_truth` without any model or picture.

    All are means over the annotated frames (S4 train: the first of each clip), in [0, 1], and all paint exact outlines.

    Args:
        root: the folder that holds `Single-source` or `Multi-sources`, or that folder.
        subset: avsbench-s4 or avsbench-ms3.
        split: train, val or test.

    Returns:
        * `expected`: the exact ceiling of every predictor that sees only the picture, in expectation over schedules.
        * `realised`: what that best predictor scores on the schedules that were drawn. It differs by chance.
        * `all_objects`: all visible objects in every frame.
        * `all_black`: nothing in every frame.
        * `loudness_oracle`: nothing where no visible object sounds, else all of them.
        * `per_second_oracle`: an oracle that hears in each second how many voices of each visible class sound, but not
          which of several look-alikes, and nothing in a burst of noise. 1 where no scene has either; in the worlds
          `hard` and `bursts` the exact bound of all fusion that works second by second (see `scene.py`).
        * `frames`, and `black`, the share of them without a sounding visible object.

    Raises:
        UsageError: unknown names.
        DataError: no such set, no scene truth in it, or a truth that cannot be read.
    """
    return mean_reference_scores(
        read_truths(root, subset, split), first_only=subset.endswith("s4") and split == "train"
    )


def read_truths(root: str | Path, subset: str, split: str) -> Iterator[SceneTruth]:
    """The scene truths of a split, in the order of their paths.

    Raises:
        DataError: no such set, no scene truth in it, or a truth that cannot be read.
    """
    folder = Layout.find(root, subset).truth_folder(split)
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise DataError(f"{folder}: no scene truth here; only sets made by `crossmamba data synth` have one.")
    return (SceneTruth.read(path) for path in paths)


def mean_reference_scores(
    truths: Iterator[SceneTruth] | list[SceneTruth], first_only: bool = False
) -> dict[str, float]:
    """`reference_scores` of given truths; `first_only` counts only the first frame of each clip.

    Raises:
        UsageError: no truths.
    """
    rows = [_frame_references(truth, t) for truth in truths for t in range(1 if first_only else truth.seconds)]
    if not rows:
        raise UsageError("reference scores of no clips: give at least one scene truth.")
    means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
    return {**means, "frames": float(len(rows))}


def _frame_references(truth: SceneTruth, t: int) -> dict[str, float]:
    """The reference scores of one frame, and whether it is black."""
    areas, sounding = truth.areas[t], truth.sounding[t]
    scores = score_table(areas, truth.size**2, truth.size_probabilities)
    real = int(sounding @ (1 << np.arange(len(sounding))))  # subsets are in binary order
    nothing, everything = 0, len(scores.law) - 1
    blind = picture_only_choice(scores)
    classes = tuple(thing.class_name for thing in truth.objects)
    per_second = int(np.argmax(scores.table @ per_second_law(scores, classes, real)))
    if truth.bursts and truth.bursts[t]:
        per_second = blind
    black = not areas[sounding].sum()
    return {
        "expected": float(scores.table[blind] @ scores.law),
        "realised": float(scores.table[blind, real]),
        "all_objects": float(scores.table[everything, real]),
        "all_black": float(scores.table[nothing, real]),
        "loudness_oracle": float(scores.table[nothing if black else everything, real]),
        "per_second_oracle": float(scores.table[per_second, real]),
        "black": float(black),
    }
