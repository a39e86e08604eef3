"""What is hidden in questions: other spellings, parted verbs, synonyms, inflections; and what the checks report."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crossmamba.data.epic.annotations import read_rows
from crossmamba.data.epic.classes import read_epic_classes
from crossmamba.errors import DataError
from crossmamba.questions.forms import forms_of, noun_variants, spans_of, verb_inflections
from crossmamba.questions.masking import Masker, apply_mask, enough_left
from tests.questions.toy import NOUNS, ROWS, VERBS, Row

MASKER = Masker(VERBS, NOUNS)
BOX = MASKER.answers(ROWS[0])
TAP = MASKER.answers(ROWS[1])


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Where is the lunch box?", "Where is the <mask>?"),
        ("Where is the Lunch-Box?", "Where is the <mask>?"),
        ("Where are the lunchboxes?", "Where are the <mask>?"),
        ("Where is the box lunch?", "Where is the <mask>?"),
        ("Where is the box of the lunch?", "Where is the <mask>?"),
        ("Where is the box?", "Where is the <mask>?"),
        ("Where are the containers?", "Where are the <mask>?"),  # a synonym
        ("Where is the boxer?", "Where is the boxer?"),
        ("Where is the lunch?", "Where is the lunch?"),
    ],
)
def test_nouns(text: str, masked: str) -> None:
    assert MASKER.mask(text, "What is it?", BOX)[0] == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Why turn on the tap?", "Why <mask> the <mask>?"),
        ("Why turn the tap on?", "Why <mask> the <mask> <mask>?"),
        ("Why turning the old tap on?", "Why <mask> the old <mask> <mask>?"),
        ("Why turn the big old tap on?", "Why turn the big old <mask> on?"),  # four words between
        ("Was it turned on?", "Was it <mask>?"),
        ("Who switches the light on?", "Who <mask> the light <mask>?"),  # a synonym
        ("Did it turn? On Monday.", "Did it turn? On Monday."),  # another sentence
        ("Why turn the page?", "Why turn the page?"),
    ],
)
def test_verbs(text: str, masked: str) -> None:
    assert MASKER.mask("What is it?", text, TAP)[1] == masked


def test_both_answers_go_from_both_questions() -> None:
    verb, noun = MASKER.mask("Why take the box?", "Which box is being taken from there?", BOX)
    assert verb == "Why <mask> the <mask>?"
    assert noun == "Which <mask> is being <mask> from there?"


def test_other_nouns_of_the_narration_are_hidden_with_their_synonyms() -> None:
    answers = MASKER.answers(ROWS[2])
    assert (
        MASKER.mask("What does the blade do to the box?", "x", answers)[0] == "What does the <mask> do to the <mask>?"
    )


@pytest.mark.parametrize("row", ROWS)
def test_masking_twice_changes_nothing(row: Row) -> None:
    answers = MASKER.answers(row)
    texts = ("turn turn on the tap on on <MASK>", f"who {row.narration} and {row.narration} again, turning it on?")
    once = MASKER.mask(*texts, answers)
    assert MASKER.mask(*once, answers) == once
    assert not MASKER.flags(*once, answers)


def test_the_mask_itself_is_no_word() -> None:
    form = forms_of("noun", ("mask",))
    assert apply_mask("the <mask> and the mask", form) == "the <mask> and the <mask>"


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("take", "take takes taking took taken"),
        ("cut", "cut cuts cutting"),
        ("dry", "dry dries drying dried"),
        ("untie", "untie unties untied untying"),
        ("unfreeze", "unfroze unfrozen unfreezing"),
        ("wash", "washes washed washing"),
        ("open", "opened opening"),
        ("chop", "chopped chopping"),
    ],
)
def test_inflections(word: str, forms: str) -> None:
    assert set(forms.split()) <= set(verb_inflections(word))


@pytest.mark.parametrize(
    ("one", "many"),
    [("knife", "knives"), ("leaf", "leaves"), ("berry", "berries"), ("potato", "potatoes"), ("dish", "dishes")],
)
def test_plurals(one: str, many: str) -> None:
    assert many in noun_variants(one)
    assert one in noun_variants(many)


def test_flags() -> None:
    flags = MASKER.flags("How does one get the box?", "What does one pick up?", BOX)
    assert flags == ("verb:own:get", "verb:other:box", "noun:other:pick up")
    cut = MASKER.answers(ROWS[2])
    assert "verb:own_maybe:cut" in MASKER.flags("What is the cut like?", "x", cut)  # a verb, and a noun of the tables
    assert MASKER.flags("What is it?", "What is it?", BOX) == ()


def test_too_little_left() -> None:
    assert enough_left("What is the <mask>?")
    assert not enough_left("<mask> the <mask>, <mask>?")


def test_rows_without_classes_and_wrong_classes() -> None:
    with pytest.raises(DataError, match=r"P01_01_9.*no classes"):
        MASKER.answers(Row("P01_01_9"))
    with pytest.raises(DataError, match=r"verb class 4.*0 to 3"):
        MASKER.pair(4, 0)


@pytest.mark.skipif("CROSSMAMBA_REAL_DATA" not in os.environ, reason="needs CROSSMAMBA_REAL_DATA")
def test_official_rows() -> None:
    """Spec §2.6: class forms find the verb in 97.9 % and the noun in 98.8 % of the validation narrations."""
    root = Path(os.environ["CROSSMAMBA_REAL_DATA"]) / "epic_kitchens_100"
    classes = read_epic_classes(root)
    masker = Masker(classes.verbs, classes.nouns)
    rows = read_rows(root / "EPIC_100_validation.csv")
    verbs = nouns = 0
    for row in rows:
        answers = masker.answers(row)
        verbs += bool(spans_of(row.narration, masker.verb_form(answers)))
        nouns += bool(spans_of(row.narration, masker.noun_forms(answers)[0]))
        masked = masker.mask(row.narration, row.narration, answers)
        assert masker.mask(*masked, answers) == masked
    assert verbs / len(rows) > 0.98
    assert nouns / len(rows) > 0.985
