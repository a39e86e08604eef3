"""Tokens of EPIC-KITCHENS-100's segments: what the encoder gives for what the data set shows, read back by it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from crossmamba.cli import main
from crossmamba.cli.data_extract import DESCRIPTION
from crossmamba.data.epic.crops import ClipTransform
from crossmamba.data.epic.dataset import EpicDataset
from crossmamba.data.media import write_video
from crossmamba.encoders import VIDEO_ENCODERS, SmallVideoEncoder
from crossmamba.errors import CheckpointError, UsageError
from crossmamba.extract.run_segments import extract_segments
from crossmamba.extract.segments import TOKEN_RECIPES, SegmentJob, opened

COLUMNS = (
    "narration_id", "participant_id", "video_id", "narration_timestamp", "start_timestamp", "stop_timestamp",
    "start_frame", "stop_frame", "narration", "verb", "verb_class", "noun", "noun_class", "all_nouns",
    "all_noun_classes",
)  # fmt: skip
STARTS = (0.5, 1.4, 2.6)


def clock(seconds: float) -> str:
    return f"00:00:{seconds:05.2f}"


def annotate(root: Path, split: str, video: str, starts: tuple[float, ...] = STARTS) -> None:
    with (root / f"EPIC_100_{split}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, start in enumerate(starts):
            stop = start + 1.0
            writer.writerow([
                f"{video}_{number}", video[:3], video, clock(start) + "0", clock(start), clock(stop),
                int(start * 60), int(stop * 60), "take plate", "take", 0, "plate", 2, "['plate']", "[2]",
            ])  # fmt: skip


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two videos of 4 s whose pictures change, three segments each; nobody writes into it."""
    root = tmp_path_factory.mktemp("epic")
    for split, video, seed in (("train", "P01_01", 1), ("validation", "P02_03", 2)):
        rng = np.random.default_rng(seed)
        base = rng.integers(0, 255, (40, 64, 80, 3), dtype=np.uint8)
        write_video(root / video[:3] / "videos" / f"{video}.mp4", iter(base), 10)
        annotate(root, split, video)
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run folder: the small encoder within a whole model."""
    folder = tmp_path_factory.mktemp("run") / "model"
    folder.mkdir()
    torch.manual_seed(3)
    state = {f"encoder.{key}": value for key, value in SmallVideoEncoder(16, 8).state_dict().items()}
    save_file(state | {"verb_head.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    return {"small_video": str(folder.parent)}


def small(weights: dict[str, str]) -> SmallVideoEncoder:
    torch.manual_seed(3)
    return SmallVideoEncoder(16, 8).eval()


@pytest.mark.parametrize("task", ["recognition", "anticipation"])
def test_tokens_are_the_encoder_s_of_what_the_data_set_shows(
    tmp_path: Path, kitchen: Path, weights: dict[str, str], task: str
) -> None:
    report = extract_segments(["small_video"], kitchen, tmp_path, weights=weights, task=task, frames=4, progress=False)
    assert (report.made, report.kept, report.bad) == (6, 0, 0)
    assert report.text.startswith("6 segments made")
    assert ("first picture is shown" in report.text) is (task == "anticipation")
    folder = tmp_path / ("tokens_small_video" if task == "recognition" else "tokens_small_video_anticipation")
    for split in ("train", "validation"):
        options = {"task": task, "frames": 4, "train": False}
        shown = EpicDataset(kitchen, split, transform=ClipTransform(64), **options)
        stored = EpicDataset(kitchen, split, media=folder, layout="features", **options)
        for i in range(3):
            with torch.no_grad():
                expected = small(weights)(shown[i]["video"][None]).tokens[0]
            assert stored[i]["tokens"].shape == (4 * 16, 16)
            torch.testing.assert_close(stored[i]["tokens"], expected)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["row"] == [64, 16]
    assert manifest["settings"]["grid"] == [4, 4, 4]
    assert manifest["settings"]["task"] == task


def test_resuming_bad_segments_and_half(tmp_path: Path, kitchen: Path, weights: dict[str, str]) -> None:
    """What is whole stays; a segment past its video's end is listed and leaves nothing; float16 is half as large."""
    root = tmp_path / "set"
    (root / "P01" / "videos").mkdir(parents=True)
    video = kitchen / "P01" / "videos" / "P01_01.mp4"
    (root / "P01" / "videos" / "P01_01.mp4").write_bytes(video.read_bytes())
    annotate(root, "train", "P01_01", (0.5, 1.4, 9.0))
    arguments = {"weights": weights, "frames": 2, "dtype": "float16", "progress": False}
    report = extract_segments(["small_video"], root, **arguments)
    assert (report.made, report.kept, report.bad) == (2, 0, 1)
    assert "P01_01_2" in report.text
    assert "goes past the end of its video" in report.text
    folder = root / "tokens_small_video"
    assert sorted(path.name for path in folder.iterdir()) == ["P01_01_0.npy", "P01_01_1.npy", "manifest.json"]
    assert np.load(folder / "P01_01_0.npy").dtype == np.float16
    stamp = (folder / "P01_01_0.npy").stat().st_mtime_ns
    content = (folder / "P01_01_1.npy").read_bytes()
    (folder / "P01_01_1.npy").write_bytes(content[:-1])
    report = extract_segments(["small_video"], root, **arguments)
    assert (report.made, report.kept, report.bad) == (1, 1, 1)
    assert (folder / "P01_01_0.npy").stat().st_mtime_ns == stamp
    assert (folder / "P01_01_1.npy").read_bytes() == content
    with pytest.raises(UsageError, match="made in another way"):
        extract_segments(["small_video"], root, **{**arguments, "frames": 3})
    report = extract_segments(["small_video"], root, **{**arguments, "dtype": "float32"}, overwrite=True)
    assert report.made == 2
    assert np.load(folder / "P01_01_0.npy").dtype == np.float32


def test_shares_of_ranks_and_processes(
    tmp_path: Path, kitchen: Path, weights: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"weights": weights, "frames": 2, "splits": ["val"], "progress": False}
    extract_segments(["small_video"], kitchen, tmp_path / "one", **arguments)
    report = extract_segments(["small_video"], kitchen, tmp_path / "two", workers=2, **arguments)
    assert report.made == 3
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        report = extract_segments(["small_video"], kitchen, tmp_path / "ranks", **arguments)
        assert report.made == (2, 1)[rank]
    files = [path.name for path in sorted((tmp_path / "one" / "tokens_small_video").glob("*.npy"))]
    assert files == ["P02_03_0.npy", "P02_03_1.npy", "P02_03_2.npy"]
    for name in files:
        made = [np.load(tmp_path / run / "tokens_small_video" / name) for run in ("one", "two", "ranks")]
        np.testing.assert_allclose(made[1], made[0], atol=1e-6)
        np.testing.assert_allclose(made[2], made[0], atol=1e-6)


def test_by_command(tmp_path: Path, kitchen: Path, weights: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "extract", "epic100", str(kitchen), "--out", str(tmp_path), "--features", "small_video"]
    arguments += ["--weights", f"small_video={weights['small_video']}"]
    assert main([*arguments, "--split", "train", "--frames", "2", "--sampling", "uniform", "--half", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 3
    assert main([*arguments, "--seconds", "3"]) == 2
    assert "--seconds is not for epic100" in capsys.readouterr().err
    wrong = ["data", "extract", "folder", str(kitchen), "--features", "vggish", "--half"]
    assert main(wrong) == 2
    assert "--half is not for folder" in capsys.readouterr().err


def test_wrong_calls(tmp_path: Path, kitchen: Path, weights: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="did you mean 'avion_b'"):
        extract_segments(["avion_bb"], kitchen, tmp_path, weights={})
    with pytest.raises(UsageError, match=r"--weights avion_b=FILE \(published: the model zoo of .*AVION"):
        extract_segments(["avion_b"], kitchen, tmp_path, weights={})
    with pytest.raises(UsageError, match="run folder of a training of MambaVL"):
        extract_segments(["small_video"], kitchen, tmp_path, weights={})
    with pytest.raises(UsageError, match="weights for clip_b"):
        extract_segments(["small_video"], kitchen, tmp_path, weights=weights | {"clip_b": "x"})
    with pytest.raises(UsageError, match="of avion and lavila alone"):
        extract_segments(["small_video"], kitchen, tmp_path, weights=weights, activation="gelu")
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="not weights of the small video encoder"):
        extract_segments(["small_video"], kitchen, tmp_path, weights={"small_video": str(tmp_path / "x.safetensors")})
    assert set(TOKEN_RECIPES) == set(VIDEO_ENCODERS)
    words = DESCRIPTION.replace(",", " ").replace(";", " ").split()
    assert [name for name in TOKEN_RECIPES if name not in words] == []


def test_every_encoder_opens_with_its_own_size(kitchen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full-size encoder on no memory: frames, side and normalisation come from it, LaViLa's gates from its file."""
    monkeypatch.setattr("crossmamba.extract.segments.pick_device", lambda name: torch.device("meta"))
    monkeypatch.setattr("crossmamba.extract.segments.digest", lambda encoder: "-")
    with torch.device("meta"):
        made = opened(SegmentJob("vivit_b", Path("x"), "random", kitchen))
        assert (made.frames, made.image, made.shape) == (32, 224, (3137, 768))
        made = opened(SegmentJob("avion_b", Path("x"), "random", kitchen, activation="quick_gelu"))
        assert made.encoder.blocks[0].mlp.quick_gelu
        made = opened(SegmentJob("avion_b", Path("x"), "random", kitchen, frames=8, mode="uniform"))
    assert (made.dataset.frames, made.shape) == (8, (1 + 8 * 196, 768))
    assert not made.encoder.blocks[0].mlp.quick_gelu
    assert made.dataset.transform.mean == pytest.approx((108.327 / 255, 116.746 / 255, 104.094 / 255), abs=1e-4)
    opened.cache_clear()
