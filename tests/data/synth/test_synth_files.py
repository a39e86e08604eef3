"""Whole sets on disk: official layout, same bytes, resuming, and nothing overwritten unasked."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossmamba.data.synth import SceneTruth, draw_contact_sheet, reference_scores, render_scene, synthesize
from crossmamba.data.synth.layout import Layout
from crossmamba.errors import DataError, UsageError

SMALL = {"train": 3, "val": 2, "test": 2}


def make(subset: str, out: Path, **changes: object) -> Path:
    arguments = {"clips": SMALL, "size": 24, "seconds": 2, "mp4": False, "workers": 1, "progress": False, **changes}
    return synthesize(subset, out, **arguments)  # type: ignore[arg-type]


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def ms3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("avsbench-ms3", tmp_path_factory.mktemp("ms3"))


@pytest.fixture(scope="module")
def s4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("avsbench-s4", tmp_path_factory.mktemp("s4"))


def test_ms3_layout_is_the_official_one(ms3: Path) -> None:
    data = ms3 / "Multi-sources" / "ms3_data"
    with (ms3 / "Multi-sources" / "ms3_meta_data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["video_id", "split"]
    assert [row["split"] for row in rows] == ["train"] * 3 + ["val"] * 2 + ["test"] * 2
    assert len({row["video_id"] for row in rows}) == 7
    for row in rows:
        name, split = row["video_id"], row["split"]
        for k in (1, 2):
            with Image.open(data / "visual_frames" / name / f"{name}.mp4_{k}.png") as frame:
                assert (frame.mode, frame.size) == ("RGB", (24, 24))
            with Image.open(data / "gt_masks" / split / name / f"{name}_{k}.png") as mask:
                assert mask.mode == "L"
                assert set(np.unique(np.asarray(mask))) <= {0, 255}
        assert (data / "scene_truth" / split / f"{name}.json").is_file()
    assert len(list(data.rglob("*.png"))) == 7 * 4, "nothing else is there"
    assert not (data / "raw_videos").exists()


def test_s4_layout_is_the_official_one(s4: Path) -> None:
    data = s4 / "Single-source" / "s4_data"
    with (s4 / "Single-source" / "s4_meta_data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "start_time", "category", "split"]
    for row in rows:
        place = Path(row["split"], row["category"], row["name"])
        truth = SceneTruth.read(data / "scene_truth" / f"{place}.json")
        sounding = [thing for thing in truth.objects if any(thing.sounding)]
        assert [thing.class_name for thing in sounding] == [row["category"]]
        assert all(sounding[0].sounding)
        assert (data / "visual_frames" / place / f"{row['name']}_2.png").is_file()
        assert (data / "audio_wav" / f"{place}.wav").is_file()
        masks = sorted(path.name for path in (data / "gt_masks" / place).iterdir())
        assert masks == [f"{row['name']}_{k}.png" for k in ((1,) if row["split"] == "train" else (1, 2))]


def test_files_hold_the_rendered_scene(ms3: Path) -> None:
    scene = render_scene("default", 0, "val", 1, 24, 2)
    clip = Layout.find(ms3, "ms3").clip("val", "", "default_s0_val_00001", 2)
    for t in range(2):
        assert np.array_equal(np.asarray(Image.open(clip.frames[t])), scene.frames[t])
        assert np.array_equal(np.asarray(Image.open(clip.masks[t])) > 0, scene.masks()[t])
    with wave.open(str(clip.wav)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16000)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.array_equal(samples / np.float32(32768), scene.waveform)
    assert SceneTruth.read(clip.truth) == scene.truth


def test_same_seed_gives_the_same_bytes_with_any_number_of_workers(ms3: Path, tmp_path: Path) -> None:
    again = make("ms3", tmp_path, workers=2, clips={**SMALL, "train": 3})
    assert digests(again) == digests(ms3)
    # More than one chunk, so that two processes really run.
    one, two = (make("ms3", tmp_path / str(w), clips=12, seconds=1, size=16, workers=w) for w in (1, 2))
    assert digests(one) == digests(two)


def test_scripts_need_no_main_guard(tmp_path: Path) -> None:
    """Neither `python -` nor a bare script may start itself again in the processes."""
    script = (
        "from crossmamba.data.synth import synthesize\n"
        f"synthesize('ms3', {str(tmp_path / 'out')!r}, clips=20, seconds=1, size=16, mp4=False, progress=False)\n"
        "print('once')"
    )
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr
    assert len(list((tmp_path / "out").rglob("*.wav"))) == 26


def test_failure_in_a_process_is_told(tmp_path: Path) -> None:
    """A file where a folder must go: the parent says what the child met."""
    blocked = tmp_path / "Multi-sources/ms3_data/audio_wav"
    make("ms3", tmp_path, clips=20, seconds=1, size=16)
    shutil.rmtree(blocked)
    blocked.write_text("in the way")
    with pytest.raises(DataError, match="audio_wav"):
        make("ms3", tmp_path, clips=20, seconds=1, size=16, workers=2)


def test_another_seed_gives_other_bytes(ms3: Path, tmp_path: Path) -> None:
    other = make("ms3", tmp_path, seed=1)
    mine, theirs = set(digests(ms3).values()), set(digests(other).values())
    assert len(mine & theirs) <= 1, "at most the black mask is shared"


def test_interrupted_set_is_finished_and_parts_are_removed(ms3: Path, tmp_path: Path) -> None:
    root = make("ms3", tmp_path)
    layout = Layout.find(root, "ms3")
    layout.csv.unlink()
    clip = layout.clip("train", "", "default_s0_train_00001", 2)
    clip.masks[1].unlink()
    clip.truth.unlink()
    (clip.wav.parent / ".left.wav.123.part").write_bytes(b"half")
    untouched = clip.frames[0].stat().st_mtime_ns
    other = layout.clip("train", "", "default_s0_train_00000", 2).frames[0]
    kept = other.stat().st_mtime_ns
    make("ms3", tmp_path)
    assert digests(root) == digests(ms3)
    assert other.stat().st_mtime_ns == kept, "finished clips are not rendered again"
    assert clip.frames[0].stat().st_mtime_ns >= untouched


def test_other_settings_and_strange_folders_are_not_overwritten(tmp_path: Path) -> None:
    make("ms3", tmp_path / "a", clips=1, seconds=1)
    with pytest.raises(UsageError, match=r"other settings \(seed\)"):
        make("ms3", tmp_path / "a", clips=1, seconds=1, seed=9)
    make("ms3", tmp_path / "a", clips=1, seconds=1, seed=9, overwrite=True)
    assert json.loads((tmp_path / "a/Multi-sources/world.json").read_text())["seed"] == 9
    precious = tmp_path / "b/Multi-sources/ms3_meta_data.csv"
    precious.parent.mkdir(parents=True)
    precious.write_text("video_id,split\n")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"no world\.json"):
            make("ms3", tmp_path / "b", overwrite=overwrite)
    assert precious.read_text() == "video_id,split\n"


def test_videos_are_written_where_asked(tmp_path: Path) -> None:
    media = pytest.importorskip("av")
    root = make("ms3", tmp_path, clips={"test": 2}, mp4=1, size=32)
    videos = sorted((root / "Multi-sources/ms3_data/raw_videos").iterdir())
    assert [path.name for path in videos] == ["default_s0_test_00000.mp4"]
    with media.open(str(videos[0])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 16
        assert len(container.streams.audio) == 1
    png = render_scene("default", 0, "test", 0, 32, 2).frames[1]
    assert np.abs(frames[15].astype(int) - png).mean() < 12, "only compression may differ"
    make("ms3", tmp_path, clips={"test": 2}, mp4="all", size=32)  # asks for the missing one
    assert len(list((root / "Multi-sources/ms3_data/raw_videos").iterdir())) == 2


def test_log_mel_files_have_the_official_shape(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    root = make("s4", tmp_path, clips={"val": 1}, seconds=5, log_mel=True)
    path = next((root / "Single-source/s4_data/audio_log_mel/val").rglob("*.pkl"))
    tensor = torch.load(path, weights_only=True)
    assert tensor.shape == (5, 1, 96, 64)
    assert tensor.dtype == torch.float32


def test_reference_scores_read_the_set(ms3: Path, s4: Path) -> None:
    for root in (ms3, ms3 / "Multi-sources"):
        scores = reference_scores(root, "avsbench-ms3", "test")
        assert scores["frames"] == 4
        assert 0 < scores["expected"] <= 1
    assert reference_scores(s4, "avsbench-s4", "train")["frames"] == 3, "S4 train counts first frames only"
    assert reference_scores(s4, "avsbench-s4", "test")["all_black"] == pytest.approx(0, abs=0.3)


def test_missing_and_broken_truth_is_named(ms3: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data synth avsbench-s4"):
        reference_scores(ms3, "avsbench-s4", "test")
    root = make("ms3", tmp_path, clips={"test": 1}, seconds=1)
    with pytest.raises(DataError, match="no scene truth"):
        reference_scores(root, "ms3", "train")
    path = Layout.find(root, "ms3").clip("test", "", "default_s0_test_00000", 1).truth
    for content in ("{", "{}", path.read_text().replace('"seconds": 1', '"seconds": 3')):
        path.write_text(content)
        with pytest.raises(DataError, match="00000"):
            reference_scores(root, "ms3", "test")


@pytest.mark.parametrize(
    "changes",
    [
        {"clips": 0},
        {"clips": {"train": 1, "dev": 1}},
        {"clips": {"train": -1, "test": 2}},
        {"size": 8},
        {"seconds": 0},
        {"workers": 0},
        {"mp4": "some"},
        {"mp4": -1},
        {"world": "desert"},
        {"seed": -1},
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(UsageError):
        make("ms3", tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_one_number_of_clips_gives_15_percent_for_val_and_test(tmp_path: Path) -> None:
    root = make("ms3", tmp_path, clips=20, seconds=1, size=16)
    rows = Layout.find(root, "ms3").csv.read_text().splitlines()[1:]
    assert [sum(row.endswith(split) for row in rows) for split in ("train", "val", "test")] == [20, 3, 3]


@pytest.mark.parametrize("subset", ["ms3", "s4"])
def test_contact_sheet_shows_the_clips(subset: str, ms3: Path, s4: Path, tmp_path: Path) -> None:
    root = {"ms3": ms3, "s4": s4}[subset]
    path = draw_contact_sheet(root, subset, "train", tmp_path / "sheet.png", clips=2)
    with Image.open(path) as sheet:
        assert sheet.width > 2 * 128
        assert np.asarray(sheet).std() > 20
    with pytest.raises(DataError, match="fewer than"):
        draw_contact_sheet(root, subset, "train", tmp_path / "none.png", first=99)
