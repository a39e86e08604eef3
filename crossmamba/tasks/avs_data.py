"""AVSBench (real or synthetic) as a data module: which splits, how augmented, how loaded."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from crossmamba.data.augment import Augmentation
from crossmamba.data.avsbench.dataset import IMAGENET_MEAN, IMAGENET_STD, AudioSource, AVSBenchDataset
from crossmamba.data.logmel import Framing
from crossmamba.data.perturb import Perturbation
from crossmamba.tasks.guards import SubstituteBadSamples
from crossmamba.tasks.resume import ResumableDataModule


class AVSDataModule(ResumableDataModule):
    """Trains on `train`, chooses the model on `val`.

    Args:
        root: the folder that holds `Single-source/` or `Multi-sources/`, or that folder.
        subset: "s4" or "ms3".
        image_size: side S of the square frames, pixels. Results at different sizes are not comparable.
        batch_size: clips per step, process and micro-batch.
        num_workers: loader processes; the result does not depend on it. 0 suits `cache_in_memory`: workers start anew
            each epoch and would lose their cache.
        augment: of training clips; None for none.
        framing: of the sound: "published" (one VGGish example every 0.96 s) or "aligned" (one per second).
        audio: where the log-mel comes from: "pickle" (published files), "wav" (computed), "auto".
        seconds: T, frames per clip.
        cache_in_memory: keep decoded clips.
        perturbation: of the sound in training and validation; "silence" trains a model that hears nothing.
        clips: use at most so many clips of each split; None for all.
        select_on: split that chooses the best model. "test" is what the released AVS-Mamba code does: its scores are
            then optimistic, because the model was chosen by the data it is judged on.
        bad_sample_limit: share of unreadable training clips that is tolerated, see `BadSampleCount`.
        seed: of order and augmentation; the command sets it to `seed`.
    """

    def __init__(
        self,
        root: str,
        subset: Literal["s4", "ms3"],
        *,
        image_size: int = 224,
        batch_size: int = 2,
        num_workers: int = 2,
        augment: Augmentation | None = None,
        framing: Framing = "published",
        audio: AudioSource = "auto",
        seconds: int = 5,
        cache_in_memory: bool = False,
        perturbation: Perturbation = "none",
        clips: int | None = None,
        select_on: Literal["val", "test"] = "val",
        bad_sample_limit: float = 0.001,
        seed: int = 123,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.root, self.subset, self.image_size = root, subset, image_size
        self.augment, self.framing, self.seconds = augment, framing, seconds
        self.select_on, self.bad_sample_limit = select_on, bad_sample_limit
        self._options: dict[str, Any] = {
            "image_size": image_size,
            "framing": framing,
            "audio": audio,
            "seconds": seconds,
            "seed": seed,
            "cache_in_memory": cache_in_memory,
            "perturbation": perturbation,
            "clips": clips,
        }

    def train_dataset(self) -> SubstituteBadSamples:
        if self.select_on == "test":
            warnings.warn(
                "data.select_on=test chooses the model by the test split, as the released AVS-Mamba code does: "
                "the test score of this run is optimistic",
                stacklevel=2,
            )
        dataset = AVSBenchDataset(self.root, self.subset, "train", augment=self.augment, **self._options)
        return SubstituteBadSamples(dataset, seed=self.seed)

    def val_dataset(self) -> AVSBenchDataset:
        return AVSBenchDataset(self.root, self.subset, self.select_on, augment=None, **self._options)

    def describe(self) -> str:
        """What the model is trained on, for its card."""
        files = self.dataset("val").files
        kind = "the synthetic world in the layout of " if (files.data / "scene_truth").is_dir() else ""
        return f"{kind}AVSBench {self.subset.upper()}"

    def facts(self) -> dict[str, Any]:
        """What else the card says of the data."""
        return {"subset": self.subset}

    def preprocessing(self) -> dict[str, Any]:
        """What an input of the trained model must go through; stored in the model's card."""
        return {
            "image_size": self.image_size,
            "framing": self.framing,
            "seconds": self.seconds,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "threshold": 0.5,
        }
