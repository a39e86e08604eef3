"""Opening media files that nobody vouches for: limits before anything is decoded, errors that name the file.

Every file is opened with a list of container formats, the plain `file` protocol only (a playlist cannot make us read
other files or the network), and a pixel limit that FFmpeg checks before it allocates a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from torch.utils.data import get_worker_info

from crossmamba.errors import CrossmambaError, MediaError

FORMATS = "mov,mp4,m4a,3gp,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,wav,mp3,flac,aac"
"""Container formats that are opened; no playlists, no picture lists, no devices."""


@dataclass(frozen=True)
class MediaLimits:
    """What a file may ask of us. Checked when it is opened and again while it is decoded.

    Attributes:
        max_side: longest side of a picture in pixels.
        max_pixels: pixels of one picture (8K video has 33 million).
        max_duration: seconds.
        max_streams: streams in the container.
        min_sample_rate, max_sample_rate: of the sound in Hz.
        max_channels: of the sound.
        max_hold: longest time in seconds that one picture may stand still, or the sound may be missing, between two
            time stamps; damaged time stamps otherwise ask for hours of the same picture.
        max_bad_packets: undecodable packets of a stream that are passed over (and counted) before the file is refused.
    """

    max_side: int = 8192
    max_pixels: int = 7680 * 4320
    max_duration: float = 6 * 3600.0
    max_streams: int = 16
    min_sample_rate: int = 1000
    max_sample_rate: int = 384_000
    max_channels: int = 16
    max_hold: float = 120.0
    max_bad_packets: int = 2


DEFAULT_LIMITS = MediaLimits()


@dataclass(frozen=True)
class PictureInfo:
    """The picture stream as its header states it.

    Attributes:
        width, height: in pixels as stored. A rotation that the file asks for is known only from its frames; every
            reader here applies it (to the nearest quarter turn), so frames may come with the sides exchanged.
        pixel_aspect: width / height of one pixel; 1 for nearly all files. Not applied.
        fps: average frames per second; None if unknown.
        frames: number of frames the header announces; 0 if unknown.
        start: first time stamp in seconds on the file's common clock (see `MediaInfo`).
        end: announced end in seconds on that clock; None if unknown.
        codec: FFmpeg's name.
    """

    width: int
    height: int
    pixel_aspect: Fraction
    fps: Fraction | None
    frames: int
    start: float
    end: float | None
    codec: str


@dataclass(frozen=True)
class SoundInfo:
    """The sound stream as its header states it: Hz, channels, and start and end in seconds on the common clock."""

    sample_rate: int
    channels: int
    start: float
    end: float | None
    codec: str


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds. All times are seconds on one clock that starts where the earlier of picture and sound starts.

    Attributes:
        path: the file.
        format: FFmpeg's name of the container.
        origin: the container's time stamp, in seconds, at which the common clock starts.
        duration: announced length in seconds; None if unknown.
        picture, sound: the streams used; None where the file has none. Cover art is not a picture stream.
    """

    path: str
    format: str
    origin: float
    duration: float | None
    picture: PictureInfo | None
    sound: SoundInfo | None

    def describe(self) -> dict[str, object]:
        """The same as plain values for JSON; rates as decimal numbers."""
        plain: dict[str, object] = asdict(self)
        if self.picture is not None:
            fps = None if self.picture.fps is None else round(float(self.picture.fps), 4)
            plain["picture"] = asdict(self.picture) | {"fps": fps, "pixel_aspect": float(self.picture.pixel_aspect)}
        return plain


@contextmanager
def media_errors(path: str | Path, doing: str) -> Iterator[None]:
    """Turns what PyAV and the system raise into a `MediaError` that names the file and what was being done."""
    try:
        yield
    except CrossmambaError:
        raise
    except (av.error.FFmpegError, OSError, ValueError, OverflowError, MemoryError) as error:
        raise MediaError(f"{path}: {doing} failed: {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@contextmanager
def open_media(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> Iterator[tuple[InputContainer, MediaInfo]]:
    """Opens a sound or video file within the limits and closes it afterwards.

    Raises:
        MediaError: missing, empty, not a media file, damaged at its head, or over a limit.
    """
    file = Path(path)
    if not file.is_file():
        raise MediaError(f"{path}: there is no such file." if not file.exists() else f"{path}: not a regular file.")
    if file.stat().st_size == 0:
        raise MediaError(f"{path}: the file is empty (0 bytes).")
    pixels = {"max_pixels": str(limits.max_pixels)}
    try:
        container = av.open(
            f"file:{file.resolve()}",
            options={"format_whitelist": FORMATS, "protocol_whitelist": "file"},
            stream_options=[pixels] * limits.max_streams,  # type: ignore[list-item]  # PyAV's stub is wrong
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, OSError, ValueError, MemoryError) as error:
        raise MediaError(
            f"{path}: not a sound or video file that can be opened ({_reason(error)}): damaged at its head, or of "
            f"another kind. Containers that are read: {FORMATS.replace(',', ', ')}."
        ) from error
    with container:
        with media_errors(path, "reading the file's header"):
            info = _describe(container, str(path), limits)
        yield container, info


def probe(path: str | Path, limits: MediaLimits = DEFAULT_LIMITS) -> MediaInfo:
    """Reads a file's header: streams, sizes, rates and times. Decodes nothing.

    Raises:
        MediaError: as `open_media`.
    """
    with open_media(path, limits) as (_, info):
        return info


def picture_stream(container: InputContainer) -> av.VideoStream | None:
    """The picture stream that is used: the first that is not an attached picture such as cover art."""
    cover = av.stream.Disposition.attached_pic
    return next((stream for stream in container.streams.video if not stream.disposition & cover), None)


def prepare_decoder(stream: av.VideoStream | av.AudioStream, limits: MediaLimits) -> None:
    """Sets a stream's decoder up before its first packet: the pixel limit, and one thread inside a loader's worker."""
    if isinstance(stream, av.VideoStream):
        stream.codec_context.options = {"max_pixels": str(limits.max_pixels)}
    if get_worker_info() is not None:
        # Decoder thread pools and forked loader workers can dead-lock (PyAV issue 1962).
        stream.codec_context.thread_count = 1


def _describe(container: InputContainer, path: str, limits: MediaLimits) -> MediaInfo:
    if len(container.streams) > limits.max_streams:
        raise MediaError(f"{path}: {len(container.streams)} streams; at most {limits.max_streams} are allowed.")
    video = picture_stream(container)
    audio = next(iter(container.streams.audio), None)
    if video is None and audio is None:
        raise MediaError(f"{path}: the file holds neither pictures nor sound that can be decoded.")
    for stream in (video, audio):
        if stream is not None and stream.codec_context is None:
            raise MediaError(f"{path}: the {stream.type} stream has a codec that is not known here.")
    starts = [_seconds(stream.start_time, stream) or 0.0 for stream in (video, audio) if stream is not None]
    origin = min(starts)
    duration = None if container.duration is None else container.duration / av.time_base
    if duration is not None and "matroska" in container.format.name:
        duration -= max(origin, 0.0)  # Matroska counts from zero, the other formats from their first time stamp
    if duration is not None and not 0 <= duration <= limits.max_duration:
        raise MediaError(
            f"{path}: {duration:.0f} s long; at most {limits.max_duration:.0f} s are allowed. Cut it into parts."
        )
    if max(starts) - origin > limits.max_hold:
        raise MediaError(
            f"{path}: picture and sound start {max(starts) - origin:.0f} s apart; "
            f"at most {limits.max_hold:.0f} s are allowed."
        )
    return MediaInfo(
        path=path,
        format=container.format.name,
        origin=origin,
        duration=duration,
        picture=None if video is None else _describe_picture(video, origin, path, limits),
        sound=None if audio is None else _describe_sound(audio, origin, path, limits),
    )


def _describe_picture(stream: av.VideoStream, origin: float, path: str, limits: MediaLimits) -> PictureInfo:
    width, height = stream.codec_context.width, stream.codec_context.height
    if width < 1 or height < 1:
        raise MediaError(
            f"{path}: the picture's size cannot be read: damaged, or over {limits.max_pixels} pixels a frame."
        )
    check_size(path, width, height, limits)
    start = (_seconds(stream.start_time, stream) or 0.0) - origin
    length = _seconds(stream.duration, stream)
    rate = stream.average_rate or stream.guessed_rate
    return PictureInfo(
        width=width,
        height=height,
        pixel_aspect=Fraction(stream.sample_aspect_ratio or 1),
        fps=Fraction(rate) if rate and rate > 0 else None,
        frames=max(stream.frames, 0),
        start=start,
        end=None if length is None else start + length,
        codec=stream.codec_context.name,
    )


def _describe_sound(stream: av.AudioStream, origin: float, path: str, limits: MediaLimits) -> SoundInfo:
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    check_sound(path, rate, channels, limits)
    start = (_seconds(stream.start_time, stream) or 0.0) - origin
    length = _seconds(stream.duration, stream)
    return SoundInfo(
        sample_rate=rate,
        channels=channels,
        start=start,
        end=None if length is None else start + length,
        codec=stream.codec_context.name,
    )


def check_size(path: str | Path, width: int, height: int, limits: MediaLimits) -> None:
    """Refuses a picture over the limits.

    Raises:
        MediaError: with the size and the limit.
    """
    if max(width, height) > limits.max_side or width * height > limits.max_pixels:
        raise MediaError(
            f"{path}: pictures of {width} x {height} pixels; at most {limits.max_side} a side and "
            f"{limits.max_pixels} in all are allowed. Scale the file down first."
        )


def check_sound(path: str | Path, rate: int, channels: int, limits: MediaLimits) -> None:
    """Refuses a sound format over the limits.

    Raises:
        MediaError: with the rate or channel count and the limit.
    """
    if not limits.min_sample_rate <= rate <= limits.max_sample_rate:
        raise MediaError(
            f"{path}: sound at {rate} Hz; {limits.min_sample_rate} to {limits.max_sample_rate} Hz are allowed."
        )
    if not 1 <= channels <= limits.max_channels:
        raise MediaError(f"{path}: {channels} sound channels; 1 to {limits.max_channels} are allowed.")


def _seconds(value: int | None, stream: av.VideoStream | av.AudioStream) -> float | None:
    return None if value is None or stream.time_base is None else float(value * stream.time_base)
