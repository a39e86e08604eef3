"""The 33 question templates of MUSIC-AVQA, its 42 answers, and how a template becomes a question.

Source: spec §3.1 and appendix, measured there on the public annotation files (Li et al., "Learning to Answer Questions
in Dynamic Audio-Visual Scenarios", CVPR 2022). These are facts about the format; no row of the data set is here.

Order of the answers: that of the index files of TSPM and QA-TIGER, which agree on all answers that occur (spec §3.1).
A checkpoint trained on `json_update` has its 42 outputs in this order.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crossmamba.errors import UsageError

__all__ = [
    "ANSWERS",
    "COUNTS",
    "INSTRUMENTS",
    "SLOTS",
    "TEMPLATES",
    "TYPES",
    "AnswerClass",
    "Template",
    "answers_of",
    "fill",
    "template_of",
]

AnswerClass = Literal["yes_no", "count", "place", "place_or_together", "room", "instrument"]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


INSTRUMENTS: tuple[str, ...] = _names(
    """accordion acoustic_guitar bagpipe banjo bassoon cello clarinet congas drum electric_bass erhu flute guzheng piano
    pipa saxophone suona trumpet tuba ukulele violin xylophone"""
)
COUNTS: tuple[str, ...] = (*_names("zero one two three four five six seven eight nine ten"), "more than ten")
ANSWERS: tuple[str, ...] = (
    *_names("two cello congas zero no pipa six yes one four three seven five ukulele right piano left accordion"),
    *_names("clarinet guzheng"),
    "more than ten",
    *_names("nine indoor saxophone drum violin middle outdoor bagpipe bassoon acoustic_guitar banjo electric_bass ten"),
    *_names("eight flute simultaneously trumpet erhu xylophone tuba suona"),
)
TYPES: tuple[tuple[str, str], ...] = (
    ("Audio", "Counting"),
    ("Audio", "Comparative"),
    ("Visual", "Counting"),
    ("Visual", "Location"),
    ("Audio-Visual", "Existential"),
    ("Audio-Visual", "Location"),
    ("Audio-Visual", "Counting"),
    ("Audio-Visual", "Comparative"),
    ("Audio-Visual", "Temporal"),
)
"""(modality, kind) of the nine question types, in the order of the result tables (spec §5)."""

SLOTS: dict[str, tuple[str, ...]] = {
    "<Object>": INSTRUMENTS,
    "<LR>": ("left", "middle", "right"),
    "<LRer>": ("leftest", "rightest"),
    "<FL>": ("first", "last"),
    "<TH>": ("first", "second", "third", "fourth", "fifth"),
    "<LL>": ("loudest", "lowest"),
    "<BA>": ("before", "after"),
}
"""What may stand in each placeholder."""

_CLASSES: dict[str, tuple[str, ...]] = {
    "yes_no": ("yes", "no"),
    "count": COUNTS,
    "place": ("left", "middle", "right"),
    "place_or_together": ("left", "middle", "right", "simultaneously"),
    "room": ("indoor", "outdoor"),
    "instrument": INSTRUMENTS,
}
_SLOT = re.compile(r"<[A-Za-z]+>")


@dataclass(frozen=True)
class Template:
    """A question with placeholders.

    Attributes:
        modality: "Audio", "Visual" or "Audio-Visual".
        kind: "Counting", "Comparative", "Location", "Existential" or "Temporal".
        text: exactly as in the annotation files: two end in a blank, one in a full-width question mark.
        answers: which answers it can have, see `answers_of`.
    """

    modality: str
    kind: str
    text: str
    answers: AnswerClass

    @property
    def slots(self) -> tuple[str, ...]:
        """The placeholders in order, such as ("<FL>", "<LR>")."""
        return tuple(_SLOT.findall(self.text))

    @property
    def type_index(self) -> int:
        """Position of (modality, kind) in `TYPES`."""
        return TYPES.index((self.modality, self.kind))

    @property
    def question(self) -> str:
        """The text for people: no trailing blank, an ordinary question mark."""
        return self.text.rstrip()[:-1] + "?"


def _templates() -> tuple[Template, ...]:
    table: list[tuple[str, str, list[tuple[str, AnswerClass]]]] = [
        (
            "Audio",
            "Counting",
            [
                ("Are there <Object> and <Object> sound? ", "yes_no"),
                ("How many musical instruments were heard throughout the video?", "count"),
                ("Is there a <Object> sound?", "yes_no"),
            ],
        ),
        (
            "Audio",
            "Comparative",
            [
                ("Is the <Object> louder than the <Object>?", "yes_no"),
                ("Is the <Object> more rhythmic than the <Object>?", "yes_no"),
                ("Is the <Object> playing longer than the <Object>?", "yes_no"),
            ],
        ),
        (
            "Visual",
            "Counting",
            [
                ("Are there <Object> and <Object> instruments in the video?", "yes_no"),
                ("How many <Object> are in the entire video?", "count"),
                ("How many types of musical instruments appeared in the entire video?", "count"),
                ("Is there a <Object> in the entire video?", "yes_no"),
            ],
        ),
        (
            "Visual",
            "Location",
            [
                ("What is the instrument on the <LR> of <Object>?", "instrument"),
                ("What kind of instrument is the <LRer> instrument? ", "instrument"),
                ("What kind of musical instrument is it?", "instrument"),
                ("Where is the performance?", "room"),
            ],
        ),
        (
            "Audio-Visual",
            "Existential",
            [
                ("Is the <Object> in the video always playing?", "yes_no"),
                ("Is there a voiceover?", "yes_no"),
                ("Is this sound from the instrument in the video?", "yes_no"),
            ],
        ),
        (
            "Audio-Visual",
            "Location",
            [
                ("Is the <FL> sound coming from the <LR> instrument?", "yes_no"),
                ("What is the <LR> instrument of the <FL> sounding instrument?", "instrument"),
                ("Where is the <LL> instrument?", "place"),
                ("Which is the musical instrument that sounds at the same time as the <Object>?", "instrument"),
            ],
        ),
        (
            "Audio-Visual",
            "Counting",
            [
                ("How many instruments are sounding in the video?", "count"),
                ("How many instruments in the video did not sound from beginning to end?", "count"),
                ("How many sounding <Object> in the video？", "count"),
                ("How many types of musical instruments sound in the video?", "count"),
            ],
        ),
        (
            "Audio-Visual",
            "Comparative",
            [
                ("Is the <Object> on the <LR> louder than the <Object> on the <LR>?", "yes_no"),
                ("Is the <Object> on the <LR> more rhythmic than the <Object> on the <LR>?", "yes_no"),
                ("Is the instrument on the <LR> louder than the instrument on the <LR>?", "yes_no"),
                ("Is the instrument on the <LR> more rhythmic than the instrument on the <LR>?", "yes_no"),
            ],
        ),
        (
            "Audio-Visual",
            "Temporal",
            [
                ("What is the <TH> instrument that comes in?", "instrument"),
                ("Where is the <FL> sounding instrument?", "place"),
                ("Which <Object> makes the sound <FL>?", "place_or_together"),
                ("Which instrument makes sounds <BA> the <Object>?", "instrument"),
            ],
        ),
    ]
    return tuple(Template(modality, kind, text, answers) for modality, kind, rows in table for text, answers in rows)


TEMPLATES: tuple[Template, ...] = _templates()
"""The 33, in the order of the spec's appendix."""

_BY_TEXT = {template.text: template for template in TEMPLATES}


def answers_of(kind_of_answers: str) -> tuple[str, ...]:
    """The answers of a class: "yes_no", "count", "place", "place_or_together", "room" or "instrument".

    Raises:
        UsageError: another name.
    """
    if kind_of_answers not in _CLASSES:
        raise UsageError(f"answer class {kind_of_answers!r}; allowed: {', '.join(_CLASSES)}")
    return _CLASSES[kind_of_answers]


def template_of(text: str) -> Template | None:
    """The template with exactly this text (blank and full-width mark included), None if there is none."""
    return _BY_TEXT.get(text)


def fill(text: str, values: Sequence[str]) -> list[str]:
    """A question's words by the official rule (spec §3.1).

    Trailing blanks go; the text is split at blanks; the last character of the last word goes, whatever it is (so '?'
    and the full-width mark both do); each word that contains '<' is replaced by the next value.

    Args:
        text: of the template, or of a question that is filled already (then `values` is empty).
        values: one a placeholder; a value such as "acoustic_guitar" is one word.

    Raises:
        UsageError: an empty text, or another number of values than of placeholders.
    """
    words = text.rstrip().split(" ")
    words[-1] = words[-1][:-1]
    slots = sum("<" in word for word in words)
    if not text.strip():
        raise UsageError("the question is empty")
    if slots != len(values):
        raise UsageError(f"{text!r} has {slots} placeholders, and there are {len(values)} values: {list(values)}")
    rest = iter(values)
    return [next(rest) if "<" in word else word for word in words]
