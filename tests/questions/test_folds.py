"""Cross-fitting: parts by video, what each folder holds, and that no model is asked about what it learned from."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from crossmamba.cli import main
from crossmamba.data.epic.annotations import read_rows
from crossmamba.data.epic.classes import read_epic_classes
from crossmamba.errors import DataError, UsageError
from crossmamba.questions.folds import split_videos, write_folds
from crossmamba.questions.predicted import read_predicted_parts
from crossmamba.questions.records import read_questions
from tests.data.epic.epic_toy import HEADER, NOUNS, VERBS, csv_rows, write_annotations, write_csv

SIZES = {"verbs": len(VERBS), "nouns": len(NOUNS)}
VIDEOS = ("P01_01", "P01_02", "P02_101", "P02_03", "P03_01")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The toy set with five train videos."""
    folder = write_annotations(tmp_path / "root")
    write_csv(folder / "EPIC_100_train.csv", csv_rows(videos=VIDEOS))
    return folder


def test_videos_are_whole_and_parts_even() -> None:
    videos = [f"P{k % 7:02d}_{k:02d}" for k in range(30) for _ in range(5 + k % 9)]
    parts = split_videos(videos, 5, seed=1)
    assert set(parts) == set(videos)
    rows = Counter(parts[video] for video in videos)
    assert sorted(rows) == list(range(5))
    assert max(rows.values()) - min(rows.values()) <= 13  # the longest video
    assert split_videos(videos[::-1], 5, seed=1) == parts  # whatever the order of the rows
    assert split_videos(videos, 5, seed=2) != parts


@pytest.mark.parametrize("folds", [-1, 0, 1, 6])
def test_impossible_numbers_of_parts(folds: int) -> None:
    with pytest.raises(UsageError, match=f"--folds {folds}: the rows are of 5 videos"):
        split_videos(VIDEOS, folds)


def test_every_row_is_held_out_once_and_never_learned_from_where_it_is(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "folds"
    parts = write_folds(root, out, 3, seed=0)
    assert json.loads((out / "folds.json").read_text())["videos"] == parts
    rows = read_rows(root / "EPIC_100_train.csv", **SIZES)
    held: list[str] = []
    for fold in range(3):
        folder = out / str(fold)
        train = read_rows(folder / "EPIC_100_train.csv", **SIZES)
        asked = read_rows(folder / "EPIC_100_test_timestamps.csv", **SIZES)
        assert {row.video_id for row in asked} == {video for video, part in parts.items() if part == fold}
        assert not {row.video_id for row in train} & {row.video_id for row in asked}
        assert len(train) + len(asked) == len(rows)
        assert [row for row in rows if row.video_id in {r.video_id for r in train}] == train  # as written, in order
        held += [row.narration_id for row in asked]
        text = (folder / "EPIC_100_test_timestamps.csv").read_text(encoding="utf-8")
        assert text.splitlines()[0] == ",".join(HEADER.split(",")[:8])  # neither narration nor labels
        assert not any(row.labelled or row.narration for row in asked)
        assert read_epic_classes(folder).verbs.keys == read_epic_classes(root).verbs.keys
        same = "EPIC_100_validation.csv"
        assert read_rows(folder / same, **SIZES) == read_rows(root / same, **SIZES)
    assert sorted(held) == sorted(row.narration_id for row in rows)


def test_cross_fitted_questions_on_the_command_line(root: Path, tmp_path: Path, capsys) -> None:
    """A model that is right about what it learned from and always says class 0 elsewhere."""
    out = tmp_path / "folds"
    assert main(["questions", "folds", str(root), "--folds", "2", "--out", str(out)]) == 0
    assert "videos held out of 5" in capsys.readouterr().out
    files = []
    for fold in range(2):
        learned = {row.narration_id: row for row in read_rows(out / str(fold) / "EPIC_100_train.csv", **SIZES)}
        file = out / str(fold) / "test.csv"
        with file.open("w", encoding="utf-8", newline="") as opened:
            lines = csv.writer(opened)
            lines.writerow(["narration_id", "verb_class", "noun_class"])
            for row in read_rows(out / str(fold) / "EPIC_100_test_timestamps.csv", **SIZES):
                known = learned.get(row.narration_id)
                lines.writerow([row.narration_id, *((0, 0) if known is None else (known.verb_class, known.noun_class))])
        files.append(str(file))
    made = ["questions", "make", "--annotations", str(root / "EPIC_100_train.csv"), "--source", "predicted"]
    asked = tmp_path / "train.jsonl"
    assert main([*made, "--predicted", *files, "--out", str(asked)]) == 0
    questions = read_questions(asked)
    assert len(questions) == len(read_rows(root / "EPIC_100_train.csv", **SIZES))
    assert {(question.verb_class, question.noun_class) for question in questions.values()} == {(0, 0)}
    capsys.readouterr()
    assert main([*made, "--predicted", files[0], "--out", str(asked), "--overwrite"]) == 3  # rows of the other part
    assert "predict" in capsys.readouterr().err
    assert main([*made, "--predicted", *files, files[0], "--out", str(asked), "--overwrite"]) == 3
    assert "are also in" in capsys.readouterr().err
    assert main(["questions", "folds", str(root), "--folds", "2", "--out", str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["questions", "folds", str(root), "--folds", "9", "--out", str(out), "--overwrite"]) == 2
    assert (out / "0" / "test.csv").exists()  # what others wrote there stays


def test_wrong_folders(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"verb_classes"):
        write_folds(tmp_path / "nowhere", tmp_path / "out", 2)
    (root / "EPIC_100_train.csv").unlink()
    with pytest.raises(DataError, match=r"EPIC_100_train\.csv"):
        write_folds(root, tmp_path / "out", 2)
    write_csv(root / "EPIC_100_train.csv", [row[:8] for row in csv_rows()], ",".join(HEADER.split(",")[:8]))
    with pytest.raises(DataError, match="rows without labels"):
        write_folds(root, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


def test_parts_of_predictions_are_joined(tmp_path: Path) -> None:
    for name, ids in (("a", "xy"), ("b", "z")):
        lines = ["narration_id,verb_class,noun_class", *(f"{row},1,2" for row in ids)]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines), encoding="utf-8")
    assert read_predicted_parts([tmp_path / "a.csv", tmp_path / "b.csv"]) == dict.fromkeys("xyz", (1, 2))
    with pytest.raises(DataError, match="2 rows are also in"):
        read_predicted_parts([tmp_path / "a.csv", tmp_path / "a.csv"])
