"""What the questions of a file give away (spec §2.6).

1. own answer and 2. the other's answer: words of the answers' classes, in the questions as written and as masked;
3. whether generic questions really are the same for all; 4. a probe: how well words alone, without any video, tell the
class. A model that sums what it reads and what it sees (MambaVL) gains just that much from the questions by themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from crossmamba.errors import DataError
from crossmamba.questions.masking import Answers, LabelledRow, Masker, enough_left
from crossmamba.questions.probe import guess_from_words
from crossmamba.questions.records import Question, QuestionSource, describe
from crossmamba.questions.templates import chosen
from crossmamba.questions.tokens import TOKENS, words_of

__all__ = ["LeakReport", "Probe", "check_questions"]

_FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """Accuracy of a guess from the words of the question alone, and of the commonest class; fractions of `rows`."""

    words: float
    commonest: float
    rows: int


@dataclass(frozen=True)
class LeakReport:
    """What was found.

    Attributes:
        question_source: of the file. rows: annotation rows with a question. missing: rows without one.
        unknown: questions of no row. makers: number of questions by who wrote them.
        texts: different masked questions (verb, noun).
        written: number of questions as written that name an answer, by `slot:kind` (see `Masker.flags`).
        left: rows whose masked questions still name an answer. thin: rows with too little left to ask.
        long: rows with more than 40 words. uneven: whether generic questions differ.
        agreement: for "predicted", the part of the rows whose predicted verb, noun and pair are the true ones.
        probes: by "verb" and "noun"; empty without labels.
    """

    question_source: QuestionSource
    rows: int
    missing: tuple[str, ...]
    unknown: int
    makers: dict[str, int]
    texts: tuple[int, int]
    written: dict[str, int]
    left: tuple[str, ...]
    thin: tuple[str, ...]
    long: tuple[str, ...]
    uneven: bool
    agreement: dict[str, float] = field(default_factory=dict)
    probes: dict[str, Probe] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every row has questions that name no answer."""
        return not (self.missing or self.left or self.uneven)

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return {"ok": self.ok, **asdict(self)}

    @property
    def text(self) -> str:
        """Lines for people."""
        makers = ", ".join(f"{count} {maker}" for maker, count in sorted(self.makers.items()))
        lines = [
            describe(self.question_source),
            f"{self.rows} rows: {makers}; {self.texts[0]} different verb questions, {self.texts[1]} noun questions",
        ]
        if self.question_source != "generic":
            names = {"own": "their own answer", "own_maybe": "perhaps their own answer", "other": "the other answer"}
            for flag, count in sorted(self.written.items()):
                slot, kind = flag.split(":")
                lines.append(f"as written, {count} {slot} questions name {names[kind]}")
        for fault, ids in (
            ("rows have no question", self.missing),
            ("rows whose masked questions still name an answer", self.left),
            ("rows whose masked questions have fewer than 3 words left", self.thin),
            (f"rows have a question of more than {TOKENS} words, which is cut", self.long),
        ):
            if ids:
                lines.append(f"{len(ids)} {fault}, such as {', '.join(ids[:3])}")
        if self.uneven:
            lines.append("the generic questions are not the same for all rows")
        if self.unknown:
            lines.append(f"{self.unknown} questions belong to no row of the annotation file")
        if self.agreement:
            lines.append("predicted is true: " + ", ".join(f"{k} {100 * v:.1f} %" for k, v in self.agreement.items()))
        lines += [
            f"{slot} from the words of its question alone: {100 * probe.words:.1f} % "
            f"(commonest class: {100 * probe.commonest:.1f} %, {probe.rows} rows)"
            for slot, probe in self.probes.items()
        ]
        return "\n".join([*lines, "all well" if self.ok else "NOT WELL"])


def check_questions(
    questions: Mapping[str, Question],
    rows: Sequence[LabelledRow],
    masker: Masker,
    train: tuple[Mapping[str, Question], Sequence[LabelledRow]] | None = None,
) -> LeakReport:
    """Checks the questions of annotation rows.

    Args:
        questions: by narration id, of one source. rows: of the annotation file, with or without labels.
        masker: of the class tables.
        train: questions and labelled rows that the probe learns from. Without them it learns from four fifths of the
            rows themselves and guesses the last, five times.

    Raises:
        DataError: none of the rows has a question, a pair outside the class tables, or oracle questions for rows
            without labels.
    """
    paired = [(questions[row.narration_id], row) for row in rows if row.narration_id in questions]
    if not paired:
        raise DataError("none of the questions belongs to a row of the annotation file")
    source = paired[0][0].question_source
    written: Counter[str] = Counter()
    left, thin, long = [], [], []
    for question, row in paired:
        masked = (question.verb_question_masked, question.noun_question_masked)
        if not all(map(enough_left, masked)):
            thin.append(row.narration_id)
        if any(len(words_of(text)) > TOKENS for text in masked):
            long.append(row.narration_id)
        if source == "generic":
            continue
        answers = _answers(question, row, masker)
        flags = masker.flags(question.verb_question, question.noun_question, answers)
        written.update({flag.rsplit(":", 1)[0] for flag in flags})
        if masker.flags(*masked, answers):
            left.append(row.narration_id)
    texts = tuple(len({getattr(q, f"{slot}_question_masked") for q, _ in paired}) for slot in ("verb", "noun"))
    return LeakReport(
        question_source=source,
        rows=len(paired),
        missing=tuple(row.narration_id for row in rows if row.narration_id not in questions),
        unknown=len(questions) - len(paired),
        makers=dict(Counter(question.source for question, _ in paired)),
        texts=(texts[0], texts[1]),
        written=dict(written),
        left=tuple(left),
        thin=tuple(thin),
        long=tuple(long),
        uneven=source == "generic" and texts != (1, 1),
        agreement=_agreement(paired) if source == "predicted" else {},
        probes=_probes(paired, train),
    )


def _answers(question: Question, row: LabelledRow, masker: Masker) -> Answers:
    """The pair that a question must not name: the true one (oracle), or the one that it was made from."""
    if question.question_source == "oracle":
        return masker.answers(row)
    if question.verb_class is None or question.noun_class is None:
        raise DataError(f"the question of {question.narration_id} does not say which pair it was made from")
    return masker.pair(question.verb_class, question.noun_class, where=f"the question of {question.narration_id}")


def _agreement(paired: Sequence[tuple[Question, LabelledRow]]) -> dict[str, float]:
    known = [(q, row) for q, row in paired if row.verb_class is not None and row.noun_class is not None]
    if not known:
        return {}
    verb = np.array([q.verb_class == row.verb_class for q, row in known])
    noun = np.array([q.noun_class == row.noun_class for q, row in known])
    return {"verb": float(verb.mean()), "noun": float(noun.mean()), "both": float((verb & noun).mean())}


def _probes(
    paired: Sequence[tuple[Question, LabelledRow]],
    train: tuple[Mapping[str, Question], Sequence[LabelledRow]] | None,
) -> dict[str, Probe]:
    found = {}
    for slot in ("verb", "noun"):
        names, texts, labels = _labelled(paired, slot)
        if not labels:
            continue
        right = np.zeros(len(labels), dtype=bool)
        common = np.zeros(len(labels), dtype=bool)
        if train is not None:
            learnt = [(train[0][row.narration_id], row) for row in train[1] if row.narration_id in train[0]]
            _, other_texts, other_labels = _labelled(learnt, slot)
            if not other_labels:
                raise DataError("none of the train questions belongs to a labelled row of the train annotation file")
            right[:], common[:] = guess_from_words(other_texts, other_labels, texts, labels)
        else:
            folds = np.array([chosen(name, 0, "fold", _FOLDS) for name in names])
            for fold in range(_FOLDS):
                inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
                if len(inside) and len(outside):
                    known = ([texts[i] for i in outside], [labels[i] for i in outside])
                    right[inside], common[inside] = guess_from_words(
                        *known, [texts[i] for i in inside], [labels[i] for i in inside]
                    )
        found[slot] = Probe(float(right.mean()), float(common.mean()), len(labels))
    return found


def _labelled(paired: Sequence[tuple[Question, LabelledRow]], slot: str) -> tuple[list[str], list[str], list[int]]:
    rows = [(q, getattr(row, f"{slot}_class")) for q, row in paired]
    rows = [(q, label) for q, label in rows if label is not None]
    texts = [getattr(q, f"{slot}_question_masked") for q, _ in rows]
    return [q.narration_id for q, _ in rows], texts, [int(label) for _, label in rows]
