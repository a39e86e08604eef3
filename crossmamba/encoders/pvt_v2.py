"""PVT v2 (Wang et al. 2022, arXiv 2106.13797), sizes B0 to B5, on transformers' modules.

Published weights: `pvt_v2_b{0..5}.pth` of https://github.com/whai362/PVT/releases/tag/v2 (ImageNet-1k), or the same
weights in transformers' layout, e.g. hf://OpenGVLab/pvt_v2_b5/model.safetensors.

Two things differ from transformers' defaults and are set here, so that published weights give published features:
the LayerNorms after patch embedding and spatial reduction have eps 1e-5 (all others 1e-6), and B5 has MLP ratios
4, 4, 4, 4 (the others 8, 8, 4, 4).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from crossmamba.encoders.base import PictureEncoder
from crossmamba.encoders.remap import rename, select_encoder

__all__ = ["PVT_V2_SIZES", "PvtV2", "PvtV2Size", "remap_pvt_v2"]


@dataclass(frozen=True)
class PvtV2Size:
    """One row of the paper's Table 1; heads (1, 2, 5, 8) and reductions (8, 4, 2, 1) are common to all."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratios: tuple[int, int, int, int] = (8, 8, 4, 4)


_WIDE = (64, 128, 320, 512)
PVT_V2_SIZES = {
    "pvt_v2_b0": PvtV2Size((32, 64, 160, 256), (2, 2, 2, 2)),
    "pvt_v2_b1": PvtV2Size(_WIDE, (2, 2, 2, 2)),
    "pvt_v2_b2": PvtV2Size(_WIDE, (3, 4, 6, 3)),
    "pvt_v2_b3": PvtV2Size(_WIDE, (3, 4, 18, 3)),
    "pvt_v2_b4": PvtV2Size(_WIDE, (3, 8, 27, 3)),
    "pvt_v2_b5": PvtV2Size(_WIDE, (3, 6, 40, 3), (4, 4, 4, 4)),
}


class PvtV2(PictureEncoder):
    """PVT v2 without its classification head; random weights until `load_encoder_weights`.

    Args:
        size: widths and depths; the named sizes are in `PVT_V2_SIZES`.
        drop_path: probability of skipping the last block's branches in training, falling linearly to 0 at the first;
            0.1 as in the PVT v2 that AVSBench and its heirs train.
        freeze: start frozen.
        gradient_checkpointing: recompute each transformer block in the backward pass.
    """

    published = "pvt_v2_b0.pth to pvt_v2_b5.pth from https://github.com/whai362/PVT/releases/tag/v2"

    def __init__(
        self,
        size: PvtV2Size,
        *,
        drop_path: float = 0.1,
        freeze: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        from transformers import PvtV2Backbone, PvtV2Config  # 3 seconds: not at package import

        super().__init__(freeze=freeze, gradient_checkpointing=gradient_checkpointing)
        self.channels = size.widths
        self.backbone = PvtV2Backbone(
            PvtV2Config(
                hidden_sizes=list(size.widths),
                depths=list(size.depths),
                mlp_ratios=list(size.mlp_ratios),
                num_attention_heads=[1, 2, 5, 8],
                sr_ratios=[8, 4, 2, 1],
                layer_norm_eps=1e-6,
                drop_path_rate=drop_path,
                out_features=["stage1", "stage2", "stage3", "stage4"],
            )
        )
        for stage in self.backbone.encoder.layers:
            stage.patch_embedding.layer_norm.eps = 1e-5
            for block in stage.blocks:
                if block.attention.spatial_reduction_ratio > 1:
                    block.attention.layer_norm.eps = 1e-5
        self.set_frozen(freeze)

    def pyramid(self, frames: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four levels: patch embedding, transformer blocks and LayerNorm of each stage (Fig. 2).

        The loop is written out, instead of calling the backbone, so that checkpointing goes block by block:
        transformers' own goes stage by stage and would recompute 40 blocks of B5 at once.
        """
        levels, x = [], frames
        for stage in self.backbone.encoder.layers:
            tokens, height, width = stage.patch_embedding(x)  # (N, h*w, c)
            for block in stage.blocks:
                (tokens,) = self._run(block, tokens, height, width)
            tokens = stage.layer_norm(tokens)
            x = tokens.transpose(1, 2).unflatten(2, (height, width)).contiguous()  # (N, c, h, w)
            levels.append(x)
        return levels

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Published or transformers names -> this module's."""
        return {f"backbone.{key}": value for key, value in remap_pvt_v2(state_dict).items()}


_IN_BLOCK = {
    "norm1": "layer_norm_1",
    "attn.q": "attention.query",
    "attn.kv": "attention.kv",  # split in two below
    "attn.sr": "attention.spatial_reduction",
    "attn.norm": "attention.layer_norm",
    "attn.proj": "attention.proj",
    "norm2": "layer_norm_2",
    "mlp.fc1": "mlp.dense1",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
    "mlp.fc2": "mlp.dense2",
}


def remap_pvt_v2(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate PVT v2's published names to transformers' `PvtV2Backbone`; transformers' own names pass as they are.

    Wrapping names (`module.`, `encoder_backbone.`, `pvt_v2.`, ...) are taken off and the classification head is left
    out. The published layout has one matrix for keys and values, transformers one for each.

    Raises:
        CheckpointError: lists the keys that are not of this layout.
    """
    selected = select_encoder(state_dict, ("pvt_v2.",))
    if any(key.startswith("encoder.layers.") for key in selected):
        return rename(selected, lambda key: key, ("classifier.",), "transformers layout of PVT v2")
    remapped = {}
    for key, value in rename(selected, _translate, ("head.",), "published layout of PVT v2").items():
        if ".attention.kv." in key:
            for name, half in zip(("key", "value"), value.chunk(2), strict=True):  # rows: all keys, then all values
                remapped[key.replace(".kv.", f".{name}.")] = half
        else:
            remapped[key] = value
    return remapped


def _translate(key: str) -> str | None:
    path, _, kind = key.rpartition(".")
    if match := re.fullmatch(r"block([1-4])\.(\d+)\.(.+)", path):
        stage, block, name = match.groups()
        if name in _IN_BLOCK:
            return f"encoder.layers.{int(stage) - 1}.blocks.{block}.{_IN_BLOCK[name]}.{kind}"
    elif match := re.fullmatch(r"patch_embed([1-4])\.(proj|norm)", path):
        name = {"proj": "proj", "norm": "layer_norm"}[match[2]]
        return f"encoder.layers.{int(match[1]) - 1}.patch_embedding.{name}.{kind}"
    elif match := re.fullmatch(r"norm([1-4])", path):
        return f"encoder.layers.{int(match[1]) - 1}.layer_norm.{kind}"
    return None
