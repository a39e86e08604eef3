"""The contract between encoders and models: what goes in, what comes out, and the switches every encoder has.

    picture encoder: (N, 3, H, W) -> four levels (N, c_i, ceil(H / s_i), ceil(W / s_i)), s = 4, 8, 16, 32
    sound encoder:   (N, 1, 96, 64) log-mel -> (N, dim)
    frame encoder:   (N, 3, H, W) -> one vector per picture, and where it has them tokens and a grid
    motion encoder:  (N, 3, F, H, W), F frames of one second -> (N, dim)
    video encoder:   (B, 3, T, H, W), T frames of one action -> one token per patch or tube, T' x H' x W' of them
    text encoder:    (N, L) token ids -> one vector per text, and one per token

Clips are folded into N by the caller: N = batch x seconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, int64, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from crossmamba.encoders.remap import select_encoder
from crossmamba.errors import UsageError

__all__ = [
    "Encoder",
    "FrameEncoder",
    "FrameFeatures",
    "MotionEncoder",
    "PictureEncoder",
    "SoundEncoder",
    "TextEncoder",
    "TextFeatures",
]


@dataclass(frozen=True)
class FrameFeatures:
    """What a frame encoder makes of N pictures in one pass.

    Attributes:
        vector: (N, dim), one vector per picture.
        tokens: (N, 1 + h w, dim), the whole picture's token first, then the patches row by row; None if the encoder has
            none.
        grid: (N, dim, h, w); None if the encoder has none.
    """

    vector: Tensor
    tokens: Tensor | None = None
    grid: Tensor | None = None


@dataclass(frozen=True)
class TextFeatures:
    """What a text encoder makes of N texts: `vector` (N, dim), and `words` (N, L, dim), one vector per token."""

    vector: Tensor
    words: Tensor


class Encoder(nn.Module, ABC):
    """What picture and sound encoders share: freezing, and reading the published layout of their weights.

    Args:
        freeze: start frozen, see `set_frozen`.
    """

    published: ClassVar[str] = ""
    """The published weights' file and address, for messages; empty if there are none."""

    def __init__(self, *, freeze: bool = False) -> None:
        super().__init__()
        self.frozen = freeze

    def set_frozen(self, frozen: bool = True) -> None:
        """Stop (or resume) learning: no parameter takes gradient, and the module stays in eval mode under `.train()`.

        Gradient with respect to the input still flows. After `set_frozen(False)` call `.train()` on the whole model.
        """
        self.frozen = frozen
        self.requires_grad_(not frozen)
        if frozen:
            self.eval()

    def train(self, mode: bool = True) -> Encoder:
        """As `nn.Module.train`, but a frozen encoder stays in eval mode (no drop path, no running statistics)."""
        super().train(mode and not self.frozen)
        return self

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate a state dict in the published layout to this module's own names; its own names pass as they are.

        Raises:
            CheckpointError: a key that the layout does not know.
        """
        return select_encoder(state_dict, ())


class PictureEncoder(Encoder):
    """A pyramid of four picture levels.

    Subclasses set `channels` and implement `pyramid`; modules that may be recomputed in the backward pass are called
    through `_run`.

    Args:
        freeze: start frozen.
        gradient_checkpointing: see `set_gradient_checkpointing`.
    """

    strides: ClassVar[tuple[int, int, int, int]] = (4, 8, 16, 32)
    minimum_size: ClassVar[int] = 32  # pixels; the coarsest level then has one cell
    channels: tuple[int, int, int, int]

    def __init__(self, *, freeze: bool = False, gradient_checkpointing: bool = False) -> None:
        super().__init__(freeze=freeze)
        self.set_gradient_checkpointing(gradient_checkpointing)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Keep only each block's input in training and compute the block again in the backward pass: less memory,
        about a third more time, the same gradients."""
        self.gradient_checkpointing = enabled

    def forward(self, frames: Tensor) -> list[Tensor]:
        """The four levels of each picture.

        Args:
            frames: (N, 3, H, W) floating point, RGB with ImageNet's mean and deviation; H and W at least 32 pixels,
                not necessarily multiples of 32.

        Returns:
            Four tensors (N, c_i, ceil(H / s_i), ceil(W / s_i)), finest first.

        Raises:
            UsageError: another shape, fewer pixels or an integer type.
        """
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise UsageError(f"frames have shape {tuple(frames.shape)}; expected (N, 3, H, W): fold clips into N")
        if min(frames.shape[-2:]) < self.minimum_size:
            raise UsageError(
                f"frames are {frames.shape[-2]} x {frames.shape[-1]} pixels; {type(self).__name__} needs at least "
                f"{self.minimum_size} x {self.minimum_size}: enlarge them first"
            )
        if not frames.is_floating_point():
            raise UsageError(f"frames are {frames.dtype}; expected floating point: divide by 255 and standardise first")
        return self.pyramid(frames)

    @abstractmethod
    def pyramid(self, frames: Tensor) -> list[Tensor]:
        """`forward` after the input check."""

    def _run(self, module: Callable[..., Any], *inputs: Any) -> Any:
        """`module(*inputs)`, recomputed in the backward pass if gradient checkpointing is on."""
        if self.gradient_checkpointing and self.training and is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


class SoundEncoder(Encoder):
    """One vector per second of sound. Subclasses set `dim` and implement `embed`."""

    dim: int

    def forward(self, log_mel: Tensor) -> Tensor:
        """(N, 1, 96, 64) log-mel (see `crossmamba.data.logmel`) -> (N, dim).

        Raises:
            UsageError: another shape or an integer type.
        """
        if log_mel.ndim != 4 or tuple(log_mel.shape[1:]) != (1, 96, 64):
            raise UsageError(
                f"log_mel has shape {tuple(log_mel.shape)}; expected (N, 1, 96, 64) = examples, 1, frames of 10 ms, "
                "mel bands: fold clips into N"
            )
        if not log_mel.is_floating_point():
            raise UsageError(f"log_mel is {log_mel.dtype}; expected floating point")
        return self.embed(log_mel)

    @abstractmethod
    def embed(self, log_mel: Tensor) -> Tensor:
        """`forward` after the input check."""


class FrameEncoder(Encoder):
    """One vector, tokens and a grid per picture, of those that the encoder has. Subclasses set `dim` and implement
    `look`; one with a fixed size of picture sets `size`."""

    dim: int
    size: tuple[int, int] | None = None
    """(height, width) of the only pictures it takes, in pixels; None for any of at least 32 x 32."""

    def forward(self, frames: Tensor) -> FrameFeatures:
        """(N, 3, H, W) floating point, standardised as the published weights want it -> features of each picture.

        Raises:
            UsageError: another shape or an integer type.
        """
        expected = ("H >= 32", "W >= 32") if self.size is None else self.size
        wrong = frames.ndim != 4 or frames.shape[1] != 3
        if wrong or (min(frames.shape[-2:]) < 32 if self.size is None else tuple(frames.shape[-2:]) != self.size):
            raise UsageError(
                f"frames have shape {tuple(frames.shape)}; {type(self).__name__} takes (N, 3, {expected[0]}, "
                f"{expected[1]}): scale and crop them first, fold clips into N"
            )
        _check_floating(frames, "frames")
        return self.look(frames)

    @abstractmethod
    def look(self, frames: Tensor) -> FrameFeatures:
        """`forward` after the input check."""


class MotionEncoder(Encoder):
    """One vector per short run of frames. Subclasses set `dim` and implement `watch`."""

    dim: int

    def forward(self, clips: Tensor) -> Tensor:
        """(N, 3, F, H, W) floating point, standardised; F >= 1 frames in order, H and W at least 16 -> (N, dim).

        Raises:
            UsageError: another shape or an integer type.
        """
        if clips.ndim != 5 or clips.shape[1] != 3 or min(clips.shape[-2:]) < 16:
            raise UsageError(f"clips have shape {tuple(clips.shape)}; expected (N, 3, F, H >= 16, W >= 16)")
        _check_floating(clips, "clips")
        return self.watch(clips)

    @abstractmethod
    def watch(self, clips: Tensor) -> Tensor:
        """`forward` after the input check."""


class TextEncoder(Encoder):
    """One vector per text and one per token. Subclasses set `dim`, `length`, `vocabulary` and implement `read`."""

    dim: int
    length: int
    """Most tokens in a text."""
    vocabulary: int
    """Number of token ids."""

    def forward(self, ids: Tensor) -> TextFeatures:
        """(N, L) int64 token ids, 1 <= L <= `length` -> features of each text.

        Raises:
            UsageError: another shape or type, or an id outside the vocabulary.
        """
        if ids.ndim != 2 or ids.dtype != int64 or not 1 <= ids.shape[1] <= self.length:
            raise UsageError(
                f"ids are {ids.dtype} of shape {tuple(ids.shape)}; expected int64 (N, L), L at most {self.length}"
            )
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocabulary:
            raise UsageError(
                f"ids lie between {int(ids.min())} and {int(ids.max())}; {type(self).__name__} knows 0 to "
                f"{self.vocabulary - 1}: is this tokenizer the encoder's own?"
            )
        return self.read(ids)

    @abstractmethod
    def read(self, ids: Tensor) -> TextFeatures:
        """`forward` after the input check."""


def _check_floating(values: Tensor, name: str) -> None:
    if not values.is_floating_point():
        raise UsageError(f"{name} are {values.dtype}; expected floating point: divide by 255 and standardise first")
