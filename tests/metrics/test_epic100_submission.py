"""Submission files: what is written is valid and reads back; every single defect is found."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmamba.data.epic.annotations import read_rows
from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.epic100 import action_scores, log_softmax
from crossmamba.metrics.epic100_submission import read_submission, validate_submission, write_submission
from tests.metrics.epic_truth import real_folder, wave

NAMES = ["P01_101_0", "P01_101_1", "P33_02_7"]
Scores = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def scores() -> Scores:
    random = np.random.default_rng(0)
    return random.normal(size=(3, 97)).astype(np.float32), random.normal(size=(3, 300)).astype(np.float32)


def write(path: Path, scores: Scores, **options: Any) -> Path:
    given = {"challenge": "action_recognition", "sls": (2, 3, 3), **options}
    write_submission(path, given.pop("names", NAMES), *scores, **given)
    return path


@pytest.mark.parametrize("name", ["test.zip", "test.json"])
def test_what_is_written_reads_back(tmp_path: Path, scores: Scores, name: str) -> None:
    path = write(tmp_path / name, scores)
    assert validate_submission(path, narration_ids=NAMES, challenge="action_recognition") == []
    held = read_submission(path, narration_ids=NAMES)
    assert held.narration_ids == tuple(NAMES)
    assert held.sls == (2, 3, 3)
    assert np.array_equal(held.verb.astype(np.float32), scores[0])
    assert np.array_equal(held.noun.astype(np.float32), scores[1])
    wanted = action_scores(*scores)
    assert held.actions is not None
    assert np.array_equal(held.actions.pairs, wanted.pairs)
    np.testing.assert_allclose(held.actions.scores, wanted.scores, rtol=1e-8)
    assert os.listdir(tmp_path) == [name]


def test_the_format_is_the_official_one(tmp_path: Path, scores: Scores) -> None:
    path = write(tmp_path / "a.zip", scores)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["test.json"]
        assert archive.infolist()[0].compress_type == zipfile.ZIP_DEFLATED
        content = json.loads(archive.read("test.json"))
    assert {key: content[key] for key in content if key != "results"} == {
        "version": "0.2",
        "challenge": "action_recognition",
        "sls_pt": 2,
        "sls_tl": 3,
        "sls_td": 3,
    }
    entry = content["results"]["P01_101_0"]
    assert list(entry["verb"]) == [str(i) for i in range(97)]
    assert list(entry["noun"]) == [str(i) for i in range(300)]
    assert len(entry["action"]) == 100
    assert "action" not in json.loads(write(tmp_path / "b.json", scores, actions=None).read_text())["results"][NAMES[0]]


def test_the_same_scores_give_the_same_bytes(tmp_path: Path, scores: Scores) -> None:
    assert write(tmp_path / "a.zip", scores).read_bytes() == write(tmp_path / "b.zip", scores).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"challenge": "action"}, "challenge is 'action'"),
        ({"sls": (2, 3)}, "three whole numbers"),
        ({"sls": (2, 6, 3)}, "three whole numbers"),
        ({"names": ["a", "a", "b"]}, "every narration id once"),
        ({"names": ["a", "b"]}, "2 narration ids, 3 rows"),
        ({"actions": action_scores(np.eye(3, 97) * 4, np.eye(3, 300) * 4, 99)}, "99 actions a segment"),
    ],
)
def test_nothing_invalid_is_written(tmp_path: Path, scores: Scores, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write(tmp_path / "a.zip", scores, **options)
    assert not list(tmp_path.iterdir())


def test_probabilities_and_nan_are_not_written(tmp_path: Path, scores: Scores) -> None:
    with pytest.raises(UsageError, match="narration P01_101_0 are probabilities"):
        write(tmp_path / "a.json", (np.exp(log_softmax(scores[0].astype(float))), scores[1]))
    scores[1][2, 5] = np.nan
    with pytest.raises(UsageError, match="noun scores of narration P33_02_7 hold nan"):
        write(tmp_path / "a.json", scores)
    with pytest.raises(UsageError, match=r"ends in \.json or \.zip"):
        write(tmp_path / "a.pkl", scores)


def entry(content: dict, name: str = NAMES[1]) -> dict:
    return content["results"][name]


def rename(mapping: dict, old: str, new: str) -> None:
    mapping[new] = mapping.pop(old)


def first(content: dict) -> str:
    """The first action of the entry."""
    return next(iter(entry(content)["action"]))


def twice(actions: dict) -> None:
    """Another way to write the first pair takes the place of the last."""
    actions.popitem()
    verb, noun = next(iter(actions)).split(",")
    actions[f"0{verb},{noun}"] = -9.0


def to_probabilities(content: dict) -> None:
    entry(content)["verb"] = {str(i): 1 / 97 for i in range(97)}


DEFECTS: dict[str, tuple[Callable[[dict], Any], str]] = {
    "version": (lambda c: c.update(version="0.1"), "version is '0.1'"),
    "challenge": (lambda c: c.update(challenge="action_recog"), "challenge is 'action_recog'"),
    "no level": (lambda c: c.pop("sls_tl"), "no sls_tl"),
    "level too high": (lambda c: c.update(sls_pt=6), "sls_pt is 6"),
    "level a bool": (lambda c: c.update(sls_pt=True), "sls_pt is True"),
    "level a text": (lambda c: c.update(sls_td="3"), "sls_td is '3'"),
    "unknown key": (lambda c: c.update(model="x"), "unknown key 'model'"),
    "no results": (lambda c: c.update(results={}), "results is no object"),
    "missing id": (lambda c: c["results"].pop(NAMES[1]), "no result for narration P01_101_1"),
    "extra id": (lambda c: c["results"].update(x=entry(c)), "does not have: x"),
    "no verb": (lambda c: entry(c).pop("verb"), "narration P01_101_1: no verb scores"),
    "unknown slot": (lambda c: entry(c).update(verbs={}), "unknown key 'verbs'"),
    "missing class": (lambda c: entry(c)["noun"].pop("299"), "noun classes must be 0 to 299.*class 299 is missing"),
    "extra class": (lambda c: entry(c)["verb"].update({"97": 0.5}), "verb classes must be 0 to 96.*'97'"),
    "NaN": (lambda c: entry(c)["verb"].update({"4": float("nan")}), "verb 4 is nan"),
    "infinite": (lambda c: entry(c)["noun"].update({"4": float("inf")}), "noun 4 is inf"),
    "text": (lambda c: entry(c)["verb"].update({"4": "0.5"}), "verb 4 is '0.5'"),
    "bool": (lambda c: entry(c)["verb"].update({"4": True}), "verb 4 is 'True'"),
    "99 actions": (lambda c: entry(c)["action"].popitem(), "99 action scores; expected exactly 100"),
    "no actions": (lambda c: entry(c).pop("action"), "1 segments have no action scores and 2 have"),
    "empty action": (lambda c: entry(c).update(action={}), "0 action scores; expected exactly 100"),
    "action twice": (lambda c: twice(entry(c)["action"]), "an action comes more than once"),
    "action NaN": (lambda c: entry(c)["action"].update({first(c): float("nan")}), "action score is no finite number"),
    "action text": (lambda c: entry(c)["action"].update({first(c): "1"}), "action .*is '1'; expected a finite number"),
    "huge number": (lambda c: entry(c)["verb"].update({"4": 10**400}), "verb 4 is '1000.*finite number"),
    "entry a list": (lambda c: c["results"].update({NAMES[1]: [1]}), "narration P01_101_1: the entry is no object"),
    "action form": (lambda c: rename(entry(c)["action"], next(iter(entry(c)["action"])), "1-2"), "action '1-2'"),
    "action range": (lambda c: rename(entry(c)["action"], next(iter(entry(c)["action"])), "97,0"), "'97,0' is beyond"),
    "probabilities": (to_probabilities, "verb scores of narration P01_101_1 are probabilities"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_each_single_defect_is_found(tmp_path: Path, scores: Scores, defect: str) -> None:
    content = json.loads(write(tmp_path / "a.json", scores).read_text())
    change, message = DEFECTS[defect]
    change(content)
    path = tmp_path / "b.json"
    path.write_text(json.dumps(content))
    problems = validate_submission(path, narration_ids=NAMES, challenge="action_recognition")
    assert len(problems) == 1, problems
    with pytest.raises(DataError, match=f"b.json: not a valid submission: .*{message}"):
        read_submission(path, narration_ids=NAMES, challenge="action_recognition")


def test_a_key_that_comes_twice_is_found(tmp_path: Path, scores: Scores) -> None:
    text = write(tmp_path / "a.json", scores).read_text()
    path = tmp_path / "b.json"
    path.write_text(text.replace('"0": ', '"0": 1.0, "0": ', 1))
    assert "verb classes must be 0 to 96" in validate_submission(path)[0]
    path.write_text(text.replace('"P01_101_1"', '"P01_101_0"'))
    assert "narration P01_101_0 comes more than once" in validate_submission(path)


def test_files_that_cannot_be_opened(tmp_path: Path, scores: Scores) -> None:
    for name in ("none.zip", "none.json"):
        with pytest.raises(DataError, match=rf"^{tmp_path / name}: there is no such submission file$"):
            read_submission(tmp_path / name)
    bad = tmp_path / "bad.zip"
    bad.write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=rf"^{bad}: cannot be read \(File is not a zip file\)$"):
        read_submission(bad)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("results.json", "{}")
    with pytest.raises(DataError, match=r"holds results\.json; expected test\.json alone"):
        read_submission(bad)
    data = bytearray(write(tmp_path / "a.zip", scores).read_bytes())
    data[200:240] = bytes(40)
    bad.write_bytes(data)
    with pytest.raises(DataError, match=r"bad\.zip: cannot be read"):
        read_submission(bad)
    cut = tmp_path / "cut.json"
    cut.write_text(write(tmp_path / "a.json", scores).read_text()[:-40])
    with pytest.raises(DataError, match=r"cut\.json: cannot be read as JSON"):
        read_submission(cut)
    cut.write_text("[1, 2]")
    assert "does not hold an object" in validate_submission(cut)[0]


def test_a_full_validation_file_is_accepted(tmp_path: Path) -> None:
    rows = read_rows(real_folder() / "EPIC_100_validation.csv")
    names = [row.narration_id for row in rows]
    path = write(tmp_path / "a.zip", (wave(len(rows), 97), wave(len(rows), 300)), names=names)
    assert validate_submission(path, narration_ids=names) == []
