"""The 33 templates, the 42 answers, the 93 words, and how a template becomes word numbers (spec §3.1, appendix)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from crossmamba.data.qa.templates import (
    ANSWERS,
    COUNTS,
    INSTRUMENTS,
    SLOTS,
    TEMPLATES,
    TYPES,
    answers_of,
    fill,
    template_of,
)
from crossmamba.data.qa.vocabulary import MUSIC_AVQA, QUESTION_LENGTH, WORDS, Vocabulary, encode_question
from crossmamba.errors import DataError, UsageError


def test_counts_of_the_tables() -> None:
    assert len(TEMPLATES) == 33
    per_type = Counter(template.type_index for template in TEMPLATES)
    assert [per_type[n] for n in range(len(TYPES))] == [3, 3, 4, 4, 3, 4, 4, 4, 4]
    assert len(ANSWERS) == len(set(ANSWERS)) == 42
    assert (ANSWERS[0], ANSWERS[7], ANSWERS[33], ANSWERS[41]) == ("two", "yes", "ten", "suona")
    assert len(INSTRUMENTS) == 22
    assert len(COUNTS) == 12
    classes = ("yes_no", "count", "place", "place_or_together", "room", "instrument")
    assert {answer for name in classes for answer in answers_of(name)} == set(ANSWERS)
    assert {template.answers for template in TEMPLATES} == set(classes)


def test_the_odd_endings_of_the_texts() -> None:
    assert sum(t.text.endswith("? ") for t in TEMPLATES) == 2
    assert sum(t.text.endswith("？") for t in TEMPLATES) == 1
    assert sum(t.text.endswith("?") for t in TEMPLATES) == 30
    assert {slot for t in TEMPLATES for slot in t.slots} == set(SLOTS)
    assert template_of("How many sounding <Object> in the video?") is None  # an ordinary mark is another text


def test_93_words_longest_question_14() -> None:
    assert len(WORDS) == len(set(WORDS)) == 93
    assert WORDS[0] == "<pad>"
    assert list(WORDS[1:]) == sorted(WORDS[1:])
    lengths = [len(fill(t.text, ["violin"] * len(t.slots))) for t in TEMPLATES]
    assert (max(lengths), min(lengths)) == (14, 4)


@pytest.mark.parametrize(
    ("text", "values", "words"),
    [
        ("How many sounding <Object> in the video？", ["erhu"], "How many sounding erhu in the video"),
        ("Are there <Object> and <Object> sound? ", ["drum", "tuba"], "Are there drum and tuba sound"),
        (
            "Which <Object> makes the sound <FL>?",
            ["acoustic_guitar", "last"],
            "Which acoustic_guitar makes the sound last",
        ),
        ("What kind of musical instrument is it?", [], "What kind of musical instrument is it"),
        ("Is this the end!", [], "Is this the end"),  # the last character goes, whatever it is
    ],
)
def test_filling(text: str, values: list[str], words: str) -> None:
    assert fill(text, values) == words.split(" ")


def test_filling_needs_as_many_values_as_slots() -> None:
    with pytest.raises(UsageError, match="2 placeholders, and there are 1"):
        fill(TEMPLATES[0].text, ["drum"])
    with pytest.raises(UsageError, match="empty"):
        fill("   ", [])


def test_encoding() -> None:
    asked = "How many instruments are sounding in the video"
    numbers = encode_question("How many instruments are sounding in the video?")
    assert numbers.dtype == np.int64
    assert numbers.shape == (QUESTION_LENGTH,)
    assert [WORDS[n] for n in numbers[:8]] == asked.split()
    assert not numbers[8:].any()
    assert np.array_equal(numbers, encode_question("How many instruments are sounding in the video？ "))
    assert MUSIC_AVQA.decode(numbers) == asked.split()
    for template in TEMPLATES:
        encode_question(fill(template.text, [SLOTS[slot][-1] for slot in template.slots]))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("Is the fluet louder than the cello?", "'fluet' .* near it: flute"),
        ("where is the performance?", "'where' .* near it: Where"),
        ("", "empty"),
        ("?", "empty"),
        ("Is the " + "flute " * 20, "at most 14"),
        ("Is the <pad> louder", "<pad>"),
    ],
)
def test_questions_outside_the_vocabulary_are_refused(question: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        encode_question(question)


def test_own_vocabulary_is_saved_and_loaded(tmp_path: Path) -> None:
    own = Vocabulary.of([("what", "plays"), ("who",)])
    assert own.words == ("<pad>", "<unknown>", "plays", "what", "who")
    assert own.encode("what sings").tolist() == [3, 1]
    own.save(tmp_path / "deep" / "words.json")
    assert Vocabulary.load(tmp_path / "deep" / "words.json") == own
    assert own.encode(["what", "plays", "who"], cut=True).tolist() == [3, 2]
    (tmp_path / "bad.json").write_text('{"words": ["a"], "length": 3}')
    with pytest.raises(DataError, match=r"bad\.json"):
        Vocabulary.load(tmp_path / "bad.json")
    with pytest.raises(DataError, match="no such"):
        Vocabulary.load(tmp_path / "none.json")
    with pytest.raises(UsageError, match="twice"):
        Vocabulary(["<pad>", "a", "a"])
