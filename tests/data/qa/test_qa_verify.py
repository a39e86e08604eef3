"""`crossmamba data verify music-avqa|avqa`: a sound set passes, and each bad thing is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qa_toy import VIDEOS, contradictory_rows, make_root, make_video, rows_of, save_features, save_rows

from crossmamba.cli import main
from crossmamba.data.qa.verify import verify_questions
from crossmamba.errors import DataError

VAL = "json_update/avqa-val.json"


def test_a_sound_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_root(tmp_path)
    for video in VIDEOS:
        make_video(tmp_path / "videos" / f"{video}.mp4", seconds=1)
    assert main(["data", "verify", "music-avqa", str(tmp_path), "--features", "small_sound", "small_picture"]) == 0
    out = capsys.readouterr().out
    assert "val       33 questions, 3 videos (11 questions about synthetic ones)" in out
    assert "videos in both train, val: 3" in out
    assert "small_picture: 3 files read; T=60 (3)" in out
    assert "3 raw videos opened, 0 without sound" in out
    assert "official json_update val has (511, 295," in out
    assert "no problem" in out
    assert main(["data", "verify", "music-avqa", str(tmp_path), "--json", "--decode"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["splits"]["test"]["types"]["Audio-Visual Temporal"] == 4
    (tmp_path / "world.json").write_text("{}")  # a synthetic set is not compared with the official one
    assert not [note for note in verify_questions(tmp_path).notes if note.kind == "counts"]


def change_row(change: dict[str, Any]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        rows = rows_of(1)
        rows[3] |= change
        save_rows(root / VAL, rows)

    return damage


def nan(root: Path) -> None:
    values = np.zeros((60, 64), np.float32)
    values[2, 2] = np.inf
    np.save(root / "small_sound" / f"{VIDEOS[0]}.npy", values)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "answer": (
        change_row({"anser": "guitar"}),
        r"PROBLEM answer: .*val\.json: row 4 .*'guitar' is none of the 42",
    ),
    "template": (change_row({"question_content": "Why?"}), "row 4 .*none of the 33"),
    "value": (change_row({"templ_values": '["lute", "oud"]'}), "row 4 .*'lute' .* outside the 93"),
    "id": (change_row({"video_id": 7}), "row 4 .*video_id is 7"),
    "duplicate": (
        lambda root: save_rows(root / VAL, contradictory_rows()),
        "question id 0 is in rows 1, 34, with answers no, yes",
    ),
    "no json": (lambda root: (root / VAL).write_text("x"), "PROBLEM annotations: .*cannot be read as JSON"),
    "shape": (
        lambda root: save_features(root, "small_sound", VIDEOS[0], (60, 63)),
        rf"{VIDEOS[0]}\.npy: shape \[60, 63\]",
    ),
    "nan": (nan, rf"{VIDEOS[0]}\.npy: 1 values are NaN or infinite"),
    "T": (
        lambda root: save_features(root, "small_sound", VIDEOS[0], (58, 64)),
        f"video {VIDEOS[0]}: 58 rows of small_sound, 60 rows of small_picture",
    ),
    "missing": (
        lambda root: (root / "small_sound" / f"{VIDEOS[1]}.npy").unlink(),
        rf"{VIDEOS[1]}\.npy: there is no such feature file",
    ),
    "corrupt": (lambda root: (root / "small_sound" / f"{VIDEOS[1]}.npy").write_bytes(b"\x93NUMPY"), "cannot be read"),
    "no video": (lambda root: (root / "videos").mkdir(), rf"{VIDEOS[0]}\.mp4: there is no such video"),
    "bad video": (
        lambda root: [make_video(root / "videos" / f"{v}.mp4", 1).write_bytes(b"x" * 99) for v in VIDEOS],
        rf"PROBLEM video: .*{VIDEOS[2]}\.mp4",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage, said = DAMAGE[case]
    make_root(tmp_path)
    assert verify_questions(tmp_path).ok
    damage(tmp_path)
    assert main(["data", "verify", "music-avqa", str(tmp_path)]) == 3
    assert re.search(said, capsys.readouterr().out)


def test_odd_but_harmless_things_are_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_root(tmp_path)
    save_features(tmp_path, "small_sound", VIDEOS[0], (61, 64))  # 61 rows count as 60
    save_features(tmp_path, "small_sound", "stranger", (60, 64))
    for video in VIDEOS:
        make_video(tmp_path / "videos" / f"{video}.mp4", seconds=1, sound=video != VIDEOS[0])
    assert main(["data", "verify", "music-avqa", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"{VIDEOS[0]}.npy: 61 rows; the first 60 are used" in out
    assert "1 files that no question asks about (stranger.npy" in out
    assert f"{VIDEOS[0]}.mp4: no sound" in out
    save_rows(tmp_path / "json" / "avqa-val.json", contradictory_rows())
    assert main(["data", "verify", "music-avqa", str(tmp_path), "--version", "json"]) == 0
    assert "2 ids given twice" in capsys.readouterr().out


def test_a_cut_video_is_found_by_decoding(tmp_path: Path) -> None:
    make_root(tmp_path)
    for video in VIDEOS:
        path = make_video(tmp_path / "videos" / f"{video}.mkv", seconds=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    report = verify_questions(tmp_path, decode=True)
    assert [finding.kind for finding in report.problems] == ["video"]


def test_nothing_to_verify(tmp_path: Path) -> None:
    assert main(["data", "verify", "music-avqa", str(tmp_path)]) == 3
    assert main(["data", "verify", "music-avqa", str(tmp_path / "none")]) == 3
    assert main(["data", "verify", "avsbench-ms3", str(tmp_path), "--features", "vggish"]) == 2
    make_root(tmp_path)
    assert main(["data", "verify", "music-avqa", str(tmp_path), "--features", "vgg"]) == 2
    assert main(["data", "verify", "music-avqa", str(tmp_path), "--features", "vggish"]) == 3
    with pytest.raises(DataError, match="no such folder"):
        verify_questions(tmp_path / VAL)


def test_avqa(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "id": n,
            "video_name": f"v{n // 2}",
            "question_text": "Who barks?",
            "multi_choice": ["dog", "cat"],
            "answer": 0,
            "question_type": "Which",
        }
        for n in range(4)
    ]
    save_rows(tmp_path / "train_qa.json", rows)
    save_rows(tmp_path / "val_qa.json", rows[:1])
    save_features(tmp_path, "vggish", "v0", (10, 128))
    save_features(tmp_path, "vggish", "v1", (10, 128))
    assert main(["data", "verify", "avqa", str(tmp_path)]) == 0
    assert "videos in both train, val: 1" in capsys.readouterr().out
    rows[1]["answer"] = 3
    save_rows(tmp_path / "train_qa.json", rows)
    assert main(["data", "verify", "avqa", str(tmp_path)]) == 3
    assert "row 2: the answer is choice 3, which is missing" in capsys.readouterr().out
