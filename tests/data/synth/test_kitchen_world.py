"""The kitchen world: movements, the chain and its law, plans, pictures, reference scores."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest

from crossmamba.data.synth.kitchen import ACTIONS, NOUNS, VERBS, KitchenPicture, Video, draw_participant, plan_video
from crossmamba.data.synth.kitchen.annotations import files, rows_of, stamp, tail
from crossmamba.data.synth.kitchen.ceilings import after_unknown, kitchen_ceilings, law_of_last, seen_law
from crossmamba.data.synth.kitchen.chain import ACTIVITIES, BACK, FRONT, Kitchen, Step, act, fixed_of, furnish
from crossmamba.data.synth.kitchen.classes import ACTION_INDEX, NOUN_ID, REVERSED, Action, action, spoken
from crossmamba.data.synth.kitchen.motions import COME, pose
from crossmamba.data.synth.kitchen.plan import GAPS, SECONDS, Segment

OUT = (0.1, 0.8)


def plan(index: int = 0, who: int = 1, segments: int = 20, split: str = "train", name: str = "P01_01") -> Video:
    return plan_video(0, draw_participant(0, who), name, split, index, segments, Fraction(30))


def number(name: str) -> int:
    return ACTION_INDEX[action(*name.split())]


# Classes


def test_classes_are_as_asked_for_and_no_word_is_in_two() -> None:
    assert len(VERBS) >= 8
    assert len(NOUNS) >= 12
    assert sum("-" in verb.key for verb in VERBS) >= 2
    assert sum(":" in noun.key for noun in NOUNS) >= 2
    for classes in (VERBS, NOUNS):
        words = [word for c in classes for word in c.instances]
        assert len(words) == len(set(words))
        assert all(c.key == c.instances[0] for c in classes)
    done = {VERBS[a.verb].key for a in ACTIONS}
    assert done == {verb.key for verb in VERBS}
    assert all(step in range(len(ACTIONS)) for steps in ACTIVITIES.values() for step in steps)


def test_narrators_say_colon_nouns_head_last_and_hyphens_as_blanks() -> None:
    assert spoken("board:chopping") == "chopping board"
    assert spoken("sponge:washing:up") == "washing up sponge"
    assert spoken("put-down") == "put down"


# Movements


@pytest.mark.parametrize("verb", [verb.key for verb in VERBS])
def test_a_movement_is_smooth_and_starts_and_ends_out_of_the_picture(verb: str) -> None:
    u = np.linspace(0, 1, 401)
    poses = [pose(verb, float(x), OUT, 2) for x in u]
    path = np.array([p.hand for p in poses])
    np.testing.assert_allclose(path[[0, -1]], [OUT, OUT], atol=1e-9)
    assert np.abs(np.diff(path, axis=0)).max() < 0.016
    angles = np.array([[p.hand_angle, p.angle, p.press, p.grip] for p in poses])
    assert np.abs(np.diff(angles, axis=0)).max() < 0.03


@pytest.mark.parametrize("verb", sorted(REVERSED))
def test_partners_are_each_other_backwards(verb: str) -> None:
    for u in np.arange(65) / 64:  # exact, as 1 - u is
        assert pose(verb, float(u), OUT, 1) == pose(REVERSED[verb], 1 - float(u), OUT, 1)
    differ = [pose(verb, float(u), OUT, 1) != pose(REVERSED[verb], float(u), OUT, 1) for u in np.linspace(0.1, 0.9, 9)]
    assert sum(differ) >= 8  # but not forwards


def test_verbs_over_a_thing_at_rest_differ_in_their_paths() -> None:
    middle = np.linspace(COME, 1 - COME, 50)
    spread = {verb: np.ptp([pose(verb, float(u), OUT, 1).hand for u in middle], 0) for verb in ("wash", "cut", "mix")}
    assert spread["wash"][0] > 0.1 > 0.001 > spread["wash"][1]
    assert spread["cut"][1] > 0.1 > 0.001 > spread["cut"][0]
    assert min(spread["mix"]) > 0.1


# The chain


def test_the_table_allows_only_what_is_possible() -> None:
    places: list[int | None] = [NOUN_ID["tap"], NOUN_ID["fridge"], None, None, NOUN_ID["bottle"], None, None, None]
    kitchen = Kitchen(places)
    possible = {ACTIONS[i].name for i in np.flatnonzero(kitchen.possible())}
    assert {"turn-on tap", "open fridge", "open bottle", "take bottle", "put cup", "pour bottle"} <= possible
    assert not possible & {"turn-off tap", "close fridge", "close bottle", "put bottle", "take cup", "mix cup"}
    kitchen.do(number("open bottle"))
    assert "take bottle" not in {ACTIONS[i].name for i in np.flatnonzero(kitchen.possible())}
    kitchen.do(number("close bottle"))
    assert kitchen.do(number("take bottle")) == 4
    assert kitchen.free_places() == [2, 3, 4, 5, 6, 7]
    assert kitchen.do(number("put cup"), 5) == 5
    with pytest.raises(ValueError, match="put bowl"):
        kitchen.do(number("put bowl"), 5)
    with pytest.raises(ValueError, match="take bottle"):
        kitchen.do(number("take bottle"))


def test_the_law_is_what_the_chain_does() -> None:
    rng = np.random.default_rng(1)
    steps = [step for _ in range(150) for step in act(furnish(rng, fixed_of(rng)), 20, rng)]
    laws = np.array([step.law for step in steps])
    np.testing.assert_allclose(laws.sum(1), 1, rtol=1e-12)
    done = np.array([step.number for step in steps])
    assert (laws[np.arange(len(steps)), done] > 0).all()
    expected, variance = laws.sum(0), (laws * (1 - laws)).sum(0)
    counts = np.bincount(done, minlength=len(ACTIONS))
    assert (np.abs(counts - expected) <= 4 * np.sqrt(variance) + 1).all()
    best = laws.max(1)
    hits = (laws.argmax(1) == done).mean()
    assert abs(hits - best.mean()) < 4 * np.sqrt((best * (1 - best)).mean() / len(steps))
    assert (counts > 0).sum() > 0.9 * len(ACTIONS)


def test_a_followed_activity_has_most_of_the_weight() -> None:
    places: list[int | None] = [NOUN_ID["tap"], NOUN_ID["microwave"], NOUN_ID["hob"], None, *[None] * 4]
    kitchen = Kitchen(places, last=number("close microwave"))
    law = kitchen.law()
    # Both "close microwave" steps of "warming up" pass half: one to "turn-on microwave", the other's "mix bowl" cannot
    # be done without a bowl, so that what follows it gets nothing.
    assert law[number("turn-on microwave")] > 0.75
    assert law.argmax() == number("turn-on microwave")
    assert Kitchen(places).law().max() < 0.5  # nothing to follow


def test_the_law_after_an_unknown_action_is_the_mean_over_what_it_may_be() -> None:
    rng = np.random.default_rng(2)
    kitchen = furnish(rng)
    act(kitchen, 3, rng)
    mean = after_unknown(kitchen, kitchen.law())
    assert mean.sum() == pytest.approx(1)
    drawn = []
    for _ in range(1500):
        then = kitchen.copy()
        act(then, 1, rng)
        drawn.append(then.law())
    error = np.std(drawn, 0) / np.sqrt(len(drawn))
    assert (np.abs(np.mean(drawn, 0) - mean) <= 4.5 * error + 1e-3).all()


# Plans


def test_segments_overlap_and_leave_gaps_but_the_hand_does_one_thing_at_a_time() -> None:
    segments = [segment for k in range(30) for segment in [*plan(k).segments, None]]
    pairs = [(a, b) for a, b in pairwise(segments) if a and b]
    assert all(a.stop <= b.start for a, b in pairs)
    overlaps = np.mean([a.told[1] > b.told[0] for a, b in pairs])
    assert 0.2 < overlaps < 0.7
    assert max(b.start - a.stop for a, b in pairs) <= GAPS[-1][2]
    assert np.mean([b.told[0] - a.told[1] > 50 for a, b in pairs]) > 0.1


def test_told_times_never_hide_what_comes_and_stay_within_the_video() -> None:
    for k in range(30):
        video = plan(k, name="P01_101" if k % 2 else "P01_01")
        told = [segment.told[0] for segment in video.segments]
        assert told == sorted(told)
        for segment in video.segments:
            assert SECONDS[0] - 1e-9 <= segment.stop - segment.start <= SECONDS[1] + 1e-9
            assert 0 <= segment.told[0] / 100 <= segment.start
            assert segment.told[0] < segment.told[1] <= 100 * video.seconds
            for hundredths in segment.told:  # whole numbers and floats agree on the frame
                assert hundredths * video.rate // 100 == int(hundredths / 100 * video.rate)


def test_at_most_one_action_is_unseen_one_second_before() -> None:
    unseen = 0
    for k in range(40):
        segments = plan(k).segments
        for i, segment in enumerate(segments):
            middles = [0.5 * (s.start + s.stop) for s in segments[:i]]
            late = [middle > segment.told[0] / 100 - 1 for middle in middles]
            assert sum(late) <= 1
            unseen += sum(late)
    assert unseen > 50


def test_a_plan_is_a_function_of_the_seed() -> None:
    def told(video: Video) -> list[tuple[str, tuple[int, int]]]:
        return [(s.narration, s.told) for s in video.segments]

    assert told(plan(3)) == told(plan(3))
    assert told(plan(3)) != told(plan(4))
    assert told(plan(3)) != told(plan(3, split="val"))


# Pictures


def acted(picture: KitchenPicture, segment: Segment, verb: str, noun: int, place: int, u: float) -> np.ndarray:
    """The picture of a segment as if another action were done in it."""
    step = Step(ACTION_INDEX[Action(action_verb(verb), noun)], place, segment.step.before, segment.step.law)
    return np.asarray(picture.acted(replace(segment, step=step), u), np.float32)


def action_verb(key: str) -> int:
    return [verb.key for verb in VERBS].index(key)


def test_pictures_of_partners_are_the_same_backwards() -> None:
    video = plan(1)
    picture = KitchenPicture(video, 64)
    tried = 0
    for segment in video.segments:
        a = segment.step.action
        verb = VERBS[a.verb].key
        if verb in REVERSED:
            for u in (0.1, 0.35, 0.5, 0.8):
                forward = acted(picture, segment, verb, a.noun, segment.step.place, u)
                backward = acted(picture, segment, REVERSED[verb], a.noun, segment.step.place, 1 - u)
                np.testing.assert_array_equal(forward, backward)
            tried += 1
    assert tried >= 5


@pytest.mark.parametrize("who", [1, 8])
def test_the_nearest_rendered_action_is_the_told_one(who: int) -> None:
    """Every action that could be seen at some place is rendered; the true one is nearest to the (noisy) picture."""
    rng = np.random.default_rng(0)
    video = plan(2, who)
    picture = KitchenPicture(video, 64)
    moments = (0.15, 0.3, 0.42, 0.55, 0.68, 0.8)
    for segment in video.segments:
        step = segment.step
        true = step.action
        seen = {noun: place for place, noun in enumerate(step.before.places) if noun is not None}
        seen[true.noun] = step.place
        films = {
            (VERBS[a.verb].key, a.noun): np.stack(
                [acted(picture, segment, VERBS[a.verb].key, a.noun, seen[a.noun], u) for u in moments]
            )
            for a in ACTIONS
            if a.noun in seen
        }
        shown = films[VERBS[true.verb].key, true.noun]
        noisy = shown + 8 * rng.standard_normal(shown.shape)
        errors = {name: float(np.mean((film - noisy) ** 2)) for name, film in films.items()}
        ranked = sorted(errors, key=lambda name: errors[name])
        assert ranked[0] == (VERBS[true.verb].key, true.noun), segment.narration
        # Clearly so: the second differs by a good part of a hand or a thing in a few frames.
        assert errors[ranked[1]] - errors[ranked[0]] > 3, (segment.narration, ranked[1])


def test_nothing_before_its_start_tells_an_action() -> None:
    """Two videos that differ in their last action only have the same pictures until it starts."""
    video = plan(5)
    last = video.segments[-1]
    other = next(
        i
        for i in np.flatnonzero(last.step.law)
        if ACTIONS[i].noun != last.step.action.noun and VERBS[ACTIONS[i].verb].key != "put"
    )
    place = last.step.before.place_of(ACTIONS[other].noun)
    assert place is not None
    step = Step(int(other), place, last.step.before, last.step.law)
    changed = replace(video, segments=(*video.segments[:-1], replace(last, step=step)))
    one, two = KitchenPicture(video, 32), KitchenPicture(changed, 32)
    for time in np.linspace(video.segments[-2].start, last.start - 1e-6, 12):
        np.testing.assert_array_equal(one.at(float(time)), two.at(float(time)))
    during = 0.5 * (last.start + last.stop)
    assert (one.at(during) != two.at(during)).any()


def test_frames_are_the_pictures_of_their_moments() -> None:
    video = plan(0, segments=4)
    picture, again = KitchenPicture(video, 32), KitchenPicture(video, 32)
    frames = list(picture.frames())
    assert len(frames) == video.frames
    assert frames[0].shape == (32, 32, 3)
    for f in (0, 40, 77, len(frames) - 1):
        np.testing.assert_array_equal(frames[f], again.at(float(f / video.fps)))


def test_things_look_distinct() -> None:
    """Each noun's drawing, at 64 pixels, is nearest to itself, under another participant's hues too."""
    from crossmamba.data.synth.kitchen.looks import RADIUS, REACH, thing

    side = round(2 * REACH * RADIUS * 64)

    def flat(key: str, shift: float) -> np.ndarray:
        drawn = np.asarray(thing(key, False, side, shift), np.float32)
        alpha = drawn[..., 3:] / 255
        return drawn[..., :3] * alpha + 150 * (1 - alpha)

    plain = {noun.key: flat(noun.key, 0) for noun in NOUNS}
    for key in plain:
        for shift in (-10.0, 10.0):
            errors = {other: float(np.mean((flat(key, shift) - plain[other]) ** 2)) for other in plain}
            ranked = sorted(errors, key=lambda name: errors[name])
            assert ranked[0] == key
            assert errors[ranked[1]] > 3 * errors[key] + 100


# Files and reference scores


@pytest.fixture(scope="module")
def planned() -> dict[str, list[Video]]:
    """60 train videos of 4 participants, 30 val videos, every third of them of a fifth."""
    train = [plan(k, 1 + k % 4, name=f"P{1 + k % 4:02d}_{1 + k // 4:02d}") for k in range(60)]
    val = []
    for k in range(30):
        who = 5 if k % 3 == 1 else 1 + k % 4
        val.append(plan(k, who, split="val", name=f"P{who:02d}_{50 + k}"))
    return {"train": train, "val": val, "test": []}


def test_times_are_written_as_officially() -> None:
    assert stamp(5, 2) == "00:00:00.05"
    assert stamp(372_345, 2) == "01:02:03.45"
    assert stamp(1_700, 3) == "00:00:01.700"


def test_tail_classes_are_the_rarest_with_a_fifth_of_train(planned: dict[str, list[Video]]) -> None:
    rows = rows_of(planned["train"])
    for kind in ("verb", "noun"):
        labels = np.array([row[f"{kind}_class"] for row in rows])
        classes = VERBS if kind == "verb" else NOUNS
        counts = np.bincount(labels, minlength=len(classes))
        rare = tail(kind, rows)
        assert 2 <= len(rare) < len(classes)
        assert counts[rare].sum() <= 0.2 * len(rows)
        others = [k for k in range(len(classes)) if k not in rare]
        assert counts[rare].max() <= counts[others].min()
        assert counts[rare].sum() + counts[others].min() > 0.2 * len(rows)
        assert counts.max() > 4 * max(1, counts.min())  # skewed


def test_narrations_name_the_true_noun_first_and_only_true_neighbours(planned: dict[str, list[Video]]) -> None:
    several = 0
    for video in planned["train"]:
        for segment in video.segments:
            a = segment.step.action
            assert segment.verb in VERBS[a.verb].instances
            assert segment.noun in NOUNS[a.noun].instances
            assert segment.nouns[0] == (segment.noun, a.noun)
            assert segment.narration.startswith(f"{spoken(segment.verb)} {spoken(segment.noun)}")
            for word, noun in segment.nouns[1:]:
                several += 1
                place = segment.step.before.place_of(noun)
                assert place is not None
                assert abs(place - segment.step.place) == 1
                assert word in NOUNS[noun].instances
    assert several > 20


def test_reference_scores_stand_in_their_order(planned: dict[str, list[Video]]) -> None:
    found = kitchen_ceilings(planned)
    for group in ("all", "unseen"):
        ahead = found["anticipation"]["val"][group]
        for task in ("verb", "noun", "action"):
            expected = [ahead[name][task]["expected_top1"] for name in ("true_past", "seen_past")]
            assert expected[0] >= expected[1] > ahead["prior"][task]["top1"]
            for name in ("true_past", "seen_past"):
                assert abs(ahead[name][task]["top1"] - ahead[name][task]["expected_top1"]) < 12
            assert ahead["true_past"][task]["top1"] > ahead["last_action"][task]["top1"] > ahead["prior"][task]["top1"]
            assert ahead["true_past"][task]["mt5r_lift"] > ahead["prior"][task]["mt5r"] + 15
            assert ahead["true_past"][task]["top5"] < 100  # not everything can be foreseen
            assert ahead["seen_window"][task]["top1"] > ahead["prior"][task]["top1"]
            assert ahead["seen_window"][task]["top1"] < ahead["last_action"][task]["top1"]
        assert ahead["true_past"]["action"]["mt5r_heads"] < ahead["true_past"]["action"]["mt5r_lift"]
        assert ahead["prior"]["action"]["mt5r_heads"] < ahead["seen_window"]["action"]["mt5r_heads"]
    seen = found["recognition"]["val"]["all"]
    assert seen["true_noun"]["noun"]["top1"] == 100
    assert seen["prior"]["verb"]["top1"] < seen["true_noun"]["verb"]["top1"] < 60
    assert seen["true_noun"]["verb"]["top1"] < seen["one_frame"]["verb"]["top1"] < 90
    for task, classes in (("verb", VERBS), ("noun", NOUNS)):
        assert list(found["prior"][task]) == [c.key for c in classes]
        assert sum(found["prior"][task].values()) == pytest.approx(1, abs=1e-4)


def test_the_law_seen_is_the_true_one_where_the_last_action_was_seen(planned: dict[str, list[Video]]) -> None:
    same = [
        bool((seen_law(video, k) == video.segments[k].step.law).all())
        for video in planned["val"][:10]
        for k in range(1, len(video.segments))
    ]
    assert 0.5 < np.mean(same) < 0.98
    table = law_of_last()
    assert table.shape == (len(ACTIONS) + 1, len(ACTIONS))
    np.testing.assert_allclose(table.sum(1), 1)


def test_files_without_a_split_still_have_their_headers(planned: dict[str, list[Video]]) -> None:
    made = files(planned, 64)
    assert made["EPIC_100_test_timestamps.csv"].count(b"\n") == 1
    assert made["EPIC_100_unseen_participant_ids_validation.csv"] == b"participant_id\nP05\n"
    assert BACK + FRONT == 8
