"""Small encoders that learn from scratch on a CPU, for the synthetic world and for tests. No published weights."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmamba.encoders.base import PictureEncoder, SoundEncoder
from crossmamba.errors import UsageError

__all__ = ["HalvingBlock", "SmallPyramid", "SmallSound", "checked_width", "conv_norm"]

_GROUPS = 8  # of the group norms: independent of the batch's size, so 2 clips a step train as 32 do


class SmallPyramid(PictureEncoder):
    """A stem and four residual blocks, each halving the picture.

    Args:
        widths: channels of the four levels, multiples of 8.
        stem_width: channels after the stem, a multiple of 8.
        freeze: start frozen.
        gradient_checkpointing: recompute each residual block in the backward pass.

    Raises:
        UsageError: a width that is not a positive multiple of 8.
    """

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (32, 48, 64, 64),
        stem_width: int = 24,
        *,
        freeze: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(freeze=freeze, gradient_checkpointing=gradient_checkpointing)
        if len(widths) != 4:
            raise UsageError(f"widths is {widths}; expected four, one for each level")
        a, b, c, d = (checked_width(width) for width in widths)
        self.channels = (a, b, c, d)
        self.stem = nn.Sequential(*conv_norm(3, checked_width(stem_width), stride=2), nn.SiLU())
        incoming = (stem_width, a, b, c)
        self.blocks = nn.ModuleList([HalvingBlock(i, o) for i, o in zip(incoming, self.channels, strict=True)])
        self.set_frozen(freeze)

    def pyramid(self, frames: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four levels (N, c_i, ceil(H / s_i), ceil(W / s_i))."""
        x = self.stem(frames.contiguous(memory_format=torch.channels_last))  # (N, stem, H/2, W/2); faster on CPU
        levels = []
        for block in self.blocks:
            x = self._run(block, x)
            levels.append(x)
        return levels


class SmallSound(SoundEncoder):
    """Three convolutions over time x mel, mean and maximum over time, two linear layers.

    Args:
        dim: width of the result.
        width: channels of the first convolution, a multiple of 8; the next have twice and four times as many.
        levels: the linear layers also get, of each of the 64 bands of the input itself, the mean, the maximum and the
            mean change: how loud and how busy it is, which the convolutions' group norms take away.
        freeze: start frozen.

    Raises:
        UsageError: a width that is not a positive multiple of 8.
    """

    def __init__(self, dim: int = 64, width: int = 16, *, levels: bool = False, freeze: bool = False) -> None:
        super().__init__(freeze=freeze)
        self.dim, self.levels = dim, levels
        widths = (1, checked_width(width), 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for incoming, outgoing in itertools.pairwise(widths):
            layers += [*conv_norm(incoming, outgoing, stride=2), nn.SiLU()]
        self.features = nn.Sequential(*layers)
        incoming = 2 * widths[-1] * 8 + (3 * 64 if levels else 0)
        self.head = nn.Sequential(nn.Linear(incoming, 128), nn.SiLU(), nn.Linear(128, dim))
        self.set_frozen(freeze)

    def embed(self, log_mel: Tensor) -> Tensor:
        """(N, 1, 96, 64) -> (N, dim)."""
        standardised = (log_mel + 2.0) / 2.0  # log-mel lies between log(0.01) = -4.6 and about 2
        x = self.features(standardised)  # (N, 4 width, 12, 8): time, mel
        x = torch.cat([x.mean(2), x.amax(2)], dim=1)  # (N, 8 width, 8): what lasts, and what happens once
        return self.head(torch.cat([x.flatten(1), _levels(standardised)], dim=1) if self.levels else x.flatten(1))


class HalvingBlock(nn.Module):
    """Residual block of two 3x3 convolutions, the first with stride 2. (N, i, H, W) -> (N, o, ceil(H/2), ceil(W/2))."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *conv_norm(incoming, outgoing, stride=2), nn.SiLU(), *conv_norm(outgoing, outgoing, stride=1)
        )
        self.shortcut = nn.Conv2d(incoming, outgoing, kernel_size=1, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.branch(x) + self.shortcut(x))


def _levels(log_mel: Tensor) -> Tensor:
    """(N, 1, 96, 64) -> (N, 192): mean, maximum and mean change over 20 ms of each band."""
    bands = log_mel[:, 0]  # (N, 96, 64)
    change = (bands[:, 2:] - bands[:, :-2]).abs().mean(1)
    return torch.cat([bands.mean(1), bands.amax(1), 3 * change], dim=1)


def conv_norm(incoming: int, outgoing: int, stride: int) -> tuple[nn.Conv2d, nn.GroupNorm]:
    """A 3 x 3 convolution and its norm, of 8 groups."""
    return nn.Conv2d(incoming, outgoing, kernel_size=3, stride=stride, padding=1), nn.GroupNorm(_GROUPS, outgoing)


def checked_width(width: int) -> int:
    """`width` itself, if the group norms can split it.

    Raises:
        UsageError: not a positive multiple of 8.
    """
    if width < 1 or width % _GROUPS:
        raise UsageError(f"width is {width}; expected a positive multiple of {_GROUPS} (the group norms' groups)")
    return width
