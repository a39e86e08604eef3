"""Scores of EPIC-KITCHENS-100: by hand, against plain loops, and the golden values of the official code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from crossmamba.data.epic.annotations import read_rows
from crossmamba.data.epic.classes import read_epic_classes
from crossmamba.errors import UsageError
from crossmamba.metrics.epic100 import (
    action_scores,
    action_scores_of_joint,
    anticipation_scores,
    closed_action_scores,
    joint_topk,
    log_softmax,
    marginalise,
    mean_class_recall,
    mean_of_views,
    mt5r_closed3806,
    mt5r_joint_hit,
    mt5r_official,
    recognition_scores,
)
from tests.metrics.epic_truth import Row, made_rows, real_folder, wave


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    return random.normal(size=(40, 97)) * 2, random.normal(size=(40, 300)) * 2


def all_pairs(verb: np.ndarray, noun: np.ndarray, keep: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs and scores over the whole table of a row, the long way."""
    table = log_softmax(verb)[:, :, None] + log_softmax(noun)[:, None, :]
    flat = table.reshape(len(verb), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :keep]
    pairs = np.stack([order // noun.shape[1], order % noun.shape[1]], axis=-1)
    return pairs, np.take_along_axis(flat, order, axis=1)


@pytest.mark.parametrize("keep", [1, 5, 100, 2000])
def test_the_kept_pairs_are_the_best_of_all_29100(scores: tuple[np.ndarray, np.ndarray], keep: int) -> None:
    chosen = action_scores(*scores, keep)
    pairs, values = all_pairs(*scores, keep)
    assert np.array_equal(chosen.pairs, pairs)
    np.testing.assert_allclose(chosen.scores, values, rtol=0, atol=1e-12)


def test_few_classes_give_fewer_pairs() -> None:
    chosen = action_scores([[0.0, 2.0]], [[2.0, 0.0, 1.0]])
    assert chosen.pairs.shape == (1, 6, 2)
    assert chosen.ids[0, 0] == 1000
    assert np.exp(chosen.scores).sum() == pytest.approx(1, abs=1e-12)


def test_the_best_action_is_the_best_verb_and_the_best_noun(scores: tuple[np.ndarray, np.ndarray]) -> None:
    best = action_scores(*scores).pairs[:, 0]
    assert np.array_equal(best, np.stack([scores[0].argmax(1), scores[1].argmax(1)], axis=1))


def test_ties_go_to_the_lower_class() -> None:
    rows = [Row("P01_01_0", verb_class=0, noun_class=0), Row("P01_01_1", verb_class=1, noun_class=0)]
    report = recognition_scores([[1.0, 1.0], [1.0, 1.0]], [[0.0, -1.0], [0.0, -1.0]], rows)
    assert report["all_verb_accuracy_at_1"] == 50.0
    assert report["all_action_accuracy_at_1"] == 50.0


def test_low_rows_do_not_underflow(scores: tuple[np.ndarray, np.ndarray]) -> None:
    """The official softmax over the whole array, in float32, makes such rows' actions arbitrary (spec §4.2)."""
    verb, noun = (values.copy() for values in scores)
    verb[:10] -= 60
    noun[:10] -= 60
    low, plain = action_scores(verb.astype(np.float32), noun.astype(np.float32)), action_scores(*scores)
    assert np.array_equal(low.pairs[:, :5], plain.pairs[:, :5])


def test_log_probabilities_give_what_logits_give(scores: tuple[np.ndarray, np.ndarray]) -> None:
    rows = made_rows(40)
    first = recognition_scores(*scores, rows).values
    assert recognition_scores(log_softmax(scores[0]), log_softmax(scores[1]), rows).values == first


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("slot", [0, 1])
def test_probabilities_for_logits_are_refused(
    scores: tuple[np.ndarray, np.ndarray], slot: int, kind: type[np.floating]
) -> None:
    given = list(scores)
    given[slot] = np.exp(log_softmax(given[slot])).astype(kind)
    with pytest.raises(UsageError, match=r"(verb|noun) scores of narration P01_01_0 are probabilities.*logits"):
        recognition_scores(*given, made_rows(40))


def test_one_row_of_probabilities_is_enough(scores: tuple[np.ndarray, np.ndarray]) -> None:
    verb = scores[0].copy()
    verb[7] = np.exp(log_softmax(verb[7:8]))[0]
    with pytest.raises(UsageError, match=r"narration P04_01_7 are probabilities.*1 of 40"):
        anticipation_scores(verb, scores[1], made_rows(40))


def test_softmaxes_summed_over_views_are_refused(scores: tuple[np.ndarray, np.ndarray]) -> None:
    summed = sum(np.exp(log_softmax(scores[0] + view)) for view in np.random.default_rng(0).normal(size=(3, 1, 97)))
    with pytest.raises(UsageError, match=r"sums of 3 softmaxes.*Divide by 3"):
        action_scores(summed, scores[1])


def test_positive_logits_pass(scores: tuple[np.ndarray, np.ndarray]) -> None:
    assert len(action_scores(np.abs(scores[0]), np.abs(scores[1])).pairs) == 40
    assert len(action_scores(np.zeros((3, 97)), np.zeros((3, 300))).pairs) == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(scores: tuple[np.ndarray, np.ndarray], bad: float) -> None:
    scores[1][4, 8] = bad
    with pytest.raises(UsageError, match=r"noun scores of narration P01_01_4 hold -?(nan|inf)"):
        recognition_scores(*scores, made_rows(40))


def test_other_shapes_and_types_are_refused(scores: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UsageError, match=r"shape \(97,\)"):
        action_scores(scores[0][0], scores[1])
    with pytest.raises(UsageError, match="39 rows of verb scores"):
        action_scores(scores[0][:39], scores[1])
    with pytest.raises(UsageError, match="40 rows of verb scores for 39 segments"):
        recognition_scores(*scores, made_rows(39))
    with pytest.raises(UsageError, match="of type"):
        action_scores(scores[0].astype(str), scores[1])


def test_segments_without_labels_are_refused(scores: tuple[np.ndarray, np.ndarray]) -> None:
    hidden = [*made_rows(39), Row("P33_01_1", "P33", None, None)]
    with pytest.raises(UsageError, match="P33_01_1 has no verb class: labels of the test split are hidden"):
        recognition_scores(*scores, hidden)
    with pytest.raises(UsageError, match="verb class 97; the predictions score 0 to 96"):
        recognition_scores(*scores, [*made_rows(39), Row("P01_01_1", "P01", 97, 0)])


def test_recognition_by_hand() -> None:
    rows = [Row("a", "P01", 0, 0), Row("b", "P01", 1, 1), Row("c", "P02", 2, 0), Row("d", "P02", 2, 2)]
    verb = [[3.0, 0, 0], [3, 0, 0], [0, 0, 3], [0, 0, 3]]  # right: a, c, d
    noun = [[3.0, 0, 0], [0, 3, 0], [0, 3, 0], [0, 0, 3]]  # right: a, b, d
    report = recognition_scores(verb, noun, rows, tail_verbs={1}, tail_nouns={2}, unseen={"P02"})
    assert report["all_verb_accuracy_at_1"] == report["all_noun_accuracy_at_1"] == 75.0
    assert report["all_action_accuracy_at_1"] == 50.0
    assert report["tail_verb_accuracy_at_1"] == 0.0  # b
    assert report["tail_noun_accuracy_at_1"] == 100.0  # d
    assert report["tail_action_accuracy_at_1"] == 50.0  # b and d: the union
    assert [report[f"unseen_{slot}_accuracy_at_1"] for slot in ("verb", "noun", "action")] == [100.0, 50.0, 50.0]
    assert report.counts["tail_action"] == 2
    assert "75.0000" in report.text


def test_an_empty_subset_gives_none_and_a_note() -> None:
    rows = made_rows(4)
    scores = np.random.default_rng(0).normal(size=(4, 97)), np.random.default_rng(1).normal(size=(4, 300))
    for measure, key in ((recognition_scores, "accuracy_at_1"), (anticipation_scores, "mt5r_official")):
        report = measure(*scores, rows, unseen={"P33"}, tail_verbs=(), tail_nouns=())
        assert report[f"unseen_action_{key}"] is None
        assert report[f"tail_action_{key}"] is None
        assert "list of another split" in report.text
        assert "nan" not in report.text.replace("nan:", "")
    with pytest.raises(UsageError, match="or neither"):
        recognition_scores(*scores, rows, tail_verbs={1})


def test_mean_class_recall_weighs_classes_equally() -> None:
    assert mean_class_recall([True, True, False, False], [4, 4, 4, 9]) == pytest.approx(100 / 3)
    assert mean_class_recall([], []) is None


def test_the_three_recalls_differ_and_each_is_its_own(scores: tuple[np.ndarray, np.ndarray]) -> None:
    rows = made_rows(40)
    verb, noun = (values.copy() for values in scores)
    for i, row in enumerate(rows):
        verb[i, row.verb_class] += 4
        noun[i, row.noun_class] += 5
    occurring = sorted({(row.verb_class, row.noun_class) for row in rows} | {(v, v) for v in range(97)})
    official = mt5r_official(verb, noun, rows)
    hit, closed = mt5r_joint_hit(verb, noun, rows), mt5r_closed3806(verb, noun, rows, occurring)
    assert official < hit
    assert official < closed
    report = anticipation_scores(verb, noun, rows, closed=occurring)
    assert report["overall_action_mt5r_official"] == official
    assert report["overall_action_mt5r_joint_hit"] == hit
    assert report["overall_action_mt5r_closed3806"] == closed


def test_recall_against_loops(scores: tuple[np.ndarray, np.ndarray]) -> None:
    rows = made_rows(40, verbs=6, nouns=5)
    verb, noun = scores[0][:, :6], scores[1][:, :5]
    labels = [(row.verb_class, row.noun_class) for row in rows]
    pairs, _ = all_pairs(verb, noun, 5)
    recalls = []
    for action in set(labels):
        members = [i for i, label in enumerate(labels) if label == action]
        recalls.append(np.mean([list(action) in pairs[i].tolist() for i in members]))
    assert mt5r_official(verb, noun, rows) == pytest.approx(100 * np.mean(recalls), abs=1e-9)


def test_joint_topk_is_action_accuracy_at_one_only(scores: tuple[np.ndarray, np.ndarray]) -> None:
    rows = made_rows(40, verbs=3, nouns=4)
    verb, noun = scores[0][:, :3], scores[1][:, :9]
    report = recognition_scores(verb, noun, rows)
    assert joint_topk(verb, noun, rows, 1) == report["all_action_accuracy_at_1"]
    assert joint_topk(verb, noun, rows, 5) > report["all_action_accuracy_at_5"]


def test_explicit_actions_are_used(scores: tuple[np.ndarray, np.ndarray]) -> None:
    rows = made_rows(40)
    pairs = [(row.verb_class, row.noun_class) for row in rows]
    actions = sorted(set(pairs))
    joint = np.zeros((40, len(actions)))
    joint[np.arange(40), [actions.index(pair) for pair in pairs]] = 5
    chosen = action_scores_of_joint(joint, actions, 5)
    report = recognition_scores(*scores, rows, actions=chosen)
    assert report["all_action_accuracy_at_1"] == 100.0
    assert report["all_verb_accuracy_at_1"] < 50


def test_marginals_of_a_joint_head() -> None:
    actions = [(0, 0), (0, 2), (2, 1)]
    verb, noun = marginalise(np.log([[0.5, 0.25, 0.25]]), actions, 3, 3)
    np.testing.assert_allclose(np.exp(verb), [[0.75, 0, 0.25]], atol=1e-12)
    np.testing.assert_allclose(np.exp(noun), [[0.5, 0.25, 0.25]], atol=1e-12)
    assert np.isfinite(verb).all()
    with pytest.raises(UsageError, match=r"action \(2, 1\) is beyond the 2 verbs"):
        marginalise(np.log([[0.5, 0.25, 0.25]]), actions, 2, 3)


def test_views_are_averaged_as_probabilities(scores: tuple[np.ndarray, np.ndarray]) -> None:
    merged = mean_of_views(scores[0], 4)
    wanted = np.exp(log_softmax(scores[0])).reshape(10, 4, 97).mean(axis=1)
    np.testing.assert_allclose(np.exp(merged), wanted, rtol=1e-12)
    np.testing.assert_allclose(mean_of_views(scores[0] - 2000, 1), log_softmax(scores[0]), atol=1e-9)
    with pytest.raises(UsageError, match="no multiple of 3 views"):
        mean_of_views(scores[0], 3)


def test_closed_scores_choose_from_the_list_only(scores: tuple[np.ndarray, np.ndarray]) -> None:
    actions = [(1, 2), (3, 4), (90, 290)]
    chosen = closed_action_scores(*scores, actions, 5)
    assert chosen.pairs.shape == (40, 3, 2)
    assert {tuple(pair) for pair in chosen.pairs.reshape(-1, 2).tolist()} == set(actions)
    with pytest.raises(UsageError, match="empty"):
        closed_action_scores(*scores, [])


# Golden values of the official code on the real validation labels (spec §4.2, §4.6).


@pytest.fixture(scope="module")
def golden() -> tuple:
    folder = real_folder()
    rows, classes = read_rows(folder / "EPIC_100_validation.csv"), read_epic_classes(folder)
    verb, noun, i = wave(len(rows), 97), wave(len(rows), 300), np.arange(len(rows))
    verb[i, [row.verb_class for row in rows]] += 3.2 * (1 + np.sin(i))
    noun[i, [row.noun_class for row in rows]] += 4.0 * (1 + np.cos(i))
    lists = {"tail_verbs": classes.tail_verbs, "tail_nouns": classes.tail_nouns, "unseen": classes.unseen}
    return rows, verb, noun, lists


def test_golden_recognition(golden: tuple) -> None:
    rows, verb, noun, lists = golden
    report = recognition_scores(verb, noun, rows, **lists)
    wanted = {
        "all_{}_accuracy_at_1": (24.9173, 34.5573, 7.3748),
        "all_{}_accuracy_at_5": (48.4278, 41.7977, 17.1390),
        "tail_{}_accuracy_at_1": (25.0568, 34.4211, 6.6345),
        "unseen_{}_accuracy_at_1": (23.3803, 33.6150, 7.6056),
    }
    for name, (slot, k) in itertools.product(wanted, zip(("verb", "noun", "action"), range(3), strict=True)):
        assert report[name.format(slot)] == pytest.approx(wanted[name][k], abs=5e-5), name
    assert report["all_action_joint_hit_at_5"] == pytest.approx(20.4282, abs=5e-5)
    assert [report.counts[name] for name in ("unseen_verb", "tail_verb", "tail_noun", "tail_action")] == [
        1065,
        1760,
        1900,
        3105,
    ]


def test_golden_anticipation(golden: tuple) -> None:
    rows, verb, noun, lists = golden
    report = anticipation_scores(verb, noun, rows, **lists)
    wanted = {
        "overall_{}_mt5r_official": (50.4736, 40.0944, 16.7036),
        "unseen_{}_mt5r_official": (51.8335, 42.0175, 19.6540),
        "tail_{}_mt5r_official": (50.8043, 39.4535, 16.1365),
    }
    for name, (slot, k) in itertools.product(wanted, zip(("verb", "noun", "action"), range(3), strict=True)):
        assert report[name.format(slot)] == pytest.approx(wanted[name][k], abs=5e-5), name
    assert report["overall_action_mt5r_joint_hit"] == pytest.approx(19.9310, abs=5e-5)
    assert [report.classes[f"overall_{slot}"] for slot in ("verb", "noun", "action")] == [78, 211, 1352]


def test_golden_prior(golden: tuple) -> None:
    """Spec §4.2: the train prior as scores. The train file is not here, but only the order of its counts matters.

    Class numbers are that order for verbs and nouns. Of actions it needs the five best pairs; the only five that fit
    class order and the golden 2.886 % are (0, 0) to (0, 3) and (1, 0), and these scores have them in front.
    """
    rows, _, _, lists = golden
    verb, noun = np.tile(-1.0 * np.arange(97), (len(rows), 1)), np.tile(-0.3 * np.arange(300), (len(rows), 1))
    report = recognition_scores(verb, noun, rows, **lists)
    for name, values in {
        "all_{}_accuracy_at_1": (20.035, 3.930, 0.010),
        "all_{}_accuracy_at_5": (63.209, 18.815, 2.886),
        "unseen_{}_accuracy_at_1": (15.869, 3.662, 0),
        "tail_{}_accuracy_at_1": (0, 0, 0),
    }.items():
        for slot, value in zip(("verb", "noun", "action"), values, strict=True):
            assert report[name.format(slot)] == pytest.approx(value, abs=5.1e-4), (name, slot)
