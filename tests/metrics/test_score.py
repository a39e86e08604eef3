"""Folders of predicted masks against folders of truth, and the command that does it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossmamba.cli import main
from crossmamba.data.images import read_mask, read_probability, write_prediction_png
from crossmamba.errors import DataError
from crossmamba.metrics.score import ScoreReport, score_folders


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def truth_set(root: Path, category: str = "", clips: int = 3, seconds: int = 5) -> Path:
    rng = np.random.default_rng(0)
    for c in range(clips):
        for k in range(1, seconds + 1):
            mask = (rng.random((8, 8)) < 0.3).astype(np.uint8) * 255
            save(root / "test" / category / f"clip{c}" / f"clip{c}_{k}.png", mask)
    return root / "test"


def predict_from(truth: Path, out: Path) -> Path:
    for path in truth.rglob("*.png"):
        write_prediction_png(out / path.parent.name / path.name, read_mask(path).astype(bool))
    return out


def score(pred: Path, gt: Path, **kwargs: int) -> ScoreReport:
    return score_folders(pred, gt, read_prediction=read_probability, read_truth=read_mask, **kwargs)


@pytest.mark.parametrize("category", ["", "violin"], ids=["ms3", "s4"])
@pytest.mark.parametrize("at", ["split", "above the splits"])
def test_official_layouts_are_paired(tmp_path: Path, category: str, at: str) -> None:
    split = truth_set(tmp_path / "gt_masks", category)
    pred = predict_from(split, tmp_path / "predictions")
    report = score(pred, split if at == "split" else split.parent)
    assert report.ok, report.text
    assert report.scores["M_J"] == pytest.approx(1)
    assert report.scores["M_F"] == pytest.approx(1)
    assert (report.scores["clips"], report.scores["frames"]) == (3, 15)


def test_known_answer(tmp_path: Path) -> None:
    truth = np.zeros((10, 10), np.uint8)
    truth[:5] = 1  # stored as 0 and 1: read by > 0
    soft = np.zeros((10, 10))
    soft[:4], soft[5] = 0.8, 0.4
    save(tmp_path / "gt/a/a_1.png", truth)
    save(tmp_path / "gt/a/a_2.png", np.zeros((10, 10), np.uint8))
    write_prediction_png(tmp_path / "pred/a/a_1.png", soft)
    write_prediction_png(tmp_path / "pred/a/a_2.png", np.zeros((10, 10)))
    scores = score(tmp_path / "pred", tmp_path / "gt").scores
    assert scores["M_J"] == pytest.approx((0.8 + 1) / 2)
    assert scores["M_J_second_1"] == pytest.approx(0.8)
    assert scores["M_F"] == pytest.approx(1.3 * 0.8 / (0.3 + 0.8))  # above 0.4: P = 1, R = 0.8
    assert scores["black_kept"] == 1


def test_flat_folders_group_by_the_name(tmp_path: Path) -> None:
    for name in ("b_1", "b_2", "a_10", "a_9"):
        save(tmp_path / f"gt/{name}.png", np.full((4, 4), 255, np.uint8))
        save(tmp_path / f"pred/{name}.png", np.full((4, 4), 255, np.uint8))
    report = score(tmp_path / "pred", tmp_path / "gt")
    assert (report.scores["clips"], report.scores["frames"]) == (2, 4)
    assert "M_J_second_3" not in report.scores


def test_everything_wrong_is_listed_and_nothing_scored(tmp_path: Path) -> None:
    gt = truth_set(tmp_path / "gt_masks")
    pred = predict_from(gt, tmp_path / "pred")
    (pred / "clip0/clip0_1.png").unlink()
    save(pred / "clip9/clip9_1.png", np.zeros((8, 8), np.uint8))
    save(pred / "clip1/clip1_1.png", np.zeros((8, 9), np.uint8))
    (pred / "clip1/clip1_2.png").write_bytes(b"not a png")
    save(pred / "clip2/clip2_2.png", np.zeros((8, 8, 3), np.uint8))
    report = score(pred, gt)
    assert not report.ok
    assert not report.scores
    assert report.missing == ["clip0/clip0_1.png"]
    assert report.extra == ["clip9/clip9_1.png"]
    assert report.mismatched == ["clip1/clip1_1.png: prediction 9x8, truth 8x8"]
    assert len(report.unreadable) == 2
    for name in ("clip0_1", "clip9_1", "clip1_1", "clip1_2", "clip2_2"):
        assert name in report.text


def test_masks_of_0_and_1_are_not_taken_for_probabilities(tmp_path: Path) -> None:
    gt = truth_set(tmp_path / "gt_masks")
    for path in gt.rglob("*.png"):
        save(tmp_path / "pred" / path.parent.name / path.name, read_mask(path))
    report = score(tmp_path / "pred", gt)
    assert not report.ok
    assert "write 0 and 255" in report.text


@pytest.mark.parametrize("mode", ["1", "P"])
def test_hard_masks_of_one_bit_or_palette_are_read(tmp_path: Path, mode: str) -> None:
    gt = truth_set(tmp_path / "gt_masks")
    for path in gt.rglob("*.png"):
        picture = Image.fromarray(read_mask(path) * 255)
        if mode == "P":
            picture = Image.fromarray(read_mask(path), mode="L")
            picture = picture.convert("P")
            picture.putpalette([0, 0, 0, 128, 0, 0])
        out = tmp_path / "pred" / path.parent.name / path.name
        out.parent.mkdir(parents=True, exist_ok=True)
        (picture if mode == "P" else picture.convert("1", dither=Image.Dither.NONE)).save(out)
    assert score(tmp_path / "pred", gt).scores["M_J"] == pytest.approx(1)


def test_same_names_in_two_splits_are_refused(tmp_path: Path) -> None:
    gt = truth_set(tmp_path / "gt_masks")
    pred = predict_from(gt, tmp_path / "pred")
    save(tmp_path / "gt_masks/val/clip0/clip0_1.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="point to one split"):
        score(pred, tmp_path / "gt_masks")


def test_rounding_keeps_the_decision_at_one_half(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.4999, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.51, 1.0]], np.float32)
    write_prediction_png(tmp_path / "p.png", values)
    assert (read_probability(tmp_path / "p.png") > 0.5).tolist() == (values > 0.5).tolist()
    assert np.abs(read_probability(tmp_path / "p.png") - values).max() <= 0.5 / 255 + 1e-6


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt = truth_set(tmp_path / "gt_masks")
    pred = predict_from(gt, tmp_path / "pred")
    command = ["score", "avs", "--pred", str(pred), "--gt", str(gt)]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "dataset" in out
    assert "official, 1 clip a batch" in out
    assert main([*command, "--clips-per-batch", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["clips_per_batch"] == 2
    assert report["scores"]["black_kept"] is None
    assert main([*command, "--clips-per-batch", "0"]) == 2
    (pred / "clip0/clip0_1.png").unlink()
    capsys.readouterr()
    assert main(command) == 3
    assert "clip0_1" in capsys.readouterr().err
    assert main(["score", "avs", "--pred", str(tmp_path / "none"), "--gt", str(gt)]) == 3
