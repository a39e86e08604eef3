"""Video encoders of transformers behind one contract: VideoMAE, TimeSformer, ViViT, V-JEPA 2; CLIP in clip_video.py.

Symbols: B clips, T frames of S x S pixels, d width, T' x H' x W' tokens.

| encoder | tokens of 16 x 224 x 224 | class token | published weights expect |
|---|---|---|---|
| VideoMAE B (arXiv 2203.12602) | 8 x 14 x 14 | no | ImageNet's mean and deviation |
| TimeSformer B (arXiv 2102.05095) | 16 x 14 x 14 | yes | 0.45, 0.225 |
| ViViT B/16x2 (arXiv 2103.15691) | 8 x 14 x 14 (of 32 frames 16 x 14 x 14) | yes | 0.5, 0.5 |
| V-JEPA 2 L (arXiv 2506.09985) | 8 x 14 x 14 | no | ImageNet's |
| CLIP B/16 (arXiv 2103.00020) | 16 x 14 x 14 | mean of the frames' | CLIP's |

TimeSformer's own row of tokens has time fastest; here it becomes a grid like the others', and `order` decides.
Every token passes the published model's last layer norm. Published files are read in the names of transformers 4 and 5,
with or without the heads and decoders around the encoder; learned vectors of each frame are stretched linearly to
another number of frames.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crossmamba.encoders.clip import CLIP_SIZES
from crossmamba.encoders.egocentric import DropPath, drop_path_rates
from crossmamba.encoders.remap import rename, select_encoder
from crossmamba.encoders.video_base import VideoEncoder
from crossmamba.errors import UsageError

__all__ = [
    "VIDEO_SIZES",
    "TimeSformer",
    "TransformersVideo",
    "VJepa2",
    "ViViT",
    "VideoMAE",
    "VideoSize",
    "stretch_frames",
]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class VideoSize:
    """The size of a video transformer.

    Attributes:
        width, depth, heads, hidden: d, blocks, heads, width between the two linear layers.
        patch: side of a patch in pixels.
        published: where published weights are.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int = 16
    published: str = ""


_HUB = "https://huggingface.co/"
VIDEO_SIZES: dict[str, VideoSize] = {
    "videomae_b": VideoSize(768, 12, 12, 3072, published=f"{_HUB}MCG-NJU/videomae-base"),
    "videomae_l": VideoSize(1024, 24, 16, 4096, published=f"{_HUB}MCG-NJU/videomae-large"),
    "timesformer_b": VideoSize(768, 12, 12, 3072, published=f"{_HUB}facebook/timesformer-base-finetuned-k400"),
    "vivit_b": VideoSize(768, 12, 12, 3072, published=f"{_HUB}google/vivit-b-16x2-kinetics400"),
    "vjepa2_l": VideoSize(1024, 24, 16, 4096, published=f"{_HUB}facebook/vjepa2-vitl-fpc64-256"),
    "vjepa2_h": VideoSize(1280, 32, 16, 5120, published=f"{_HUB}facebook/vjepa2-vith-fpc64-256"),
    "vjepa2_g": VideoSize(1408, 40, 22, 6144, published=f"{_HUB}facebook/vjepa2-vitg-fpc64-256"),
}
VIDEO_SIZES |= {
    name: VideoSize(size.width, size.depth, size.heads, 4 * size.width, size.patch, size.published)
    for name, size in (("clip_b", CLIP_SIZES["clip_vit_b16"]), ("clip_l", CLIP_SIZES["clip_vit_l14"]))
}


class TransformersVideo(VideoEncoder):
    """What the encoders of this file share: a tower of transformers, and reading its published names.

    Subclasses set `tower`, `wrappers`, `dropped`, `layout`, and implement `watch`.

    Args:
        size: name in `VIDEO_SIZES`, or the numbers.
        frames: T. image: S.
        order: see `VideoEncoder`. cls_place: see `VideoEncoder`. freeze: see `VideoEncoder`.
    """

    tower: nn.Module
    wrappers: ClassVar[tuple[str, ...]]
    """Names around the encoder in published files."""
    dropped: ClassVar[tuple[str, ...]]
    """Beginnings of keys that are not the encoder's."""
    layout: ClassVar[str]
    """The layout's name, for messages."""
    temporal: ClassVar[tuple[str, ...]] = ()
    """Keys of learned vectors of each frame (or tube): (1, T', d), stretched to this encoder's T'."""

    def __init__(
        self, size: str | VideoSize, frames: int | None, image: int, *, order: str, cls_place: str, freeze: bool
    ) -> None:
        super().__init__(order=order, cls_place=cls_place, freeze=freeze)
        if isinstance(size, str) and size not in VIDEO_SIZES:
            raise UsageError(f"no size {size!r}; there are {', '.join(VIDEO_SIZES)}")
        self.numbers = VIDEO_SIZES[size] if isinstance(size, str) else size
        self.published = self.numbers.published  # type: ignore[misc]
        self.dim, self.patch, self.frames, self.size = self.numbers.width, self.numbers.patch, frames, (image, image)
        if image < self.patch or image % self.patch:
            raise UsageError(f"image is {image} pixels; expected a multiple of the patch, {self.patch}")
        if frames is not None and (frames < 1 or frames % self.tubelet):
            raise UsageError(f"frames is {frames}; {type(self).__name__} takes multiples of {self.tubelet}")
        self.cells = image // self.patch

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """See `VideoEncoder.set_gradient_checkpointing`; transformers does it."""
        super().set_gradient_checkpointing(enabled)
        # transformers renamed both between 5.0 and 5.23
        verb, arguments = ("enable", ({"use_reentrant": False},)) if enabled else ("disable", ())
        new, old = f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}"
        getattr(self.tower, new if hasattr(self.tower, new) else old)(*arguments)

    def translate(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A published file's encoder, in the names of the transformers release that is installed.

        Raises:
            CheckpointError: lists the keys that are not of this layout.
        """
        own = self.tower.state_dict()
        names = {canonical_key(key): key for key in own}
        state = rename(
            select_encoder(state_dict, (*self.wrappers, "tower.")),
            lambda key: names.get(canonical_key(key)),
            self.dropped,
            self.layout,
        )
        for key in self.temporal:
            if key in state and state[key].ndim == 3 and state[key].shape != own[key].shape:
                state[key] = self._stretched(state[key], own[key])
        return {f"tower.{key}": value for key, value in state.items()}

    def _stretched(self, loaded: Tensor, own: Tensor) -> Tensor:
        return stretch_frames(loaded, own.shape[1])

    def _common(self) -> dict[str, Any]:
        return {
            "hidden_size": self.numbers.width,
            "num_hidden_layers": self.numbers.depth,
            "num_attention_heads": self.numbers.heads,
            "intermediate_size": self.numbers.hidden,
            "image_size": self.cells * self.patch,
        }


class VideoMAE(TransformersVideo):
    """VideoMAE's encoder. Fixed sine places; tubes of 2 frames; no class token.

    A fine-tuned file has its last norm behind the mean over the tokens (`fc_norm`); it is used for each token here.

    Args:
        size: see `TransformersVideo`. frames: an even number. image: S.
        order: see `VideoEncoder`. cls_place: there is no class token. freeze: see `VideoEncoder`.
    """

    tubelet = 2
    mean, deviation = _IMAGENET
    wrappers = ("videomae.",)
    dropped = ("classifier.", "decoder.", "encoder_to_decoder.", "mask_token", "position_embeddings", "fc_norm.")
    layout = "transformers layout of VideoMAE"

    def __init__(
        self,
        size: str | VideoSize = "videomae_b",
        *,
        frames: int = 16,
        image: int = 224,
        order: str = "time_major",
        cls_place: str = "first",
        freeze: bool = False,
    ) -> None:
        from transformers import VideoMAEConfig, VideoMAEModel  # 3 seconds: not at package import

        super().__init__(size, frames, image, order=order, cls_place=cls_place, freeze=freeze)
        self.tower = VideoMAEModel(
            VideoMAEConfig(**self._common(), patch_size=self.patch, num_frames=frames, use_mean_pooling=False)
        )
        self.set_frozen(freeze)

    def watch(self, clip: Tensor) -> tuple[Tensor, None]:
        """(B, 3, T, S, S) -> (B, T / 2, H', W', d)."""
        row = self.tower(clip.transpose(1, 2)).last_hidden_state
        return row.unflatten(1, (-1, self.cells, self.cells)), None

    def translate(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `TransformersVideo.translate`."""
        state = select_encoder(state_dict, ())
        for kind in ("weight", "bias"):
            if f"fc_norm.{kind}" in state:
                state.setdefault(f"videomae.layernorm.{kind}", state[f"fc_norm.{kind}"])
        return super().translate(state)


class TimeSformer(TransformersVideo):
    """TimeSformer with divided attention, class token and a learned vector of each frame.

    Args:
        size: see `TransformersVideo`. frames: T; weights of another number (8 published) are stretched. image: S.
        drop_path: of the last block, falling linearly to 0 at the first.
        order: see `VideoEncoder`. cls_place: see `VideoEncoder`. freeze: see `VideoEncoder`.
    """

    mean, deviation = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)
    wrappers = ("timesformer.",)
    dropped = ("classifier.",)
    layout = "transformers layout of TimeSformer"
    temporal = ("embeddings.time_embeddings",)

    def __init__(
        self,
        size: str | VideoSize = "timesformer_b",
        *,
        frames: int = 16,
        image: int = 224,
        drop_path: float = 0.0,
        order: str = "time_major",
        cls_place: str = "first",
        freeze: bool = False,
    ) -> None:
        from transformers import TimesformerConfig, TimesformerModel

        super().__init__(size, frames, image, order=order, cls_place=cls_place, freeze=freeze)
        self.tower = TimesformerModel(TimesformerConfig(**self._common(), patch_size=self.patch, num_frames=frames))
        # its config takes whole numbers only for this rate (transformers 5)
        for layer, rate in zip(self.tower.encoder.layer, drop_path_rates(drop_path, self.numbers.depth), strict=True):
            layer.drop_path = DropPath(rate)
        self.set_frozen(freeze)

    def watch(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, S, S) -> (B, T, H', W', d), (B, d). Its own row is a place after the other, each through time."""
        row = self.tower(clip.transpose(1, 2)).last_hidden_state
        cells = row[:, 1:].unflatten(1, (self.cells, self.cells, clip.shape[2]))
        return cells.permute(0, 3, 1, 2, 4), row[:, 0]


class ViViT(TransformersVideo):
    """ViViT, model 1: joint attention of tubes of 2 frames, class token, a learned vector of each place and time.

    Args:
        size: see `TransformersVideo`. frames: an even number; weights of another (32 published) are stretched in time.
        image: S. order: see `VideoEncoder`. cls_place: see `VideoEncoder`. freeze: see `VideoEncoder`.
    """

    tubelet = 2
    wrappers = ("vivit.",)
    dropped = ("classifier.", "pooler.")
    layout = "transformers layout of ViViT"
    temporal = ("embeddings.position_embeddings",)

    def __init__(
        self,
        size: str | VideoSize = "vivit_b",
        *,
        frames: int = 32,
        image: int = 224,
        order: str = "time_major",
        cls_place: str = "first",
        freeze: bool = False,
    ) -> None:
        from transformers import VivitConfig, VivitModel

        super().__init__(size, frames, image, order=order, cls_place=cls_place, freeze=freeze)
        tube = [self.tubelet, self.patch, self.patch]
        self.tower = VivitModel(
            VivitConfig(**self._common(), num_frames=frames, tubelet_size=tube), add_pooling_layer=False
        )
        self.set_frozen(freeze)

    def watch(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, S, S) -> (B, T / 2, H', W', d), (B, d)."""
        row = self.tower(clip.transpose(1, 2)).last_hidden_state
        return row[:, 1:].unflatten(1, (-1, self.cells, self.cells)), row[:, 0]

    def _stretched(self, loaded: Tensor, own: Tensor) -> Tensor:
        places = self.cells**2
        if (loaded.shape[1] - 1) % places:
            return loaded  # of another picture size: loading says so
        table = loaded[0, 1:].unflatten(0, (-1, places)).transpose(0, 1)  # (places, T', d)
        table = stretch_frames(table, (own.shape[1] - 1) // places).transpose(0, 1)
        return torch.cat([loaded[:, :1], table.flatten(0, 1)[None]], dim=1)


class VJepa2(TransformersVideo):
    """V-JEPA 2's encoder, without its predictor: rotary places, so any even number of frames; no class token.

    Args:
        size: see `TransformersVideo`. frames: an even number, or None for any. image: S; 256 in pretraining.
        drop_path: of the last block, falling linearly to 0 at the first.
        order: see `VideoEncoder`. cls_place: there is no class token. freeze: see `VideoEncoder`.
    """

    tubelet = 2
    mean, deviation = _IMAGENET
    wrappers = ("vjepa2.",)
    dropped = ("predictor.", "pooler.", "classifier.")
    layout = "transformers layout of V-JEPA 2"

    def __init__(
        self,
        size: str | VideoSize = "vjepa2_l",
        *,
        frames: int | None = None,
        image: int = 224,
        drop_path: float = 0.0,
        order: str = "time_major",
        cls_place: str = "first",
        freeze: bool = False,
    ) -> None:
        from transformers import VJEPA2Config, VJEPA2Model

        super().__init__(size, frames, image, order=order, cls_place=cls_place, freeze=freeze)
        common = self._common()
        common |= {"crop_size": common.pop("image_size"), "mlp_ratio": common.pop("intermediate_size") / self.dim}
        self.tower = VJEPA2Model(
            VJEPA2Config(
                **common, patch_size=self.patch, drop_path_rate=drop_path, pred_num_hidden_layers=1, pred_hidden_size=24
            )
        )
        self.tower.predictor = nn.Identity()  # never called: its weights are not kept
        self.set_frozen(freeze)

    def watch(self, clip: Tensor) -> tuple[Tensor, None]:
        """(B, 3, T, S, S) -> (B, T / 2, H', W', d)."""
        row = self.tower(clip.transpose(1, 2), skip_predictor=True).last_hidden_state
        return row.unflatten(1, (-1, self.cells, self.cells)), None


def stretch_frames(vectors: Tensor, frames: int) -> Tensor:
    """Learned vectors of each frame for another number of frames, linearly: (n, T, d) -> (n, frames, d)."""
    if vectors.shape[1] == frames:
        return vectors
    return F.interpolate(vectors.transpose(1, 2), frames, mode="linear", align_corners=False).transpose(1, 2)


# transformers renamed modules between 4.x, in whose names files are published, and 5.x. Both sides are brought to these
# names and matched there, so it does not matter which release is installed.
_CANONICAL = (
    (re.compile(r"^vision_model\."), ""),
    (re.compile(r"^(?:encoder\.)?(?:layers?|blocks)\.(\d+)\."), r"blocks.\1."),
    (re.compile(r"^encoder\."), ""),
    (re.compile(r"\battention\.attention\."), "attention."),
    (re.compile(r"_attention\.attention\."), "_attention."),
    (re.compile(r"attention\.([qv])_bias$"), r"attention.\1_proj.bias"),
    (re.compile(r"attention\.(q)uery\.|attention\.(k)ey\.|attention\.(v)alue\."), r"attention.\1\2\3_proj."),
    (re.compile(r"attention\.(?:output\.dense|o_proj)\."), "attention.out."),
    (re.compile(r"^(blocks\.\d+)\.(?:intermediate\.dense|mlp\.fc1)\."), r"\1.fc1."),
    (re.compile(r"^(blocks\.\d+)\.(?:output\.dense|mlp\.fc2)\."), r"\1.fc2."),
)


def canonical_key(key: str) -> str:
    """A transformers key, of release 4 or 5, in one spelling."""
    for pattern, replacement in _CANONICAL:
        key = pattern.sub(replacement, key)
    return key
