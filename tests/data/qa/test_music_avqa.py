"""MUSIC-AVQA as a data set: items, raw videos, subsets, splits by video (spec §3.1 to §3.3)."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from qa_toy import VIDEOS, make_root, make_video, rows_of, save_features, save_rows, version_2_rows

from crossmamba.data.logmel import SILENCE_LOG_MEL
from crossmamba.data.qa.music_avqa import MusicAVQADataset, rephrased_vocabulary
from crossmamba.data.qa.splits import split_of_video
from crossmamba.data.qa.vocabulary import WORDS, Vocabulary, encode_question
from crossmamba.errors import DataError, MediaError, UsageError

SMALL = {"audio": "small_sound", "visual": "small_picture"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("music"))


def test_an_item(root: Path) -> None:
    dataset = MusicAVQADataset(root, "val", **SMALL)
    assert len(dataset) == 33
    item = dataset[4]
    assert {name: (tuple(value.shape), value.dtype) for name, value in item.items()} == {
        "audio": ((10, 64), torch.float32),
        "visual": ((10, 2, 3, 64), torch.float32),
        "question": ((14,), torch.int64),
        "answer": ((), torch.int64),
        "index": ((), torch.int64),
        "video": ((), torch.int64),
    }
    assert item["audio"][:, 0].tolist() == list(range(0, 60, 6))
    assert item["visual"][:, 0, 0, 0].tolist() == list(range(0, 60, 6))
    row = dataset.rows[4]
    assert int(item["answer"]) == row.answer_index
    assert dataset.video_ids[int(item["video"])] == row.video_id
    assert int(item["index"]) == 4
    assert item["question"].tolist() == encode_question(row.words).tolist()
    assert torch.equal(dataset[-1]["question"], dataset[32]["question"])
    with pytest.raises(IndexError):
        dataset[33]
    assert len(list(dataset)) == 33


def test_the_cache_changes_nothing_and_survives_a_worker(root: Path) -> None:
    plain, cached = MusicAVQADataset(root, "val", **SMALL), MusicAVQADataset(root, "val", cache_in_memory=True, **SMALL)
    for dataset in (cached, cached, pickle.loads(pickle.dumps(cached))):
        for name, value in dataset[7].items():
            assert torch.equal(value, plain[7][name])
    assert cached.video(0)[0] is cached.video(0)[0]


def test_subsets_limits_and_splits_by_video(root: Path) -> None:
    real, synthetic = (MusicAVQADataset(root, "val", subset=name, **SMALL) for name in ("real", "synthetic"))
    assert len(real) + len(synthetic) == 33
    assert synthetic.video_ids == ["va00000003"]
    assert len(MusicAVQADataset(root, "val", questions=5, **SMALL)) == 5
    split = split_of_video(VIDEOS[0])
    dealt = MusicAVQADataset(root, split, by_video=True, **SMALL)
    assert VIDEOS[0] in dealt.video_ids
    assert len(dealt) == 3 * sum(row["video_id"] in dealt.video_ids for row in rows_of())
    empty = next(name for name in ("train", "val", "test") if name not in map(split_of_video, VIDEOS))
    with pytest.raises(DataError, match="has no question"):
        MusicAVQADataset(root, empty, by_video=True, **SMALL)  # type: ignore[arg-type]


def test_wrong_arguments(root: Path) -> None:
    with pytest.raises(UsageError, match=r"audio='clip_tokens'.*small_sound.*'log_mel'"):
        MusicAVQADataset(root, "val", audio="clip_tokens", visual="small_picture")
    with pytest.raises(UsageError, match="questions is 0"):
        MusicAVQADataset(root, "val", questions=0, **SMALL)
    with pytest.raises(UsageError, match="frames is 0"):
        MusicAVQADataset(root, "val", frames=0, **SMALL)
    with pytest.raises(DataError, match="61 frames are wanted"):
        MusicAVQADataset(root, "val", frames=61, **SMALL)[0]
    with pytest.raises(DataError, match="no folder of vggish"):
        MusicAVQADataset(root, "val")
    with pytest.raises(DataError, match="no folder of raw videos"):
        MusicAVQADataset(root, "val", audio="log_mel", visual="frames")


def test_missing_and_unequal_features_are_named(tmp_path: Path) -> None:
    make_root(tmp_path)
    save_features(tmp_path, "small_sound", VIDEOS[0], (59, 64))
    with pytest.raises(DataError, match=f"video {VIDEOS[0]}: 59 rows of small_sound .* 60 of small_picture"):
        MusicAVQADataset(tmp_path, "val", **SMALL)[0]
    (tmp_path / "small_picture" / f"{VIDEOS[1]}.npy").unlink()
    with pytest.raises(DataError, match=rf"1 files of videos are missing: .*{VIDEOS[1]}\.npy"):
        MusicAVQADataset(tmp_path, "val", **SMALL)


def test_question_features(tmp_path: Path) -> None:
    make_root(tmp_path)
    for row in rows_of(1):
        save_features(tmp_path, "clip_qst", str(row["question_id"]), (1, 512), seed=row["question_id"])
    dataset = MusicAVQADataset(tmp_path, "val", question="clip_question", **SMALL)
    number = dataset.rows[3].question_id
    assert np.array_equal(dataset[3]["question"].numpy(), np.load(tmp_path / "clip_qst" / f"{number}.npy")[0])
    (tmp_path / "clip_qst" / f"{number}.npy").unlink()
    with pytest.raises(DataError, match=f"question features are missing: .*{number}"):
        MusicAVQADataset(tmp_path, "val", question="clip_question", **SMALL)
    save_rows(tmp_path / "v2" / "avqa-test.json", version_2_rows()[:3])
    with pytest.raises(DataError, match="2 rows have no question id"):
        MusicAVQADataset(tmp_path, "test", version="v2", question="clip_question", **SMALL)


def test_words_outside_the_93_need_a_vocabulary(tmp_path: Path) -> None:
    make_root(tmp_path)
    row = {**rows_of()[0], "question_content": "Do you hear drums?", "templ_values": "[]"}
    save_rows(tmp_path / "r" / "avqa-test-headtail.json", [row])
    with pytest.raises(UsageError, match=r"row 1: the word 'Do' .* is not among the 92"):
        MusicAVQADataset(tmp_path, "test", version="r", **SMALL)
    own = Vocabulary.of([("Do", "you", "hear", "it")])
    item = MusicAVQADataset(tmp_path, "test", version="r", vocabulary=own, **SMALL)[0]
    assert item["question"].tolist() == own.encode("Do you hear drums").tolist()
    assert 1 in item["question"].tolist()  # <unknown>


def test_the_words_of_the_rephrasings_follow_the_93(tmp_path: Path) -> None:
    make_root(tmp_path)
    texts = ["Do you hear drums?", "Is the " + "very " * 15 + "loud drum heard?", "Do drums sound?"]
    rows = [{**rows_of()[0], "question_content": text, "templ_values": "[]"} for text in texts]
    save_rows(tmp_path / "r" / "avqa-test-headtail.json", rows)
    words = rephrased_vocabulary(tmp_path)
    assert words.words[:93] == WORDS
    others = {word for text in texts for word in text[:-1].split()} - set(WORDS)
    assert words.words[93:] == tuple(sorted(others))
    assert words.length == 20
    item = MusicAVQADataset(tmp_path, "test", version="r", vocabulary=words, **SMALL)[1]
    assert (item["question"] > 0).sum() == 20


def test_unanswered_questions(tmp_path: Path) -> None:
    make_root(tmp_path)
    rows = rows_of(2)
    del rows[0]["anser"]
    save_rows(tmp_path / "json_update" / "avqa-test.json", rows)
    with pytest.raises(DataError, match="anser"):
        MusicAVQADataset(tmp_path, "test", **SMALL)
    assert int(MusicAVQADataset(tmp_path, "test", require_answers=False, **SMALL)[0]["answer"]) == -1


@pytest.fixture(scope="module")
def raw_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    rows = rows_of()[:3]
    save_rows(root / "json_update" / "avqa-val.json", rows)
    for row in rows[:2]:
        make_video(root / "videos" / f"{row['video_id']}.mp4")
    make_video(root / "videos" / f"{rows[2]['video_id']}.mp4", sound=False)
    return root


def test_raw_videos(raw_root: Path) -> None:
    options = {"audio": "log_mel", "visual": "frames", "frames": 2, "image_size": 16}
    dataset = MusicAVQADataset(raw_root, "val", mean=(0, 0, 0), std=(1, 1, 1), **options)
    item = dataset[0]
    assert item["audio"].shape == (2, 1, 96, 64)
    assert item["visual"].shape == (2, 3, 16, 16)
    assert item["visual"].mean((1, 2, 3)).tolist() == pytest.approx([20 / 255, 60 / 255], abs=0.02)  # seconds 0 and 2
    loudness = item["audio"].amax((1, 2, 3))  # the tone of second 2 is three times as loud as that of second 0
    assert float(loudness[1] - loudness[0]) == pytest.approx(np.log(3), abs=0.1)
    normalised = MusicAVQADataset(raw_root, "val", **options)[0]["visual"]
    assert torch.allclose(normalised[:, 0] * 0.229 + 0.485, item["visual"][:, 0], atol=1e-5)


def test_a_video_without_sound(raw_root: Path) -> None:
    options = {"audio": "log_mel", "visual": "frames", "frames": 2, "image_size": 16}
    with pytest.raises(MediaError, match=rf"{VIDEOS[2]}.*no sound; silent='silence'"):
        MusicAVQADataset(raw_root, "val", **options)[2]
    quiet = MusicAVQADataset(raw_root, "val", silent="silence", **options)[2]["audio"]
    assert torch.equal(quiet, torch.full((2, 1, 96, 64), SILENCE_LOG_MEL))
    with pytest.raises(UsageError, match="silent"):
        MusicAVQADataset(raw_root, "val", silent="yes", **options)


def test_raw_and_stored_inputs_mix_if_seconds_agree(raw_root: Path) -> None:
    for video in VIDEOS:
        save_features(raw_root, "small_sound", video, (4, 64))
    options = {"audio": "small_sound", "visual": "frames", "image_size": 8}
    item = MusicAVQADataset(raw_root, "val", frames=4, **options)[2]
    assert item["audio"].shape == (4, 64)
    with pytest.raises(DataError, match="4 seconds cannot give 5 frames"):
        MusicAVQADataset(raw_root, "val", frames=5, **options)[2]
    save_features(raw_root, "small_sound", VIDEOS[0], (5, 64))
    with pytest.raises(DataError, match=r"5 rows of small_sound .* 4 seconds of raw video"):
        MusicAVQADataset(raw_root, "val", frames=2, **options)[0]


def test_corrupt_and_missing_videos(tmp_path: Path) -> None:
    save_rows(tmp_path / "json_update" / "avqa-val.json", rows_of()[:1])
    (tmp_path / "videos").mkdir()
    options = {"audio": "log_mel", "visual": "frames", "frames": 2}
    with pytest.raises(DataError, match=rf"missing: .*{VIDEOS[0]}\.mp4"):
        MusicAVQADataset(tmp_path, "val", **options)
    (tmp_path / "videos" / f"{VIDEOS[0]}.mp4").write_bytes(json.dumps("no video").encode())
    with pytest.raises(MediaError, match=VIDEOS[0]):
        MusicAVQADataset(tmp_path, "val", **options)[0]
