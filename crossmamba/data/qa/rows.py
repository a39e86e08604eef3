"""One row of a MUSIC-AVQA annotation file: what it holds, and all that can be wrong with it (spec §3.1, §3.2)."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from crossmamba.data.paths import safe_name
from crossmamba.data.qa.templates import ANSWERS, SLOTS, TEMPLATES, TYPES, fill, template_of
from crossmamba.data.qa.vocabulary import split_question

__all__ = ["KEYS", "FaultyRow", "QuestionRow", "Version", "is_synthetic", "read_row"]

Version = Literal["json_update", "json", "v2", "r"]

KEYS = ("video_id", "question_id", "type", "question_content", "templ_values", "question_deleted", "anser")
_SYNTHETIC = re.compile(r"(va|vv|sa|eva|evv|esa)\d{8}(_flip)?")
_ANSWER_NUMBERS = {answer: number for number, answer in enumerate(ANSWERS)}
_VALUES = frozenset(value for values in SLOTS.values() for value in values)


@dataclass(frozen=True)
class QuestionRow:
    """One question about one video.

    Attributes:
        row: position in the file, from 1.
        question_id: None where the file gives none (v2.0).
        video_id: a file name's stem; leading zeros belong to it.
        modality, kind: of the question's type, such as "Audio-Visual" and "Counting".
        template: `question_content` as in the file.
        values: of the placeholders, in order.
        words: the filled question without its question mark.
        answer: one of the 42; None if the file gives none.
        extra: keys beyond the seven, as in the file.
    """

    row: int
    question_id: int | None
    video_id: str
    modality: str
    kind: str
    template: str
    values: tuple[str, ...]
    words: tuple[str, ...]
    answer: str | None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def question(self) -> str:
        """The filled question as a sentence."""
        return " ".join(self.words) + "?"

    @property
    def type_index(self) -> int:
        """Position of (modality, kind) in `templates.TYPES`."""
        return TYPES.index((self.modality, self.kind))

    @property
    def answer_index(self) -> int:
        """Position of the answer in `templates.ANSWERS`, -1 if it is not known."""
        return -1 if self.answer is None else _ANSWER_NUMBERS[self.answer]

    @property
    def synthetic(self) -> bool:
        """Whether the video is one of MUSIC-AVQA's artificial ones (see `is_synthetic`)."""
        return is_synthetic(self.video_id)


def is_synthetic(video_id: str) -> bool:
    """Whether a video was put together from others: `va vv sa eva evv esa` and 8 digits (spec §3.1)."""
    return _SYNTHETIC.fullmatch(video_id) is not None


class FaultyRow(Exception):
    """Why a row cannot be used; `kind` groups such reasons."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_row(number: int, raw: object, version: Version, where: str, require_answers: bool = True) -> QuestionRow:
    """Reads row `number` (from 1); see `annotations.read_questions` for the versions.

    Raises:
        FaultyRow: why it cannot be used; `where` is not in the message.
        DataError: the video's id cannot be a file name; the message starts with `where`.
    """
    if not isinstance(raw, dict):
        raise FaultyRow("row", f"a {type(raw).__name__}; expected an object")
    loose = version in ("v2", "r")
    _check_keys(raw, loose, require_answers)
    modality, kind = _type(raw["type"])
    text = raw["question_content"]
    if not isinstance(text, str) or not text.strip():
        raise FaultyRow("question", f"question_content is {text!r}; expected a question")
    values = _values(raw.get("templ_values", "[]"), loose)
    words = _words(text, values, modality, kind, version)
    deleted = raw.get("question_deleted", 0)
    if type(deleted) is not int or deleted != 0:
        raise FaultyRow("row", f"question_deleted is {deleted!r}; it is 0 in every published row: remove the row")
    video = raw["video_id"]
    if not isinstance(video, str):
        raise FaultyRow("id", f"video_id is {video!r}; it must be a string (leading zeros belong to it)")
    question_id = raw.get("question_id")
    if question_id is not None and type(question_id) is not int:
        raise FaultyRow("id", f"question_id is {question_id!r}; it must be a whole number")
    return QuestionRow(
        row=number,
        question_id=question_id,
        video_id=safe_name(video, where),
        modality=modality,
        kind=kind,
        template=text,
        values=values,
        words=words,
        answer=_answer(raw.get("anser", raw.get("answer") if loose else None), require_answers),
        extra={key: value for key, value in raw.items() if key not in KEYS},
    )


def _check_keys(raw: dict[str, Any], loose: bool, require_answers: bool) -> None:
    optional = {"question_id", "question_deleted", "templ_values", "anser"} if loose else set()
    if not require_answers:
        optional.add("anser")
    missing = [key for key in KEYS if key not in raw and key not in optional]
    extra = [key for key in raw if key not in KEYS]
    if missing:
        hint = " (the answer's key is misspelt `anser` in these files)" if "anser" in missing else ""
        raise FaultyRow("keys", f"no key {', '.join(map(repr, missing))}{hint}")
    if not loose and raw["question_id"] is None:
        raise FaultyRow("id", "question_id is null; only v2.0 has rows without an id: read it as version 'v2'")
    if extra and not loose:
        raise FaultyRow("keys", f"unknown key {', '.join(map(repr, extra))}; v2.0 and -R have more: name the version")


def _type(value: object) -> tuple[str, str]:
    pair = _inner_json(value, "type")
    if not isinstance(pair, list) or len(pair) != 2 or tuple(pair) not in TYPES:
        known = "; ".join(" ".join(known) for known in TYPES)
        raise FaultyRow("type", f"type is {value!r}; expected one of {known}")
    return pair[0], pair[1]


def _values(value: object, list_allowed: bool) -> tuple[str, ...]:
    if isinstance(value, list) and not list_allowed:
        raise FaultyRow("values", f"templ_values is the list {value!r}; only v2.0 has lists here: name the version")
    values = _inner_json(value, "templ_values")
    if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
        raise FaultyRow("values", f"templ_values is {value!r}; expected a list of words, as JSON in a string")
    return tuple(values)


def _inner_json(value: object, name: str) -> object:
    """JSON that is stored inside a string; a list that is none already is returned as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise FaultyRow("row", f"{name} is {value!r}, which is not JSON inside a string") from error


def _words(text: str, values: tuple[str, ...], modality: str, kind: str, version: Version) -> tuple[str, ...]:
    if version == "r":  # filled already; ends in a question mark or not
        words = tuple(split_question(text))
        if not words:
            raise FaultyRow("question", f"{text!r} has no words")
        return words
    template = template_of(text)
    if template is None:
        near = difflib.get_close_matches(text, [known.text for known in TEMPLATES], n=1)
        hint = f"; near it: {near[0]!r}" if near else ""
        raise FaultyRow("template", f"question_content {text!r} is none of the 33 templates{hint}")
    if (template.modality, template.kind) != (modality, kind):
        wanted = f"{template.modality} {template.kind}"
        raise FaultyRow("type", f"type is {modality} {kind}; {text!r} is a question of type {wanted}")
    if len(template.slots) != len(values):
        raise FaultyRow(
            "values", f"{len(values)} values {list(values)} for the {len(template.slots)} slots of {text!r}"
        )
    for value in values:
        if value not in _VALUES:  # which of them suits which slot is not checked: the train file could not be measured
            near = difflib.get_close_matches(value, sorted(_VALUES), n=2)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise FaultyRow("values", f"the value {value!r} in {text!r} is outside the 93 words{hint}")
    return tuple(fill(text, values))


def _answer(value: object, required: bool) -> str | None:
    if value is None and not required:
        return None
    if not isinstance(value, str) or value not in _ANSWER_NUMBERS:
        near = difflib.get_close_matches(value, ANSWERS, n=2) if isinstance(value, str) else []
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise FaultyRow("answer", f"the answer {value!r} is none of the 42{hint}")
    return value
