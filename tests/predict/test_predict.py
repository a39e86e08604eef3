"""Prediction on whole videos: every second once, the command's outputs, bad files, bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossmamba.cli import main
from crossmamba.data.logmel import clip_log_mel
from crossmamba.data.media import frames_at, probe, read_audio, write_video
from crossmamba.errors import CheckpointError, MediaError, UsageError
from crossmamba.predict import AVSPipeline, find_model, load_pipeline
from tests.fake_avs import PREPROCESSING, LoudLeft, fake_pipeline
from tests.media_files import bad_files, clicks, good, gray, truncated, until_error, wide_video

HERE = Path(__file__).parents[1]


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder that loads as `LoudLeft`."""
    run = tmp_path / "runs" / "demo"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    import crossmamba.models

    monkeypatch.setattr(crossmamba.models, "from_pretrained", lambda folder: LoudLeft(), raising=False)
    return run


def child(*arguments: object) -> dict:
    """Runs `media_child.py` and returns its answer."""
    done = subprocess.run(
        [sys.executable, HERE / "media_child.py", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


# ---------------------------------------------------------------- seconds and windows


@pytest.mark.parametrize(
    ("seconds", "count"), [(1.0, 1), (1.25, 1), (3.0, 3), (5.0, 5), (5.375, 5), (5.625, 6), (12.0, 12)]
)
def test_every_second_has_one_result(tmp_path: Path, seconds: float, count: int) -> None:
    stream = fake_pipeline().stream(good(tmp_path / "v.mp4", seconds))
    results = list(stream)
    assert [result.second for result in results] == list(range(count))
    assert stream.expected_seconds == count
    assert stream.complete
    for result in results[:-1]:
        assert (result.start, result.end) == (result.second, result.second + 1)
    assert results[-1].end == pytest.approx(min(seconds, count))
    assert results[-1].size == (32, 48)


def test_the_windows_hold_what_they_should(tmp_path: Path) -> None:
    path = good(tmp_path / "v.mp4", 7.0)
    pipeline = fake_pipeline()
    list(pipeline.stream(path))
    first, last = pipeline.model.windows
    assert first[0].shape == (1, 5, 3, 16, 16)
    assert first[1].shape == (1, 5, 1, 96, 64)
    torch.testing.assert_close(last[0][:, :3], first[0][:, 2:])  # moved back to end with the video: seconds 2 to 6
    sound = read_audio(path)
    torch.testing.assert_close(first[1][0], clip_log_mel(sound[: 5 * 16000], 5, "aligned"))
    torch.testing.assert_close(last[1][0], clip_log_mel(sound[2 * 16000 : 7 * 16000], 5, "aligned"))
    (shown,) = frames_at(path, [6 + 15 / 16])
    small = np.asarray(Image.fromarray(shown.rgb()).resize((16, 16), Image.Resampling.BILINEAR))
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((small / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(last[0][0, 4].numpy(), expected, atol=1e-5)


def test_a_short_video_repeats_its_last_second(tmp_path: Path) -> None:
    pipeline = fake_pipeline()
    assert len(list(pipeline.stream(good(tmp_path / "v.mp4", 2.0)))) == 2
    ((frames, log_mel),) = pipeline.model.windows
    torch.testing.assert_close(frames[:, 2:], frames[:, 1:2].expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(log_mel[:, 2:], log_mel[:, 1:2].expand(-1, 3, -1, -1, -1))


def test_sound_decides_and_sizes_are_the_videos_own(tmp_path: Path) -> None:
    sound = clicks(4.0)
    sound[16000:32000] = 0  # second 1 is silent
    write_video(tmp_path / "v.mp4", (gray(number, 30, 80) for number in range(32)), 8, audio=sound)
    results = fake_pipeline()(tmp_path / "v.mp4").seconds
    assert [bool(result.mask().any()) for result in results] == [True, False, True, True]
    mask = results[0].mask()
    assert mask.shape == (30, 80)
    assert mask[:, :38].all()
    assert not mask[:, 42:].any()
    described = results[0].describe()
    assert described["area"] == pytest.approx(0.5, abs=0.03)
    assert described["box"][:2] == [0, 0]
    assert described["box"][3] == 30
    assert results[1].describe()["box"] is None


def test_sound_that_ends_early_counts_as_silence_and_is_reported(tmp_path: Path) -> None:
    stream = fake_pipeline().stream(good(tmp_path / "v.mp4", 6.0, sound_seconds=3.0))
    assert [bool(result.mask().any()) for result in stream] == [True, True, True, False, False, False]
    assert any("sound ends at 3" in warning for warning in stream.warnings)


def test_longer_sound_is_cut(tmp_path: Path) -> None:
    stream = fake_pipeline().stream(good(tmp_path / "v.mp4", 3.0, sound_seconds=8.0))
    assert len(list(stream)) == 3
    assert not stream.warnings


def test_a_video_without_sound(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", map(gray, range(24)), 8)
    with pytest.raises(MediaError, match="no sound"):
        fake_pipeline()(tmp_path / "v.mp4")
    result = fake_pipeline()(tmp_path / "v.mp4", allow_silence=True)
    assert not any(second.mask().any() for second in result.seconds)
    assert "no sound" in " ".join(result.description["warnings"])
    result.save_overlay(tmp_path / "o.mp4")
    assert probe(tmp_path / "o.mp4").sound is None


def test_what_was_judged_before_the_damage_is_given_out(tmp_path: Path) -> None:
    path = truncated(tmp_path / "cut.mp4", good(tmp_path / "v.mp4", 20.0, 25), 0.6)
    stream = fake_pipeline().stream(path)
    results, error = until_error(stream)
    assert isinstance(error, MediaError)
    got = [result.second for result in results]
    assert got == list(range(len(got)))
    assert len(got) > 5
    assert not stream.complete


# ---------------------------------------------------------------- the pipeline's own errors


def test_a_model_that_does_not_fit(tmp_path: Path) -> None:
    path = good(tmp_path / "v.mp4", 2.0)
    with pytest.raises(CheckpointError, match="framing"):
        AVSPipeline(LoudLeft(), {"image_size": 16, "seconds": 5})
    with pytest.raises(UsageError, match="threshold"):
        AVSPipeline(LoudLeft(), PREPROCESSING, threshold=1.5)
    with pytest.raises(UsageError, match="'tpu'"):
        AVSPipeline(LoudLeft(), PREPROCESSING, device="tpu")

    class Broken(LoudLeft):
        def forward(self, frames, log_mel):
            answer = super().forward(frames, log_mel)
            answer.logits = answer.logits * float("nan")
            return answer

    with pytest.raises(CheckpointError, match="not finite"):
        AVSPipeline(Broken(), PREPROCESSING)(path)

    class Many(LoudLeft):
        def forward(self, frames, log_mel):
            answer = super().forward(frames, log_mel)
            answer.logits = answer.logits.expand(-1, -1, 3, -1, -1)
            return answer

    with pytest.raises(CheckpointError, match="one-class"):
        AVSPipeline(Many(), PREPROCESSING)(path)


def test_model_folders(tmp_path: Path, model_folder: Path) -> None:
    assert find_model(model_folder) == find_model(model_folder / "model") == model_folder / "model"
    assert load_pipeline(model_folder).image_size == 16
    with pytest.raises(CheckpointError, match=r"config\.json"):
        find_model(tmp_path / "nothing")


# ---------------------------------------------------------------- the command


def test_the_command_writes_what_it_promises(tmp_path: Path, model_folder: Path, capsys) -> None:
    video, out = good(tmp_path / "v.mp4", 6.0), tmp_path / "out"
    arguments = ["predict", str(video), "--model", str(model_folder), "--out", str(out)]
    assert main([*arguments, "--probabilities", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads((out / "result.json").read_text())
    assert json.loads(printed.out) == result
    assert "synthetic world" in printed.err
    assert result["complete"] is True
    assert result["error"] is None
    assert [second["start"] for second in result["seconds"]] == [0, 1, 2, 3, 4, 5]
    assert result["model"] == {"name": "loud_left", "trained_on": "synthetic world"}
    for second in result["seconds"]:
        mask = np.asarray(Image.open(out / second["mask"]))
        probability = np.asarray(Image.open(out / second["probabilities"]))
        assert mask.shape == probability.shape == (32, 48)
        assert set(np.unique(mask)) == {0, 255}
        assert mask.mean() / 255 == pytest.approx(second["area"], abs=1e-5)
        assert ((probability > 128) <= (mask > 0)).all()
    assert main(arguments) == 2  # never over earlier results without being asked
    assert "--overwrite" in capsys.readouterr().err
    (out / "mine.txt").write_text("keep")
    assert main(["predict", str(tmp_path / "no.mp4"), *arguments[2:], "--overwrite"]) == 3
    assert len(list((out / "masks").iterdir())) == 6  # nothing is removed for a video that cannot be read
    assert main([*arguments, "--overwrite", "--no-overlay", "--threshold", "0.99"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["masks", "mine.txt", "result.json"]
    assert not np.asarray(Image.open(out / "masks" / "00000.png")).any()
    assert str(out / "result.json") in capsys.readouterr().out


def test_the_overlay_is_the_video_with_its_sound(tmp_path: Path, model_folder: Path) -> None:
    sound = clicks(4.0, 44100)
    sound[44100:88200] = 0  # second 1 is silent, so nothing is marked in it
    write_video(tmp_path / "v.mp4", [gray(0, 60, 96)] * 100, 25, audio=sound, sample_rate=44100)
    command = ["predict", str(tmp_path / "v.mp4"), "--model", str(model_folder), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    overlay = tmp_path / "out" / "overlay.mp4"
    info = probe(overlay)
    assert info.picture is not None
    assert info.sound is not None
    assert (info.picture.fps, info.picture.frames, info.sound.sample_rate) == (25, 100, 44100)
    assert info.picture.end == pytest.approx(4.0, abs=0.01)
    heard = np.flatnonzero(np.abs(read_audio(overlay, 44100)) > 0.4) / 44100
    assert sorted(set(heard.round(1))) == [0.0, 2.0, 3.0]
    pictures = [frame.rgb().astype(int) for frame in frames_at(overlay, [0.5, 1.5, 2.02, 3.9])]
    height = 400  # 60 x 96 drawn at 400 x 640, the strip below
    assert pictures[0].shape[0] > height
    redness = [(picture[:height, :300, 0] - picture[:height, :300, 2]).mean() for picture in pictures]
    assert redness[0] > 60
    assert redness[2] > 60
    assert abs(redness[1]) < 5  # the mask changes with the second, sharply
    right = [(picture[:height, 340:, 0] - picture[:height, 340:, 2]).mean() for picture in pictures]
    assert max(map(abs, right)) < 5
    cursor = [int(picture[height + 10 : -30].min(axis=2).mean(axis=0).argmax()) for picture in pictures]
    assert cursor == sorted(cursor)
    assert cursor[-1] - cursor[0] > 300


def test_fast_and_large_videos_are_drawn_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, [gray(0, 200, 1600)] * 90, 60, audio=clicks(1.5, 22050), sample_rate=22050)
    result = fake_pipeline()(path)
    result.save_overlay(tmp_path / "o.mp4")
    picture = probe(tmp_path / "o.mp4").picture
    assert picture is not None
    assert (picture.width, picture.fps, picture.frames) == (1280, 30, 45)
    assert json.loads(result.to_json())["video"]["picture"]["width"] == 1600


def test_without_a_model_the_newest_run_is_taken(
    tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    video = good(tmp_path / "v.mp4", 2.0)
    monkeypatch.chdir(tmp_path)
    newer = tmp_path / "runs" / "second" / "model"
    newer.mkdir(parents=True)
    (newer / "config.json").write_text("{}")
    os.utime(newer / "config.json", (2e9, 2e9))
    assert main(["predict", str(video), "--out", "out", "--no-overlay"]) == 0
    assert f"runs{os.sep}second" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["predict", str(video), "--out", "out"]) == 2
    assert "crossmamba demo" in capsys.readouterr().err


def test_damage_on_the_way_keeps_the_masks(tmp_path: Path, model_folder: Path, capsys) -> None:
    path = truncated(tmp_path / "cut.mp4", good(tmp_path / "v.mp4", 20.0, 25), 0.6)
    out = tmp_path / "out"
    assert main(["predict", str(path), "--model", str(model_folder), "--out", str(out)]) == 3
    result = json.loads((out / "result.json").read_text())
    assert result["complete"] is False
    assert "cut short" in result["error"]
    assert len(list((out / "masks").iterdir())) == len(result["seconds"]) > 5
    assert "kept" in capsys.readouterr().err


def test_bad_files_end_in_one_line_and_code_3(tmp_path: Path, model_folder: Path, capsys) -> None:
    for name, make in bad_files(tmp_path).items():
        path, out = make(), tmp_path / "out" / name.replace(" ", "_").replace("%", "")
        code = main(["predict", str(path), "--model", str(model_folder), "--out", str(out)])
        printed = capsys.readouterr()
        assert code == 3, f"{name}: exit code {code}, {printed}"
        assert printed.out == "", name
        lines = printed.err.strip().splitlines()
        assert len(lines) == 1, f"{name}: {lines}"
        assert str(path) in lines[0], f"{name}: {lines}"
        assert "Traceback" not in lines[0]


# ---------------------------------------------------------------- bounds


def test_a_wide_file_costs_nothing(tmp_path: Path) -> None:
    answer = child("wide", wide_video(tmp_path / "w.mov", 14_000, 5_000))  # 210 MB a frame once decoded
    assert "14000 x 5000" in answer["said"] or "size cannot be read" in answer["said"]
    assert answer["growth"] < 50


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    short, long = good(tmp_path / "s.mp4", 20.0, 4), good(tmp_path / "l.mp4", 400.0, 4)
    answer = child("long", short, long)
    assert (answer["few"], answer["many"]) == (20, 400)
    assert answer["growth"] < 8  # MiB; the 380 seconds more are 24 MiB of sound alone


def test_the_overlays_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    answer = child("overlay", good(tmp_path / "s.mp4", 20.0, 2), good(tmp_path / "l.mp4", 70.0, 2), tmp_path)
    assert answer["growth"] < 24  # MiB; the 100 frames more are 100 MiB


def test_mutated_files_give_a_result_or_a_media_error(tmp_path: Path) -> None:
    answer = child("fuzz", tmp_path, 0, 42)
    assert not answer["others"], answer["others"][0]
    assert answer["results"] > 5
    assert answer["errors"] > 5


@pytest.mark.slow
def test_a_thousand_mutated_files(tmp_path: Path) -> None:
    answer = child("fuzz", tmp_path, 1000, 1000)
    assert not answer["others"], answer["others"][0]
    assert answer["peak"] < 1024


# ---------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("name", "seconds", "fps"),
    [("clip_with_sound.avi", 7, 25), ("processed_video_tiger.mp4", 10, 4), ("processed_video_train.mp4", 10, 4)],
)
def test_real_videos(tmp_path: Path, model_folder: Path, name: str, seconds: int, fps: int) -> None:
    root = os.environ.get("CROSSMAMBA_REAL_DATA")
    if root is None or not (Path(root) / "media" / name).exists():
        pytest.skip("set CROSSMAMBA_REAL_DATA to the folder that holds media/")
    video = Path(root) / "media" / name
    stamps = [frame.stamp for frame in frames_at(video, [second + 15 / 16 for second in range(5)])]
    np.testing.assert_allclose(stamps, [int(second * fps + 15 / 16 * fps) / fps for second in range(5)], atol=1e-3)
    assert main(["predict", str(video), "--model", str(model_folder), "--out", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert len(result["seconds"]) == seconds
    assert result["warnings"] == []
    source, overlay = probe(video), probe(tmp_path / "out" / "overlay.mp4")
    assert source.picture is not None
    assert source.sound is not None
    assert overlay.picture is not None
    assert overlay.sound is not None
    assert overlay.picture.end == pytest.approx(source.picture.end, abs=0.02)
    assert (overlay.sound.sample_rate, overlay.sound.channels) == (source.sound.sample_rate, source.sound.channels)
    theirs, ours = read_audio(video), read_audio(tmp_path / "out" / "overlay.mp4")
    length = min(len(theirs), len(ours))
    assert np.corrcoef(theirs[:length], ours[:length])[0, 1] > 0.98  # the same sound at the same time
