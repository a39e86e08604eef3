"""The encoders of some features, loaded once, and how a batch of seconds goes through them.

An encoder that several features share (CLIP's tokens and its vector) runs once for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmamba.data.logmel import clip_log_mel
from crossmamba.encoders import (
    Encoder,
    FrameFeatures,
    build_frame_encoder,
    build_motion_encoder,
    build_picture_encoder,
    build_sound_encoder,
    build_text_encoder,
    load_encoder_weights,
    read_state_dict,
)
from crossmamba.encoders.clip import CLIP_SIZES
from crossmamba.encoders.clip_tokens import ClipTokens
from crossmamba.encoders.r2plus1d import R2Plus1D
from crossmamba.encoders.resnet import ResNetFrames
from crossmamba.encoders.token_merging import ToMeFrames
from crossmamba.encoders.vggish import VGGish
from crossmamba.errors import CheckpointError, UsageError
from crossmamba.extract.reading import Second, View, jpeg_bytes
from crossmamba.extract.recipes import CLIP_FRAMES, INSTANT, Recipe
from crossmamba.extract.transforms import Transform, small_transform

__all__ = ["RANDOM", "Extractor", "Group", "digest", "pick_device"]

RANDOM = "random"
"""In place of weights: none are loaded. For measuring time and disk space; the manifest says so."""
_TOME = "tome_vit_l16_384"
_LEVEL = 1  # of SmallPyramid: stride 8
_STRIDE = 8
_FOLDER_FILES = {"small_sound": "small_sound.safetensors", "small_picture": "small_picture.safetensors"}


@dataclass
class Group:
    """Features that one pass of one encoder gives.

    Attributes:
        key: unique among the groups.
        recipes: the features.
        encoder: None for frames.
        transform: of the pictures, None for sound and frames.
        weights: what the manifest says about them: source and SHA-256 of the loaded tensors.
    """

    key: str
    recipes: list[Recipe]
    encoder: Encoder | None
    transform: Transform | None
    weights: dict[str, str]

    @property
    def source(self) -> str:
        """See `Recipe.source`."""
        return self.recipes[0].source

    @property
    def view(self) -> View | None:
        """What it wants to see of each second; None for sound."""
        if self.source == "frames":
            return View(self.key, (INSTANT,), jpeg_bytes)
        if self.transform is None:
            return None
        instants = (INSTANT,)
        if self.source == "motion":
            instants = tuple((i + 0.5) / CLIP_FRAMES for i in range(CLIP_FRAMES))
        return View(self.key, instants, self.transform.picture)


class Extractor:
    """Builds and loads the encoders that some features need.

    Args:
        recipes: the features of videos or of questions.
        weights: encoder's weights name or feature name -> file, folder with the small encoders' files, `hf://...`, or
            "random".
        device: "cpu", "cuda", "cuda:N", "mps" or "auto".
        small_size: side of the small picture encoder's pictures in pixels, a multiple of 8.
        tokenizer: folder with CLIP's tokenizer; needed for text.

    Raises:
        UsageError: weights that are not given, or for something that is not asked for; a device that is not there.
        CheckpointError: weights that do not load.
    """

    def __init__(
        self,
        recipes: Sequence[Recipe],
        weights: Mapping[str, str],
        *,
        device: str = "cpu",
        small_size: int = 64,
        tokenizer: str | None = None,
    ) -> None:
        if small_size < 32 or small_size % _STRIDE:
            raise UsageError(f"small_size is {small_size}; it must be a multiple of {_STRIDE} pixels, at least 32")
        self.device = pick_device(device)
        self._small_size = small_size
        _check_names(recipes, weights)
        sources = {recipe.weights: _source(recipe, weights) for recipe in recipes if recipe.encoder}
        text = any(recipe.source == "text" for recipe in recipes)
        if text and tokenizer is None:
            raise UsageError("CLIP's text features need its tokenizer: --tokenizer FOLDER with vocab.json, merges.txt")
        self.tokens = ClipTokens(tokenizer) if text and tokenizer is not None else None
        self.groups: list[Group] = []
        loaded: dict[str, tuple[Encoder, dict[str, str]]] = {}
        for recipe in recipes:
            transform = small_transform(small_size) if recipe.name == "small_picture" else recipe.transform
            key = f"{recipe.encoder or recipe.source} {transform.size if transform else ''}".strip()
            group = next((group for group in self.groups if group.key == key), None)
            if group is not None:
                group.recipes.append(recipe)
                continue
            encoder, about = None, {}
            if recipe.encoder:
                if recipe.encoder not in loaded:
                    loaded[recipe.encoder] = self._load(recipe, sources[recipe.weights])
                encoder, about = loaded[recipe.encoder]
            self.groups.append(Group(key, [recipe], encoder, transform, about))

    def _load(self, recipe: Recipe, source: str) -> tuple[Encoder, dict[str, str]]:
        torch.manual_seed(0)  # random weights are the same in every process
        encoder = _build(recipe, source)
        if source != RANDOM:
            load_encoder_weights(encoder, source)
        encoder.set_frozen(True)
        about = {"source": source, "sha256": digest(encoder)}
        return encoder.to(self.device), about

    def row_shapes(self) -> dict[str, tuple[int, ...]]:
        """Feature -> shape of one second's row (of one text's, for text), by running each encoder once on zeros."""
        shapes: dict[str, tuple[int, ...]] = {}
        for group in self.groups:
            if group.source == "frames":
                continue
            if group.source == "text":
                made = self.texts(["a"], group)
            else:
                made = self.encode(group, [_blank(group)])
            shapes |= {name: values.shape[1:] for name, values in made.items()}
        return shapes

    def encode(self, group: Group, seconds: Sequence[Second]) -> dict[str, Any]:
        """Feature -> float32 (n, ...) of n seconds; for frames a list of n JPEG files."""
        if group.source == "frames":
            return {group.recipes[0].name: [second.views[group.key][0] for second in seconds]}
        if group.source == "sound":
            sound = np.concatenate([second.sound for second in seconds if second.sound is not None])
            inputs = clip_log_mel(sound, len(seconds), "aligned")  # (n, 1, 96, 64)
            return self._results(group, self._run(group, inputs.to(self.device)))
        assert group.transform is not None
        pictures = np.stack([np.stack(second.views[group.key]) for second in seconds])  # (n, instants, h, w, 3)
        inputs = group.transform.standardise(torch.from_numpy(pictures).to(self.device))  # (n, instants, 3, h, w)
        return self._results(
            group, self._run(group, inputs.transpose(1, 2) if group.source == "motion" else inputs[:, 0])
        )

    def texts(self, texts: Sequence[str], group: Group) -> dict[str, NDArray[np.float32]]:
        """Feature -> float32 (n, ...) of n texts."""
        assert self.tokens is not None
        return self._results(group, self._run(group, self.tokens(texts).to(self.device)))

    @torch.inference_mode()
    def _run(self, group: Group, inputs: Tensor) -> Any:
        assert group.encoder is not None
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # the same values on a GPU, to rounding
            return group.encoder(inputs)

    def _results(self, group: Group, output: Any) -> dict[str, NDArray[np.float32]]:
        made: dict[str, NDArray[np.float32]] = {}
        for recipe in group.recipes:
            if isinstance(output, list):  # a pyramid
                values = output[_LEVEL].permute(0, 2, 3, 1)  # (n, h, w, C)
            elif isinstance(output, Tensor):
                values = output
            elif isinstance(output, FrameFeatures) or recipe.output in ("vector", "words"):
                values = getattr(output, recipe.output)
            made[recipe.name] = values.float().cpu().contiguous().numpy()
        return made


def pick_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA if there, else the CPU.

    Raises:
        UsageError: it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, _, number = name.partition(":")
    wrong_number = number and (not number.isdigit() or (kind == "cuda" and int(number) >= torch.cuda.device_count()))
    if not there.get(kind, False) or wrong_number:
        raise UsageError(f"device {name!r} is not there; there are auto, {', '.join(k for k, v in there.items() if v)}")
    return torch.device(name)


def _check_names(recipes: Sequence[Recipe], weights: Mapping[str, str]) -> None:
    known = sorted({name for recipe in recipes if recipe.encoder for name in (recipe.weights, recipe.name)})
    if unknown := [name for name in weights if name not in known]:
        raise UsageError(
            f"weights for {', '.join(unknown)}, which no feature asked for needs; needed: {', '.join(known)}"
        )


def _source(recipe: Recipe, weights: Mapping[str, str]) -> str:
    """The weights' file for a feature, folders of the small encoders resolved."""
    source = weights.get(recipe.name, weights.get(recipe.weights))
    if source is None:
        raise UsageError(
            f"feature {recipe.name} needs weights: --weights {recipe.weights}=FILE ({_published(recipe.weights)}); "
            f"{recipe.weights}=random only to measure time and space"
        )
    file = _FOLDER_FILES.get(recipe.weights)
    if file is not None and source != RANDOM:
        for candidate in (Path(source) / "model" / file, Path(source) / file):
            if candidate.is_file():
                return str(candidate)
        if Path(source).is_dir():
            raise CheckpointError(f"{source}: neither {file} nor model/{file} is in it")
    return source


def _published(weights: str) -> str:
    """Where the published weights are, without building the encoder."""
    if weights in _FOLDER_FILES:
        return f"the run folder of a training of small encoders, or its {_FOLDER_FILES[weights]}"
    if weights in CLIP_SIZES:
        return f"published: {CLIP_SIZES[weights].published}"
    classes: dict[str, type[Encoder]] = {
        "vggish": VGGish, "resnet18": ResNetFrames, "r2plus1d_18": R2Plus1D, _TOME: ToMeFrames,
    }  # fmt: skip
    return f"published: {classes[weights].published}"


def _build(recipe: Recipe, source: str) -> Encoder:
    """The encoder with random weights; the small ones in the size that their file has."""
    if recipe.source == "motion":
        return build_motion_encoder(recipe.encoder)
    if recipe.source == "text":
        return build_text_encoder(recipe.encoder)
    if recipe.name == "small_sound":
        return build_sound_encoder(recipe.encoder, **({} if source == RANDOM else _sound_size(source)))
    if recipe.source == "sound":
        return build_sound_encoder(recipe.encoder)
    if recipe.name == "small_picture":
        options = {"widths": (32, 64, 64, 64)} if source == RANDOM else _picture_size(source)
        return build_picture_encoder(recipe.encoder, **options)
    return ToMeFrames() if recipe.encoder == _TOME else build_frame_encoder(recipe.encoder)


def _sound_size(source: str) -> dict[str, int]:
    state = _small_state(source)
    try:
        width, incoming = len(state["features.0.weight"]), state["head.0.weight"].shape[1]
        return {"dim": len(state["head.2.weight"]), "width": width, "levels": incoming > 64 * width}
    except KeyError as error:
        raise CheckpointError(f"{source}: no {error} in it; not weights of the small sound encoder") from error


def _picture_size(source: str) -> dict[str, Any]:
    state = _small_state(source)
    try:
        widths = tuple(len(state[f"blocks.{level}.shortcut.weight"]) for level in range(4))
        return {"widths": widths, "stem_width": len(state["stem.0.weight"])}
    except KeyError as error:
        raise CheckpointError(f"{source}: no {error} in it; not weights of the small picture encoder") from error


def _small_state(source: str) -> dict[str, Tensor]:
    try:
        return read_state_dict(source)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def digest(encoder: Encoder) -> str:
    """SHA-256 of names, types, shapes and values of an encoder's tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _blank(group: Group) -> Second:
    second = Second(0, sound=np.zeros(16000, np.float32))
    if group.view is not None and group.transform is not None:
        picture = np.zeros((*group.transform.size, 3), np.uint8)
        second.views[group.key] = [picture] * len(group.view.instants)
    return second
