"""CLIP's features of questions and choices: one file per question id (spec §3.3: `clip_qst`, `clip_word`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossmamba.data.qa.annotations import SPLITS, Version, find_annotations, read_questions
from crossmamba.data.qa.avqa_rows import SPLITS as CHOICE_SPLITS
from crossmamba.data.qa.avqa_rows import find_choices, read_choices
from crossmamba.errors import DataError
from crossmamba.extract.encoders import Extractor
from crossmamba.extract.store import clear_leftovers, valid_npy, write_npy
from crossmamba.extract.videos import target_of

__all__ = ["Texts", "avqa_texts", "extract_texts", "music_texts"]

_BATCH = 64  # texts in one pass


@dataclass(frozen=True)
class Texts:
    """Questions by id, in the files' order.

    Attributes:
        questions: (id, the sentence).
        choices: (id, the choices) of questions that have some.
        notes: lines for the user: rows without an id, ids that occur with two questions.
    """

    questions: tuple[tuple[str, str], ...]
    choices: tuple[tuple[str, tuple[str, ...]], ...] = ()
    notes: tuple[str, ...] = ()


def music_texts(root: Path, version: Version = "json_update") -> Texts:
    """The questions of all splits of MUSIC-AVQA that are there. Where an id occurs twice, its first question counts.

    Raises:
        DataError: no annotation file, or a faulty one.
    """
    files = []
    for split in SPLITS:
        try:
            files.append((split, find_annotations(root, split, version)))
        except DataError:
            continue
    if not files:
        raise DataError(f"{root}: no annotations; looked for {version}/avqa-{{{','.join(SPLITS)}}}.json")
    rows = []
    for split, file in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of contradictory answers, which are not looked at here
            rows += read_questions(file, split, version, duplicates="keep", require_answers=False).rows
    return collect([(None if row.question_id is None else str(row.question_id), row.question, ()) for row in rows])


def avqa_texts(root: Path) -> Texts:
    """The questions and choices of all splits of AVQA that are there; choices are sentences of their own.

    Raises:
        DataError: no annotation file, or a faulty one.
    """
    rows, found = [], False
    for split in CHOICE_SPLITS:
        try:
            file = find_choices(root, split)
        except DataError:
            continue
        rows += read_choices(file, split, require_answers=False)
        found = True
    if not found:
        raise DataError(f"{root}: no annotations; looked for {' and '.join(f'{s}_qa.json' for s in CHOICE_SPLITS)}")
    return collect([(str(row.question_id), row.question, row.choices) for row in rows])


def collect(rows: Sequence[tuple[str | None, str, tuple[str, ...]]]) -> Texts:
    """(id, question, choices) of each row -> each id once, with notes about what was left out."""
    questions: dict[str, str] = {}
    choices: dict[str, tuple[str, ...]] = {}
    unnamed, different = 0, []
    for item, question, given in rows:
        if item is None:
            unnamed += 1
        elif item not in questions:
            questions[item] = question
            if given:
                choices[item] = given
        elif (questions[item], choices.get(item, ())) != (question, given):
            different.append(item)
    notes = []
    if unnamed:
        notes.append(f"{unnamed} rows have no question id and so can have no file")
    if different:
        notes.append(f"{len(different)} ids occur again with another question; the first counts: {different[:5]}")
    return Texts(tuple(questions.items()), tuple(choices.items()), tuple(notes))


def extract_texts(
    extractor: Extractor, texts: Texts, out: Path, rank: int, world: int
) -> Iterator[Literal["made", "kept"]]:
    """Makes what is missing; one result for each question, then for each question's choices, of this rank's share."""
    shapes = extractor.row_shapes()
    for group in extractor.groups:
        plain = [recipe for recipe in group.recipes if recipe.name != "clip_choices"]
        if plain:
            missing = []
            for item, question in texts.questions[rank::world]:
                targets = [target_of(out, recipe, item) for recipe in plain]
                if all(valid_npy(t, (1, *shapes[r.name])) for t, r in zip(targets, plain, strict=True)):
                    yield "kept"
                else:
                    missing.append((item, question))
            for start in range(0, len(missing), _BATCH):
                batch = missing[start : start + _BATCH]
                made = extractor.texts([question for _, question in batch], group)
                for row, (item, _) in enumerate(batch):
                    for recipe in plain:
                        target = target_of(out, recipe, item)
                        clear_leftovers(target)
                        write_npy(target, made[recipe.name][row : row + 1])
                    yield "made"
        for recipe in (recipe for recipe in group.recipes if recipe.name == "clip_choices"):
            for item, choices in texts.choices[rank::world]:
                target = target_of(out, recipe, item)
                if valid_npy(target, (len(choices), *shapes[recipe.name])):
                    yield "kept"
                    continue
                clear_leftovers(target)
                write_npy(target, extractor.texts(choices, group)[recipe.name])
                yield "made"
