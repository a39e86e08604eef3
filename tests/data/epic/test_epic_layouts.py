"""Every layout gives the same pictures at the same times; what is missing or damaged is one clear line."""

from __future__ import annotations

import io
import pickle
import tarfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from crossmamba.data.epic.annotations import EpicRow, read_rows
from crossmamba.data.epic.chunks import Chunks
from crossmamba.data.epic.features import FeatureClips
from crossmamba.data.epic.layouts import Clips, FrameFolders, RawVideos, open_layout
from crossmamba.data.epic.tars import TarFrames
from crossmamba.data.epic.video import pictures_at
from crossmamba.data.media import frames_at
from crossmamba.errors import DataError, MediaError, UsageError
from tests.data.epic.epic_toy import (
    FPS,
    SECONDS,
    VIDEOS,
    jpeg,
    number_of,
    numbered,
    rate_of,
    write_annotations,
    write_chunks,
    write_clip,
    write_cuts,
    write_frames,
    write_videos,
)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("layouts")
    for write in (write_videos, write_chunks, write_cuts):
        write(root / write.__name__)
    write_frames(root / "write_frames", packed=VIDEOS[1:])
    write_annotations(root)
    return {path.name.removeprefix("write_"): path for path in root.iterdir()} | {"root": root}


@pytest.fixture(scope="module")
def rows(sets: dict[str, Path]) -> list[EpicRow]:
    return read_rows(sets["root"] / "EPIC_100_train.csv")


TIMES = [0.02, 0.98, 2.6, 3.99, 4.01, 5.0, 7.96, 9.94]


@pytest.mark.parametrize("video", VIDEOS)
@pytest.mark.parametrize("layout", ["videos", "chunks"])
def test_videos_and_parts_are_read_by_seconds(
    sets: dict[str, Path], rows: list[EpicRow], layout: str, video: str
) -> None:
    row = next(row for row in rows if row.video_id == video)
    source = open_layout(sets[layout], rows)
    assert source.layout == layout
    assert source.rate(row) == FPS
    assert [number_of(picture) for picture in source.read(row, TIMES)] == [int(time * FPS) for time in TIMES]
    assert number_of(source.read(row, [7.96])[0]) == int(7.96 * FPS)  # entered in the middle


@pytest.mark.parametrize("video", VIDEOS)
def test_frames_are_read_by_number_from_folders_and_tars(
    sets: dict[str, Path], rows: list[EpicRow], video: str
) -> None:
    row = next(row for row in rows if row.video_id == video)
    source = open_layout(sets["frames"], rows)
    assert isinstance(source, FrameFolders)
    rate = rate_of(video)
    assert source.rate(row) == rate
    assert [number_of(picture) for picture in source.read_numbers(row, [1, 7, 7, 480])] == [1, 7, 7, 480]
    assert [number_of(picture) for picture in source.read(row, [0.0, *TIMES])] == [1] + [int(t * rate) for t in TIMES]
    assert source.numbers(row).tolist() == list(range(1, SECONDS * rate + 1))


def test_cut_clips_start_at_their_segment(sets: dict[str, Path], rows: list[EpicRow]) -> None:
    source = open_layout(sets["cuts"], rows)
    assert isinstance(source, Clips)
    row = rows[2]  # 2.5 s to 6 s
    assert [number_of(picture) for picture in source.read(row, [2.5, 4.01, 5.9])] == [50, 80, 118]
    with pytest.raises(UsageError, match=r"narration P01_01_2 \(line 4\): 1.50 s is before the segment"):
        source.read(row, [1.5, 3.0])
    with pytest.raises(DataError, match=r"P01_01_2\.mp4: the pictures end .* narration P01_01_2"):
        source.read(row, [3.0, 7.0])


def test_pictures_are_reduced_not_enlarged(sets: dict[str, Path], rows: list[EpicRow]) -> None:
    for name in ("videos", "chunks", "frames"):
        assert open_layout(sets[name], rows, short_side=16).read(rows[0], [1.0])[0].shape == (16, 24, 3)
        assert open_layout(sets[name], rows, short_side=64).read(rows[0], [1.0])[0].shape == (32, 48, 3)


def test_the_layout_must_be_clear(sets: dict[str, Path], rows: list[EpicRow], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures of any of 2 videos, such as P01_01; looked for"):
        open_layout(tmp_path, rows)
    with pytest.raises(DataError, match="no such folder"):
        open_layout(tmp_path / "none", rows)
    with pytest.raises(UsageError, match="layout is 'gulp'"):
        open_layout(tmp_path, rows, "gulp")  # type: ignore[arg-type]
    for name in ("P01", "P02"):
        (tmp_path / name).mkdir()
        for source in ("videos", "frames"):
            for entry in (sets[source] / name).iterdir():
                (tmp_path / name / entry.name).symlink_to(entry)
    with pytest.raises(DataError, match="frames and videos are both there"):
        open_layout(tmp_path, rows)
    assert open_layout(tmp_path, rows, "videos").layout == "videos"


@pytest.mark.parametrize(
    "place", ["P01/videos/P01_01.MP4", "P01/P01_01.MP4", "videos/P01/P01_01.mp4", "videos/P01_01.mp4", "P01_01.mkv"]
)
def test_places_of_raw_videos(tmp_path: Path, rows: list[EpicRow], place: str) -> None:
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_bytes(b"")
    source = open_layout(tmp_path, rows[:1])
    assert isinstance(source, RawVideos)
    assert source.path(rows[0]) == tmp_path / place
    assert source.missing(rows) == [str(tmp_path / "P02/videos/P02_101.MP4")]


def test_a_segment_past_the_end_is_one_line(sets: dict[str, Path], rows: list[EpicRow], tmp_path: Path) -> None:
    for name in ("videos", "chunks"):
        source = open_layout(sets[name], rows)
        source.read(rows[4], [9.9, 10.2])  # the last picture stands for half a second
        with pytest.raises(
            DataError, match=r"12\.00 s.*narration P01_01_4 \(line 6\)|narration P01_01_4 \(line 6\).*12\.00 s"
        ):
            source.read(rows[4], [9.5, 12.0])
    source = open_layout(sets["frames"], rows)
    assert number_of(source.read(rows[4], [10.2])[0]) == 600
    assert number_of(source.read(rows[9], [10.2])[0]) == 500
    with pytest.raises(
        DataError, match=r"frame_0000000720\.jpg: there is no such picture; narration P01_01_4 \(line 6\)"
    ):
        source.read(rows[4], [12.0])
    with pytest.raises(
        DataError,
        match=r"P02_101\.tar: no member frame_0000000600\.jpg; the tar has 500 pictures, 1 to 500; narration P02",
    ):
        source.read(rows[9], [12.0])


def test_entering_a_video_reads_little(sets: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one group of 10 pictures before the first time is decoded."""
    import crossmamba.data.epic.video as module

    path = sets["videos"] / "P01" / "videos" / "P01_01.MP4"
    decoded = []
    inner = module._decoded
    monkeypatch.setattr(module, "_decoded", lambda *given: (decoded.append(f.stamp) or f for f in inner(*given)))
    pictures, stamps = pictures_at(path, [8.26, 8.4])
    assert [number_of(picture) for picture in pictures] == [165, 168]
    np.testing.assert_allclose(stamps, [8.25, 8.4], atol=1e-6)
    assert 0 < len(decoded) <= 16
    assert decoded[0] >= 7.9


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts", ".avi"])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_entering_gives_what_decoding_from_the_start_gives(tmp_path: Path, suffix: str, offset: float) -> None:
    """In every container, with B-frames, open groups, and time stamps that do not start at zero."""
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4" if suffix == ".avi" else "libx264", rate=FPS)
        video.width, video.height, video.pix_fmt, video.gop_size = 48, 32, "yuv420p", 12
        video.codec_context.max_b_frames = 2
        video.options = {"x264-params": "open-gop=1"} if suffix != ".avi" else {}
        for number in range(140):
            frame = av.VideoFrame.from_ndarray(numbered(number))
            frame.pts = number + (0 if suffix == ".avi" else round(offset * FPS))
            frame.time_base = Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    for first in (2.03, 3.6, 5.01, 6.6):
        times = [first + 0.07 * k for k in range(5)]
        pictures, stamps = pictures_at(path, times)
        plain = list(frames_at(path, times))
        np.testing.assert_allclose(stamps, [shown.stamp for shown in plain], atol=2e-3)
        assert all(np.array_equal(one, two.rgb()) for one, two in zip(pictures, plain, strict=True))


def test_a_video_without_entries_is_read_from_its_start(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", range(120), gop=1000)
    assert [number_of(picture) for picture in pictures_at(path, [4.51, 5.02])[0]] == [90, 100]
    assert pictures_at(path, [])[0] == []


def test_videos_that_cannot_be_read(tmp_path: Path, rows: list[EpicRow]) -> None:
    path = tmp_path / "P01_01.mp4"
    path.write_bytes(b"")
    source = open_layout(tmp_path, rows[:1], "videos")
    with pytest.raises(MediaError, match=r"P01_01\.mp4: the file is empty.*narration P01_01_0"):
        source.read(rows[0], [1.0])
    path.unlink()
    with pytest.raises(MediaError, match=r"no such file.*narration P01_01_0"):
        source.read(rows[0], [1.0])
    write_clip(path, range(200))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(
        MediaError, match=r"P01_01\.mp4.*(cut short|damaged|cannot be opened|failed).*narration P01_01_0"
    ):
        source.read(rows[0], [8.0])


def test_a_missing_part_in_the_middle_is_an_error(sets: dict[str, Path], rows: list[EpicRow], tmp_path: Path) -> None:
    folder = tmp_path / "P01" / "P01_01.MP4"
    folder.mkdir(parents=True)
    for name in ("0.MP4", "8.MP4"):
        (folder / name).symlink_to(sets["chunks"] / "P01" / "P01_01.MP4" / name)
    (folder / "4.MP4").symlink_to(sets["chunks"] / "P01" / "P01_01.MP4" / "4.MP4")
    source = Chunks(tmp_path)
    assert source.parts(rows[0]).absent == []
    (folder / "4.MP4").unlink()
    (folder / "12.MP4").symlink_to(sets["chunks"] / "P01" / "P01_01.MP4" / "8.MP4")
    from crossmamba.data.epic.chunks import _parts

    _parts.cache_clear()
    assert source.parts(rows[0]).seconds == 4
    assert source.parts(rows[0]).absent == [4]
    with pytest.raises(DataError, match=r"4\.MP4: the part is missing; narration P01_01_2 \(line 4\) wants 5\.00 s"):
        source.read(rows[2], [3.0, 5.0])
    _parts.cache_clear()


def test_a_missing_last_part_steps_back(sets: dict[str, Path], rows: list[EpicRow], tmp_path: Path) -> None:
    folder = tmp_path / "P01" / "P01_01.MP4"
    folder.mkdir(parents=True)
    for name in ("0.MP4", "4.MP4"):
        (folder / name).symlink_to(sets["chunks"] / "P01" / "P01_01.MP4" / name)
    source = Chunks(tmp_path)
    with pytest.warns(UserWarning, match=r"no part 8\.MP4; the last picture of 4\.MP4 stands for it"):
        pictures = source.read(rows[4], [7.0, 8.5, 9.0])
    assert [number_of(picture) for picture in pictures] == [140, 159, 159]
    with pytest.raises(DataError, match=r"12\.MP4: the part is missing"):
        source.read(rows[4], [12.5])


def test_parts_that_make_no_sense(tmp_path: Path, rows: list[EpicRow]) -> None:
    folder = tmp_path / "P01" / "P01_01.MP4"
    folder.mkdir(parents=True)
    with pytest.raises(DataError, match=r"there are no parts such as 0\.MP4 \(narration P01_01_0"):
        Chunks(tmp_path).read(rows[0], [1.0])
    for start in (0, 15, 37):
        (folder / f"{start}.MP4").write_bytes(b"")
    with pytest.raises(DataError, match=r"37\.MP4 does not start at a multiple of 15 s"):
        Chunks(tmp_path).read(rows[0], [1.0])


def test_a_damaged_picture_is_named(sets: dict[str, Path], rows: list[EpicRow], tmp_path: Path) -> None:
    folder = tmp_path / "P01" / "rgb_frames" / "P01_01"
    folder.mkdir(parents=True)
    for number, data in ((1, b""), (2, jpeg(2)[:200]), (3, b"GIF89a"), (4, jpeg(4))):
        (folder / f"frame_{number:010d}.jpg").write_bytes(data)
    source = FrameFolders(tmp_path)
    for number in (1, 2, 3):
        with pytest.raises(
            MediaError, match=rf"frame_000000000{number}\.jpg: cannot be read as a picture.*narration P01_01_0"
        ):
            source.read_numbers(rows[0], [number])
    assert number_of(source.read_numbers(rows[0], [4])[0]) == 4


def test_tar_places_are_kept_and_used(sets: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sets["frames"] / "P02" / "rgb_frames" / "P02_101.tar"
    first = TarFrames(path, tmp_path)
    assert first.read(250) == jpeg(250)
    assert (250 in first, 501 in first) == (True, False)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(TarFrames, "_scan", lambda *_: pytest.fail("scanned again"))
    assert TarFrames(path, tmp_path).read(250) == first.read(250)
    assert pickle.loads(pickle.dumps(first)).read(3) == jpeg(3)


def test_tars_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with pytest.raises(DataError, match=r"a\.tar: cannot be read"):
        TarFrames(path)
    path.write_bytes(b"not a tar" * 100)
    with pytest.raises(DataError, match="uncompressed tar"):
        TarFrames(path)

    def write(numbers: list[int], mode: str = "w") -> None:
        with tarfile.open(path, mode) as archive:
            for number in numbers:
                member = tarfile.TarInfo(f"frame_{number:010d}.jpg")
                member.size = len(jpeg(number))
                archive.addfile(member, io.BytesIO(jpeg(number)))

    write([1, 2], "w:gz")
    with pytest.raises(DataError, match="uncompressed tar"):
        TarFrames(path)
    write([])
    with pytest.raises(DataError, match="no picture named"):
        TarFrames(path)
    write([1, 2, 2])
    with pytest.raises(DataError, match="picture 2 is in the tar more than once"):
        TarFrames(path)
    write([1, 2, 3])
    data = path.read_bytes()
    member = 512 + -(-len(jpeg(1)) // 512) * 512
    for size in (member + 512 + 300, member + 300, member, 2 * member):  # in a picture, in a header, between two
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"a\.tar: (cut short|cannot be read .*unexpected end)"):
            TarFrames(path)


def test_stored_features(tmp_path: Path, rows: list[EpicRow]) -> None:
    tokens = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    np.save(tmp_path / "P01_01_0.npy", tokens)
    (tmp_path / "train").mkdir()
    save_file({"tokens": torch.from_numpy(tokens)}, tmp_path / "train" / "P01_01_1.safetensors")
    store = FeatureClips(tmp_path, "train")
    assert torch.equal(store.read(rows[0]), torch.from_numpy(tokens))
    assert torch.equal(store.read(rows[1]), torch.from_numpy(tokens))
    assert store.missing(rows[:3]) == [str(tmp_path / "P01_01_2.npy")]
    (tmp_path / "0.pkl").write_bytes(b"")
    with pytest.raises(DataError, match=r"narration P01_01_2: there is no such feature file \(pickles such as 0\.pkl"):
        store.read(rows[2])
    for bad, message in (
        (tokens[0], "expected floats"),
        (tokens.astype(int), "expected floats"),
        (tokens * np.nan, "NaN or infinite"),
        (np.array([None]), "cannot be read"),
    ):
        np.save(tmp_path / "P01_01_2.npy", bad)
        with pytest.raises(DataError, match=f"narration P01_01_2: .*{message}"):
            store.read(rows[2])
    with pytest.raises(DataError, match="no such folder of stored features"):
        FeatureClips(tmp_path / "none")
