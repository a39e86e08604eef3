"""The question answering demo's bookkeeping: its stages, what it asks, its table and page. `.ci/run` runs it itself."""

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
from crossmamba.demo import avqa as demo
from crossmamba.demo import common
from crossmamba.demo.avqa import FEATURES, QUICK, AVQADemoSettings, assemble, choose_questions, training
from crossmamba.demo.avqa_page import build_page, score_table, tag_line
from crossmamba.demo.common import DemoFolder
from crossmamba.errors import CheckpointError, CrossmambaError, DataError
from crossmamba.metrics.avqa import COLUMNS
from crossmamba.report import render, table_text
from tests.media_files import gray

COUNT = "How many instruments are sounding in the video?"
ACCURACY = {column: 50.0 + place for place, column in enumerate(COLUMNS)}
SCORES: dict[str, Any] = {
    "models": {
        "av_mamba": {"none": ACCURACY, "silence": {**ACCURACY, "A": None}, "blank": ACCURACY},
        "shmamba": {"none": ACCURACY},
    },
    "ceilings": {"question only": {**ACCURACY, "All": 33.3}},
    "questions": 90,
}
TAGS = {"scores": {"sounding": 0.97, "cells": 0.9, "room": 1.0}}


def _row(video: str, number: int, kind: tuple[str, str], text: str, values: list[str], answer: str) -> dict[str, Any]:
    return {
        "video_id": video,
        "question_id": number,
        "type": json.dumps(kind),
        "question_content": text,
        "templ_values": json.dumps(values),
        "question_deleted": 0,
        "anser": answer,
    }


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A set with two test videos; the second has more audio-visual questions."""
    both = ("Audio-Visual", "Counting"), ("Audio-Visual", "Location"), ("Audio-Visual", "Existential")
    rows = [
        _row("00000001", 1, ("Visual", "Location"), "Where is the performance?", [], "indoor"),
        _row("00000001", 2, both[0], COUNT, [], "two"),
        _row("00000002", 3, ("Visual", "Location"), "Where is the performance?", [], "outdoor"),
        _row("00000002", 4, both[0], COUNT, [], "one"),
        _row("00000002", 5, both[0], "How many types of musical instruments sound in the video?", [], "one"),
        _row("00000002", 6, both[1], "Where is the <LL> instrument?", ["loudest"], "left"),
        _row("00000002", 7, both[2], "Is there a voiceover?", [], "no"),
    ]
    (tmp_path / "json_update").mkdir()
    (tmp_path / "json_update" / "avqa-test.json").write_text(json.dumps(rows))
    return tmp_path


def test_the_video_with_most_to_ask_is_asked(questions: Path) -> None:
    video, asked = choose_questions(questions)
    assert video == questions / "videos" / "00000002.mp4"
    assert asked == [
        (COUNT, "one"),
        ("Where is the loudest instrument?", "left"),
        ("Is there a voiceover?", "no"),
        ("Where is the performance?", "outdoor"),
    ]
    assert len(choose_questions(questions, 2)[1]) == 2


def test_stages_run_in_order_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    for module in (demo, common):
        monkeypatch.setattr(module, "start", lambda *arguments, **_: calls.append(arguments))
        monkeypatch.setattr(module, "finish", lambda command: None)
    monkeypatch.setattr(demo, "render_set", lambda data, settings: calls.append(("render", data.name)))
    monkeypatch.setattr(demo, "assemble", lambda run, encoders, out: calls.append(("assemble", run.name)))
    monkeypatch.setattr(demo, "score_models", lambda data, runs: SCORES)
    monkeypatch.setattr(demo, "answer_questions", lambda path, data: calls.append(("predict",)))
    monkeypatch.setattr(demo, "build_page", lambda *arguments: None)
    monkeypatch.setattr(demo, "write_report", lambda path, page: calls.append(("report", path.name)))
    settings = replace(QUICK, models=("av_mamba", "shmamba", "avst"))
    assert demo.run_avqa_demo(tmp_path / "demo", settings) == json.loads(json.dumps(SCORES))
    order = ["render", "train", "data", "train", "train", "train", "assemble", "predict", "report"]
    assert [call[0] for call in calls] == order
    configs = [call[call.index("--config") + 1].removeprefix("avqa/demo_") for call in calls if call[0] == "train"]
    assert configs == ["features", "shmamba", "av_mamba", "avst"]  # two side by side, the first one's progress is shown
    calls.clear()
    demo.run_avqa_demo(tmp_path / "demo", settings)
    assert [call[0] for call in calls] == ["report"]


def test_a_training_that_was_begun_goes_on(tmp_path: Path, parses) -> None:
    run = tmp_path / "av_mamba"
    begun = training("av_mamba", run, tmp_path, AVQADemoSettings(epochs=7))
    assert begun[begun.index("--trainer.max_epochs") + 1] == "7"
    for name in demo.CONFIGS:
        parses(training(name, run, tmp_path, QUICK))
    parses(demo.encoder_training(run, tmp_path, QUICK))
    parses(demo.extraction(tmp_path, run))
    run.mkdir()
    (run / "config.yaml").write_text("")
    assert training("av_mamba", run, tmp_path, QUICK) == ("train", "--resume", str(run))
    assert demo.encoder_training(run, tmp_path, QUICK) == ("train", "--resume", str(run))


def test_one_of_two_trainings_fails(tmp_path: Path) -> None:
    fine, wrong = ("configs", "ls"), ("configs", "cp", "avs/absent", "x")
    with pytest.raises(CrossmambaError, match=r"b\.log"):
        common.together(fine, (fine, tmp_path / "logs" / "a.log"), (wrong, tmp_path / "logs" / "b.log"))
    assert "avs/demo" in (tmp_path / "logs" / "a.log").read_text()
    with pytest.raises(CrossmambaError, match="ended with exit code 2; the same"):
        common.together(wrong)


def test_the_model_takes_its_encoders_along(tmp_path: Path) -> None:
    run, encoders, out = tmp_path / "run", tmp_path / "encoders", tmp_path / "out"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    (encoders / "model").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="small_sound"):
        assemble(run, encoders, out)
    for name in FEATURES:
        (encoders / "model" / f"{name}.safetensors").write_bytes(b"weights")
    assemble(run, encoders, out)
    there = sorted(path.name for path in (out / "model").rglob("*") if path.is_file())
    assert there == ["config.json", "small_picture.safetensors", "small_sound.safetensors"]


def test_the_table_has_models_controls_and_ceilings() -> None:
    table = score_table(SCORES)
    assert [line.kind for line in table.lines] == ["run", "control", "control", "run", "bound"]
    text = table_text(table).splitlines()
    assert text[0].split() == list(COLUMNS)
    assert "AV-Mamba, sound silenced" in text[2]
    assert "–" in text[2]
    assert text[-1].endswith("33.3")
    assert "97.0" in tag_line(TAGS)
    assert "not validated" in tag_line({})


def test_the_page_shows_answers_beside_the_truth(tmp_path: Path) -> None:
    runs = {name: tmp_path / "train" / name for name in ("av_mamba", "shmamba")}
    for run in runs.values():
        run.mkdir(parents=True)
        (run / "metrics.csv").write_text("step,train/loss,val/All\n10,2.0,\n20,1.0,0.5\n")
    predicted = tmp_path / "predict"
    predicted.mkdir()
    video = tmp_path / "v.mp4"
    write_video(video, map(gray, range(16)), 8, audio=np.zeros(32000, np.float32))
    Image.fromarray(gray(0)).save(predicted / "answer_1.png")
    entry = {
        "type": ["Audio-Visual", "Counting"],
        "answers": [{"answer": "more than ten", "probability": 0.61}],
        "picture": "answer_1.png",
    }
    (predicted / "result.json").write_text(json.dumps({"questions": [entry]}))
    (predicted / "truth.json").write_text(json.dumps({"video": str(video), "questions": [[COUNT, "two"]]}))
    page = render(build_page(tmp_path, runs, SCORES, [("seed", "0")]))
    for text in (COUNT, "more than ten (61 %)", "wrong, it is two", "Temp", "SHMamba", "frozen VGGish", "data:video"):
        assert text in page, text
    assert page.count("<svg") == 3
    (predicted / "truth.json").unlink()
    assert "data:video" not in render(build_page(tmp_path, runs, SCORES, []))


def test_demos_with_other_settings_do_not_share_a_folder(tmp_path: Path) -> None:
    DemoFolder(tmp_path / "d", QUICK).save()
    assert common.choose_folder(tmp_path / "d", QUICK) == tmp_path / "d"
    assert common.choose_folder(tmp_path / "d", replace(QUICK, epochs=3)) == tmp_path / "d-2"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("avqa", "--steps", "3"), "--steps"),
        (("--epochs", "3"), "--epochs"),
        (("avs", "--models", "avst"), "--models"),
        (("avqa", "--videos", "0"), "at least 1"),
    ],
)
def test_options_of_the_other_demo_are_refused(arguments: tuple[str, ...], words: str, capsys) -> None:
    assert main(["demo", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_set_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        choose_questions(tmp_path)
