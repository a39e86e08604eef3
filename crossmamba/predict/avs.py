"""From a video file to masks of what is sounding: one result for every second, windows over time, bounded memory.

    pipe = crossmamba.load_pipeline("runs/demo")
    for second in pipe.stream("clip.mp4"):       # any length, constant memory
        second.start, second.mask()              # s, bool (H, W) at the video's own size
    pipe("clip.mp4").save_overlay("out.mp4")     # all seconds at once

Time l = 0, 1, ... is whole seconds on the file's clock (`crossmamba.data.media`). Second l is judged by the picture on
display at l + 15/16 s, AVSBench's rule (spec §2.5), and by the sound from l to l + 1 s. The model sees
windows of `preprocessing["seconds"]` seconds. The last window is moved back so that it ends with the video, and of it
only the seconds that no earlier window covered are used; a video shorter than one window is filled up by repeating its
last second's inputs. A last second of which at least `LEAST_SECOND` is there counts.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from crossmamba import __version__
from crossmamba.data.logmel import SAMPLE_RATE, clip_log_mel
from crossmamba.data.media import DEFAULT_LIMITS, MediaLimits, PictureStream, ShownFrame, SoundStream
from crossmamba.errors import CheckpointError, MediaError, UsageError
from crossmamba.overlay import write_overlay
from crossmamba.predict.common import (
    LEAST_SECOND,
    WithCard,
    check_length,
    check_video,
    expected_seconds,
    pick_device,
    reading_warnings,
)

FRAME_IN_SECOND = 15 / 16  # s; AVSBench takes the last of 16 frames a second
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


@dataclass(frozen=True)
class SecondResult:
    """What the model says about one second of the video.

    Attributes:
        second: its number, from 0.
        start, end: in seconds; the last one may be shorter than a second.
        time: time stamp of the picture that was judged, in seconds.
        probability: float16 (S, S) at the model's size: the probability that a pixel belongs to what is sounding.
        size: (height, width) of the video in pixels as shown.
        threshold: probability above which a pixel belongs to the mask.
    """

    second: int
    start: float
    end: float
    time: float
    probability: NDArray[np.float16]
    size: tuple[int, int]
    threshold: float

    def probability_at(self, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """Probability as float32 (H, W), resized bilinearly to `size` = (H, W), by default the video's own."""
        height, width = size or self.size
        picture = Image.fromarray(self.probability.astype(np.float32))
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))

    def mask(self, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """The mask, bool (H, W), at `size` = (H, W), by default the video's own."""
        return self.probability_at(size) > self.threshold

    def describe(self) -> dict[str, Any]:
        """Numbers for `result.json`: seconds, area as a share of the picture, box [x0, y0, x1, y1) in pixels."""
        probability = self.probability_at()
        mask = probability > self.threshold
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = None
        if rows.size:
            box = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        return {
            "second": self.second,
            "start": round(self.start, 4),
            "end": round(self.end, 4),
            "frame_time": round(self.time, 4),
            "area": round(float(mask.mean()), 6),
            "mean_probability": round(float(probability.mean()), 6),
            "box": box,
        }


@dataclass(frozen=True)
class _Input:
    """One second's inputs: the frame's time stamp and size, picture uint8 (S, S, 3), sound float32 (SAMPLE_RATE,)."""

    stamp: float
    size: tuple[int, int]
    picture: NDArray[np.uint8]
    sound: NDArray[np.float32]


class AVSPipeline(WithCard):
    """A model with the preprocessing it was trained with. Loads nothing; see `load_pipeline`.

    Args:
        model: `model(frames (B,T,3,S,S), log_mel (B,T,1,96,64))` gives an object with `.logits` (B,T,1,S,S).
        preprocessing: `image_size` (pixels), `seconds` (the window, T), `framing` of the log-mel, and optionally
            `mean`, `std` and `threshold`, as in a model folder's config.json.
        device: "cpu", "cuda", "mps", or "auto" for the fastest that is there.
        threshold: probability above which a pixel belongs to the mask; None takes the preprocessing's, or 0.5.

    Raises:
        CheckpointError: the preprocessing lacks a value.
        UsageError: a device that is not there, or a threshold outside (0, 1).
    """

    task = "avs"

    def __init__(
        self, model: nn.Module, preprocessing: Mapping[str, Any], *, device: str = "cpu", threshold: float | None = None
    ) -> None:
        missing = [key for key in ("image_size", "seconds", "framing") if key not in preprocessing]
        if missing:
            raise CheckpointError(f"The model's preprocessing lacks {', '.join(missing)}; save it again with them.")
        self.device = pick_device(device)
        self.model = model.to(self.device).eval()
        self.image_size, self.seconds = int(preprocessing["image_size"]), int(preprocessing["seconds"])
        self.framing = preprocessing["framing"]
        self.threshold = float(preprocessing.get("threshold", 0.5) if threshold is None else threshold)
        if not 0 < self.threshold < 1:
            raise UsageError(f"The threshold is a probability between 0 and 1, not {self.threshold}.")
        self._mean = torch.tensor(preprocessing.get("mean", MEAN)).view(3, 1, 1)
        self._std = torch.tensor(preprocessing.get("std", STD)).view(3, 1, 1)

    def __call__(
        self, path: str | Path, *, allow_silence: bool = False, limits: MediaLimits = DEFAULT_LIMITS
    ) -> AVSResult:
        """Judges a whole video; see `stream`. Holds 2 S² bytes for each second of it."""
        stream = self.stream(path, allow_silence=allow_silence, limits=limits)
        seconds = list(stream)
        return AVSResult(Path(path), seconds, stream.describe([second.describe() for second in seconds]), limits)

    def stream(
        self, path: str | Path, *, allow_silence: bool = False, limits: MediaLimits = DEFAULT_LIMITS
    ) -> AVSStream:
        """Opens a video; iterating over the result judges it window by window in constant memory.

        Args:
            path: any container and codec that FFmpeg reads (see `media_open.FORMATS`), any size, aspect and length.
            allow_silence: treat a video without sound as silent instead of refusing it.
            limits: what the file may ask for.

        Raises:
            MediaError: the file cannot be used; while iterating: damage, after all seconds before it were given out.
        """
        return AVSStream(self, Path(path), allow_silence, limits)

    def picture(self, frame: ShownFrame) -> NDArray[np.uint8]:
        """A frame as the model sees it: uint8 (S, S, 3), the aspect not kept, as AVSBench's frames are made."""
        picture = Image.fromarray(frame.rgb())
        return np.asarray(picture.resize((self.image_size, self.image_size), Image.Resampling.BILINEAR))

    @torch.inference_mode()
    def judge(self, window: list[_Input]) -> NDArray[np.float16]:
        """Probabilities (n, S, S) for a window of n seconds, at most `seconds`.

        Raises:
            CheckpointError: the model's output has another shape or is not finite.
        """
        count, fill = len(window), self.seconds - len(window)
        pictures = torch.from_numpy(np.stack([item.picture for item in window])).permute(0, 3, 1, 2)  # (n, 3, S, S)
        frames = (pictures.float() / 255 - self._mean) / self._std
        log_mel = clip_log_mel(np.concatenate([item.sound for item in window]), count, self.framing)  # (n, 1, 96, 64)
        batch = [_fill(values, fill)[None].to(self.device) for values in (frames, log_mel)]
        logits = self.model(*batch).logits.float().cpu()
        if logits.ndim != 5 or logits.shape[:3] != (1, self.seconds, 1):
            raise CheckpointError(
                f"The model answers with shape {tuple(logits.shape)}; a one-class segmenter's is "
                f"(1, {self.seconds}, 1, S, S)."
            )
        if not torch.isfinite(logits).all():
            raise CheckpointError("The model answers with values that are not finite: its weights are damaged.")
        return torch.sigmoid(logits[0, :count, 0]).numpy().astype(np.float16)


class AVSStream:
    """The results for one video, second by second; iterate over it once.

    Attributes:
        info: what the file's header says.
        warnings: what a reader of the results should know; complete after the last second.
        complete: whether the whole video was judged.
    """

    def __init__(self, pipeline: AVSPipeline, path: Path, allow_silence: bool, limits: MediaLimits) -> None:
        self.pipeline, self.path, self.limits = pipeline, path, limits
        self.info = check_video(path, allow_silence=allow_silence, limits=limits)
        self.warnings: list[str] = []
        self.complete = False
        self._iterator = self._results()

    def __iter__(self) -> Iterator[SecondResult]:
        return self._iterator

    @property
    def expected_seconds(self) -> int | None:
        """How many results to expect by the file's header; None if it does not say."""
        return expected_seconds(self.info)

    def describe(self, seconds: list[dict[str, Any]]) -> dict[str, Any]:
        """The content of `result.json` around the seconds' own numbers."""
        card, pipeline = self.pipeline.card, self.pipeline
        return {
            "format_version": 1,
            "crossmamba_version": __version__,
            "complete": self.complete,
            "video": self.info.describe(),
            "model": {"name": card.get("name"), **card.get("metadata", {})},
            "settings": {
                "threshold": pipeline.threshold,
                "image_size": pipeline.image_size,
                "window_seconds": pipeline.seconds,
                "framing": pipeline.framing,
                "device": str(pipeline.device),
            },
            "warnings": self.warnings,
            "seconds": seconds,
        }

    def _results(self) -> Iterator[SecondResult]:
        window: deque[_Input] = deque(maxlen=self.pipeline.seconds)
        done, waiting, failure = 0, 0, None
        with ExitStack() as stack:
            pictures = stack.enter_context(PictureStream(self.path, self.limits))
            sound = None if self.info.sound is None else stack.enter_context(SoundStream(self.path, self.limits))
            inputs = self._inputs(pictures, sound)
            more = True
            while more:
                try:
                    window.append(next(inputs))
                    waiting += 1
                except StopIteration:
                    more = False
                except MediaError as error:  # the seconds before the damage are still worth their masks
                    more, failure = False, error
                if waiting == self.pipeline.seconds or (waiting and not more):
                    yield from self._judge(list(window), done, waiting, pictures.end)
                    done, waiting = done + waiting, 0
            if failure is not None:
                raise failure
            self._conclude(pictures, sound)

    def _judge(self, window: list[_Input], done: int, waiting: int, end: float) -> Iterator[SecondResult]:
        """Results for the last `waiting` seconds of a window; `done` seconds were given out before."""
        probabilities = self.pipeline.judge(window)[-waiting:]
        for second, item, probability in zip(itertools.count(done), window[-waiting:], probabilities, strict=False):
            until, threshold = min(second + 1.0, end), self.pipeline.threshold
            yield SecondResult(second, float(second), until, item.stamp, probability, item.size, threshold)

    def _inputs(self, pictures: PictureStream, sound: SoundStream | None) -> Iterator[_Input]:
        """One item for every second of the picture."""
        times = (second + FRAME_IN_SECOND for second in itertools.count())
        blocks = iter(()) if sound is None else sound.blocks(SAMPLE_RATE, 1.0)
        for frame in pictures.at(times, hold=FRAME_IN_SECOND - LEAST_SECOND):
            check_length(self.path, pictures)
            heard = next(blocks, np.zeros((1, 0), np.float32))[0]
            heard = np.pad(heard, (0, SAMPLE_RATE - heard.size))
            yield _Input(frame.stamp, frame.size, self.pipeline.picture(frame), heard)
        check_length(self.path, pictures)

    def _conclude(self, pictures: PictureStream, sound: SoundStream | None) -> None:
        """Checks that the file held what it announced, and notes what a reader should know."""
        self.warnings += reading_warnings(self.info, pictures, sound)
        self.complete = True


@dataclass(frozen=True)
class AVSResult:
    """All seconds of one video.

    Attributes:
        path: the video.
        seconds: one result for each second.
        description: what `result.json` holds (see `AVSStream.describe`).
        limits: under which the video was read.
    """

    path: Path
    seconds: list[SecondResult]
    description: dict[str, Any]
    limits: MediaLimits = DEFAULT_LIMITS

    def to_json(self) -> str:
        """The description as JSON text."""
        return json.dumps(self.description, indent=2)

    def save_overlay(self, path: str | Path) -> None:
        """Writes the video with the masks drawn on it; see `crossmamba.overlay.write_overlay`."""
        areas = [second["area"] for second in self.description["seconds"]]
        write_overlay(self.path, path, areas, lambda second, size: self.seconds[second].mask(size), limits=self.limits)


def _fill(values: Tensor, count: int) -> Tensor:
    """(n, ...) -> (n + count, ...), the last one repeated."""
    return torch.cat([values, values[-1:].expand(count, *values.shape[1:])])
