"""What is in the feature files: shapes, which instant a row shows, bad videos, resuming."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossmamba.cli import main
from crossmamba.data.media import probe
from crossmamba.data.qa.features import FeatureStore, whole_seconds
from crossmamba.data.qa.raw import read_log_mel, read_pictures
from crossmamba.encoders import build_picture_encoder, build_sound_encoder, load_encoder_weights
from crossmamba.errors import DataError, UsageError
from crossmamba.extract.encoders import Extractor
from crossmamba.extract.reading import seconds_in
from crossmamba.extract.run import Report, extract_features, find_videos
from tests.extract.conftest import FPS, coded, coded_video
from tests.media_files import clicks, truncated

BOTH = ("small_sound", "small_picture")


def run(features: tuple[str, ...], out: Path, videos: Path, weights: str | None = None, **options: object) -> Report:
    given = {} if weights is None else {name: weights for name in features if name in BOTH}
    return extract_features(features, out, videos=find_videos(videos), weights=given, progress=False, **options)


def test_rows_are_what_the_encoders_give_for_each_second(tmp_path: Path, small_weights: dict[str, str]) -> None:
    """Bit for bit as the encoders saw the seconds in training, whatever the batch; readable by the data set's code."""
    coded_video(tmp_path / "v" / "00000007.mp4", 5.0, tone=2)
    report = run(BOTH, tmp_path / "out", tmp_path / "v", small_weights["run"], batch=2)
    assert (report.made, report.kept, report.bad, report.log) == (1, 0, 0, None)
    stored = {name: np.load(tmp_path / "out" / name / "00000007.npy", allow_pickle=False) for name in BOTH}
    assert {name: (values.dtype, values.shape) for name, values in stored.items()} == {
        "small_sound": (np.float32, (5, 64)),
        "small_picture": (np.float32, (5, 8, 8, 64)),
    }
    sound = build_sound_encoder("small_sound", freeze=True)
    picture = build_picture_encoder("small_pyramid", widths=(8, 64, 8, 8), stem_width=8, freeze=True)
    for name, encoder in (("small_sound", sound), ("small_picture", picture)):
        load_encoder_weights(encoder, f"{small_weights['run']}/model/{name}.safetensors")
    path, rows = tmp_path / "v" / "00000007.mp4", np.arange(5)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (read_pictures(path, rows, 64) / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(stored["small_sound"]), sound(read_log_mel(path, 5, rows)))
        torch.testing.assert_close(torch.tensor(stored["small_picture"]), picture(pixels)[1].movedim(1, -1))
    change = np.abs(stored["small_sound"] - stored["small_sound"][0]).max(1)
    assert change.argmax() == 2, "the tone is in second 2"
    for name, values in stored.items():
        np.testing.assert_array_equal(FeatureStore(tmp_path / "out", name).load("00000007"), values)


def test_a_row_shows_the_picture_half_a_second_in(tmp_path: Path) -> None:
    """The grey level changes 0.4 s into each second: row t shows t + 0.5, not t."""
    coded_video(tmp_path / "v" / "a.mp4", 6.0)
    run(("frames",), tmp_path, tmp_path / "v")
    files = sorted((tmp_path / "avqa-frames-1fps" / "a").iterdir())
    assert [file.name for file in files] == [f"{number:06d}.jpg" for number in range(1, 7)]
    shown = [float(np.asarray(Image.open(file)).mean()) for file in files]
    assert np.abs(np.subtract(shown, [coded(second + 0.5) for second in range(6)])).max() < 6
    assert np.abs(np.subtract(shown, [coded(float(second)) for second in range(6)])).min() > 40


@pytest.mark.parametrize(("seconds", "rows"), [(2.875, 2), (2.9375, 3), (3.0, 3), (3.5, 3), (0.5, 1)])
def test_rows_are_whole_seconds(tmp_path: Path, seconds: float, rows: int) -> None:
    """As raw videos are counted, so that stored and raw modalities agree."""
    info = probe(coded_video(tmp_path / "a.mp4", seconds, fps=16))
    assert info.picture is not None
    assert info.picture.end is not None
    assert seconds_in(info) == rows == whole_seconds(info.picture.end)


def test_cut_and_filled(tmp_path: Path, small_weights: dict[str, str]) -> None:
    """61 s of MUSIC-AVQA are cut at 60; --seconds fills up with the last picture and silence."""
    coded_video(tmp_path / "videos" / "long.mp4", 61.0, fps=4)
    weights = ["--weights", *(f"{name}={small_weights['run']}" for name in BOTH)]
    assert main(["data", "extract", "music-avqa", str(tmp_path), "--features", *BOTH, *weights]) == 0
    assert np.load(tmp_path / "small_sound" / "long.npy").shape == (60, 64)
    coded_video(tmp_path / "v" / "short.mp4", 3.0)
    run(BOTH, tmp_path / "out", tmp_path / "v", small_weights["run"], seconds=6)
    sound, picture = (np.load(tmp_path / "out" / name / "short.npy") for name in BOTH)
    assert (len(sound), len(picture)) == (6, 6)
    assert (picture[3:] == picture[2]).all()
    assert (picture[1] != picture[2]).any()
    np.testing.assert_array_equal(sound[4], sound[5])  # second 3 holds the end of the last AAC frame
    assert np.abs(sound[4] - sound[2]).max() > 1e-3


def test_resuming_keeps_what_is_whole_and_makes_the_rest(
    tmp_path: Path, videos: Path, small_weights: dict[str, str]
) -> None:
    features = (*BOTH, "frames")
    first = run(features, tmp_path, videos / "videos", small_weights["run"])
    assert (first.made, first.kept) == (4, 0)
    good = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*") if path.suffix in (".npy", ".jpg")}
    contents = {path: path.read_bytes() for path in good}
    again = run(features, tmp_path, videos / "videos", small_weights["run"])
    assert (again.made, again.kept) == (0, 4)
    cut, other = tmp_path / "small_sound" / "00000000.npy", tmp_path / "small_picture" / "00000001.npy"
    cut.write_bytes(contents[cut][:-100])
    np.save(other, np.zeros((3, 4, 4, 64), np.float32))
    (tmp_path / "avqa-frames-1fps" / "00000002" / "000002.jpg").unlink()
    jpeg = tmp_path / "avqa-frames-1fps" / "00000003" / "000001.jpg"
    jpeg.write_bytes(contents[jpeg][:-2])
    third = run(features, tmp_path, videos / "videos", small_weights["run"])
    assert (third.made, third.kept) == (4, 0)
    assert {path: path.read_bytes() for path in contents} == contents
    changed = {path for path in good if path.stat().st_mtime_ns != good[path]}
    assert changed == {cut, other} | {path for path in good if path.parent.name in ("00000002", "00000003")}
    np.save(cut, np.zeros((3, 64), np.float64))
    assert run(BOTH, tmp_path, videos / "videos", small_weights["run"]).made == 1
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_bad_videos_are_listed_and_leave_nothing(
    tmp_path: Path, small_weights: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "v"
    good = coded_video(folder / "good.mp4", 4.0)
    truncated(folder / "cut.mp4", good, 0.7)
    (folder / "empty.mp4").write_bytes(b"")
    coded_video(folder / "mute.mp4", 3.0, sound=False)
    command = ["data", "extract", "folder", str(folder), "--out", str(tmp_path), "--features", *BOTH]
    command += ["--weights", *(f"{name}={small_weights['run']}" for name in BOTH)]
    assert main(command) == 3
    said = capsys.readouterr().out
    assert "1 videos made, 0 there already, 3 bad" in said
    entries = [json.loads(line) for line in (tmp_path / "extract-bad.jsonl").read_text().splitlines()]
    assert {entry["video"]: entry["features"] for entry in entries} == {
        "cut": list(BOTH),
        "empty": list(BOTH),
        "mute": ["small_sound"],
    }
    assert all(entry["message"] in said and entry["file"] in entry["message"] for entry in entries)
    assert "--silence-missing" in said
    assert sorted(path.name for path in (tmp_path / "small_sound").iterdir()) == ["good.npy", "manifest.json"]
    assert sorted(os.listdir(tmp_path / "small_picture")) == ["good.npy", "manifest.json", "mute.npy"]
    assert main([*command, "--allow-bad"]) == 0
    assert main([*command, "--silence-missing", "--allow-bad", "--json"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (report["made"], report["kept"], report["bad"]) == (1, 1, 2)
    silent = np.load(tmp_path / "small_sound" / "mute.npy")
    assert (silent == silent[0]).all()
    (folder / "cut.mp4").unlink()
    (folder / "empty.mp4").unlink()
    assert main(command) == 0, "what was made of silence stays"
    assert not (tmp_path / "extract-bad.jsonl").exists()


def test_a_file_of_sound_only(tmp_path: Path, small_weights: dict[str, str]) -> None:
    import av

    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        block = av.AudioFrame.from_ndarray(clicks(3.0)[None], format="fltp", layout="mono")
        block.sample_rate = 16000
        container.mux(stream.encode(block))
        container.mux(stream.encode(None))
    report = run(BOTH, tmp_path / "out", tmp_path, small_weights["run"])
    assert report.bad == 1
    assert "no pictures" in report.text
    assert np.load(tmp_path / "out" / "small_sound" / "x.npy").shape == (3, 64)


def test_early_end_of_the_sound_is_noted(tmp_path: Path, small_weights: dict[str, str]) -> None:
    from crossmamba.data.media import write_video

    frames = (np.full((32, 32, 3), 100, np.uint8) for _ in range(5 * FPS))
    write_video(tmp_path / "v" / "a.mp4", frames, FPS, audio=clicks(2.0))
    report = run(("small_sound",), tmp_path / "out", tmp_path / "v", small_weights["run"])
    assert (report.made, report.bad) == (1, 0)
    assert "note: the sound ends at 2." in report.text
    assert len(np.load(tmp_path / "out" / "small_sound" / "a.npy")) == 5


def test_two_encoders_never_share_a_folder(tmp_path: Path, videos: Path, small_weights: dict[str, str]) -> None:
    source = videos / "videos"
    run(("small_sound",), tmp_path, source, small_weights["run"])
    manifest = json.loads((tmp_path / "small_sound" / "manifest.json").read_text())
    assert manifest["encoder"] == "small_sound"
    assert len(manifest["weights_sha256"]) == 64
    shutil.copytree(Path(small_weights["run"]), tmp_path / "copy")
    assert run(("small_sound",), tmp_path, source, str(tmp_path / "copy")).kept == 4, "the same weights elsewhere"
    before = (tmp_path / "small_sound" / "00000000.npy").read_bytes()
    with pytest.raises(UsageError, match=r"weights_sha256 '\w+' there, '\w+' now.*--overwrite"):
        run(("small_sound",), tmp_path, source, small_weights["other"])
    assert (tmp_path / "small_sound" / "00000000.npy").read_bytes() == before
    assert run(("small_sound",), tmp_path, source, small_weights["other"], overwrite=True).made == 4
    assert (tmp_path / "small_sound" / "00000000.npy").read_bytes() != before
    (tmp_path / "small_sound" / "manifest.json").unlink()
    with pytest.raises(UsageError, match=r"holds 4 files \(00000000.npy, ...\) and no manifest.json"):
        run(("small_sound",), tmp_path, source, small_weights["other"])


def test_memory_holds_a_batch_of_seconds(
    tmp_path: Path, small_weights: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coded_video(tmp_path / "v" / "a.mp4", 23.0, fps=2)
    sizes, encode = [], Extractor.encode

    def counting(self: Extractor, group: object, seconds: list) -> object:
        sizes.append(len(seconds))
        return encode(self, group, seconds)

    monkeypatch.setattr(Extractor, "encode", counting)
    run(("small_picture",), tmp_path / "out", tmp_path / "v", small_weights["run"], batch=5)
    assert sizes[-5:] == [5, 5, 5, 5, 3]
    assert len(np.load(tmp_path / "out" / "small_picture" / "a.npy")) == 23


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--features", "vgish"], "did you mean 'vggish'"),
        (["--features", "vggish"], "--weights vggish=FILE (published: vggish-10086976.pth"),
        (["--features", "clip_tokens"], "hf://openai/clip-vit-base-patch32/model.safetensors"),
        (["--features", "frames", "--weights", "vggish=x"], "weights for vggish, which none of frames needs"),
        (["--features", "vggish", "--weights", "vggish=nowhere.pth"], "nowhere.pth: no such file"),
        (["--features", "small_sound", "--weights", "small_sound=."], "neither small_sound.safetensors nor"),
        (["--features", "clip_question"], "name a data set that has some"),
        (["--features", "frames", "--batch", "0"], "batch is 0"),
        (["--features", "frames", "--small-size", "60"], "multiple of 8"),
        (["--features", "frames", "--device", "cuda:99"], "device 'cuda:99' is not there"),
    ],
)
def test_wrong_calls(
    videos: Path, tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["data", "extract", "folder", str(videos / "videos"), "--out", str(tmp_path), *arguments])
    assert code in (2, 3)
    assert says in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.npy"))


def test_folders_without_videos_or_with_two_of_a_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_videos(tmp_path / "videos")
    with pytest.raises(DataError, match="no videos in it"):
        find_videos(tmp_path)
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="remove one"):
        find_videos(tmp_path)
