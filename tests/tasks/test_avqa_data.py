"""Batches in which every video stands once, orders, controls and caching, on tensors alone."""

from types import SimpleNamespace

import pytest
import torch

from crossmamba.data.logmel import SILENCE_LOG_MEL
from crossmamba.errors import DataError, UsageError
from crossmamba.tasks.avqa_questions import (
    PERTURBATIONS,
    VideoCache,
    VideoQuestions,
    collate_questions,
    grouped_order,
)
from crossmamba.tasks.resume import EpochSampler


class Stand:
    """Five questions about three videos; video n is filled with n + 1."""

    def __init__(self, raw=False, broken=None):
        self.asked = [2, 0, 0, 1, 2]
        self.video_ids = ["a", "b", "c"]
        self.rows = [SimpleNamespace(video_id=self.video_ids[v], type_index=v) for v in self.asked]
        self.raw, self.broken, self.reads = raw, broken, []

    def __len__(self):
        return len(self.asked)

    def question(self, index):
        return {
            "question": torch.tensor([index, 0]),
            "answer": torch.tensor(index),
            "index": torch.tensor(index),
            "video": torch.tensor(self.asked[index]),
        }

    def video(self, number):
        self.reads.append(number)
        if number == self.broken:
            raise DataError(f"video {self.video_ids[number]}: damaged")
        sound = (2, 1, 96, 64) if self.raw else (2, 4)
        return torch.full(sound, number + 1.0), torch.full((2, 3, 3, 5), number + 1.0)


def test_a_batch_has_every_video_once():
    questions = VideoQuestions(Stand())
    batch = collate_questions([questions[i] for i in (0, 1, 2, 4)])
    assert batch["audio"].shape == (2, 2, 4)
    assert batch["visual"].shape == (2, 2, 3, 3, 5)
    assert batch["audio"][:, 0, 0].tolist() == [3, 1]  # in the order in which they come first
    assert batch["video"].tolist() == [0, 1, 1, 0]
    assert batch["index"].tolist() == [0, 1, 2, 4]
    assert batch["kind"].tolist() == [2, 0, 0, 2]
    for row, index in zip(batch["video"], batch["index"], strict=True):  # each question finds its own video
        assert batch["audio"][row, 0, 0] == questions[int(index)]["audio"][0, 0]


@pytest.mark.parametrize("per_video", [1, 2, 3, 10])
def test_grouped_order_asks_everything_once_and_keeps_videos_together(per_video):
    videos = [k % 7 for k in range(40)]
    order = grouped_order(videos, per_video, seed=3, epoch=0)
    assert sorted(order) == list(range(40))
    runs, last = [], None
    for question in order:
        if videos[question] != last:
            runs.append(0)
        runs[-1] += 1
        last = videos[question]
    of_each = {video: videos.count(video) for video in set(videos)}
    fewest = sum(-(-count // per_video) for count in of_each.values())
    assert len(runs) <= fewest
    if per_video > 1:
        assert len(runs) < len(grouped_order(videos, 1, 3, 0)) * 0.8
    assert order == grouped_order(videos, per_video, seed=3, epoch=0)
    assert order != grouped_order(videos, per_video, seed=3, epoch=1)
    assert order != grouped_order(videos, per_video, seed=4, epoch=0)


def test_a_given_order_is_dealt_to_the_ranks_in_blocks_and_resumed_in_the_middle():
    order = [4, 3, 2, 1, 0, 6, 5]
    ranks = [list(EpochSampler(7, order=order, rank=rank, world=2)) for rank in range(2)]
    assert ranks == [[4, 3, 2, 1], [0, 6, 5, 4]]  # the first starts over, so that both have equally many
    sampler = EpochSampler(7, order=order, skip=3)
    assert list(sampler) == order[3:]
    assert len(sampler) == 7


@pytest.mark.parametrize(
    ("perturbation", "sound", "picture"),
    [
        ("none", 1, 1),
        ("silence", 0, 1),
        ("blank", 1, 0),
        ("question_only", 0, 0),
        ("swap", None, 1),
        ("swap_picture", 1, None),
    ],
)
def test_perturbations_take_away_what_they_say(perturbation, sound, picture):
    item = VideoQuestions(Stand(), perturbation=perturbation)[1]  # about the first video
    for name, expected in (("audio", sound), ("visual", picture)):
        values = item[name].unique().tolist()
        assert values == [expected] if expected is not None else values[0] in (2, 3)
    assert item["answer"] == 1


def test_the_table_of_perturbations_is_tested():
    rows = test_perturbations_take_away_what_they_say.pytestmark[0].args[1]
    assert {row[0] for row in rows} == set(PERTURBATIONS)


def test_silence_of_raw_sound_is_that_of_a_log_mel():
    assert VideoQuestions(Stand(raw=True), perturbation="silence")[0]["audio"].unique().tolist() == [
        pytest.approx(SILENCE_LOG_MEL)
    ]


def test_swapped_videos_are_never_the_own_one_and_depend_on_the_seed_alone():
    stand = Stand()
    for perturbation, name in (("swap", "audio"), ("swap_picture", "visual")):
        one, again = (VideoQuestions(stand, perturbation=perturbation, seed=1) for _ in range(2))
        for index, own in enumerate(stand.asked):
            assert one[index][name].flatten()[0] != own + 1
            assert torch.equal(one[index][name], again[index][name])


def test_the_cache_reads_each_video_once_for_all_questions_and_splits():
    first, second, cache = Stand(), Stand(), VideoCache()
    cache.fill(first)
    cache.fill(second)
    assert (first.reads, second.reads) == ([0, 1, 2], [])
    questions = VideoQuestions(second, cache=cache)
    assert [int(questions[i]["audio"][0, 0]) for i in range(5)] == [3, 1, 1, 2, 3]
    assert second.reads == []


def test_a_broken_video_is_told_when_it_is_asked_about():
    stand, cache = Stand(broken=1), VideoCache()
    cache.fill(stand)
    questions = VideoQuestions(stand, cache=cache)
    assert questions[0]["audio"].shape == (2, 4)
    with pytest.raises(DataError, match="video b: damaged"):
        questions[3]


def test_unknown_perturbations_are_refused():
    with pytest.raises(UsageError, match="sihlence"):
        VideoQuestions(Stand(), perturbation="sihlence")


def test_a_cache_that_cannot_fit_is_refused(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 10)  # a machine of 100 bytes
    with pytest.raises(UsageError, match="cache_in_memory"):
        VideoCache().fill(Stand())
