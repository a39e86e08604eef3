"""Template questions: the same on every machine, silent about the classes unless told to hint."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from crossmamba.data.epic.classes import ClassTable, read_epic_classes
from crossmamba.errors import DataError
from crossmamba.questions.forms import forms_of, spans_of
from crossmamba.questions.masking import Masker
from crossmamba.questions.templates import HINTED, PLAIN, chosen, template_pair, word_tokenizer
from tests.questions.toy import NOUNS, ROWS, VERBS

MASKER = Masker(VERBS, NOUNS)


def test_choices_are_fixed() -> None:
    assert [chosen(f"P01_01_{row}", 0, "verb", 8) for row in range(6)] == [4, 0, 2, 4, 1, 6]
    assert len({chosen("P01_01_0", seed, "verb", 8) for seed in range(40)}) == 8


def test_without_hint_the_text_is_that_of_any_class() -> None:
    for row in ROWS:
        answers = MASKER.answers(row)
        pair = template_pair(row.narration_id, answers, MASKER, hint="none")
        other = template_pair(row.narration_id, MASKER.pair(2, 3), MASKER, hint="none")
        assert pair == other == MASKER.mask(*pair, answers)
        assert all("<mask>" in text for text in pair)


def test_the_hint_is_the_category_unless_it_names_the_answer() -> None:
    knife = MASKER.pair(0, 2)
    verb, noun = template_pair("P01_01_0", knife, MASKER)
    assert "retrieve" in verb
    assert "cutlery" in noun
    hand = template_pair("P01_01_0", MASKER.pair(3, 4), MASKER)  # wash is of the category "clean", hand of "hand"
    assert "clean" not in hand[0]
    assert "hand" not in hand[1]
    assert hand[0] in PLAIN[0]
    assert hand[1] in PLAIN[1]


def test_a_table_without_categories_cannot_hint() -> None:
    masker = Masker(replace(VERBS, categories=("",) * 4), NOUNS)
    with pytest.raises(DataError, match="hint"):
        template_pair("P01_01_0", masker.pair(0, 0), masker)
    assert template_pair("P01_01_0", masker.pair(0, 0), masker, hint="none")


def test_the_tokenizer_knows_every_word_of_the_templates() -> None:
    tokenizer = word_tokenizer(VERBS, NOUNS)
    for row in ROWS:
        for text in (
            *template_pair(row.narration_id, MASKER.answers(row), MASKER),
            row.narration.replace("fingers", ""),
        ):
            assert tokenizer.length_of(text) <= 40
            assert tokenizer.unknown_id not in tokenizer.encode(text + " with")
    assert "category" not in tokenizer.words


def _silent(table: ClassTable) -> None:
    for number, key in enumerate(table.keys):
        form = forms_of(table.kind, table.instances[number], (key,))
        for text in (text for group in (*PLAIN, *HINTED) for text in group):
            assert not spans_of(text.replace("{category}", ""), form), (key, text)


def test_templates_name_no_class_of_the_toy() -> None:
    _silent(VERBS)
    _silent(NOUNS)


@pytest.mark.skipif("CROSSMAMBA_REAL_DATA" not in os.environ, reason="needs CROSSMAMBA_REAL_DATA")
def test_templates_name_no_official_class() -> None:
    classes = read_epic_classes(Path(os.environ["CROSSMAMBA_REAL_DATA"]) / "epic_kitchens_100")
    _silent(classes.verbs)
    _silent(classes.nouns)
