"""R(2+1)D-18 (Tran et al. 2018, arXiv 1711.11248): ResNet-18 over short clips, each 3x3x3 convolution split in two.

A convolution over height and width (1 x 3 x 3) to m channels, then one over time (3 x 1 x 1); m is chosen so that both
together have about as many weights as the 3-D convolution they stand for:

    m = floor(27 i o / (9 i + 3 o))          i channels in, o channels out (section 3.5)

As in the published weights, m is computed once per block, from the block's own i and o, and used for both of its
convolutions. Module names are those of torchvision's file, so its weights load as they are.
Published weights (Kinetics-400): `r2plus1d_18-91a641e6.pth` of https://download.pytorch.org/models/.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crossmamba.encoders.base import MotionEncoder
from crossmamba.encoders.remap import rename, select_encoder

__all__ = ["R2Plus1D", "remap_r2plus1d"]


class R2Plus1D(MotionEncoder):
    """R(2+1)D without its classification head; the defaults are R(2+1)D-18.

    Args:
        widths: channels of the four stages.
        depths: blocks of the four stages.
        stem_widths: channels after the stem's two convolutions; the second is the first stage's input.
        freeze: keep the weights as loaded; the batch norms then use their stored statistics.
    """

    published = "r2plus1d_18-91a641e6.pth from https://download.pytorch.org/models/r2plus1d_18-91a641e6.pth"

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        stem_widths: tuple[int, int] = (45, 64),
        *,
        freeze: bool = True,
    ) -> None:
        super().__init__(freeze=freeze)
        self.dim = widths[3]
        middle, incoming = stem_widths
        self.stem = nn.Sequential(
            nn.Conv3d(3, middle, (1, 7, 7), stride=(1, 2, 2), padding=(0, 3, 3), bias=False),
            nn.BatchNorm3d(middle),
            nn.ReLU(inplace=True),
            nn.Conv3d(middle, incoming, (3, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(incoming),
            nn.ReLU(inplace=True),
        )
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True), start=1):
            blocks = []
            for block in range(depth):
                blocks.append(_Block(incoming, width, stride=2 if stage > 1 and block == 0 else 1))
                incoming = width
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.set_frozen(freeze)

    def watch(self, clips: Tensor) -> Tensor:
        """(N, 3, F, H, W) -> (N, dim), the mean of the last stage over time and place."""
        x = self.stem(clips)  # (N, 64, F, H/2, W/2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)  # each but the first halves time, height and width
        return x.mean((2, 3, 4))

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `remap_r2plus1d`."""
        return remap_r2plus1d(state_dict)


class _Block(nn.Module):
    """Residual block of two factorised convolutions. (N, i, F, H, W) -> (N, o, F/s, H/s, W/s)."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        middle = 27 * incoming * outgoing // (9 * incoming + 3 * outgoing)
        self.conv1 = nn.Sequential(
            _factorised(incoming, middle, outgoing, stride), nn.BatchNorm3d(outgoing), nn.ReLU(inplace=True)
        )
        self.conv2 = nn.Sequential(_factorised(outgoing, middle, outgoing, 1), nn.BatchNorm3d(outgoing))
        self.downsample = None
        if stride != 1 or incoming != outgoing:
            self.downsample = nn.Sequential(
                nn.Conv3d(incoming, outgoing, kernel_size=1, stride=stride, bias=False), nn.BatchNorm3d(outgoing)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return torch.relu(self.conv2(self.conv1(x)) + shortcut)


def _factorised(incoming: int, middle: int, outgoing: int, stride: int) -> nn.Sequential:
    """Space, norm, ReLU, time."""
    return nn.Sequential(
        nn.Conv3d(incoming, middle, (1, 3, 3), stride=(1, stride, stride), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, outgoing, (3, 1, 1), stride=(stride, 1, 1), padding=(1, 0, 0), bias=False),
    )


def remap_r2plus1d(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names are ours: only wrapping names and the classification head (`fc.`) are taken off.

    Raises:
        CheckpointError: lists the keys that are not of this layout.
    """

    def translate(key: str) -> str | None:
        return key if key.startswith(("stem.", "layer1.", "layer2.", "layer3.", "layer4.")) else None

    remapped = rename(select_encoder(state_dict, ()), translate, ("fc.",), "torchvision layout of R(2+1)D")
    for key in [key for key in remapped if key.endswith(".running_mean")]:
        remapped.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return remapped
