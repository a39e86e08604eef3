"""What the checks find in a file of questions, and how much its words alone tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossmamba.errors import DataError
from crossmamba.questions.leaks import check_questions
from crossmamba.questions.make import make_questions
from crossmamba.questions.masking import Masker
from crossmamba.questions.probe import guess_from_words
from crossmamba.questions.records import Question
from tests.questions.toy import NOUNS, ROWS, VERBS, Row

MASKER = Masker(VERBS, NOUNS)


def table(questions: list[Question]) -> dict[str, Question]:
    return {question.narration_id: question for question in questions}


def many(count: int, prefix: str = "P01_02") -> list[Row]:
    """Rows of all classes, the first verb twice as often."""
    pairs = [(verb, noun) for verb in (0, 0, 1, 2, 3) for noun in range(5)]
    return [
        Row(f"{prefix}_{n}", "", VERBS.keys[verb], verb, NOUNS.keys[noun], noun)
        for n in range(count)
        for verb, noun in [pairs[n % len(pairs)]]
    ]


def test_a_good_file() -> None:
    report = check_questions(table(make_questions(ROWS, "oracle", MASKER)), ROWS, MASKER)
    assert report.ok
    assert (report.question_source, report.rows, report.makers) == ("oracle", 5, {"template": 5})
    assert report.text.splitlines()[0].startswith("question source: ORACLE")
    assert "from the words of its question alone" in report.text
    assert report.to_json()["ok"] is True


def test_masked_questions_that_still_name_an_answer() -> None:
    questions = table(make_questions(ROWS, "oracle", MASKER))
    bad = replace(
        questions["P01_01_1"],
        verb_question="Why switch the water on?",
        verb_question_masked="Why switch the water on?",
        noun_question_masked="<mask>?",
    )
    report = check_questions(questions | {"P01_01_1": bad}, ROWS, MASKER)
    assert not report.ok
    assert report.left == ("P01_01_1",)
    assert report.thin == ("P01_01_1",)
    assert report.written["verb:own"] == 1
    assert "such as P01_01_1" in report.text
    assert report.text.endswith("NOT WELL")


def test_missing_and_foreign_questions() -> None:
    questions = table(make_questions(ROWS[1:], "oracle", MASKER))
    report = check_questions(questions, ROWS[:3], MASKER)
    assert report.missing == ("P01_01_0",)
    assert report.unknown == 2
    assert not report.ok
    with pytest.raises(DataError, match="none of the questions"):
        check_questions(questions, [Row("P09_01_0")], MASKER)


def test_generic_questions_tell_nothing_and_must_be_alike() -> None:
    rows = many(100)
    questions = table(make_questions(rows, "generic", MASKER))
    report = check_questions(questions, rows, MASKER)
    assert report.ok
    assert report.probes["verb"].words == report.probes["verb"].commonest == pytest.approx(0.4)
    different = replace(questions["P01_02_1"], verb_question_masked="Is it this one?")
    assert check_questions(questions | {"P01_02_1": different}, rows, MASKER).uneven


def test_hints_tell_and_templates_without_hints_do_not() -> None:
    rows, train = many(200), many(300, "P02_01")
    probes = {}
    for hint in ("none", "category"):
        made = table(make_questions(rows, "oracle", MASKER, hint=hint))
        learnt = table(make_questions(train, "oracle", MASKER, hint=hint))
        probes[hint] = check_questions(made, rows, MASKER, (learnt, train)).probes
    assert probes["category"]["noun"].words > 0.75  # two of five categories name the answer and so are not told
    assert probes["none"]["noun"].words < 0.35
    assert probes["category"]["verb"].words > 0.95
    assert probes["none"]["verb"].words <= 0.45


def test_agreement_of_predictions() -> None:
    guesses = {row.narration_id: (1, 0) for row in ROWS}
    report = check_questions(table(make_questions(ROWS, "predicted", MASKER, predicted=guesses)), ROWS, MASKER)
    assert report.agreement == {"verb": 0.4, "noun": 0.4, "both": 0.4}
    blind = [Row(row.narration_id) for row in ROWS]
    report = check_questions(table(make_questions(blind, "predicted", MASKER, predicted=guesses)), blind, MASKER)
    assert report.ok
    assert not report.agreement
    assert not report.probes


def test_the_probe_learns_a_word_and_not_more() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    texts = [f"a word{label} b{noise}" for label, noise in zip(labels, rng.integers(0, 50, 400), strict=True)]
    right, common = guess_from_words(texts[:200], labels[:200].tolist(), texts[200:], labels[200:].tolist())
    assert right.all()
    assert common.mean() < 0.4
    again = guess_from_words(texts[:200], labels[:200].tolist(), texts[200:], labels[200:].tolist())
    assert (again[0] == right).all()
    noise = [text.split()[-1] for text in texts]
    right, _ = guess_from_words(noise[:200], labels[:200].tolist(), noise[200:], labels[200:].tolist())
    assert right.mean() < 0.45
    unknown, common = guess_from_words(["a", "b", "b"], [0, 1, 1], ["z", "?"], [1, 0])
    assert unknown.tolist() == common.tolist() == [True, False]
