"""Makes good and bad media files for the tests."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from PIL import Image

from crossmamba.data.media import write_video

CLOCK = 90_000  # time stamps a second
T = TypeVar("T")
STEP = 7  # grey levels from one frame to the next


def gray(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frame `number`: uint8 (H, W, 3), brighter with each frame, a brighter square moving in it."""
    frame = np.full((height, width, 3), number * STEP % 200, np.uint8)
    left = number % (width // 2)
    frame[height // 4 : height // 2, left : left + height // 4] = 250
    return frame


def flat(number: int) -> np.ndarray:
    """Frame `number`: uint8 (32, 48, 3) of one grey level, which `number_of` reads back."""
    return np.full((32, 48, 3), number * STEP, np.uint8)


def number_of(frame: np.ndarray) -> int:
    """The number of a decoded `flat` frame."""
    return round(float(frame.mean()) / STEP)


def clicks(seconds: float, rate: int = 16000) -> np.ndarray:
    """A click of 10 ms at the start of every second, float32 (n,)."""
    sound = np.zeros(round(seconds * rate), np.float32)
    for second in range(int(seconds)):
        sound[second * rate : second * rate + rate // 100] = 0.8
    return sound


def good(path: Path, seconds: float = 3.0, fps: int = 8, sound_seconds: float | None = None) -> Path:
    """A small good video with sound."""
    sound = clicks(seconds if sound_seconds is None else sound_seconds)
    write_video(path, (gray(number) for number in range(round(seconds * fps))), fps, audio=sound)
    return path


def muxed(
    path: Path,
    stamps: list[float],
    *,
    sound: np.ndarray | None = None,
    sound_start: float = 0.0,
    rate: int = 16000,
    codec: str = "libx264",
    sound_codec: str = "aac",
) -> Path:
    """`flat` frames at any time stamps (s), and sound from any time on, in the container of the path's suffix."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=10)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        video.codec_context.time_base = Fraction(1, CLOCK if codec == "libx264" else 10)
        if codec == "mpeg4":  # B-frames, as DivX files have them; fine steps, so that grey levels survive
            video.codec_context.max_b_frames = 2
            video.options = {"qmin": "1", "qmax": "1", "sc_threshold": "1000000000"}
        audio = None if sound is None else container.add_stream(sound_codec, rate=rate, layout="mono")
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(flat(number))
            frame.pts, frame.time_base = round(stamp * CLOCK), Fraction(1, CLOCK)
            container.mux(video.encode(frame))
        if audio is not None and sound is not None:
            block = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = rate, round(sound_start * rate), Fraction(1, rate)
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
        container.mux(video.encode(None))
    return path


def pcm_wav(path: Path, samples: np.ndarray, rate: int = 16000, channels: int = 1, *, floating: bool = False) -> Path:
    """A wav file written byte by byte: int16, or float32 with any values."""
    kind, width = (3, 4) if floating else (1, 2)
    data = samples.astype("<f4" if floating else "<i2").tobytes()
    head = struct.pack("<HHIIHH", kind, channels, rate, rate * channels * width, channels * width, 8 * width)
    body = b"WAVEfmt " + struct.pack("<I", len(head)) + head + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def wide_video(path: Path, width: int, height: int) -> Path:
    """A mov with one PNG frame of that size: some hundred KiB that decode to 3 bytes a pixel, and a second of sound."""
    packed = zlib.compressobj(1)
    row = b"\0" + b"\0" * (3 * width)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    with av.open(str(path), "w") as container:
        video = container.add_stream("png", rate=1)
        video.width, video.height, video.pix_fmt = width, height, "rgb24"
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        container.start_encoding()
        for number in range(2):
            packet = av.Packet(png)
            packet.stream, packet.time_base = video, Fraction(1, 1)
            packet.pts = packet.dts = number
            packet.is_keyframe = True
            container.mux(packet)
        block = av.AudioFrame.from_ndarray(np.zeros((1, 32000), np.int16), format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = 16000, 0, Fraction(1, 16000)
        container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    return path


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def wide_png(path: Path, width: int, height: int) -> Path:
    """A real black 1-bit PNG of that size."""
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    return path


def corrupt_middle(path: Path, source: Path) -> Path:
    """The source with the middle of its media data zeroed."""
    data = bytearray(source.read_bytes())
    start = data.index(b"mdat") + 4
    length = struct.unpack(">I", data[start - 8 : start - 4])[0] - 8
    data[start + length // 3 : start + 2 * length // 3] = bytes(2 * length // 3 - length // 3)
    path.write_bytes(data)
    return path


def truncated(path: Path, source: Path, share: float) -> Path:
    """The first part of the source."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def until_error(items: Iterable[T]) -> tuple[list[T], Exception | None]:
    """What an iteration gave before it failed, and how it failed."""
    got: list[T] = []
    try:
        got.extend(items)
    except Exception as error:
        return got, error
    return got, None


def bad_files(folder: Path) -> dict[str, Callable[[], Path]]:
    """Name -> maker of a file that `predict` must refuse in one line."""

    def source() -> Path:
        return good(folder / "source.mp4", 4.0, 25)

    def content(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    def silent() -> Path:
        write_video(folder / "soundless.mp4", map(gray, range(24)), 8)
        return folder / "soundless.mp4"

    def single() -> Path:
        write_video(folder / "single.mp4", [gray(0)], 25, audio=clicks(1.0))
        return folder / "single.mp4"

    def cover() -> Path:
        write_video(folder / "cover.mp4", [gray(0)], Fraction(1, 3), audio=clicks(3.0))
        return folder / "cover.mp4"

    playlist = f"#EXTM3U\n#EXTINF:3,\n{(folder / 'source.mp4').resolve()}\n".encode()
    concat = f"ffconcat version 1.0\nfile {(folder / 'source.mp4').resolve()}\n".encode()
    return {
        "missing": lambda: folder / "missing.mp4",
        "folder": lambda: folder,
        "empty": lambda: content("empty.mp4", b""),
        "random": lambda: content("random.mp4", np.random.default_rng(0).bytes(20_000)),
        "html": lambda: content("page.mp4", b"<!DOCTYPE html><html><body>404 Not Found</body></html>" * 20),
        "playlist": lambda: (source(), content("list.mp4", playlist))[1],
        "concat": lambda: (source(), content("concat.mp4", concat))[1],
        "corrupt middle": lambda: corrupt_middle(folder / "corrupt.mp4", source()),
        "truncated 50 %": lambda: truncated(folder / "half.mp4", source(), 0.5),
        "truncated 90 %": lambda: truncated(folder / "most.mp4", source(), 0.9),
        "truncated head": lambda: truncated(folder / "head.mp4", source(), 0.02),
        "sound-less": silent,
        "picture-less": lambda: pcm_wav(folder / "sound.wav", clicks(2.0) * 30000),
        "1 frame": single,
        "1 frame, long": cover,
        "14000 wide": lambda: wide_video(folder / "wide.mov", 14_000, 16),
        "a picture": lambda: wide_png(folder / "picture.mp4", 64, 48),
        "no numbers": lambda: muxed(
            folder / "nan.mkv", [i / 10 for i in range(20)], sound=np.full(32000, np.nan), sound_codec="pcm_f32le"
        ),
    }
