"""From pictures of any size to the square that a video model takes (spec §3.4).

Training: the shorter side is scaled to a random length (jitter), a random square is cut, and mirrored or not, and
RandAugment may come before; one draw for the whole clip. Evaluation: scaled to the side, the middle square.

Values are normalised as (x / 255 - mean) / std. `AVION_MEAN` is what LaViLa and AVION were trained with, on RGB; its
first number looks odd and is theirs. Giving such weights BGR pictures cost another project four points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from crossmamba.data.epic.randaug import RandAugment
from crossmamba.errors import UsageError

__all__ = ["AVION_MEAN", "AVION_STD", "HALF", "ClipTransform"]

AVION_MEAN = (108.3272985 / 255, 116.7460125 / 255, 104.09373615 / 255)
AVION_STD = (68.5005327 / 255, 66.6321579 / 255, 70.32316305 / 255)
HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of ORViT, MambaVL and VideoMAE."""


@dataclass(frozen=True)
class ClipTransform:
    """Pictures to a clip.

    Attributes:
        size: S, side of the square in pixels.
        jitter: smallest and largest shorter side in training; None takes the size times 8/7 and 10/7 (256 to 320 for
            224).
        mirror: probability of a left-right flip in training. Words such as "left" are not in the classes.
        mean, std: of pictures in [0, 1], RGB.
        randaug: random picture operations in training, before the crop; None for none.
    """

    size: int = 224
    jitter: tuple[int, int] | None = None
    mirror: float = 0.5
    mean: Sequence[float] = HALF
    std: Sequence[float] = HALF
    randaug: RandAugment | None = None

    def __post_init__(self) -> None:
        low, high = self.sides
        if self.size < 1 or not self.size <= low <= high:
            raise UsageError(f"size is {self.size} and jitter {self.jitter}; expected size <= smallest <= largest")
        if not 0 <= self.mirror <= 1:
            raise UsageError(f"mirror is {self.mirror}; it must be from 0 to 1")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise UsageError("mean and std have three numbers each, and std is above 0")

    @property
    def sides(self) -> tuple[int, int]:
        """Smallest and largest shorter side in training."""
        return self.jitter or (round(self.size * 8 / 7), round(self.size * 10 / 7))

    @property
    def short_side(self) -> int:
        """What the pictures may be reduced to on reading without any loss that matters."""
        return self.sides[1]

    def __call__(
        self,
        pictures: Sequence[NDArray[np.uint8]],
        rng: np.random.Generator | None = None,
        place: tuple[int, int] = (0, 1),
    ) -> Tensor:
        """float32 (3, T, S, S).

        Args:
            pictures: uint8 (H, W, 3) RGB, all of one size.
            rng: training; None: nothing random.
            place: (i, n): square i of n along the longer side, evenly spread from end to end; (0, 1) is the middle.

        Raises:
            UsageError: no pictures, of different sizes, or a place out of range.
        """
        shapes = {picture.shape for picture in pictures}
        if len(shapes) != 1:
            raise UsageError(f"pictures of {len(shapes)} sizes in one clip: {sorted(shapes)[:3]}")
        if rng is not None and self.randaug is not None:
            pictures = self.randaug(pictures, rng)
        clip = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()  # (T, 3, H, W)
        side = self.size if rng is None else int(rng.integers(self.sides[0], self.sides[1] + 1))
        clip = _scaled(clip, side)
        height, width = clip.shape[-2:]
        if rng is None:
            number, count = place
            if not 0 <= number < count:
                raise UsageError(f"square {number} of {count}")
            share = 0.5 if count == 1 else number / (count - 1)
            top, left, mirrored = int((height - self.size) * share), int((width - self.size) * share), False
        else:
            top, left = int(rng.integers(height - self.size + 1)), int(rng.integers(width - self.size + 1))
            mirrored = bool(rng.random() < self.mirror)
        clip = clip[..., top : top + self.size, left : left + self.size]
        if mirrored:
            clip = clip.flip(-1)
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return clip.div(255).sub_(mean).div_(std).transpose(0, 1).contiguous()


def _scaled(clip: Tensor, side: int) -> Tensor:
    """(T, 3, H, W) with the shorter side `side`, bilinear with antialiasing."""
    height, width = clip.shape[-2:]
    if min(height, width) == side:
        return clip
    factor = side / min(height, width)
    size = (max(side, round(height * factor)), max(side, round(width * factor)))
    return F.interpolate(clip, size=size, mode="bilinear", antialias=True, align_corners=False)
