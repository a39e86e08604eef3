"""What prediction has in common whatever the task: the model's folder, the device, what a video must hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits, PictureStream, SoundStream, probe
from crossmamba.data.media_read import check_complete
from crossmamba.errors import CheckpointError, MediaError, UsageError

LEAST_SECOND = 0.5  # s; what is left at the end of the video counts as a second from here on


def check_video(path: str | Path, *, allow_silence: bool = False, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Reads a video's header. Raises MediaError as `media.probe`, or if pictures or (not allowed) sound are missing."""
    info = probe(path, limits)
    if info.picture is None:
        raise MediaError(f"{path}: the file has no pictures, only sound; a video is needed.")
    if info.sound is None and not allow_silence:
        raise MediaError(
            f"{path}: the video has no sound, so it cannot be told what in it is sounding. Give a video with sound, or "
            "ask for it to be treated as silent (--allow-silence)."
        )
    return info


def find_model(folder: str | Path) -> Path:
    """The model folder of a run folder (`RUN/model/`), or the folder itself.

    Raises:
        CheckpointError: neither holds a config.json.
    """
    for candidate in (Path(folder) / "model", Path(folder)):
        if (candidate / "config.json").is_file():
            return candidate
    raise CheckpointError(
        f"{folder}: neither a run folder (with model/config.json) nor a model folder (with config.json). "
        "`crossmamba demo` makes a run; `crossmamba train` makes one on your data."
    )


def pick_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA if there, else MPS, else the CPU.

    Raises:
        UsageError: it is not there.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there.get(name.split(":")[0], False):
        raise UsageError(
            f"Device {name!r} is not there; there are: auto, {', '.join(k for k, v in there.items() if v)}."
        )
    return torch.device(name)


def card_of(folder: Path) -> dict[str, Any]:
    """The parsed config.json of a model folder, as far as it can be told without loading the model.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = folder / "config.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return card if isinstance(card, dict) else {}


def task_of(card: Mapping[str, Any]) -> str:
    """The task that a card names: "avs" (masks), "avqa" (answers) or "action"; "avs" if it names none."""
    return str(card.get("metadata", {}).get("task", "avs"))


def knows_only_synthetic(card: Mapping[str, Any]) -> bool:
    """Whether a model's card says that it was trained on the synthetic world."""
    return "synthetic" in str(card.get("metadata", {}).get("trained_on", "")).lower()


class WithCard:
    """What a predictor tells of its model's card.

    Attributes:
        model: the model, as `crossmamba.models.from_pretrained` loads it or as it was built.
    """

    model: Any

    @property
    def card(self) -> dict[str, Any]:
        """The model's parsed config.json; empty for a model that was not loaded from a folder."""
        return getattr(self.model, "card", None) or {}

    @property
    def knows_only_synthetic(self) -> bool:
        """Whether the card says that the model was trained on the synthetic world."""
        return knows_only_synthetic(self.card)


def expected_seconds(info: MediaInfo) -> int | None:
    """How many whole seconds of picture the file's header announces; None if it does not say."""
    end = (info.picture.end if info.picture else None) or info.duration
    return None if end is None else max(1, math.ceil(end - LEAST_SECOND))


def check_length(path: str | Path, pictures: PictureStream) -> None:
    """Once all pictures were read: raises MediaError if they last less than a second or are a single one."""
    if pictures.finished and (pictures.frames < 2 or pictures.end < 0.999):
        raise MediaError(
            f"{path}: the picture lasts {pictures.end:.2f} s ({pictures.frames} "
            f"frame{'s' * (pictures.frames != 1)}); at least one second and two frames are needed."
        )


def reading_warnings(info: MediaInfo, pictures: PictureStream, sound: SoundStream | None) -> list[str]:
    """What a reader of the results should know of a video that was read to its end.

    Raises:
        MediaError: the streams held less than the file announces.
    """
    warnings = []
    if sound is None:
        warnings.append("The video has no sound; it was treated as silent.")
    elif sound.finished:
        check_complete(info, pictures.end, sound.end)
        if pictures.end - sound.end > LEAST_SECOND:
            warnings.append(
                f"The sound ends at {sound.end:.2f} s, the picture at {pictures.end:.2f} s; what follows was "
                "treated as silent."
            )
    for stream, what in ((pictures, "picture"), (sound, "sound")):
        if stream is not None and stream.bad_packets:
            warnings.append(f"{stream.bad_packets} damaged {what} packets were passed over.")
    return warnings
