"""The contract of video encoders: a clip becomes a sequence of tokens, in an order that a scan can use.

    video encoder: (B, 3, T, H, W) -> VideoTokens: tokens (B, L, d), one for each cell of a grid T' x H' x W', and where
                   the encoder has one, a class token

Symbols: B clips, T frames, d width, T' x H' x W' the grid of patches (T' = T, or T / 2 where a token is a tube of two
frames), L = T' H' W', plus one with a class token.

The order matters to a scan and not to attention, and encoders differ in it (TimeSformer's own order has time fastest).
So all bring their tokens here as a grid, and this module alone puts them into a row.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.utils.checkpoint import checkpoint

from crossmamba.encoders.base import Encoder
from crossmamba.encoders.remap import select_encoder
from crossmamba.errors import UsageError

__all__ = ["CLS_PLACES", "SCAN_ORDERS", "VideoEncoder", "VideoTokens", "arrange_tokens"]

SCAN_ORDERS = ("time_major", "space_major")
CLS_PLACES = ("first", "last", "drop")
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class VideoTokens:
    """The tokens of B clips in one row each.

    Attributes:
        tokens: (B, L, d).
        grid: (T', H', W').
        has_cls: a class token is among the tokens, L = T' H' W' + 1.
        order: "time_major", a frame after the other, each row by row; or "space_major", a place after the other, each
            through time.
        cls_place: "first" or "last", where the class token stands if there is one.
    """

    tokens: Tensor
    grid: tuple[int, int, int]
    has_cls: bool
    order: str = "time_major"
    cls_place: str = "first"


def arrange_tokens(
    cells: Tensor, cls: Tensor | None, *, order: str = "time_major", cls_place: str = "first"
) -> VideoTokens:
    """A grid of tokens as one row.

    Args:
        cells: (B, T', H', W', d).
        cls: (B, d) class token, or None.
        order: see `VideoTokens`.
        cls_place: "first", "last", or "drop" to leave the class token out.

    Raises:
        UsageError: another order or place.
    """
    _check_choice("order", order, SCAN_ORDERS)
    _check_choice("cls_place", cls_place, CLS_PLACES)
    grid = (cells.shape[1], cells.shape[2], cells.shape[3])
    row = cells.flatten(1, 3) if order == "time_major" else cells.permute(0, 2, 3, 1, 4).flatten(1, 3)
    if cls is None or cls_place == "drop":
        return VideoTokens(row, grid, False, order)
    parts = [cls[:, None], row] if cls_place == "first" else [row, cls[:, None]]
    return VideoTokens(torch.cat(parts, dim=1), grid, True, order, cls_place)


class VideoEncoder(Encoder):
    """Tokens of a clip. Subclasses set `dim`, what they demand of the clip, and implement `watch`.

    Args:
        order: order of the tokens, "time_major" or "space_major".
        cls_place: "first", "last" or "drop"; nothing to an encoder without class token.
        freeze: start frozen, see `Encoder.set_frozen`.
    """

    dim: int
    """d."""
    frames: int | None = None
    """The only number of frames it takes; None for any (a multiple of `tubelet`)."""
    tubelet: int = 1
    """Frames in a token."""
    size: tuple[int, int] | None = None
    """(height, width) of the only pictures it takes, in pixels; None for multiples of `patch`."""
    patch: int = 16
    """Side of a token's patch in pixels."""
    mean: tuple[float, float, float] = HALF
    """RGB mean, of pixels in [0, 1], that the weights expect to be taken off."""
    deviation: tuple[float, float, float] = HALF
    """RGB deviation, of pixels in [0, 1], that the weights expect to be divided by."""

    def __init__(self, *, order: str = "time_major", cls_place: str = "first", freeze: bool = False) -> None:
        super().__init__(freeze=freeze)
        _check_choice("order", order, SCAN_ORDERS)
        _check_choice("cls_place", cls_place, CLS_PLACES)
        self.order, self.cls_place = order, cls_place
        self.gradient_checkpointing = False

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Keep only each block's input in training and compute the block again in the backward pass: less memory,
        about a third more time, the same gradients."""
        self.gradient_checkpointing = enabled

    def forward(self, clip: Tensor) -> VideoTokens:
        """(B, 3, T, H, W) floating point, RGB in [0, 1] less `mean` over `deviation` -> tokens of each clip.

        Raises:
            UsageError: see `check_clip`.
        """
        self.check_clip(clip)
        cells, cls = self.watch(clip)
        return arrange_tokens(cells, cls, order=self.order, cls_place=self.cls_place)

    def check_clip(self, clip: Tensor) -> None:
        """Refuse what `forward` cannot take.

        Raises:
            UsageError: another shape, an integer type, or a number of frames or pixels that it does not take.
        """
        name = type(self).__name__
        if clip.ndim != 5 or clip.shape[1] != 3:
            raise UsageError(f"clip has shape {tuple(clip.shape)}; {name} takes (B, 3, T, H, W)")
        if not clip.is_floating_point():
            raise UsageError(f"clip is {clip.dtype}; expected floating point: divide by 255 and standardise first")
        self._check_frames(clip.shape[2], name)
        self.check_size(clip.shape[3], clip.shape[4])

    @abstractmethod
    def watch(self, clip: Tensor) -> tuple[Tensor, Tensor | None]:
        """`forward` after the input check: cells (B, T', H', W', d), and the class token (B, d) or None."""

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate a state dict in the published layout, in this module's own, or of a whole MambaVL of ours.

        Raises:
            CheckpointError: a key that the layout does not know.
        """
        state = dict(state_dict)
        if "verb_head.weight" in state:
            state = {key.removeprefix("encoder."): v for key, v in state.items() if key.startswith("encoder.")}
        return self.translate(state)

    def translate(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`remap` of a state dict of an encoder, in the published layout or our own."""
        return select_encoder(state_dict, ())

    @property
    def streams(self) -> bool:
        """Whether `step` works: each frame's tokens depend on it and the frame before alone."""
        return False

    def step(self, frame: Tensor, previous: Tensor | None = None) -> Tensor:
        """The tokens of one more frame of a stream; equals that frame's tokens of the whole clip.

        Args:
            frame: (B, 3, H, W), as in a clip.
            previous: the frame before, same shape; None at the stream's first.

        Returns:
            (B, H' W', d), row by row: the next tokens in time-major order.

        Raises:
            UsageError: another shape, or an encoder that does not stream as it is built.
        """
        if not self.streams:
            raise UsageError(
                f"this {type(self).__name__} does not stream: its tokens depend on more than the frame and the one "
                "before, or are not in time-major order"
            )
        if frame.ndim != 4 or frame.shape[1] != 3 or not frame.is_floating_point():
            raise UsageError(
                f"frame is {frame.dtype} of shape {tuple(frame.shape)}; expected floating point (B, 3, H, W)"
            )
        if previous is not None and previous.shape != frame.shape:
            raise UsageError(f"previous has shape {tuple(previous.shape)}, frame {tuple(frame.shape)}; expected equal")
        self.check_size(frame.shape[2], frame.shape[3])
        return self.watch_frame(frame, previous).flatten(1, 2)

    def watch_frame(self, frame: Tensor, previous: Tensor | None) -> Tensor:
        """`step` after the input check: (B, H', W', d). Of encoders that stream."""
        raise NotImplementedError

    def check_size(self, height: int, width: int) -> None:
        """Refuse pictures that this encoder does not take.

        Raises:
            UsageError: another size in pixels.
        """
        name = type(self).__name__
        if self.size is not None and (height, width) != self.size:
            raise UsageError(
                f"pictures are {height} x {width} pixels; this {name} takes {self.size[0]} x {self.size[1]}: "
                "scale and crop them first, or build it with another size"
            )
        if height % self.patch or width % self.patch or not min(height, width):
            raise UsageError(f"pictures are {height} x {width} pixels; {name} takes multiples of {self.patch}")

    def _check_frames(self, count: int, name: str) -> None:
        if self.frames is not None and count != self.frames:
            raise UsageError(f"clip has {count} frames; this {name} takes {self.frames}: build it with frames={count}")
        if count < 1 or count % self.tubelet:
            raise UsageError(f"clip has {count} frames; {name} takes multiples of {self.tubelet}")

    def _run(self, module: Callable[..., Any], *inputs: Any) -> Any:
        """`module(*inputs)`, recomputed in the backward pass if gradient checkpointing is on."""
        if self.gradient_checkpointing and self.training and is_grad_enabled():
            return checkpoint(module, *inputs, use_reentrant=False)
        return module(*inputs)


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{option} is {value!r}; expected {' or '.join(choices)}")
