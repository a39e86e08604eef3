"""A small video encoder that learns from scratch on a CPU: for the synthetic kitchen and for tests. Nothing published.

Each frame passes a small convolution net together with its difference from the frame before, so motion is in the tokens
and nothing looks ahead: a live stream is encoded frame by frame (`step`) with the same result as a whole clip.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmamba.encoders.small import HalvingBlock, checked_width, conv_norm
from crossmamba.encoders.video_base import VideoEncoder

__all__ = ["SmallVideoEncoder"]

MOTION = 4.0
"""Factor on the difference of two frames: most pixels do not change, and the frame itself would drown those that do.
On 604 segments of the synthetic kitchen three passes brought the loss to 4.87 without it and to 4.73 with a factor of 3
(one seed; 4 itself was not compared)."""
CELLS = 4  # cells along a side of the learned places: 64 pixels at stride 16


class SmallVideoEncoder(VideoEncoder):
    """16 tokens for each frame of 64 x 64 pixels, no class token.

    The convolution net reads 6 channels: the frame and `MOTION` times its difference from the frame before, zero at the
    first. A learned vector of each of 4 x 4 places is added (stretched to other grids), then a layer norm.

    Args:
        width: d, a positive multiple of 8.
        stem_width: channels after the first convolution, a positive multiple of 8.
        per_frame: one token a frame in place of 16, a linear layer of mean and maximum over the places: what is built
            on the tokens costs less.
        order: see `VideoEncoder`.
        cls_place: taken by all video encoders; there is no class token here.
        freeze: start frozen.

    Raises:
        UsageError: a width that is not a positive multiple of 8.
    """

    patch = 16

    def __init__(
        self,
        width: int = 64,
        stem_width: int = 24,
        *,
        per_frame: bool = False,
        order: str = "time_major",
        cls_place: str = "first",
        freeze: bool = False,
    ) -> None:
        super().__init__(order=order, cls_place=cls_place, freeze=freeze)
        self.dim = checked_width(width)
        middle = 8 * max(1, width // 16)  # half of the width, in whole groups
        self.stem = nn.Sequential(*conv_norm(6, checked_width(stem_width), stride=2), nn.SiLU())
        self.blocks = nn.Sequential(
            HalvingBlock(stem_width, middle), HalvingBlock(middle, width), HalvingBlock(width, width)
        )
        self.places = nn.Parameter(0.02 * torch.randn(width, CELLS, CELLS))
        self.gather = nn.Linear(2 * width, width) if per_frame else None
        self.norm = nn.LayerNorm(width)
        self.set_frozen(freeze)

    def watch(self, clip: Tensor) -> tuple[Tensor, None]:
        """(B, 3, T, H, W) -> (B, T, H / 16, W / 16, d), or (B, T, 1, 1, d) per frame; no class token."""
        frames = clip.transpose(1, 2)  # (B, T, 3, H, W)
        before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
        cells = self._encode(frames.flatten(0, 1), before.flatten(0, 1))
        return cells.unflatten(0, frames.shape[:2]), None

    @property
    def streams(self) -> bool:
        """In time-major order."""
        return self.order == "time_major"

    def watch_frame(self, frame: Tensor, previous: Tensor | None) -> Tensor:
        """(B, 3, H, W), and the frame before or None -> (B, H / 16, W / 16, d), or (B, 1, 1, d) per frame."""
        return self._encode(frame, frame if previous is None else previous)

    def _encode(self, frames: Tensor, before: Tensor) -> Tensor:
        """(N, 3, H, W) twice -> (N, H / 16, W / 16, d), or (N, 1, 1, d) per frame."""
        both = torch.cat([frames, MOTION * (frames - before)], dim=1)
        x = self.blocks(self.stem(both.contiguous(memory_format=torch.channels_last)))
        places = self.places[None]
        if places.shape[2:] != x.shape[2:]:
            places = F.interpolate(places, x.shape[2:], mode="bilinear", align_corners=False)
        x = x + places
        if self.gather is not None:
            x = F.silu(self.gather(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)))[:, :, None, None]
        return self.norm(x.permute(0, 2, 3, 1))
