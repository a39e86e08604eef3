"""JPEGs of one picture a second as input (spec §3.3): equal to the raw video's pictures but for JPEG's loss."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from qa_toy import VIDEOS, make_root, make_video, rows_of, save_features, save_rows

from crossmamba.data.qa.frame_files import FRAME_FILES, FrameFiles
from crossmamba.data.qa.inputs import VideoInputs
from crossmamba.data.qa.music_avqa import MusicAVQADataset
from crossmamba.data.qa.verify import verify_questions
from crossmamba.errors import DataError, UsageError
from crossmamba.extract.run import extract_features

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def save_frames(root: Path, video: str, count: int, size: tuple[int, int] = (24, 16)) -> Path:
    """Picture i is grey 4 i."""
    folder = root / "avqa-frames-1fps" / video
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (4 * number,) * 3).save(folder / f"{number + 1:06d}.jpg", quality=95)
    return folder


def test_they_are_the_raw_videos_pictures(tmp_path: Path) -> None:
    path = make_video(tmp_path / "videos" / "00000001.mp4", seconds=4, side=48)
    extract_features(["frames"], tmp_path, videos=[path], progress=False)
    save_features(tmp_path, "small_sound", "00000001", (4, 64))
    raw, files = (
        VideoInputs(tmp_path, "small_sound", kind, frames=2, image_size=32).read("00000001")
        for kind in ("frames", FRAME_FILES)
    )
    assert files[1].shape == raw[1].shape == (2, 3, 32, 32)
    assert files[1].dtype == torch.float32
    torch.testing.assert_close(files[1], raw[1], atol=0.05, rtol=0)
    assert torch.equal(files[0], raw[0])


def test_a_data_set_of_them(tmp_path: Path) -> None:
    """61 frames are cut at 60, and every sixth is read."""
    root = make_root(tmp_path)
    for video in VIDEOS:
        save_frames(root, video, 61)
    questions = MusicAVQADataset(root, "val", audio="small_sound", visual=FRAME_FILES, image_size=8, **PLAIN)
    seen = questions[0]["visual"]
    assert seen.shape == (10, 3, 8, 8)
    np.testing.assert_allclose(seen[:, 0, 4, 4].numpy() * 255, 24 * np.arange(10), atol=2)
    report = verify_questions(root)
    assert report.ok
    assert (report.features[FRAME_FILES], report.lengths[FRAME_FILES]) == (3, {60: 3})
    shutil.rmtree(root / "avqa-frames-1fps" / VIDEOS[2])
    with pytest.raises(DataError, match=rf"missing: .*{VIDEOS[2]}"):
        MusicAVQADataset(root, "val", audio="small_sound", visual=FRAME_FILES)
    assert [finding.kind for finding in verify_questions(root).problems] == ["features"]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("gap", r"there is no 000003\.jpg"),
        ("empty", r"there is no 000001\.jpg"),
        ("text", r"000002\.jpg: "),
        ("cut", r"000002\.jpg: "),
        ("short", "11 rows of small_sound .*, 10 of frame_files"),
    ],
)
def test_faulty_folders_are_named(case: str, said: str, tmp_path: Path) -> None:
    folder = save_frames(tmp_path, "v", 10)
    save_features(tmp_path, "small_sound", "v", (11 if case == "short" else 10, 64))
    second = folder / "000002.jpg"
    if case == "gap":
        (folder / "000003.jpg").unlink()
    elif case == "empty":
        for file in folder.iterdir():
            file.unlink()
    elif case == "text":
        second.write_text("hello")
    elif case == "cut":
        second.write_bytes(second.read_bytes()[:-200])
    with pytest.raises(DataError, match=said):
        VideoInputs(tmp_path, "small_sound", FRAME_FILES, frames=10).read("v")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    save_rows(tmp_path / "json_update" / "avqa-val.json", rows_of())
    save_features(tmp_path, "small_sound", "v", (10, 64))
    with pytest.raises(DataError, match="avqa-frames-1fps: no folder of frames; make it with"):
        VideoInputs(tmp_path, "small_sound", FRAME_FILES)
    with pytest.raises(UsageError, match="'frames' for raw videos or 'frame_files' for JPEGs"):
        VideoInputs(tmp_path, "small_sound", "jpegs")
    with pytest.raises(UsageError, match="audio='frame_files'"):
        VideoInputs(tmp_path, FRAME_FILES, "small_picture")
    save_frames(tmp_path, "v", 3)
    store = FrameFiles(tmp_path, 8, **PLAIN)
    assert store.missing(["v", "w"]) == ["w"]
    with pytest.raises(DataError, match="3 frames; frame 4 is wanted"):
        store.load("v", np.array([3]))
    with pytest.raises(DataError, match="no such folder of frames"):
        store.rows("w")
    with pytest.raises(DataError, match="plain path component"):
        store.rows("../v")
