"""The 33 answer functions on scenes written by hand, and which questions are asked."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest

from crossmamba.data.qa.templates import SLOTS, TEMPLATES, answers_of
from crossmamba.data.synth.music import answer, kinds_of_world, plan_concert
from crossmamba.data.synth.music.answers import ANSWERERS
from crossmamba.data.synth.music.candidates import candidates
from crossmamba.data.synth.music.posterior import other_picture, other_sound
from crossmamba.data.synth.music.questions import CAPS, choose
from crossmamba.data.synth.music.scene import Concert, Instrument, Stage, Voice
from crossmamba.errors import UsageError

KINDS = kinds_of_world(8)

# A large violin on the left (second to come in), a small violin in the middle (third, soft, fast), a silent piano on
# the right, and a drum off-screen that comes in first and plays all the time.
SCENE = Concert(
    Stage(
        (
            Instrument("violin", "large", "left", 0.17, 0.5),
            Instrument("violin", "small", "middle", 0.5, 0.5),
            Instrument("piano", "small", "right", 0.83, 0.5),
        ),
        "outdoor",
    ),
    (
        Voice("violin", "large", 2, 9, 0.08, 1.5),
        Voice("violin", "small", 4, 7, 0.04, 6.0),
        Voice("drum", "large", 0, 10, 0.02, 3.0),
    ),
    10,
    KINDS,
)
# A cello on the left that plays from 1 to 5, a flute on the right that plays from 3 to 10, and nothing else.
DUET = Concert(
    Stage(
        (Instrument("cello", "small", "left", 0.17, 0.5), Instrument("flute", "large", "right", 0.83, 0.5)), "indoor"
    ),
    (Voice("cello", "small", 1, 5, 0.02, 1.5), Voice("flute", "large", 3, 10, 0.04, 3.0)),
    10,
    KINDS,
)
SOLO = Concert(
    Stage((Instrument("piano", "large", "middle", 0.5, 0.5),), "indoor"),
    (Voice("piano", "large", 0, 10, 0.04, 3.0),),
    10,
    KINDS,
)
FOREIGN = replace(SOLO, voices=(Voice("drum", "large", 0, 10, 0.04, 3.0),))

CASES: list[tuple[Concert, int, str, str | None]] = [
    (SCENE, 0, "violin drum", "yes"),
    (SCENE, 0, "violin piano", "no"),
    (SCENE, 0, "violin violin", None),
    (SCENE, 1, "", "three"),
    (SCENE, 2, "drum", "yes"),
    (SCENE, 2, "piano", "no"),
    (DUET, 3, "flute cello", "yes"),
    (DUET, 3, "cello flute", "no"),
    (SCENE, 3, "violin drum", None),  # two violins are heard
    (DUET, 4, "cello flute", "no"),
    (DUET, 5, "flute cello", "yes"),
    (SCENE, 6, "violin piano", "yes"),
    (SCENE, 6, "violin drum", "no"),
    (SCENE, 7, "violin", "two"),
    (SCENE, 7, "drum", "zero"),
    (SCENE, 8, "", "two"),
    (SCENE, 9, "drum", "no"),
    (SCENE, 9, "piano", "yes"),
    (SCENE, 10, "left piano", "violin"),
    (SCENE, 10, "right piano", None),
    (SCENE, 10, "middle piano", None),
    (SCENE, 10, "left violin", None),  # which violin?
    (SCENE, 11, "leftest", "violin"),
    (SCENE, 11, "rightest", "piano"),
    (SOLO, 11, "rightest", None),
    (SOLO, 12, "", "piano"),
    (DUET, 12, "", None),
    (SCENE, 13, "", "outdoor"),
    (SOLO, 14, "piano", "yes"),
    (SCENE, 14, "piano", "no"),
    (SCENE, 14, "violin", None),
    (SCENE, 15, "", "yes"),
    (DUET, 15, "", "no"),
    (SOLO, 16, "", "yes"),
    (FOREIGN, 16, "", "no"),
    (DUET, 16, "", None),
    (SCENE, 17, "first left", "no"),  # it is the drum's
    (SCENE, 17, "last middle", "yes"),
    (DUET, 17, "first left", "yes"),
    (SCENE, 18, "right first", "violin"),
    (SCENE, 18, "right last", "piano"),
    (SCENE, 18, "left first", None),
    (DUET, 18, "right first", None),  # the picture alone would tell
    (SCENE, 19, "loudest", "left"),
    (SCENE, 19, "lowest", "middle"),
    (DUET, 20, "cello", "flute"),
    (SCENE, 20, "violin", None),
    (SCENE, 21, "", "two"),
    (FOREIGN, 21, "", "zero"),
    (SCENE, 22, "", "one"),
    (SCENE, 23, "violin", "two"),
    (SCENE, 23, "drum", "zero"),
    (SCENE, 24, "", "one"),
    (SCENE, 25, "violin left violin middle", "yes"),
    (DUET, 25, "flute right cello left", None),  # the names alone would tell
    (SCENE, 26, "violin left violin middle", "no"),
    (SCENE, 27, "middle left", "no"),
    (DUET, 27, "right left", "yes"),
    (SCENE, 27, "left right", None),
    (DUET, 28, "right left", "yes"),
    (DUET, 29, "first", "cello"),
    (DUET, 29, "second", "flute"),
    (DUET, 29, "third", None),
    (DUET, 30, "first", "left"),
    (SCENE, 30, "last", "middle"),
    (SCENE, 31, "violin first", "left"),
    (SCENE, 31, "violin last", "middle"),
    (DUET, 31, "cello first", None),
    (DUET, 32, "after cello", "flute"),
    (DUET, 32, "before flute", "cello"),
    (DUET, 32, "after flute", None),
]


@pytest.mark.parametrize(("concert", "template", "values", "expected"), CASES)
def test_answer_of_a_scene_written_by_hand(concert: Concert, template: int, values: str, expected: str | None) -> None:
    assert answer(concert, TEMPLATES[template], values.split()) == expected


def test_the_cases_reach_every_template() -> None:
    assert {template for _, template, _, expected in CASES if expected} == set(range(len(TEMPLATES)))


def test_nothing_is_asked_within_the_margins() -> None:
    def duet(**changes: float) -> Concert:
        return replace(DUET, voices=(replace(DUET.voices[0], **changes), DUET.voices[1]))  # type: ignore[arg-type]

    assert answer(duet(loudness=0.03), TEMPLATES[3].text, ["flute", "cello"]) is None
    assert answer(duet(rhythm=2.5), TEMPLATES[4].text, ["flute", "cello"]) is None
    assert answer(duet(end=7), TEMPLATES[5].text, ["flute", "cello"]) is None  # 6 and 7 seconds
    assert answer(duet(start=3), TEMPLATES[29].text, ["first"]) is None
    assert answer(duet(end=4), TEMPLATES[20].text, ["cello"]) is None  # one second together


def test_two_of_a_kind_that_enter_together() -> None:
    voices = (SCENE.voices[0], replace(SCENE.voices[1], start=2), SCENE.voices[2])
    assert answer(replace(SCENE, voices=voices), TEMPLATES[31], ["violin", "first"]) == "simultaneously"


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(UsageError, match="none of the 33"):
        answer(SCENE, "Is it art?", [])
    with pytest.raises(UsageError, match="takes 2 values"):
        answer(SCENE, TEMPLATES[0], ["violin"])


@pytest.fixture(scope="module")
def concerts() -> list[Concert]:
    return [plan_concert(0, "train", i, KINDS, (10, 60)) for i in range(250)]


def test_candidates_and_answers_are_legal(concerts: list[Concert]) -> None:
    for concert in concerts[:60]:
        for k, template in enumerate(TEMPLATES):
            for values in candidates(concert, k):
                assert len(values) == len(template.slots)
                assert all(value in SLOTS[slot] for slot, value in zip(template.slots, values, strict=True))
                found = ANSWERERS[k](concert, values)
                assert found is None or found in answers_of(template.answers)


@pytest.mark.parametrize("number", [400, 1600])
def test_choice_is_balanced_and_reaches_every_template(concerts: list[Concert], number: int) -> None:
    chosen = choose(concerts, number, np.random.default_rng(0))
    assert 0.85 * number <= len(chosen) <= number
    assert len({q.key for q in chosen}) == len(chosen)
    assert [q.scene for q in chosen] == sorted(q.scene for q in chosen)
    answers: dict[int, Counter[str]] = defaultdict(Counter)
    values: dict[tuple[int, tuple[str, ...]], Counter[str]] = defaultdict(Counter)
    for q in chosen:
        answers[q.template][q.answer] += 1
        values[q.template, q.values][q.answer] += 1
    assert set(answers) == set(range(len(TEMPLATES)))
    for k, counts in answers.items():
        share = max(counts.values()) / counts.total()
        assert max(counts.values()) <= CAPS[TEMPLATES[k].answers] * counts.total() + 2, TEMPLATES[k].text
        if TEMPLATES[k].answers in ("yes_no", "room") and counts.total() >= 20:
            assert 0.44 <= share <= 0.56, (TEMPLATES[k].text, counts)
    for (k, given), counts in values.items():  # a word, such as the violin, does not give the answer away either
        if TEMPLATES[k].answers == "yes_no" and counts.total() >= 6:
            assert max(counts.values()) <= 0.75 * counts.total(), (TEMPLATES[k].text, given, counts)


def test_redrawn_scenes_keep_what_is_known(concerts: list[Concert]) -> None:
    rng = np.random.default_rng(0)
    for concert in concerts:
        sound, picture = other_sound(concert, rng), other_picture(concert, rng)
        assert sound.stage == concert.stage
        assert picture.voices == concert.voices
        names = [(t.kind, t.size) for t in picture.stage.instruments]
        assert len(set(names)) == len(names)
        for kind, n in Counter(v.kind for v in concert.voices).items():
            seen = [t.size for t in picture.stage.instruments if t.kind == kind]
            heard = [v.size for v in concert.voices if v.kind == kind]
            assert n == 1 or sorted(seen) == sorted(heard), "two voices of a kind are never off-screen"
            assert not seen or set(heard) <= set(seen), "a seen kind is not heard from off-screen too"


def test_redrawing_leaves_the_law_of_scenes_as_it_is() -> None:
    """Drawing the picture again given the sound (or the sound given the picture) must not change any frequency."""
    rng = np.random.default_rng(1)
    scenes = [plan_concert(3, "train", i, KINDS) for i in range(3000)]

    def statistics(concerts: list[Concert]) -> np.ndarray:
        return np.array(
            [
                [
                    len(c.stage.instruments),
                    len(c.voices),
                    bool(c.offscreen),
                    sum(v is None for v in c.playing),
                    len({t.kind for t in c.stage.instruments}),
                    sum(
                        v is not None and t.place == "left" and v.start == 0
                        for t, v in zip(c.stage.instruments, c.playing, strict=True)
                    ),
                    sum(
                        v is not None and t.size == "large" for t, v in zip(c.stage.instruments, c.playing, strict=True)
                    ),
                ]
                for c in concerts
            ],
            float,
        )

    before = statistics(scenes)
    error = np.sqrt(2) * before.std(0) / np.sqrt(len(scenes))
    for redraw in (other_picture, other_sound):
        after = statistics([redraw(c, rng) for c in scenes])
        assert (np.abs(after.mean(0) - before.mean(0)) < 4 * error).all()
