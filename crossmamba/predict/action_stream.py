"""A video frame by frame through models that can stream: the same windows, every picture encoded once, constant memory.

A window is one `MambaVLStream`, started at the window's first picture: after its last the stream has seen exactly the
clip, so its logits are the clip's. As windows overlap, a few streams run side by side (`Grid.open_windows`); the
encoder's tokens of a picture serve all of them (the one that just starts has no picture before: its own tokens).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crossmamba.encoders import VideoEncoder
from crossmamba.errors import UsageError
from crossmamba.models.mambavl import MambaVL, MambaVLOutput
from crossmamba.models.mambavl_stream import MambaVLStream
from crossmamba.predict.action_questions import Asked
from crossmamba.predict.action_windows import Grid


@dataclass
class _Open:
    number: int
    stream: MambaVLStream
    output: MambaVLOutput


@dataclass(frozen=True)
class Step:
    """After a picture.

    Attributes:
        time: of the picture, seconds. start: of the oldest window that is open. frames: pictures that it has seen.
        output: its logits so far, (1, V) and (1, N).
        number: of the window if this was its last picture, else None.
    """

    time: float
    start: float
    frames: int
    output: MambaVLOutput
    number: int | None


def check_streams(model: MambaVL, encoder: VideoEncoder | None) -> None:
    """Raises UsageError, with the reason, for a model or an encoder that cannot go frame by frame."""
    try:
        MambaVLStream(model)
    except UsageError as error:
        raise UsageError(f"--stream: {error}") from error
    if encoder is None or not encoder.streams:
        raise UsageError(
            f"--stream: {type(encoder).__name__} as it was built cannot encode one frame at a time: its tokens depend "
            "on later frames, or are not in time order. Leave --stream out, or use a model with a per-frame encoder "
            "(small_video, clip_b without class token)"
        )


class WindowStreams:
    """The windows of one video, fed picture by picture."""

    def __init__(self, model: MambaVL, encoder: VideoEncoder, grid: Grid, asked: Asked, device: torch.device) -> None:
        check_streams(model, encoder)
        self.model, self.encoder, self.grid, self.device = model, encoder, grid, device
        self.ids = [None if ids is None else ids.to(device) for ids in asked.ids]
        self.most_bytes = 0
        """Most bytes that were kept between two pictures, by all open streams."""

    @torch.inference_mode()
    def __call__(self, pictures: Iterator[Tensor]) -> Iterator[Step]:
        """A step for every picture, float32 (3, S, S); a video shorter than a window gives one window."""
        encoder, grid = self.encoder, self.grid
        running: deque[_Open] = deque()
        previous: Tensor | None = None
        count = done = 0
        step: Step | None = None
        for picture in pictures:
            frame = picture[None].to(self.device)
            shared = encoder.step(frame, previous) if running else None
            alone = encoder.step(frame, None) if count % grid.hop == 0 else None
            if alone is not None:
                stream = MambaVLStream(self.model)
                stream.start(*self.ids)
                running.append(_Open(count // grid.hop, stream, stream.step(alone)))
            for window in list(running)[: len(running) - (alone is not None)]:
                assert shared is not None
                window.output = window.stream.step(shared)
            previous, count = frame, count + 1
            if not running:  # between windows, where the stride is longer than a window
                continue
            oldest = running[0]
            complete = oldest.stream.frames == grid.frames
            step = self._step(oldest, count, complete)
            done += complete
            yield step
            if complete:
                running.popleft()
            self._measure(running, previous)
        if not done and step is not None and not grid.past:  # a short video: its last picture stands
            window = running[0]
            while window.stream.frames < grid.frames:
                assert previous is not None
                window.output = window.stream.step(encoder.step(previous, previous))
            yield self._step(window, count, True)

    def _step(self, window: _Open, count: int, complete: bool) -> Step:
        start = window.number * self.grid.stride
        number = window.number if complete else None
        return Step(self.grid.time(count - 1), start, window.stream.frames, window.output, number)

    def _measure(self, running: deque[_Open], previous: Tensor) -> None:
        kept = sum(window.stream.state_bytes for window in running) + previous.numel() * previous.element_size()
        self.most_bytes = max(self.most_bytes, kept)
