"""Reading and writing media: times, sizes, sound, and files that nobody vouches for."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from crossmamba.data.media import (
    MediaLimits,
    PictureStream,
    SoundStream,
    VideoWriter,
    audio_blocks,
    frames_at,
    probe,
    read_audio,
    read_image,
    write_video,
)
from crossmamba.errors import MediaError, UsageError
from tests.media_files import (
    clicks,
    flat,
    good,
    gray,
    muxed,
    number_of,
    pcm_wav,
    truncated,
    until_error,
    wide_png,
    wide_video,
)

TENTHS = [number / 10 for number in range(30)]


def numbers(path: Path, times: list[float], hold: float = 0.5) -> list[int]:
    """Which `flat` frame is shown at each time."""
    return [number_of(frame.rgb()) for frame in frames_at(path, times, hold=hold)]


def onsets(sound: np.ndarray, rate: int = 16000) -> list[float]:
    """Times in seconds at which clicks start."""
    loud = np.flatnonzero(np.abs(sound) > 0.4)
    return [loud[0] / rate, *(loud[1:][np.diff(loud) > rate // 10] / rate)]


# ---------------------------------------------------------------- writing


def test_written_video_reads_back(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", map(flat, range(24)), 8, audio=clicks(3.0))
    info = probe(tmp_path / "a.mp4")
    assert info.picture is not None
    assert info.sound is not None
    assert (info.picture.width, info.picture.height, info.picture.frames) == (48, 32, 24)
    assert info.picture.fps == 8
    assert info.picture.codec == "h264"
    assert (info.sound.codec, info.sound.sample_rate, info.sound.channels) == ("aac", 16000, 1)
    assert numbers(tmp_path / "a.mp4", [0.0, 0.99, 1.0, 2.95]) == [0, 7, 8, 23]
    np.testing.assert_allclose(onsets(read_audio(tmp_path / "a.mp4")), [0.0, 1.0, 2.0], atol=2e-3)


def test_odd_sizes_grow_by_a_copy_of_the_edge(tmp_path: Path) -> None:
    write_video(tmp_path / "odd.mp4", [gray(0, 33, 47)] * 3, 5)
    frame = next(frames_at(tmp_path / "odd.mp4", [0.0])).rgb()
    assert frame.shape == (34, 48, 3)
    np.testing.assert_allclose(frame[33].astype(int), frame[32], atol=12)


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        good(tmp_path / f"{name}.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_an_unfinished_video_leaves_nothing_and_harms_nothing(tmp_path: Path) -> None:
    def failing():
        yield flat(0)
        raise RuntimeError("the renderer failed")

    (tmp_path / "v.mp4").write_bytes(b"earlier")
    with pytest.raises(RuntimeError):
        write_video(tmp_path / "v.mp4", failing(), 8, audio=clicks(1.0))
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]
    assert (tmp_path / "v.mp4").read_bytes() == b"earlier"


def test_ntsc_rate_is_kept(tmp_path: Path) -> None:
    write_video(tmp_path / "n.mp4", [flat(0)] * 4, Fraction(30000, 1001))
    picture = probe(tmp_path / "n.mp4").picture
    assert picture is not None
    assert picture.fps == Fraction(30000, 1001)


@pytest.mark.parametrize(
    ("frames", "keywords"),
    [
        ([flat(0), flat(0)[:16]], {}),
        ([flat(0).astype(np.float32)], {}),
        ([flat(0)], {"audio": clicks(1.0), "sample_rate": 12345}),
        ([flat(0)], {"audio": np.full(100, np.nan, np.float32)}),
        ([flat(0)], {"audio": np.zeros((2, 100), np.float32)}),
    ],
)
def test_writing_refuses_what_does_not_fit(tmp_path: Path, frames: list, keywords: dict) -> None:
    with pytest.raises(UsageError):
        write_video(tmp_path / "x.mp4", frames, 8, **keywords)
    assert not list(tmp_path.iterdir())


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="at least one frame"):
        write_video(tmp_path / "x.mp4", [], 8)
    with pytest.raises(MediaError, match="at least one frame"), VideoWriter(tmp_path / "x.mp4", (32, 48), 8):
        pass
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- times


@pytest.mark.parametrize("fps", [4, 16, 25, 30])
def test_the_frame_of_a_second_is_the_official_one(tmp_path: Path, fps: int) -> None:
    write_video(tmp_path / "v.mp4", (np.full((32, 48, 3), n * 251 // (3 * fps), np.uint8) for n in range(3 * fps)), fps)
    stamps = [frame.stamp for frame in frames_at(tmp_path / "v.mp4", [second + 15 / 16 for second in range(3)])]
    official = [int(second * fps + 15 / 16 * fps) for second in range(3)]
    np.testing.assert_allclose(stamps, [index / fps for index in official], atol=1e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "ts"])
@pytest.mark.parametrize(("picture_start", "sound_start"), [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (100.0, 100.25)])
def test_both_streams_are_on_one_clock(tmp_path: Path, suffix: str, picture_start: float, sound_start: float) -> None:
    path = muxed(
        tmp_path / f"v.{suffix}",
        [picture_start + stamp for stamp in TENTHS],
        sound=clicks(3.0),
        sound_start=sound_start,
    )
    zero = min(picture_start, sound_start)
    # What is tested is picture against sound: MPEG-TS starts its clock at the encoder's 64 ms of priming.
    heard = onsets(read_audio(path))[1]
    (shown,) = (frame for frame in frames_at(path, [2.0]))
    picture_at = shown.stamp - number_of(shown.rgb()) / 10
    sound_at = heard - 1.0
    assert picture_at - sound_at == pytest.approx(picture_start - sound_start, abs=0.011)
    assert min(picture_at, sound_at) == pytest.approx(0.0, abs=0.065)
    assert probe(path).origin == pytest.approx(zero, abs=0.3)


def test_before_the_first_and_after_the_last_frame(tmp_path: Path) -> None:
    path = muxed(tmp_path / "v.mp4", [0.5 + stamp for stamp in TENTHS], sound=clicks(3.0))
    assert numbers(path, [0.0, 0.45, 0.6, 3.45, 3.6, 3.95, 4.1], hold=0.5) == [0, 0, 1, 29, 29, 29]
    assert numbers(path, [3.45, 3.55], hold=0.0) == [29]


def test_variable_frame_rate(tmp_path: Path) -> None:
    path = muxed(tmp_path / "v.mkv", [0.0, 0.1, 0.2, 2.5, 2.6, 4.0], sound=clicks(4.0))
    assert numbers(path, [0.15, 1.0, 2.49, 2.5, 3.9, 4.0]) == [1, 2, 2, 3, 4, 5]


def test_avi_with_b_frames_keeps_its_order(tmp_path: Path) -> None:
    path = muxed(tmp_path / "v.avi", TENTHS, sound=clicks(3.0), codec="mpeg4", sound_codec="pcm_s16le")
    assert numbers(path, TENTHS) == list(range(30))


@pytest.mark.parametrize(("turn", "corner"), [(90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_rotation_is_applied(tmp_path: Path, turn: int, corner: tuple[int, int]) -> None:
    with av.open(str(tmp_path / "r.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        stream.set_display_rotation(turn)
        picture = np.zeros((32, 64, 3), np.uint8)
        picture[:16, :16] = 255  # top left as stored
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(picture)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (shown,) = frames_at(tmp_path / "r.mp4", [0.0])
    assert shown.size == ((64, 32) if turn % 180 else (32, 64))
    assert shown.rgb().shape == (*shown.size, 3)
    assert shown.rgb((20, 30)).shape == (20, 30, 3)
    corners = {(y, x): int(shown.rgb()[y, x, 0]) for y in (0, -1) for x in (0, -1)}
    assert max(corners, key=corners.__getitem__) == corner  # turned counter-clockwise by `turn`


# ---------------------------------------------------------------- sound


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 12345])
def test_resampling_keeps_time_and_loudness(tmp_path: Path, rate: int) -> None:
    time = np.arange(2 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * time) * (time > 0.5)
    sound = read_audio(pcm_wav(tmp_path / "t.wav", np.rint(tone * 32768), rate))
    assert abs(len(sound) - 32000) <= 1
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(sound)) / 16000)
    np.testing.assert_allclose(sound[9000:31000], expected[9000:31000], atol=2e-3)
    assert np.abs(sound[:7500]).max() < 1e-3


def test_integer_samples_are_divided_by_32768(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32768, 32768, 16000)
    sound = read_audio(pcm_wav(tmp_path / "i.wav", samples))
    np.testing.assert_array_equal(sound, (samples / 32768).astype(np.float32))


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_mono_is_the_mean_of_the_channels(tmp_path: Path, channels: int) -> None:
    samples = np.random.default_rng(0).integers(-20000, 20000, (16000, channels))
    sound = read_audio(pcm_wav(tmp_path / "m.wav", samples, channels=channels))
    np.testing.assert_allclose(sound, samples.mean(axis=1) / 32768, atol=1e-6)


def test_blocks_join_to_the_whole(tmp_path: Path) -> None:
    path = pcm_wav(tmp_path / "b.wav", clicks(2.3, 44100) * 30000, 44100)
    blocks = list(audio_blocks(path, 16000, 0.5))
    assert [len(block) for block in blocks[:-1]] == [8000] * 4
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(path))
    with SoundStream(path) as stream:
        stereo = list(stream.blocks(16000, 1.0, "stereo"))
    assert stereo[0].shape == (2, 16000)


def test_a_gap_in_the_sound_becomes_silence(tmp_path: Path) -> None:
    path = tmp_path / "gap.mkv"
    with av.open(str(path), "w") as container:
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        for start in (0.0, 2.0):  # one second of sound, one second nothing, one second of sound
            block = av.AudioFrame.from_ndarray(np.full((1, 16000), 16384, np.int16), format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = 16000, int(start * 16000), Fraction(1, 16000)
            container.mux(audio.encode(block))
        container.mux(audio.encode(None))
    sound = read_audio(path)
    assert len(sound) == 48000
    assert sound[:16000].min() == 0.5
    assert np.abs(sound[16100:31900]).max() == 0.0
    assert sound[32000:].min() == 0.5


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    samples = np.zeros(16000, np.float32)
    samples[9000] = value
    with pytest.raises(MediaError, match="no numbers"):
        read_audio(pcm_wav(tmp_path / "n.wav", samples, floating=True))


def test_streams_that_are_not_there(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", map(flat, range(16)), 8)
    with pytest.raises(MediaError, match="no sound stream"):
        read_audio(tmp_path / "v.mp4")
    with pytest.raises(MediaError, match="no pictures"):
        PictureStream(pcm_wav(tmp_path / "s.wav", clicks(1.0) * 30000))
    with pytest.raises(MediaError, match=r"empty|neither|cannot"):
        read_audio(pcm_wav(tmp_path / "e.wav", np.zeros(0)))


# ---------------------------------------------------------------- limits and damage


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (MediaLimits(max_side=40), "48 x 32"),
        (MediaLimits(max_pixels=1000), "cannot be read|48 x 32"),
        (MediaLimits(max_duration=2.0), "3 s long"),
        (MediaLimits(max_streams=1), "2 streams"),
        (MediaLimits(max_sample_rate=8000), "16000 Hz"),
        (MediaLimits(max_channels=0), "1 sound channels"),
    ],
)
def test_limits_are_checked_at_open(tmp_path: Path, limits: MediaLimits, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        probe(good(tmp_path / "v.mp4"), limits)


def test_a_leap_of_the_time_stamps_is_refused(tmp_path: Path) -> None:
    path = muxed(tmp_path / "v.mkv", [0.0, 0.1, 500.0, 500.1], sound=clicks(1.0))
    with pytest.raises(MediaError, match="time stamps jump"):
        list(frames_at(path, [float(second) for second in range(501)]))


def test_a_cut_file_gives_its_frames_and_then_an_error(tmp_path: Path) -> None:
    source = good(tmp_path / "v.mp4", 8.0, 25)
    path = truncated(tmp_path / "cut.mp4", source, 0.7)
    frames = frames_at(path, [second + 15 / 16 for second in range(8)])
    got, error = until_error(frames)
    assert "cut short" in str(error)
    assert 1 <= len(got) < 8


def test_pictures_are_read_in_the_mode_asked_for(tmp_path: Path) -> None:
    palette = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert("P")
    palette.putpalette([value for index in range(256) for value in (index, 0, 255 - index)])
    palette.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").shape == (3, 4, 3)
    assert read_image(tmp_path / "p.png", mode=None).tolist() == np.arange(12).reshape(3, 4).tolist()
    assert read_image(tmp_path / "p.png", mode="L").shape == (3, 4)


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "wide", "huge"])
def test_bad_pictures(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{kind}.png"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("not a picture")
    elif kind == "truncated":
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "whole.png")
        truncated(path, tmp_path / "whole.png", 0.5)
    elif kind == "wide":
        wide_png(path, 14_000, 8)
    elif kind == "huge":
        wide_png(path, 8000, 8000)
    with pytest.raises(MediaError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    if kind in ("wide", "huge"):
        assert "pixels" in str(caught.value)


def test_a_wide_video_is_refused_with_its_size(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="14000 x 16"):
        probe(wide_video(tmp_path / "w.mov", 14_000, 16))
