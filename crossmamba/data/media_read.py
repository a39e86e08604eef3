"""Decoding picture and sound streams one step at a time, on one clock, in memory that does not grow with the length.

Time is seconds on the file's common clock (`MediaInfo`): 0 is where the earlier of the two streams starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from numpy.typing import NDArray

from crossmamba.data.media_open import (
    DEFAULT_LIMITS,
    MediaInfo,
    MediaLimits,
    check_size,
    check_sound,
    media_errors,
    open_media,
    picture_stream,
    prepare_decoder,
)
from crossmamba.errors import MediaError

CLOCK_STEP = 1e-3  # s; Matroska rounds time stamps to milliseconds, so times closer than this are equal
SOUND_DRIFT = 0.1  # s; smaller jumps of the sound's time stamps are rounding, larger ones are gaps
LOUDEST = 1e4  # sample values beyond this are damage, not sound (full scale is 1)


@dataclass(frozen=True)
class ShownFrame:
    """One decoded picture.

    Attributes:
        time: the time that was asked for, in seconds.
        stamp: when this picture came on display, in seconds.
        raw: the decoder's frame.
    """

    time: float
    stamp: float
    raw: av.VideoFrame

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as shown, after the file's rotation."""
        height, width = self.raw.height, self.raw.width
        return (width, height) if self._turns % 2 else (height, width)

    @property
    def _turns(self) -> int:
        return round(self.raw.rotation / 90) % 4

    def rgb(self, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """The picture as uint8 (H, W, 3) RGB, rotated as the file asks; scaled to `size` = (H, W) if given.

        Raises:
            MediaError: a pixel format that cannot be converted.
        """
        height, width = size or self.size
        if self._turns % 2:
            height, width = width, height
        with media_errors("this video", "converting a frame to RGB"):
            pixels = self.raw.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
        return np.ascontiguousarray(np.rot90(pixels, self._turns))


class _Stream:
    """An opened file with one of its streams; counts packets and those that could not be decoded."""

    def __init__(self, path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> None:
        self.path = path
        self.limits = limits
        self.packets = 0
        self.bad_packets = 0
        self.end = 0.0
        """End of what was decoded so far, in seconds."""
        self.finished = False
        """Whether everything was decoded."""
        self._stack = ExitStack()
        self._container, self.info = self._stack.enter_context(open_media(path, limits))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _decode(self, stream: av.VideoStream | av.AudioStream) -> Iterator[av.VideoFrame | av.AudioFrame]:
        """Every frame of the stream.

        Raises:
            MediaError: too many packets that cannot be decoded.
        """
        prepare_decoder(stream, self.limits)
        with media_errors(self.path, f"reading past {self.end:.1f} s"):
            for packet in self._container.demux(stream):
                self.packets += packet.size > 0
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    self._count_bad()
                    continue
                for frame in frames:
                    assert isinstance(frame, av.VideoFrame | av.AudioFrame)
                    if frame.is_corrupt:
                        self._count_bad()
                    yield frame

    def _count_bad(self) -> None:
        self.bad_packets += 1
        if self.bad_packets > self.limits.max_bad_packets:
            raise MediaError(
                f"{self.path}: the file is damaged: {self.bad_packets} packets up to {self.end:.1f} s cannot be "
                f"decoded (at most {self.limits.max_bad_packets} are passed over). Make a new copy, or cut the damage "
                "out."
            )

    def _check_time(self, time: float, last: float) -> None:
        if time - last > self.limits.max_hold or time > self.limits.max_duration:
            raise MediaError(
                f"{self.path}: the time stamps jump from {last:.1f} s to {time:.1f} s; at most "
                f"{self.limits.max_hold:.0f} s without a new frame and {self.limits.max_duration:.0f} s in all are "
                "allowed. Convert the file first, for example with ffmpeg."
            )

    def _check_end(self, announced: float | None, what: str, slack: float) -> None:
        """Compares what was decoded with what the header announced: a cut file decodes without an error."""
        self.finished = True
        if announced is None:
            return
        expected = announced if self.info.duration is None else min(announced, self.info.duration)
        if expected - self.end <= max(slack, 0.02 * announced):
            return
        raise MediaError(
            f"{self.path}: the {what} ends at {self.end:.1f} s, but the file's header announces {announced:.1f} s: the "
            "file is cut short or damaged. Make a new copy."
        )


class PictureStream(_Stream):
    """The pictures of a video, decoded in order. A context manager.

    Raises:
        MediaError: as `open_media`, or the file has no picture stream.
    """

    def __init__(self, path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> None:
        super().__init__(path, limits)
        stream = picture_stream(self._container)
        if stream is None or self.info.picture is None:
            self._stack.close()
            raise MediaError(f"{path}: the file has no pictures, only sound.")
        self._stream, self.picture = stream, self.info.picture
        self.frames = 0
        """Pictures decoded so far."""
        self._first_dts: int | None = None

    def __enter__(self) -> PictureStream:
        return self

    def at(self, times: Iterable[float], hold: float = 0.5) -> Iterator[ShownFrame]:
        """The picture on display at each of the times: the last one whose time stamp is not later.

        Before the first picture that is the first; after the end of the picture the last, for at most `hold` seconds,
        then the iteration stops. For a constant rate this is the frame int((l + 15/16) fps) of AVSBench's sampling
        when the time is l + 15/16 s (spec §2.5).

        Args:
            times: in seconds, ascending; may be endless.
            hold: in seconds.

        Raises:
            MediaError: no picture can be decoded, damage, time stamps or sizes over the limits, a file cut short.
        """
        frames = self._in_order()
        shown = next(frames, None)
        if shown is None:
            raise MediaError(f"{self.path}: no picture can be decoded.")
        coming = next(frames, None)
        for time in times:
            while coming is not None and coming.stamp <= time + CLOCK_STEP:
                shown, coming = coming, next(frames, None)
            if coming is None and time >= self.end + hold - CLOCK_STEP:
                return
            yield replace(shown, time=time)

    def _in_order(self) -> Iterator[ShownFrame]:
        """Every picture with a time stamp that never steps back."""
        interval = 1 / float(self.picture.fps or 25)
        stamp = self.picture.start
        for frame in self._decode(self._stream):
            assert isinstance(frame, av.VideoFrame)
            check_size(self.path, frame.width, frame.height, self.limits)
            asked = self._stamp(frame)
            self._check_time(asked, max(self.end, stamp))
            stamp = max(stamp, asked) if self.frames else max(asked, 0.0)
            length = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else interval
            self.frames += 1
            self.end = stamp + min(length, self.limits.max_hold)
            yield ShownFrame(stamp, stamp, frame)
        self._check_end(self.picture.end, "picture", 0.5)
        if self.packets < 0.8 * self.picture.frames:
            raise MediaError(
                f"{self.path}: {self.packets} of {self.picture.frames} announced pictures could be read: the file is "
                "damaged. Make a new copy."
            )

    def _stamp(self, frame: av.VideoFrame) -> float:
        """When a frame comes on display, by its own time stamps; without any, the end of the frame before it."""
        if self.info.format != "avi":
            return self.end if frame.time is None else frame.time - self.info.origin
        # AVI stores no presentation times, and those that FFmpeg guesses swap B-frames; its decoding times count the
        # frames one by one, the first being the start.
        if frame.dts is None or frame.time_base is None:
            return self.end
        if self._first_dts is None:
            self._first_dts = frame.dts
        return self.picture.start + float((frame.dts - self._first_dts) * frame.time_base)


class SoundStream(_Stream):
    """The sound of a file, decoded in order. A context manager.

    Raises:
        MediaError: as `open_media`, or the file has no sound stream.
    """

    def __init__(self, path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> None:
        super().__init__(path, limits)
        if self.info.sound is None:
            self._stack.close()
            raise MediaError(f"{path}: the file has no sound stream.")
        self._stream, self.sound = self._container.streams.audio[0], self.info.sound

    def __enter__(self) -> SoundStream:
        return self

    def blocks(self, rate: int, block_seconds: float, layout: str | None = None) -> Iterator[NDArray[np.float32]]:
        """The sound from time 0 on, in blocks; silence where the file has a gap or starts later than its pictures.

        Args:
            rate: samples per second of the result, resampled by swresample.
            block_seconds: length of every block but the last.
            layout: "mono" or "stereo" to mix to, by FFmpeg's rules; None for the mean of all channels.

        Yields:
            float32 (channels, n) in [-1, 1], full scale 1.

        Raises:
            MediaError: nothing can be decoded, damage, samples that are no numbers, limits, a file cut short.
        """
        size = max(1, round(rate * block_seconds))
        pending: list[NDArray[np.float32]] = []
        held = 0
        for piece in self._pieces(rate, layout):
            pending.append(piece)
            held += piece.shape[1]
            if held >= size:
                joined = np.concatenate(pending, axis=1)
                whole = held - held % size
                for start in range(0, whole, size):
                    yield joined[:, start : start + size]
                pending, held = [joined[:, whole:]], held - whole
        if held:
            yield np.concatenate(pending, axis=1)

    def _pieces(self, rate: int, layout: str | None) -> Iterator[NDArray[np.float32]]:
        converter = _Converter(self.path, rate, layout)
        for frame in self._decode(self._stream):
            assert isinstance(frame, av.AudioFrame)
            check_sound(self.path, frame.sample_rate, frame.layout.nb_channels, self.limits)
            time = self.end if frame.time is None else frame.time - self.info.origin
            self._check_time(time, self.end)
            length = frame.samples / frame.sample_rate
            if time < self.end - SOUND_DRIFT and converter.samples:
                continue  # the clock stepped back: what is already there stays
            if time > self.end + (SOUND_DRIFT if converter.samples else 0.0):
                yield from converter.flush()
                yield converter.silence(round(time * rate) - converter.samples)
                self.end = time
            yield from converter.push(frame)
            self.end += length
        yield from converter.flush()
        if converter.samples == 0:
            raise MediaError(f"{self.path}: the sound stream is empty: no sample can be decoded.")
        self._check_end(self.sound.end, "sound", 1.0)  # AVI headers count sound loosely


class _Converter:
    """Resamples decoded sound and mixes its channels; counts the samples given out."""

    def __init__(self, path: str | Path, rate: int, layout: str | None) -> None:
        self.path, self.rate, self.layout = path, rate, layout
        self.samples = 0
        self._resampler: av.AudioResampler | None = None
        self._source: tuple[str, str, int] | None = None

    def push(self, frame: av.AudioFrame) -> Iterator[NDArray[np.float32]]:
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or source != self._source:  # a stream may change its form on the way
            yield from self.flush()
            target = self.layout or frame.layout.name
            self._resampler = av.AudioResampler(format="fltp", layout=target, rate=self.rate)
            self._source = source
        frame.pts = None  # gaps are filled by the caller
        yield from map(self._samples, self._resampler.resample(frame))

    def flush(self) -> Iterator[NDArray[np.float32]]:
        if self._resampler is not None and self._source is not None:
            yield from map(self._samples, self._resampler.resample(None))
        self._resampler = None

    def silence(self, samples: int) -> NDArray[np.float32]:
        self.samples += max(samples, 0)
        return np.zeros((2 if self.layout == "stereo" else 1, max(samples, 0)), dtype=np.float32)

    def _samples(self, frame: av.AudioFrame) -> NDArray[np.float32]:
        values = frame.to_ndarray().astype(np.float32, copy=False)
        if not (np.abs(values) < LOUDEST).all():  # false for NaN too
            raise MediaError(
                f"{self.path}: the sound holds samples that are no numbers or far out of range, "
                f"near {self.samples / self.rate:.1f} s."
            )
        if self.layout is None:
            values = values.mean(axis=0, keepdims=True)
        self.samples += values.shape[1]
        return values


def check_complete(info: MediaInfo, picture_end: float, sound_end: float) -> None:
    """Compares what both streams held with the container's length, for formats that announce only that (Matroska).

    Raises:
        MediaError: both end more than a second before the file's announced end.
    """
    end = max(picture_end, sound_end)
    if info.duration is not None and info.duration - end > max(1.0, 0.02 * info.duration):
        raise MediaError(
            f"{info.path}: picture and sound end at {end:.1f} s, but the file's header announces "
            f"{info.duration:.1f} s: the file is cut short or damaged. Make a new copy."
        )
