"""From a raw video to what a question answering model takes: by the encoders that made its training features.

A model on stored features needs the encoders that those came from. Their weights are looked for

    1. where the caller says: `weights={"vggish": "vggish-10086976.pth"}`, on the command line `--weights NAME=PATH`;
    2. in the model's own folder: `encoders/NAME.safetensors`. `store_encoder` puts small ones there.

The features are made as `crossmamba data extract` makes them, by the same code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossmamba.data.qa.features import FEATURES, FeatureKind, feature_kind
from crossmamba.data.qa.frame_files import FRAME_FILES
from crossmamba.data.qa.inputs import IMAGENET_MEAN, IMAGENET_STD
from crossmamba.data.qa.raw import read_log_mel, read_pictures
from crossmamba.errors import CheckpointError, UsageError
from crossmamba.extract.encoders import Extractor, Group
from crossmamba.extract.reading import seconds_of
from crossmamba.extract.recipes import RECIPES

ENCODERS = "encoders"
"""Folder in a model's folder."""
TOKENIZER = "tokenizer"
"""Name under which the folder of CLIP's tokenizer is given with the weights."""
RAW = {"audio": "log_mel", "visual": "frames"}
_BATCH = 16  # seconds that go through an encoder at once


class VideoFeatures:
    """Makes the inputs of one model.

    Args:
        audio, visual: kinds of input: of `data.qa.features.FEATURES`, or "log_mel" and "frames" for a model that has
            its encoders inside.
        question: "words", or a kind of question feature.
        extractor: has the encoders of the stored kinds; None if there are none.
        image_size: side of raw frames in pixels. mean, std: they are standardised with these.
    """

    def __init__(
        self,
        audio: str,
        visual: str,
        question: str,
        extractor: Extractor | None,
        *,
        image_size: int = 224,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        self.audio, self.visual, self.question, self.extractor = audio, visual, question, extractor
        self.image_size = image_size
        self.mean, self.std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
        self.device = torch.device("cpu")

    def to(self, device: torch.device) -> VideoFeatures:
        """Moves the encoders."""
        self.device = device
        if self.extractor is not None:
            self.extractor.device = device
            for group in self.extractor.groups:
                if group.encoder is not None:
                    group.encoder.to(device)
        return self

    def __call__(self, path: Path, rows: NDArray[np.int64], *, silent: bool = False) -> tuple[Tensor, Tensor]:
        """Sound and pictures of these seconds of a video, (1, T, ...) each.

        Args:
            path: of the video. rows: int (T,), ascending. silent: treat it as silent.

        Raises:
            MediaError: the video is damaged or cut short.
        """
        stored = self._stored(path, rows)
        if self.audio == RAW["audio"]:
            audio = read_log_mel(path, int(rows.max()) + 1, rows, "silence" if silent else "error")
        else:
            audio = torch.from_numpy(stored[self.audio])
        if self.visual == RAW["visual"]:
            visual = (read_pictures(path, rows, self.image_size).float() / 255 - self.mean) / self.std
        else:
            visual = torch.from_numpy(stored[self.visual])
        return audio[None].to(self.device), visual[None].to(self.device)

    def questions(self, texts: Sequence[str]) -> Tensor:
        """(B, C) sentence vectors, or (B, L, C) word vectors, for a model that takes these."""
        assert self.extractor is not None, "load_features gives an extractor to every model that takes vectors"
        group = next(group for group in self.extractor.groups if group.source == "text")
        made = self.extractor.texts(list(texts), group)[recipe_of(self.question)]
        return torch.from_numpy(made).to(self.device)

    def describe(self) -> dict[str, Any]:
        """For `result.json`: the kinds of input, and the encoders' weights with their checksums."""
        groups = self.extractor.groups if self.extractor is not None else []
        encoders = {recipe.name: group.weights for group in groups for recipe in group.recipes}
        return {"audio": self.audio, "visual": self.visual, "question": self.question, "encoders": encoders}

    def _stored(self, path: Path, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Kind -> (T, ...) as a feature file would be read."""
        kinds = [feature_kind(name) for name in (self.audio, self.visual) if name not in RAW.values()]
        groups = [group for group in (self.extractor.groups if self.extractor else []) if group.source != "text"]
        if not kinds:
            return {}
        made: dict[str, list[NDArray[np.float32]]] = {}
        for batch in self._seconds(path, rows, groups):
            for group in groups:
                assert self.extractor is not None
                for name, values in self.extractor.encode(group, batch).items():
                    made.setdefault(name, []).append(values)
        return {kind.name: _arranged(kind, np.concatenate(made[recipe_of(kind.name)])) for kind in kinds}

    def _seconds(self, path: Path, rows: NDArray[np.int64], groups: Sequence[Group]) -> Any:
        """The chosen seconds, `_BATCH` at a time."""
        views = [group.view for group in groups if group.view is not None]
        wanted, batch = set(rows.tolist()), []
        for second in seconds_of(path, int(rows.max()) + 1, views, sound=any(g.source == "sound" for g in groups)):
            if second.number in wanted:
                batch.append(second)
            if batch and (len(batch) == _BATCH or second.number == rows.max()):
                yield batch
                batch = []


def _arranged(kind: FeatureKind, stored: NDArray[np.float32]) -> NDArray[np.float32]:
    if not kind.fits(stored.shape):
        raise CheckpointError(f"the encoder of {kind.name} gives {list(stored.shape)}, expected {kind.stored_text}")
    return np.ascontiguousarray(kind.arrange(stored))


def recipe_of(kind: str) -> str:
    """Name of the recipe of `crossmamba data extract` that makes a kind of feature: they write the same folder.

    Raises:
        UsageError: nothing here makes it.
    """
    for recipe in RECIPES.values():
        if recipe.name == kind or recipe.folder in FEATURES[kind].folders:
            return recipe.name
    raise UsageError(f"{kind} features cannot be made from a video here, so this model answers only on stored ones")


def load_features(preprocessing: Mapping[str, Any], folder: Path, weights: Mapping[str, str | Path]) -> VideoFeatures:
    """The encoders that a model's card asks for.

    Args:
        preprocessing: of the card: `audio`, `visual`, `question`, and where they matter `image_size`, `mean`, `std`,
            `small_size` (side of the small picture encoder's frames).
        folder: the model's. weights: files by the encoder's or the feature's name, `tokenizer` for CLIP's tokenizer.

    Raises:
        UsageError: weights that are nowhere, or for an encoder that this model does not need.
        CheckpointError: the card lacks a value, or weights do not load.
    """
    missing = [key for key in ("audio", "visual", "question") if key not in preprocessing]
    if missing:
        raise CheckpointError(f"{folder}: the card's preprocessing lacks {', '.join(missing)}; save the model again.")
    audio, visual, question = (str(preprocessing[key]) for key in ("audio", "visual", "question"))
    visual = RAW["visual"] if visual == FRAME_FILES else visual  # JPEGs of the same moments
    stored = [name for name in (audio, visual) if name not in RAW.values()] + (
        [question] if question != "words" else []
    )
    recipes = [RECIPES[name] for name in dict.fromkeys(recipe_of(_known(name, folder)) for name in stored)]
    given = {name: str(path) for name, path in weights.items() if name != TOKENIZER}
    found = {recipe.weights: str(folder / ENCODERS / f"{recipe.weights}.safetensors") for recipe in recipes}
    found = {name: path for name, path in found.items() if name not in given and Path(path).is_file()}
    named = {name for recipe in recipes for name in (recipe.name, recipe.weights)}
    if unknown := sorted(set(given) - named):
        raise UsageError(
            f"weights for {', '.join(unknown)}, which this model does not need; its encoders: "
            f"{', '.join(sorted({recipe.weights for recipe in recipes})) or 'inside the model'}"
        )
    extractor = None
    if recipes:
        extractor = Extractor(
            recipes,
            {**found, **given},
            small_size=int(preprocessing.get("small_size", 64)),
            tokenizer=None if TOKENIZER not in weights else str(weights[TOKENIZER]),
        )
    raw = {key: preprocessing[key] for key in ("image_size", "mean", "std") if preprocessing.get(key) is not None}
    return VideoFeatures(audio, visual, question, extractor, **raw)


def _known(name: str, folder: Path) -> str:
    if name not in FEATURES:
        raise CheckpointError(f"{folder}: the card names an unknown kind of feature, {name!r}")
    return name


def store_encoder(folder: str | Path, name: str, weights: str | Path) -> Path:
    """Copies an encoder's weights into a model folder, so that the folder alone can answer questions about a video.

    Args:
        folder: with config.json. name: of the encoder, such as "small_sound". weights: a safetensors file.

    Raises:
        CheckpointError: no such file, or not safetensors.
    """
    source, target = Path(weights), Path(folder) / ENCODERS / f"{name}.safetensors"
    if source.suffix != ".safetensors" or not source.is_file():
        raise CheckpointError(f"{source}: no safetensors file; weights in a model folder are safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    shutil.copyfile(source, part)
    os.replace(part, target)
    return target
