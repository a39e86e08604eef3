"""Raw videos as a model's input: the log-mel and the picture of each chosen second (spec §3.3).

Second i: sound from i s on (VGGish looks at 0.975 s of it), the picture on display at i + 0.5 s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from crossmamba.data.logmel import SAMPLE_RATE, SILENCE_LOG_MEL, clip_log_mel
from crossmamba.data.media import audio_blocks, frames_at, probe
from crossmamba.data.qa.features import PICTURE_TIME, frame_rows, whole_seconds
from crossmamba.errors import DataError, MediaError, UsageError

__all__ = ["Silent", "check_silent", "read_log_mel", "read_pictures", "rows_of", "video_file", "video_seconds"]

Silent = Literal["error", "silence"]

_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def check_silent(silent: str) -> None:
    """Raises UsageError unless `silent` is "error" or "silence"."""
    if silent not in get_args(Silent):
        raise UsageError(f"silent is {silent!r}; allowed: {', '.join(get_args(Silent))}")


def video_file(root: Path, video_id: str) -> Path | None:
    """The file of a video below `root`, None if there is none."""
    return next((path for suffix in _SUFFIXES if (path := root / f"{video_id}{suffix}").is_file()), None)


def video_seconds(path: Path) -> int:
    """Whole seconds of a video, 1 to 60, by its pictures.

    Raises:
        MediaError: unreadable, without pictures, or of unknown length.
    """
    info = probe(path)
    if info.picture is None:
        raise MediaError(f"{path}: the file has no pictures, only sound.")
    end = info.picture.end if info.picture.end is not None else info.duration
    if end is None:
        raise MediaError(f"{path}: the file does not say how long it is; convert it first, for example with ffmpeg.")
    return whole_seconds(end)


def read_log_mel(path: Path, seconds: int, rows: np.ndarray, silent: Silent = "error") -> Tensor:
    """Log-mel of the chosen seconds, float32 (len(rows), 1, 96, 64); short sound is padded with digital silence.

    Args:
        path: of the video.
        seconds: that count of it.
        rows: which seconds.
        silent: what a video without a sound stream gives: an error, or digital silence (log 0.01 throughout).

    Raises:
        MediaError: unreadable, or without sound and `silent` is "error".
    """
    if probe(path).sound is None:
        if silent == "error":
            raise MediaError(
                f"{path}: the video has no sound; silent='silence' treats it as digital silence, or leave it out."
            )
        return torch.full((len(rows), 1, 96, 64), SILENCE_LOG_MEL)
    return clip_log_mel(_sound(path, seconds), seconds, "aligned")[torch.as_tensor(rows)]


def _sound(path: Path, seconds: int) -> np.ndarray:
    """The first `seconds` + 1 seconds of a file's sound: memory does not grow with its length."""
    blocks, held = [], 0
    for block in audio_blocks(path, SAMPLE_RATE, 10.0):
        blocks.append(block)
        held += len(block)
        if held >= (seconds + 1) * SAMPLE_RATE:
            break
    return np.concatenate(blocks)


def read_pictures(path: Path, rows: np.ndarray, side: int) -> Tensor:
    """Pictures of the chosen seconds, uint8 (len(rows), 3, side, side), squeezed to a square.

    Raises:
        MediaError: unreadable, or it ends before the last of them.
    """
    times = [float(row) + PICTURE_TIME for row in rows]
    shown = [frame.rgb((side, side)) for frame in frames_at(path, times, hold=1.0)]
    if len(shown) < len(times):
        raise MediaError(f"{path}: the pictures end before {times[len(shown)]:.1f} s; make a new copy.")
    return torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2).contiguous()


def rows_of(path: Path, frames: int) -> tuple[int, np.ndarray]:
    """(seconds, chosen seconds) of a video, see `features.frame_rows`.

    Raises:
        MediaError: unreadable. DataError: fewer seconds than frames.
    """
    seconds = video_seconds(path)
    try:
        return seconds, frame_rows(seconds, frames)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
