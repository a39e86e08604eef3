"""Judges files of predicted masks against files of truth; no model takes part (`crossmamba score avs`).

Files are paired by name only here; how a picture becomes numbers is given by the caller (`crossmamba.data.images` has
the readers), so this room needs no other.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.frames import FrameScores, score_frames

__all__ = ["FramePair", "Pairing", "ScoreReport", "pair_files", "score_folders"]

Reader = Callable[[Path], NDArray[np.generic]]
_NUMBER = re.compile(r"_?(\d+)$")
_SHOWN = 10  # problems of one kind in the text


@dataclass(frozen=True)
class FramePair:
    """A predicted file and its truth.

    Attributes:
        name: what both are called: the path below the folders, or its last two parts.
        clip: the folder, or the file's name without its number where there are no folders.
        number: of the frame in its clip, as the name ends.
    """

    name: str
    clip: str
    number: int
    prediction: Path
    truth: Path


@dataclass
class Pairing:
    """What `pair_files` found: pairs sorted by clip and number, and names that lack a partner."""

    pairs: list[FramePair]
    missing: list[str]
    extra: list[str]


@dataclass
class ScoreReport:
    """The scores of a folder, or why there are none.

    Attributes:
        scores: see `FrameScores.summary`, as floats; empty if anything is wrong.
        clips_per_batch: of the official protocol.
        missing: truth without a prediction. extra: predictions without truth.
        mismatched: pairs of different size. unreadable: files that could not be used.
    """

    scores: dict[str, float]
    clips_per_batch: int
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if every truth has its prediction and both could be read."""
        return not (self.missing or self.extra or self.mismatched or self.unreadable)

    def to_json(self) -> dict[str, object]:
        """A plain dict; what is not measurable is None."""
        scores = {name: None if math.isnan(value) else value for name, value in self.scores.items()}
        return {**asdict(self), "scores": scores, "ok": self.ok}

    @property
    def text(self) -> str:
        """For a terminal: both protocols named, in percent; or the lists of what is wrong."""
        return _score_text(self) if self.ok else _problem_text(self)


def pair_files(predictions: Path, truth: Path) -> Pairing:
    """Pairs the PNG files of two folders.

    By the path below the folders if any path is in both; otherwise by its last two parts, so that
    `gt_masks/test/violin/ID/ID_1.png` finds `predictions/ID/ID_1.png`.

    Raises:
        DataError: a folder is missing or holds no PNG, or two files of one folder have the same last two parts.
    """
    predicted, true = _png_files(predictions), _png_files(truth)
    if not predicted.keys() & true.keys():
        predicted, true = _by_last_parts(predicted, predictions), _by_last_parts(true, truth)
    pairs = []
    for name in sorted(predicted.keys() & true.keys()):
        *folders, file = name.split("/")
        stem = file.rsplit(".", 1)[0]
        number = _NUMBER.search(stem)
        clip = "/".join(folders) or _NUMBER.sub("", stem)
        pairs.append(FramePair(name, clip, int(number[1]) if number else 0, predicted[name], true[name]))
    pairs.sort(key=lambda pair: (pair.clip, pair.number, pair.name))
    return Pairing(pairs, sorted(true.keys() - predicted.keys()), sorted(predicted.keys() - true.keys()))


def _png_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png") if path.is_file()}
    if not files:
        raise DataError(f"{folder}: no PNG file in it or below it")
    return files


def _by_last_parts(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    short: dict[str, Path] = {}
    for name, path in files.items():
        key = "/".join(name.split("/")[-2:])
        if key in short:
            raise DataError(f"{folder}: {short[key]} and {path} have the same last two parts; point to one split")
        short[key] = path
    return short


def score_folders(
    predictions: str | Path,
    truth: str | Path,
    *,
    read_prediction: Reader,
    read_truth: Reader,
    clips_per_batch: int = 1,
    progress: Callable[[list[FramePair]], Iterable[FramePair]] = iter,
) -> ScoreReport:
    """Scores a folder of predicted masks; one frame is in memory at a time.

    Args:
        predictions, truth: folders of PNG files, see `pair_files`.
        read_prediction: file -> probabilities (H, W), such as `crossmamba.data.images.read_probability`.
        read_truth: file -> {0, 1} (H, W), such as `crossmamba.data.images.read_mask`.
        clips_per_batch: of the official protocol; batches take the clips sorted by name.
        progress: wraps the iteration, such as `tqdm`.

    Raises:
        UsageError: `clips_per_batch` below 1.
        DataError: see `pair_files`. What is wrong with single files is in the report instead.
    """
    if clips_per_batch < 1:
        raise UsageError(f"clips_per_batch is {clips_per_batch}; it must be at least 1")
    pairing = pair_files(Path(predictions), Path(truth))
    report = ScoreReport({}, clips_per_batch, missing=pairing.missing, extra=pairing.extra)
    order = {clip: i for i, clip in enumerate(dict.fromkeys(pair.clip for pair in pairing.pairs))}
    scored: list[FrameScores] = []
    highest, seconds = 0.0, Counter[str]()  # frames of a clip count as they come, whether files start at 0 or 1
    for pair in progress(pairing.pairs):
        try:
            prob, mask = read_prediction(pair.prediction), read_truth(pair.truth)
        except DataError as error:
            report.unreadable.append(str(error))
            continue
        if prob.shape != mask.shape:
            report.mismatched.append(f"{pair.name}: prediction {_size(prob)}, truth {_size(mask)}")
            continue
        highest = max(highest, float(prob.max()))
        scored.append(_score_one(prob, mask, order[pair.clip], seconds[pair.clip]))
        seconds[pair.clip] += 1
    if 0 < highest < 1.5 / 255:
        report.unreadable.append(
            f"{predictions}: the masks hold 0 and 1 of 255, which are 8-bit probabilities: nothing is marked; "
            "write 0 and 255"
        )
    if report.ok:
        summary = FrameScores.join(scored).summary(clips_per_batch)
        report.scores = {name: float(value) for name, value in summary.items()}
    return report


def _score_one(prob: NDArray[np.generic], mask: NDArray[np.generic], clip: int, second: int) -> FrameScores:
    return score_frames(
        torch.from_numpy(prob.astype(np.float32))[None],
        torch.from_numpy(mask.astype(np.float32))[None],
        clip=torch.tensor([clip]),
        second=torch.tensor([second]),
    )


def _size(picture: NDArray[np.generic]) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _score_text(report: ScoreReport) -> str:
    s = report.scores
    clips = f"{report.clips_per_batch} clip{'s' if report.clips_per_batch > 1 else ''} a batch"
    seconds = [value for name, value in s.items() if name.startswith("M_J_second_")]
    black = "-" if math.isnan(s["black_kept"]) else f"{100 * s['black_kept']:.2f}"
    return "\n".join(
        [
            f"protocol                      {'M_J':>7} {'M_F':>7}   (percent)",
            f"dataset                       {100 * s['M_J']:7.2f} {100 * s['M_F']:7.2f}",
            f"{f'official, {clips}':29} {100 * s['M_J_official']:7.2f} {100 * s['M_F_official']:7.2f}",
            f"M_J by second: {' '.join(f'{100 * value:.2f}' for value in seconds)}",
            f"black frames kept black: {black} of {s['black_frames']:.0f}   pixels marked: {100 * s['FPR']:.2f}",
            f"{s['clips']:.0f} clips, {s['frames']:.0f} frames",
        ]
    )


def _problem_text(report: ScoreReport) -> str:
    return (
        "\n".join(_problem_lines(report))
        + "\nnothing was scored: every truth needs one readable prediction of its size"
    )


def _problem_lines(report: ScoreReport) -> Iterator[str]:
    kinds = {
        "no prediction for": report.missing,
        "prediction without truth": report.extra,
        "size differs": report.mismatched,
        "unusable": report.unreadable,
    }
    for kind, names in kinds.items():
        yield from (f"{kind}: {name}" for name in names[:_SHOWN])
        if len(names) > _SHOWN:
            yield f"{kind}: ... and {len(names) - _SHOWN} more (--json lists all)"
