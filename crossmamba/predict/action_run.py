"""One pass of a model over a video: window by window, or frame by frame."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from crossmamba.data.media import MediaLimits
from crossmamba.predict.action_model import ActionModel, said_of
from crossmamba.predict.action_names import Said, Window
from crossmamba.predict.action_questions import Asked
from crossmamba.predict.action_smoothing import OnlineSmoother, check_penalty, share_of
from crossmamba.predict.action_stream import WindowStreams
from crossmamba.predict.action_windows import Grid, GridPictures, clips

_BATCH = 8  # windows at once


@dataclass(frozen=True)
class Live:
    """What is said after a picture of a stream.

    Attributes:
        time: of the picture, seconds. start: of the oldest window that is open. frames: pictures that it has seen.
        number: of the window if this was its last picture, else None. said: of the window so far, not smoothed.
        action: (verb, noun) after online smoothing, if this was the window's last picture, else None.
    """

    time: float
    start: float
    frames: int
    number: int | None
    said: Said
    action: tuple[int, int] | None = None


class ActionRun:
    """One pass of a model over a video.

    Args:
        smooth: nats of online smoothing, which reaches `Live.action` and nothing else.

    Attributes:
        grid: of its windows. pictures: with their end, after the pass.
        most_bytes: kept between two pictures while streaming, by the streams and the smoothing.
    """

    def __init__(
        self, model: ActionModel, path: Path, grid: Grid, asked: Asked, limits: MediaLimits, smooth: float = 0.0
    ) -> None:
        self.model, self.grid, self.asked, self.smooth = model, grid, asked, check_penalty(smooth)
        self.pictures = GridPictures(path, grid, model.sight.transform, limits)
        self.most_bytes = 0

    def windows(self) -> Iterator[Window]:
        """Every window, as a clip through the model; holds few clips, whatever the video's length."""
        source = clips(self.pictures)
        while batch := list(itertools.islice(source, _BATCH)):
            said = self.model.say([clip for *_, clip in batch], self.asked)
            yield from (Window(start, end, what) for (start, end, _), what in zip(batch, said, strict=True))

    def steps(self) -> Iterator[Live]:
        """What the model says after every picture, as the video goes on.

        Raises:
            UsageError: a model that cannot stream.
        """
        pipe = self.model
        streams = WindowStreams(pipe.model, pipe.encoder, self.grid, self.asked, pipe.device)
        smoother = OnlineSmoother(self.smooth, share_of(self.grid.stride, self.grid.window)) if self.smooth else None
        for step in streams(iter(self.pictures)):
            (said,) = said_of(step.output, pipe.actions)
            action = None
            if step.number is not None:
                action = said.best if smoother is None else smoother.step(said)
            self.most_bytes = streams.most_bytes + (0 if smoother is None else smoother.state_bytes)
            yield Live(step.time, step.start, step.frames, step.number, said, action)

    def streamed(self, each: Callable[[Live], None] | None = None) -> Iterator[Window]:
        """The windows of `windows`, made frame by frame; `each` is called after every picture."""
        for live in self.steps():
            if each is not None:
                each(live)
            if live.number is not None:
                yield Window(*self.grid.span(live.number), live.said)
