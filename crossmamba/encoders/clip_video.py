"""CLIP's picture tower on each frame of a clip (Radford et al. 2021, arXiv 2103.00020), as a video encoder.

Symbols: B clips, T frames of S x S pixels, P patches of a frame in H' x W', d width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crossmamba.encoders.clip import remap_clip
from crossmamba.encoders.remap import select_encoder
from crossmamba.encoders.video import TransformersVideo, VideoSize, canonical_key, stretch_frames
from crossmamba.errors import CheckpointError

__all__ = ["ClipVideo"]


class ClipVideo(TransformersVideo):
    """CLIP's picture tower on each frame, its tokens after the last norm, without the projection to the joint space.

    The class token is the mean of the frames'. A learned vector of each frame is added to its tokens; it is zero at
    first and after loading CLIP's weights, which have none.

    Args:
        size: see `TransformersVideo`. frames: T. image: S.
        temporal_embedding: without it, any number of frames; and with `cls_place="drop"` frame by frame (`step`).
        order: see `VideoEncoder`. cls_place: see `VideoEncoder`. freeze: see `VideoEncoder`.
    """

    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    layout = "layout of CLIP"

    def __init__(
        self,
        size: str | VideoSize = "clip_b",
        *,
        frames: int = 16,
        image: int = 224,
        temporal_embedding: bool = True,
        order: str = "time_major",
        cls_place: str = "first",
        freeze: bool = False,
    ) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        super().__init__(
            size, frames if temporal_embedding else None, image, order=order, cls_place=cls_place, freeze=freeze
        )
        self.tower = CLIPVisionModel(
            CLIPVisionConfig(**self._common(), patch_size=self.patch, hidden_act="quick_gelu", attention_dropout=0.0)
        )
        self.times = nn.Parameter(torch.zeros(frames, self.dim)) if temporal_embedding else None
        self.set_frozen(freeze)

    def watch(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, T, S, S) -> (B, T, H', W', d), (B, d)."""
        row = self._look(clip.transpose(1, 2).flatten(0, 1)).unflatten(0, (clip.shape[0], clip.shape[2]))
        if self.times is not None:
            row = row + self.times[:, None]  # (B, T, 1 + P, d)
        return row[:, :, 1:].unflatten(2, (self.cells, self.cells)), row[:, :, 0].mean(1)

    @property
    def streams(self) -> bool:
        """Without a learned vector of each frame, without the class token (a mean over the clip), in time order."""
        return self.times is None and self.cls_place == "drop" and self.order == "time_major"

    def watch_frame(self, frame: Tensor, previous: Tensor | None) -> Tensor:
        """(B, 3, S, S) -> (B, H', W', d); the frame before does not matter."""
        return self._look(frame)[:, 1:].unflatten(1, (self.cells, self.cells))

    def translate(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The picture tower of a file in transformers' or OpenAI's layout, or our own.

        Raises:
            CheckpointError: lists the keys that are not of this layout.
        """
        given = dict(state_dict)
        times = given.pop("times", None)
        if not any("vision_model." in key or key.startswith("visual.") for key in select_encoder(given, ())):
            given = {f"vision_model.{key}": value for key, value in select_encoder(given, ("tower.",)).items()}
        own = {canonical_key(key): key for key in self.tower.state_dict()}
        state = {k: v for k, v in remap_clip(given, "vision").items() if not k.startswith("visual_projection.")}
        if unknown := [key for key in state if canonical_key(key) not in own]:
            raise CheckpointError(f"{unknown[0]} and {len(unknown) - 1} more keys are not of the {self.layout}")
        found = {f"tower.{own[canonical_key(key)]}": value for key, value in state.items()}
        if self.times is None:
            return found
        times = torch.zeros_like(self.times, device="cpu") if times is None else times
        return found | {"times": stretch_frames(times[None], len(self.times))[0]}

    def _look(self, frames: Tensor) -> Tensor:
        """(N, 3, S, S) -> (N, 1 + P, d)."""
        hidden = self.tower(frames).last_hidden_state
        return getattr(self.tower, "vision_model", self.tower).post_layernorm(hidden)
