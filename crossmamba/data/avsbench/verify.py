"""Checks an AVSBench set on disk, file by file (spec §2): `crossmamba data verify avsbench-ms3 ROOT`.

Everything that the loader would trip over, and what it would read without tripping but wrongly, is a problem and makes
the report not ok. What is odd but does no harm (files that nothing refers to, a wav a little short, one source video in
two splits) is a note.
"""

from __future__ import annotations

import hashlib
import json
import re
import wave
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from crossmamba.data.avsbench.files import (
    SPLITS,
    AVSBenchFiles,
    ClipEntry,
    Subset,
    find_root,
    parse_index,
    read_wav,
    subset_name,
)
from crossmamba.data.avsbench.logmel_file import UnsafePickleError, read_log_mel
from crossmamba.data.findings import Finding, Findings
from crossmamba.data.images import picture_mode, read_colours, read_frame
from crossmamba.data.logmel import SAMPLE_RATE
from crossmamba.errors import DataError, UsageError

__all__ = ["OFFICIAL_CLIPS", "Finding", "VerifyReport", "verify_avsbench"]

# §2.1
OFFICIAL_CLIPS: dict[Subset, dict[str, int]] = {
    "s4": {"train": 3452, "val": 740, "test": 740},
    "ms3": {"train": 296, "val": 64, "test": 64},
}
OFFICIAL_SIDE = 224  # pixels
SHORTEST_SOUND = 0.975  # seconds: one VGGish example
_SOURCE = re.compile(r"_\d+_\d+$")  # YouTube id + `_start_end`


@dataclass
class VerifyReport(Findings):
    """What `verify_avsbench` found.

    Attributes:
        root: the folder checked (`Single-source` or `Multi-sources`).
        subset: s4 or ms3.
        expected_from: `world.json` for a synthetic set, `official` for any other, `none` if counts were not compared.
        clips: per split, as the index has them. expected: per split; empty if not compared.
        files: how many were read.
        sizes: frame sizes, such as `224x224`, and how many frames have each. mask_modes: likewise PIL's modes.
        problems: make the set unfit. notes: worth knowing.
    """

    root: str
    subset: Subset
    expected_from: str = "official"
    clips: dict[str, int] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    files: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    mask_modes: Counter[str] = field(default_factory=Counter)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """A plain dict of everything, all findings included."""
        return {**asdict(self), "sizes": dict(self.sizes), "mask_modes": dict(self.mask_modes), "ok": self.ok}

    @property
    def text(self) -> str:
        """For a terminal: counts, then findings by kind, long lists cut."""
        lines = [f"{self.root} (AVSBench {self.subset.upper()})"]
        for split in SPLITS:
            wanted = f"  (expected {self.expected[split]}, {self.expected_from})" if split in self.expected else ""
            lines.append(f"  {split:5} {self.clips.get(split, 0):6d} clips{wanted}")
        frames, masks = _counts(self.sizes), _counts(self.mask_modes)
        lines.append(f"  {self.files} files read; frames {frames}; masks in mode {masks}")
        return "\n".join([*lines, *self.told()])


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counter.most_common(6)) or "none"


def verify_avsbench(
    root: str | Path,
    subset: str,
    *,
    expected: Literal["auto", "none"] = "auto",
    progress: bool | None = None,
) -> VerifyReport:
    """Reads every file of the set once. Memory stays at one clip; a picture's size is checked before it is decoded.

    Args:
        root: the folder that holds `Single-source/` or `Multi-sources/`, or that folder.
        subset: "s4" or "ms3", or with the prefix "avsbench-".
        expected: "auto" compares counts, length and size with `world.json` beside the index (a synthetic set) or, where
            there is none, with the official set. "none" compares nothing: for a set of your own in this layout.
        progress: a bar on stderr; None if that is a terminal.

    Raises:
        UsageError: an unknown subset or `expected`.
        DataError: there is no index, or it is no csv with a column `split`, or `world.json` is damaged.
    """
    if expected not in ("auto", "none"):
        raise UsageError(f"expected is {expected!r}; allowed: 'auto', 'none'")
    home = find_root(root, subset)
    return _Check(home, subset_name(subset), expected == "auto").run(progress)


class _Check:
    """One pass over a set; `report` fills as it goes."""

    def __init__(self, home: Path, subset: Subset, compare: bool) -> None:
        world = _read_world(home / "world.json")
        self.synthetic = world is not None
        self.seconds = int(world["seconds"]) if world else 5
        self.side = (int(world["size"]) if world else OFFICIAL_SIDE) if compare else None
        self.files = AVSBenchFiles(home, subset, self.seconds)
        source = ("world.json" if world else "official") if compare else "none"
        self.report = VerifyReport(str(home), subset, expected_from=source)
        if compare:
            self.report.expected = {s: int(world["clips"][s]) for s in SPLITS} if world else OFFICIAL_CLIPS[subset]
        self.problem, self.note = self.report.problem, self.report.note
        self.known: set[Path] = set()  # every file that the loader may open
        self.pictures: dict[str, ClipEntry] = {}  # hash of a clip's frames -> first clip with them
        self.has_pickles, self.has_wavs = ((self.files.data / f"audio_{n}").is_dir() for n in ("log_mel", "wav"))

    def run(self, progress: bool | None) -> VerifyReport:
        entries = self._index()
        bar = tqdm(entries, desc="verify", unit="clip", disable=None if progress is None else not progress, leave=False)
        for entry in bar:
            self._frames_and_masks(entry)
            self._sound(entry)
        self._extra_files()
        return self.report

    def failed(self, path: Path, error: DataError) -> None:
        """Files a reader's error under its kind."""
        if isinstance(error, UnsafePickleError):
            kind = "unsafe pickle"
        else:
            kind = "unreadable" if path.exists() else "missing"
        self.problem(kind, path, str(error))

    def _index(self) -> list[ClipEntry]:
        entries, problems = parse_index(self.files.index, self.files.subset)
        for wrong in problems:
            where = f"{self.files.index}:{wrong.line}"
            kind = "overlap" if "already given" in wrong.message else "index"
            self.problem(kind, self.files.index, f"{where}: {wrong.message}")
        self.report.clips = {split: sum(e.split == split for e in entries) for split in SPLITS}
        for split, wanted in self.report.expected.items():
            if (found := self.report.clips[split]) != wanted:
                self.problem(
                    "counts", self.files.index, f"{self.files.index}: {split} has {found} clips, expected {wanted}"
                )
        splits_of: dict[str, set[str]] = defaultdict(set)
        for entry in entries:
            splits_of[_SOURCE.sub("", entry.clip_id)].add(entry.split)
        for source, splits in splits_of.items():
            if len(splits) > 1:
                message = f"source video {source} has clips in {', '.join(sorted(splits))}"
                self.note("overlap", self.files.index, message)
        return sorted(entries, key=lambda e: (SPLITS.index(e.split), e.clip_id))

    def _frames_and_masks(self, entry: ClipEntry) -> None:
        digest = hashlib.sha256()
        frames = [self._frame(self.files.frame(entry, k)) for k in range(1, self.seconds + 1)]
        present = [frame for frame in frames if frame is not None]
        for k, (frame, annotated) in enumerate(zip(frames, self.files.annotated(entry), strict=True), start=1):
            if frame is not None:
                digest.update(frame.tobytes())
                self._size_of_frame(self.files.frame(entry, k), frame, present[0])
            if annotated:
                self._mask(self.files.mask(entry, k), present[0] if present else None)
        if len(present) < self.seconds:
            return
        twin = self.pictures.setdefault(digest.hexdigest(), entry)
        if twin.split != entry.split:
            folder = self.files.frame(entry, 1).parent
            message = f"{folder}: the same frames as {twin.clip_id} of split {twin.split}"
            self.problem("overlap", folder, message)

    def _frame(self, path: Path) -> np.ndarray | None:
        self.known.add(path)
        try:
            frame = read_frame(path)
        except DataError as error:
            self.failed(path, error)
            return None
        self.report.files += 1
        return frame

    def _size_of_frame(self, path: Path, frame: np.ndarray, first: np.ndarray) -> None:
        size = _size(frame)
        self.report.sizes[size] += 1
        if frame.shape != first.shape:
            self.problem("size", path, f"{path}: {size} pixels; the clip's first frame has {_size(first)}")
        elif self.side is not None and size != f"{self.side}x{self.side}":
            self.problem("size", path, f"{path}: {size} pixels; expected {self.side}x{self.side}")

    def _mask(self, path: Path, first: np.ndarray | None) -> None:
        self.known.add(path)
        try:
            mask, colours = read_colours(path)
            self.report.mask_modes[picture_mode(path)] += 1
        except DataError as error:
            self.failed(path, error)
            return
        self.report.files += 1
        if first is not None and mask.shape != first.shape[:2]:
            self.problem("size", path, f"{path}: {_size(mask)} pixels; the clip's first frame has {_size(first)}")
        if colours > 2:
            self.problem(
                "mask values",
                path,
                f"{path}: {colours} different values; a mask has two. All above 0 would count as object: threshold it",
            )

    def _sound(self, entry: ClipEntry) -> None:
        pickled, wav = self.files.log_mel(entry), self.files.wav(entry)
        self.known |= {pickled, wav}
        if not self.has_pickles and not self.has_wavs:
            self.problem("missing", wav, f"{wav}: no sound: there is neither audio_wav nor audio_log_mel")
        if self.has_pickles:
            try:
                read_log_mel(pickled, self.seconds)
                self.report.files += 1
            except DataError as error:
                self.failed(pickled, error)
        if self.has_wavs:
            try:
                self._wav(wav)
                self.report.files += 1
            except DataError as error:
                self.failed(wav, error)

    def _wav(self, path: Path) -> None:
        _refuse_truncated(path)
        seconds = len(read_wav(path, self.seconds)) / SAMPLE_RATE
        if abs(seconds - self.seconds) <= 0.1:
            return
        message = f"{path}: {seconds:.2f} s of sound; expected {self.seconds} s"
        if self.synthetic or seconds < SHORTEST_SOUND:
            self.problem("sound", path, message)
        else:  # the official preprocessing meets clips below 5 s too, and repeats their last example
            self.note("sound", path, message)

    def _extra_files(self) -> None:
        for name in ("visual_frames", "gt_masks", "audio_log_mel", "audio_wav"):
            for path in sorted((self.files.data / name).rglob("*")):
                if path not in self.known and path.is_file():
                    self.note("extra", path, f"{path}: nothing refers to this file; it is never read")


def _size(picture: np.ndarray) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"


def _read_world(path: Path) -> dict | None:
    """`world.json` of a synthetic set, None if there is none."""
    if not path.exists():
        return None
    try:
        world = json.loads(path.read_text(encoding="utf-8"))
        sizes = [int(world["seconds"]), int(world["size"]), *(int(world["clips"][split]) for split in SPLITS)]
        if sizes[0] < 1 or min(sizes) < 0:
            raise ValueError(f"seconds, size and clips are {sizes}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as a synthetic set's description: {error!r}") from error
    return world


def _refuse_truncated(path: Path) -> None:
    """Compares a PCM wav's header with its size: decoders play what is there and say nothing.

    Raises:
        DataError: the header promises more sound than the file holds.
    """
    try:
        with wave.open(str(path), "rb") as file:
            promised = file.getnframes() * file.getnchannels() * file.getsampwidth()
    except (OSError, EOFError, wave.Error):
        return  # not PCM, or broken in a way that the decoder names better
    if promised > (size := path.stat().st_size):
        raise DataError(f"{path}: truncated: the header promises {promised} bytes of sound, the file has {size}")
