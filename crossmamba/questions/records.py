"""Finished questions: one JSON object a line, in the order of the annotation rows, and as token numbers.

A file holds questions of one source. Every report of a model that reads questions has to print it: see `describe`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from crossmamba.errors import DataError, UsageError
from crossmamba.questions.templates import GENERIC
from crossmamba.questions.tokens import Tokenizer

__all__ = [
    "SOURCES",
    "Maker",
    "Question",
    "QuestionSource",
    "check_source",
    "describe",
    "encode_questions",
    "generic_question",
    "needs_warning",
    "read_questions",
    "write_questions",
]

QuestionSource = Literal["none", "generic", "predicted", "oracle"]
Maker = Literal["generic", "template", "model", "bank", "template_fallback"]
SOURCES: tuple[QuestionSource, ...] = get_args(QuestionSource)
_LONGEST_LINE = 2**20


@dataclass(frozen=True)
class Question:
    """The two questions of one annotation row.

    Attributes:
        narration_id: of the row.
        verb_question, noun_question: as written; they may name what must not be seen.
        verb_question_masked, noun_question_masked: what a model may read.
        question_source: what they were made from: "generic" nothing, "predicted" a model's classes, "oracle" the true
            ones.
        source: who wrote them: "generic", "template", "model", "bank" (a question of a train row with the same
            classes), or "template_fallback" where the writer failed; `reason` then says why.
        verb_class, noun_class: the pair they were made from; None for generic ones.
        description: the sentence that the language model was given, where there was one.
        model, prompt_version: of the language model. leak_flags: of the unmasked questions, see `Masker.flags`.
    """

    narration_id: str
    verb_question: str
    noun_question: str
    verb_question_masked: str
    noun_question_masked: str
    question_source: QuestionSource
    source: Maker
    verb_class: int | None = None
    noun_class: int | None = None
    description: str = ""
    model: str = ""
    prompt_version: str = ""
    leak_flags: tuple[str, ...] = ()
    reason: str = ""


_FIELDS = {field.name: field for field in fields(Question)}
_TEXTS = ("verb_question", "noun_question", "verb_question_masked", "noun_question_masked")


def describe(source: str) -> str:
    """The line about the question source that belongs into every report.

    Raises:
        UsageError: no source of this name.
    """
    return {
        "none": "question source: none (video only)",
        "generic": "question source: generic (the same two questions for every clip)",
        "predicted": "question source: predicted (questions made from classes that a model predicted)",
        "oracle": "question source: ORACLE (questions made from the true labels: not comparable with results of models "
        "that see the video only)",
    }[check_source(source)]


def needs_warning(sources: Iterable[str]) -> bool:
    """Whether these sources must not stand in one table without a word: oracle beside any other."""
    different = {check_source(source) for source in sources}
    return "oracle" in different and len(different) > 1


def check_source(source: str) -> QuestionSource:
    """The source itself, if it is one.

    Raises:
        UsageError: otherwise.
    """
    if source not in SOURCES:
        raise UsageError(f"question source {source!r}; allowed: {', '.join(SOURCES)}")
    return source


def generic_question(narration_id: str) -> Question:
    """The pair that asks about every clip alike. It is not masked: what is the same everywhere gives nothing away."""
    return Question(narration_id, *GENERIC, *GENERIC, question_source="generic", source="generic")


def write_questions(path: str | Path, questions: Iterable[Question]) -> int:
    """Writes a file, whole or not at all, and returns the number of questions.

    Raises:
        UsageError: the folder does not exist. DataError: it cannot be written.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    part = path.with_name(path.name + ".part")
    count = 0
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            for question in questions:
                record = asdict(question)
                record["leak_flags"] = list(question.leak_flags)
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    return count


def read_questions(path: str | Path) -> dict[str, Question]:
    """The questions of a file by narration id, in the file's order.

    Raises:
        DataError: missing, not JSON, a field is missing, unknown or of another type, an id comes twice, or the file
            mixes sources. File and line are named.
    """
    path = Path(path)
    found: dict[str, Question] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                where = f"{path}:{line}"
                question = _question(text, where)
                if question.narration_id in found:
                    raise DataError(f"{where}: narration {question.narration_id} comes twice")
                first = next(iter(found.values()), question)
                if question.question_source != first.question_source:
                    raise DataError(
                        f"{where}: question source {question.question_source!r} in a file of "
                        f"{first.question_source!r}; keep sources in files of their own"
                    )
                found[question.narration_id] = question
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file of questions; `crossmamba questions make` makes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if not found:
        raise DataError(f"{path}: there are no questions in the file")
    return found


def _question(text: str, where: str) -> Question:
    try:
        record = json.loads(text) if len(text) < _LONGEST_LINE else None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not a line of JSON ({error})") from error
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a JSON object with the fields {', '.join(_FIELDS)}")
    missing = [name for name in ("narration_id", *_TEXTS, "question_source", "source") if name not in record]
    unknown = sorted(set(record) - set(_FIELDS))
    if missing or unknown:
        raise DataError(f"{where}: {'missing' if missing else 'unknown'} field {', '.join(missing or unknown)}")
    for name in ("verb_class", "noun_class"):
        if not (record.get(name) is None or type(record[name]) is int):
            raise DataError(f"{where}: {name} is {record[name]!r}; expected a class number or null")
    flags = record.setdefault("leak_flags", [])
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise DataError(f"{where}: leak_flags is no list of texts")
    record["leak_flags"] = tuple(flags)
    for name in set(record) - {"verb_class", "noun_class", "leak_flags"}:
        if not isinstance(record[name], str) or (name in (*_TEXTS, "narration_id") and not record[name].strip()):
            raise DataError(f"{where}: {name} is {record[name]!r}; expected a text that is not empty")
    if record["question_source"] not in SOURCES[1:] or record["source"] not in get_args(Maker):
        raise DataError(
            f"{where}: question_source {record['question_source']!r} and source {record['source']!r}; allowed are "
            f"{', '.join(SOURCES[1:])} and {', '.join(get_args(Maker))}"
        )
    return Question(**record)


def encode_questions(
    narration_ids: Sequence[str], questions: Mapping[str, Question] | None, tokenizer: Tokenizer
) -> tuple[Tensor, Tensor]:
    """The masked questions of rows as token numbers: (verb, noun), int64 (N, L) each.

    Args:
        narration_ids: of the N rows, in order. questions: by id, as `read_questions` gives them; None: the generic pair
            for every row, which needs no file.

    Raises:
        DataError: rows without a question.
    """
    if questions is None:
        pair = [tokenizer.encode(text).expand(len(narration_ids), -1).clone() for text in GENERIC]
        return pair[0], pair[1]
    missing = [name for name in narration_ids if name not in questions]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(narration_ids)} rows have no question, such as {missing[0]}; make them of the "
            "same annotation file with `crossmamba questions make`"
        )
    known: dict[str, Tensor] = {}  # many rows share one text

    def encode(text: str) -> Tensor:
        if text not in known:
            known[text] = tokenizer.encode(text)
        return known[text]

    verb = [encode(questions[name].verb_question_masked) for name in narration_ids]
    noun = [encode(questions[name].noun_question_masked) for name in narration_ids]
    empty = torch.zeros(0, tokenizer.length, dtype=torch.int64)
    return (torch.stack(verb), torch.stack(noun)) if verb else (empty, empty.clone())
