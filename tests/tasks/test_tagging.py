"""Tags of the synthetic concerts are those of the scene truth; the encoders trained on them are what extract reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crossmamba.cli import main
from crossmamba.data.synth.music import read_truth, synthesize_music_avqa
from crossmamba.encoders import build_sound_encoder, load_encoder_weights
from crossmamba.errors import DataError, UsageError
from crossmamba.extract.run import extract_features, find_videos
from crossmamba.tasks.tagging import TaggingTask, count_right, rates
from crossmamba.tasks.tagging_data import CHECKED, MIDDLE, NOTHING, VOICES, TaggingDataset, tags_of, voice_number

TINY = (
    *("--data.size", "32", "--data.batch_size", "2", "--data.seconds", "2", "--run.log_every", "1"),
    *("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"),
    *("--trainer.enable_progress_bar", "false"),
)


@pytest.fixture(scope="module")
def concerts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("concerts") / "set"
    counts = {"train": 4, "val": 2, "test": 0}
    return synthesize_music_avqa(folder, videos=counts, size=32, questions_per_video=2, workers=1, progress=False)


@pytest.fixture(scope="module")
def run(concerts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training of two epochs."""
    run = tmp_path_factory.mktemp("run") / "tags"
    config = ["--config", "avqa/demo_features", "--data.root", str(concerts), "--run.dir", str(run)]
    assert main(["train", *config, *TINY]) == 0
    return run


def test_the_tags_are_the_scenes(concerts: Path) -> None:
    for video_id in TaggingDataset(concerts, "train", size=32).video_ids:
        truth = read_truth(concerts, video_id)
        tags = tags_of(truth, 8)
        for second in range(truth.concert.seconds):
            sounding = {VOICES[number] for number in tags["sounding"][second].nonzero().flatten().tolist()}
            voices = [voice for voice in truth.concert.voices if voice.start <= second < voice.end]
            assert sounding == {f"{voice.size} {voice.kind}" for voice in voices}
            for voice in voices:
                level = tags["levels"][second, voice_number(voice.kind, voice.size)]
                assert (2**level * torch.tensor(MIDDLE)).tolist() == pytest.approx([voice.loudness, voice.rhythm], 1e-4)
            standing = {VOICES[number] for number in tags["cells"][second].unique().tolist() if number != NOTHING}
            assert standing == {f"{thing.size} {thing.kind}" for thing in truth.concert.stage.instruments}
        for thing, entry in zip(truth.concert.stage.instruments, truth.record["instruments"], strict=True):
            x, y = entry["centre"][0]
            assert tags["cells"][0, int(y * 8), int(x * 8)] == voice_number(thing.kind, thing.size)
        assert set(tags["room"].tolist()) == {int(truth.concert.stage.room == "indoor")}


def test_items_are_drawn_by_seed_and_epoch_and_mirrored_with_their_tags(concerts: Path) -> None:
    dataset = TaggingDataset(concerts, "train", size=32, seconds=3, flip=True, seed=5)
    first = dataset[1]
    assert first["frames"].shape == (3, 3, 32, 32)
    assert first["log_mel"].shape == (3, 1, 96, 64)
    assert first["sounding"].shape == (3, len(VOICES))
    assert first["cells"].shape == (3, 4, 4)
    again = TaggingDataset(concerts, "train", size=32, seconds=3, flip=True, seed=5)[1]
    assert all(torch.equal(first[name], again[name]) for name in first)
    plain = TaggingDataset(concerts, "train", size=32, seconds=3, seed=5)
    mirrored = 0
    for epoch in range(8):
        dataset.set_epoch(epoch)
        plain.set_epoch(epoch)
        one, other = dataset[1], plain[1]
        assert torch.equal(one["log_mel"], other["log_mel"]), "the same seconds are drawn"
        if not torch.equal(one["frames"], other["frames"]):
            mirrored += 1
            assert torch.equal(one["frames"].flip(-1), other["frames"])
            assert torch.equal(one["cells"].flip(-1), other["cells"])
    assert 0 < mirrored < 8
    assert TaggingDataset(concerts, "val", size=32)[0]["frames"].shape[0] == CHECKED


def test_the_splits_share_no_video(concerts: Path) -> None:
    train, val = (TaggingDataset(concerts, split, size=32).video_ids for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert not set(train) & set(val)


def test_wrong_sets_and_sizes_are_refused(concerts: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="multiple of 8"):
        TaggingDataset(concerts, "train", size=60)
    with pytest.raises(DataError, match="scene_truth"):
        TaggingDataset(tmp_path, "train")
    with pytest.raises(DataError, match="'test'"):
        TaggingDataset(concerts, "test", size=32)


def test_perfect_tags_score_one_and_wrong_ones_less(concerts: Path) -> None:
    dataset = TaggingDataset(concerts, "val", size=32)
    batch = torch.utils.data.default_collate([dataset[0], dataset[1]])
    true = {name: batch[name].flatten(0, 1) for name in ("sounding", "levels", "cells", "room")}
    said = {
        "sounding": true["sounding"] * 8 - 4,
        "levels": true["levels"] + 0.3,
        "cells": 9.0 * torch.nn.functional.one_hot(true["cells"], NOTHING + 1),
        "room": 9.0 * torch.nn.functional.one_hot(true["room"], 2),
    }
    assert {float(value) for value in rates(count_right(said, batch)).values()} == {1.0}
    task = TaggingTask()
    assert sum(task.losses(said, batch).values()) < 0.5
    blind = rates(count_right({**said, "cells": -said["cells"], "sounding": -said["sounding"]}, batch))
    assert blind["cells"] < 0.1
    assert blind["sounding"] == 0
    assert blind["seconds"] == 0
    assert blind["room"] == 1
    far = rates(count_right({**said, "levels": true["levels"] + 0.7}, batch))
    assert far["loudness"] == far["rhythm"] == 0


def test_a_training_leaves_encoders_that_extract_reads(run: Path, concerts: Path, tmp_path: Path) -> None:
    card = json.loads((run / "model" / "tags.json").read_text())
    assert "synthetic" in card["trained_on"]
    assert {"tags", "sounding", "cells", "room"} <= set(card["scores"])
    weights = {name: str(run) for name in ("small_sound", "small_picture")}
    video = find_videos(concerts / "videos")[:1]
    extract_features(list(weights), tmp_path, videos=video, weights=weights, small_size=32)
    sound = np.load(tmp_path / "small_sound" / f"{video[0].stem}.npy")
    picture = np.load(tmp_path / "small_picture" / f"{video[0].stem}.npy")
    assert (sound.shape, picture.shape) == ((10, 64), (10, 4, 4, 64))
    encoder = build_sound_encoder("small_sound", dim=64, levels=True)
    load_encoder_weights(encoder, run / "model" / "small_sound.safetensors")
    dataset = TaggingDataset(concerts, "train", size=32)
    item = dataset[dataset.video_ids.index(video[0].stem)]  # all ten seconds: what training hears, extract hears
    with torch.no_grad():
        np.testing.assert_allclose(encoder(item["log_mel"]).numpy(), sound, atol=1e-4)
