"""`crossmamba train`, `eval` and `score` on tiny models of actions, in this process."""

import csv
import json

import av
import numpy as np
import pytest
import torch
from action_toy import CLIPS, TOKENS, make_set

from crossmamba.cli import main
from crossmamba.cli.configs import config_root
from crossmamba.data.epic.annotations import read_rows
from crossmamba.data.media import VideoWriter
from crossmamba.data.synth.kitchen import synthesize_epic100
from crossmamba.encoders import VIDEO_ENCODERS
from crossmamba.errors import DataError, UsageError
from crossmamba.metrics.epic100_score import read_epic_predictions
from crossmamba.models import create_model, from_pretrained
from crossmamba.questions.records import read_questions
from crossmamba.tasks.action import check_classes, check_sample, recognize, unread_parts
from crossmamba.tasks.action_data import ActionDataModule, question_tokens, tokenizer_of
from crossmamba.tasks.evaluate_action import evaluate_action
from crossmamba.tasks.evaluate_action_text import table
from crossmamba.tasks.progress import read_table
from crossmamba.tasks.resume import load_checkpoint
from crossmamba.tasks.runner import parse

ORACLE = ("--data.question_source", "oracle")
VIDEO_ONLY = ("--data.question_source", "none", "--model.model_args.fusion", "none")


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("kitchen") / "set")


@pytest.fixture(scope="session")
def train_actions(kitchen):
    """`train_actions(run, *overrides)` runs `crossmamba train` in this process and returns its exit code."""

    def train(run, *overrides, config="action/demo_kitchen_tokens", tiny=TOKENS):
        common = ["--config", config, "--data.root", str(kitchen), "--run.dir", str(run)]
        return main(["train", *common, *tiny.split(), *overrides])

    return train


@pytest.fixture(scope="session")
def run(tmp_path_factory, train_actions):
    """On stored tokens with oracle questions."""
    folder = tmp_path_factory.mktemp("actions") / "run"
    assert train_actions(folder, *ORACLE) == 0
    return folder


@pytest.fixture(scope="session")
def clip_run(tmp_path_factory, train_actions):
    """End to end on clips, with generic questions."""
    folder = tmp_path_factory.mktemp("actions") / "clips"
    assert train_actions(folder, config="action/demo_kitchen", tiny=CLIPS) == 0
    return folder


def test_a_run_and_its_card_say_what_was_asked(run):
    rows = read_table(run / "metrics.csv")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert {"val/verb", "val/noun", "val/action", "val/action5", "val/loss"} <= rows[2].keys()
    card = json.loads((run / "model" / "config.json").read_text())
    facts, inputs = card["metadata"], card["preprocessing"]
    assert (facts["task"], facts["epic_task"], facts["question_source"]) == ("action", "recognition", "oracle")
    assert "synthetic kitchen" in facts["trained_on"]
    assert (inputs["video"], inputs["text"], len(inputs["vocabulary"])) == ("tokens_small_video", "words", 125)
    assert (len(inputs["verbs"]), len(inputs["nouns"])) == (12, 16)


def test_exported_model_scores_as_in_training(clip_run, kitchen):
    model = from_pretrained(clip_run / "model")
    scores = evaluate_action(model, kitchen, segments=8, progress=False).scores["none"]["accuracy"]
    said = model.card["metadata"]["metrics"]
    for slot in ("verb", "noun", "action"):
        assert scores[slot] == pytest.approx(said[f"val/{slot}"], abs=1e-6)
        assert scores[f"{slot}@5"] == pytest.approx(said[f"val/{slot}5"], abs=1e-6)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, clip_run, train_actions, workers):
    """In the middle of an epoch, with random crops and a cosine."""
    folder = tmp_path / "run"
    callback = "[{class_path: kill_callbacks.SignalAt, init_args: {step: 4, name: SIGTERM}}]"
    options = ("--trainer.callbacks", callback, "--data.num_workers", workers)
    assert train_actions(folder, *options, config="action/demo_kitchen", tiny=CLIPS) == 143
    assert main(["train", "--resume", str(folder), "--trainer.callbacks", "null"]) == 0
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (folder, clip_run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (read_table(path / "metrics.csv") for path in (folder, clip_run))
    assert [{**row, "seconds": 0} for row in ours] == [{**row, "seconds": 0} for row in theirs]


def test_eval_tells_the_source_the_text_alone_and_the_oracle(run, kitchen, capsys):
    common = ["eval", str(run), "--data.root", str(kitchen)]
    assert main(common) == 0
    told = capsys.readouterr().out
    assert "question source: ORACLE" in told
    assert "text only (its video dropped)" in told
    assert "text only (words, a linear model)" in told
    assert "class prior of train" in told
    assert "WARNING" in told
    assert main([*common, "--question-source", "generic", "--perturb", "none,video_only"]) == 0
    told = capsys.readouterr().out
    assert "question source: generic" in told
    assert "trained with question source: ORACLE" in told
    assert "its questions dropped" in told
    assert "their words give the class prior" in told
    assert main([*common, "--question-source", "none", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["scores"]) == ["none"]  # nothing is asked: there is no text to be alone
    assert said["question_source_text"] == "question source: none (video only)"
    assert said["warnings"] == []


def test_text_only_is_the_model_without_video(run, kitchen):
    model = from_pretrained(run / "model")
    report = evaluate_action(model, kitchen, progress=False)
    texts = read_questions(kitchen / "questions" / "oracle" / "validation.jsonl")
    rows = read_rows(kitchen / "EPIC_100_validation.csv", verbs=12, nouns=16)
    tokenizer = tokenizer_of("words", ActionDataModule(str(kitchen)).classes)
    verb = tokenizer.encode_all([texts[row.narration_id].verb_question_masked for row in rows])
    noun = tokenizer.encode_all([texts[row.narration_id].noun_question_masked for row in rows])
    with torch.inference_mode():
        output = model(None, verb, noun)
    right = (output.verb.argmax(1) == torch.tensor([row.verb_class for row in rows])).double().mean()
    assert report.scores["question_only"]["accuracy"]["verb"] == pytest.approx(float(right))
    assert report.probe["action"] <= min(report.probe["verb"], report.probe["noun"])
    assert "WARNING" in table(report, model="toy", data="toy")


def test_predictions_are_scored_and_submitted(clip_run, kitchen, tmp_path, capsys):
    out, zipped = tmp_path / "out", tmp_path / "test.zip"
    arguments = ["eval", str(clip_run), "--data.root", str(kitchen), "--out", str(out)]
    assert main([*arguments, "--submission", str(zipped), "--sls", "0", "3", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["scores"]["none"]["detail"]["percent"]
    score = ["score", "epic100", "--task", "recognition", "--annotations", str(kitchen / "EPIC_100_validation.csv")]
    assert main([*score, "--pred", str(out / "validation.npz"), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["question_source"] == "generic"
    assert again["scores"]["percent"] == pytest.approx(said)
    assert main([*score, "--pred", str(zipped), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scores"]["percent"] == pytest.approx(said)
    held = read_epic_predictions(out / "validation.npz", verbs=12, nouns=16)
    with (out / "validation.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["verb_class"]) for line in lines] == held.verb.argmax(axis=1).tolist()
    assert (out / "question_only" / "validation.npz").is_file()


def test_views_are_averaged_as_probabilities(clip_run, kitchen, tmp_path):
    model = from_pretrained(clip_run / "model")
    inputs = {**model.card["preprocessing"], "mode": "dense"}
    options = {"question_source": "generic", "segments": 3, "out": tmp_path, "progress": False}
    evaluate_action(model, kitchen, preprocessing=inputs, views=2, **options)
    held = read_epic_predictions(tmp_path / "validation.npz", verbs=12, nouns=16)
    data = ActionDataModule(str(kitchen), frames=2, image_size=32, question_source="generic", segments=3)
    dataset = data.dataset("val")
    dataset.views = 2
    batch = torch.utils.data.default_collate([dataset[number] for number in range(6)])
    with torch.inference_mode():
        verb = recognize(model, batch).verb.softmax(dim=1).reshape(3, 2, 12).mean(dim=1).log()
    np.testing.assert_allclose(held.verb, verb.numpy(), atol=1e-4)


@pytest.mark.parametrize("task", ["recognition", "anticipation"])
def test_clips_in_time_and_three_squares_are_averaged(clip_run, tmp_path, capsys, task):
    """Of pictures that are wider than high, which the kitchen's own are not."""
    root = tmp_path / "wide"
    synthesize_epic100(root, videos={"train": 1, "val": 1, "test": 1}, size=32, segments=4, workers=1, progress=False)
    random = np.random.default_rng(0)
    for path in [path for path in root.rglob("*") if path.suffix.lower() == ".mp4"]:
        with av.open(path) as file:
            count = sum(1 for _ in file.decode(video=0))
            rate = file.streams.video[0].average_rate
        with VideoWriter(path, (32, 48), rate) as writer:
            for _ in range(count):
                writer.write_frame(random.integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1))
    model = from_pretrained(clip_run / "model")
    inputs = {**model.card["preprocessing"], "mode": "dense"}
    views = 2 if task == "recognition" else 1
    options = {"task": task, "question_source": "generic", "out": tmp_path, "progress": False}
    report = evaluate_action(model, root, preprocessing=inputs, views=views, crops=3, **options)
    assert (report.views, report.crops) == (views, 3)
    assert f"{views} clips in time x 3 squares" in table(report, model="toy", data="toy")
    held = read_epic_predictions(tmp_path / "validation.npz", verbs=12, nouns=16)
    data = ActionDataModule(str(root), task=task, frames=2, image_size=32, question_source="generic").dataset("val")
    data.views, data.crops = views, 3
    clips = [data[number] for number in range(len(data))]
    assert len(clips) == 3 * views * report.segments
    assert not torch.equal(clips[0]["video"], clips[2]["video"])  # left and right
    with torch.inference_mode():
        output = recognize(model, torch.utils.data.default_collate(clips))
    for ours, logits in ((held.verb, output.verb), (held.noun, output.noun)):
        mean = logits.double().softmax(dim=1).reshape(report.segments, 3 * views, -1).mean(dim=1)
        np.testing.assert_allclose(np.exp(ours), mean.numpy(), atol=1e-6)
    single = evaluate_action(model, root, preprocessing=inputs, **{**options, "out": tmp_path / "one"})
    assert (single.views, single.crops) == (1, 1)
    one = read_epic_predictions(tmp_path / "one" / "validation.npz", verbs=12, nouns=16)
    assert not np.allclose(held.verb, one.verb, atol=1e-4)
    common = ["eval", str(clip_run), "--data.root", str(root), "--task", task, "--crops", "3", "--json"]
    assert main(common) == 0
    assert json.loads(capsys.readouterr().out)["crops"] == 3
    assert main([*common, "--views", "0"]) == 2
    assert main([*common, "--views", "2"]) == 2  # the run's clips are uniform
    assert "views are for testing recognition with the dense mode" in capsys.readouterr().err


def test_of_hidden_labels_there_are_predictions_alone(clip_run, kitchen, tmp_path, capsys):
    root = tmp_path / "root"
    root.mkdir()
    for path in kitchen.iterdir():
        if path.name != "truth":
            (root / path.name).symlink_to(path)
    arguments = ["eval", str(clip_run), "--data.root", str(root), "--split", "test"]
    assert main(arguments) == 2
    assert "labels of test are hidden" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert "nothing was scored" in capsys.readouterr().out
    assert (tmp_path / "out" / "test.npz").is_file()
    assert main(["eval", str(clip_run), "--data.root", str(kitchen), "--split", "test"]) == 0  # a synthetic set's truth


def test_without_the_train_rows_there_is_no_prior_and_that_is_said(clip_run, kitchen, tmp_path, capsys):
    for path in kitchen.iterdir():
        if path.name != "EPIC_100_train.csv":
            (tmp_path / path.name).symlink_to(path)
    assert main(["eval", str(clip_run), "--data.root", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "as it is" in told
    assert "no class prior and no probe of the words" in told


def test_wrong_rows_are_told_before_any_work(clip_run, kitchen, tmp_path, capsys):
    """Also of the train split, which gives the prior and is read by `eval` only for it."""
    for split in ("train", "validation"):
        root = tmp_path / split
        root.mkdir()
        for path in kitchen.iterdir():
            (root / path.name).symlink_to(path)
        path = root / f"EPIC_100_{split}.csv"
        header, first, second, *rest = path.read_text().splitlines()
        cells = second.split(",")
        path.unlink()
        for column, value, message in (
            ("start_timestamp", "nan", "start_timestamp is 'nan'"),
            ("verb_class", "99", "verb_class is 99; the class table has 0 to 11"),
        ):
            wrong = list(cells)
            wrong[header.split(",").index(column)] = value
            path.write_text("\n".join([header, first, ",".join(wrong), *rest]) + "\n")
            training = ["train", "--config", "action/demo_kitchen", *CLIPS.split(), "--run.dir", str(tmp_path / "run")]
            for arguments in (["eval", str(clip_run), "--out", str(tmp_path / "out")], training):
                arguments += ["--data.root", str(root)]
                assert main(arguments) == 3
                said = capsys.readouterr().err
                assert f"EPIC_100_{split}.csv:3: narration {cells[0]}: {message}" in said
            path.unlink()
    assert not (tmp_path / "run").exists()
    assert not list((tmp_path / "out").glob("*"))


def test_no_submission_that_was_told_the_answers(run, kitchen, tmp_path, capsys):
    arguments = ["eval", str(run), "--data.root", str(kitchen), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--submission", str(tmp_path / "s.zip"), "--sls", "0", "3", "3"]) == 2
    assert "told of the answers" in capsys.readouterr().err
    assert not (tmp_path / "s.zip").exists()


@pytest.mark.parametrize(
    ("config", "tiny", "overrides"),
    [
        ("demo_kitchen", CLIPS, (*VIDEO_ONLY, "--model.mixup", "0.8", "--model.cutmix", "1.0")),
        ("demo_kitchen_tokens", TOKENS, (*ORACLE, "--data.video", "none")),
        ("demo_kitchen_anticipation", TOKENS, ("--model.model_args.text", "none", "--data.question_source", "none")),
        (
            "demo_kitchen",
            CLIPS,
            ("--data.task", "anticipation", "--model.optimizer", "sgd", "--model.schedule", "step"),
        ),
        (
            "demo_kitchen_tokens",
            TOKENS,
            (*ORACLE, "--model.model_args.fusion", "cm_mamba", "--model.optimization", "official"),
        ),
    ],
    ids=["video only, mixed", "text only", "anticipation on tokens", "anticipation on clips", "official rates"],
)
def test_the_other_ways_of_training(tmp_path, kitchen, train_actions, capsys, config, tiny, overrides):
    folder = tmp_path / "run"
    assert train_actions(folder, *overrides, "--trainer.max_epochs", "1", config=f"action/{config}", tiny=tiny) == 0
    assert main(["eval", str(folder), "--data.root", str(kitchen), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])  # after the training's own words
    assert said["task"] == ("anticipation" if "anticipation" in (*overrides, config[-12:]) else "recognition")
    assert all(0 <= said["scores"]["none"]["accuracy"][slot] <= 1 for slot in ("verb", "noun", "action"))


def test_what_does_not_fit_is_said_before_anything_is_written(tmp_path, train_actions, capsys):
    wrong = {
        "mix clips and labels but not questions": ("--model.mixup", "0.8"),
        "--model.model_args.words 128": ("--model.model_args.words", "99"),
        "--model.model_args.verbs 12": ("--model.model_args.verbs", "97"),
        "nothing is left to read": ("--data.video", "none", "--data.question_source", "none"),
        "set data.question_source=none": ("--model.model_args.fusion", "none"),
        "to tokens of the model's encoder": ("--model.model_args.video_dim", "32"),
        "no such file of questions": ("--data.question_source", "predicted"),
        "is chosen with them": ("--data.select_question_source", "none"),
        "is no model of actions": ("--model.model", "av_mamba_small", "--model.model_args", "null"),
    }
    for words, overrides in wrong.items():
        assert train_actions(tmp_path / "run", *overrides) in (2, 3), words
        assert words in capsys.readouterr().err
    assert train_actions(tmp_path / "run", "--data.mean", "[0,0,0]", config="action/demo_kitchen", tiny=CLIPS) == 2
    assert "standardised" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_question_file_of_another_source_is_refused(tmp_path, kitchen):
    rows = read_rows(kitchen / "EPIC_100_validation.csv", verbs=12, nouns=16)
    (tmp_path / "predicted").mkdir()
    text = (kitchen / "questions" / "oracle" / "validation.jsonl").read_text()
    (tmp_path / "predicted" / "validation.jsonl").write_text(text)
    tokenizer = tokenizer_of("words", ActionDataModule(str(kitchen)).classes)
    with pytest.raises(DataError, match="source 'oracle', and 'predicted' is asked for"):
        question_tokens(rows, "predicted", tmp_path, "validation", tokenizer)
    with pytest.raises(UsageError, match="wrods"):
        tokenizer_of("wrods", ActionDataModule(str(kitchen)).classes)


def test_what_a_model_can_read():
    model = create_model("mambavl_small", verbs=3, nouns=4, words=20)
    clip, tokens = {"video": torch.zeros(3, 2, 32, 32)}, {"tokens": torch.zeros(5, 64)}
    asked = {"verb_question": torch.zeros(40)}
    assert unread_parts(model, {**clip, **asked}) == []
    assert unread_parts(model, tokens) == ["video encoder", "text"]
    assert unread_parts(model, asked) == ["video encoder", "video"]
    stored = create_model("mambavl_small", video="features", video_dim=64, fusion="none", verbs=3, nouns=4)
    check_sample(stored, tokens)
    check_classes(stored, 3, 4, None)
    with pytest.raises(UsageError, match="reads stored tokens"):
        check_sample(stored, clip)


@pytest.mark.parametrize("path", sorted((config_root() / "action").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_standardises_as_its_encoder_wants(path):
    cli = parse(["--config", str(path), "--data.root", "."])
    model, data = cli.config.model.init_args, cli.config.data.init_args
    name = model.model.removeprefix("mambavl_")
    if data.video != "clips":
        assert data.video.startswith(f"tokens_{'orvit' if 'orvit' in name else name.replace('small', 'small_video')}")
        assert ("anticipation" in data.video) is (data.task == "anticipation")
        return
    encoder = VIDEO_ENCODERS[name.replace("small", "small_video")]
    encoder = getattr(encoder, "func", encoder)
    np.testing.assert_allclose(data.mean, encoder.mean, atol=1e-6)
    np.testing.assert_allclose(data.std, encoder.deviation, atol=1e-6)
