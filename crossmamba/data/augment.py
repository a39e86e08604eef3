"""Augmentation of clips (spec §1.10).

    uint8 frames, masks, log-mel + a generator seeded by (seed, epoch, index)
      -> float32 frames in [0, 1] at the model's size, masks, log-mel

`ClipAugmentation`, the recommended one, draws one transform for the whole clip: a temporal scan then follows an object
and not the scissors. `OfficialAugmentation` does as AVS-Mamba's released loaders are described to do, flaws included.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossmamba.data.logmel import SILENCE_LOG_MEL
from crossmamba.data.perturb import gain
from crossmamba.errors import UsageError

__all__ = ["Augmentation", "ClipAugmentation", "ClipTensors", "OfficialAugmentation", "resize_clip"]


@dataclass
class ClipTensors:
    """A clip on its way to the model.

    Attributes:
        frames: (T, 3, H, W) uint8 RGB as decoded, or float32 in [0, 1] after augmentation.
        masks: (T, 1, H, W) uint8 in {0, 1}, or float32 after augmentation.
        log_mel: (T, 1, 96, 64) float32.
        annotated: (T,) bool.
    """

    frames: Tensor
    masks: Tensor
    log_mel: Tensor
    annotated: Tensor


class Augmentation(ABC):
    """What `AVSBenchDataset` calls on each training clip."""

    @abstractmethod
    def __call__(self, clip: ClipTensors, size: int, rng: np.random.Generator) -> ClipTensors:
        """Transforms one clip; all chance comes from `rng`, and `clip` itself is left as it was.

        Args:
            clip: as decoded (uint8), at the files' size.
            size: S, side of the square result in pixels.
            rng: seeded by (seed, epoch, index).

        Returns:
            float32 frames (T, 3, S, S) in [0, 1], float32 masks (T, 1, S, S), log-mel, flags.
        """


def resize_clip(clip: ClipTensors, size: int) -> ClipTensors:
    """The clip at (size, size) with no augmentation: frames bilinear with antialiasing, masks NEAREST; still uint8."""
    if clip.frames.shape[-2:] == (size, size):
        return clip
    frames = _resize_frames(clip.frames.float(), size, size).round_().clamp_(0, 255).to(torch.uint8)
    return ClipTensors(frames, _resize_masks(clip.masks, size, size), clip.log_mel, clip.annotated)


@dataclass(frozen=True)
class ClipAugmentation(Augmentation):
    """One sampled transform for all frames and masks of the clip.

    Colours are changed by one affine map of RGB (brightness, then contrast about the clip's mean grey, saturation, hue
    as a rotation about the grey axis), clipped once at the end.

    Attributes:
        hflip, vflip: probabilities. A vertical flip suits worlds without an up.
        crop: probability of a random crop, resized to the model's size.
        crop_scale: smallest and largest side of the crop, as a share of the picture's.
        crop_aspect: largest ratio by which the crop's shape may differ from the picture's, either way.
        colour: probability of a colour change.
        brightness, contrast, saturation: largest relative change either way: 0.4 is a factor from 0.6 to 1.4.
        hue: largest rotation in turns (0.05 is 18 degrees).
        gain_decibels: largest change of loudness either way; 0 is off.
        shift_frames: largest shift of the sound in log-mel frames of 10 ms, either way; 0 is off.
    """

    hflip: float = 0.5
    vflip: float = 0.0
    crop: float = 0.5
    crop_scale: tuple[float, float] = (0.6, 1.0)
    crop_aspect: float = 4 / 3
    colour: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.05
    gain_decibels: float = 0.0
    shift_frames: int = 0

    def __post_init__(self) -> None:
        for name in ("hflip", "vflip", "crop", "colour", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be from 0 to 1")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UsageError(f"crop_scale is {self.crop_scale}; it must be (smallest, largest), above 0 and at most 1")
        if self.crop_aspect < 1:
            raise UsageError(f"crop_aspect is {self.crop_aspect}; it must be at least 1, which keeps the shape")
        if not 0 <= self.hue <= 0.5:
            raise UsageError(f"hue is {self.hue}; it must be from 0 to 0.5 turns")
        if self.gain_decibels < 0 or not 0 <= self.shift_frames < 96:
            raise UsageError("gain_decibels must be at least 0, and shift_frames from 0 to 95")

    def __call__(self, clip: ClipTensors, size: int, rng: np.random.Generator) -> ClipTensors:
        height, width = clip.frames.shape[-2:]
        # All draws come first and always, so that switching one change off leaves the others as they were.
        chances = rng.random(4) < (self.hflip, self.vflip, self.crop, self.colour)
        top, left, rows, columns = self._crop_box(rng, height, width)
        matrix_draws, sound_draws = rng.uniform(-1, 1, 4), rng.uniform(-1, 1, 2)
        frames, masks = clip.frames, clip.masks
        flipped = [axis for axis, flip in ((-1, chances[0]), (-2, chances[1])) if flip]
        if flipped:
            frames, masks = frames.flip(flipped), masks.flip(flipped)
        if chances[2]:
            frames = frames[..., top : top + rows, left : left + columns]
            masks = masks[..., top : top + rows, left : left + columns]
        pixels = _resize_frames(frames.float(), size, size).div_(255)
        if chances[3]:
            pixels = self._recolour(pixels, matrix_draws)
        log_mel = self._change_sound(clip.log_mel, sound_draws)
        return ClipTensors(pixels, _resize_masks(masks, size, size).float(), log_mel, clip.annotated)

    def _crop_box(self, rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, rows, columns) in pixels."""
        scale, aspect, y, x = rng.random(4)
        side = self.crop_scale[0] + scale * (self.crop_scale[1] - self.crop_scale[0])
        stretch = self.crop_aspect ** (aspect - 0.5)  # square root of the ratio: it acts on both sides
        rows = min(height, max(1, round(height * side * stretch)))
        columns = min(width, max(1, round(width * side / stretch)))
        return int(y * (height - rows + 1)), int(x * (width - columns + 1)), rows, columns

    def _recolour(self, frames: Tensor, draws: np.ndarray) -> Tensor:
        """(T, 3, S, S) in [0, 1] to the same, by one matrix and one offset for the clip."""
        brightness, contrast, saturation = (
            1 + draw * most
            for draw, most in zip(draws, (self.brightness, self.contrast, self.saturation), strict=False)
        )
        grey = _GREY.expand(3, 3)
        matrix = saturation * torch.eye(3) + (1 - saturation) * grey
        matrix = _hue_rotation(2 * math.pi * self.hue * float(draws[3])) @ matrix * (brightness * contrast)
        mean = float(frames.mean(dim=(0, 2, 3)) @ _GREY) * brightness
        flat = torch.matmul(matrix, frames.flatten(2))  # (3, 3) @ (T, 3, S * S)
        return flat.add_((1 - contrast) * mean).clamp_(0, 1).view_as(frames)

    def _change_sound(self, log_mel: Tensor, draws: np.ndarray) -> Tensor:
        if self.gain_decibels:
            log_mel = gain(log_mel, float(draws[0]) * self.gain_decibels)
        frames = round(float(draws[1]) * self.shift_frames)
        if frames:
            line = log_mel.flatten(0, 2).roll(frames, dims=0)  # (T * 96, 64): one line of time
            (line[:frames] if frames > 0 else line[frames:]).fill_(SILENCE_LOG_MEL)
            log_mel = line.view_as(log_mel)
        return log_mel


_GREY = torch.tensor([0.299, 0.587, 0.114])


def _hue_rotation(angle: float) -> Tensor:
    """(3, 3) rotation of RGB about the grey axis (1, 1, 1) by `angle` in radians (Rodrigues' formula)."""
    axis = torch.full((3,), 3**-0.5)
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) * 3**-0.5
    return math.cos(angle) * torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * torch.outer(axis, axis)


def _resize_frames(frames: Tensor, height: int, width: int) -> Tensor:
    """(T, 3, h, w) float -> (T, 3, height, width), bilinear with antialiasing."""
    if frames.shape[-2:] == (height, width):
        return frames
    return F.interpolate(frames, size=(height, width), mode="bilinear", antialias=True, align_corners=False)


def _resize_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """(T, 1, h, w) of any type -> (T, 1, height, width), each pixel the one under its centre."""
    h, w = masks.shape[-2:]
    if (h, w) == (height, width):
        return masks
    rows = ((torch.arange(height) * 2 + 1) * h) // (2 * height)
    columns = ((torch.arange(width) * 2 + 1) * w) // (2 * width)
    return masks[..., rows[:, None], columns]


_SHORT_SIDES = (288, 320, 352, 392, 416, 448, 480, 512)  # pixels, §1.10
_FIRST_SIDES = (400, 500, 600)


@dataclass(frozen=True)
class OfficialAugmentation(Augmentation):
    """What AVS-Mamba's released S4 and MS3 loaders are described to do, for comparison only.

    Its flaws, kept on purpose:
      * every frame draws its own flip, crop and colours, so objects jump within a clip;
      * frames without a mask (S4, k = 2 to 5) are never cropped, the annotated first one is;
      * the colour change treats RGB as BGR in its turn to hue and saturation, and its result is not clipped: values
        above 255 or below 0 wrap around, and channels are permuted at random;
      * masks are resized bilinearly at the end, so the ground truth has fractions (M_J's test for an empty frame then
        counts a halo as an object).
    The sizes of the random resize are the described ones; the constants of the colour change, which the description
    leaves open, are the usual ones of SSD's photometric distortion.

    Attributes:
        crop_sides: smallest and largest side of the random crop in pixels: (384, 600) on MS3, (224, 600) on S4.
    """

    crop_sides: tuple[int, int] = (384, 600)

    def __call__(self, clip: ClipTensors, size: int, rng: np.random.Generator) -> ClipTensors:
        frames, masks = [], []
        for frame, mask, annotated in zip(clip.frames, clip.masks, clip.annotated.tolist(), strict=True):
            picture, truth = frame[None].float(), mask[None].float()  # (1, 3, H, W), (1, 1, H, W)
            if rng.random() < 0.5:
                picture, truth = picture.flip(-1), truth.flip(-1)
            if rng.random() < 0.5 and annotated:
                picture, truth = self._resize_and_crop(picture, truth, rng)
            picture = _distort_as_published(picture, rng)
            frames.append(_resize_frames(picture, size, size).div(255).clamp(0, 1))
            masks.append(_resize_frames(truth, size, size))
        return ClipTensors(torch.cat(frames), torch.cat(masks), clip.log_mel, clip.annotated)

    def _resize_and_crop(self, picture: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        if rng.random() < 0.5:
            return _resize_short_side(picture, mask, int(rng.choice(_SHORT_SIDES)))
        picture, mask = _resize_short_side(picture, mask, int(rng.choice(_FIRST_SIDES)))
        height, width = picture.shape[-2:]
        rows, columns = (
            int(rng.integers(min(self.crop_sides[0], side), min(self.crop_sides[1], side) + 1))
            for side in (height, width)
        )
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        box = (..., slice(top, top + rows), slice(left, left + columns))
        return _resize_short_side(picture[box], mask[box], int(rng.choice(_SHORT_SIDES)))


def _resize_short_side(picture: Tensor, mask: Tensor, side: int, longest: int = 640) -> tuple[Tensor, Tensor]:
    height, width = picture.shape[-2:]
    factor = min(side / min(height, width), longest / max(height, width))
    height, width = max(1, round(height * factor)), max(1, round(width * factor))
    return _resize_frames(picture, height, width), _resize_masks(mask, height, width)


def _distort_as_published(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """(1, 3, H, W) in [0, 255]; see `OfficialAugmentation` for what is wrong with it."""
    chances, draws = rng.random(6) < 0.5, rng.uniform(-1, 1, 4)
    if chances[0]:
        picture = picture + 32 * draws[0]
    if chances[1]:
        picture = picture * (1 + 0.5 * draws[1])
    if chances[2] or chances[3]:
        hue, saturation, value = _to_hsv(picture.flip(1))
        saturation = saturation * (1 + 0.5 * draws[2]) if chances[2] else saturation
        hue = (hue + 18 / 360 * draws[3]) % 1 if chances[3] else hue
        picture = _from_hsv(hue, saturation, value).flip(1)
    if chances[4]:
        picture = picture[:, torch.from_numpy(rng.permutation(3))]
    return picture.trunc().remainder(256)


def _to_hsv(picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 3, H, W) of any range -> hue in turns, saturation, value (in the picture's range), each (N, H, W)."""
    value, largest = picture.max(dim=1)
    spread = value - picture.min(dim=1).values
    red, green, blue = picture.unbind(1)
    safe = torch.where(spread > 0, spread, 1.0)
    sixth = torch.stack([(green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4], 1)
    hue = (sixth.gather(1, largest[:, None])[:, 0] / 6) % 1
    return hue, torch.where(value > 0, spread / torch.where(value > 0, value, 1.0), 0.0), value


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """The inverse of `_to_hsv`, (N, 3, H, W)."""
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue * 6) % 6
        channels.append(value * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1)))
    return torch.stack(channels, dim=1)
