"""What answerers that lack something can score on a concert set, from its scene truth alone.

question_only   knows the template and its values. `from_train` answers what is most frequent in the train questions
                for these values (for values that do not occur there: for the template), which is what a trained model
                can do. `on_itself` takes the most frequent answer of the very questions that are scored: no
                answerer of this kind can do better, and with few questions for some values this is far too high.
                `template` knows the template only, from train.
picture_only    also knows all of the picture's truth: which instruments of which size stand where, and the room.
sound_only      also knows all of the sound's truth: which kinds and sizes sound, when, how loud, how fast.

For the last two, `DRAWS` scenes are drawn for each video from the law of what is missing given what is known
(`posterior.py`). Each question is answered in those of them where it has a clear answer; an answer counts with the
weight (asked / possible) that it has among the questions of its template, as the choice of questions favours rare
answers. The best answer is the one with the largest sum. Two numbers each:

    realised    the share of the questions that this answer gets right, with its standard error
    expected    the posterior probability of the chosen answer, which is chosen with one half of the draws and
                measured with the other, so that choosing does not flatter it

Both fall short of the true ceiling by what a finite number of draws loses in choosing between nearly equal answers,
which `draws` shows: how many useful draws the question with the fewest has, and the mean.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from crossmamba.data.qa.templates import TEMPLATES
from crossmamba.data.synth.music.answers import ANSWERERS, POSITION
from crossmamba.data.synth.music.posterior import other_picture, other_sound
from crossmamba.data.synth.music.questions import all_questions
from crossmamba.data.synth.music.scene import Concert
from crossmamba.data.synth.music.truth import read_truth
from crossmamba.errors import DataError

DRAWS = 200
"""Scenes for every video; up to `MOST` for questions with fewer than `ENOUGH` useful ones."""
ENOUGH = 60
MOST = 1500

_SHORT = {
    ("Audio", "Counting"): "A-Cnt",
    ("Audio", "Comparative"): "A-Cmp",
    ("Visual", "Counting"): "V-Cnt",
    ("Visual", "Location"): "V-Loc",
    ("Audio-Visual", "Existential"): "Exist",
    ("Audio-Visual", "Location"): "Loc",
    ("Audio-Visual", "Counting"): "Cnt",
    ("Audio-Visual", "Comparative"): "Cmp",
    ("Audio-Visual", "Temporal"): "Temp",
}
_GROUPS = {"A": "Audio", "V": "Visual", "AV": "Audio-Visual"}
COLUMN_NAMES = ("A-Cnt", "A-Cmp", "A", "V-Cnt", "V-Loc", "V", "Exist", "Loc", "Cnt", "Cmp", "Temp", "AV", "All")
"""As in the result tables (spec §5)."""

Row = dict[str, Any]
Redraw = Callable[[Concert, np.random.Generator], Concert]


@dataclass(frozen=True)
class _Item:
    """A question of the set."""

    video_id: str
    template: int
    values: tuple[str, ...]
    answer: str


def music_ceilings(root: str | Path, split: str = "test", *, seed: int = 0, progress: bool = False) -> dict[str, Any]:
    """The ceilings of a split, in percent, for the 13 columns and for each template.

    Args:
        root: the set.
        split: the one to score; `from_train` uses the train questions.
        seed: of the draws.
        progress: whether to show a bar on stderr.

    Returns:
        split, questions, columns (names), and under question_only, picture_only and sound_only what the module's text
        says. A column without questions is null.

    Raises:
        DataError: no such set, no questions, or no scene truth.
    """
    items, train = _items(Path(root), split), _items(Path(root), "train")
    videos = sorted({item.video_id for item in items})
    concerts = {video_id: read_truth(root, video_id).concert for video_id in videos}
    weights = _weights(Path(root))
    result: dict[str, Any] = {
        "split": split,
        "questions": len(items),
        "columns": list(COLUMN_NAMES),
        "question_only": {
            "from_train": _report(items, _majority(items, train, True)),
            "on_itself": _report(items, _majority(items, items, True)),
            "template": _report(items, _majority(items, train, False)),
        },
    }
    for name, redraw in (("picture_only", other_sound), ("sound_only", other_picture)):
        result[name] = _posterior_scores(items, concerts, weights, redraw, seed, name if progress else "")
    result["how"] = " ".join((__doc__ or "").split())
    return result


def _items(root: Path, split: str, needed: bool = True) -> list[_Item]:
    path = root / "json_update" / f"avqa-{split}.json"
    try:
        rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
        items = [
            _Item(r["video_id"], POSITION[r["question_content"]], tuple(json.loads(r["templ_values"])), r["anser"])
            for r in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the questions of a concert set ({error!r}).") from error
    if needed and not items:
        raise DataError(f"{path}: no questions.")
    return items


def _majority(items: Sequence[_Item], source: Sequence[_Item], with_values: bool) -> NDArray[np.float64]:
    """1 where the most frequent answer of `source` is right; ties go to the word that comes first."""
    by_template: dict[int, Counter[str]] = defaultdict(Counter)
    by_values: dict[tuple[int, tuple[str, ...]], Counter[str]] = defaultdict(Counter)
    for item in source:
        by_template[item.template][item.answer] += 1
        by_values[item.template, item.values][item.answer] += 1
    right = []
    for item in items:
        counts = by_values.get((item.template, item.values)) if with_values else None
        counts = counts or by_template[item.template]
        best = min(counts, key=lambda a: (-counts[a], a)) if counts else ""
        right.append(float(best == item.answer))
    return np.array(right)


def _weights(root: Path) -> dict[tuple[int, str], float]:
    """Asked over possible questions of each (template, answer), over all splits."""
    asked: Counter[tuple[int, str]] = Counter()
    possible: Counter[tuple[int, str]] = Counter()
    videos = sorted(path.stem for path in (root / "scene_truth").glob("*.json"))
    concerts = [read_truth(root, video_id).concert for video_id in videos]
    for template in range(len(TEMPLATES)):
        possible.update((template, q.answer) for q in all_questions(concerts, template))
    for path in sorted((root / "json_update").glob("avqa-*.json")):
        asked.update((item.template, item.answer) for item in _items(root, path.stem.removeprefix("avqa-"), False))
    return {key: asked[key] / n for key, n in possible.items()}


def _posterior_scores(
    items: Sequence[_Item],
    concerts: dict[str, Concert],
    weights: dict[tuple[int, str], float],
    redraw: Redraw,
    seed: int,
    label: str,
) -> dict[str, Any]:
    """realised, expected and draws of one modality; a label asks for a bar."""
    by_video: dict[str, list[int]] = defaultdict(list)
    for k, item in enumerate(items):
        by_video[item.video_id].append(k)
    right, expected, useful = np.zeros(len(items)), np.zeros(len(items)), np.zeros(len(items), np.int64)
    bar = tqdm(sorted(by_video), desc=f"ceiling {label}", unit="video", disable=not label)
    for number, video_id in enumerate(bar):
        rng = np.random.default_rng((6, seed, number))
        mine = by_video[video_id]
        halves = _draw(concerts[video_id], [items[k] for k in mine], weights, redraw, rng)
        for k, (first, second, n) in zip(mine, halves, strict=True):
            useful[k] = n
            right[k] = float(_best(first + second) == items[k].answer)
            expected[k] = (_chosen_share(first, second) + _chosen_share(second, first)) / 2
    error = float(100 * np.sqrt(right.mean() * (1 - right.mean()) / len(right)))
    return {
        "realised": _report(items, right),
        "realised_standard_error": round(error, 2),
        "expected": _report(items, expected),
        "draws": {"fewest": int(useful.min()), "mean": round(float(useful.mean()), 1)},
    }


def _draw(
    concert: Concert,
    items: list[_Item],
    weights: dict[tuple[int, str], float],
    redraw: Redraw,
    rng: np.random.Generator,
) -> list[tuple[Counter[str], Counter[str], int]]:
    """Weighted answers of each question in two halves of the draws, and the number of useful draws."""
    halves: list[tuple[Counter[str], Counter[str]]] = [(Counter(), Counter()) for _ in items]
    useful = [0] * len(items)
    wanting = list(range(len(items)))
    for number in range(MOST):
        if number >= DRAWS:
            wanting = [k for k in wanting if useful[k] < ENOUGH]
        if not wanting:
            break
        drawn = redraw(concert, rng)
        for k in wanting:
            answer = ANSWERERS[items[k].template](drawn, items[k].values)
            weight = weights.get((items[k].template, answer), 0.0) if answer is not None else 0.0
            if answer is not None and weight:
                halves[k][useful[k] % 2][answer] += weight  # type: ignore[assignment]
                useful[k] += 1
    return [(first, second, n) for (first, second), n in zip(halves, useful, strict=True)]


def _best(counts: Counter[str]) -> str:
    return min(counts, key=lambda a: (-counts[a], a)) if counts else ""


def _chosen_share(chooser: Counter[str], measure: Counter[str]) -> float:
    total = sum(measure.values())
    return measure[_best(chooser)] / total if total else 0.0


def _report(items: Sequence[_Item], right: NDArray[np.float64]) -> dict[str, Any]:
    """Means in percent: micro averages for the 13 columns, and for each template."""
    of_template = np.array([item.template for item in items])
    types = [(TEMPLATES[k].modality, TEMPLATES[k].kind) for k in of_template]
    short = np.array([_SHORT[kind] for kind in types])
    modality = np.array([kind[0] for kind in types])

    def mean(which: NDArray[np.bool_]) -> float | None:
        return round(float(100 * right[which].mean()), 2) if which.any() else None

    columns = {}
    for name in COLUMN_NAMES:
        which = (
            np.ones(len(items), bool)
            if name == "All"
            else modality == _GROUPS[name]
            if name in _GROUPS
            else short == name
        )
        columns[name] = mean(which)
    return {
        "columns": columns,
        "templates": {t.text: mean(of_template == k) for k, t in enumerate(TEMPLATES)},
    }
