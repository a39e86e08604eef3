"""`crossmamba data synth music-avqa` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossmamba.cli import main


def test_makes_a_set_and_says_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--videos", "2,1,2", "--size", "32", "--workers", "1", "--questions-per-video", "20"]
    assert main(["data", "synth", "music-avqa", str(tmp_path / "set"), *arguments, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["videos"] == {"train": 2, "val": 1, "test": 2}
    assert made["questions"]["train"] >= 20
    assert set(made["ceilings"]) == {"question_only", "picture_only", "sound_only"}
    assert main(["data", "verify", "music-avqa", str(tmp_path / "set")]) == 0


@pytest.mark.parametrize(
    ("dataset", "option"),
    [
        ("music-avqa", ["--clips", "3"]),
        ("music-avqa", ["--world", "hard"]),
        ("music-avqa", ["--log-mel"]),
        ("avsbench-ms3", ["--videos", "3"]),
        ("avsbench-s4", ["--split-by", "question"]),
        ("avsbench-ms3", ["--seconds", "5,6"]),
        ("music-avqa", ["--seconds", "70"]),
    ],
)
def test_options_of_the_other_sets_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str, option: list[str]
) -> None:
    assert main(["data", "synth", dataset, str(tmp_path / "set"), *option]) == 2
    assert option[0].strip("-") in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
