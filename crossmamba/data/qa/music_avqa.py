"""MUSIC-AVQA as a PyTorch data set: one item a question (spec §3.1 to §3.3).

    root/json_update/avqa-{train,val,test}.json     questions, see `annotations`
    root/videos/<video_id>.mp4                      raw videos, if they are the input
    root/vggish/<video_id>.npy, ...                 stored features, see `features`

The synthetic world writes the same layout. Facts on answers, words and templates: `templates`, `vocabulary`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from crossmamba.data.qa.annotations import (
    SPLITS,
    Duplicates,
    QuestionRow,
    Subset,
    Version,
    in_subset,
    read_questions,
)
from crossmamba.data.qa.base import QuestionDataset, question_store
from crossmamba.data.qa.inputs import VideoInputs
from crossmamba.data.qa.splits import split_by_video
from crossmamba.data.qa.vocabulary import MUSIC_AVQA, QUESTION_LENGTH, WORDS, Vocabulary
from crossmamba.errors import DataError, UsageError

__all__ = ["MusicAVQADataset"]


class MusicAVQADataset(QuestionDataset):
    """One split; item i is question i, in the file's order (or its subset's).

    An item is a dict:
      * `audio` float32 (T, 128) or (T, 64) stored features, or (T, 1, 96, 64) log-mel of the raw video
      * `visual` float32 (T, h, w, C) for grids and tokens, (T, C) for one vector a frame, (T, 3, S, S) raw pictures
      * `question` int64 (14,) word numbers padded with 0, or float32 (512,) or (77, 512) CLIP features
      * `answer` int64 (), position in `templates.ANSWERS`, -1 if not known
      * `index` int64 (), position in `rows`; `video` int64 (), position in `video_ids`
    Sound and pictures are of the same T seconds, chosen by `features.frame_rows`. Ids, types and texts: `rows[index]`.

    Args:
        root: the set's folder.
        split: "train", "val" or "test".
        audio, visual: kinds of features, "log_mel" and "frames" for raw videos; see `inputs.VideoInputs`.
        question: "words", or a kind of question feature ("clip_question", "clip_words").
        frames: T, at most 60.
        version, duplicates: of the annotations, see `annotations.read_questions`.
        subset: "real" or "synthetic" videos only; "all".
        by_video: deal whole videos to the splits (`splits.split_by_video`) instead of the official split by question;
            all three annotation files must be there.
        vocabulary: for questions with words outside the 93 (MUSIC-AVQA-R), see `rephrased_vocabulary`.
        require_answers: refuse questions without an answer.
        questions: at most so many, the first; None for all.
        cache_in_memory: keep what was read of each video. Ten seconds of small features take 0.2 MB, of 14 x 14 grids
            4 MB. Every loader worker fills a copy of its own.
        options: further ones of `inputs.VideoInputs`: image_size, mean, std, silent, audio_folder, ...

    Attributes:
        rows: `annotations.QuestionRow`, one an item.
        video_ids: the videos, each once, sorted.

    Raises:
        UsageError: an argument outside what is allowed, or a word outside the vocabulary.
        DataError: annotations or folders are missing or faulty, or feature files are missing (the first ten are named).
            Reading an item raises it too (MediaError for raw videos), with the video's id.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "val", "test"],
        *,
        audio: str = "vggish",
        visual: str = "clip_tokens",
        question: str = "words",
        frames: int = 10,
        version: Version = "json_update",
        duplicates: Duplicates = "auto",
        subset: Subset = "all",
        by_video: bool = False,
        vocabulary: Vocabulary = MUSIC_AVQA,
        require_answers: bool = True,
        questions: int | None = None,
        cache_in_memory: bool = False,
        **options: Any,
    ) -> None:
        if questions is not None and questions < 1:
            raise UsageError(f"questions is {questions}; give at least 1, or None for all")
        self.root, self.split, self.frames = Path(root), split, frames
        rows = self._read_rows(split, version, duplicates, subset, by_video, require_answers)[:questions]
        if not rows:
            raise DataError(f"{root}: split {split!r} has no question with subset={subset!r}, by_video={by_video}")
        super().__init__(rows, VideoInputs(root, audio, visual, frames=frames, **options), cache_in_memory)
        self.vocabulary = vocabulary
        self.question_features = None if question == "words" else question_store(root, question, "question", rows)
        self._words = [] if self.question_features else [self._encode(row) for row in rows]

    def _read_rows(
        self, split: str, version: Version, duplicates: Duplicates, subset: Subset, by_video: bool, answers: bool
    ) -> list[QuestionRow]:
        wanted = SPLITS if by_video else (split,)
        rows: list[QuestionRow] = []
        for name in wanted:
            rows += read_questions(self.root, name, version, duplicates=duplicates, require_answers=answers)
        return in_subset(split_by_video(rows, split) if by_video else rows, subset)

    def _encode(self, row: QuestionRow) -> Tensor:
        try:
            return torch.from_numpy(self.vocabulary.encode(row.words))
        except UsageError as error:
            raise UsageError(f"{self.root}, split {self.split!r}, row {row.row}: {error}") from error

    def texts(self, index: int) -> dict[str, Tensor]:
        """`question` of item `index`."""
        if self.question_features is None:
            return {"question": self._words[index].clone()}
        return {"question": torch.from_numpy(self.question_features.load(self.rows[index].question_id or 0))}


def rephrased_vocabulary(root: str | Path) -> Vocabulary:
    """The 93 words, then those that only MUSIC-AVQA-R's test questions have, sorted; as long as its longest question.

    The published file gives 465 words (spec §3.1). A model that shall answer it by words has to be made with them.

    Args:
        root: where `read_questions` finds version "r": `root/r/avqa-test-headtail.json`, or the file itself.

    Raises:
        DataError: the file is missing or faulty.
    """
    rows = read_questions(root, "test", "r", require_answers=False)
    found = {word for row in rows for word in row.words}
    longest = max(len(row.words) for row in rows)
    return Vocabulary((*WORDS, *sorted(found - set(WORDS))), max(QUESTION_LENGTH, longest))
