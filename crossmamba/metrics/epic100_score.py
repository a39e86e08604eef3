"""Judges a file of predictions against annotations (`crossmamba score epic100`); no model takes part.

| file | what it holds |
|---|---|
| .json, .zip | the challenge's submission (`epic100_submission`) |
| .npz | narration_id (N,), verb_output (N, V), noun_output (N, M); may hold question_source, action_pairs (N, K, 2) |
|      | with action_output (N, K): the scores of a head over actions, best first                                     |
| .pt | the same keys in a dict of tensors and lists, or (official code) a list of such dicts, one a segment |

Everything goes by narration id. Pickles are refused: they can run code.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.epic100 import EpicScores, LabelledRow, anticipation_scores, check_scores, recognition_scores
from crossmamba.metrics.epic100_actions import ActionScores
from crossmamba.metrics.epic100_submission import read_submission
from crossmamba.metrics.problems import told_problems

__all__ = ["EpicPredictions", "EpicReport", "read_epic_predictions", "score_epic", "write_epic_predictions"]

SOURCES = ("none", "generic", "predicted", "oracle")


@dataclass(frozen=True)
class EpicPredictions:
    """Scores of segments.

    Attributes:
        narration_ids: in the order of the rows. verb: float64 (N, V). noun: float64 (N, M).
        actions: explicit scores of pairs; None: made of verbs and nouns.
        question_source: what the model was asked: "none", "generic", "predicted", "oracle"; None if not stated.
    """

    narration_ids: tuple[str, ...]
    verb: NDArray[np.float64]
    noun: NDArray[np.float64]
    actions: ActionScores | None = None
    question_source: str | None = None


@dataclass
class EpicReport:
    """The scores of a file, or why there are none.

    Attributes:
        scores: None if anything is wrong.
        question_source: see `EpicPredictions`.
        missing: narration ids without a prediction. duplicate: predicted twice. unknown: not in the annotations.
    """

    scores: EpicScores | None = None
    question_source: str | None = None
    missing: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if every segment has one prediction."""
        return not (self.missing or self.duplicate or self.unknown)

    def to_json(self) -> dict[str, Any]:
        """A plain dict."""
        return {
            "ok": self.ok,
            "question_source": self.question_source,
            "scores": None if self.scores is None else self.scores.to_json(),
            "missing": self.missing,
            "duplicate": self.duplicate,
            "unknown": self.unknown,
        }

    @property
    def text(self) -> str:
        """For a terminal: the table in percent, or the lists of what is wrong."""
        if self.scores is None:
            return "\n".join([*self._problems(), "nothing was scored: every segment needs one prediction"])
        lines = [self.scores.text, f"question source: {self.question_source or 'not stated in the file'}"]
        if self.question_source == "oracle":
            lines.append("the questions were made from the true labels: not comparable with what sees the video only")
        return "\n".join(lines)

    def _problems(self) -> Iterator[str]:
        kinds = {
            "no prediction for narration": self.missing,
            "more than one prediction for narration": self.duplicate,
            "prediction for a narration that is not in the annotations": self.unknown,
        }
        return told_problems(kinds)


def score_epic(
    predictions: EpicPredictions,
    rows: Sequence[LabelledRow],
    task: Literal["recognition", "anticipation"],
    *,
    tail_verbs: Collection[int] | None = None,
    tail_nouns: Collection[int] | None = None,
    unseen: Collection[str] | None = None,
    closed: Sequence[tuple[int, int]] | None = None,
) -> EpicReport:
    """Pairs predictions with segments by narration id and judges them; other arguments as `anticipation_scores`.

    Raises:
        UsageError: an unknown task, or what the scores refuse. Missing, doubled and unknown ids are in the report.
    """
    if task not in ("recognition", "anticipation"):
        raise UsageError(f"task is {task!r}; one of recognition, anticipation")
    report = EpicReport(question_source=predictions.question_source)
    place: dict[str, int] = {}
    twice: dict[str, None] = {}
    for position, name in enumerate(predictions.narration_ids):
        if name in place:
            twice[name] = None
        place[name] = position
    known = {row.narration_id for row in rows}
    report.duplicate = list(twice)
    report.unknown = [name for name in place if name not in known]
    report.missing = [row.narration_id for row in rows if row.narration_id not in place]
    if not report.ok:
        return report
    order = np.array([place[row.narration_id] for row in rows], dtype=np.int64)
    actions = predictions.actions
    if actions is not None:
        actions = ActionScores(actions.pairs[order], actions.scores[order])
    verb, noun = predictions.verb[order], predictions.noun[order]
    lists: dict[str, Any] = {"tail_verbs": tail_verbs, "tail_nouns": tail_nouns, "unseen": unseen, "actions": actions}
    if task == "recognition":
        report.scores = recognition_scores(verb, noun, rows, **lists)
    else:
        report.scores = anticipation_scores(verb, noun, rows, closed=closed, **lists)
    return report


def write_epic_predictions(
    path: str | Path,
    narration_ids: Sequence[str],
    verb: ArrayLike,
    noun: ArrayLike,
    *,
    question_source: str,
    actions: ActionScores | None = None,
) -> None:
    """Writes `.npz`, float32, atomically; arguments as `EpicPredictions`.

    Raises:
        UsageError: another ending, an unknown question source, or what `check_scores` refuses.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise UsageError(f"{path}: predictions are written as .npz; `write_submission` writes .json and .zip")
    if question_source not in SOURCES:
        raise UsageError(f"question_source is {question_source!r}; one of {', '.join(SOURCES)}")
    names = list(narration_ids)
    verbs, nouns = check_scores(verb, "verb", names=names), check_scores(noun, "noun", names=names)
    if not len(names) == len(verbs) == len(nouns):
        raise UsageError(
            f"{len(names)} narration ids, {len(verbs)} rows of verb scores and {len(nouns)} of noun scores"
        )
    explicit: dict[str, Any] = {}
    if actions is not None:
        if len(actions.pairs) != len(names):
            raise UsageError(f"{len(names)} narration ids and {len(actions.pairs)} rows of action scores")
        explicit = {"action_pairs": actions.pairs.astype(np.int32), "action_output": actions.scores.astype(np.float32)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                narration_id=np.array(names, dtype=np.str_),
                verb_output=verbs.astype(np.float32),
                noun_output=nouns.astype(np.float32),
                question_source=np.array(question_source, dtype=np.str_),
                **explicit,
            )
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_epic_predictions(path: str | Path, *, verbs: int = 97, nouns: int = 300) -> EpicPredictions:
    """Reads any of the files of the table above.

    Raises:
        DataError: missing, unreadable, of another form, of other numbers of classes, not finite, or probabilities.
    """
    path = Path(path)
    if path.suffix in (".json", ".zip"):
        held = read_submission(path, verbs=verbs, nouns=nouns)
        return EpicPredictions(held.narration_ids, held.verb, held.noun, held.actions)
    if not path.is_file():
        raise DataError(f"{path}: there is no such predictions file")
    if path.suffix == ".npz":
        content = _npz(path)
    elif path.suffix == ".pt":
        content = _pt(path)
    else:
        raise DataError(f"{path}: predictions are .json, .zip, .npz or .pt; pickles can run code and are not read")
    missing = [key for key in ("narration_id", "verb_output", "noun_output") if key not in content]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}; it holds {', '.join(content) or 'nothing'}")
    given = content["narration_id"]
    if np.ndim(given) != 1 or not all(isinstance(name, str) for name in given):
        raise DataError(f"{path}: narration_id must be a list of texts such as 'P01_11_0', one a segment")
    names = tuple(str(name) for name in given)
    try:
        verb = check_scores(content["verb_output"], "verb", verbs, names=names)
        noun = check_scores(content["noun_output"], "noun", nouns, names=names)
    except UsageError as error:
        raise DataError(f"{path}: {error}") from error
    if not len(names) == len(verb) == len(noun):
        raise DataError(
            f"{path}: {len(names)} narration ids, {len(verb)} rows of verb scores, {len(noun)} of noun scores"
        )
    source = content.get("question_source")
    if source is not None and str(source) not in SOURCES:
        raise DataError(f"{path}: question_source is {str(source)!r}; one of {', '.join(SOURCES)}")
    actions = _actions(path, content, (len(names), verb.shape[1], noun.shape[1])) if "action_pairs" in content else None
    return EpicPredictions(names, verb, noun, actions, None if source is None else str(source))


def _actions(path: Path, content: dict[str, Any], sizes: tuple[int, int, int]) -> ActionScores:
    """The explicit scores of pairs, for (segments, verbs, nouns)."""
    pairs, scores = np.asarray(content["action_pairs"]), np.asarray(content.get("action_output", ()))
    if pairs.dtype.kind not in "iu" or pairs.ndim != 3 or pairs.shape[::2] != (sizes[0], 2):
        raise DataError(f"{path}: action_pairs are {pairs.dtype} {pairs.shape}; expected integers ({sizes[0]}, K, 2)")
    if scores.dtype.kind != "f" or scores.shape != pairs.shape[:2] or not np.isfinite(scores).all():
        raise DataError(f"{path}: action_output needs a finite number for each of the {pairs.shape[:2]} action_pairs")
    if (pairs < 0).any() or (pairs >= sizes[1:]).any():
        raise DataError(f"{path}: action_pairs go beyond the {sizes[1]} verbs and {sizes[2]} nouns")
    if (np.diff(scores, axis=1) > 0).any():
        raise DataError(f"{path}: action_pairs are not sorted, best first, by action_output")
    return ActionScores(pairs.astype(np.int64), scores.astype(np.float64))


def _npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # damaged archives raise many kinds
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path}: holds arrays of Python objects, which are pickles and can run code; save narration_id as "
                "np.array(ids, dtype=str) and the scores as numbers"
            ) from error
        raise DataError(f"{path}: cannot be read as a .npz file ({error})") from error


def _pt(path: Path) -> dict[str, Any]:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged and for unsafe files
        reason = str(error).splitlines()[0][:200]
        raise DataError(
            f"{path}: cannot be read without running code in it ({reason}); save tensors and lists"
        ) from error
    if isinstance(content, list) and content and all(isinstance(entry, dict) for entry in content):
        keys = content[0].keys()
        if any(entry.keys() != keys for entry in content):
            raise DataError(f"{path}: the entries of the list have different keys")
        content = {key: [entry[key] for entry in content] for key in keys}
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; expected a dict or a list of dicts")
    try:
        return {str(key): _plain(value) for key, value in content.items()}
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{path}: {error}") from error


def _plain(value: Any) -> Any:
    """Tensors as numpy; bfloat16 as float32."""
    import torch

    if isinstance(value, torch.Tensor):
        return value.float().numpy() if value.dtype == torch.bfloat16 else value.numpy()
    if isinstance(value, list | tuple) and value and isinstance(value[0], torch.Tensor):
        return np.stack([_plain(one) for one in value])
    return value
