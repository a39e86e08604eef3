"""The contract between encoders and models: what goes in, what comes out, and the switches every encoder has.

    picture encoder: (N, 3, H, W) -> four levels (N, c_i, ceil(H / s_i), ceil(W / s_i)), s = 4, 8, 16, 32
    sound encoder:   (N, 1, 96, 64) log-mel -> (N, dim)

Clips are folded into N by the caller: N = batch x seconds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from crossmamba.encoders.remap import select_encoder
from crossmamba.errors import UsageError

__all__ = ["Encoder", "PictureEncoder", "SoundEncoder"]


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
