"""MambaVL on RULSTM's rows and frame features, from `crossmamba train` to `eval`. Skipped without the package lmdb."""

import json
import shutil

import numpy as np
import pytest
from action_toy import FILES, TOKENS, make_set

from crossmamba.cli import main
from crossmamba.data.epic.annotations import read_rows

lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed: pip install lmdb")
WIDTHS = {"rgb": 24, "obj": 8}
THEIRS = ("--data.frames", "11", "--data.observed", "2.5")  # what RULSTM sees to anticipate at 1 s


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A tiny kitchen as RULSTM would publish it: no official rows, a vector for every frame of 30 a second."""
    kitchen = make_set(tmp_path_factory.mktemp("kitchen") / "set")
    root = tmp_path_factory.mktemp("rulstm")
    for path in kitchen.glob("EPIC_100_*_classes.csv"):
        shutil.copy(path, root)
    ends: dict[str, int] = {}
    for split, name in (("train", "training"), ("validation", "validation")):
        lines = []
        for row in read_rows(kitchen / f"{FILES[split]}.csv", verbs=12, nouns=16):
            first, last = int(30 * row.start_timestamp), int(30 * row.stop_timestamp)
            labels = (row.verb_class, row.noun_class, 16 * row.verb_class + row.noun_class)
            lines.append([row.narration_id, row.video_id, first, last, *labels])
            ends[row.video_id] = max(ends.get(row.video_id, 0), last)
        (root / f"{name}.csv").write_text("".join(",".join(map(str, line)) + "\n" for line in lines))
    random = np.random.default_rng(0)
    for name, width in WIDTHS.items():
        with lmdb.open(str(root / name), map_size=2**28) as store, store.begin(write=True) as writing:
            for video, last in ends.items():
                for number in range(1, last + 1):
                    value = random.standard_normal(width).astype(np.float32)
                    writing.put(f"{video}_frame_{number:010d}.jpg".encode(), value.tobytes())
    return root


@pytest.mark.parametrize(
    ("config", "video", "options"),
    [
        ("demo_kitchen_anticipation", "rgb+obj", THEIRS),
        ("demo_kitchen_tokens", "rgb", ("--data.num_workers", "2", "--data.mode", "dense")),
    ],
)
def test_trained_and_scored(tmp_path, root, capsys, config, video, options):
    width = str(sum(WIDTHS[name] for name in video.split("+")))
    common = ["--config", f"action/{config}", "--data.root", str(root), "--data.video", video]
    wide = ["--model.model_args.video_dim", width]
    run = tmp_path / "run"
    assert main(["train", *common, *wide, *TOKENS.split(), *options, "--run.dir", str(run)]) == 0
    capsys.readouterr()
    assert main(["eval", str(run), "--data.root", str(root), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["task"] == ("anticipation" if config.endswith("anticipation") else "recognition")
    assert said["segments"] == len(read_rows(root / "validation.csv"))
    assert all(0 <= said["scores"]["none"]["accuracy"][slot] <= 1 for slot in ("verb", "noun", "action"))
    assert said["prior"]


def test_tokens_of_another_width_are_refused_before_anything_is_written(tmp_path, root, capsys):
    common = ["--config", "action/demo_kitchen_tokens", "--data.root", str(root), "--data.video", "rgb"]
    assert main(["train", *common, *TOKENS.split(), "--run.dir", str(tmp_path / "run")]) == 2
    assert "the stored tokens have width 24 and the model takes 64" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
