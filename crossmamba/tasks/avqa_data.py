"""MUSIC-AVQA (real or synthetic) and AVQA as a data module: which features, how batched, which modality taken away."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torchmetrics import Metric

from crossmamba.data.qa import templates
from crossmamba.data.qa.avqa import AVQADataset, ChoiceVocabulary
from crossmamba.data.qa.music_avqa import MusicAVQADataset, rephrased_vocabulary
from crossmamba.data.qa.vocabulary import WORDS, Vocabulary
from crossmamba.errors import UsageError
from crossmamba.metrics.avqa import AVQAMetric, ChoiceMetric
from crossmamba.tasks.avqa_questions import (
    Perturbation,
    VideoCache,
    VideoQuestions,
    check_perturbation,
    collate_questions,
    grouped_order,
)
from crossmamba.tasks.guards import SubstituteBadSamples
from crossmamba.tasks.resume import ResumableDataModule

SetName = Literal["music-avqa", "avqa"]
INPUTS = ("audio", "visual", "question", "frames", "image_size")
"""What a trained model's inputs must be like; stored in its card."""


def open_set(name: SetName, root: str | Path, split: str, **options: Any) -> Any:
    """A split of a data set by its name; options as its class has them.

    Raises:
        UsageError: an unknown name or option. DataError: it is not there or faulty.
    """
    sets: dict[str, Any] = {"music-avqa": MusicAVQADataset, "avqa": AVQADataset}
    if name not in sets:
        raise UsageError(f"there is no data set {name!r}; there are {', '.join(sets)}")
    return sets[name](root, split, **options)


def words_of(name: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """The options by which a data set reads words as a model with this card learned them; none for MUSIC-AVQA's 93
    words, which are fixed, and for question vectors."""
    if not card.get("vocabulary") or "question_length" not in card:
        return {}
    if name == "avqa":
        return {"vocabulary": ChoiceVocabulary.of_card(card)}
    return {"vocabulary": Vocabulary(card["vocabulary"], int(card["question_length"]))}


def metric_of(name: str) -> Metric:
    """The metric that counts a data set's right answers by the types of its questions."""
    return AVQAMetric() if name == "music-avqa" else ChoiceMetric()


class AVQADataModule(ResumableDataModule):
    """Trains on `train`, chooses the model on `val`.

    Args:
        root: the data set's folder, see `crossmamba.data.qa`.
        name: "music-avqa" (and its relatives, see `version`) or "avqa".
        audio, visual: kinds of stored features, or "log_mel" and "frames" of the raw videos; visual also "frame_files",
            JPEGs of one picture a second.
        question: "words", or a kind of stored question feature.
        frames: T, seconds that the model sees of a video.
        image_size: side of raw pictures, pixels.
        version: of MUSIC-AVQA's annotations: "json_update", "json", "v2" or "r".
        words: that a model of MUSIC-AVQA's questions knows: "templates" (the 93), or "rephrased", those of MUSIC-AVQA-R
            too, so that the model can be scored on `--version r`; see `music_avqa.rephrased_vocabulary`.
        subset: "real" or "synthetic" videos of MUSIC-AVQA only; "all".
        by_video: deal whole MUSIC-AVQA videos to the splits; the official split is by question.
        batch_size: questions per step, process and micro-batch.
        questions_per_video: 0 shuffles the questions; N puts up to N about the same video next to each other, whose
            sound and picture then go through the model once.
        num_workers: loader processes; the result does not depend on it. 0 suits `cache_in_memory`.
        cache_in_memory: read every video once, before training, and keep it.
        perturbation: of the inputs in training and validation: "silence" trains a model that hears nothing, "blank" one
            that sees nothing; see `crossmamba.tasks.avqa_questions`.
        questions: use at most so many questions of each split; None for all.
        select_on: split that chooses the best model. "test" gives optimistic scores.
        bad_sample_limit: share of unreadable training questions that is tolerated, see `BadSampleCount`.
        seed: of the order; the command sets it to `seed`.
    """

    collate = staticmethod(collate_questions)

    def __init__(
        self,
        root: str,
        *,
        name: SetName = "music-avqa",
        audio: str = "vggish",
        visual: str = "clip_tokens",
        question: str = "words",
        frames: int = 10,
        image_size: int = 224,
        version: Literal["json_update", "json", "v2", "r"] = "json_update",
        words: Literal["templates", "rephrased"] = "templates",
        subset: Literal["all", "real", "synthetic"] = "all",
        by_video: bool = False,
        batch_size: int = 64,
        questions_per_video: int = 0,
        num_workers: int = 2,
        cache_in_memory: bool = False,
        perturbation: Perturbation = "none",
        questions: int | None = None,
        select_on: Literal["val", "test"] = "val",
        bad_sample_limit: float = 0.001,
        seed: int = 123,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        check_perturbation(perturbation)
        if words == "rephrased" and (name != "music-avqa" or question != "words"):
            raise UsageError("data.words=rephrased is for MUSIC-AVQA's questions as words")
        if questions_per_video < 0:
            raise UsageError(f"data.questions_per_video is {questions_per_video}; it must be at least 0")
        self.root, self.name, self.perturbation = root, name, perturbation
        self.questions_per_video, self.select_on = questions_per_video, select_on
        self.bad_sample_limit = bad_sample_limit
        self.inputs = {
            "audio": audio,
            "visual": visual,
            "question": question,
            "frames": frames,
            "image_size": image_size,
        }
        self.variant: dict[str, Any] = {}
        if name == "music-avqa":
            self.variant = {"version": version, "subset": subset, "by_video": by_video}
        self.words = words
        self._limit = questions
        self._cache = VideoCache() if cache_in_memory else None

    @cached_property
    def _rephrased(self) -> Vocabulary | None:
        return rephrased_vocabulary(self.root) if self.words == "rephrased" else None

    def train_dataset(self) -> SubstituteBadSamples:
        if self.select_on == "test":
            warnings.warn(
                "data.select_on=test chooses the model by the test split: the test score of this run is optimistic",
                stacklevel=2,
            )
        return SubstituteBadSamples(self._open("train"), seed=self.seed)

    def val_dataset(self) -> VideoQuestions:
        return self._open(self.select_on)

    def _open(self, split: str) -> VideoQuestions:
        options = {"questions": self._limit, **self.inputs, **self.variant}
        if self._rephrased is not None:
            options["vocabulary"] = self._rephrased
        dataset = open_set(self.name, self.root, split, **options)
        if self._cache is not None:
            self._cache.fill(dataset)
        return VideoQuestions(dataset, perturbation=self.perturbation, cache=self._cache, seed=self.seed)

    def train_order(self, epoch: int) -> list[int] | None:
        if not self.questions_per_video:
            return None
        videos = [row.video_id for row in self.dataset("train").dataset.rows]
        return grouped_order(videos, self.questions_per_video, self.seed, epoch)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "data.questions_per_video": self.questions_per_video}

    def metric(self) -> Metric:
        """Counts right answers by the types of this data set's questions."""
        return metric_of(self.name)

    def describe(self) -> str:
        """What the model is trained on, for its card."""
        kind = "the synthetic world in the layout of " if (Path(self.root) / "scene_truth").is_dir() else ""
        return kind + {"music-avqa": "MUSIC-AVQA", "avqa": "AVQA"}[self.name]

    def facts(self) -> dict[str, Any]:
        """What else the card says of the data."""
        return {"data_set": self.name, **self.variant, "perturbation": self.perturbation}

    def preprocessing(self) -> dict[str, Any]:
        """What an input of the trained model must be like; stored in the model's card."""
        answers = list(templates.ANSWERS) if self.name == "music-avqa" else None
        card: dict[str, Any] = {**self.inputs, "answers": answers, "vocabulary": None}
        if self.inputs["question"] == "words":
            card["vocabulary"] = list(WORDS)
            if self._rephrased is not None:
                card |= {"vocabulary": list(self._rephrased.words), "question_length": self._rephrased.length}
            if self.name == "avqa":
                card |= self.dataset("val").dataset.vocabulary.describe()  # of the train file
        return card
