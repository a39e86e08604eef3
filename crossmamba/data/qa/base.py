"""What the question data sets share: one item a question, each video read once for all its questions if asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from crossmamba.data.qa.features import FeatureStore, feature_kind
from crossmamba.data.qa.inputs import VideoInputs, list_missing
from crossmamba.errors import DataError

__all__ = ["Question", "QuestionDataset", "question_store"]


class Question(Protocol):
    """What a row must tell."""

    @property
    def row(self) -> int: ...
    @property
    def question_id(self) -> int | None: ...
    @property
    def video_id(self) -> str: ...
    @property
    def answer_index(self) -> int: ...
    @property
    def type_index(self) -> int: ...


class QuestionDataset(Dataset[dict[str, Any]]):
    """Questions about videos.

    Args:
        rows: one an item.
        inputs: where sound and pictures come from.
        cache_in_memory: keep what was read of each video.

    Attributes:
        rows: as given.
        video_ids: the videos, each once, sorted.

    Raises:
        DataError: files of videos are missing (the first ten are named).
    """

    def __init__(self, rows: list[Any], inputs: VideoInputs, cache_in_memory: bool) -> None:
        self.rows, self.inputs = rows, inputs
        self.video_ids = sorted({row.video_id for row in rows})
        self._video = {video: number for number, video in enumerate(self.video_ids)}
        list_missing(inputs.missing(self.video_ids), "files of videos are missing")
        self._cache: dict[int, tuple[Tensor, Tensor]] | None = {} if cache_in_memory else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.question(index)
        audio, visual = self.video(int(item["video"]))
        return {"audio": audio, "visual": visual, **item}

    def question(self, index: int) -> dict[str, Tensor]:
        """Item `index` without sound and pictures: a loader may read each video once for all its questions."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"question {index} of {len(self)}")
        index %= len(self)
        row = self.rows[index]
        return {
            **self.texts(index),
            "answer": torch.tensor(row.answer_index),
            "index": torch.tensor(index),
            "video": torch.tensor(self._video[row.video_id]),
        }

    def texts(self, index: int) -> dict[str, Tensor]:
        """`question`, and `choices` where there are any, of item `index`."""
        raise NotImplementedError

    def video(self, number: int) -> tuple[Tensor, Tensor]:
        """(audio, visual) of video `number` of `video_ids`; do not change them: the cache gives the same again.

        Raises:
            DataError: a file is missing or faulty; the video's id is named.
        """
        if self._cache is not None and number in self._cache:
            return self._cache[number]
        name = self.video_ids[number]
        try:
            both = self.inputs.read(name)
        except DataError as error:
            if f"video {name}" in str(error):
                raise
            raise type(error)(f"video {name}: {error}") from error
        if self._cache is not None:
            self._cache[number] = both
        return both


def question_store(root: str | Path, name: str, of: str, rows: list[Any]) -> FeatureStore:
    """Stored features of questions or choices, all files present.

    Raises:
        UsageError: an unknown name. DataError: the folder or files are missing, or rows have no id.
    """
    feature_kind(name, of)
    nameless = [str(row.row) for row in rows if row.question_id is None]
    list_missing(nameless, "rows have no question id, so no feature file (use question='words')")
    store = FeatureStore(root, name)
    files = [str(store.path(number)) for number in store.missing(row.question_id for row in rows)]
    list_missing(files, f"{of} features are missing")
    return store
