"""`crossmamba data verify epic100`: a good set is good in every layout; each defect is named."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossmamba.cli import main
from crossmamba.data.epic.annotations import read_rows
from crossmamba.data.epic.chunks import _parts
from crossmamba.data.epic.verify import EpicSetReport, verify_epic100
from crossmamba.errors import DataError, UsageError
from tests.data.epic.epic_toy import (
    HEADER,
    SEGMENTS,
    csv_rows,
    write_annotations,
    write_chunks,
    write_clip,
    write_csv,
    write_cuts,
    write_frames,
    write_videos,
)
from tests.metrics.epic_truth import real_folder

COLUMN = {name: place for place, name in enumerate(HEADER.split(","))}


def write_one_split(root: Path) -> Path:
    """Annotations of one split: no narration id comes twice."""
    write_annotations(root)
    (root / "EPIC_100_train.csv").unlink()
    (root / "EPIC_100_test_timestamps.csv").unlink()
    return root


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("verify")
    for name, write in (("videos", write_videos), ("chunks", write_chunks), ("clips", write_cuts)):
        write(write_one_split(root / name))
    write_frames(write_one_split(root / "frames"), packed=["P02_101"])
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def copy(good: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    _parts.cache_clear()
    return lambda name: shutil.copytree(good[name], tmp_path / "set")


def kinds(report: EpicSetReport) -> list[str]:
    return [finding.kind for finding in report.problems]


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("layout", ["videos", "chunks", "clips", "frames"])
def test_a_good_set_is_good(good: dict[str, Path], layout: str, decode: bool) -> None:
    report = verify_epic100(good[layout], decode=decode, progress=False)
    assert report.ok, report.text
    assert report.layout == layout
    assert report.splits["validation"].segments == 10
    assert report.splits["validation"].clamped == 4
    assert report.checked
    assert "no problem" in report.text


def test_the_command(good: dict[str, Path], copy: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "epic100", str(good["videos"])]) == 0
    root = copy("videos")
    (root / "P01/videos/P01_01.MP4").unlink()
    assert main(["data", "verify", "epic100", str(root), "--json"]) == 3
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [finding["kind"] for finding in report["problems"]] == ["missing"]
    assert main(["data", "verify", "epic100", str(root), "--layout", "none"]) == 0
    assert main(["data", "verify", "avqa", str(root), "--layout", "videos"]) == 2
    assert main(["data", "verify", "epic100", str(root), "--features", "vggish"]) == 2
    assert main(["data", "verify", "epic100", str(root / "none")]) == 3


def test_missing_and_cut_videos(copy: Callable) -> None:
    root = copy("videos")
    (root / "P01/videos/P01_01.MP4").unlink()
    path = root / "P02/videos/P02_101.MP4"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 7 // 10])
    report = verify_epic100(root, progress=False)
    assert kinds(report) == ["missing", "corrupt"]
    assert "P01_01.MP4: there is no video P01_01; 5 segments want it" in report.text
    assert report.problems[1].path == str(path)


def test_damage_in_the_middle_is_found_by_decoding(copy: Callable) -> None:
    root = copy("videos")
    path = root / "P02/videos/P02_101.MP4"
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    third = (len(data) - start) // 4
    data[start + third : start + 2 * third] = b"\xff" * third
    path.write_bytes(data)
    assert kinds(verify_epic100(root, decode=True, progress=False)) == ["corrupt"]


@pytest.mark.parametrize("layout", ["videos", "chunks", "frames"])
def test_segments_past_the_end(copy: Callable, layout: str) -> None:
    root = copy(layout)
    write_csv(root / "EPIC_100_validation.csv", csv_rows([*SEGMENTS, (9.0, 10.2), (9.5, 12.5)]))
    report = verify_epic100(root, progress=False)
    assert kinds(report) == ["past the end"] * 2
    for line, name in ((8, "P01_01_6"), (15, "P02_101_6")):
        assert any(f"EPIC_100_validation.csv:{line}: narration {name}: " in f.message for f in report.problems)
    assert [note.kind for note in report.notes if note.kind == "past the end"] == ["past the end"] * 2


def test_a_clip_that_is_too_short(copy: Callable) -> None:
    root = copy("clips")
    write_clip(root / "P01/P01_01_2.mp4", range(20))
    (root / "P02/P02_101_0.mp4").unlink()
    (root / "P02/P02_101_1.mp4").write_bytes(b"\0" * 300)
    report = verify_epic100(root, layout="clips", progress=False)
    assert sorted(kinds(report)) == ["corrupt", "missing", "past the end"]
    assert "narration P01_01_2: 3.50 s long" in report.text


def test_missing_and_damaged_pictures(copy: Callable) -> None:
    root = copy("frames")
    folder = root / "P01/rgb_frames/P01_01"
    for number in (20, 160, 161, 162):
        (folder / f"frame_{number:010d}.jpg").unlink()
    (folder / "frame_0000000130.jpg").unlink()  # between segments: nobody wants it
    (folder / "frame_0000000170.jpg").write_bytes(b"")
    whole = (folder / "frame_0000000171.jpg").read_bytes()
    (folder / "frame_0000000171.jpg").write_bytes(whole[:-100])
    report = verify_epic100(root, progress=False)
    assert kinds(report) == ["missing", "missing", "corrupt", "corrupt"]
    assert f"{folder}: missing frame_0000000020.jpg, wanted by P01_01_0" in report.text
    assert "frame_0000000160.jpg to frame_0000000162.jpg (3), wanted by P01_01_2" in report.text
    assert "frame_0000000171.jpg: no whole jpeg" in report.text


def test_content_of_a_jpeg_is_found_by_decoding(copy: Callable) -> None:
    root = copy("frames")
    path = root / "P01/rgb_frames/P01_01/frame_0000000171.jpg"
    path.write_bytes(b"\xff\xd8\xff" + b"\0" * 50 + b"\xff\xd9")
    assert verify_epic100(root, progress=False).ok
    assert kinds(verify_epic100(root, decode=True, progress=False)) == ["corrupt"]


def test_tars(copy: Callable) -> None:
    root = copy("frames")
    path = root / "P02/rgb_frames/P02_101.tar"
    whole = path.read_bytes()
    with tarfile.open(path) as old, tarfile.open(root / "new.tar", "w") as new:
        for member in old.getmembers():
            if not member.name.endswith("frame_0000000055.jpg"):
                new.addfile(member, old.extractfile(member))
    (root / "new.tar").replace(path)
    report = verify_epic100(root, progress=False)
    assert kinds(report) == ["missing"]
    assert "P02_101.tar: missing frame_0000000055.jpg, wanted by P02_101_0" in report.text
    path.write_bytes(whole)
    path.write_bytes(path.read_bytes()[:300_000])
    report = verify_epic100(root, progress=False)
    assert kinds(report) == ["corrupt"]
    assert "P02_101.tar" in report.text
    path.unlink()
    report = verify_epic100(root, progress=False)
    assert kinds(report) == ["missing"]
    assert "neither there nor in P02_101.tar" in report.text


def test_parts(copy: Callable) -> None:
    root = copy("chunks")
    (root / "P01/P01_01.MP4/4.MP4").unlink()
    write_clip(root / "P02/P02_101.MP4/0.MP4", range(40))  # 2 s of 4
    write_clip(root / "P01/P01_01.MP4/8.MP4", range(80))
    write_clip(root / "P01/P01_01.MP4/12.MP4", range(20))  # from 8 and 12 follows that a part has 4 s
    report = verify_epic100(root, progress=False)
    assert sorted(kinds(report)) == ["corrupt", "missing"]
    assert "4.MP4: the part is missing; 2 segments want it" in report.text
    assert "0.MP4: 2.00 s long; a part has 4 s" in report.text


def test_a_missing_last_part_is_a_note(copy: Callable) -> None:
    root = copy("chunks")
    (root / "P01/P01_01.MP4/8.MP4").unlink()
    report = verify_epic100(root, progress=False)
    assert report.ok, report.text
    assert any("8.MP4 is missing; the last picture before it stands" in note.message for note in report.notes)


def test_rows(copy: Callable) -> None:
    root = copy("videos")
    rows = csv_rows()
    rows[0][COLUMN["start_timestamp"]] = "nan"
    rows[1][COLUMN["noun_class"]] = "2"
    rows[2][COLUMN["stop_frame"]] = "361"
    rows[3][COLUMN["stop_frame"]] = "400"
    rows[4][COLUMN["all_noun_classes"]] = "[1]"
    rows[6][COLUMN["narration_id"]] = "P02_101_0"
    rows[7][COLUMN["verb"]] = "bring-into"
    write_csv(root / "EPIC_100_validation.csv", rows)
    report = verify_epic100(root, progress=False)
    assert kinds(report) == ["time", "unknown class", "duplicate id", "frame rule", "class"]
    text = report.text
    assert "EPIC_100_validation.csv:2: narration P01_01_0: start_timestamp is 'nan'" in text
    assert "EPIC_100_validation.csv:3: narration P01_01_1: noun_class is 2; the class table has 0 to 1" in text
    assert "EPIC_100_validation.csv:5: narration P01_01_3: frames 300-400" in text
    notes = {note.kind: note.message for note in report.notes}
    assert "frames 150-361" in notes["frame rule"]
    assert "'bring-into' is no instance of verb class 2 (cut)" in notes["class"]


def test_class_tables(copy: Callable) -> None:
    root = copy("videos")
    table = root / "EPIC_100_noun_classes.csv"
    table.write_text("id,key,instances,category\n0,box:lunch,['box:lunch'],a\n1,plate,['plate'],a\n")
    report = verify_epic100(root, layout="none")
    assert kinds(report) == ["class"]
    assert "10 words belong to another class than their row's: wrong class tables?" in report.text
    table.write_text("id,key\n0,plate\n")
    assert kinds(verify_epic100(root, layout="none")) == ["classes"]
    many = [f"{i},n{i},['n{i}'],a" for i in range(305)]
    table.write_text("\n".join(["id,key,instances,category", *many]) + "\n")
    assert "v2 table of VISOR" in verify_epic100(root, layout="none").text


def test_across_splits(tmp_path: Path) -> None:
    report = verify_epic100(write_annotations(tmp_path), layout="none")
    assert set(kinds(report)) == {"duplicate id", "unseen"}
    assert "participants P02 are listed as unseen and are in train" in report.text
    assert any("2 videos are in train and in validation" in note.message for note in report.notes)


def test_video_info(copy: Callable) -> None:
    root = copy("videos")
    path = root / "EPIC_100_video_info.csv"
    path.write_text("video_id,duration,fps,resolution\nP01_01,9.0,20,48x32\nP02_101,9.89,20,48x32\n")
    report = verify_epic100(root, layout="none")
    assert kinds(report) == ["past the end"]
    assert "narration P01_01_4: stops at 9.90 s; P01_01 lasts 9.00 s" in report.text
    path.write_text("video_id\nP01_01\n")
    assert kinds(verify_epic100(root, layout="none")) == ["video info"]


def test_stored_features(good: dict[str, Path], tmp_path: Path) -> None:
    rows = read_rows(good["videos"] / "EPIC_100_validation.csv")
    for row in rows[2:]:
        np.save(tmp_path / f"{row.narration_id}.npy", np.zeros((3, 4 + (row is rows[-1])), np.float32))
    np.save(tmp_path / f"{rows[1].narration_id}.npy", np.full((3, 4), np.nan, np.float32))
    report = verify_epic100(good["videos"], media=tmp_path, layout="features", progress=False)
    assert kinds(report) == ["missing", "corrupt", "features"]
    assert report.layout == "features"


def test_nothing_to_check(tmp_path: Path, good: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"EPIC_100_validation\.csv: there is no such file"):
        verify_epic100(tmp_path)
    with pytest.raises(UsageError, match="layout is 'gulp'"):
        verify_epic100(tmp_path, layout="gulp")
    report = verify_epic100(good["videos"], media=tmp_path)
    assert kinds(report) == ["missing"]
    assert "no pictures of any of 2 videos" in report.text


def test_the_real_annotations() -> None:
    report = verify_epic100(real_folder(), layout="none")
    assert report.ok, report.text
    assert report.splits["validation"].clamped == 28
    assert sorted(note.kind for note in report.notes if note.kind != "missing split") == ["class", "past the end"]
