"""EPIC-KITCHENS-100 as a PyTorch data set: one item an action segment, for recognition or anticipation (spec §3).

    root/EPIC_100_{train,validation,test_timestamps}.csv     rows (also in root/annotations/)
    root/EPIC_100_{verb,noun}_classes.csv                    class tables
    root/...                                                 pictures in any of the layouts, or stored features
    root/{training,validation,test}.csv, rgb/data.mdb, ...   RULSTM's rows and frame features (`rulstm`)

The synthetic kitchen writes the same files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from crossmamba.data.epic.annotations import NOUN_COUNT, VERB_COUNT, EpicRow, read_rows
from crossmamba.data.epic.classes import ClassTable, class_file, read_classes
from crossmamba.data.epic.crops import ClipTransform
from crossmamba.data.epic.features import FeatureClips
from crossmamba.data.epic.frames import frame_range
from crossmamba.data.epic.layouts import FrameFolders, Layout, Pictures, of_row, open_layout
from crossmamba.data.epic.rulstm import RATE, FrameFeatures, frame_of, store_folders
from crossmamba.data.epic.sampling import GAP, WINDOW, Mode, anticipation_times, sample_frames, sample_times
from crossmamba.errors import DataError, UsageError

__all__ = ["SPLIT_FILES", "Encoder", "EpicDataset", "read_question_texts", "split_file"]

Split = Literal["train", "validation", "test"]
Task = Literal["recognition", "anticipation"]
SPLIT_FILES: dict[str, str] = {"train": "train", "validation": "validation", "test": "test_timestamps"}
_RULSTM_FILES = {"train": "training.csv", "validation": "validation.csv", "test": "test.csv"}
_SHOWN = 10


class Encoder(Protocol):
    """Turns a question into token numbers: `crossmamba.questions.tokens` has two."""

    def encode(self, text: str) -> Tensor:
        """int64 (L,), the same L for every text."""
        ...


def split_file(root: str | Path, split: str) -> Path:
    """The annotation file of a split below a folder ("val" is "validation"): the official one, else RULSTM's if there.

    Raises:
        UsageError: no split of this name.
    """
    name = "validation" if split == "val" else split
    if name not in SPLIT_FILES:
        raise UsageError(f"split is {split!r}; one of {', '.join(SPLIT_FILES)}")
    official, theirs = class_file(root, SPLIT_FILES[name]), Path(root) / _RULSTM_FILES[name]
    return theirs if theirs.is_file() and not official.is_file() else official


class EpicDataset(Dataset[dict[str, Any]]):
    """Segments of one split, in the order of its file.

    An item is a dict:
      * `video` float32 (3, T, S, S), pictures of the segment, or of the time before it (anticipation); or
        `tokens` float32 (L, d), stored features
      * `verb`, `noun` int64 (), class numbers; -1 where hidden (test)
      * `verb_question`, `noun_question` int64 (L,), only with questions; what the model may read (masked)
      * `index` int64 (), position in `rows`; narration ids are there
    In training every draw comes from (seed, epoch, index): the same on any number of workers.

    Args:
        root: the set's folder.
        split: "train", "validation" (or "val") or "test"; or `rows`.
        task: "anticipation" shows what is before start - 1 s and nothing later (`sampling.anticipation_times`).
        media: folder of the pictures; None is `root`.
        layout: of the pictures; "auto" finds it; "features" are stored tokens in `media`, which may be one of RULSTM's
            stores, or several joined: `ROOT/rgb+flow+obj`.
        frames: T.
        mode: dense or uniform, of recognition.
        transform: pictures to a clip.
        train: random places, crops and mirroring; None for the train split only.
        views: test views of the dense mode, spread over the segment. crops: test squares along the longer side of the
            picture, 1 or 3. Items of a row follow each other, view by view (`index` is the row's);
            `metrics.epic100.mean_of_views(scores, views * crops)` joins them.
        observed: seconds that anticipation sees. gap: seconds before the action that nobody sees.
        questions: None for none; a jsonl file of `crossmamba questions make`, which needs `encoder`; or the token
            numbers themselves, (verb, noun), int64 (rows, L) each.
        encoder: see `Encoder`.
        rows: use these rows instead of the split's file.
        segments: at most so many, the first; None for all.
        seed: of the random draws.
        cache_in_memory: keep what is read of an item where it is the same every time: stored tokens, and pictures but
            for training of recognition, whose places are random. Every loader worker fills a copy of its own.
        index_folder: places in tars are kept there.
        check_files: look for missing files now; else they are found when an item is read.

    Attributes:
        rows: one a segment. verbs, nouns: the class tables; None without the files.
        question_source: "none", what the question file states, or "given" for token numbers.
        clamped: narration ids of anticipation whose past has no picture before the gap.

    Raises:
        UsageError: an argument outside what is allowed.
        DataError: files are missing or wrong. Reading an item raises it too, with file, line and narration id.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split | Literal["val"] = "train",
        *,
        task: Task = "recognition",
        media: str | Path | None = None,
        layout: Layout | Literal["auto", "features"] = "auto",
        frames: int = 16,
        mode: Mode = "dense",
        transform: ClipTransform | None = None,
        train: bool | None = None,
        views: int = 1,
        crops: int = 1,
        observed: float = WINDOW,
        gap: float = GAP,
        questions: str | Path | tuple[Tensor, Tensor] | None = None,
        encoder: Encoder | None = None,
        rows: Sequence[EpicRow] | None = None,
        segments: int | None = None,
        seed: int = 0,
        cache_in_memory: bool = False,
        index_folder: str | Path | None = None,
        check_files: bool = True,
    ) -> None:
        if task not in ("recognition", "anticipation"):
            raise UsageError(f"task is {task!r}; one of recognition, anticipation")
        if frames < 1 or views < 1 or crops not in (1, 3) or (segments is not None and segments < 1):
            raise UsageError(
                f"frames={frames}, views={views}, crops={crops}, segments={segments}: at least 1 each, and crops 1 or 3"
            )
        self.train = split == "train" if train is None else train
        if views > 1 and (self.train or task == "anticipation" or mode == "uniform" or layout == "features"):
            raise UsageError("views are for testing recognition with the dense mode on pictures")
        if crops > 1 and (self.train or layout == "features"):
            raise UsageError("crops are for testing on pictures")
        self.root, self.split, self.task = Path(root), split, task
        self.frames, self.mode, self.views, self.crops = frames, mode, views, crops
        self.observed, self.gap, self.seed = observed, gap, seed
        # Shared: persistent workers see set_epoch. On the CPU even where another device is the default.
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu").share_memory_()
        self.transform = transform or ClipTransform()
        self.file = split_file(root, split)
        self.verbs, self.nouns = self._table("verb"), self._table("noun")
        self.rows = list(self._read_rows() if rows is None else rows)[:segments]
        if not self.rows:
            raise DataError(f"{self.root}: split {split!r} has no rows")
        self.pictures, self.features = self._open(Path(root if media is None else media), layout, index_folder)
        if check_files:
            self._check_files()
        self.clamped = [
            row.narration_id for row in self.rows if task == "anticipation" and row.start_timestamp <= self.gap
        ]
        self.question_source = "none"
        self._questions = self._encoded(questions, encoder)
        fixed = not (self.train and task == "recognition" and not isinstance(self.features, FeatureClips))
        self._cache: dict[int, Any] | None = {} if cache_in_memory and fixed else None

    def _table(self, kind: Literal["verb", "noun"]) -> ClassTable | None:
        file = class_file(self.root, f"{kind}_classes")
        return read_classes(file, kind) if file.is_file() else None

    def _read_rows(self) -> list[EpicRow]:
        verbs = VERB_COUNT if self.verbs is None else len(self.verbs)
        nouns = NOUN_COUNT if self.nouns is None else len(self.nouns)
        return read_rows(self.file, verbs=verbs, nouns=nouns)

    def _open(
        self, media: Path, layout: str, index_folder: str | Path | None
    ) -> tuple[Pictures | None, FeatureClips | FrameFeatures | None]:
        if layout == "features":
            if stores := store_folders(media):
                return None, FrameFeatures(stores)
            features = FeatureClips(media, "validation" if self.split == "val" else self.split)
            features.check_task(self.task)
            return None, features
        pictures = open_layout(
            media,
            self.rows,
            layout,  # type: ignore[arg-type]  # checked there
            short_side=self.transform.short_side,
            index_folder=index_folder,
        )
        if self.task == "anticipation" and not pictures.has_past:
            raise UsageError(
                f"{media}: the layout {pictures.layout} holds nothing of the time before an action; anticipation needs "
                "frames, videos, chunks or stored features"
            )
        return pictures, None

    def _check_files(self) -> None:
        source = self.pictures if self.features is None else self.features
        missing = source.missing(self.rows) if source is not None else []
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise DataError(
                f"{len(missing)} files or folders are missing: {', '.join(missing[:_SHOWN])}{more}; `crossmamba data "
                "verify epic100` lists all"
            )

    def _encoded(
        self, questions: str | Path | tuple[Tensor, Tensor] | None, encoder: Encoder | None
    ) -> tuple[Tensor, Tensor] | None:
        """(verb, noun) token numbers of every row."""
        if questions is None:
            return None
        if isinstance(questions, tuple):
            self.question_source = "given"
            if any(len(tokens) != len(self.rows) for tokens in questions):
                raise UsageError(
                    f"questions have {[len(t) for t in questions]} rows; there are {len(self.rows)} segments"
                )
            return questions
        if encoder is None:
            raise UsageError("questions from a file need an encoder (crossmamba.questions.tokens)")
        texts, self.question_source = read_question_texts(questions)
        absent = [of_row(row) for row in self.rows if row.narration_id not in texts]
        if absent:
            raise DataError(f"{questions}: no questions for {len(absent)} segments: {', '.join(absent[:_SHOWN])}")
        known: dict[str, Tensor] = {}
        columns = []
        for slot in (0, 1):
            words = [texts[row.narration_id][slot] for row in self.rows]
            for text in words:
                if text not in known:
                    known[text] = encoder.encode(text)
            columns.append(torch.stack([known[text] for text in words]))
        return columns[0], columns[1]

    @property
    def epoch(self) -> int:
        """The epoch of the random draws."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the random draws of an epoch (training); reaches persistent workers too.

        Raises:
            UsageError: a negative epoch.
        """
        if epoch < 0:
            raise UsageError(f"epoch is {epoch}; it must be at least 0")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows) * self.views * self.crops

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"segment {index} of {len(self)}")
        number, view = divmod(index % len(self), self.views * self.crops)
        view, crop = divmod(view, self.crops)
        row = self.rows[number]
        rng = np.random.default_rng((self.seed, self.epoch, number)) if self.train else None
        try:
            if self.features is not None:
                item = {"tokens": self._tokens(number, rng)}
            else:
                item = {"video": self.transform(self._pictures(number, rng, view), rng, (crop, self.crops))}
        except (DataError, UsageError) as error:
            named = "" if row.narration_id in str(error) else f"narration {row.narration_id}: "
            raise type(error)(f"{self.file}:{row.line}: {named}{error}") from error
        if self._questions is not None:
            verb, noun = self._questions
            item |= {"verb_question": verb[number].clone(), "noun_question": noun[number].clone()}
        return item | {
            "verb": torch.tensor(-1 if row.verb_class is None else row.verb_class),
            "noun": torch.tensor(-1 if row.noun_class is None else row.noun_class),
            "index": torch.tensor(number),
        }

    def _pictures(self, number: int, rng: np.random.Generator | None, view: int) -> list[np.ndarray]:
        key = number * self.views + view
        if self._cache is not None and key in self._cache:
            return self._cache[key]
        pictures = self.read(self.rows[number], rng, view)
        if self._cache is not None:
            self._cache[key] = pictures
        return pictures

    def _tokens(self, number: int, rng: np.random.Generator | None) -> Tensor:
        if self._cache is not None and number in self._cache:
            return self._cache[number].clone()
        assert self.features is not None  # `__getitem__` asks only then
        row = self.rows[number]
        if isinstance(self.features, FrameFeatures):
            tokens = self.features.read(row, self._frame_numbers(row, rng))
        else:
            tokens = self.features.read(row)
        if self._cache is not None:
            self._cache[number] = tokens
            return tokens.clone()
        return tokens

    def _frame_numbers(self, row: EpicRow, rng: np.random.Generator | None) -> list[int]:
        """Of RULSTM's frames, those that a model sees."""
        if self.task == "anticipation":
            times = anticipation_times(row, self.frames, self.observed, self.gap).times
            return [frame_of(time) for time in times.tolist()]
        first, last = frame_of(row.start_timestamp), frame_of(row.stop_timestamp)
        return sample_frames(first, last, RATE, frames=self.frames, mode=self.mode, rng=rng).tolist()

    def read(self, row: EpicRow, rng: np.random.Generator | None = None, view: int = 0) -> list[np.ndarray]:
        """The chosen pictures of a segment, uint8 (H, W, 3) each, before any crop.

        Raises:
            UsageError: the data set has stored features. DataError: see the class.
        """
        source = self.pictures
        if source is None:
            raise UsageError("stored features have no pictures")
        if self.task == "anticipation":
            return source.read(row, anticipation_times(row, self.frames, self.observed, self.gap).times.tolist())
        options: dict[str, Any] = {"frames": self.frames, "mode": self.mode, "rng": rng, "view": view}
        if isinstance(source, FrameFolders):
            first, last = frame_range(row)
            numbers = sample_frames(first, last, source.rate(row), views=self.views, **options)
            return source.read_numbers(row, numbers)
        times = sample_times(row.start_timestamp, row.stop_timestamp, source.rate(row), views=self.views, **options)
        return source.read(row, times.tolist())


def read_question_texts(path: str | Path) -> tuple[dict[str, tuple[str, str]], str]:
    """Masked questions of a jsonl file: narration id -> (verb question, noun question), and the file's source.

    Raises:
        DataError: missing, no JSON lines, a field lacks, an id comes twice, or sources are mixed.
    """
    path = Path(path)
    found: dict[str, tuple[str, str]] = {}
    sources: set[str] = set()
    try:
        with path.open(encoding="utf-8") as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                where = f"{path}:{line}"
                try:
                    record = json.loads(text)
                    name, source = record["narration_id"], record["question_source"]
                    pair = record["verb_question_masked"], record["noun_question_masked"]
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise DataError(f"{where}: no line of questions ({error!r})") from error
                if not all(isinstance(value, str) and value for value in (name, source, *pair)):
                    raise DataError(f"{where}: narration_id, question_source and the masked questions must be texts")
                if name in found:
                    raise DataError(f"{where}: narration {name} comes twice")
                found[name] = pair
                sources.add(source)
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file of questions; `crossmamba questions make` makes one") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if len(sources) != 1:
        raise DataError(f"{path}: questions of {len(sources)} sources ({', '.join(sorted(sources))}); a file has one")
    return found, sources.pop()
