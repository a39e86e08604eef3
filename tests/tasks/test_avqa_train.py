"""`crossmamba train`, `eval` and `score` on tiny question-answering models, in this process."""

import json

import numpy as np
import pytest
import torch
from avqa_toy import TINY, make_set

from crossmamba.cli import main
from crossmamba.metrics.avqa import COLUMNS
from crossmamba.models import from_pretrained
from crossmamba.tasks.evaluate_avqa import evaluate_avqa
from crossmamba.tasks.progress import read_table
from crossmamba.tasks.resume import load_checkpoint

SMALL = {
    "avst": "--model.model_args.width 16 --model.model_args.heads 2",
    "shmamba": "--model.model_args.width 16 --model.model_args.d_state 2 --model.model_args.picture_grid [1,1]",
}


@pytest.fixture(scope="session")
def questions(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="session")
def train_questions(questions):
    """`train_questions(run, *overrides)` runs `crossmamba train` in this process and returns its exit code."""

    def train(run, *overrides, root=questions, config="avqa/demo_av_mamba", tiny=TINY):
        common = ["--config", config, "--data.root", str(root), "--run.dir", str(run)]
        return main(["train", *common, *tiny.split(), *overrides])

    return train


@pytest.fixture(scope="session")
def run(tmp_path_factory, train_questions):
    folder = tmp_path_factory.mktemp("avqa") / "run"
    assert train_questions(folder) == 0
    return folder


def test_run_has_the_13_columns_and_a_card_that_tells_all(run):
    rows = read_table(run / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in (rows[2], rows[5]):
        assert {f"val/{column}" for column in COLUMNS} <= row.keys()
    assert rows[5]["lr"] < rows[2]["lr"]
    card = json.loads((run / "model" / "config.json").read_text())
    facts, inputs = card["metadata"], card["preprocessing"]
    assert (facts["task"], facts["data_set"], facts["perturbation"]) == ("avqa", "music-avqa", "none")
    assert (inputs["audio"], inputs["visual"], inputs["question"]) == ("small_sound", "small_picture", "words")
    assert (inputs["frames"], len(inputs["answers"]), len(inputs["vocabulary"])) == (3, 42, 93)
    best = max(rows[2], rows[5], key=lambda row: row["val/All"])
    assert facts["metrics"]["val/All"] == best["val/All"]


def test_exported_model_scores_as_in_training(run, questions):
    model = from_pretrained(run / "model")
    scores = evaluate_avqa(model, questions, "val", progress=False)["none"]
    said = model.card["metadata"]["metrics"]
    for column in COLUMNS:
        assert scores["accuracy"][column] == pytest.approx(said[f"val/{column}"], abs=1e-6)
    other = evaluate_avqa(model, questions, "val", batch_size=5, num_workers=1, progress=False)["none"]
    assert other["correct"] == scores["correct"]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, run, train_questions, workers):
    """In the middle of an epoch, with dropout, groups of questions and cosine schedule."""
    folder = tmp_path / "run"
    callback = "[{class_path: kill_callbacks.SignalAt, init_args: {step: 4, name: SIGTERM}}]"
    options = ("--data.num_workers", workers, "--data.cache_in_memory", "false")
    assert train_questions(folder, "--trainer.callbacks", callback, *options) == 143
    assert main(["train", "--resume", str(folder), "--trainer.callbacks", "null"]) == 0
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (folder, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (read_table(path / "metrics.csv") for path in (folder, run))
    assert [{**row, "seconds": 0} for row in ours] == [{**row, "seconds": 0} for row in theirs]


def test_a_resumed_run_keeps_its_groups(tmp_path, train_questions, capsys):
    folder = tmp_path / "run"
    callback = "[{class_path: kill_callbacks.SignalAt, init_args: {step: 2, name: SIGTERM}}]"
    assert train_questions(folder, "--trainer.callbacks", callback) == 143
    changed = ("--trainer.callbacks", "null", "--data.questions_per_video", "3")
    assert main(["train", "--resume", str(folder), *changed]) == 2
    assert "data.questions_per_video: 2 then, 3 now" in capsys.readouterr().err


@pytest.mark.parametrize("name", SMALL)
def test_the_other_models_and_recipes_train(tmp_path, train_questions, name):
    """Auxiliary losses are logged; StepLR by epoch drops the rate as AVST's does."""
    recipe = "--model.schedule step --model.drop_epochs 1 --model.optimizer adam --model.warmup_steps 0"
    data = "--data.frames 3 --data.batch_size 6 --data.questions_per_video 0 --data.perturbation blank"
    trainer = "--trainer.max_epochs 2 --trainer.limit_train_batches 2 --trainer.enable_progress_bar false"
    tiny = f"{recipe} {data} {trainer} {SMALL[name]} --run.log_every 1"
    assert train_questions(tmp_path / "run", config=f"avqa/demo_{name}", tiny=tiny) == 0
    rows = read_table(tmp_path / "run" / "metrics.csv")
    # the rate that the table shows is the one after the step
    assert [row["lr"] for row in rows] == pytest.approx([rows[0]["lr"], *[rows[0]["lr"] / 10] * 2, rows[0]["lr"] / 100])
    card = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert card["metadata"]["perturbation"] == "blank"


def test_encoders_of_raw_videos_are_frozen_or_learn(tmp_path, train_questions, questions, monkeypatch):
    from crossmamba.tasks.avqa import AVQATask

    options = {"audio_input": "small_sound", "audio_args": {"dim": 8}, "width": 16, "cm_width": 16, "d_state": 2}
    frozen = AVQATask("av_mamba_small", options)
    assert set(frozen.encoders()) == {"sound"}
    assert not any(p.requires_grad for p in frozen.encoders()["sound"].parameters())
    frozen.train()
    assert not frozen.encoders()["sound"].training
    learning = AVQATask("av_mamba_small", options, freeze_encoders=False)
    assert all(p.requires_grad for p in learning.encoders()["sound"].parameters())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model.model_args.audio_dim", "128"], "audio features have shape (64) a second and the model takes (128)"),
        (["--model.model_args.visual_dim", "512"], "(4, 4, 64) a second and the model takes (any, any, 512)"),
        (["--model.model_args.question_input", "features"], "the questions come as words and the model takes features"),
        (["--model.model_args.head", "choices"], "model.model_args.head=answers"),
        (["--model.model_args.words", "40"], "93 words and the model knows 40: set model.model_args.words to 93"),
        (["--data.audio", "vggish"], "vggish"),
        (["--data.audio", "vgish"], "vgish"),
        (["--data.frames", "9"], "9 frames are wanted"),
        (["--data.perturbation", "deaf"], "deaf"),
        (["--data.questions_per_video", "-1"], "questions_per_video is -1"),
        (["--model.drop_epochs", "0"], "drop_epochs is 0"),
        (["--model.optimizer", "sdg"], "sdg"),
        (["--model.picture_weights", "x.pt"], "has no picture encoder"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line_before_training(tmp_path, train_questions, capsys, arguments, words):
    assert train_questions(tmp_path / "run", *arguments) in (2, 3)
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1 or "starting" in message


def test_an_unreadable_training_video_is_counted_and_a_test_video_is_an_error(tmp_path, run, train_questions, capsys):
    root = make_set(tmp_path / "set", videos=8)
    bad = np.full((4, 64), np.nan, dtype=np.float32)
    np.save(root / "small_sound" / "train000.npy", bad)
    limits = ("--trainer.limit_train_batches", "1.0", "--data.bad_sample_limit", "0.2", "--trainer.max_epochs", "1")
    with pytest.warns(UserWarning, match="unreadable training sample"):
        assert train_questions(tmp_path / "run", *limits, root=root) == 0
    assert read_table(tmp_path / "run" / "metrics.csv")[-1]["bad_samples"] > 1
    np.save(root / "small_sound" / "test003.npy", bad)
    capsys.readouterr()
    for perturb in ("none", "none,silence"):
        assert main(["eval", str(run), "--data.root", str(root), "--perturb", perturb]) == 3
        assert "test003" in capsys.readouterr().err


def test_eval_writes_answers_that_score_reads(tmp_path, run, questions, capsys):
    out = tmp_path / "answers"
    arguments = ["eval", str(run), "--data.root", str(questions), "--perturb", "none,silence", "--out", str(out)]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["scores"].keys() == {"none", "silence"}
    assert result["parameters"] > 1000
    annotations = questions / "json_update" / "avqa-test.json"
    for name, scores in result["scores"].items():
        assert list(scores["accuracy"]) == list(COLUMNS)
        file = out / name / "test.json"
        assert set(json.loads(file.read_text())) == {
            str(row["question_id"]) for row in json.loads(annotations.read_text())
        }
        assert main(["score", "avqa", "--pred", str(file), "--annotations", str(annotations)]) == 0
        words = capsys.readouterr().out.split()
        assert f"{100 * scores['accuracy']['All']:.2f}" in words
    assert main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"]) == 0
    header = capsys.readouterr().out.splitlines()[2].split()
    assert header == list(COLUMNS)


def test_eval_takes_the_senses_that_the_model_was_trained_with(tmp_path, train_questions, questions, capsys):
    assert train_questions(tmp_path / "run", "--data.perturbation", "silence", "--trainer.max_epochs", "1") == 0
    capsys.readouterr()
    assert main(["eval", str(tmp_path / "run"), "--data.root", str(questions), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"].keys() == {"silence"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--perturb", "deaf"], "deaf"),
        (["--soft"], "--soft is for avs models"),
        (["--clips", "3"], "--clips is for avs models"),
        (["--batch-size", "0"], "--batch-size is 0"),
    ],
)
def test_wrong_arguments_of_eval_are_told(run, questions, capsys, arguments, words):
    assert main(["eval", str(run), "--data.root", str(questions), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_model_that_knows_the_rephrasings_words_is_scored_on_them(tmp_path, train_questions, capsys):
    root = make_set(tmp_path / "set")
    rows = json.loads((root / "json_update" / "avqa-test.json").read_text())
    said = [{**row, "question_content": "Pray tell, how loud was that?", "templ_values": "[]"} for row in rows]
    (root / "r").mkdir()
    (root / "r" / "avqa-test-headtail.json").write_text(json.dumps(said))
    words = ["--data.words", "rephrased"]
    assert train_questions(tmp_path / "few", *words, root=root) == 2
    assert "set model.model_args.words to 98" in capsys.readouterr().err
    run = tmp_path / "run"
    assert train_questions(run, *words, "--model.model_args.words", "98", root=root) == 0
    score = ["eval", str(run), "--data.root", str(root), "--split", "test"]
    assert main([*score, "--version", "r"]) == 0
    assert main(score) == 0  # its own questions too
    assert train_questions(tmp_path / "none", *words, "--data.question", "clip_question", root=root) == 2
    assert "questions as words" in capsys.readouterr().err
