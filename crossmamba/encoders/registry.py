"""Encoders by name. To add one: a class in its own file, a line here."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from crossmamba.encoders.avion import AvionEncoder
from crossmamba.encoders.base import FrameEncoder, MotionEncoder, PictureEncoder, SoundEncoder, TextEncoder
from crossmamba.encoders.clip import CLIP_SIZES, ClipFrames, ClipText
from crossmamba.encoders.clip_video import ClipVideo
from crossmamba.encoders.egocentric import VIT_SIZES
from crossmamba.encoders.lavila import LavilaEncoder
from crossmamba.encoders.pvt_v2 import PVT_V2_SIZES, PvtV2
from crossmamba.encoders.r2plus1d import R2Plus1D
from crossmamba.encoders.resnet import ResNet, ResNetFrames
from crossmamba.encoders.roberta import ROBERTA_MODES, RobertaText
from crossmamba.encoders.small import SmallPyramid, SmallSound
from crossmamba.encoders.small_video import SmallVideoEncoder
from crossmamba.encoders.vggish import VGGish
from crossmamba.encoders.video import TimeSformer, VideoMAE, ViViT, VJepa2
from crossmamba.encoders.video_base import VideoEncoder
from crossmamba.errors import UsageError

__all__ = [
    "FRAME_ENCODERS",
    "MOTION_ENCODERS",
    "PICTURE_ENCODERS",
    "SOUND_ENCODERS",
    "TEXT_ENCODERS",
    "VIDEO_ENCODERS",
    "build_frame_encoder",
    "build_motion_encoder",
    "build_picture_encoder",
    "build_sound_encoder",
    "build_text_encoder",
    "build_video_encoder",
]

PICTURE_ENCODERS: dict[str, Callable[..., PictureEncoder]] = {
    **{name: partial(PvtV2, size) for name, size in PVT_V2_SIZES.items()},
    "resnet50": ResNet,
    "small_pyramid": SmallPyramid,
}
SOUND_ENCODERS: dict[str, Callable[..., SoundEncoder]] = {
    "vggish": VGGish,
    "small_sound": SmallSound,
}
FRAME_ENCODERS: dict[str, Callable[..., FrameEncoder]] = {
    **{name: partial(ClipFrames, name) for name in CLIP_SIZES},
    "resnet18": ResNetFrames,
}
MOTION_ENCODERS: dict[str, Callable[..., MotionEncoder]] = {"r2plus1d_18": R2Plus1D}
TEXT_ENCODERS: dict[str, Callable[..., TextEncoder]] = {
    **{name.replace("clip_", "clip_text_"): partial(ClipText, name) for name in CLIP_SIZES},
    **{f"roberta_{mode}": partial(RobertaText, mode) for mode in ROBERTA_MODES},
}
VIDEO_ENCODERS: dict[str, Callable[..., VideoEncoder]] = {
    **{f"avion_{size}": partial(AvionEncoder, size) for size in VIT_SIZES},
    **{f"clip_{size}": partial(ClipVideo, f"clip_{size}") for size in VIT_SIZES},
    **{f"lavila_{size}": partial(LavilaEncoder, size) for size in VIT_SIZES},
    "small_video": SmallVideoEncoder,
    "timesformer_b": TimeSformer,
    **{f"videomae_{size}": partial(VideoMAE, f"videomae_{size}") for size in ("b", "l")},
    "vivit_b": ViViT,
    **{f"vjepa2_{size}": partial(VJepa2, f"vjepa2_{size}") for size in ("l", "h", "g")},
}

_Built = TypeVar("_Built")


def build_picture_encoder(name: str, **options: Any) -> PictureEncoder:
    """Build a picture encoder with random weights.

    Args:
        name: a key of `PICTURE_ENCODERS`.
        options: keyword arguments of its class.

    Raises:
        UsageError: an unknown name or option.
    """
    return _build(PICTURE_ENCODERS, "picture encoder", name, options)


def build_sound_encoder(name: str, **options: Any) -> SoundEncoder:
    """Build a sound encoder with random weights.

    Args:
        name: a key of `SOUND_ENCODERS`.
        options: keyword arguments of its class.

    Raises:
        UsageError: an unknown name or option.
    """
    return _build(SOUND_ENCODERS, "sound encoder", name, options)


def build_frame_encoder(name: str, **options: Any) -> FrameEncoder:
    """Build a frame encoder with random weights, frozen unless `freeze=False`.

    Args:
        name: a key of `FRAME_ENCODERS`.
        options: keyword arguments of its class.

    Raises:
        UsageError: an unknown name or option.
    """
    return _build(FRAME_ENCODERS, "frame encoder", name, options)


def build_motion_encoder(name: str, **options: Any) -> MotionEncoder:
    """Build a motion encoder with random weights, frozen unless `freeze=False`.

    Args:
        name: a key of `MOTION_ENCODERS`.
        options: keyword arguments of its class.

    Raises:
        UsageError: an unknown name or option.
    """
    return _build(MOTION_ENCODERS, "motion encoder", name, options)


def build_text_encoder(name: str, **options: Any) -> TextEncoder:
    """Build a text encoder with random weights, frozen unless `freeze=False`.

    Args:
        name: a key of `TEXT_ENCODERS`.
        options: keyword arguments of its class.

    Raises:
        UsageError: an unknown name or option.
    """
    return _build(TEXT_ENCODERS, "text encoder", name, options)


def build_video_encoder(name: str, **options: Any) -> VideoEncoder:
    """Build a video encoder with random weights, learning unless `freeze=True`.

    Args:
        name: a key of `VIDEO_ENCODERS`.
        options: keyword arguments of its class.

    Raises:
        UsageError: an unknown name or option.
    """
    return _build(VIDEO_ENCODERS, "video encoder", name, options)


def _build(builders: Mapping[str, Callable[..., _Built]], kind: str, name: str, options: Mapping[str, Any]) -> _Built:
    if name not in builders:
        close = difflib.get_close_matches(name, builders, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"no {kind} named {name!r}; there are {', '.join(builders)}{hint}")
    known = list(inspect.signature(builders[name]).parameters)
    if unknown := [option for option in options if option not in known]:
        raise UsageError(f"{kind} {name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return builders[name](**options)
