"""Where AVSBench keeps its files, and its index (spec §2.1 to §2.3).

    S4   Single-source/s4_meta_data.csv     s4_data/{visual_frames,gt_masks}/{split}/{category}/{name}/{name}_{k}.png
                                            s4_data/audio_{log_mel,wav}/{split}/{category}/{name}.{pkl,wav}
    MS3  Multi-sources/ms3_meta_data.csv    ms3_data/visual_frames/{id}/{id}.mp4_{k}.png  (no split, and `.mp4` inside)
                                            ms3_data/gt_masks/{split}/{id}/{id}_{k}.png
                                            ms3_data/audio_{log_mel,wav}/{split}/{id}.{pkl,wav}
k counts from 1, one per second. S4's training split has a mask for k = 1 only.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.logmel import SAMPLE_RATE
from crossmamba.data.media import read_audio
from crossmamba.data.media_open import MediaLimits
from crossmamba.data.paths import join_under, safe_name
from crossmamba.errors import DataError, UsageError

__all__ = [
    "SPLITS",
    "AVSBenchFiles",
    "ClipEntry",
    "IndexProblem",
    "Split",
    "Subset",
    "find_root",
    "parse_index",
    "read_wav",
]

Subset = Literal["s4", "ms3"]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_FOLDERS = {"s4": "Single-source", "ms3": "Multi-sources"}
_MAX_INDEX_BYTES = 2**26


@dataclass(frozen=True)
class ClipEntry:
    """One row of the index.

    Attributes:
        clip_id: S4's `name`, MS3's `video_id`; unique in the index.
        split: of the clip.
        category: S4's class folder; empty for MS3.
        line: of the index file, counted from 1.
    """

    clip_id: str
    split: Split
    category: str
    line: int


@dataclass(frozen=True)
class IndexProblem:
    """A row of the index that cannot be used: its line (from 1) and why."""

    line: int
    message: str


@dataclass(frozen=True)
class AVSBenchFiles:
    """The layout of one subset.

    Attributes:
        home: the folder `Single-source` or `Multi-sources`.
        subset: "s4" or "ms3".
        seconds: frames per clip.
    """

    home: Path
    subset: Subset
    seconds: int = 5

    @property
    def index(self) -> Path:
        """The csv file."""
        return self.home / f"{self.subset}_meta_data.csv"

    @property
    def data(self) -> Path:
        """The folder of everything else."""
        return self.home / f"{self.subset}_data"

    def _place(self, entry: ClipEntry) -> tuple[str, ...]:
        return (entry.split, entry.category) if self.subset == "s4" else (entry.split,)

    def frame(self, entry: ClipEntry, k: int) -> Path:
        """The picture of second k, from 1."""
        name = entry.clip_id
        if self.subset == "s4":
            return join_under(self.data, "visual_frames", *self._place(entry), name, f"{name}_{k}.png")
        return join_under(self.data, "visual_frames", name, f"{name}.mp4_{k}.png")

    def mask(self, entry: ClipEntry, k: int) -> Path:
        """The ground truth of second k, from 1."""
        return join_under(self.data, "gt_masks", *self._place(entry), entry.clip_id, f"{entry.clip_id}_{k}.png")

    def log_mel(self, entry: ClipEntry) -> Path:
        """The published, pickled log-mel."""
        return join_under(self.data, "audio_log_mel", *self._place(entry), f"{entry.clip_id}.pkl")

    def wav(self, entry: ClipEntry) -> Path:
        """The sound."""
        return join_under(self.data, "audio_wav", *self._place(entry), f"{entry.clip_id}.wav")

    def annotated(self, entry: ClipEntry) -> tuple[bool, ...]:
        """Which seconds have ground truth: all, but only the first of a training clip of S4."""
        first_only = self.subset == "s4" and entry.split == "train"
        return tuple(not first_only or t == 0 for t in range(self.seconds))

    def read_split(self, split: str) -> list[ClipEntry]:
        """The split's clips, sorted by id: the index's own order is not kept, so that batches are reproducible.

        Raises:
            UsageError: an unknown split.
            DataError: the index is unreadable or has a faulty row anywhere, or the split is empty.
        """
        if split not in SPLITS:
            raise UsageError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
        entries, problems = parse_index(self.index, self.subset)
        if problems:
            first, more = problems[0], len(problems) - 1
            others = f" (and {more} more; `crossmamba data verify avsbench-{self.subset}` lists them)" if more else ""
            raise DataError(f"{self.index}:{first.line}: {first.message}{others}")
        chosen = sorted((e for e in entries if e.split == split), key=lambda e: e.clip_id)
        if not chosen:
            raise DataError(f"{self.index}: no clip has split {split!r}; the file has {len(entries)} clips in all")
        return chosen


def subset_name(name: str) -> Subset:
    """The short name "s4" or "ms3", from either that or "avsbench-s4", "avsbench-ms3".

    Raises:
        UsageError: any other name.
    """
    match name.removeprefix("avsbench-"):
        case "s4":
            return "s4"
        case "ms3":
            return "ms3"
    raise UsageError(f"subset is {name!r}; allowed: s4, ms3")


def find_root(root: str | Path, subset: str) -> Path:
    """The folder `Single-source` or `Multi-sources`, given itself or the folder that holds it.

    Raises:
        UsageError: an unknown subset.
        DataError: neither form holds the index.
    """
    subset = subset_name(subset)
    candidates = [Path(root) / _FOLDERS[subset], Path(root)]
    for folder in candidates:
        if (folder / f"{subset}_meta_data.csv").is_file():
            return folder
    wanted = " or ".join(str(folder / f"{subset}_meta_data.csv") for folder in candidates)
    raise DataError(
        f"{root}: no AVSBench {subset.upper()} here: {wanted} is missing. Point to the folder that holds "
        f"{_FOLDERS[subset]}/, or make a synthetic set: crossmamba data synth avsbench-{subset} {root}"
    )


def read_wav(path: Path, seconds: int) -> NDArray[np.float32]:
    """A clip's sound, mono at 16 kHz, float32 (n,); a file far longer than a clip is refused, not held in memory.

    Raises:
        MediaError: see `media.read_audio`.
    """
    return read_audio(path, SAMPLE_RATE, MediaLimits(max_duration=10.0 * seconds + 60))


def parse_index(path: Path, subset: Subset) -> tuple[list[ClipEntry], list[IndexProblem]]:
    """Reads the index: column 0 is the id, S4's column 2 the category, and the column headed `split` the split.

    Columns go by position because their heads vary between copies; only `split` is found by name, as officially.

    Raises:
        DataError: the file is missing, too large, no UTF-8 text, or has no column `split`.
    """
    rows = _rows(path)
    _, head = next(rows, (1, []))
    heads = [cell.strip().lower() for cell in head]
    columns = 3 if subset == "s4" else 1
    if "split" not in heads or len(heads) < columns:
        raise DataError(
            f"{path}:1: the head is {','.join(head)!r}; expected a column 'split' and {columns} or more others"
        )
    entries: list[ClipEntry] = []
    problems: list[IndexProblem] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        if not any(cell.strip() for cell in row):
            continue
        try:
            entry = _entry(row, heads, subset, line)
        except DataError as error:
            problems.append(IndexProblem(line, str(error)))
            continue
        if entry.clip_id in seen:
            problems.append(
                IndexProblem(line, f"clip {entry.clip_id!r} was already given in line {seen[entry.clip_id]}")
            )
            continue
        seen[entry.clip_id] = line
        entries.append(entry)
    return entries, problems


def _entry(row: list[str], heads: list[str], subset: Subset, line: int) -> ClipEntry:
    if len(row) != len(heads):
        raise DataError(f"{len(row)} columns; the head has {len(heads)}")
    cells = [cell.strip() for cell in row]
    split = cells[heads.index("split")]
    if split not in SPLITS:
        raise DataError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    clip_id = safe_name(cells[0], "clip id")
    category = safe_name(cells[2], "category") if subset == "s4" else ""
    return ClipEntry(clip_id, split, category, line)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of a csv file; a byte order mark, which spreadsheets add, is dropped."""
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise DataError(f"{path}: larger than {_MAX_INDEX_BYTES} bytes; this is no AVSBench index")
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise DataError(f"{path}: the index cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: the index is not UTF-8 csv text: {error}") from error
