"""Seconds of the synthetic concerts with their tags: what sounds, how loudly and how fast, what stands where.

Decoded once and kept in memory: a frame and a log-mel example for each second, made as `crossmamba data extract` makes
them, so that the encoders meet in training what they will meet later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crossmamba.data.qa.inputs import IMAGENET_MEAN, IMAGENET_STD
from crossmamba.data.qa.raw import read_log_mel, read_pictures, video_file, video_seconds
from crossmamba.data.qa.templates import INSTRUMENTS
from crossmamba.data.synth.music.instruments import SIZES
from crossmamba.data.synth.music.truth import ConcertTruth, read_truth
from crossmamba.errors import DataError, UsageError
from crossmamba.tasks.resume import ResumableDataModule, derive_seed

VOICES = tuple(f"{size} {name}" for name in INSTRUMENTS for size in SIZES)
"""What can sound or stand somewhere: the 22 instruments in two sizes."""
NOTHING = len(VOICES)
"""Class of a cell in which no instrument stands."""
STRIDE = 8
"""Pixels of a cell of `SmallPyramid`'s second level."""
MIDDLE = (0.04, 3.0)
"""Loudness (root mean square) and rhythm (strokes per second) whose levels are 0; twice as much is level 1."""
MEAN, STD = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
CHECKED = 10
"""Seconds of each video that validation looks at."""


class TaggingDataset:
    """Videos of one split as seconds with tags.

    Args:
        root: of a synthetic MUSIC-AVQA (`crossmamba data synth music-avqa`).
        split: "train" or "val".
        seconds: how many seconds of a video make an item, drawn anew each epoch; None for `CHECKED`, evenly spaced.
        size: side of the pictures in pixels.
        clips: use at most so many videos; None for all.
        flip: mirror half of the pictures.
        seed: of what is drawn: a function of (seed, epoch, index).

    Item (n seconds, g = size / 8, V voices): frames float32 (n, 3, size, size) with ImageNet's mean and deviation;
    log_mel float32 (n, 1, 96, 64); sounding float32 (n, V) in {0, 1}; levels float32 (n, V, 2), loudness and rhythm in
    doublings; cells int64 (n, g, g), which voice's instrument or `NOTHING`; room int64 (n,); index int64 ().
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        seconds: int | None = None,
        size: int = 64,
        clips: int | None = None,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        if size < 32 or size % STRIDE:
            raise UsageError(f"data.size is {size}; it must be a multiple of {STRIDE} pixels, at least 32")
        self.root, self.split, self.size = Path(root), split, size
        self.seconds, self.flip, self.seed, self.epoch = seconds, flip, seed, 0
        names = sorted(path.stem for path in (self.root / "scene_truth").glob("*.json"))
        if not names:
            raise DataError(f"{self.root}: no scene_truth/; tags need a set made by `crossmamba data synth music-avqa`")
        truths = (read_truth(self.root, name) for name in names)
        self.video_ids = [truth.video_id for truth in truths if truth.split == split][:clips]
        if not self.video_ids:
            raise DataError(f"{self.root}: the set has no video of the split {split!r}")
        self._kept: dict[int, dict[str, Tensor]] = {}

    def set_epoch(self, epoch: int) -> None:
        """Chooses what is drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.video_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Raises DataError for a video or truth that is missing or damaged."""
        if index not in self._kept:
            self._kept[index] = self._read(self.video_ids[index])
        kept, rng = self._kept[index], np.random.default_rng(derive_seed(self.seed, self.epoch, index))
        count = len(kept["frames"])
        if self.seconds is None:
            rows = np.linspace(0, count - 1, CHECKED).round().astype(int)
        else:
            rows = np.sort(rng.choice(count, self.seconds, replace=count < self.seconds))
        item = {name: value[rows] for name, value in kept.items()}
        item["frames"] = (item["frames"].float() / 255 - MEAN) / STD
        if self.flip and rng.random() < 0.5:
            item["frames"], item["cells"] = item["frames"].flip(-1), item["cells"].flip(-1)
        return {**item, "index": torch.tensor(index)}

    def _read(self, video_id: str) -> dict[str, Tensor]:
        path = video_file(self.root / "videos", video_id)
        if path is None:
            raise DataError(f"{self.root / 'videos'}: there is no video {video_id}")
        tags = tags_of(read_truth(self.root, video_id), self.size // STRIDE)
        count = min(video_seconds(path), len(tags["sounding"]))
        rows = np.arange(count)
        seconds = {"frames": read_pictures(path, rows, self.size), "log_mel": read_log_mel(path, count, rows)}
        return {**seconds, **{name: value[:count] for name, value in tags.items()}}


def tags_of(truth: ConcertTruth, cells: int) -> dict[str, Tensor]:
    """The tags of every second of a scene.

    Args:
        truth: of the scene. cells: g, of a picture's side.

    Returns: sounding, levels, cells and room as in an item of `TaggingDataset`, for all seconds.
    """
    seconds, stage = truth.concert.seconds, truth.concert.stage
    sounding, levels = torch.zeros(seconds, NOTHING), torch.zeros(seconds, NOTHING, 2)
    for voice in truth.concert.voices:
        number, span = voice_number(voice.kind, voice.size), slice(voice.start, voice.end)
        sounding[span, number] = 1
        levels[span, number] = torch.log2(torch.tensor([voice.loudness, voice.rhythm]) / torch.tensor(MIDDLE))
    places = torch.full((seconds, cells, cells), NOTHING)
    nearest = torch.full((seconds, cells, cells), torch.inf)
    middles = (torch.arange(cells) + 0.5) / cells
    for thing, entry in zip(stage.instruments, truth.record["instruments"], strict=True):
        centre = torch.tensor(entry["centre"])  # (T, 2), it sways a little
        away_x, away_y = (middles - centre[:, axis, None] for axis in (0, 1))  # (T, g)
        distance = torch.hypot(away_x[:, None, :], away_y[:, :, None])  # (T, g, g)
        mine = (distance <= max(thing.radius, 0.72 / cells)) & (distance < nearest)  # at least the cell of its centre
        places[mine], nearest[mine] = voice_number(thing.kind, thing.size), distance[mine]
    room = torch.full((seconds,), int(stage.room == "indoor"))
    return {"sounding": sounding, "levels": levels, "cells": places, "room": room}


def voice_number(kind: str, size: str) -> int:
    """Position in `VOICES`."""
    return 2 * INSTRUMENTS.index(kind) + SIZES.index(size)


class TaggingDataModule(ResumableDataModule):
    """Trains on the seconds of the train split's videos, chooses on those of val.

    Args:
        root: of a synthetic MUSIC-AVQA with its scene truth.
        batch_size: videos per step. seconds: drawn of each.
        size: side of the pictures, pixels.
        clips: use at most so many videos of each split; None for all.
        num_workers: loader processes; 0 keeps what was decoded.
        seed: of order and draws; the command sets it to `seed`.
    """

    def __init__(
        self,
        root: str,
        *,
        batch_size: int = 24,
        seconds: int = 2,
        size: int = 64,
        clips: int | None = None,
        num_workers: int = 0,
        seed: int = 123,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.root, self.seconds, self.size, self.clips = root, seconds, size, clips

    def train_dataset(self) -> TaggingDataset:
        return TaggingDataset(
            self.root, "train", seconds=self.seconds, size=self.size, clips=self.clips, flip=True, seed=self.seed
        )

    def val_dataset(self) -> TaggingDataset:
        return TaggingDataset(self.root, "val", size=self.size, clips=self.clips, seed=self.seed)

    def describe(self) -> str:
        """What the encoders are trained on."""
        return "tags of the synthetic world's scene truth (train split of the synthetic MUSIC-AVQA)"
