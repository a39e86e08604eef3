"""AVQA's four choices from end to end: videos, features, training, scores, predictions of the command on the same."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from avqa_toy import TINY
from safetensors.torch import save_file

from crossmamba.cli import main
from crossmamba.data.media import write_video
from crossmamba.data.qa.avqa_rows import QUESTION_TYPES
from crossmamba.encoders import build_picture_encoder, build_sound_encoder
from crossmamba.models import from_pretrained

THINGS = [f"a thing{number}" for number in range(120)]  # more words than MUSIC-AVQA's 93
WORDS = 1 + 1 + 1 + 120 + 6  # padding, unknown, "a", the things, and the question's


def write_concert(path, number):
    frames = (np.full((64, 64, 3), 30 + 40 * number, np.uint8) for _ in range(12))
    time = np.arange(3 * 16000) / 16000
    write_video(path, frames, 4, audio=(0.3 * np.sin(2 * np.pi * (300 + 200 * number) * time)).astype(np.float32))


def row(number, video, rng):
    choices = rng.sample(THINGS, 4)
    if number % 5 == 0:
        choices[(number + 1) % 4] = None
    return {
        "id": number, "video_name": video, "video_id": number, "question_text": "What sounds in the video, please?",
        "multi_choice": choices, "answer": number % 4, "question_relation": "Both",
        "question_type": QUESTION_TYPES[number % 8],
    }  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("encoders")
    save_file(build_sound_encoder("small_sound", dim=64).state_dict(), folder / "small_sound.safetensors")
    pyramid = build_picture_encoder("small_pyramid", widths=(8, 64, 8, 8), stem_width=8)
    save_file(pyramid.state_dict(), folder / "small_picture.safetensors")
    return [f"{name}={folder / name}.safetensors" for name in ("small_sound", "small_picture")]


@pytest.fixture(scope="module")
def root(tmp_path_factory, weights):
    """Four videos and 36 questions; features made by the public command."""
    root, rng = tmp_path_factory.mktemp("avqa"), random.Random(0)
    for number in range(4):
        write_concert(root / "videos" / f"-v{number}_000030.mp4", number)
    for split, numbers in (("train", range(36)), ("val", range(36, 48))):
        rows = [row(number, f"-v{number % 4}_000030", rng) for number in numbers]
        if split == "train":
            for entry, thing in zip(rows, (THINGS[i : i + 4] for i in range(0, 144, 4)), strict=True):
                entry["multi_choice"] = [*thing, *THINGS][:4]
        (root / f"{split}_qa.json").write_text(json.dumps(rows))
    command = ["data", "extract", "avqa", str(root), "--features", "small_sound", "small_picture"]
    assert main([*command, "--weights", *weights]) == 0
    return root


@pytest.fixture(scope="module")
def train(root):
    def train(run, *overrides, head="choices"):
        tiny = [*TINY.split(), "--data.name", "avqa", "--model.model_args.head", head]
        return main(
            [
                "train",
                "--config",
                "avqa/demo_av_mamba",
                "--data.root",
                str(root),
                "--run.dir",
                str(run),
                *tiny,
                *overrides,
            ]
        )

    return train


@pytest.fixture(scope="module")
def run(tmp_path_factory, train):
    """Without `packed`: padding is read, so its length must be the same everywhere."""
    run = tmp_path_factory.mktemp("run") / "r"
    assert train(run, "--model.model_args.words", str(WORDS), "--model.model_args.packed", "false") == 0
    return run


def test_the_card_has_words_and_lengths_of_the_train_file(run):
    inputs = json.loads((run / "model" / "config.json").read_text())["preprocessing"]
    assert len(inputs["vocabulary"]) == WORDS
    assert (inputs["question_length"], inputs["choice_length"], inputs["answers"]) == (6, 2, None)


def test_too_many_words_are_told_before_training(tmp_path, train, capsys):
    assert train(tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert f"{WORDS} words and the model knows 93: set model.model_args.words to {WORDS}" in error
    assert not (tmp_path / "run").exists()
    assert train(tmp_path / "run", head="answers") == 2
    assert "head=choices" in capsys.readouterr().err


def test_scores_and_predictions_are_the_trained_models(run, root, weights, tmp_path, capsys):
    """The command's answer about a video equals the evaluation's about its stored features, choice by choice."""
    out = tmp_path / "out"
    assert main(["eval", str(run), "--data.root", str(root), "--out", str(out), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]["none"]
    chosen = json.loads((out / "val.json").read_text())
    rows = json.loads((root / "val_qa.json").read_text())
    assert scores["correct"]["All"] == sum(chosen[str(entry["id"])] == entry["answer"] for entry in rows)
    score = ["score", "avqa", "--set", "avqa", "--pred", str(out / "val.json"), "--annotations"]
    assert main([*score, str(root / "val_qa.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tables"]["all"]["All"]["correct"] == scores["correct"]["All"]
    for entry in (rows[1], rows[7]):
        video = root / "videos" / f"{entry['video_name']}.mp4"
        asked = ["predict", str(video), "--model", str(run), "--out", str(tmp_path / str(entry["id"])), "--json"]
        asked += ["--question", entry["question_text"].upper(), *(f"--weights={pair}" for pair in weights)]
        asked += [f"--choice={choice}" for choice in entry["multi_choice"]]
        assert main([*asked, "--no-overlay"]) == 0
        (told,) = json.loads(capsys.readouterr().out)["questions"]
        assert told["answer"] == entry["multi_choice"][chosen[str(entry["id"])]]
        model = from_pretrained(run / "model").eval()
        words = {word: number for number, word in enumerate(model.card["preprocessing"]["vocabulary"])}
        ids = [[words[word] for word in choice.split()] for choice in entry["multi_choice"]]
        sound, picture = (
            torch.from_numpy(np.load(root / kind / f"{entry['video_name']}.npy"))[None]
            for kind in ("small_sound", "small_picture")
        )
        question = torch.tensor([[words[word] for word in ("what", "sounds", "in", "the", "video", "please")]])
        with torch.no_grad():
            expected = model(sound, picture, question, choices=torch.tensor([ids])).logits.softmax(-1)[0].tolist()
        given = {entry["answer"]: entry["probability"] for entry in told["answers"]}
        assert [given[choice] for choice in entry["multi_choice"]] == pytest.approx(expected, abs=2e-5)


def test_unknown_words_and_long_questions_count_as_in_the_data_set(run, root, weights, tmp_path, capsys):
    video = next((root / "videos").iterdir())
    asked = ["predict", str(video), "--model", str(run), "--out", str(tmp_path / "o"), "--no-overlay"]
    asked += [f"--weights={pair}" for pair in weights]
    asked += ["--question", "what sounds in the video please oh please"]
    assert main([*asked, "--choice", "a thing3", "--choice", "a kangaroo"]) == 0
    assert "not trained on the words kangaroo, oh;" in capsys.readouterr().err
    assert main([*asked, "--overwrite", "--choice", "a thing3"]) == 2
    assert "--choice" in capsys.readouterr().err


def test_another_folder_s_words_do_not_change_a_model(run, root, tmp_path, capsys):
    """Evaluated where the train file has other words: numbers of words are those of the model's card."""
    other = tmp_path / "set"
    other.mkdir()
    for kind in ("small_sound", "small_picture"):
        (other / kind).symlink_to(root / kind)
    (other / "val_qa.json").write_text((root / "val_qa.json").read_text())
    scores = []
    for folder in (root, other):
        assert main(["eval", str(run), "--data.root", str(folder), "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out)["scores"]["none"]["correct"])
    assert scores[0] == scores[1]


def test_missing_answers_twice_given_and_unknown_ones_are_listed(root, tmp_path, capsys):
    rows = json.loads((root / "val_qa.json").read_text())
    answers = {str(entry["id"]): entry["answer"] for entry in rows}
    del answers["40"]
    answers |= {"999": 1, "41": 7}
    (tmp_path / "p.json").write_text(json.dumps(answers))
    score = ["score", "avqa", "--set", "avqa", "--pred", str(tmp_path / "p.json"), "--annotations"]
    assert main([*score, str(root / "val_qa.json")]) == 3
    error = capsys.readouterr().err
    for number in ("40", "41", "999"):
        assert number in error
