"""Fusion modules to stand where AVS-Mamba has its scans: the same call, other mechanisms.

Each takes picture (B, T, h, w, C) and sound (B, T, C) and returns the side it keeps, updated, in its own shape.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

FUSIONS = ("film", "cross_attention", "none")


class KeepSound(nn.Module):
    """No fusion: the sound as it is."""

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        """picture (B, T, h, w, C), sound (B, T, C) -> sound."""
        return sound


class KeepPicture(nn.Module):
    """No fusion: the picture as it is."""

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        """picture (B, T, h, w, C), sound (B, T, C) -> picture."""
        return picture


class FiLM(nn.Module):
    """Feature-wise affine modulation (arXiv 1709.07871) of the kept side by the other; a picture is mean-pooled."""

    def __init__(self, dim: int, keep: Literal["sound", "picture"]) -> None:
        super().__init__()
        self.keep = keep
        self.affine = nn.Linear(dim, 2 * dim)

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        """picture (B, T, h, w, C), sound (B, T, C) -> the kept side."""
        if self.keep == "sound":
            scale, shift = self.affine(picture.mean(dim=(2, 3))).chunk(2, dim=-1)
            return sound + sound * scale + shift
        scale, shift = self.affine(sound)[:, :, None, None].chunk(2, dim=-1)
        return picture + picture * scale + shift


class CrossAttention(nn.Module):
    """Multi-head attention of the kept side's tokens to the other's, within each second or over the whole clip."""

    def __init__(self, dim: int, keep: Literal["sound", "picture"], over_clip: bool) -> None:
        super().__init__()
        self.keep, self.over_clip = keep, over_clip
        self.picture_norm, self.sound_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, num_heads=max(1, dim // 32), batch_first=True)

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        """picture (B, T, h, w, C), sound (B, T, C) -> the kept side."""
        pixels, seconds = self.picture_norm(picture), self.sound_norm(sound)
        if self.over_clip:
            pixels = pixels.flatten(1, 3)
        else:
            pixels, seconds = pixels.flatten(2, 3).flatten(0, 1), seconds.flatten(0, 1)[:, None]
        query, other, kept = (seconds, pixels, sound) if self.keep == "sound" else (pixels, seconds, picture)
        attended, _ = self.attention(query, other, other, need_weights=False)
        return kept + attended.reshape(kept.shape)


def build_fusion(name: str, dim: int, keep: Literal["sound", "picture"], *, over_clip: bool) -> nn.Module:
    """A baseline by name: "film", "cross_attention" or "none"."""
    if name == "none":
        return KeepSound() if keep == "sound" else KeepPicture()
    if name == "film":
        return FiLM(dim, keep)
    if name == "cross_attention":
        return CrossAttention(dim, keep, over_clip)
    raise ValueError(f"unknown fusion {name!r}: choose scan, {', '.join(FUSIONS)}")
