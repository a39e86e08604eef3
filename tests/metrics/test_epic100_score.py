"""`crossmamba score epic100`: files of predictions, pairing by narration id, and the command."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossmamba.cli import main
from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.epic100 import anticipation_scores, recognition_scores
from crossmamba.metrics.epic100_score import (
    EpicPredictions,
    read_epic_predictions,
    score_epic,
    write_epic_predictions,
)
from crossmamba.metrics.epic100_submission import read_submission, write_submission
from tests.metrics.epic_truth import Row, made_rows

VERBS, NOUNS = 8, 12


@pytest.fixture
def rows() -> list[Row]:
    return made_rows(20, VERBS, NOUNS)


@pytest.fixture
def scores() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(5)
    return random.normal(size=(20, VERBS)).astype(np.float32), random.normal(size=(20, NOUNS)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path, rows: list[Row]) -> Path:
    """Annotation files as the official repository names them."""
    header = (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
        "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
    )
    lines = [
        f"{row.narration_id},{row.participant_id},{row.participant_id}_01,00:00:01.000,00:00:01.00,00:00:02.00,60,120,"
        f"do it,v{row.verb_class},{row.verb_class},n{row.noun_class},{row.noun_class},"
        f"['n{row.noun_class}'],[{row.noun_class}]"
        for row in rows
    ]
    (tmp_path / "EPIC_100_validation.csv").write_text("\n".join([header, *lines]) + "\n")
    short = [",".join(line.split(",")[:8]) for line in [header, *lines]]
    (tmp_path / "EPIC_100_test_timestamps.csv").write_text("\n".join(short) + "\n")
    for name, count in (("verb", VERBS), ("noun", NOUNS)):
        table = [f"{i},{name[0]}{i},\"['{name[0]}{i}']\",none" for i in range(count)]
        (tmp_path / f"EPIC_100_{name}_classes.csv").write_text("\n".join(["id,key,instances,category", *table]) + "\n")
        (tmp_path / f"EPIC_100_tail_{name}s.csv").write_text(f"{name}\n1\n2\n")
    (tmp_path / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP02\n")
    return tmp_path


def lists() -> dict[str, Any]:
    return {"tail_verbs": {1, 2}, "tail_nouns": {1, 2}, "unseen": {"P02"}}


def test_predictions_are_paired_by_narration_id(rows: list[Row], scores: tuple) -> None:
    order = np.random.default_rng(1).permutation(20)
    shuffled = EpicPredictions(tuple(rows[i].narration_id for i in order), scores[0][order], scores[1][order])
    report = score_epic(shuffled, rows, "recognition", **lists())
    assert report.scores is not None
    assert report.scores.values == recognition_scores(*scores, rows, **lists()).values


def test_missing_doubled_and_unknown_ids_are_named(rows: list[Row], scores: tuple) -> None:
    names = [row.narration_id for row in rows]
    names[3], names[4] = names[5], "P99_01_1"
    report = score_epic(EpicPredictions(tuple(names), *scores), rows, "anticipation")
    assert not report.ok
    assert report.scores is None
    assert (report.missing, report.duplicate) == ([rows[3].narration_id, rows[4].narration_id], [rows[5].narration_id])
    assert report.unknown == ["P99_01_1"]
    assert "nothing was scored" in report.text
    with pytest.raises(UsageError, match="task is 'both'"):
        score_epic(EpicPredictions(tuple(names), *scores), rows, "both")  # type: ignore[arg-type]


def test_npz_round_trip(tmp_path: Path, rows: list[Row], scores: tuple) -> None:
    path, names = tmp_path / "a.npz", [row.narration_id for row in rows]
    write_epic_predictions(path, names, *scores, question_source="oracle")
    held = read_epic_predictions(path, verbs=VERBS, nouns=NOUNS)
    assert held.narration_ids == tuple(names)
    assert np.array_equal(held.verb, scores[0].astype(np.float64))
    assert held.question_source == "oracle"
    assert "not comparable" in score_epic(held, rows, "recognition").text
    with pytest.raises(DataError, match=r"a\.npz: verb scores have shape \(20, 8\); expected \(segments, 97\)"):
        read_epic_predictions(path)
    with pytest.raises(UsageError, match="question_source is 'gpt'"):
        write_epic_predictions(path, names, *scores, question_source="gpt")


def test_official_pt_files(tmp_path: Path, rows: list[Row], scores: tuple) -> None:
    names, path = [row.narration_id for row in rows], tmp_path / "a.pt"
    verb, noun = torch.from_numpy(scores[0]), torch.from_numpy(scores[1])
    torch.save({"narration_id": names, "verb_output": verb, "noun_output": noun}, path)
    one = read_epic_predictions(path, verbs=VERBS, nouns=NOUNS)
    entries = zip(names, verb, noun, strict=True)
    torch.save([{"narration_id": i, "verb_output": v, "noun_output": n} for i, v, n in entries], path)
    two = read_epic_predictions(path, verbs=VERBS, nouns=NOUNS)
    assert one.narration_ids == two.narration_ids == tuple(names)
    assert np.array_equal(one.noun, two.noun)


def test_files_that_are_refused(tmp_path: Path, rows: list[Row], scores: tuple) -> None:
    names = [row.narration_id for row in rows]
    unsafe = tmp_path / "a.pkl"
    unsafe.write_bytes(pickle.dumps({"narration_id": names}))
    with pytest.raises(DataError, match="pickles can run code"):
        read_epic_predictions(unsafe)
    torch.save({"narration_id": names, "path": Path("/tmp")}, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a\.pt: cannot be read without running code"):
        read_epic_predictions(tmp_path / "a.pt")
    with pytest.raises(DataError, match="no such predictions"):
        read_epic_predictions(tmp_path / "b.pt")
    np.savez(tmp_path / "b.npz", verb_output=scores[0])
    with pytest.raises(DataError, match="no narration_id, noun_output; it holds verb_output"):
        read_epic_predictions(tmp_path / "b.npz")
    (tmp_path / "d.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"d\.npz: cannot be read as a \.npz file"):
        read_epic_predictions(tmp_path / "d.npz")
    np.savez(tmp_path / "o.npz", narration_id=np.array(names, object), verb_output=scores[0], noun_output=scores[1])
    with pytest.raises(DataError, match=r"o\.npz: holds arrays of Python objects.*np\.array\(ids, dtype=str\)"):
        read_epic_predictions(tmp_path / "o.npz")
    for wrong in (np.arange(20), np.array("P01_01_0")):
        np.savez(tmp_path / "c.npz", narration_id=wrong, verb_output=scores[0], noun_output=scores[1])
        with pytest.raises(DataError, match="narration_id must be a list of texts"):
            read_epic_predictions(tmp_path / "c.npz", verbs=VERBS, nouns=NOUNS)
    probabilities = np.full((20, VERBS), 1 / VERBS)
    np.savez(tmp_path / "c.npz", narration_id=names, verb_output=probabilities, noun_output=scores[1])
    with pytest.raises(DataError, match=r"c\.npz: verb scores of narration P01_01_0 are probabilities"):
        read_epic_predictions(tmp_path / "c.npz", verbs=VERBS, nouns=NOUNS)


@pytest.mark.parametrize("task", ["recognition", "anticipation"])
def test_the_command(
    folder: Path, rows: list[Row], scores: tuple, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, names = folder / "p.npz", [row.narration_id for row in rows]
    write_epic_predictions(path, names, *scores, question_source="none")
    command = ["score", "epic100", "--task", task, "--pred", str(path)]
    assert main([*command, "--annotations", str(folder / "EPIC_100_validation.csv"), "--json"]) == 0
    given = json.loads(capsys.readouterr().out)
    measure = recognition_scores if task == "recognition" else anticipation_scores
    assert given["scores"]["percent"] == pytest.approx(measure(*scores, rows, **lists()).values)
    assert given["question_source"] == "none"


def test_the_command_refuses_what_cannot_be_trusted(
    folder: Path, rows: list[Row], scores: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    path, names = folder / "p.npz", [row.narration_id for row in rows]
    write_epic_predictions(path, names[:-1], scores[0][:-1], scores[1][:-1], question_source="none")
    command = ["score", "epic100", "--task", "recognition", "--pred", str(path), "--annotations"]
    assert main([*command, str(folder / "EPIC_100_validation.csv")]) == 3
    assert names[-1] in capsys.readouterr().err
    write_epic_predictions(path, names, *scores, question_source="none")
    assert main([*command, str(folder / "EPIC_100_test_timestamps.csv")]) == 2
    assert "labels of the test split are hidden" in capsys.readouterr().err
    assert main([*command, str(folder / "none.csv")]) == 3


def test_closed_pairs_come_from_the_train_file(
    folder: Path, rows: list[Row], scores: tuple, capsys: pytest.CaptureFixture[str]
) -> None:
    path, names = folder / "p.npz", [row.narration_id for row in rows]
    write_epic_predictions(path, names, *scores, question_source="none")
    validation = str(folder / "EPIC_100_validation.csv")
    command = ["score", "epic100", "--task", "anticipation", "--pred", str(path), "--annotations", validation]
    assert main([*command, "--train", validation, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["scores"]["percent"]
    actions = sorted({(row.verb_class, row.noun_class) for row in rows})
    wanted = anticipation_scores(*scores, rows, closed=actions)["overall_action_mt5r_closed3806"]
    assert values["overall_action_mt5r_closed3806"] == pytest.approx(wanted)


def test_a_submission_of_the_test_split(folder: Path, rows: list[Row], scores: tuple) -> None:
    path, out, names = folder / "p.npz", folder / "s.zip", [row.narration_id for row in rows]
    write_epic_predictions(path, names, *scores, question_source="none")
    command = ["score", "epic100", "--task", "anticipation", "--pred", str(path), "--annotations"]
    command += [str(folder / "EPIC_100_test_timestamps.csv"), "--submission", str(out), "--sls", "2", "3", "3"]
    assert main(command) == 0
    held = read_submission(out, narration_ids=names, challenge="action_anticipation", verbs=VERBS, nouns=NOUNS)
    assert held.actions is not None
    assert held.actions.pairs.shape == (20, 96, 2)
    assert main(command[:-4]) == 2  # nothing to score, nothing to write


def test_oracle_predictions_are_no_submission(folder: Path, rows: list[Row], scores: tuple, capsys: Any) -> None:
    path, out, names = folder / "p.npz", folder / "s.zip", [row.narration_id for row in rows]
    write_epic_predictions(path, names, *scores, question_source="oracle")
    command = ["score", "epic100", "--task", "recognition", "--pred", str(path), "--annotations"]
    command += [str(folder / "EPIC_100_test_timestamps.csv"), "--submission", str(out), "--sls", "2", "3", "3"]
    assert main(command) == 2
    assert "oracle questions were made from the true labels" in capsys.readouterr().err
    assert not out.exists()


def test_a_submission_can_be_scored(folder: Path, rows: list[Row], scores: tuple) -> None:
    out, names = folder / "s.json", [row.narration_id for row in rows]
    write_submission(out, names, *scores, challenge="action_recognition", sls=(0, 3, 3))
    held = read_epic_predictions(out, verbs=VERBS, nouns=NOUNS)
    report = score_epic(held, rows, "recognition", **lists())
    assert report.scores is not None
    assert report.scores.values == pytest.approx(recognition_scores(*scores, rows, **lists()).values)
