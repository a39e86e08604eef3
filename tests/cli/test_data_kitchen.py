"""`crossmamba data synth epic100` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossmamba.cli import main

FEW = ["--videos", "2,1,1", "--size", "32", "--segments", "4", "--workers", "1"]


def test_makes_a_set_and_says_what_it_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(tmp_path / "set")
    assert main(["data", "synth", "epic100", root, *FEW, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["videos"] == {"train": 2, "val": 1, "test": 1}
    assert made["segments"]["train"] >= 6
    assert set(made["ceilings"]) == {"recognition", "anticipation"}
    assert main(["data", "synth", "epic100", root, *FEW]) == 0  # the same set: nothing to do
    said = capsys.readouterr()
    assert "segments" in said.out
    assert "seen past" in said.out
    assert "rendering kitchens" in said.err  # the bar
    assert main(["data", "synth", "epic100", root, *FEW, "--seed", "3"]) == 2
    assert "seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dataset", "option"),
    [
        ("epic100", ["--clips", "3"]),
        ("epic100", ["--seconds", "10"]),
        ("epic100", ["--instruments", "8"]),
        ("epic100", ["--segments", "2"]),
        ("music-avqa", ["--segments", "9"]),
        ("avsbench-s4", ["--fps", "50"]),
    ],
)
def test_impossible_options_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str, option: list[str]
) -> None:
    assert main(["data", "synth", dataset, str(tmp_path / "set"), *option]) == 2
    assert option[0].strip("-") in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
