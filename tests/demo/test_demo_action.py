"""The action demo's bookkeeping: its stages, which video it shows, its tables and page. `.ci/run` runs it itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossmamba.cli import main
from crossmamba.data.media import write_video
from crossmamba.demo import action as demo
from crossmamba.demo import common
from crossmamba.demo.action import QUICK, ActionDemoSettings, choose_video, training
from crossmamba.demo.action_page import COLUMNS, anticipation_table, build_page, recognition_table
from crossmamba.errors import DataError
from crossmamba.report import render, table_text
from tests.data.epic.epic_toy import csv_rows, write_annotations, write_csv
from tests.media_files import gray

ACCURACY = dict.fromkeys(COLUMNS, 0.5) | {"unseen action": None}
RECALL = {"verb": 0.4, "noun": 0.3, "action": 0.2}


def _report(source: str, accuracy: dict[str, Any], *, text_only: bool = False, probe: bool = False) -> dict[str, Any]:
    scores = {"none": {"accuracy": accuracy, "question_source": source}}
    if text_only:
        scores["question_only"] = {"accuracy": {**accuracy, "action": 0.05}, "question_source": source}
    return {
        "question_source": source,
        "scores": scores,
        "prior": {**accuracy, "action": 0.043},
        "probe": {"verb": 0.31, "noun": 0.32, "action": 0.111} if probe else {},
    }


BOUND = {slot: {"top1": 61.5, "top5": 90.0, "mt5r": 77.7} for slot in ("verb", "noun", "action")}
SCORES: dict[str, Any] = {
    "models": {
        "video": _report("none", ACCURACY),
        "generic": _report("generic", ACCURACY, text_only=True),
        "predicted": _report("predicted", ACCURACY, text_only=True, probe=True),
        "ahead": _report("none", RECALL),
    },
    "ceilings": {
        "recognition": {"one_frame": BOUND, "true_noun": BOUND},
        "anticipation": {"seen_past": BOUND, "last_action": BOUND},
    },
    "segments": 120,
}


def test_stages_run_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    for module in (demo, common):
        monkeypatch.setattr(module, "start", lambda *arguments, **_: calls.append(arguments))
        monkeypatch.setattr(module, "finish", lambda command: None)
    monkeypatch.setattr(demo, "render_set", lambda data, settings: calls.append(("render", data.name)))
    monkeypatch.setattr(demo, "prepare", lambda path, settings: calls.append(("prepare",)))
    monkeypatch.setattr(demo, "assemble", lambda path: calls.append(("assemble",)))
    monkeypatch.setattr(demo, "score_models", lambda path: SCORES)
    monkeypatch.setattr(demo, "name_actions", lambda path: calls.append(("predict",)))
    monkeypatch.setattr(demo, "build_page", lambda *arguments: None)
    monkeypatch.setattr(demo, "write_report", lambda path, page: calls.append(("report", path.name)))
    assert demo.run_action_demo(tmp_path / "demo", QUICK) == json.loads(json.dumps(SCORES))
    order = ["render", "train", "prepare", "train", "train", "train", "assemble", "predict", "report"]
    assert [call[0] for call in calls] == order
    runs = [Path(call[call.index("--run.dir") + 1]).name for call in calls if call[0] == "train"]
    assert (runs[0], set(runs[1:])) == ("video", {"generic", "predicted", "ahead"})
    calls.clear()
    demo.run_action_demo(tmp_path / "demo", QUICK)
    assert [call[0] for call in calls] == ["report"]


def test_trainings_are_commands_of_a_user(tmp_path: Path, parses) -> None:
    for name in ("video", "generic", "predicted", "ahead"):
        arguments = training(name, tmp_path / name, tmp_path, tmp_path / "tokens", ActionDemoSettings(epochs=7))
        parses(arguments)
        epochs = arguments[arguments.index("--trainer.max_epochs") + 1]
        assert epochs == ("7" if name == "video" else "10")
        assert arguments[arguments.index("--data.image_size") + 1] == "64"
        if name != "video":  # the card says how the tokens were made
            made = arguments[arguments.index("--data.frames") : arguments.index("--data.frames") + 4]
            assert made == ("--data.frames", str(demo.FRAMES), "--data.mode", "uniform")
        asked = arguments[arguments.index("--data.question_source") + 1]
        assert asked == ("none" if name in ("video", "ahead") else name)
    (tmp_path / "video").mkdir()
    (tmp_path / "video" / "config.yaml").write_text("")
    resumed = training("video", tmp_path / "video", tmp_path, tmp_path, QUICK)
    assert resumed == ("train", "--resume", str(tmp_path / "video"))


def test_a_video_of_somebody_who_was_never_seen_is_shown(tmp_path: Path) -> None:
    root = write_annotations(tmp_path)
    (root / "truth").mkdir()
    write_csv(root / "EPIC_100_train.csv", csv_rows(videos=("P01_01",)))
    write_csv(root / "truth" / "EPIC_100_test.csv", csv_rows(videos=("P01_02", "P02_101")))
    video, moment = choose_video(root)
    assert video == root / "videos" / "P02" / "P02_101.mp4"
    assert moment == 4.25  # of the third segment, 2.5 to 6 s
    write_csv(root / "truth" / "EPIC_100_test.csv", csv_rows(videos=("P01_02",)))
    assert choose_video(root)[0].stem == "P01_02"
    write_csv(root / "truth" / "EPIC_100_test.csv", [])
    with pytest.raises(DataError):
        choose_video(root)


@pytest.mark.parametrize(("video", "generic", "encoders"), [(0.3, 0.2, 0), (0.2, 0.3, 1)])
def test_the_better_model_is_put_in_place(tmp_path: Path, video: float, generic: float, encoders: int) -> None:
    for name, score in (("video", video), ("generic", generic), ("ahead", 0.9)):
        folder = tmp_path / "train" / name / "model"
        folder.mkdir(parents=True)
        card = {"metadata": {"run": name, "metrics": {"val/action": score}}}
        (folder / "config.json").write_text(json.dumps(card))
        (folder / "model.safetensors").write_bytes(name.encode())
    demo.assemble(tmp_path)
    card = json.loads((tmp_path / "model" / "config.json").read_text())
    assert card["metadata"]["run"] == ("generic" if generic > video else "video")
    assert len(list((tmp_path / "model").glob("encoders/*.safetensors"))) == encoders
    assert (tmp_path / "ahead" / "model" / "encoders" / "small_video.safetensors").read_bytes() == b"video"


def test_every_line_says_where_its_questions_came_from() -> None:
    table = recognition_table(SCORES)
    names = [line.name for line in table.lines]
    assert names == [
        "video only (none)",
        "with questions (generic)",
        "text only (generic)",
        "with questions (predicted)",
        "text only (predicted)",
        "words alone (predicted)",
        "class prior",
        "bound: one frame",
        "bound: true noun",
    ]
    assert [line.kind for line in table.lines if line.kind == "run"] == ["run"] * 3
    text = table_text(table)
    assert "4.3" in text
    assert "11.1" in text
    ahead = table_text(anticipation_table(SCORES)).splitlines()
    assert ahead[1].split()[-3:] == ["40.0", "30.0", "20.0"]
    assert ahead[-1].endswith("77.7")


def test_the_page_shows_the_film_and_the_timeline(tmp_path: Path) -> None:
    for name in ("video", "generic", "predicted"):
        (tmp_path / "train" / name).mkdir(parents=True)
        table = "step,train/loss,val/action\n10,2.0,\n20,1.0,0.5\n"
        (tmp_path / "train" / name / "metrics.csv").write_text(table)
    predicted = tmp_path / "predict"
    (predicted / "moment").mkdir(parents=True)
    write_video(predicted / "actions.mp4", map(gray, range(32)), 8, audio=np.zeros(64000, np.float32))
    for path in (predicted / "timeline.png", predicted / "moment" / "clip.png"):
        Image.fromarray(gray(0)).save(path)
    (predicted / "truth.json").write_text(json.dumps({"video": "v.mp4", "moment": 4.25}))
    page = render(build_page(tmp_path, SCORES, [("seed", "0")]))
    for text in ("data:video", "around 4.25 s", "with questions (predicted)", "class prior", "oracle", "synthetic"):
        assert text in page, text
    assert page.count("<svg") == 3
    assert page.count("data:image/png") >= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("action", "--steps", "3"), "--steps"), (("action", "--models", "avst"), "--models"), (("--videos", "2"), "avs")],
)
def test_options_of_other_demos_are_refused(arguments: tuple[str, ...], words: str, capsys) -> None:
    assert main(["demo", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_other_settings_take_another_folder(tmp_path: Path) -> None:
    common.DemoFolder(tmp_path / "d", QUICK).save()
    assert common.choose_folder(tmp_path / "d", replace(QUICK, epochs=9)) == tmp_path / "d-2"
