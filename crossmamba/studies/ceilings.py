"""What can be scored on a synthetic set by who knows less than everything, beside a study's table.

ROOT/ceilings.json         the concerts': `data.synth.music`
ROOT/truth/ceilings.json   the kitchen's: `data.synth.kitchen.ceilings`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossmamba.errors import DataError

CONCERTS = (
    ("question only", ("question_only", "from_train")),
    ("picture only", ("picture_only", "expected")),
    ("sound only", ("sound_only", "expected")),
)
"""Lines of the table, and where their columns stand in ceilings.json."""
_CONCERTS = (
    "Ceilings are computed from the set's scene truth: what an answerer can score that knows the question (as the "
    "train questions teach it), and besides it all of the picture's truth or all of the sound's."
)
KITCHEN = {
    "action": (
        "recognition",
        (
            ("the noun told", "true_noun", "top1"),
            ("the verb told", "true_verb", "top1"),
            ("one frame", "one_frame", "top1"),
        ),
    ),
    "action-anticipation": (
        "anticipation",
        (
            ("the past seen", "seen_past", "mt5r_lift"),
            ("the last action alone", "last_action", "mt5r_lift"),
            ("what the window shows, two heads", "seen_window", "mt5r_heads"),
        ),
    ),
}
"""By study: the part of the file, and its lines: title, name, measure."""
_KITCHEN = {
    "action": "Ceilings are of who knows the noun (or the verb) and guesses the rest by the train split, and of who "
    "sees one frame from the middle of an action, which does not tell movements from the same backwards.",
    "action-anticipation": "Ceilings are computed from the law of the synthetic kitchen: of who saw all that was done "
    "up to one second before, and of who knows the last action alone. A line of two heads, where the set has it, is of "
    "who names without fault what the 2.13 s before show, does not read the table, and ranks actions by the product of "
    "verb and noun as a model of two heads does. All know the law; a model must learn it from the train split.",
}


@dataclass(frozen=True)
class Ceilings:
    """Per cent by line and column, and what they are."""

    lines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    about: str = ""


def read_ceilings(root: Path, split: str, study: str = "") -> Ceilings:
    """The ceilings of a set for a study; empty for a set or a split without.

    Raises:
        DataError: the file cannot be read.
    """
    if study in KITCHEN:
        return _kitchen(root / "truth" / "ceilings.json", split, study)
    path = root / "ceilings.json"
    if not path.exists():
        return Ceilings()
    content = _read(path)
    if content.get("split", split) != split:
        return Ceilings()
    try:
        lines = {title: dict(content[first][second]["columns"]) for title, (first, second) in CONCERTS}
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    return Ceilings(lines, _CONCERTS)


def _kitchen(path: Path, split: str, study: str) -> Ceilings:
    part, wanted = KITCHEN[study]
    if not path.exists():
        return Ceilings()
    try:
        known = _read(path)[part].get(split)
        if known is None:
            return Ceilings()
        everything = known["all"]
        lines = {
            title: {slot: float(_measured(everything[name][slot], measure)) for slot in ("verb", "noun", "action")}
            for title, name, measure in wanted
            if name in everything or name != "seen_window"  # sets of before have none
        }
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    return Ceilings(lines, _KITCHEN[study])


def _measured(found: Mapping[str, Any], measure: str) -> Any:
    """Heads are told of actions alone: of verbs and nouns there is nothing to put together."""
    return found.get(measure, found["mt5r"]) if measure == "mt5r_heads" else found[measure]


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: {error!r} is missing; make the set again")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; make the set again") from error
