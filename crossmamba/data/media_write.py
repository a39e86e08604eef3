"""Writing video files: H.264 (yuv420p) pictures and AAC sound in an mp4 that every player opens.

The file appears under its name only when it is complete: it is written to a temporary neighbour and renamed.
Pictures and sound are interleaved as they come, so memory does not grow with the length of the video.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from numpy.typing import NDArray

from crossmamba.errors import MediaError, UsageError

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
"""Sample rates in Hz that AAC can hold."""


class VideoWriter:
    """Writes one mp4, frame by frame. Use as a context manager: leaving it by an exception removes the unfinished file.

    Args:
        path: the file to make; its folder is made too. An existing file is replaced at the very end.
        size: (height, width) of the frames in pixels. yuv420p holds even sizes only, so an odd height or width is
            enlarged by one pixel, a copy of the last row or column.
        fps: frames per second; rationals such as `Fraction(30000, 1001)` are kept exactly.
        sample_rate: of the sound in Hz, one of `AAC_RATES`; None for a video without sound.
        channels: of the sound, 1 or 2.
        crf: x264's quality, 0 (lossless) to 51; 18 is visually lossless.
        gop: a frame that needs no other at least every so many frames, so that readers can jump; None for x264's
            default (250). With a number the encoder uses one thread: quicker for small pictures.

    Raises:
        UsageError: a size, rate or channel count that the format cannot hold.
        MediaError: the encoder or the disk refused.
    """

    def __init__(
        self,
        path: str | Path,
        size: tuple[int, int],
        fps: float | Fraction,
        *,
        sample_rate: int | None = None,
        channels: int = 1,
        crf: int = 18,
        gop: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.size = size
        self.fps = Fraction(fps).limit_denominator(1001)
        if min(size) < 1 or self.fps <= 0 or (gop is not None and gop < 1):
            raise UsageError(f"{path}: a video needs a positive size, rate and gop, not {size} at {fps} fps, {gop}.")
        if sample_rate is not None and (sample_rate not in AAC_RATES or channels not in (1, 2)):
            raise UsageError(
                f"{path}: AAC sound has 1 or 2 channels at one of {AAC_RATES} Hz, not {channels} at {sample_rate}."
            )
        self.frames = 0
        self.samples = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            self._open(sample_rate, channels, crf, gop)
        except (av.error.FFmpegError, OSError) as error:
            self.abandon()
            raise MediaError(f"{path}: cannot write this video: {error}") from error

    def _open(self, sample_rate: int | None, channels: int, crf: int, gop: int | None) -> None:
        height, width = self.size
        self._container = av.open(str(self._part), "w", format="mp4", options={"movflags": "+faststart"})
        self._video = self._container.add_stream("libx264", rate=self.fps)
        self._video.width, self._video.height = width + width % 2, height + height % 2
        self._video.pix_fmt = "yuv420p"
        self._video.options = {"crf": str(crf), "preset": "veryfast"}
        self._video.codec_context.time_base = 1 / self.fps
        if gop is not None:
            self._video.codec_context.gop_size = gop
            self._video.codec_context.thread_count = 1
        self._audio = None
        if sample_rate is not None:
            layout = "mono" if channels == 1 else "stereo"
            self._audio = self._container.add_stream("aac", rate=sample_rate, layout=layout)
            self._audio.bit_rate = 96_000 * channels
            # Halves the time of writing a small video; the error stays 40 dB under the sound, as with the default.
            self._audio.options = {"aac_coder": "fast"}

    def write_frame(self, frame: NDArray[np.uint8]) -> None:
        """Appends one picture, uint8 (H, W, 3) RGB of the size given at the start.

        Raises:
            UsageError: another shape or dtype.
        """
        if frame.shape != (*self.size, 3) or frame.dtype != np.uint8:
            raise UsageError(
                f"{self.path}: frame {self.frames} is {frame.dtype} {frame.shape}, expected uint8 {(*self.size, 3)}."
            )
        height, width = self.size
        padded = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
        picture.pts, picture.time_base = self.frames, 1 / self.fps
        with self._writing():
            self._container.mux(self._video.encode(picture))
        self.frames += 1

    def write_audio(self, block: NDArray[np.float32]) -> None:
        """Appends sound, float32 (channels, n) in [-1, 1]; values outside are clipped.

        Raises:
            UsageError: no sound was announced, another channel count, or non-finite values.
        """
        if self._audio is None or block.ndim != 2 or block.shape[0] != self._audio.codec_context.channels:
            raise UsageError(f"{self.path}: sound of shape {block.shape} does not fit this video's sound track.")
        if not np.isfinite(block).all():
            raise UsageError(f"{self.path}: the sound holds values that are not finite.")
        if block.shape[1] == 0:
            return
        layout = self._audio.codec_context.layout.name
        samples = np.ascontiguousarray(np.clip(block, -1.0, 1.0), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate = self._audio.codec_context.sample_rate
        frame.pts, frame.time_base = self.samples, Fraction(1, frame.sample_rate)
        with self._writing():
            self._container.mux(self._audio.encode(frame))
        self.samples += block.shape[1]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"{self.path}: writing the video failed at frame {self.frames}: {error}") from error

    def finish(self) -> None:
        """Flushes the encoders and gives the file its name.

        Raises:
            MediaError: nothing was written, or the encoder or the disk refused.
        """
        if self.frames == 0:
            raise MediaError(f"{self.path}: a video needs at least one frame; none was given.")
        with self._writing():
            self._container.mux(self._video.encode(None))
            if self._audio is not None and self.samples:
                self._container.mux(self._audio.encode(None))
            self._container.close()
            os.replace(self._part, self.path)

    def abandon(self) -> None:
        """Removes the unfinished file."""
        if hasattr(self, "_container"):
            self._container.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.finish()
        finally:
            if self._part.exists():
                self.abandon()


def write_video(
    path: str | Path,
    frames: Iterable[NDArray[np.uint8]],
    fps: float | Fraction,
    *,
    audio: NDArray[np.float32] | None = None,
    sample_rate: int = 16000,
    gop: int | None = None,
) -> None:
    """Writes pictures and, if given, sound to an mp4 (H.264 + AAC), atomically.

    Args:
        path: the file to make.
        frames: uint8 (H, W, 3) RGB each, all of one size; odd sizes are enlarged by one pixel (see `VideoWriter`).
        fps: frames per second.
        audio: float32 (n,) mono in [-1, 1], or None for a video without sound.
        sample_rate: of `audio` in Hz.
        gop: see `VideoWriter`.

    Raises:
        UsageError: frames of different shapes, or values that the format cannot hold.
        MediaError: no frames, or the encoder or the disk refused.
    """
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise MediaError(f"{path}: a video needs at least one frame; none was given.")
    if audio is not None and audio.ndim != 1:
        raise UsageError(f"{path}: mono sound has shape (n,), not {audio.shape}.")
    size = (first.shape[0], first.shape[1])
    with VideoWriter(path, size, fps, sample_rate=None if audio is None else sample_rate, gop=gop) as writer:
        frame: NDArray[np.uint8] | None = first
        while frame is not None:
            writer.write_frame(frame)
            if audio is not None:
                # Sound up to the end of this picture: the muxer then never holds more than a moment of either.
                until = int(writer.frames / writer.fps * sample_rate)
                writer.write_audio(audio[None, writer.samples : until])
            frame = next(iterator, None)
        if audio is not None:
            writer.write_audio(audio[None, writer.samples :])
