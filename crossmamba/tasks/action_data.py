"""EPIC-KITCHENS-100 (real or synthetic) as a data module: clips or stored tokens, which task, which questions.

    ROOT/questions/{predicted,oracle}/{train,validation,test}.jsonl      as `crossmamba questions make` writes them
    ROOT/tokens_{encoder}/, ROOT/tokens_{encoder}_anticipation/          as `crossmamba data extract epic100` does
    ROOT/{rgb,flow,obj}/data.mdb                                         RULSTM's frame features (`epic.rulstm`)

Questions of "generic" need no file. The source of a file is checked against the one that is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from crossmamba.data.epic.annotations import EpicRow, read_rows
from crossmamba.data.epic.classes import EpicClasses, read_epic_classes
from crossmamba.data.epic.crops import HALF, ClipTransform
from crossmamba.data.epic.dataset import SPLIT_FILES, EpicDataset, split_file
from crossmamba.data.epic.randaug import RandAugment
from crossmamba.data.epic.sampling import WINDOW, Mode
from crossmamba.errors import DataError, UsageError
from crossmamba.questions.records import QuestionSource, check_source, encode_questions, read_questions
from crossmamba.questions.templates import word_tokenizer
from crossmamba.questions.tokens import ROBERTA, Tokenizer, WordTokenizer, roberta_tokenizer
from crossmamba.tasks.action_pairs import actions_of
from crossmamba.tasks.guards import SubstituteBadSamples
from crossmamba.tasks.resume import ResumableDataModule

Text = Literal["words", "roberta"]
CLIPS, NOTHING = "clips", "none"
INPUTS = ("video", "frames", "mode", "image_size", "mean", "std", "observed")
"""What a trained model's clips must be like; stored in its card."""


def rows_of(root: str | Path, split: str, classes: EpicClasses) -> list[EpicRow]:
    """The rows of a split. Of a synthetic set's test split with its hidden labels (ROOT/truth/EPIC_100_test.csv)."""
    hidden = Path(root) / "truth" / "EPIC_100_test.csv"
    file = hidden if split == "test" and hidden.is_file() else split_file(root, split)
    return read_rows(file, verbs=len(classes.verbs), nouns=len(classes.nouns))


def full_name(split: str) -> str:
    """ "val" -> "validation". UsageError for an unknown split."""
    name = "validation" if split == "val" else split
    if name not in SPLIT_FILES:
        raise UsageError(f"split is {split!r}; one of {', '.join(SPLIT_FILES)}")
    return name


def tokenizer_of(text: str, classes: EpicClasses, source: str = ROBERTA) -> Tokenizer:
    """The word tokenizer of the class tables, or RoBERTa's from a folder or the Hub. UsageError for another text."""
    if text == "words":
        return word_tokenizer(classes.verbs, classes.nouns)
    if text != "roberta":
        raise UsageError(f"text is {text!r}; one of words, roberta")
    return roberta_tokenizer(source)


def question_tokens(
    rows: Sequence[EpicRow], source: str, folder: str | Path, split: str, tokenizer: Tokenizer
) -> tuple[Tensor, Tensor] | None:
    """Token numbers of both questions of every row, int64 (rows, L) each; None for "none".

    Raises:
        DataError: no file, rows without a question, or a file of another source.
    """
    if check_source(source) == "none":
        return None
    names = [row.narration_id for row in rows]
    if source == "generic":
        return encode_questions(names, None, tokenizer)
    file = Path(folder) / source / f"{full_name(split)}.jsonl"
    questions = read_questions(file)
    held = next(iter(questions.values())).question_source
    if held != source:
        raise DataError(f"{file}: holds questions of the source {held!r}, and {source!r} is asked for")
    return encode_questions(names, questions, tokenizer)


class QuestionsAlone(Dataset[dict[str, Any]]):
    """Segments without their video: `verb_question`, `noun_question`, `verb`, `noun`, `index`, as `EpicDataset`."""

    def __init__(self, rows: Sequence[EpicRow], questions: tuple[Tensor, Tensor]) -> None:
        self.rows, self.questions = list(rows), questions

    def set_epoch(self, epoch: int) -> None:
        """Nothing here depends on the epoch."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, (verb, noun) = self.rows[index], self.questions
        return {
            "verb_question": verb[index].clone(),
            "noun_question": noun[index].clone(),
            "verb": torch.tensor(-1 if row.verb_class is None else row.verb_class),
            "noun": torch.tensor(-1 if row.noun_class is None else row.noun_class),
            "index": torch.tensor(index),
        }


def open_segments(
    root: str | Path,
    split: str,
    rows: Sequence[EpicRow],
    questions: tuple[Tensor, Tensor] | None,
    *,
    task: str,
    video: str,
    media: str | Path | None,
    transform: ClipTransform | None = None,
    **options: Any,
) -> EpicDataset | QuestionsAlone:
    """A split as a data set.

    Args:
        video: "clips", "none" (questions alone), or the folder of stored tokens below `media`.
        media: where pictures or tokens are; None is `root`.
        transform, options: of `EpicDataset`.

    Raises:
        UsageError: neither video nor questions. DataError: see `EpicDataset`.
    """
    if video == NOTHING:
        if questions is None:
            raise UsageError("data.video is none and data.question_source is none: nothing is left to read")
        return QuestionsAlone(rows, questions)
    folder = Path(root if media is None else media)
    stored: dict[str, Any] = {"layout": "features"} if video != CLIPS else {}
    dataset = EpicDataset(
        root,
        full_name(split),  # type: ignore[arg-type]
        task=task,  # type: ignore[arg-type]
        media=folder if video == CLIPS else folder / video,
        transform=transform,
        rows=rows,
        questions=questions,
        **{**options, **stored},
    )
    return dataset


class ActionDataModule(ResumableDataModule):
    """Trains on `train`, chooses the model on `validation`.

    Args:
        root: the data set's folder (class tables and annotations).
        task: "recognition", or "anticipation": the time before start - 1 s is seen, and nothing later.
        video: "clips" (pictures), the folder of stored tokens below `media` such as `tokens_avion_b`, RULSTM's stores
            such as `rgb` or `rgb+flow+obj` (widths 1,024, 1,024 and 352; model.model_args.video_dim is their sum), or
            "none": questions alone.
        media: where pictures or tokens are; default: `root`.
        layout: of the pictures, see `EpicDataset`.
        frames, mode: pictures of a clip, and "dense" (2.13 s of it) or "uniform" (the whole segment).
        observed: seconds that anticipation sees.
        image_size, mean, std: side of the square; standardisation of pixels in [0, 1], which has to be the encoder's.
        jitter: smallest and largest shorter side in training; mirror: probability; randaug: random picture operations.
        question_source: "none", "generic", "predicted" or "oracle"; printed in every report.
        select_question_source: of the validation questions; default: the same.
        questions: folder of the question files, default: ROOT/questions.
        text: "words" (the small models' own vocabulary) or "roberta". tokenizer: of "roberta", a folder or a name.
        batch_size: clips per step, process and micro-batch.
        num_workers: loader processes; the result does not depend on it.
        cache_in_memory: keep stored tokens; every loader process keeps its own, so with num_workers 0.
        index_folder: where places in tars are kept.
        segments: use at most so many of each split; None for all.
        select_on: split that chooses the best model.
        bad_sample_limit: share of unreadable training segments that is tolerated, see `BadSampleCount`.
        seed: of order and augmentation; the command sets it to `seed`.
    """

    def __init__(
        self,
        root: str,
        *,
        task: Literal["recognition", "anticipation"] = "recognition",
        video: str = CLIPS,
        media: str | None = None,
        layout: Literal["auto", "frames", "videos", "chunks", "clips"] = "auto",
        frames: int = 16,
        mode: Mode = "dense",
        observed: float = WINDOW,
        image_size: int = 224,
        mean: tuple[float, float, float] = HALF,
        std: tuple[float, float, float] = HALF,
        jitter: tuple[int, int] | None = None,
        mirror: float = 0.5,
        randaug: bool = False,
        question_source: QuestionSource = "none",
        select_question_source: QuestionSource | None = None,
        questions: str | None = None,
        text: Text = "words",
        tokenizer: str = ROBERTA,
        batch_size: int = 16,
        num_workers: int = 2,
        cache_in_memory: bool = False,
        index_folder: str | None = None,
        segments: int | None = None,
        select_on: Literal["val"] = "val",
        bad_sample_limit: float = 0.001,
        seed: int = 123,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        self.root, self.task, self.video, self.media = root, task, video, media
        self.frames, self.mode, self.observed, self.image_size = frames, mode, observed, image_size
        self.mean, self.std = tuple(mean), tuple(std)
        self.transform = ClipTransform(
            image_size,
            jitter=jitter,
            mirror=mirror,
            mean=self.mean,
            std=self.std,
            randaug=RandAugment() if randaug else None,
        )
        self.question_source = question_source
        self.sources = {"train": question_source, "validation": select_question_source or question_source}
        if (self.sources["train"] == "none") is not (self.sources["validation"] == "none"):
            raise UsageError("data.select_question_source: a model that is trained with questions is chosen with them")
        self.questions_folder = Path(questions) if questions is not None else Path(root) / "questions"
        self.text, self.tokenizer_source = text, tokenizer
        self.select_on, self.bad_sample_limit = select_on, bad_sample_limit
        self.options = {"layout": layout, "index_folder": index_folder, "cache_in_memory": cache_in_memory}
        self.segments = segments
        self._classes: EpicClasses | None = None
        self._tokenizer: Tokenizer | None = None

    @property
    def classes(self) -> EpicClasses:
        """The class tables."""
        if self._classes is None:
            self._classes = read_epic_classes(self.root)
        return self._classes

    @property
    def vocabulary_size(self) -> int | None:
        """Token numbers of the questions; None without any."""
        return None if self._tokenizer is None else self._tokenizer.size

    @functools.cached_property
    def train_actions(self) -> list[tuple[int, int]]:
        """(verb, noun) of the train rows, each once, in ascending order: what a head over actions learns."""
        return actions_of(rows_of(self.root, "train", self.classes)[: self.segments])

    def train_dataset(self) -> SubstituteBadSamples:
        return SubstituteBadSamples(self._open("train"), seed=self.seed)

    def val_dataset(self) -> EpicDataset | QuestionsAlone:
        return self._open("validation")

    def _open(self, split: str) -> EpicDataset | QuestionsAlone:
        rows = rows_of(self.root, split, self.classes)[: self.segments]
        source = self.sources[split]
        questions = None
        if source != "none":
            self._tokenizer = self._tokenizer or tokenizer_of(self.text, self.classes, self.tokenizer_source)
            questions = question_tokens(rows, source, self.questions_folder, split, self._tokenizer)
        return open_segments(
            self.root,
            split,
            rows,
            questions,
            task=self.task,
            video=self.video,
            media=self.media,
            transform=self.transform,
            frames=self.frames,
            mode=self.mode,
            observed=self.observed,
            train=split == "train",
            seed=self.seed,
            **self.options,
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "data.task": self.task, "data.question_source": self.question_source}

    def describe(self) -> str:
        """What the model is trained on, for its card."""
        kind = "the synthetic kitchen in the layout of " if (Path(self.root) / "world.json").is_file() else ""
        return kind + "EPIC-KITCHENS-100"

    def facts(self) -> dict[str, Any]:
        """What else the card says of the data."""
        return {
            "data_set": "epic100",
            "epic_task": self.task,
            "question_source": self.question_source,
            "select_question_source": self.sources["validation"],
        }

    def preprocessing(self) -> dict[str, Any]:
        """What an input of the trained model must be like; stored in the model's card."""
        words = list(self._tokenizer.words) if isinstance(self._tokenizer, WordTokenizer) else None
        return {
            **{name: getattr(self, name) for name in INPUTS},
            "text": self.text if self._tokenizer is not None else None,
            "tokenizer": self.tokenizer_source if self.text == "roberta" else None,
            "vocabulary": words,
            "verbs": list(self.classes.verbs.keys),
            "nouns": list(self.classes.nouns.keys),
        }
