"""Questions of rows from each source; what a source may not know does not show."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from crossmamba.errors import DataError, UsageError
from crossmamba.questions.make import make_questions
from crossmamba.questions.masking import Masker
from crossmamba.questions.predicted import QuestionBank, read_predicted
from crossmamba.questions.prompts import Prompt
from crossmamba.questions.records import (
    describe,
    encode_questions,
    generic_question,
    needs_warning,
    read_questions,
    write_questions,
)
from crossmamba.questions.templates import word_tokenizer
from crossmamba.questions.writer import Draft
from tests.questions.toy import NOUNS, ROWS, VERBS, Row

MASKER = Masker(VERBS, NOUNS)
TEST_ROWS = [Row(row.narration_id) for row in ROWS]  # without labels
GUESSES = {row.narration_id: (2, 3) for row in ROWS}


class Fixed:
    """A writer with one draft for all."""

    model = "fixed"

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.prompts: list[Prompt] = []

    def generate(self, prompts: Sequence[Prompt], done: Callable[[], None] = lambda: None) -> list[Draft]:
        self.prompts += prompts
        return [self.draft] * len(prompts)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_questions(tmp_path / name, make_questions(ROWS, "oracle", MASKER, seed=seed))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_a_file_comes_back_as_it_was(tmp_path: Path) -> None:
    questions = make_questions(ROWS, "oracle", MASKER)
    assert write_questions(tmp_path / "q.jsonl", questions) == len(ROWS)
    assert list(read_questions(tmp_path / "q.jsonl").values()) == questions
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_generic_questions_know_nothing() -> None:
    questions = make_questions(TEST_ROWS, "generic", MASKER)
    assert len({(q.verb_question_masked, q.noun_question_masked) for q in questions}) == 1
    assert all(q.verb_class is None and q.source == "generic" for q in questions)


def test_predicted_questions_do_not_depend_on_the_truth() -> None:
    blind = make_questions(TEST_ROWS, "predicted", MASKER, predicted=GUESSES)
    assert blind == make_questions(ROWS, "predicted", MASKER, predicted=GUESSES)
    assert {q.verb_class for q in blind} == {2}
    writer = Fixed(Draft("How does one slice the board?", "What does one chop on?"))
    seen = make_questions(ROWS, "predicted", MASKER, predicted=GUESSES, backend=writer)
    assert not any(prompt.narration for prompt in writer.prompts)
    assert len(set(writer.prompts)) == 1
    assert seen[0].verb_question_masked == "How does one <mask> the <mask>?"


@pytest.mark.parametrize("rows", [TEST_ROWS])
def test_oracle_needs_labels(rows: list[Row]) -> None:
    with pytest.raises(DataError, match="no classes"):
        make_questions(rows, "oracle", MASKER)


def test_written_questions_are_masked_and_flagged() -> None:
    writer = Fixed(Draft("How does one get the container?", "What does one pick from the shelf?", "One takes it."))
    question = make_questions(ROWS[:1], "oracle", MASKER, backend=writer)[0]
    assert question.verb_question_masked == "How does one <mask> the <mask>?"
    assert question.noun_question_masked == "What does one <mask> from the shelf?"
    assert question.leak_flags == ("verb:own:get", "verb:other:container", "noun:other:pick")
    assert (question.source, question.model, question.description) == ("model", "fixed", "One takes it.")


@pytest.mark.parametrize(
    ("draft", "reason"),
    [
        (Draft(reason="broken"), "broken"),
        (Draft("Get the box?", "What is it for?"), "too little was left after masking"),
    ],
)
def test_fallback_is_a_template_and_says_so(draft: Draft, reason: str) -> None:
    question = make_questions(ROWS[:1], "oracle", MASKER, backend=Fixed(draft))[0]
    plain = make_questions(ROWS[:1], "oracle", MASKER)[0]
    assert question == replace(plain, source="template_fallback", reason=reason)


def test_bank() -> None:
    train = [replace(row, narration_id=f"P02_01_{number}") for number, row in enumerate(ROWS)]
    questions = make_questions(train, "oracle", MASKER, hint="none")
    bank = QuestionBank({q.narration_id: q for q in questions})
    guesses = {row.narration_id: (1, 0) for row in ROWS} | {"P01_01_0": (3, 3)}
    made = make_questions(TEST_ROWS, "predicted", MASKER, predicted=guesses, bank=bank)
    assert [q.source for q in made] == ["template_fallback", *["bank"] * 4]
    tap = {q.verb_question_masked for q in questions if (q.verb_class, q.noun_class) == (1, 0)}
    assert {q.verb_question for q in made[1:]} <= tap
    with pytest.raises(DataError, match="P02_01_0"):
        make_questions(train, "predicted", MASKER, predicted={r.narration_id: (1, 0) for r in train}, bank=bank)
    with pytest.raises(UsageError, match="bank"):
        make_questions(ROWS, "oracle", MASKER, bank=bank)


def test_missing_and_wrong_predictions() -> None:
    with pytest.raises(UsageError, match="predicted"):
        make_questions(ROWS, "predicted", MASKER)
    with pytest.raises(DataError, match=r"4 of 5 rows.*P01_01_1"):
        make_questions(ROWS, "predicted", MASKER, predicted={"P01_01_0": (0, 0)})
    with pytest.raises(DataError, match=r"P01_01_0: noun class 9"):
        make_questions(ROWS[:1], "predicted", MASKER, predicted={"P01_01_0": (0, 9)})
    with pytest.raises(UsageError, match="none"):
        make_questions(ROWS, "none", MASKER)


def test_predictions_as_csv_and_as_submission(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("narration_id,verb_class,noun_class\nP01_01_0,2,3\n", encoding="utf-8")
    assert read_predicted(tmp_path / "p.csv") == {"P01_01_0": (2, 3)}
    scores = {"verb": {"0": 0.1, "2": 0.7, "1": 0.7}, "noun": {"11": -1.0, "3": -2}, "action": {}}
    (tmp_path / "p.json").write_text(json.dumps({"results": {"P01_01_0": scores}}), encoding="utf-8")
    assert read_predicted(tmp_path / "p.json") == {"P01_01_0": (1, 11)}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "narration_id,verb_class\nx,1\n", "noun_class"),
        ("p.csv", "narration_id,verb_class,noun_class\nx,1,2\nx,1,2\n", "p.csv:3.*twice"),
        ("p.csv", "narration_id,verb_class,noun_class\nx,1,-2\n", "whole numbers"),
        ("p.csv", "narration_id,verb_class,noun_class\n", "no predictions"),
        ("p.json", "{", "no JSON"),
        ("p.json", "[]", "results"),
        ("p.json", '{"results": {"x": {"verb": {"1": NaN}, "noun": {"1": 1}}}}', "narration x"),
        ("p.json", '{"results": {"x": {"verb": {"1": 1}}}}', "no scores of nouns"),
    ],
)
def test_wrong_prediction_files(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_predicted(tmp_path / name)


GOOD = json.loads(
    json.dumps(
        {
            "narration_id": "x",
            "verb_question": "a",
            "noun_question": "b",
            "verb_question_masked": "a",
            "noun_question_masked": "b",
            "question_source": "oracle",
            "source": "template",
        }
    )
)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"narration_id": ""}, "narration_id"),
        ({"verb_question_masked": 1}, "verb_question_masked"),
        ({"question_source": "truth"}, "truth"),
        ({"source": "gpt"}, "gpt"),
        ({"verb_class": "1"}, "verb_class"),
        ({"leak_flags": "own"}, "leak_flags"),
        ({"colour": "red"}, "unknown field colour"),
        ({"question_source": "generic"}, "of 'oracle'"),
        ({"narration_id": "first"}, "twice"),
    ],
)
def test_wrong_question_files(tmp_path: Path, change: dict, message: str) -> None:
    lines = [json.dumps(GOOD | {"narration_id": "first"}), json.dumps(GOOD | change)]
    (tmp_path / "q.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=rf"q\.jsonl:2.*{message}"):
        read_questions(tmp_path / "q.jsonl")


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"narration_id": "x"}'])
def test_files_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "q.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"q\.jsonl"):
        read_questions(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_questions(tmp_path / "other.jsonl")


def test_token_numbers_of_rows() -> None:
    tokenizer = word_tokenizer(VERBS, NOUNS)
    questions = {q.narration_id: q for q in make_questions(ROWS, "oracle", MASKER)}
    verb, noun = encode_questions(["P01_01_3", "P01_01_0"], questions, tokenizer)
    assert verb.shape == noun.shape == (2, 40)
    assert verb[1].equal(tokenizer.encode(questions["P01_01_0"].verb_question_masked))
    assert noun[0].equal(tokenizer.encode(questions["P01_01_3"].noun_question_masked))
    same = encode_questions(["a", "b"], None, tokenizer)
    assert same[0][0].equal(tokenizer.encode(generic_question("a").verb_question))
    assert encode_questions([], questions, tokenizer)[0].shape == (0, 40)
    with pytest.raises(DataError, match=r"1 of 2 rows.*P09"):
        encode_questions(["P01_01_3", "P09"], questions, tokenizer)


def test_sources_are_named() -> None:
    assert "ORACLE" in describe("oracle")
    assert needs_warning(["none", "oracle"])
    assert not needs_warning(["oracle", "oracle"])
    assert not needs_warning(["none", "generic", "predicted"])
    with pytest.raises(UsageError, match="oracle"):
        describe("truth")
