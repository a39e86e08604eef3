"""Augmentation: one transform for the whole clip, masks that follow the picture, chance from the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmamba.data.augment import Augmentation, ClipAugmentation, ClipTensors, OfficialAugmentation, resize_clip
from crossmamba.data.logmel import SILENCE_LOG_MEL
from crossmamba.errors import UsageError

NOTHING = {"hflip": 0.0, "crop": 0.0, "colour": 0.0}


def clip_of(height: int = 16, width: int = 16, seconds: int = 3, seed: int = 0) -> ClipTensors:
    """Every frame is the same picture, so that a difference between frames was made by the augmentation."""
    rng = torch.Generator().manual_seed(seed)
    frame = torch.randint(0, 256, (1, 3, height, width), generator=rng, dtype=torch.uint8)
    mask = (torch.rand(1, 1, height, width, generator=rng) < 0.4).to(torch.uint8)
    log_mel = torch.randn(seconds, 1, 96, 64, generator=rng)
    return ClipTensors(
        frame.repeat(seconds, 1, 1, 1), mask.repeat(seconds, 1, 1, 1), log_mel, torch.ones(seconds, dtype=torch.bool)
    )


def apply(augmentation: Augmentation, clip: ClipTensors, size: int, seed: int = 0) -> ClipTensors:
    return augmentation(clip, size, np.random.default_rng(seed))


def test_nothing_switched_on_changes_nothing() -> None:
    clip = clip_of()
    out = apply(ClipAugmentation(**NOTHING), clip, 16)
    assert torch.equal(out.frames, clip.frames.float() / 255)
    assert torch.equal(out.masks, clip.masks.float())
    assert torch.equal(out.log_mel, clip.log_mel)


@pytest.mark.parametrize(("setting", "axis"), [("hflip", -1), ("vflip", -2)])
def test_flips_turn_frames_and_masks_together(setting: str, axis: int) -> None:
    clip = clip_of()
    out = apply(ClipAugmentation(**{**NOTHING, setting: 1.0}), clip, 16)
    assert torch.equal(out.frames, clip.frames.flip(axis).float() / 255)
    assert torch.equal(out.masks, clip.masks.flip(axis).float())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(4, 40),
    width=st.integers(4, 40),
    size=st.integers(2, 40),
)
def test_every_frame_gets_the_same_transform_and_values_stay_in_range(
    seed: int, height: int, width: int, size: int
) -> None:
    clip = clip_of(height, width)
    before = [t.clone() for t in (clip.frames, clip.masks, clip.log_mel)]
    augmentation = ClipAugmentation(vflip=0.5, crop_scale=(0.1, 1.0), hue=0.5, gain_decibels=6, shift_frames=20)
    out = apply(augmentation, clip, size, seed)
    assert out.frames.shape == (3, 3, size, size)
    assert out.masks.shape == (3, 1, size, size)
    assert torch.equal(out.frames[0], out.frames[2])
    assert torch.equal(out.masks[0], out.masks[2])
    assert out.frames.min() >= 0
    assert out.frames.max() <= 1
    assert set(out.masks.unique().tolist()) <= {0.0, 1.0}
    assert torch.isfinite(out.log_mel).all()
    again = apply(augmentation, clip, size, seed)
    assert all(torch.equal(getattr(out, n), getattr(again, n)) for n in ("frames", "masks", "log_mel"))
    assert all(torch.equal(a, b) for a, b in zip(before, (clip.frames, clip.masks, clip.log_mel), strict=True))


def test_a_crop_cuts_mask_and_picture_at_the_same_place() -> None:
    """The mask is drawn into the picture: wherever the crop falls, the two must still agree."""
    clip = clip_of(32, 24)
    clip.masks.zero_()
    clip.masks[..., 8:24, 6:18] = 1
    clip.frames = clip.masks.repeat(1, 3, 1, 1) * 255
    shares = set()
    for seed in range(12):
        out = apply(ClipAugmentation(hflip=0.5, crop=1.0, crop_scale=(0.4, 0.9), colour=0.0), clip, 48, seed)
        agree = (out.frames.mean(1, keepdim=True) > 0.5) == (out.masks > 0.5)
        assert agree.float().mean() > 0.97
        shares.add(round(out.masks.mean().item(), 3))
    assert len(shares) > 6  # the crops differed


def test_grey_stays_grey_under_hue_and_saturation_and_is_scaled_by_brightness() -> None:
    clip = clip_of()
    clip.frames.fill_(100)
    only_colour = ClipAugmentation(hflip=0, crop=0, colour=1, brightness=0, contrast=0.4, saturation=1, hue=0.5)
    for seed in range(5):
        assert torch.allclose(apply(only_colour, clip, 16, seed).frames, clip.frames.float() / 255, atol=1e-5)
    brighter = ClipAugmentation(hflip=0, crop=0, colour=1, brightness=0.4, contrast=0, saturation=0, hue=0)
    factors = [apply(brighter, clip, 16, seed).frames.mean().item() / (100 / 255) for seed in range(20)]
    assert min(factors) >= 0.6
    assert max(factors) <= 1.4
    assert max(factors) - min(factors) > 0.3


def test_hue_turns_red_to_green_in_a_third_of_a_turn() -> None:
    from crossmamba.data.augment import _hue_rotation

    turned = _hue_rotation(2 * np.pi / 3) @ torch.tensor([1.0, 0.0, 0.0])
    assert torch.allclose(turned, torch.tensor([0.0, 1.0, 0.0]), atol=1e-6)
    assert torch.allclose(_hue_rotation(0.0), torch.eye(3))


def test_sound_shift_moves_all_seconds_as_one_line_and_fills_with_silence() -> None:
    clip = clip_of(seconds=3)
    shifted = apply(ClipAugmentation(**NOTHING, shift_frames=40), clip, 16, seed=3).log_mel.flatten(0, 2)
    line = clip.log_mel.flatten(0, 2)
    offsets = [n for n in range(-40, 41) if n and _is_shift(line, shifted, n)]
    assert len(offsets) == 1


def _is_shift(line: torch.Tensor, shifted: torch.Tensor, n: int) -> bool:
    moved, filled = (shifted[n:], shifted[:n]) if n > 0 else (shifted[:n], shifted[n:])
    kept = line[:-n] if n > 0 else line[-n:]
    return torch.equal(moved, kept) and torch.equal(filled, torch.full_like(filled, SILENCE_LOG_MEL))


@pytest.mark.parametrize(
    "wrong",
    [
        {"hflip": 1.5},
        {"crop_scale": (0.8, 0.5)},
        {"crop_scale": (0.0, 1.0)},
        {"crop_aspect": 0.5},
        {"hue": 0.6},
        {"brightness": -0.1},
        {"gain_decibels": -1.0},
        {"shift_frames": 96},
    ],
)
def test_settings_outside_their_range_are_refused(wrong: dict) -> None:
    with pytest.raises(UsageError):
        ClipAugmentation(**wrong)


def test_resize_keeps_uint8_and_binary_masks() -> None:
    out = resize_clip(clip_of(20, 30), 8)
    assert out.frames.dtype == out.masks.dtype == torch.uint8
    assert out.frames.shape == (3, 3, 8, 8)
    assert int(out.masks.max()) <= 1
    same = clip_of()
    assert resize_clip(same, 16) is same


@pytest.mark.parametrize(("side", "size", "expected"), [(5, 3, [0, 2, 4]), (4, 3, [0, 2, 3]), (2, 5, [0, 0, 1, 1, 1])])
def test_masks_take_the_pixel_under_each_centre(side: int, size: int, expected: list[int]) -> None:
    clip = clip_of(side, side)
    out = resize_clip(clip, size)
    assert torch.equal(out.masks, clip.masks[..., expected, :][..., expected])


def test_official_has_the_flaws_it_names() -> None:
    clip = clip_of(64, 64, seconds=5)
    out = [apply(OfficialAugmentation(), clip, 32, seed) for seed in range(6)]
    assert any(not torch.equal(o.frames[0], o.frames[1]) for o in out)  # a transform for every frame
    fractions = torch.cat([o.masks.flatten() for o in out])
    assert ((fractions > 0) & (fractions < 1)).any()  # bilinear masks
    assert all(o.frames.min() >= 0 and o.frames.max() <= 1 for o in out)
    again = apply(OfficialAugmentation(), clip, 32, 0)
    assert torch.equal(again.frames, out[0].frames)


def test_official_never_crops_frames_without_a_mask() -> None:
    """On a flat picture with a one-colour frame, only a crop could move the border that is drawn here."""
    clip = clip_of(64, 64, seconds=5)
    clip.annotated = torch.tensor([True, False, False, False, False])
    clip.frames.fill_(60)
    clip.frames[..., :, 31:33] = 200  # a line in the middle: a flip leaves it there, a crop does not
    positions = {0: set(), 1: set()}
    for seed in range(30):
        out = apply(OfficialAugmentation(crop_sides=(224, 600)), clip, 64, seed)
        for frame in (0, 1):
            columns = out.frames[frame].mean(dim=(0, 1))
            odd = (columns - columns.median()).abs() > 0.02
            positions[frame].add(tuple(odd.nonzero().flatten().tolist()))
    assert positions[1] <= {(31, 32), ()}
    assert len(positions[0]) > 2
