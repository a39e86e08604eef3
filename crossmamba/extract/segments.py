"""Tokens of EPIC-KITCHENS-100's segments by a video encoder, one file a segment: a frozen backbone is paid once.

    OUT/tokens_{encoder}/{narration_id}.npy                  float32 or float16 (L, d), recognition
    OUT/tokens_{encoder}_anticipation/{narration_id}.npy     of the time before each action

What the encoder sees is what `EpicDataset` gives in evaluation: the same pictures, the middle square, the encoder's own
mean and deviation. `data.epic.features.FeatureClips` reads the files: `EpicDataset(ROOT, media=OUT/tokens_avion_b,
layout="features")`. Tokens are in time order, class token first.

Space: 16 frames of AVION B are 3,137 x 768 numbers, 9.6 MB a segment in float32; the 76,885 segments of train and
validation together 741 GB, half of it in float16.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from crossmamba.data.epic.crops import ClipTransform
from crossmamba.data.epic.dataset import EpicDataset
from crossmamba.data.paths import join_under
from crossmamba.encoders import (
    VIDEO_ENCODERS,
    VideoEncoder,
    VideoTokens,
    build_video_encoder,
    load_encoder_weights,
    read_state_dict,
)
from crossmamba.errors import CheckpointError, DataError, UsageError
from crossmamba.extract.encoders import RANDOM, Group, digest, pick_device
from crossmamba.extract.log import write_log
from crossmamba.extract.recipes import Recipe
from crossmamba.extract.store import clear_leftovers, valid_npy, write_npy
from crossmamba.extract.videos import BAD, KEPT, MADE

__all__ = [
    "TOKEN_RECIPES",
    "SegmentJob",
    "describe_segments",
    "extract_segment",
    "load_token_encoder",
    "opened",
    "token_recipes_for",
]

TOKEN_RECIPES: dict[str, Recipe] = {
    name: Recipe(name, f"tokens_{name}", "clip", name, name, "tokens", None, f"tokens of a segment by {name}, [L, d]")
    for name in VIDEO_ENCODERS
}
_DEFAULT_FRAMES = 16


def token_recipes_for(names: Sequence[str]) -> list[Recipe]:
    """The recipes of these video encoders, each once.

    Raises:
        UsageError: none, or an unknown name.
    """
    for name in names:
        if name not in TOKEN_RECIPES:
            near = difflib.get_close_matches(name, TOKEN_RECIPES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"no video encoder {name!r}; there are {', '.join(TOKEN_RECIPES)}{hint}")
    if not names:
        raise UsageError(f"no feature is asked for; there are {', '.join(TOKEN_RECIPES)}")
    return [TOKEN_RECIPES[name] for name in dict.fromkeys(names)]


@dataclass(frozen=True)
class SegmentJob:
    """What to make of the segments of one split. Plain values, so that it can be sent to other processes.

    Attributes:
        feature: name in `TOKEN_RECIPES`.
        out: the folder in which the feature folders are.
        weights: file, folder, run folder, `hf://...`, or "random".
        root: the data set's folder. split: "train", "validation" or "test".
        media: folder of the pictures; None is `root`. layout: see `EpicDataset`.
        task: "recognition" or "anticipation". mode: "dense" or "uniform", of recognition.
        frames: T; None: as many as the encoder takes, else 16.
        image: side of the pictures in pixels; None: the encoder's.
        activation: "gelu" or "quick_gelu" of AVION and LaViLa; None: the encoder's default.
        device: see `pick_device`. dtype: "float32" or "float16".
        log: file of the bad segments, a line of JSON each.
        threads: of torch in each process; None for torch's own choice.
    """

    feature: str
    out: Path
    weights: str
    root: Path
    split: str = "train"
    media: Path | None = None
    layout: str = "auto"
    task: str = "recognition"
    mode: str = "dense"
    frames: int | None = None
    image: int | None = None
    activation: str | None = None
    device: str = "cpu"
    dtype: str = "float32"
    log: Path = Path("extract-bad.jsonl")
    threads: int | None = None

    @property
    def folder(self) -> Path:
        """Where the files are."""
        name = TOKEN_RECIPES[self.feature].folder
        return self.out / (name if self.task == "recognition" else f"{name}_{self.task}")


@dataclass(frozen=True)
class Opened:
    """A job's data set and encoder, what one segment's tokens look like, and what the manifest says of the weights."""

    dataset: EpicDataset
    encoder: VideoEncoder
    device: torch.device
    example: VideoTokens
    about: dict[str, str]
    frames: int
    image: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(L, d)."""
        return tuple(self.example.tokens.shape[1:])


@lru_cache(maxsize=1)
def opened(job: SegmentJob) -> Opened:
    """Loads a job's encoder, once in a process; the encoder runs once on zeros.

    Raises:
        UsageError, DataError: see `EpicDataset` and `load_encoder_weights`.
    """
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    device = pick_device(job.device)
    encoder, about = _load(job)
    encoder.to(device)
    frames = encoder.frames or job.frames or _DEFAULT_FRAMES
    image = job.image or (encoder.size[0] if encoder.size is not None else 4 * encoder.patch)
    with torch.inference_mode():
        example = encoder(torch.zeros(1, 3, frames, image, image, device=device))
    dataset = EpicDataset(
        job.root,
        job.split,  # type: ignore[arg-type]  # checked there, as the other names
        task=job.task,  # type: ignore[arg-type]
        media=job.media,
        layout=job.layout,  # type: ignore[arg-type]
        frames=frames,
        mode=job.mode,  # type: ignore[arg-type]
        transform=ClipTransform(image, mean=encoder.mean, std=encoder.deviation),
        train=False,
        check_files=False,  # what lacks is one bad segment, not the end
    )
    return Opened(dataset, encoder, device, example, about, frames, image)


def _load(job: SegmentJob) -> tuple[VideoEncoder, dict[str, str]]:
    if job.dtype not in ("float32", "float16"):
        raise UsageError(f"dtype is {job.dtype!r}; expected float32 or float16")
    encoder, source = load_token_encoder(
        job.feature, job.weights, frames=job.frames, image=job.image, activation=job.activation
    )
    return encoder, {"source": source, "sha256": digest(encoder)}


def load_token_encoder(
    name: str, weights: str, *, frames: int | None = None, image: int | None = None, activation: str | None = None
) -> tuple[VideoEncoder, str]:
    """A frozen video encoder with its weights, and where they came from; arguments as `SegmentJob`.

    Raises:
        UsageError: an activation for an encoder that has no choice. CheckpointError: weights that do not load.
    """
    source = weights
    if (Path(source) / "model" / "model.safetensors").is_file():  # a training run
        source = str(Path(source) / "model")
    options = {} if source == RANDOM else _options_of(name, source)
    if activation is not None:
        if not name.startswith(("avion", "lavila")) or activation not in ("gelu", "quick_gelu"):
            raise UsageError(f"activation is {activation!r}: it is gelu or quick_gelu, of avion and lavila alone")
        options |= {"quick_gelu": activation == "quick_gelu"}
    if name != "small_video":  # which takes any number of frames of any size
        options |= {"image": image} if image is not None else {}
        options |= {"frames": frames} if frames is not None else {}
    torch.manual_seed(0)  # random weights are the same in every process
    encoder = build_video_encoder(name, **options)
    if source != RANDOM:
        load_encoder_weights(encoder, source)
    encoder.set_frozen(True)
    return encoder, source


def _options_of(name: str, source: str) -> dict[str, Any]:
    """What a file says about the encoder that fits it: the small one's form, whether LaViLa is gated."""
    if name != "small_video" and not name.startswith("lavila"):
        return {}
    try:
        state = read_state_dict(source)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    if name.startswith("lavila"):
        return {"gated": any(key.endswith("alpha_timeattn") for key in state)}
    found = {end: v for key, v in state.items() for end in ("places", "stem.0.weight") if key.endswith(end)}
    if len(found) < 2:
        raise CheckpointError(f"{source}: not weights of the small video encoder, nor of a model with it")
    sizes = {"width": len(found["places"]), "stem_width": len(found["stem.0.weight"])}
    return {**sizes, "per_frame": any(key.endswith("gather.weight") for key in state)}


def describe_segments(job: SegmentJob, made: Opened) -> tuple[Group, Recipe, tuple[int, ...], dict[str, Any], str]:
    """Arguments of `manifest.describe`."""
    recipe, encoder, example = TOKEN_RECIPES[job.feature], made.encoder, made.example
    settings: dict[str, Any] = {
        "task": job.task,
        "mode": job.mode if job.task == "recognition" else None,
        "frames": made.frames,
        "image": made.image,
        "activation": job.activation,
        "mean": list(encoder.mean),
        "deviation": list(encoder.deviation),
        "grid": list(example.grid),
        "has_cls": example.has_cls,
        "order": example.order,
        "cls_place": example.cls_place,
    }
    return Group(recipe.name, [recipe], encoder, None, made.about), recipe, made.shape, settings, job.dtype


def extract_segment(job: SegmentJob, number: int) -> int:
    """Makes the tokens of one segment if they are missing or damaged; returns MADE, KEPT or BAD.

    Raises:
        DataError: the disk refused, or the encoder gives values that are not finite.
    """
    made = opened(job)
    row = made.dataset.rows[number]
    target = join_under(job.folder, f"{row.narration_id}.npy")
    if valid_npy(target, made.shape, job.dtype):
        return KEPT
    try:
        clip = made.dataset[number]["video"]
    except DataError as error:
        write_log(job.log, row.narration_id, str(error), [job.feature])
        return BAD
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        tokens = made.encoder(clip[None].to(made.device)).tokens[0].float().cpu().numpy()
    clear_leftovers(target)
    write_npy(target, tokens, job.dtype)
    return MADE
