"""AVQA as a PyTorch data set: questions with four choices about ten-second clips (spec §3.2).

root/{train,val}_qa.json               questions, see `avqa_rows`
root/videos/<video_name>.mp4           raw videos, if they are the input
root/vggish/<video_name>.npy, ...      stored features, see `features`
root/*.h5, root/*/*.h5                 the published features, see `h5` (needs h5py)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from crossmamba.data.qa.avqa_rows import ChoiceRow, choice_words, read_choices
from crossmamba.data.qa.base import QuestionDataset, question_store
from crossmamba.data.qa.h5 import H5_FEATURES, H5Store
from crossmamba.data.qa.inputs import VideoInputs
from crossmamba.data.qa.vocabulary import Vocabulary
from crossmamba.errors import DataError, UsageError

__all__ = ["AVQADataset", "ChoiceVocabulary"]


class ChoiceVocabulary:
    """Words of questions and choices of the train split, with "<unknown>" for all others.

    Args:
        question: words, and the length of a question.
        choice_length: of a choice.
    """

    def __init__(self, question: Vocabulary, choice_length: int) -> None:
        self.question = question
        self.choice = Vocabulary(question.words, choice_length)

    def __len__(self) -> int:
        return len(self.question)

    @classmethod
    def of(cls, rows: Iterable[ChoiceRow]) -> ChoiceVocabulary:
        """The words of these rows; lengths are those of the longest question and choice."""
        rows = list(rows)
        choices = [choice_words(choice) for row in rows for choice in row.choices]
        length = max(len(row.words) for row in rows)
        words = Vocabulary.of([*(row.words for row in rows), *choices], length=length)
        return cls(words, max(1, *(len(words) for words in choices)))

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> ChoiceVocabulary:
        """What `describe` gave."""
        return cls(Vocabulary(card["vocabulary"], int(card["question_length"])), int(card["choice_length"]))

    def describe(self) -> dict[str, Any]:
        """For a model's card: `vocabulary`, `question_length`, `choice_length`."""
        return {
            "vocabulary": list(self.question.words),
            "question_length": self.question.length,
            "choice_length": self.choice.length,
        }

    def save(self, path: str | Path) -> None:
        """Writes words and lengths as JSON, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "length": self.question.length,
            "choice_length": self.choice.length,
            "words": list(self.question.words),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> ChoiceVocabulary:
        """Reads what `save` wrote.

        Raises:
            DataError: missing, or no such file.
        """
        words = Vocabulary.load(path)
        try:
            length = json.loads(Path(path).read_text(encoding="utf-8"))["choice_length"]
            return cls(words, int(length))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: there is no usable `choice_length` in it") from error


class AVQADataset(QuestionDataset):
    """One split; item i is question i, in the file's order.

    An item is a dict as `music_avqa.MusicAVQADataset` gives it, with
      * `question` int64 (L,) word numbers, or float32 (512,) CLIP features
      * `choices` int64 (4, Lc) word numbers, or float32 (4, 512) CLIP features
      * `answer` int64 (), 0 to 3, -1 if not known

    Args:
        root: the set's folder.
        split: "train" or "val"; there is no test split.
        audio, visual: kinds of features, "log_mel" and "frames" for raw videos, or "h5_audio", "h5_appearance",
            "h5_motion" for the published .h5 files (then `frames` is at most 8).
        question: "words", or "clip_question" (then the choices are "clip_choices").
        frames: T; the clips have ten seconds.
        vocabulary: None makes it from the train split, or reads `root/vocabulary.json` if that is there.
        require_answers, questions, cache_in_memory: as for MUSIC-AVQA.
        options: further ones of `inputs.VideoInputs`.

    Attributes:
        rows: `avqa_rows.ChoiceRow`, one an item.
        vocabulary: what encoded the words; None for CLIP features.

    Raises:
        UsageError, DataError: as for MUSIC-AVQA; also .h5 features without h5py.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val"],
        *,
        audio: str = "vggish",
        visual: str = "clip_tokens",
        question: str = "words",
        frames: int = 10,
        vocabulary: ChoiceVocabulary | None = None,
        require_answers: bool = True,
        questions: int | None = None,
        cache_in_memory: bool = False,
        **options: Any,
    ) -> None:
        if questions is not None and questions < 1:
            raise UsageError(f"questions is {questions}; give at least 1, or None for all")
        if question not in ("words", "clip_question"):
            raise UsageError(f"question is {question!r}; AVQA has 'words' and 'clip_question'")
        self.root, self.split, self.frames = Path(root), split, frames
        rows = read_choices(root, split, require_answers=require_answers)[:questions]
        stores = {name: _h5(root, name, rows) for name in (audio, visual) if name in H5_FEATURES}
        inputs = VideoInputs(root, audio, visual, frames=frames, stores=stores, **options)
        super().__init__(rows, inputs, cache_in_memory)
        self.vocabulary: ChoiceVocabulary | None = None
        if question == "words":
            self.vocabulary = self._words_of(vocabulary)
        else:
            self.question_features = question_store(root, question, "question", rows)
            self.choice_features = question_store(root, "clip_choices", "choices", rows)

    def _words_of(self, given: ChoiceVocabulary | None) -> ChoiceVocabulary:
        if given is not None:
            return given
        stored = self.root / "vocabulary.json"
        if stored.is_file():
            return ChoiceVocabulary.load(stored)
        return ChoiceVocabulary.of(read_choices(self.root, "train"))

    def texts(self, index: int) -> dict[str, Tensor]:
        """`question` and `choices` of item `index`."""
        row = self.rows[index]
        if self.vocabulary is None:
            return {
                "question": torch.from_numpy(self.question_features.load(row.question_id)),
                "choices": torch.from_numpy(self.choice_features.load(row.question_id)),
            }
        words = [self._choice(choice) for choice in row.choices]
        return {
            "question": torch.from_numpy(self.vocabulary.question.encode(row.words, cut=True)),
            "choices": torch.from_numpy(np.stack(words)),
        }

    def _choice(self, text: str) -> np.ndarray:
        assert self.vocabulary is not None
        return self.vocabulary.choice.encode(choice_words(text) or ("NULL",), cut=True)


def _h5(root: str | Path, name: str, rows: list[ChoiceRow]) -> H5Store:
    nameless = [str(row.row) for row in rows if row.feature_row is None]
    if nameless:
        raise DataError(
            f"{root}: {len(nameless)} rows have no video_id for .h5 features: rows {', '.join(nameless[:10])}"
        )
    return H5Store(root, name, {row.video_id: row.feature_row or 0 for row in rows})
