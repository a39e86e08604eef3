"""Questions about videos as training samples: each video read once, a modality taken away, a batch, an order.

Perturbations, for controls (what a model scores without one of its senses) and for trainings with one sense only:

| name | sound | picture |
|---|---|---|
| none | as it is | as it is |
| silence | digital silence: log(0.01) in a log-mel, zeros in stored features | as it is |
| blank | as it is | zeros: the mean colour in normalised frames, no feature in stored ones |
| question_only | as in silence | as in blank |
| swap | that of another video of the split | as it is |
| swap_picture | as it is | that of another video of the split |

Zeros in stored features are no feature of any real silence or black picture, and they are the same for all videos: a
model trained on them has truly one sense less. One that was not meets something new; `swap` does not have this flaw.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from crossmamba.data.logmel import SILENCE_LOG_MEL
from crossmamba.data.perturb import derangement
from crossmamba.errors import DataError, UsageError
from crossmamba.tasks.resume import derive_seed

Perturbation = Literal["none", "silence", "blank", "question_only", "swap", "swap_picture"]
PERTURBATIONS: tuple[Perturbation, ...] = get_args(Perturbation)


def check_perturbation(name: str) -> None:
    """Raises UsageError unless `name` is one of `PERTURBATIONS`."""
    if name not in PERTURBATIONS:
        raise UsageError(f"perturbation is {name!r}; allowed: {', '.join(PERTURBATIONS)}")


def collate_questions(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Questions to a batch in which every video stands once.

    Args:
        samples: B items of `VideoQuestions`.

    Returns:
        `audio` and `visual` (V, T, ...) of the different videos, in the order in which they come first; `video` int64
        (B,), each question's row of these; everything else stacked to (B, ...), texts as a list.
    """
    rows: dict[int, int] = {}
    first: list[int] = []
    for position, sample in enumerate(samples):
        if int(sample["video"]) not in rows:
            rows[int(sample["video"])] = len(rows)
            first.append(position)
    batch: dict[str, Any] = {
        "audio": torch.stack([samples[position]["audio"] for position in first]),
        "visual": torch.stack([samples[position]["visual"] for position in first]),
        "video": torch.tensor([rows[int(sample["video"])] for sample in samples]),
    }
    for key in samples[0].keys() - batch.keys():
        values = [sample[key] for sample in samples]
        batch[key] = torch.stack(values) if isinstance(values[0], Tensor) else values
    return batch


def grouped_order(videos: Sequence[int], questions_per_video: int, seed: int, epoch: int) -> list[int]:
    """An epoch's order in which questions about one video stand together.

    Every video's questions are shuffled and cut into groups; the groups are shuffled. A video may come again in another
    group; every question comes once.

    Args:
        videos: of each question.
        questions_per_video: size of a group; a video's last one may be smaller.
        seed, epoch: decide the order.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "grouped order", epoch))
    of_video: dict[int, list[int]] = {}
    for question in torch.randperm(len(videos), generator=generator).tolist():
        of_video.setdefault(videos[question], []).append(question)
    groups = [
        members[start : start + questions_per_video]
        for members in of_video.values()
        for start in range(0, len(members), questions_per_video)
    ]
    shuffled = torch.randperm(len(groups), generator=generator).tolist()
    return [question for group in shuffled for question in groups[group]]


class VideoCache:
    """Sound and picture of videos in memory, each read once whatever the number of questions, splits and epochs.

    It is filled before loader processes start, so they share it. A video that cannot be read is remembered with its
    error, which is raised when a question asks for it.
    """

    def __init__(self) -> None:
        self._videos: dict[str, tuple[Tensor, Tensor] | DataError] = {}

    def fill(self, dataset: Any, *, progress: bool = True) -> None:
        """Reads the videos of a data set that are not here yet.

        Raises:
            UsageError: they would not fit into the machine's memory.
        """
        missing = [number for number, name in enumerate(dataset.video_ids) if name not in self._videos]
        show = progress and len(missing) > 200
        for done, number in enumerate(
            tqdm(missing, desc="reading videos", unit="video", file=sys.stderr, disable=not show)
        ):
            try:
                self._videos[dataset.video_ids[number]] = both = dataset.video(number)
            except DataError as error:
                self._videos[dataset.video_ids[number]] = error
                continue
            if done == 0:
                _check_memory(len(missing), sum(part.nbytes for part in both))

    def get(self, name: str) -> tuple[Tensor, Tensor] | None:
        """(audio, visual) of a video id, None if it is not here."""
        found = self._videos.get(name)
        if isinstance(found, DataError):
            raise found
        return found


def _check_memory(videos: int, size: int) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if videos * size > 0.8 * total:
        raise UsageError(
            f"data.cache_in_memory needs {videos * size / 2**30:.1f} GiB for {videos} videos, and this machine has "
            f"{total / 2**30:.1f}; set it to false"
        )


class VideoQuestions:
    """Questions about videos, with the videos' inputs from a cache, and with a modality taken away or swapped.

    An item is the data set's (`MusicAVQADataset`) and `kind`, int64 (): the number of the question's type.

    Args:
        dataset: gives `question(i)`, `video(number)`, `video_ids` and `rows`.
        perturbation: see `PERTURBATIONS`.
        cache: of videos; None reads the disk each time.
        seed: of the swaps.

    Raises:
        UsageError: an unknown perturbation. DataError: a swap in a set of one video.
    """

    def __init__(
        self, dataset: Any, *, perturbation: Perturbation = "none", cache: VideoCache | None = None, seed: int = 0
    ) -> None:
        check_perturbation(perturbation)
        self.dataset, self.perturbation, self.cache = dataset, perturbation, cache
        swapped = perturbation in ("swap", "swap_picture")
        self._partner = derangement(range(len(dataset.video_ids)), seed) if swapped else []

    @property
    def rows(self) -> Sequence[Any]:
        """The annotation rows, one an item."""
        return self.dataset.rows

    def set_epoch(self, epoch: int) -> None:
        """Nothing here depends on the epoch."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset.question(index)
        audio, visual = self._inputs(int(item["video"]))
        return {**item, "audio": audio, "visual": visual, "kind": torch.tensor(self.rows[index].type_index)}

    def _inputs(self, number: int) -> tuple[Tensor, Tensor]:
        audio, visual = self._video(number)
        if self.perturbation in ("silence", "question_only"):
            audio = torch.full_like(audio, SILENCE_LOG_MEL if audio.dim() == 4 else 0.0)
        if self.perturbation in ("blank", "question_only"):
            visual = torch.zeros_like(visual)
        if self.perturbation == "swap":
            audio = self._video(self._partner[number])[0]
        if self.perturbation == "swap_picture":
            visual = self._video(self._partner[number])[1]
        return audio, visual

    def _video(self, number: int) -> tuple[Tensor, Tensor]:
        kept = self.cache.get(self.dataset.video_ids[number]) if self.cache is not None else None
        return self.dataset.video(number) if kept is None else kept
