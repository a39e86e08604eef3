"""Stored features of videos and questions: one .npy a video or question, in the published layouts (spec §3.3).

| name | folder | stored, float32 | as read, for each second | who uses it |
|---|---|---|---|---|
| vggish | vggish | [T, 128] | (128,) | all |
| resnet18_grid | res18_14x14 or visual_14x14 | [T, 512, 14, 14] | (14, 14, 512) | AVST |
| resnet18 | res18 | [T, 512] | (512,) | baselines |
| r2plus1d | r2plus1d_18 | [T, 512] | (512,) | baselines, MCCD |
| clip_tokens | clip_patch-level_vit_b32 | [T, 50, 512] | (7, 7, 512), the class token left out | PSTP-Net |
| clip_class | clip_patch-level_vit_b32 | [T, 50, 512] | (512,), the class token | PSTP-Net |
| clip_frame | frame_ViT-L14@336px | [T, 768] | (768,) | TSPM, QA-TIGER |
| clip_l14 | frame_ViT-L14 | [T, 768] | (768,), at 224 pixels | here only |
| clip_b32 | frame_ViT-B32 | [T, 512] | (512,), equal to clip_class | here only |
| tome_patches | visual_tome14 | [T, 14, 1024] | (14, 1, 1024): class token, 13 merged ones, no grid | TSPM, QA-TIGER |
| small_sound | small_sound | [T, 64] | (64,) | the synthetic world |
| small_picture | small_picture | [T, h, w, 64] | (h, w, 64) | the synthetic world |
| clip_question | clip_qst | [1, 512], a question | (512,) | PSTP-Net, SHMamba |
| clip_words | clip_word | [1, 77, 512], a question | (77, 512) | PSTP-Net |
| clip_choices | clip_choices | [4, 512], an AVQA question | (4, 512) | here only |

Time: row i is second i. T is 60 for the official videos; some extractors gave 61 or more rows, and everything beyond 60
is cut off before rows are chosen (else every sixth row of 61 gives 11). `frame_rows` chooses the rows, for everyone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.paths import join_under
from crossmamba.errors import DataError, UsageError

__all__ = [
    "FEATURES",
    "MAX_SECONDS",
    "PICTURE_TIME",
    "FeatureKind",
    "FeatureStore",
    "feature_kind",
    "frame_rows",
    "whole_seconds",
]

MAX_SECONDS = 60
PICTURE_TIME = 0.5
"""The picture of second i is the one on display at i + 0.5 s, as `ffmpeg -r 1` and the sound around it suggest."""

_SECONDS_SLACK = 0.1  # s; containers give 9.98 s for ten seconds


def frame_rows(seconds: int, frames: int = 10) -> NDArray[np.int64]:
    """Which seconds of a video a model sees: `frames` of them, evenly spaced, int64 (frames,).

    Row i is floor(i n / frames) with n = min(seconds, 60). For 60 s and 10 frames these are 0, 6, ..., 54, AVST's
    `[:60][::6]`; a 10-second video gives 0, 1, ..., 9; 60 frames of 60 s are all of them.

    Raises:
        UsageError: `frames` below 1.
        DataError: the video has fewer seconds than `frames`.
    """
    if frames < 1:
        raise UsageError(f"frames is {frames}; it must be at least 1")
    used = min(seconds, MAX_SECONDS)
    if used < frames:
        raise DataError(f"{seconds} seconds cannot give {frames} frames; ask for at most {max(used, 1)} frames")
    return np.arange(frames, dtype=np.int64) * used // frames


def whole_seconds(duration: float) -> int:
    """Seconds of a file that count, 1 to 60: whole ones, where 0.1 s may lack at the end."""
    return min(max(int(duration + _SECONDS_SLACK), 1), MAX_SECONDS)


@dataclass(frozen=True)
class FeatureKind:
    """How one kind of feature is stored.

    Attributes:
        name: see the table above.
        folders: where it may lie, below the set's root.
        of: "audio", "visual", "question" or "choices".
        stored: shape of one row of the file; None where any size will do.
        shape: of one second as read (questions: of the whole); None where any size will do.
        order: how a row becomes what is read.
    """

    name: str
    folders: tuple[str, ...]
    of: Literal["audio", "visual", "question", "choices"]
    stored: tuple[int | None, ...]
    shape: tuple[int | None, ...]
    order: Literal["as is", "channels last", "patches", "class token", "column", "squeeze"] = "as is"

    @property
    def per_question(self) -> bool:
        """Files are named by question and not by video."""
        return self.of in ("question", "choices")

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a file's shape is that of this kind, for any number of rows (questions: 1, choices: 4)."""
        if len(shape) != 1 + len(self.stored) or shape[0] < 1:
            return False
        rows = {"question": 1, "choices": 4}.get(self.of)
        sizes = zip(shape[1:], self.stored, strict=True)
        return (rows is None or shape[0] == rows) and all(want in (None, have) and have > 0 for have, want in sizes)

    @property
    def stored_text(self) -> str:
        """The stored shape for messages, such as [T, 50, 512]."""
        first = {"question": "1", "choices": "4"}.get(self.of, "T")
        return "[" + ", ".join([first, *("any" if size is None else str(size) for size in self.stored)]) + "]"

    def arrange(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """From the stored to the read form."""
        match self.order:
            case "channels last":
                return values.transpose(0, 2, 3, 1)
            case "patches":
                return values[:, 1:].reshape(len(values), 7, 7, -1)
            case "class token":
                return values[:, 0]
            case "column":
                return values[:, :, None]
            case "squeeze":
                return values[0]
        return values


def _kinds() -> dict[str, FeatureKind]:
    clip = ("clip_patch-level_vit_b32",)
    kinds = [
        FeatureKind("vggish", ("vggish",), "audio", (128,), (128,)),
        FeatureKind("small_sound", ("small_sound",), "audio", (64,), (64,)),
        FeatureKind(
            "resnet18_grid", ("res18_14x14", "visual_14x14"), "visual", (512, 14, 14), (14, 14, 512), "channels last"
        ),
        FeatureKind("resnet18", ("res18",), "visual", (512,), (512,)),
        FeatureKind("r2plus1d", ("r2plus1d_18",), "visual", (512,), (512,)),
        FeatureKind("clip_tokens", clip, "visual", (50, 512), (7, 7, 512), "patches"),
        FeatureKind("clip_class", clip, "visual", (50, 512), (512,), "class token"),
        FeatureKind("clip_frame", ("frame_ViT-L14@336px",), "visual", (768,), (768,)),
        FeatureKind("clip_l14", ("frame_ViT-L14",), "visual", (768,), (768,)),
        FeatureKind("clip_b32", ("frame_ViT-B32",), "visual", (512,), (512,)),
        FeatureKind("tome_patches", ("visual_tome14",), "visual", (14, 1024), (14, 1, 1024), "column"),
        FeatureKind("small_picture", ("small_picture",), "visual", (None, None, 64), (None, None, 64)),
        FeatureKind("clip_question", ("clip_qst",), "question", (512,), (512,), "squeeze"),
        FeatureKind("clip_words", ("clip_word",), "question", (77, 512), (77, 512), "squeeze"),
        FeatureKind("clip_choices", ("clip_choices",), "choices", (512,), (4, 512)),
    ]
    return {kind.name: kind for kind in kinds}


FEATURES: dict[str, FeatureKind] = _kinds()


def feature_kind(name: str, of: str | None = None) -> FeatureKind:
    """The kind of this name.

    Raises:
        UsageError: an unknown name, or not a kind for `of` ("audio", "visual", "question", "choices").
    """
    known = [kind.name for kind in FEATURES.values() if of in (None, kind.of)]
    if name not in known:
        raise UsageError(f"{name!r} is no kind of {of + ' ' if of else ''}feature; known: {', '.join(known)}")
    return FEATURES[name]


class FeatureStore:
    """One kind of feature of one data set.

    Args:
        root: the set's folder.
        name: see `FEATURES`.
        folder: below `root`, or an absolute path; None takes the published one.

    Raises:
        UsageError: an unknown name.
        DataError: there is no such folder, or both published ones are there.
    """

    def __init__(self, root: str | Path, name: str, folder: str | Path | None = None) -> None:
        self.kind = feature_kind(name)
        self.folder = self._find(Path(root), folder)

    @property
    def name(self) -> str:
        """Of the kind."""
        return self.kind.name

    def _find(self, root: Path, folder: str | Path | None) -> Path:
        places = [root / name for name in self.kind.folders] if folder is None else [root / folder]
        found = [place for place in places if place.is_dir()]
        if not found:
            raise DataError(
                f"{' or '.join(map(str, places))}: no folder of {self.kind.name} features; make them with "
                "`crossmamba data extract`, or choose another kind"
            )
        if len(found) > 1:
            raise DataError(f"{' and '.join(map(str, found))} are both there; name the one to use")
        return found[0]

    def path(self, item: str | int) -> Path:
        """The file of a video id or question id."""
        return join_under(self.folder, f"{item}.npy")

    def missing(self, items: Iterable[str | int]) -> list[str]:
        """The videos or questions, in order, that have no file; the folder is listed once."""
        with os.scandir(self.folder) as entries:
            there = {entry.name for entry in entries}
        return [str(item) for item in items if f"{item}.npy" not in there]

    def rows(self, item: str | int) -> int:
        """T, rows of a file that count (at most 60); only the file's header is read.

        Raises:
            DataError: as `load`, but for NaN.
        """
        return min(len(self._open(item)), MAX_SECONDS)

    def load(self, item: str | int, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The features of a video, float32 (T, *kind.shape), or of a question, (*kind.shape).

        Args:
            item: video id or question id.
            rows: which seconds, see `frame_rows`; only these are read from the disk. None takes all, at most 60.

        Raises:
            DataError: the file is missing, damaged, of another shape or type, holds NaN or infinity, or is too short.
        """
        stored = self._open(item)
        used = min(len(stored), MAX_SECONDS)
        if rows is not None and len(rows) and int(rows.max()) >= used:
            raise DataError(f"{self.path(item)}: {len(stored)} rows; row {int(rows.max()) + 1} is wanted")
        try:
            values = np.array(stored[:used] if rows is None else stored[rows], dtype=np.float32)  # off the disk
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path(item)}: cannot be read ({error})") from error
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            raise DataError(f"{self.path(item)}: {bad} values are NaN or infinite; extract this item again")
        return np.ascontiguousarray(self.kind.arrange(values))

    def _open(self, item: str | int) -> NDArray[np.floating]:
        """The file mapped into memory, its type and shape checked."""
        path = self.path(item)
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError(f"{path}: there is no such feature file") from error
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path}: cannot be read as a .npy file ({error}); extract this item again") from error
        if not isinstance(stored, np.ndarray) or stored.dtype not in (np.float32, np.float16):
            raise DataError(f"{path}: holds {getattr(stored, 'dtype', 'no single array')}; expected float32")
        if not self.kind.fits(stored.shape):
            raise DataError(
                f"{path}: shape {list(stored.shape)}; {self.kind.name} features are {self.kind.stored_text}"
            )
        return stored
