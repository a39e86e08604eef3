"""VGGish (Hershey et al. 2017, arXiv 1609.09430), with the names of torchvggish, so its weights load as they are.

Published weights: `vggish-10086976.pth` (AudioSet) of https://github.com/harritaylor/torchvggish/releases/tag/v0.1.
Input: `crossmamba.data.logmel`. As AVS-Mamba, AVSBench and AVSegFormer use it (spec §1.3): the last ReLU
is kept, and there is no PCA and no quantisation.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from crossmamba.encoders.base import SoundEncoder
from crossmamba.encoders.remap import rename, select_encoder

__all__ = ["VGGish", "remap_vggish"]

_LAYERS = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool")


class VGGish(SoundEncoder):
    """Six 3x3 convolutions, four poolings and three linear layers; 72 141 184 parameters.

    Args:
        freeze: keep the weights as loaded (default, as in the papers); see `Encoder.set_frozen`.
    """

    published = "vggish-10086976.pth from https://github.com/harritaylor/torchvggish/releases/tag/v0.1"

    def __init__(self, *, freeze: bool = True) -> None:
        super().__init__(freeze=freeze)
        self.dim = 128
        layers: list[nn.Module] = []
        channels = 1
        for layer in _LAYERS:
            if isinstance(layer, int):
                layers += [nn.Conv2d(channels, layer, kernel_size=3, padding=1), nn.ReLU(inplace=True)]
                channels = layer
            else:
                layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(512 * 4 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, self.dim),
            nn.ReLU(inplace=True),
        )
        self.set_frozen(freeze)

    def embed(self, log_mel: Tensor) -> Tensor:
        """(N, 1, 96, 64) -> (N, 128), not negative."""
        x = self.features(log_mel)  # (N, 512, 6, 4)
        x = x.permute(0, 2, 3, 1).flatten(1)  # (N, 6*4*512): channels last, the order of the original TensorFlow model
        return self.embeddings(x)

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `remap_vggish`."""
        return remap_vggish(state_dict)


def remap_vggish(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvggish's names are ours: only wrapping names and the PCA (`pproc.`), which is not used, are taken off.

    Raises:
        CheckpointError: lists the keys that are not of this layout.
    """

    def translate(key: str) -> str | None:
        return key if key.startswith(("features.", "embeddings.")) else None

    return rename(select_encoder(state_dict, ("audio_backbone.",)), translate, ("pproc.",), "torchvggish layout")
