"""`crossmamba models --count`."""

import json

import pytest

from crossmamba.cli import main


def test_counts_as_json(capsys):
    assert main(["models", "shmamba_small", "--count", "--seconds", "3", "--grid", "4", "4", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["name"] == "shmamba_small"
    assert found["parameters"] == found["trainable"] == found["receiving_gradient"] == 329_835
    (row,) = found["forward"]
    assert row["inputs"] == "audio (1, 3, 64), visual (1, 3, 4, 4, 64), question (1, 14)"
    assert row["multiply_adds"] == sum(row["by_kind"].values()) > 0
    assert row["by_kind"]["scan"] == 4 * 3 * 128 * (3 * 8 + 1)  # four blocks, three steps, inner width 128, 8 states
    assert row["uncounted"] == {}


def test_counts_as_text_at_the_usual_lengths(capsys):
    assert main(["models", "avst_small", "--count"]) == 0
    out = capsys.readouterr().out
    assert "receive gradient" in out
    assert "audio (1, 10, 64)" in out
    assert "audio (1, 60, 64)" in out


def test_segmentation_models_count_too(capsys):
    assert main(["models", "avs_mamba_small", "--count", "--seconds", "1", "--side", "32", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["forward"][0]["by_kind"].keys() == {"convolution", "matmul", "scan"}


@pytest.mark.parametrize(
    "wrong",
    [["models", "--seconds", "3"], ["models", "avst_small", "--count", "--seconds", "0"], ["models", "nothing"]],
)
def test_wrong_calls(wrong, capsys):
    assert main(wrong) == 2
    assert "crossmamba:" in capsys.readouterr().err
