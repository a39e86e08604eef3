"""The demo's bookkeeping: where it writes, what it does again, how long it trains. `.ci/run` runs the demo itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crossmamba.demo import avs as demo
from crossmamba.demo import common
from crossmamba.demo.avs import QUICK, DemoSettings, epochs_of
from crossmamba.demo.avs_page import score_rows, seconds_of
from crossmamba.demo.common import DemoFolder, choose_folder, finish, page_links, page_video, start, train_command
from crossmamba.errors import CrossmambaError, DataError, UsageError

SCORED = {"M_J": 0.8, "M_F": 0.9, "black_kept": 1.0, "M_J_per_second": [t / 10 for t in range(1, 11)]}
REFERENCE = {"expected": 0.57, "loudness_oracle": 0.62, "all_objects": 0.58, "all_black": 0.2}
SCORES: dict[str, Any] = {"run": SCORED, "silenced": SCORED, "swapped": SCORED, "without_sound": SCORED}
SCORES["reference"] = REFERENCE


def test_a_free_or_fitting_folder_is_taken_and_no_other(tmp_path: Path) -> None:
    wanted = tmp_path / "demo"
    assert choose_folder(wanted, QUICK) == wanted
    DemoFolder(wanted, QUICK).save()
    assert choose_folder(wanted, QUICK) == wanted, "the same settings go on in their folder"
    other = replace(QUICK, seed=7)
    assert choose_folder(wanted, other) == tmp_path / "demo-2"
    DemoFolder(tmp_path / "demo-2", other).save()
    assert choose_folder(wanted, other) == tmp_path / "demo-2"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert choose_folder(tmp_path / "mine", QUICK) == tmp_path / "mine-2"


def test_an_unreadable_state_is_an_error_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(DataError, match=r"demo\.json"):
        choose_folder(tmp_path, QUICK)


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    done: list[str] = []
    DemoFolder(tmp_path, QUICK).stage("data", "first", lambda: done.append("data"))
    again = DemoFolder(tmp_path, QUICK)
    again.stage("data", "second", lambda: done.append("data again"))
    again.stage("train", "third", lambda: done.append("train"))
    assert done == ["data", "train"]


def test_a_failed_stage_is_done_again(tmp_path: Path) -> None:
    def fail() -> None:
        raise DataError("no disk")

    with pytest.raises(DataError):
        DemoFolder(tmp_path, QUICK).stage("data", "first", fail)
    assert not DemoFolder(tmp_path, QUICK).done("data")


def test_a_training_begins_or_goes_on(tmp_path: Path) -> None:
    begun = train_command("avs/demo", tmp_path / "run", 3, tmp_path / "data", "--a", "b")
    assert begun[:3] == ("train", "--config", "avs/demo")
    assert begun[-2:] == ("--a", "b")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    resumed = train_command("avs/demo", tmp_path / "run", 3, tmp_path, "--a", "b")
    assert resumed == ("train", "--resume", str(tmp_path / "run"))


def test_what_is_said_and_linked_is_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "predict").mkdir()
    (tmp_path / "predict" / "result.json").touch()
    folder = DemoFolder(tmp_path, QUICK)
    folder.say_where(("predict/result.json", "predict/absent.mp4"), "Try:")
    assert capsys.readouterr().out == f"Open:\n  {tmp_path / 'predict' / 'result.json'}\nTry:\n"
    files = (tmp_path / "predict" / "result.json", tmp_path / "scores.json")
    assert page_links(tmp_path, *files) == [("result.json", "predict/result.json")]
    assert page_video(tmp_path / "absent.mp4", 1.0) == page_video(None, 1.0) == {"video": None, "poster": None}
    folder.announce("crossmamba demo x", 90.0, ("one\nmore", "two"), "Beware.")
    said = capsys.readouterr().out
    first = f"crossmamba demo x, in {tmp_path} (about 2 minutes on two CPU cores)"
    assert said.splitlines() == [first, "  1. one", "     more", "  2. two", "Beware.", ""]


@pytest.mark.parametrize(
    ("clips", "steps", "expected"), [(1000, 600, (6, 100)), (1000, 250, (3, 100)), (40, 20, (2, 10)), (2, 3, (3, 1))]
)
def test_training_is_whole_epochs(clips: int, steps: int, expected: tuple[int, int]) -> None:
    assert epochs_of(replace(DemoSettings(), clips=(clips, 1, 1)), steps) == expected


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("configs", "cp", "avs/absent", "x"), UsageError), (("data", "verify", "avsbench-ms3", "/absent"), DataError)],
)
def test_a_failed_command_keeps_its_kind(arguments: tuple[str, ...], error: type[CrossmambaError]) -> None:
    with pytest.raises(error, match="goes on from here"):
        finish(start(*arguments))


def test_a_command_beside_another_writes_to_its_log(tmp_path: Path) -> None:
    command = start("configs", "cp", "avs/absent", "x", threads=1, log=tmp_path / "beside.log")
    with pytest.raises(UsageError, match=r"see .*beside\.log"):
        finish(command)
    assert "avs/absent" in (tmp_path / "beside.log").read_text()


def test_the_table_has_the_run_its_controls_and_its_bounds() -> None:
    rows = score_rows(SCORES)
    assert [row.kind for row in rows] == ["run", *["control"] * 3, *["bound"] * 4]
    assert [round(rows[0].M_J or 0, 3), round(rows[4].M_J or 0, 3)] == [80, 57]
    assert rows[4].M_F is None
    assert len(score_rows({key: SCORES[key] for key in ("run", "reference")})) == 5
    assert seconds_of(SCORED) == [t / 10 for t in range(1, 11)]


def test_stages_run_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(demo, "render_set", lambda data, settings: calls.append(("render", data.name)))
    monkeypatch.setattr(common, "start", lambda *arguments, **_: calls.append(arguments))
    monkeypatch.setattr(common, "finish", lambda command: None)
    monkeypatch.setattr(demo, "copy_folder", lambda source, target: calls.append(("copy", target.name)))
    monkeypatch.setattr(demo, "score_runs", lambda data, run, silent: SCORES)
    monkeypatch.setattr(demo, "_predict", lambda path, data: calls.append(("predict",)))
    monkeypatch.setattr(demo, "build_page", lambda *arguments: None)
    monkeypatch.setattr(demo, "write_report", lambda path, page: calls.append(("report", path.name)))
    assert demo.run_demo(tmp_path / "demo", QUICK) == json.loads(json.dumps(SCORES))
    assert [call[0] for call in calls] == ["render", "train", "train", "copy", "predict", "report"]
    control, trained = calls[1], calls[2]
    assert "--data.perturbation" not in trained
    assert control[control.index("--data.perturbation") + 1] == "silence"
    calls.clear()
    demo.run_demo(tmp_path / "demo", QUICK)
    assert [call[0] for call in calls] == ["report"]
