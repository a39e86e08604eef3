"""ResNets (He et al. 2016, arXiv 1512.03385) as torchvision has them: ResNet-50 as a pyramid, ResNet-18 per frame.

ResNet-50 is "v1.5": the stride is in the 3x3 convolution.
Published weights (ImageNet-1k): `resnet50-19c8e357.pth` and `resnet18-f37072fd.pth` of
https://download.pytorch.org/models/, or any file in torchvision's layout, e.g.
hf://timm/resnet50.tv_in1k/model.safetensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crossmamba.encoders.base import FrameEncoder, FrameFeatures, PictureEncoder
from crossmamba.encoders.remap import rename, select_encoder
from crossmamba.errors import UsageError

__all__ = ["ResNet", "ResNetFrames", "remap_resnet"]


class ResNet(PictureEncoder):
    """Bottleneck ResNet without its classification head on transformers' modules; the defaults are ResNet-50.

    Args:
        widths: channels of the four stages.
        depths: blocks of the four stages.
        stem_width: channels after the first convolution.
        freeze_batch_norm: normalise with the stored statistics in training too, and leave them as they are. The
            default, because a batch of a few clips of look-alike frames gives poor statistics. Scale and shift learn.
        freeze: start frozen.
        gradient_checkpointing: recompute each bottleneck block in the backward pass.

    Raises:
        UsageError: gradient checkpointing together with learning batch statistics.
    """

    published = "resnet50-19c8e357.pth from https://download.pytorch.org/models/resnet50-19c8e357.pth"

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (256, 512, 1024, 2048),
        depths: tuple[int, int, int, int] = (3, 4, 6, 3),
        stem_width: int = 64,
        *,
        freeze_batch_norm: bool = True,
        freeze: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        from transformers import ResNetBackbone, ResNetConfig  # 3 seconds: not at package import

        self.freeze_batch_norm = freeze_batch_norm  # before super(): the checkpointing switch asks for it
        super().__init__(freeze=freeze, gradient_checkpointing=gradient_checkpointing)
        self.channels = (widths[0], widths[1], widths[2], widths[3])
        self.backbone = ResNetBackbone(
            ResNetConfig(
                embedding_size=stem_width,
                hidden_sizes=list(widths),
                depths=list(depths),
                layer_type="bottleneck",
                downsample_in_bottleneck=False,
                out_features=["stage1", "stage2", "stage3", "stage4"],
            )
        )
        self.set_frozen(freeze)
        self.train()  # puts the batch norms where freeze_batch_norm wants them

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """See `PictureEncoder.set_gradient_checkpointing`; refused with learning batch statistics."""
        if enabled and not self.freeze_batch_norm:
            raise UsageError(
                "gradient_checkpointing with freeze_batch_norm=False would count every batch twice in the running "
                "statistics: choose one of the two"
            )
        super().set_gradient_checkpointing(enabled)

    def train(self, mode: bool = True) -> ResNet:
        """As `Encoder.train`; frozen batch norms stay in eval mode."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def pyramid(self, frames: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four levels: the stem, then the outputs of the four stages (He et al., Table 1)."""
        levels, x = [], self.backbone.embedder(frames)  # (N, 64, H/4, W/4)
        for stage in self.backbone.encoder.stages:
            for block in stage.layers:
                x = self._run(block, x)
            levels.append(x)
        return levels

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's, AVSBench's or transformers names -> this module's."""
        return {f"backbone.{key}": value for key, value in remap_resnet(state_dict).items()}


class ResNetFrames(FrameEncoder):
    """A ResNet of basic blocks up to its last stage: the grid there, and its mean; the defaults are ResNet-18.

    The grid has a cell for every 32 pixels: 448 pixels give MUSIC-AVQA's 14 x 14, 224 pixels 7 x 7. `vector` is the
    mean over the grid, torchvision's features before the classification head.

    Args:
        widths: channels of the four stages.
        depths: blocks of the four stages.
        stem_width: channels after the first convolution.
        freeze: keep the weights as loaded; the batch norms then use their stored statistics.
    """

    published = "resnet18-f37072fd.pth from https://download.pytorch.org/models/resnet18-f37072fd.pth"

    def __init__(
        self,
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        depths: tuple[int, int, int, int] = (2, 2, 2, 2),
        stem_width: int = 64,
        *,
        freeze: bool = True,
    ) -> None:
        from transformers import ResNetBackbone, ResNetConfig

        super().__init__(freeze=freeze)
        self.dim = widths[3]
        self.backbone = ResNetBackbone(
            ResNetConfig(
                embedding_size=stem_width,
                hidden_sizes=list(widths),
                depths=list(depths),
                layer_type="basic",
                out_features=["stage4"],
            )
        )
        self.set_frozen(freeze)

    def look(self, frames: Tensor) -> FrameFeatures:
        """(N, 3, H, W) -> vector (N, dim), grid (N, dim, ceil(H / 32), ceil(W / 32))."""
        grid = self.backbone(frames).feature_maps[0]
        return FrameFeatures(grid.mean((2, 3)), grid=grid)

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """torchvision's or transformers names -> this module's."""
        return {f"backbone.{key}": value for key, value in remap_resnet(state_dict).items()}


def remap_resnet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate torchvision's names to transformers' `ResNetBackbone`; transformers' own names pass as they are.

    Wrapping names are taken off and the classification head is left out. AVSBench's trunk calls its third and fourth
    stage `layer3_1` and `layer4_1`; the copies `layer3_2` and `layer4_2` beside them, which its forward never reaches,
    are left out. Files from before torch 0.4.1, `resnet50-19c8e357.pth` among them, lack the batch norms' counter
    `num_batches_tracked`, which has no effect on the output: it starts at 0.

    Raises:
        CheckpointError: lists the keys that are not of this layout.
    """
    selected = select_encoder(state_dict, ("resnet.",))
    if any(key.startswith("encoder.stages.") for key in selected):
        remapped = rename(selected, lambda key: key, ("classifier.",), "transformers layout of ResNet")
    else:
        remapped = rename(selected, _translate, ("fc.", "layer3_2.", "layer4_2."), "torchvision layout of ResNet")
    for key in [key for key in remapped if key.endswith(".running_mean")]:
        remapped.setdefault(key.replace("running_mean", "num_batches_tracked"), torch.tensor(0))
    return remapped


def _translate(key: str) -> str | None:
    path, _, kind = key.rpartition(".")
    if path in ("conv1", "bn1"):
        return f"embedder.embedder.{'convolution' if path == 'conv1' else 'normalization'}.{kind}"
    match = re.fullmatch(r"layer([1-4])(?:(?<=[34])_1)?\.(\d+)\.(conv|bn|downsample\.)(\d)", path)
    if match is None:
        return None
    stage, block, part, number = int(match[1]) - 1, match[2], match[3], int(match[4])
    if part == "downsample.":
        return f"encoder.stages.{stage}.layers.{block}.shortcut.{('convolution', 'normalization')[number]}.{kind}"
    name = {"conv": "convolution", "bn": "normalization"}[part]
    return f"encoder.stages.{stage}.layers.{block}.layer.{number - 1}.{name}.{kind}"
