"""AVQA: questions with four choices, features as .npy or .h5 (spec §3.2)."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from qa_toy import save_features, save_rows

from crossmamba.data.qa.avqa import AVQADataset, ChoiceVocabulary
from crossmamba.data.qa.avqa_rows import QUESTION_TYPES, read_choices
from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.avqa import AVQA_TYPES

SMALL = {"audio": "small_sound", "visual": "small_picture"}


def row(number: int, **change: Any) -> dict[str, Any]:
    return {
        "id": number,
        "video_name": f"-aB{number}_c_000030",
        "video_id": 100 + number,
        "question_text": "What's the dog doing?",
        "multi_choice": ["Barking", "Eating a bone", "Sleeping", "Running"],
        "answer": number % 4,
        "question_relation": "View",
        "question_type": QUESTION_TYPES[number % 8],
    } | change


def make_root(root: Path) -> Path:
    rows = [row(n) for n in range(8)]
    rows[5] |= {"multi_choice": ["Cat", None, "Dog"], "answer": 2}
    rows[6] |= {"multi_choice": ["Cat", "A zebra", "Dog", ""], "question_text": "Who barks", "answer": 0}
    save_rows(root / "train_qa.json", rows[:5])
    save_rows(root / "val_qa.json", rows[5:])
    for entry in rows:
        save_features(root, "small_sound", entry["video_name"], (10, 64))
        save_features(root, "small_picture", entry["video_name"], (10, 2, 2, 64))
    return root


def test_an_item(tmp_path: Path) -> None:
    train, val = (AVQADataset(make_root(tmp_path), split, **SMALL) for split in ("train", "val"))
    item = train[3]
    assert item["audio"].shape == (10, 64)
    assert item["visual"].shape == (10, 2, 2, 64)
    assert item["question"].shape == (4,)
    assert item["choices"].shape == (4, 3)
    assert (int(item["answer"]), train.rows[3].type_index) == (3, 3)
    vocabulary = train.vocabulary
    assert vocabulary is not None
    assert vocabulary.question.decode(item["question"]) == ["what's", "the", "dog", "doing"]
    assert vocabulary.choice.decode(item["choices"][1]) == ["eating", "a", "bone"]
    other = val[0]
    assert other["choices"].shape == (4, 3)  # the vocabulary is that of the train split
    assert val.rows[0].choices == ("Cat", "NULL", "Dog", "NULL")
    assert vocabulary.choice.decode(val[1]["choices"][1]) == ["a", "<unknown>"]


def test_the_vocabulary_is_saved_and_loaded(tmp_path: Path) -> None:
    made = ChoiceVocabulary.of(read_choices(make_root(tmp_path), "train"))
    made.save(tmp_path / "vocabulary.json")
    (tmp_path / "train_qa.json").unlink()
    val = AVQADataset(tmp_path, "val", **SMALL)
    assert val.vocabulary is not None
    assert val.vocabulary.question == made.question
    assert val.vocabulary.choice == made.choice
    (tmp_path / "vocabulary.json").write_text(json.dumps({"words": ["<pad>", "a"], "length": 3}))
    with pytest.raises(DataError, match="choice_length"):
        AVQADataset(tmp_path, "val", **SMALL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": 4}, "the answer is 4"),
        ({"answer": "Barking"}, "'Barking'"),
        ({"answer": 1, "multi_choice": ["a", None]}, "choice 1, which is missing"),
        ({"answer": 3, "multi_choice": None}, "choice 3, which is missing"),
        ({"multi_choice": ["a"] * 5}, "at most 4"),
        ({"multi_choice": [["a"]]}, "no text"),
        ({"question_type": "How"}, "known: Which"),
        ({"question_text": "??"}, "question_text"),
        ({"video_name": "../x"}, "plain path component"),
        ({"id": 0}, "already given in row 1"),
    ],
)
def test_faulty_rows_are_named(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    save_rows(tmp_path / "val_qa.json", [row(0), row(1, **change)])
    with pytest.raises(DataError, match=f"row 2: .*{said}|row 2.*{said}"):
        read_choices(tmp_path, "val")


def test_there_is_no_test_split(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no test split"):
        read_choices(make_root(tmp_path), "test")
    assert QUESTION_TYPES == AVQA_TYPES


def test_clip_features_of_questions_and_choices(tmp_path: Path) -> None:
    make_root(tmp_path)
    for number in range(5):
        save_features(tmp_path, "clip_qst", str(number), (1, 512), number)
        values = save_features(tmp_path, "clip_choices", str(number), (4, 512), number)
    item = AVQADataset(tmp_path, "train", question="clip_question", **SMALL)[4]
    assert item["question"].shape == (512,)
    assert np.array_equal(item["choices"].numpy(), values)
    with pytest.raises(UsageError, match="clip_words"):
        AVQADataset(tmp_path, "train", question="clip_words", **SMALL)


class FakeFile(dict):
    """What of h5py.File is used."""

    contents: dict[str, dict[str, np.ndarray]] = {}  # noqa: RUF012 - one for the whole module, as a disk is

    def __init__(self, path: Path, mode: str) -> None:
        if str(path) not in self.contents:
            raise OSError("no HDF5")
        super().__init__(self.contents[str(path)])

    def __enter__(self) -> FakeFile:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def test_h5_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ids = np.array([104, 103, 102, 101, 100])
    contents = {
        "audio.h5": {"vlaudio_features": rng.standard_normal((5, 2048), np.float32), "ids": ids},
        "visual.h5": {"resnet_features": rng.standard_normal((5, 8, 16, 2048), np.float32), "ids": ids},
    }
    make_root(tmp_path)
    for name in contents:
        (tmp_path / name).write_bytes(b"HDF5")
    monkeypatch.setattr(FakeFile, "contents", {str(tmp_path / name): value for name, value in contents.items()})
    fake = types.ModuleType("h5py")
    fake.File = FakeFile  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "h5py", fake)
    dataset = AVQADataset(tmp_path, "train", audio="h5_audio", visual="h5_appearance", frames=8)
    item = dataset[1]  # video_id 101: row 3 of the file
    assert torch.equal(item["audio"], torch.from_numpy(contents["audio.h5"]["vlaudio_features"][3]).expand(8, -1))
    mean = contents["visual.h5"]["resnet_features"][3].mean(axis=1)
    assert np.allclose(item["visual"].numpy(), mean)
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[1]["audio"], item["audio"])
    with pytest.raises(DataError, match=r"6 files of videos are missing: .*vlaudio_features"):
        AVQADataset(tmp_path, "val", audio="h5_audio", visual="h5_appearance", frames=8)
    with pytest.raises(DataError, match="'resnext_features' is needed for h5_motion; found: none"):
        AVQADataset(tmp_path, "train", audio="h5_audio", visual="h5_motion", frames=8)
    contents["audio.h5"]["ids"] = ids[:4]
    with pytest.raises(DataError, match=r"\(5, 2048\) for 4 ids"):
        AVQADataset(tmp_path, "train", audio="h5_audio", visual="h5_appearance", frames=8)


def test_h5_features_without_h5py(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match="install h5py"):
        AVQADataset(make_root(tmp_path), "train", audio="h5_audio", visual="small_picture")


def test_the_data_module_batches_choices(tmp_path: Path) -> None:
    from crossmamba.tasks.avqa_data import AVQADataModule

    data = AVQADataModule(str(make_root(tmp_path)), name="avqa", num_workers=0, batch_size=3, **SMALL)
    dataset = data.dataset("val")
    batch = data.collate([dataset[n] for n in (0, 1, 2)])
    assert batch["choices"].shape == (3, 4, 3)
    assert batch["answer"].tolist() == [2, 0, 3]
    assert batch["kind"].tolist() == [5, 6, 7]
    assert data.preprocessing()["vocabulary"][:2] == ["<pad>", "<unknown>"]
    metric = data.metric()
    metric.update(torch.tensor([2, 0, 1]), batch["answer"], batch["kind"], index=batch["index"])
    assert metric.table().correct[-1] == 2
