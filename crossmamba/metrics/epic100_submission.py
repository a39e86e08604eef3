"""The challenge's submission file (spec §4.5): `test.json`, alone or deflated in a zip.

    {"version": "0.2", "challenge": "action_recognition" | "action_anticipation",
     "sls_pt": 0-5, "sls_tl": 0-5, "sls_td": 0-5,
     "results": {"P01_101_0": {"verb": {"0": f, ..., "96": f}, "noun": {"0": f, ..., "299": f},
                               "action": {"v,n": f, ... exactly 100}}}}

`action` is in all segments or in none. Files are read and written one segment at a time, as arrays: all 13,092 of them
as Python objects would take gigabytes. The official validator lets NaN, and any part of a challenge's name, pass; this
one does not.

Levels of supervision (sls): pt pre-training, tl training labels, td training data. Questions that a language model
wrote from knowledge beyond the labels are tl 5; private data is pt 5; td 4 is training on train and validation, 3 on
train alone.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.epic100_actions import ACTIONS_KEPT, ActionScores, action_scores, check_scores

__all__ = ["CHALLENGES", "Submission", "read_submission", "validate_submission", "write_submission"]

Challenge = Literal["action_recognition", "action_anticipation"]
CHALLENGES: tuple[Challenge, ...] = ("action_recognition", "action_anticipation")
VERSION = "0.2"
_MEMBER = "test.json"
_LEVELS = ("sls_pt", "sls_tl", "sls_td")
_MAX_BYTES = 2**31  # of the json, unpacked; a full test file has 0.2 GB
_PAIR = re.compile(r"(\d{1,6}),(\d{1,6})")
_SHOWN = 5


@dataclass(frozen=True)
class Submission:
    """What a submission file holds.

    Attributes:
        narration_ids: of the segments, in the file's order.
        verb: float64 (N, 97). noun: float64 (N, 300). Logits or log-probabilities.
        actions: explicit scores of 100 pairs a segment, best first; None if the file has none.
        challenge: which. sls: the levels pt, tl, td.
    """

    narration_ids: tuple[str, ...]
    verb: NDArray[np.float64]
    noun: NDArray[np.float64]
    actions: ActionScores | None
    challenge: str
    sls: tuple[int, int, int]


def write_submission(
    path: str | Path,
    narration_ids: Sequence[str],
    verb: ArrayLike,
    noun: ArrayLike,
    *,
    challenge: Challenge,
    sls: tuple[int, int, int],
    actions: ActionScores | Literal["product"] | None = "product",
) -> None:
    """Writes `.json`, or `.zip` with `test.json` in it; atomically, and the same bytes for the same scores.

    Args:
        path: of the file.
        narration_ids: all segments of the split, once each.
        verb, noun: logits or log-probabilities, (N, 97) and (N, 300), in that order; kept to nine digits.
        challenge: its name.
        sls: levels (pt, tl, td), 0 to 5 each; there is no default, because a wrong one disqualifies.
        actions: 100 pairs a segment; "product" makes them of verbs and nouns; None leaves them out.

    Raises:
        UsageError: what the validator would refuse, or another ending of the name.
    """
    path, names = Path(path), list(narration_ids)
    if path.suffix not in (".json", ".zip"):
        raise UsageError(f"{path}: a submission's name ends in .json or .zip")
    if challenge not in CHALLENGES:
        raise UsageError(f"challenge is {challenge!r}; one of {', '.join(CHALLENGES)}")
    if len(sls) != 3 or any(type(level) is not int or not 0 <= level <= 5 for level in sls):
        raise UsageError(
            f"sls is {sls!r}; three whole numbers from 0 to 5: pre-training, training labels, training data"
        )
    if not names or len(set(names)) != len(names):
        raise UsageError("a submission needs every narration id once" if names else "there are no segments to submit")
    verbs, nouns = check_scores(verb, "verb", names=names), check_scores(noun, "noun", names=names)
    chosen = action_scores(verbs, nouns) if actions == "product" else actions
    if not len(names) == len(verbs) == len(nouns) == (len(names) if chosen is None else len(chosen.pairs)):
        raise UsageError(
            f"{len(names)} narration ids, {len(verbs)} rows of verb scores and {len(nouns)} of noun scores"
        )
    kept = min(ACTIONS_KEPT, verbs.shape[1] * nouns.shape[1])
    if chosen is not None and chosen.pairs.shape[1] != kept:
        raise UsageError(f"{chosen.pairs.shape[1]} actions a segment; a submission has exactly {kept}")
    if chosen is not None and not np.isfinite(chosen.scores).all():
        raise UsageError("action scores hold values that are no finite numbers")
    header = {"version": VERSION, "challenge": challenge, **dict(zip(_LEVELS, sls, strict=True))}
    with _output(path) as file:
        file.write((json.dumps(header)[:-1] + ', "results": {').encode())
        # Formatted as a whole: number by number, a test file takes a minute. Nine digits leave float32 unchanged.
        forms = [", ".join(f'"{i}": %.9g' for i in range(scores.shape[1])) for scores in (verbs, nouns)]
        for row, name in enumerate(names):
            entry = f'"verb": {{{forms[0] % tuple(verbs[row])}}}, "noun": {{{forms[1] % tuple(nouns[row])}}}'
            if chosen is not None:
                pairs = zip(chosen.pairs[row].tolist(), chosen.scores[row].tolist(), strict=True)
                listed = ", ".join(f'"{v},{n}": {score:.9g}' for (v, n), score in pairs)
                entry += f', "action": {{{listed}}}'
            comma = ", " if row else ""
            file.write(f"{comma}{json.dumps(name)}: {{{entry}}}".encode())
        file.write(b"}}\n")


@contextmanager
def _output(path: Path) -> Iterator[IO[bytes]]:
    """The json's stream; the file takes its name only when all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.suffix == ".json":
            with temporary.open("wb") as file:
                yield file
        else:
            member = zipfile.ZipInfo(_MEMBER, (1980, 1, 1, 0, 0, 0))
            member.compress_type = zipfile.ZIP_DEFLATED
            with zipfile.ZipFile(temporary, "w") as archive, archive.open(member, "w") as file:
                yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_submission(
    path: str | Path,
    *,
    narration_ids: Sequence[str] | None = None,
    challenge: str | None = None,
    verbs: int = 97,
    nouns: int = 300,
) -> Submission:
    """Reads and validates; arguments as `validate_submission`.

    Raises:
        DataError: unreadable, or not valid: the first defects are named.
    """
    content, problems = _load(Path(path), narration_ids, challenge, verbs, nouns)
    if problems or content is None:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(f"{path}: not a valid submission: {'; '.join(problems[:_SHOWN])}{more}")
    return content


def validate_submission(
    path: str | Path,
    *,
    narration_ids: Sequence[str] | None = None,
    challenge: str | None = None,
    verbs: int = 97,
    nouns: int = 300,
) -> list[str]:
    """Everything that is wrong with a submission file, one sentence each; an empty list is a valid file.

    Args:
        path: `.json` or `.zip`.
        narration_ids: segments of the split: all must be there and no others; None does not look.
        challenge: it must be; None takes both.
        verbs, nouns: number of classes.

    Raises:
        DataError: the file cannot be opened, or is no JSON.
    """
    return _load(Path(path), narration_ids, challenge, verbs, nouns)[1]


class _Pairs(list):
    """A JSON object as its (key, value) pairs: a dict would keep the last of equal keys and say nothing."""

    def get(self, key: str) -> Any:
        return next((value for name, value in self if name == key), None)

    @property
    def keys(self) -> list[str]:
        return [name for name, _ in self]


class _Numbers:
    """A JSON object of numbers only: its keys and a float64 array, at a tenth of the memory."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self.keys = tuple(key for key, _ in pairs)
        self.values = np.array([value for _, value in pairs], dtype=np.float64)


def _object(pairs: list[tuple[str, Any]]) -> _Pairs | _Numbers:
    if pairs and all(type(value) in (int, float) for _, value in pairs):
        try:
            return _Numbers(pairs)
        except OverflowError:  # a whole number of more than 308 digits
            return _Pairs(pairs)
    return _Pairs(pairs)


def _load(
    path: Path, narration_ids: Sequence[str] | None, challenge: str | None, verbs: int, nouns: int
) -> tuple[Submission | None, list[str]]:
    text = _text(path)
    try:
        content = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, _Pairs):
        return None, ["the file does not hold an object with version, challenge, sls_pt, sls_tl, sls_td and results"]
    problems = list(_header_problems(content, challenge))
    results = content.get("results")
    if not isinstance(results, _Pairs) or not results:
        return None, [*problems, "results is no object with an entry for each narration id"]
    problems += _id_problems(results.keys, narration_ids)
    reader = _Reader(verbs, nouns)
    for name, entry in results:
        problems += reader.read(name, entry)
    problems += reader.finish()
    if problems:
        return None, problems
    levels = tuple(int(content.get(name)) for name in _LEVELS)
    actions = reader.actions()
    ids, verb, noun = tuple(results.keys), np.stack(reader.verb), np.stack(reader.noun)
    for what, scores in (("verb", verb), ("noun", noun)):
        try:
            check_scores(scores, what, names=ids)
        except UsageError as error:
            problems.append(str(error))
    return Submission(ids, verb, noun, actions, content.get("challenge"), (levels[0], levels[1], levels[2])), problems


def _text(path: Path) -> str:
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if names != [_MEMBER]:
                    raise DataError(f"{path}: holds {', '.join(names[:5]) or 'nothing'}; expected {_MEMBER} alone")
                with archive.open(_MEMBER) as file:
                    content = file.read(_MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise DataError(f"{path}: more than {_MAX_BYTES} bytes of JSON")
        return content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such submission file") from error
    except DataError:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise DataError(f"{path}: cannot be read ({error})") from error


def _header_problems(content: _Pairs, challenge: str | None) -> Iterator[str]:
    wanted = ("version", "challenge", *_LEVELS, "results")
    for key in dict.fromkeys(content.keys):
        if key not in wanted:
            yield f"unknown key {key!r}; the keys are {', '.join(wanted)}"
        elif content.keys.count(key) > 1:
            yield f"the key {key!r} comes {content.keys.count(key)} times"
    for key in wanted[:-1]:
        value = content.get(key)
        if key not in content.keys:
            yield f"no {key}"
        elif key == "version" and value != VERSION:
            yield f"version is {value!r}; expected {VERSION!r}"
        elif key == "challenge" and value not in ([challenge] if challenge else CHALLENGES):
            yield f"challenge is {value!r}; expected {challenge or ' or '.join(CHALLENGES)}"
        elif key in _LEVELS and (type(value) is not int or not 0 <= value <= 5):
            yield f"{key} is {value!r}; expected a whole number from 0 to 5"


def _id_problems(given: list[str], wanted: Sequence[str] | None) -> Iterator[str]:
    twice = [name for name in dict.fromkeys(given) if given.count(name) > 1] if len(set(given)) < len(given) else []
    for name in twice:
        yield f"narration {name} comes more than once"
    if wanted is None:
        return
    there, expected = set(given), set(wanted)
    for text, names in (
        ("no result for narration", [name for name in wanted if name not in there]),
        ("results for narrations that the split does not have:", [name for name in there if name not in expected]),
    ):
        if names:
            more = f" ... ({len(names)} in all)" if len(names) > _SHOWN else ""
            yield f"{text} {', '.join(sorted(names)[:_SHOWN])}{more}"


def _no_number(scores: _Pairs) -> str:
    """The first value of an object that is not `_Numbers`: no number, or more than float64 holds."""
    key, value = next((k, v) for k, v in scores if type(v) not in (int, float) or abs(v) > sys.float_info.max)
    return f"{key} is {str(value)[:40]!r}; expected a finite number"


class _Reader:
    """Collects the entries of `results` as arrays."""

    def __init__(self, verbs: int, nouns: int) -> None:
        self.classes = {"verb": verbs, "noun": nouns}
        self.wanted = {slot: tuple(map(str, range(count))) for slot, count in self.classes.items()}
        self.verb: list[NDArray[np.float64]] = []
        self.noun: list[NDArray[np.float64]] = []
        self.pairs: list[NDArray[np.int64]] = []
        self.scores: list[NDArray[np.float64]] = []
        self.without: list[str] = []  # entries without actions

    def read(self, name: str, entry: Any) -> Iterator[str]:
        where = f"narration {name}"
        if not isinstance(entry, _Pairs):
            yield f"{where}: the entry is no object with verb and noun"
            return
        for key in dict.fromkeys(entry.keys):
            if key not in ("verb", "noun", "action"):
                yield f"{where}: unknown key {key!r}"
            elif entry.keys.count(key) > 1:
                yield f"{where}: {key} comes {entry.keys.count(key)} times"
        for slot, target in (("verb", self.verb), ("noun", self.noun)):
            problem = self._classes(slot, entry.get(slot), target)
            if problem:
                yield f"{where}: {problem}"
        if "action" in entry.keys:
            problem = self._actions(entry.get("action"))
            if problem:
                yield f"{where}: {problem}"
        else:
            self.without.append(name)

    def _classes(self, slot: str, scores: Any, target: list[NDArray[np.float64]]) -> str | None:
        wanted = self.wanted[slot]
        if isinstance(scores, _Pairs) and scores:
            return f"{slot} {_no_number(scores)}"
        if not isinstance(scores, _Numbers):
            return f"no {slot} scores"
        values = scores.values
        if scores.keys != wanted:
            missing, extra = sorted(set(wanted) - set(scores.keys)), sorted(set(scores.keys) - set(wanted))
            if missing or extra or len(scores.keys) != len(wanted):
                first = f"class {missing[0]} is missing" if missing else f"{extra[0]!r}" if extra else "one comes twice"
                return f"{slot} classes must be 0 to {len(wanted) - 1}, once each: {first}"
            values = values[np.argsort([int(key) for key in scores.keys])]
        if not np.isfinite(values).all():
            where = int(np.flatnonzero(~np.isfinite(values))[0])
            return f"{slot} {where} is {values[where]}; expected a finite number"
        target.append(values)
        return None

    def _actions(self, scores: Any) -> str | None:
        kept = min(ACTIONS_KEPT, math.prod(self.classes.values()))
        if isinstance(scores, _Pairs) and scores:
            return f"action {_no_number(scores)}"
        if not isinstance(scores, _Numbers) or len(scores.keys) != kept:
            count = len(scores.keys) if isinstance(scores, _Numbers) else 0
            return f"{count} action scores; expected exactly {kept}"
        pairs = np.empty((kept, 2), dtype=np.int64)
        for row, key in enumerate(scores.keys):
            match = _PAIR.fullmatch(key)
            if match is None:
                return f"action {key!r}; expected 'verb,noun' such as '0,12'"
            pairs[row] = [int(part) for part in match.groups()]
        beyond = (pairs >= list(self.classes.values())).any(axis=1)
        if beyond.any():
            return f"action {scores.keys[int(np.flatnonzero(beyond)[0])]!r} is beyond the classes"
        if len(np.unique(pairs, axis=0)) < kept:
            return "an action comes more than once"
        if not np.isfinite(scores.values).all():
            return "an action score is no finite number"
        order = np.argsort(-scores.values, kind="stable")
        self.pairs.append(pairs[order])
        self.scores.append(scores.values[order])
        return None

    def finish(self) -> Iterator[str]:
        if self.without and self.pairs:
            yield (
                f"{len(self.without)} segments have no action scores and {len(self.pairs)} have; all or none: "
                f"{', '.join(self.without[:_SHOWN])}"
            )

    def actions(self) -> ActionScores | None:
        return ActionScores(np.stack(self.pairs), np.stack(self.scores)) if self.pairs else None
