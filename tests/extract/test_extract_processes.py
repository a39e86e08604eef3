"""Several processes at one data set: shares, races, a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmamba.errors import UsageError
from crossmamba.extract.run import extract_features, find_videos, rank_and_world
from crossmamba.extract.store import FramesWriter, NpyWriter, clear_leftovers, part_of, valid_frames, valid_npy

FEATURES = ("small_sound", "small_picture", "frames")
ROOT = Path(__file__).resolve().parents[2]


def command(videos: Path, out: Path, weights: str) -> list[str]:
    given = [f"{name}={weights}" for name in FEATURES[:2]]
    start = [sys.executable, "-m", "crossmamba", "data", "extract", "folder", str(videos / "videos"), "--out", str(out)]
    return [*start, "--features", *FEATURES, "--weights", *given, "--json", "--batch", "2"]


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=ROOT)


def reports(processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    ends = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), ends
    return [json.loads(out.splitlines()[-1]) for out, _ in ends]


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.suffix in (".npy", ".jpg")]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, videos: Path, small_weights: dict[str, str]) -> dict[str, bytes]:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone")
    given = dict.fromkeys(FEATURES[:2], small_weights["run"])
    extract_features(FEATURES, out, videos=find_videos(videos / "videos"), weights=given, batch=2, progress=False)
    made = contents(out)
    assert len(made) == 4 + 4 + 4 * 3
    return made


def test_ranks_and_races(tmp_path: Path, videos: Path, small_weights: dict[str, str], alone: dict[str, bytes]) -> None:
    """Ranks 0 and 1 of 2 make every video once; a second rank 0 at the same time and place harms nothing."""
    arguments = command(videos, tmp_path, small_weights["run"])
    said = reports([start(arguments, RANK=str(rank), WORLD_SIZE="2") for rank in (0, 1, 0)])
    assert [report["rank"] for report in said] == [0, 1, 0]
    assert [report["made"] + report["kept"] for report in said] == [2, 2, 2]
    assert said[1]["made"] == 2
    assert contents(tmp_path) == alone
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


def test_workers_make_the_same(
    tmp_path: Path, videos: Path, small_weights: dict[str, str], alone: dict[str, bytes]
) -> None:
    given = dict.fromkeys(FEATURES[:2], small_weights["run"])
    found = find_videos(videos / "videos")
    report = extract_features(FEATURES, tmp_path, videos=found, weights=given, batch=2, workers=2, progress=False)
    assert (report.made, report.bad) == (4, 0)
    assert contents(tmp_path) == alone


KILLED = """
import os, signal, sys
from crossmamba.cli import main
from crossmamba.extract.store import FramesWriter
write = FramesWriter.write
def dying(self, pictures):
    write(self, pictures)
    if self.path.name == "00000002":
        os.kill(os.getpid(), signal.SIGKILL)
FramesWriter.write = dying
main(sys.argv[1:])
"""


def test_killed_in_the_middle(
    tmp_path: Path, videos: Path, small_weights: dict[str, str], alone: dict[str, bytes]
) -> None:
    """No half file under a final name; calling again makes the rest and clears what the dead process left."""
    arguments = command(videos, tmp_path, small_weights["run"])
    process = start([sys.executable, "-c", KILLED, *arguments[3:]])
    process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL
    left = contents(tmp_path)
    whole = {name: data for name, data in left.items() if ".part" not in name}
    assert {name: alone[name] for name in whole} == whole
    assert {Path(name).name for name in whole} >= {"00000000.npy", "00000001.npy"}
    assert not any("00000002" in name or "00000003" in name for name in whole)
    assert len(list(tmp_path.rglob("*.part"))) == 3
    given = dict.fromkeys(FEATURES[:2], small_weights["run"])
    report = extract_features(
        FEATURES, tmp_path, videos=find_videos(videos / "videos"), weights=given, batch=2, progress=False
    )
    assert (report.made, report.kept) == (2, 2)
    assert contents(tmp_path) == alone
    assert not list(tmp_path.rglob("*.part"))


def test_torchrun_s_environment() -> None:
    assert rank_and_world({}) == (0, 1)
    assert rank_and_world({"RANK": "3", "WORLD_SIZE": "4"}) == (3, 4)
    for wrong in ({"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "x", "WORLD_SIZE": "4"}, {"RANK": "1"}):
        with pytest.raises(UsageError, match="as torchrun sets them"):
            rank_and_world(wrong)


def test_overwriting_is_for_one_rank(tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="delete the folders yourself"):
        extract_features(("frames",), tmp_path, videos=find_videos(videos / "videos"), overwrite=True)


def test_frames_that_another_process_made_meanwhile(tmp_path: Path) -> None:
    """A whole folder stays, a damaged one is replaced."""
    picture = b"x" * 10 + b"\xff\xd9"
    first, second = FramesWriter(tmp_path / "a", 2), NpyWriter(tmp_path / "b.npy", (2, 3))
    first.write([picture, picture])
    (tmp_path / "a").mkdir()
    for number in (1, 2):
        (tmp_path / "a" / f"{number:06d}.jpg").write_bytes(b"y" * 10 + b"\xff\xd9")
    first.finish()
    first.abandon()
    assert (tmp_path / "a" / "000001.jpg").read_bytes()[:1] == b"y"
    (tmp_path / "a" / "000002.jpg").write_bytes(b"y")
    third = FramesWriter(tmp_path / "a", 2)
    third.write([picture, picture])
    third.finish()
    assert valid_frames(tmp_path / "a", 2)
    second.write(np.zeros((2, 3), np.float32))
    second.finish()
    assert valid_npy(tmp_path / "b.npy", (2, 3))
    assert not valid_npy(tmp_path / "b.npy", (3, 2))
    assert sorted(os.listdir(tmp_path)) == ["a", "b.npy"]


def test_leftovers_of_the_living_stay(tmp_path: Path) -> None:
    mine = part_of(tmp_path / "a[1].npy")
    dead = mine.with_name(mine.name.replace(str(os.getpid()), str(2**22 - 1)))
    foreign = mine.with_name(".a[1].npy.elsewhere-1.part")
    for path in (mine, dead, foreign):
        path.touch()
    clear_leftovers(tmp_path / "a[1].npy")
    assert (mine.exists(), dead.exists(), foreign.exists()) == (True, False, True)
