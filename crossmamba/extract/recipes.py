"""Every feature that `crossmamba data extract` makes: its folder, its encoder and how the encoder is fed (spec §3.3).

Row t of a video's feature is second t: the sound of [t, t + 1) s, of which VGGish takes the first 0.96 s; the picture
on display at t + 0.5 s, what `ffmpeg -r 1` also picks; for R(2+1)D 16 pictures evenly over the second.

What the published layout states is the folder, the shape and the encoder. Not stated, and our choice: 448 pixels for
the 14 x 14 grid, the mean over 7 x 7 cells at 224 pixels for `resnet18`, 16 pictures a second for `r2plus1d`.
Names and folders are those of `crossmamba.data.qa.features`, which reads what is written here.
The ToMe patches (`visual_tome14/`) follow TSPM's public script in encoder, merging and pictures; that script looks at
10 pictures of a video (of an unsorted list of files), this at one a second, as every other feature here.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from crossmamba.errors import UsageError
from crossmamba.extract.transforms import (
    CLIP_224,
    CLIP_336,
    KINETICS_112,
    KINETICS_224,
    KINETICS_448,
    TOME_384,
    Transform,
    small_transform,
)

__all__ = ["CLIP_FRAMES", "INSTANT", "RECIPES", "Recipe", "recipes_for"]

INSTANT = 0.5
"""Where in its second a picture is taken, in seconds."""
CLIP_FRAMES = 16
"""Pictures in a second of R(2+1)D."""

Source = Literal["sound", "picture", "motion", "frames", "text", "clip"]
Output = Literal["vector", "tokens", "grid", "words", "jpeg"]


@dataclass(frozen=True)
class Recipe:
    """How one feature is made.

    Attributes:
        name: of the feature.
        folder: in the data set's root.
        source: "sound", "picture" (one a second), "motion" (several a second), "frames" (JPEG files), "text", or "clip"
            (the pictures of a segment, see `segments.py`).
        encoder: name in one of the encoders' registries, or "tome_vit_l16_384"; empty for frames.
        weights: name under which the encoder's weights are given. Both CLIP towers are in one file.
        output: which of the encoder's results is kept.
        transform: of the pictures; None for sound, text, frames and where the weights' file decides.
        help: one line.
    """

    name: str
    folder: str
    source: Source
    encoder: str
    weights: str
    output: Output
    transform: Transform | None
    help: str

    @property
    def of_videos(self) -> bool:
        """Whether there is one result per video (else one per question)."""
        return self.source != "text"


_TEXT = ("text", "clip_text_vit_b32", "clip_vit_b32")
_ALL = (
    Recipe("vggish", "vggish", "sound", "vggish", "vggish", "vector", None, "VGGish, [T, 128], no PCA"),
    Recipe(
        "clip_tokens", "clip_patch-level_vit_b32", "picture", "clip_vit_b32", "clip_vit_b32", "tokens", CLIP_224,
        "CLIP ViT-B/32, whole picture and 49 patches in the joint space, [T, 50, 512]",
    ),
    Recipe(
        "clip_b32", "frame_ViT-B32", "picture", "clip_vit_b32", "clip_vit_b32", "vector", CLIP_224,
        "CLIP ViT-B/32, one vector a picture, [T, 512]",
    ),
    Recipe(
        "clip_l14", "frame_ViT-L14", "picture", "clip_vit_l14", "clip_vit_l14", "vector", CLIP_224,
        "CLIP ViT-L/14, one vector a picture, [T, 768]",
    ),
    Recipe(
        "clip_frame", "frame_ViT-L14@336px", "picture", "clip_vit_l14_336", "clip_vit_l14_336", "vector", CLIP_336,
        "CLIP ViT-L/14 at 336 pixels, one vector a picture, [T, 768]",
    ),
    Recipe(
        "tome_patches", "visual_tome14", "picture", "tome_vit_l16_384", "tome_vit_l16_384", "tokens", TOME_384,
        "ViT-L/16 with merged tokens, the whole picture's and 13 others, [T, 14, 1024]",
    ),
    Recipe(
        "resnet18_grid", "res18_14x14", "picture", "resnet18", "resnet18", "grid", KINETICS_448,
        "ResNet-18's last stage at 448 pixels, [T, 512, 14, 14]",
    ),
    Recipe(
        "resnet18", "res18", "picture", "resnet18", "resnet18", "vector", KINETICS_224,
        "ResNet-18's last stage at 224 pixels, its mean, [T, 512]",
    ),
    Recipe(
        "r2plus1d", "r2plus1d_18", "motion", "r2plus1d_18", "r2plus1d_18", "vector", KINETICS_112,
        "R(2+1)D-18 of 16 pictures a second, [T, 512]",
    ),
    Recipe("small_sound", "small_sound", "sound", "small_sound", "small_sound", "vector", None,
           "our small sound encoder, [T, 64] or as wide as its file"),
    Recipe("small_picture", "small_picture", "picture", "small_pyramid", "small_picture", "grid", small_transform(64),
           "our small picture encoder's level of stride 8, [T, h, w, C]"),
    Recipe("clip_question", "clip_qst", *_TEXT, "vector", None, "CLIP's vector of each question, [1, 512]"),
    Recipe("clip_words", "clip_word", *_TEXT, "words", None, "CLIP's vectors of a question's tokens, [1, 77, 512]"),
    Recipe("clip_choices", "clip_choices", *_TEXT, "vector", None, "CLIP's vector of each choice (AVQA), [4, 512]"),
    Recipe("frames", "avqa-frames-1fps", "frames", "", "", "jpeg", None, "one JPEG a second, %06d.jpg from 1"),
)  # fmt: skip
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def recipes_for(names: Sequence[str]) -> list[Recipe]:
    """The recipes of these features, in this order, each once.

    Raises:
        UsageError: none, or an unknown name.
    """
    if not names:
        raise UsageError(f"no feature is asked for; there are {', '.join(RECIPES)}")
    for name in names:
        if name not in RECIPES:
            near = difflib.get_close_matches(name, RECIPES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"no feature {name!r}; there are {', '.join(RECIPES)}{hint}")
    return [RECIPES[name] for name in dict.fromkeys(names)]
