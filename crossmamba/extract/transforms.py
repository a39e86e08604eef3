"""From a decoded picture to what an encoder takes: scaling, cropping, standardising, each as plain values.

The values go into the manifest of a feature folder, so that two folders made differently cannot be taken for one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from crossmamba.data.media import ShownFrame

__all__ = [
    "CLIP_224",
    "CLIP_336",
    "KINETICS_112",
    "KINETICS_224",
    "KINETICS_448",
    "TOME_384",
    "Transform",
    "small_transform",
]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Transform:
    """How a picture is made ready for an encoder.

    Attributes:
        resize: (height, width) in pixels, the aspect not kept; or one number: the shorter side, the aspect kept.
        crop: (height, width) of the middle that is kept; None keeps all.
        filter: "bilinear" or "bicubic", PIL's, with its smoothing when shrinking; or "area", FFmpeg's, as
            `data.qa.raw` scales the pictures on which the small encoders learn.
        mean, std: of RGB in [0, 1].
    """

    resize: tuple[int, int] | int
    crop: tuple[int, int] | None
    filter: Literal["area", "bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the result."""
        if self.crop is not None:
            return self.crop
        return self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)

    def picture(self, frame: ShownFrame) -> NDArray[np.uint8]:
        """A decoded picture of any size -> uint8 (h, w, 3), scaled and cropped."""
        height, width = frame.size
        if isinstance(self.resize, tuple):
            height, width = self.resize
        else:  # torchvision's rule: the longer side is rounded down
            short = min(height, width)
            height, width = self.resize * height // short, self.resize * width // short
        if self.filter == "area":
            scaled = frame.rgb((height, width))
        else:
            scaled = np.asarray(Image.fromarray(frame.rgb()).resize((width, height), _FILTERS[self.filter]))
        if self.crop is None:
            return scaled
        top, left = round((height - self.crop[0]) / 2), round((width - self.crop[1]) / 2)
        return scaled[top : top + self.crop[0], left : left + self.crop[1]]

    def standardise(self, pictures: Tensor) -> Tensor:
        """uint8 (..., h, w, 3) -> float32 (..., 3, h, w)."""
        mean = torch.tensor(self.mean, device=pictures.device)
        std = torch.tensor(self.std, device=pictures.device)
        return ((pictures.float() / 255 - mean) / std).movedim(-1, -3)

    def describe(self) -> dict[str, Any]:
        """Plain values for the manifest."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_KINETICS = ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

CLIP_224 = Transform(224, (224, 224), "bicubic", *_CLIP)
"""CLIP's own: shorter side to 224, middle square, bicubic."""
CLIP_336 = Transform(336, (336, 336), "bicubic", *_CLIP)
KINETICS_224 = Transform((224, 224), None, "bilinear", *_KINETICS)
"""MUSIC-AVQA's ResNet features use Kinetics' mean and deviation, not ImageNet's (spec §3.3)."""
KINETICS_448 = Transform((448, 448), None, "bilinear", *_KINETICS)
"""448 pixels give ResNet-18's last stage 14 x 14 cells."""
KINETICS_112 = Transform((128, 171), (112, 112), "bilinear", *_KINETICS)
"""Of torchvision's video models."""
TOME_384 = Transform(438, (384, 384), "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Of TSPM's ToMe patches: shorter side to 256 / 224 of the encoder's pictures, middle square."""


def small_transform(side: int) -> Transform:
    """Of our small picture encoder: a square of `side` pixels, ImageNet's mean and deviation."""
    return Transform((side, side), None, "area", *_IMAGENET)
