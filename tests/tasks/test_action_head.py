"""The head over actions from training to submission: its loss, its scores, resume, prediction."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from action_toy import TOKENS, make_set

from crossmamba.cli import main
from crossmamba.cli.configs import config_root
from crossmamba.data.epic.annotations import read_rows
from crossmamba.errors import DataError
from crossmamba.metrics.epic100 import action_scores_of_head, anticipation_scores
from crossmamba.metrics.epic100_score import read_epic_predictions, write_epic_predictions
from crossmamba.models import from_pretrained
from crossmamba.models.mambavl_actions import known_actions
from crossmamba.predict.action_model import said_of
from crossmamba.predict.action_names import ClassNames, top_actions
from crossmamba.tasks.action import ActionTask, recognize
from crossmamba.tasks.action_data import ActionDataModule
from crossmamba.tasks.action_metric import ActionMetric
from crossmamba.tasks.action_pairs import UNKNOWN, ActionPlaces, actions_of, cross_entropy_of_known
from crossmamba.tasks.evaluate_action import evaluate_action
from crossmamba.tasks.evaluate_action_text import table
from crossmamba.tasks.resume import load_checkpoint

AHEAD = "tokens_small_video_anticipation"


@pytest.fixture(scope="module")
def kitchen(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("kitchen") / "set")


@pytest.fixture(scope="module")
def train(kitchen):
    def started(run, *overrides):
        common = ["--config", "action/demo_kitchen_anticipation", "--data.root", str(kitchen), "--run.dir", str(run)]
        return main(["train", *common, *TOKENS.split(), *overrides])

    return started


@pytest.fixture(scope="module")
def run(tmp_path_factory, train):
    folder = tmp_path_factory.mktemp("head") / "run"
    assert train(folder) == 0
    return folder


def test_places_of_pairs_and_what_the_train_split_lacks():
    places = ActionPlaces([(0, 1), (2, 0), (2, 3)])
    found = places(torch.tensor([2, 0, 0, 2]), torch.tensor([3, 1, 3, 0]))
    assert found.tolist() == [2, 0, UNKNOWN, 1]
    assert ActionPlaces([])(torch.tensor([1]), torch.tensor([1])).tolist() == [UNKNOWN]


def test_the_loss_ignores_unseen_pairs():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.tensor([2, UNKNOWN, 0, UNKNOWN])
    for smoothing in (0.0, 0.1):
        loss = cross_entropy_of_known(logits, labels, smoothing)
        share = torch.full((2, 3), smoothing / 3)
        share[[0, 1], [2, 0]] += 1 - smoothing
        torch.testing.assert_close(loss, -(share * logits[[0, 2]].log_softmax(1)).sum(1).mean())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[[1, 3]].abs().max() == 0
    nothing = cross_entropy_of_known(logits, torch.full((4,), UNKNOWN), 0.1)
    assert nothing.item() == 0
    assert torch.autograd.grad(nothing, logits)[0].abs().max() == 0


def test_the_run_knows_the_train_splits_actions(run, kitchen):
    rows = read_rows(kitchen / "EPIC_100_train.csv", verbs=12, nouns=16)[:8]
    wanted = sorted({(row.verb_class, row.noun_class) for row in rows})
    assert actions_of(rows) == ActionDataModule(str(kitchen), segments=8).train_actions == wanted
    assert known_actions(from_pretrained(run / "model")) == wanted
    state = load_checkpoint(run / "checkpoints" / "last.ckpt")["state_dict"]
    assert state["model.action_head.pairs"][: len(wanted)].tolist() == [list(pair) for pair in wanted]


def test_the_third_cross_entropy_is_added_to_the_two(monkeypatch):
    sizes = {"video": "features", "video_dim": 8, "width": 8, "verbs": 3, "nouns": 4, "text": "none"}
    task = ActionTask("mambavl_small", {**sizes, "action_classes": 9}, label_smoothing=0.1).eval()
    task.actions = [(0, 1), (2, 0), (2, 3)]
    task.model.action_head.learn(task.actions)
    task.places = ActionPlaces(task.actions)
    said = {}
    monkeypatch.setattr(task, "log", lambda name, value, **_: said.update({name: value}))
    verb, noun = torch.tensor([2, 0, 2]), torch.tensor([3, 0, 0])  # the second is no train pair
    tokens = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    loss = task.training_step({"tokens": tokens, "verb": verb, "noun": noun, "index": torch.arange(3)}, 0)
    output = task.model(tokens)
    parts = {
        "verb": F.cross_entropy(output.verb, verb, label_smoothing=0.1),
        "noun": F.cross_entropy(output.noun, noun, label_smoothing=0.1),
        "action": F.cross_entropy(output.action[[0, 2], :3], torch.tensor([2, 1]), label_smoothing=0.1),
    }
    torch.testing.assert_close(loss, sum(parts.values()))
    assert {name: said[f"train/loss_{name}"].item() for name in parts} == pytest.approx(
        {name: part.item() for name, part in parts.items()}
    )
    loss.backward()
    assert task.model.action_head.linear.weight.grad[3:].abs().max() == 0
    assert task.model.action_head.linear.weight.grad[:3].abs().max() > 0


def test_scores_are_those_of_the_head_by_hand(run, kitchen, tmp_path, capsys):
    """In eval, in training, in the predictions' file and in the submission."""
    model = from_pretrained(run / "model")
    report = evaluate_action(model, kitchen, segments=8, out=tmp_path, progress=False)
    data = ActionDataModule(str(kitchen), task="anticipation", video=AHEAD, question_source="generic", segments=8)
    dataset = data.dataset("val")
    batch = torch.utils.data.default_collate([dataset[number] for number in range(len(dataset))])
    with torch.inference_mode():
        output = recognize(model, batch)
    actions, rows = known_actions(model), dataset.rows
    hits: dict[tuple[int, int], list[bool]] = {}
    for row, logits in zip(rows, output.action[:, : len(actions)].tolist(), strict=True):
        best = sorted(range(len(actions)), key=lambda k: -logits[k])[:5]
        assert len(best) == 5
        label = (row.verb_class, row.noun_class)
        hits.setdefault(label, []).append(label in [actions[k] for k in best])
    recall = sum(sum(found) / len(found) for found in hits.values()) / len(hits)
    assert report.scores["none"]["accuracy"]["action"] == pytest.approx(recall)
    assert model.card["metadata"]["metrics"]["val/action"] == pytest.approx(recall)
    assert report.actions == len(actions)
    assert f"a head over the {len(actions)} pairs" in table(report, model="toy", data="toy")
    held = read_epic_predictions(tmp_path / "validation.npz", verbs=12, nouns=16)
    assert held.actions.pairs.shape == (len(rows), 100, 2)
    again = anticipation_scores(held.verb, held.noun, rows, actions=held.actions)
    said = report.scores["none"]["detail"]["percent"]
    assert {name: again.values[name] for name in again.values if name in said and "overall" in name} == pytest.approx(
        {name: said[name] for name in said if "overall" in name}
    )

    zipped = tmp_path / "test.zip"
    arguments = ["eval", str(run), "--data.root", str(kitchen), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--submission", str(zipped), "--sls", "0", "3", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    score = ["score", "epic100", "--task", "anticipation", "--annotations", str(kitchen / "EPIC_100_validation.csv")]
    for path in (zipped, tmp_path / "out" / "validation.npz"):
        assert main([*score, "--pred", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["scores"]["percent"]
        assert found["overall_action_mt5r_official"] == pytest.approx(
            100 * said["scores"]["none"]["accuracy"]["action"]
        )


def test_pairs_that_train_does_not_have_come_last():
    random = np.random.default_rng(0)
    verb, noun, joint = random.normal(size=(4, 3)), random.normal(size=(4, 5)), random.normal(size=(4, 2))
    actions = [(0, 4), (2, 1)]
    chosen = action_scores_of_head(joint, actions, verb, noun)
    assert chosen.pairs.shape == (4, 15, 2)
    assert (np.diff(chosen.scores, axis=1) <= 0).all()
    product = verb[:, :, None] + noun[:, None]
    for row in range(4):
        pairs = [tuple(pair) for pair in chosen.pairs[row].tolist()]
        assert len(set(pairs)) == 15
        assert pairs[:2] == sorted(actions, key=lambda a: -joint[row, actions.index(a)])
        assert pairs[2:] == sorted(pairs[2:], key=lambda pair: -product[row][pair])


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("action_pairs", np.full((2, 1, 2), 9), "beyond the 3 verbs"),
        ("action_pairs", np.zeros((1, 1, 2), int), "expected integers"),
        ("action_output", np.full((2, 1), np.nan), "a finite number for each"),
    ],
)
def test_damaged_action_scores_are_refused(tmp_path, name, value, words):
    path = tmp_path / "p.npz"
    verb, noun = np.zeros((2, 3)) - [[1], [2]], np.zeros((2, 4)) - [[1], [2]]
    actions = action_scores_of_head(np.zeros((2, 1)), [(0, 0)], verb, noun, keep=1)
    write_epic_predictions(path, ["a", "b"], verb, noun, question_source="none", actions=actions)
    with np.load(path) as archive:
        content = dict(archive)
    np.savez(path, **{**content, name: value})
    with pytest.raises(DataError, match=words):
        read_epic_predictions(path, verbs=3, nouns=4)


def test_the_metric_judges_actions_by_the_head(kitchen):
    rows = read_rows(kitchen / "EPIC_100_validation.csv", verbs=12, nouns=16)[:4]
    actions = actions_of(rows)
    random = torch.Generator().manual_seed(0)
    verb, noun = torch.randn(4, 12, generator=random), torch.randn(4, 16, generator=random)
    joint = torch.full((4, len(actions)), -9.0)
    for number, row in enumerate(rows):
        joint[number, actions.index((row.verb_class, row.noun_class))] = 9.0
    metric = ActionMetric("recognition", rows, actions=actions)
    plain = ActionMetric("recognition", rows)
    for part in (slice(2, 4), slice(0, 2)):
        metric.update(verb[part], noun[part], torch.arange(4)[part], joint[part])
        plain.update(verb[part], noun[part], torch.arange(4)[part])
    found, other = metric.compute(), plain.compute()
    assert found["action"] == 1
    assert {name: found[name] for name in ("verb", "noun")} == {n: other[n] for n in ("verb", "noun")}


def test_stopped_and_resumed_equals_uninterrupted(tmp_path, run, train, kitchen, capsys):
    folder = tmp_path / "run"
    callback = "[{class_path: kill_callbacks.SignalAt, init_args: {step: 4, name: SIGTERM}}]"
    assert train(folder, "--trainer.callbacks", callback) == 143
    resumed = ["train", "--resume", str(folder), "--trainer.callbacks", "null"]
    capsys.readouterr()
    other = tmp_path / "other"
    other.mkdir()
    for path in kitchen.iterdir():
        (other / path.name).symlink_to(path)
    file = other / "EPIC_100_train.csv"
    lines = [line.split(",") for line in file.read_text().splitlines()]
    column = lines[0].index("verb_class")
    lines[1][column] = str((int(lines[1][column]) + 1) % 12)
    file.unlink()
    file.write_text("\n".join(map(",".join, lines)) + "\n")
    assert main([*resumed, "--data.root", str(other)]) == 3
    assert "resume with the train split that the run was started with" in capsys.readouterr().err
    assert main([*resumed, "--data.root", str(kitchen)]) == 0
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (folder, run))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_too_few_places_are_told_before_anything_is_written(tmp_path, train, capsys):
    assert train(tmp_path / "run", "--model.model_args.action_classes", "1") == 2
    assert "places for 1; give --model.model_args.action_classes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_run_without_the_head_goes_on_as_before(tmp_path, train, kitchen, capsys):
    assert train(tmp_path / "run", "--model.model_args.action_classes", "0", "--trainer.max_epochs", "1") == 0
    model = from_pretrained(tmp_path / "run" / "model")
    assert model.action_head is None
    report = evaluate_action(model, kitchen, progress=False, out=tmp_path)
    assert report.actions == 0
    assert read_epic_predictions(tmp_path / "validation.npz", verbs=12, nouns=16).actions is None


def test_predictions_say_the_heads_actions(run):
    model = from_pretrained(run / "model")
    actions = np.array(known_actions(model))
    with torch.inference_mode():
        output = model(torch.randn(2, 6, 64, generator=torch.Generator().manual_seed(0)))
    names = ClassNames(tuple(map(str, range(12))), tuple(map(str, range(16))))
    chances = output.action[:, : len(actions)].double().softmax(1)
    for said, wanted in zip(said_of(output, actions), chances, strict=True):
        order = wanted.argsort(descending=True)[:5].tolist()
        found = top_actions(said, names, 5)
        assert [(int(v), int(n)) for v, n, _ in found] == [tuple(actions[k]) for k in order]
        assert [p for *_, p in found] == pytest.approx(wanted[order].tolist())
        assert said.best == tuple(actions[order[0]])
        assert said.probability == pytest.approx(float(wanted.max()))
    (first, _) = said_of(output)
    assert first.action is None
    assert first.best == (int(output.verb[0].argmax()), int(output.noun[0].argmax()))


def test_of_the_recipes_only_the_small_kitchens_anticipation_has_the_head():
    folder = config_root() / "action"
    found = {path.stem for path in folder.glob("*.yaml") if "action_classes" in path.read_text()}
    assert found == {"demo_kitchen_anticipation"}
