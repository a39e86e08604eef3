"""Cross-modal fusion by scans. `FusionScan`: V2A and A2V of AVS-Mamba, one module. `CMFusion`: CM-Mamba in its place.

AVS-Mamba Fig. 4 and 5, eq. 12 to 19. The side whose results are kept is gated and gets the residual; the scan must
reach it after the other side, so sound stands last when sound is kept (V2A) and first when the picture is (A2V).
With routes over (H, W) every frame meets the sound of its own second only (frame level); with routes over (T, H, W)
the whole clip is one sequence (temporal level).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crossmamba.blocks.cm_mamba import CMMamba
from crossmamba.blocks.layers import CausalConv1d, DepthwiseConv, DropPath
from crossmamba.blocks.scan_mixer import fold_time, route_dimensions
from crossmamba.blocks.ssm import RouteSSM, default_dt_rank
from crossmamba.ops import route_table


class FusionScan(nn.Module):
    """Both modalities through linear, convolution and SiLU; one sequence; K scans; the kept side's tokens back.

    Args:
        dim: C. keep: "sound" (V2A) or "picture" (A2V). routes: K route names within a frame or over a clip.
        d_state: N. expand: D = expand * C. dt_rank: R, ceil(C / 16) if None.

    Parameter count at C 256, N 16, expand 2, K 4: 701,952.
    """

    def __init__(
        self,
        dim: int,
        keep: Literal["sound", "picture"],
        routes: Sequence[str],
        *,
        d_state: int = 16,
        expand: int = 2,
        dt_rank: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if keep not in ("sound", "picture"):
            raise ValueError(f"keep is 'sound' or 'picture', not {keep!r}")
        self.keep, self.routes, self.dimensions = keep, tuple(routes), route_dimensions(routes)
        inner = expand * dim
        self.picture_norm = nn.LayerNorm(dim, eps=1e-6)
        self.picture_proj = nn.Linear(dim, 2 * inner if keep == "picture" else inner, bias=False)
        self.picture_conv = DepthwiseConv(inner)
        self.sound_norm = nn.LayerNorm(dim, eps=1e-6)
        self.sound_proj = nn.Linear(dim, 2 * inner if keep == "sound" else inner, bias=False)
        self.sound_conv = CausalConv1d(inner)
        self.ssm = RouteSSM(inner, d_state, dt_rank or default_dt_rank(dim), len(self.routes))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.drop_path = DropPath(drop_path)

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        """picture (B, T, h, w, C), sound (B, T, C) -> the kept side, updated, in its own shape."""
        kept = sound if self.keep == "sound" else picture
        x = self.picture_proj(fold_time(self.picture_norm(picture), self.dimensions))
        s = self.sound_proj(self.sound_norm(sound))
        s = s if self.dimensions == 3 else s.flatten(0, 1)[:, None]  # (B, T, .) or (B*T, 1, .)
        if self.keep == "sound":
            s, z = s.chunk(2, dim=-1)
        else:
            x, z = x.chunk(2, dim=-1)
        x, s = F.silu(self.picture_conv(x)), F.silu(self.sound_conv(s))
        y = self._scan(x, s)  # (B or B*T, tokens kept, D)
        y = self.out_proj(self.out_norm(y) * F.silu(z.reshape(y.shape)))
        return kept + self.drop_path(y.reshape(kept.shape))

    def _scan(self, x: Tensor, s: Tensor) -> Tensor:
        grid, seconds = tuple(x.shape[4 - self.dimensions : 4]), s.shape[1]
        tokens = x.flatten(1, 3)
        if self.keep == "sound":
            table = route_table(self.routes, [grid], suffix=seconds, device=x.device)
            return self.ssm(torch.cat([tokens, s], dim=1), table)[:, -seconds:]
        table = route_table(self.routes, [grid], prefix=seconds, device=x.device)
        return self.ssm(torch.cat([s, tokens], dim=1), table)[:, seconds:]


class CMFusion(nn.Module):
    """AV-Mamba's CM-Mamba where AVS-Mamba has its fusion scans: the other modality is a query, not part of a sequence.

    Ours, after AV-Mamba's two uses of the block (its Fig. 3 and 4). Frame level: each frame's tokens are the sequence,
    row by row, and the sound of that second is the query; a kept sound takes the mean of the result. Clip level: the
    kept side over the whole clip is the sequence, tier 1 scans its sum with the other side, second by second (as
    CM III), and the other side's mean over the clip is the query.

    Args:
        dim: C. keep: "sound" (V2A) or "picture" (A2V). over_clip: clip level. options: of `CMMamba`.
    """

    def __init__(self, dim: int, keep: Literal["sound", "picture"], over_clip: bool, **options: Any) -> None:
        super().__init__()
        if keep not in ("sound", "picture"):
            raise ValueError(f"keep is 'sound' or 'picture', not {keep!r}")
        self.keep, self.over_clip = keep, over_clip
        self.scan = CMMamba(dim, **options)
        self.own = nn.Linear(dim, dim) if over_clip else None
        self.other = nn.Linear(dim, dim) if over_clip or keep == "sound" else None

    def forward(self, picture: Tensor, sound: Tensor) -> Tensor:
        """picture (B, T, h, w, C), sound (B, T, C) -> the kept side, updated, in its own shape."""
        if self.over_clip:
            return self._over_clip(picture, sound)
        tokens = self.scan(sound.flatten(0, 1), picture.flatten(2, 3).flatten(0, 1))  # (B*T, h*w, C)
        if self.keep == "picture":
            return tokens.reshape(picture.shape)
        return sound + self.other(tokens.mean(dim=1)).reshape(sound.shape)

    def _over_clip(self, picture: Tensor, sound: Tensor) -> Tensor:
        if self.keep == "sound":
            kept, other = sound, picture.mean(dim=(2, 3))  # (B, T, C) each
            query = other.mean(dim=1)
        else:
            kept, other = picture, sound[:, :, None, None]  # (B, T, h, w, C), (B, T, 1, 1, C)
            query = sound.mean(dim=1)
        both = self.own(kept) + self.other(other)
        return self.scan(query, both.flatten(1, -2), kept.flatten(1, -2)).reshape(kept.shape)
