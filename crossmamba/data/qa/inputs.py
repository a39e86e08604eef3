"""Where a question set's sound and pictures come from: stored features or raw videos, in any mixture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmamba.data.qa.features import FeatureStore, feature_kind, frame_rows
from crossmamba.data.qa.frame_files import FRAME_FILES, FrameFiles
from crossmamba.data.qa.raw import Silent, check_silent, read_log_mel, read_pictures, rows_of, video_file
from crossmamba.errors import DataError, UsageError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "VideoInputs", "VideoStore", "list_missing", "paired_rows"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

RAW_AUDIO, RAW_VISUAL = "log_mel", "frames"


class VideoStore(Protocol):
    """Stored features of one kind: `features.FeatureStore`, `h5.H5Store`."""

    def path(self, item: str | int) -> Any:
        """Where an item's features are, for messages."""

    def missing(self, items: Iterable[str | int]) -> list[str]:
        """Those of the items that have no features, as text."""
        ...

    def rows(self, item: str | int) -> int:
        """Number of seconds that are stored of an item."""
        ...

    def load(self, item: str | int, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """An item's features, all rows or those given."""
        ...

    @property
    def name(self) -> str: ...


class VideoInputs:
    """Reads the sound and the pictures of one video after the other, both at the same seconds.

    Args:
        root: of the set; `videos/<video_id>.mp4` (or mkv, webm, avi, mov) and the feature folders lie in it.
        audio: a kind of sound feature (`features.FEATURES`), or "log_mel" from the raw video.
        visual: a kind of picture feature, "frames" from the raw video, or "frame_files" (JPEGs, see `frame_files`).
        frames: T.
        image_size: S of raw pictures and of JPEGs.
        mean, std: these pictures in [0, 1] are normalised with these.
        silent: what a raw video without sound gives, see `raw.read_log_mel`.
        audio_folder, visual_folder, video_folder: other places than the published ones.
        stores: features of further kinds, by name.

    Raises:
        UsageError: an unknown kind, or a number out of range.
        DataError: a folder is missing.
    """

    def __init__(
        self,
        root: str | Path,
        audio: str,
        visual: str,
        *,
        frames: int = 10,
        image_size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        silent: Silent = "error",
        audio_folder: str | None = None,
        visual_folder: str | None = None,
        video_folder: str = "videos",
        stores: Mapping[str, VideoStore] | None = None,
    ) -> None:
        if frames < 1 or image_size < 1:
            raise UsageError(f"frames is {frames} and image_size {image_size}; both must be at least 1")
        check_silent(silent)
        self.root, self.audio, self.visual = Path(root), audio, visual
        self.frames, self.image_size, self.silent = frames, image_size, silent
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self._more = dict(stores or {})
        self.sounds = self._store(audio, RAW_AUDIO, "audio", audio_folder)
        self.pictures = self._store(visual, RAW_VISUAL, "visual", visual_folder)
        self.videos = self.root / video_folder
        if (self.sounds is None or self.pictures is None) and not self.videos.is_dir():
            raise DataError(f"{self.videos}: no folder of raw videos; it is needed for audio={audio}, visual={visual}")

    def _store(self, name: str, raw: str, of: str, folder: str | None) -> VideoStore | None:
        if name == raw:
            return None
        if name in self._more:
            return self._more[name]
        if name == FRAME_FILES and of == "visual":
            mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
            return FrameFiles(self.root, self.image_size, mean, std, folder)
        try:
            feature_kind(name, of)
        except UsageError as error:
            others = f"{raw!r} for raw videos" + (f" or {FRAME_FILES!r} for JPEGs" if of == "visual" else "")
            raise UsageError(f"{of}={name!r}: {error}; or {others}") from error
        return FeatureStore(self.root, name, folder)

    def missing(self, video_ids: Sequence[str]) -> list[str]:
        """What lacks for these videos, one line each."""
        lines: list[str] = []
        for store in (self.sounds, self.pictures):
            if store is not None:
                lines += [str(store.path(video)) for video in store.missing(video_ids)]
        if self.sounds is None or self.pictures is None:
            lines += [
                str(self.videos / f"{video}.mp4") for video in video_ids if video_file(self.videos, video) is None
            ]
        return lines

    def read(self, video_id: str) -> tuple[Tensor, Tensor]:
        """(audio, visual) of a video, float32, T first; see `music_avqa.MusicAVQADataset` for the shapes.

        Raises:
            DataError: a file is missing or faulty (MediaError for raw videos), or the two differ in T; files are named.
        """
        if self.sounds is not None and self.pictures is not None:
            rows = paired_rows(self.sounds, self.pictures, video_id, self.frames)
            return (
                torch.from_numpy(self.sounds.load(video_id, rows)),
                torch.from_numpy(self.pictures.load(video_id, rows)),
            )
        path = video_file(self.videos, video_id)
        if path is None:
            raise DataError(f"{self.videos}: there is no video {video_id}")
        seconds, rows = rows_of(path, self.frames)
        for store in (self.sounds, self.pictures):
            if store is not None and (stored := store.rows(video_id)) != seconds:
                raise DataError(
                    f"video {video_id}: {stored} rows of {store.name} ({store.path(video_id)}), {seconds} seconds "
                    f"of raw video ({path}); both need the same T"
                )
        audio = (
            read_log_mel(path, seconds, rows, self.silent)
            if self.sounds is None
            else torch.from_numpy(self.sounds.load(video_id, rows))
        )
        if self.pictures is not None:
            return audio, torch.from_numpy(self.pictures.load(video_id, rows))
        pixels = read_pictures(path, rows, self.image_size).float().div_(255)
        return audio, pixels.sub_(self.mean).div_(self.std)


def paired_rows(audio: VideoStore, visual: VideoStore, video_id: str, frames: int) -> NDArray[np.int64]:
    """The rows to read of both, see `frame_rows`.

    Raises:
        DataError: T differs between the modalities (after cutting at 60), or is below `frames`; both are named.
    """
    heard, seen = audio.rows(video_id), visual.rows(video_id)
    both = (
        f"video {video_id}: {heard} rows of {audio.name} ({audio.path(video_id)}), "
        f"{seen} of {visual.name} ({visual.path(video_id)})"
    )
    if heard != seen:
        raise DataError(f"{both}; both need the same T: extract the shorter one again")
    if heard < frames:
        raise DataError(f"{both}; {frames} frames are wanted: ask for fewer frames, or extract the video again")
    return frame_rows(heard, frames)


def list_missing(lines: Sequence[str], what: str) -> None:
    """Raises DataError that names the first ten and counts the rest; nothing if the list is empty."""
    if lines:
        more = f" and {len(lines) - 10} more" if len(lines) > 10 else ""
        raise DataError(f"{len(lines)} {what}: {', '.join(lines[:10])}{more}")
