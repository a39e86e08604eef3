"""AVS-Mamba: audio-visual segmentation with temporal and multi-modal Mamba (arXiv 2501.07810, IEEE TMM).

Symbols (paper -> here):
    B clips, T frames (one a second), C width, levels i = 1..4 at strides 4, 8, 16, 32
    F_v^i      levels      (B, T, h_i, w_i, C)  projected picture features; F_v'^i after the encoder (i = 2..4)
    F_a        sound       (B, T, C)            projected sound features, the initial query of each frame
    F_a'       queries     (B, T, C)            after the decoder (one per decoder layer for training)
    F          features    (B*T, C, h_1, w_1)   mask features
    MTE, MAD, CIP          the paper's three parts, Fig. 2 to 5; the mask head is `blocks.mask_head`

Where the paper and the released code differ, docs/PAPER_VS_CODE.md says what is followed and which option gives the
other reading. Written from the paper and a description of the public code in words; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crossmamba.blocks import CMFusion, FusionScan, MaskHead, MixFFN, ScanLayer, ScanMixer
from crossmamba.blocks.layers import from_maps, to_maps, upsample
from crossmamba.blocks.scan_mixer import FRAME_ROUTES, TEMPORAL_ROUTES
from crossmamba.encoders import build_picture_encoder, build_sound_encoder
from crossmamba.models.baselines.fusion import KeepPicture, KeepSound, build_fusion
from crossmamba.models.registry import register_model

FUSION_TEMPORAL_ROUTES = ("THW+", "TWH+", "THW-", "TWH-")


@dataclass
class AVSOutput:
    """What the model returns.

    Attributes:
        logits: (B, T, classes, S, S) at the frames' size. Probability is sigmoid(logits) for one class.
        intermediate: logits of the earlier decoder layers, for their losses; empty in eval mode.
    """

    logits: Tensor
    intermediate: tuple[Tensor, ...] = ()


class LevelProjection(nn.Module):
    """1x1 convolution to the model's width and group norm, one per level."""

    def __init__(self, channels: Sequence[int], width: int) -> None:
        super().__init__()
        groups = 32 if width % 32 == 0 else 8
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(groups, width)) for c in channels
        )

    def forward(self, maps: list[Tensor], frames: int) -> list[Tensor]:
        """Four (B*T, c_i, h_i, w_i) -> four (B, T, h_i, w_i, C)."""
        return [from_maps(project(m), frames) for project, m in zip(self.levels, maps, strict=True)]


class MultiScaleTemporalEncoder(nn.Sequential):
    """MTE (Fig. 3): layers of VSS within frames, MixFFN, and Temporal Mamba over the clip, on levels 2 to 4."""


class ModalityAggregationDecoder(nn.Module):
    """MAD (Fig. 4): each layer visits the levels from fine to coarse, frame-level V2A first, then temporal-level.

    Args:
        layers: per layer, per level, the pair (frame-level, temporal-level) of fusion modules.
    """

    def __init__(self, layers: Sequence[Sequence[tuple[nn.Module, nn.Module]]]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleList(nn.ModuleList(pair) for pair in layer) for layer in layers)

    def forward(self, levels: list[Tensor], sound: Tensor, run: Callable[..., Any]) -> list[Tensor]:
        """Levels (B, T, h_i, w_i, C), sound (B, T, C) -> the queries after each layer, each (B, T, C)."""
        queries = []
        for layer in self.layers:
            for (frame_fusion, temporal_fusion), level in zip(layer, levels, strict=True):
                sound = run(frame_fusion, level, sound)
                sound = run(temporal_fusion, level, sound)
            queries.append(sound)
        return queries or [sound]


class ContextualIntegrationPyramid(nn.Module):
    """CIP (Fig. 5): from coarse to fine, lateral conv, Temporal Mamba, A2V fusion, plus the upsampled level below.

    Args:
        width: C. temporal: four layers for strides 4 to 32 (the same module may stand at two places).
        fusion: four A2V modules. upsampling: "nearest" (released code) or "bilinear" (paper).
    """

    def __init__(
        self, width: int, temporal: Sequence[nn.Module], fusion: Sequence[nn.Module], upsampling: str = "nearest"
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1, bias=False) for _ in range(4))
        self.temporal = nn.ModuleList(temporal)
        self.fusion = nn.ModuleList(fusion)
        self.output = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(4))
        self.mask_features = nn.Conv2d(width, width, 3, padding=1)
        for conv in [*self.lateral, *self.output, self.mask_features]:
            nn.init.kaiming_uniform_(conv.weight, a=1)  # c2_xavier_fill
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, levels: list[Tensor], sound: Tensor, run: Callable[..., Any]) -> Tensor:
        """Levels (B, T, h_i, w_i, C) for i = 1..4, sound (B, T, C) -> mask features (B*T, C, h_1, w_1)."""
        below: Tensor | None = None
        for i in (3, 2, 1, 0):
            current = from_maps(self.lateral[i](to_maps(levels[i])), levels[i].shape[1])
            (current,) = run(self.temporal[i], [current])
            current = to_maps(run(self.fusion[i], current, sound))
            if below is not None:
                current = current + upsample(below, current.shape[2:], self.upsampling)
            below = F.relu(self.output[i](current))
        return self.mask_features(below)


class AVSMamba(nn.Module):
    """The whole of Fig. 2. Built by `avs_mamba` from plain values; here the parts are passed in.

    Args:
        picture: encoder (N, 3, H, W) -> four levels. sound: encoder (N, 1, 96, 64) -> (N, dim).
        project, sound_proj: to the common width. encoder: MTE. decoder: MAD. pyramid: CIP. head: mask head.
    """

    def __init__(
        self,
        picture: nn.Module,
        sound: nn.Module,
        project: LevelProjection,
        sound_proj: nn.Module,
        encoder: MultiScaleTemporalEncoder,
        decoder: ModalityAggregationDecoder,
        pyramid: ContextualIntegrationPyramid,
        head: MaskHead,
    ) -> None:
        super().__init__()
        self.picture, self.sound = picture, sound
        self.project, self.sound_proj = project, sound_proj
        self.encoder, self.decoder, self.pyramid, self.head = encoder, decoder, pyramid, head
        self.gradient_checkpointing = False

    def forward(self, frames: Tensor, log_mel: Tensor) -> AVSOutput:
        """Segments what sounds.

        Args:
            frames: (B, T, 3, S, S') RGB, normalised with ImageNet's mean and deviation. At least 32 pixels a side.
            log_mel: (B, T, 1, 96, 64) VGGish log-mel, one example per frame.

        Returns:
            `AVSOutput`; in eval mode the earlier decoder layers' masks are not computed.

        Raises:
            ValueError: shapes that do not fit each other.
        """
        self._check(frames, log_mel)
        batch, seconds, _, *size = frames.shape
        maps = self.picture(frames.flatten(0, 1))  # (B*T, c_i, h_i, w_i)
        levels = self.project(maps, seconds)  # (B, T, h_i, w_i, C)
        sound = self.sound_proj(self.sound(log_mel.flatten(0, 1)).unflatten(0, (batch, seconds)))  # (B, T, C)

        multi_scale = levels[1:]
        for layer in self.encoder:
            multi_scale = self._run(layer, multi_scale)
        queries = self.decoder(multi_scale, sound, self._run)
        features = self.pyramid([levels[0], *multi_scale], sound, self._run)

        queries = queries if self.training else queries[-1:]
        *earlier, final = [self._masks(query, features, size) for query in queries]
        return AVSOutput(final, tuple(earlier))

    def _masks(self, query: Tensor, features: Tensor, size: Sequence[int]) -> Tensor:
        logits = self._run(self.head, query.flatten(0, 1), features)  # (B*T, classes, 4 h_1, 4 w_1)
        if tuple(logits.shape[2:]) != tuple(size):  # a side that is not a multiple of 4
            logits = upsample(logits, tuple(size), "bilinear")
        return logits.unflatten(0, query.shape[:2])

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute the encoder's stages and every scan block in the backward pass instead of keeping their insides."""
        self.gradient_checkpointing = enabled
        if hasattr(self.picture, "set_gradient_checkpointing"):
            self.picture.set_gradient_checkpointing(enabled)

    def _run(self, module: nn.Module, *inputs: Any) -> Any:
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)

    @staticmethod
    def _check(frames: Tensor, log_mel: Tensor) -> None:
        if frames.dim() != 5 or frames.shape[2] != 3:
            raise ValueError(f"frames are (B, T, 3, H, W), got {tuple(frames.shape)}")
        expected = (*frames.shape[:2], 1, 96, 64)
        if tuple(log_mel.shape) != expected:
            raise ValueError(f"log_mel is {expected} for these frames, got {tuple(log_mel.shape)}")


def avs_mamba(
    *,
    picture: str = "pvt_v2_b5",
    picture_args: dict[str, Any] | None = None,
    sound: str = "vggish",
    sound_args: dict[str, Any] | None = None,
    num_classes: int = 1,
    width: int = 256,
    d_state: int = 16,
    expand: int = 2,
    dt_rank: int | None = None,
    mte_layers: int = 2,
    mte_vss: bool = True,
    mte_ffn: Literal["mix", "none"] = "mix",
    ffn_ratio: int = 4,
    mte_temporal: bool = True,
    frame_routes: Sequence[str] = FRAME_ROUTES,
    scan_orders: Sequence[str] | int = 8,
    temporal_kernel: int = 1,
    mad_layers: int = 2,
    mad_frame: bool = True,
    mad_temporal: bool = True,
    fusion: str = "scan",
    fusion_frame_routes: Sequence[str] = FRAME_ROUTES,
    fusion_temporal_routes: Sequence[str] = FUSION_TEMPORAL_ROUTES,
    cip_temporal: bool = True,
    cip_fusion: bool = True,
    share_s4_temporal: bool = False,
    upsampling: Literal["nearest", "bilinear"] = "nearest",
    head_hidden: int = 2048,
    head_channels: tuple[int, int] = (128, 32),
    head_bias: float | None = None,
    head_scale: bool = False,
    drop_path: float = 0.1,
    linear_init: Literal["torch", "trunc_normal"] = "torch",
) -> AVSMamba:
    """Builds AVS-Mamba: the paper's model by default; every ablation of Tables III to VII is a value.

    Args:
        picture, sound: encoder names (`crossmamba.encoders`), with their own arguments in `*_args`.
        num_classes: 1 (S4, MS3) or 71 (AVSS). width: C. d_state, expand, dt_rank: of every scan.
        mte_layers: 0 is "w/o MTE" (Table III). mte_vss, mte_temporal: Table IV. Switching VSS off in the released
            code also drops the MixFFN: for its "w/o VSS" set `mte_ffn="none"` too. mte_ffn: "none" is the paper's text.
        scan_orders: routes of the Temporal Mamba blocks, by name, or 2, 4, 6, 8, 10, 12 for Table VII's nested sets.
        temporal_kernel: 3 reads IV-B's "3D convolution" literally.
        mad_layers: 0 is "w/o MAD". mad_frame, mad_temporal: Table V. cip_temporal, cip_fusion: Table VI; both False
            is "w/o CIP" (a plain feature pyramid remains).
        fusion: "scan" (the paper), "cm_mamba" (AV-Mamba's block, see `CMFusion`; it has no routes), or a baseline in
            its place: "film", "cross_attention", "none".
        share_s4_temporal: the released code's reuse of the stride-8 Temporal Mamba at stride 4.
        upsampling: "nearest" (released code) or "bilinear" (paper).
        head_hidden, head_channels, head_bias, head_scale: see `MaskHead`. drop_path: of every residual scan.
        linear_init: "trunc_normal" draws Linear weights with deviation 0.02 and zero biases, as VMamba does.

    Raises:
        ValueError: an unknown value; the message names the allowed ones.
    """
    temporal_routes = temporal_scan_orders(scan_orders)
    scan = {"d_state": d_state, "expand": expand, "dt_rank": dt_rank}
    if linear_init not in ("torch", "trunc_normal"):
        raise ValueError(f"linear_init is 'torch' or 'trunc_normal', not {linear_init!r}")
    if mte_ffn not in ("mix", "none"):
        raise ValueError(f"mte_ffn is 'mix' or 'none', not {mte_ffn!r}")

    def scan_layer(routes: Sequence[str]) -> ScanLayer:
        kernel = temporal_kernel if routes is temporal_routes else 1
        return ScanLayer(width, ScanMixer(width, routes, temporal_kernel=kernel, **scan), drop_path)

    def fuse(keep: Literal["sound", "picture"], routes: Sequence[str], wanted: bool) -> nn.Module:
        if not wanted:
            return KeepSound() if keep == "sound" else KeepPicture()
        if fusion == "scan":
            return FusionScan(width, keep, routes, drop_path=drop_path, **scan)
        if fusion == "cm_mamba":
            return CMFusion(width, keep, over_clip=len(routes[0]) == 4, **{**scan, "dt_rank": dt_rank or "auto"})
        return build_fusion(fusion, width, keep, over_clip=len(routes[0]) == 4)

    def mte_layer() -> nn.Sequential:
        layers = [
            scan_layer(frame_routes) if mte_vss else None,
            ScanLayer(width, MixFFN(width, ffn_ratio), drop_path) if mte_ffn == "mix" else None,
            scan_layer(temporal_routes) if mte_temporal else None,
        ]
        return nn.Sequential(*(layer for layer in layers if layer is not None))

    def decoder_level() -> tuple[nn.Module, nn.Module]:
        return (
            fuse("sound", fusion_frame_routes, mad_frame),
            fuse("sound", fusion_temporal_routes, mad_temporal),
        )

    picture_encoder = build_picture_encoder(picture, **(picture_args or {}))
    sound_encoder = build_sound_encoder(sound, **(sound_args or {}))
    cip_layers: list[nn.Module] = [scan_layer(temporal_routes) if cip_temporal else nn.Identity() for _ in range(4)]
    if share_s4_temporal:
        cip_layers[0] = cip_layers[1]
    model = AVSMamba(
        picture_encoder,
        sound_encoder,
        LevelProjection(picture_encoder.channels, width),
        nn.Linear(sound_encoder.dim, width),
        MultiScaleTemporalEncoder(*(mte_layer() for _ in range(mte_layers))),
        ModalityAggregationDecoder([[decoder_level() for _ in range(3)] for _ in range(mad_layers)]),
        ContextualIntegrationPyramid(
            width, cip_layers, [fuse("picture", fusion_temporal_routes, cip_fusion) for _ in range(4)], upsampling
        ),
        MaskHead(
            width, num_classes=num_classes, hidden=head_hidden, channels=head_channels, bias=head_bias, scale=head_scale
        ),
    )
    if linear_init == "trunc_normal":
        _draw_linears(model)
    return model


def temporal_scan_orders(orders: Sequence[str] | int) -> tuple[str, ...]:
    """Route names of the Temporal Mamba blocks; a number picks one of Table VII's nested sets."""
    if isinstance(orders, int):
        if orders not in (2, 4, 6, 8, 10, 12):
            raise ValueError(f"scan_orders is 2, 4, 6, 8, 10, 12 or a list of route names, not {orders}")
        return TEMPORAL_ROUTES[:orders]
    return tuple(orders)


def _draw_linears(model: AVSMamba) -> None:
    for part in (model.encoder, model.decoder, model.pyramid, model.sound_proj):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def _register() -> None:
    for size in range(6):
        register_model(f"avs_mamba_pvt_v2_b{size}", avs_mamba, picture=f"pvt_v2_b{size}")
    register_model("avs_mamba_resnet50", avs_mamba, picture="resnet50")
    register_model(
        "avs_mamba_small",
        avs_mamba,
        picture="small_pyramid",
        sound="small_sound",
        width=48,
        d_state=4,
        expand=1,
        mte_layers=1,
        ffn_ratio=2,
        scan_orders=4,
        mad_layers=2,
        head_hidden=64,
        head_channels=(16, 8),
        head_bias=-2.0,
        head_scale=True,
        drop_path=0.0,
    )


_register()
