"""The 13 columns: micro averages, order, format; which test file a published row fits (spec §4.1, §4.3, §5)."""

from __future__ import annotations

import math

import pytest
import torch

from crossmamba.data.qa.avqa_rows import QUESTION_TYPES
from crossmamba.data.qa.templates import TYPES
from crossmamba.errors import UsageError
from crossmamba.metrics.avqa import (
    AVQA_TYPES,
    COLUMNS,
    KINDS,
    AVQAMetric,
    ChoiceMetric,
    accuracy_table,
    format_table,
)
from crossmamba.metrics.avqa_split import SPLIT_SIZES, identify_split


def test_names_are_those_of_the_data() -> None:
    assert " ".join(COLUMNS) == "A-Cnt A-Cmp A V-Cnt V-Loc V Exist Loc Cnt Cmp Temp AV All"
    assert AVQA_TYPES == QUESTION_TYPES
    initials = {"Audio": "A", "Visual": "V", "Audio-Visual": ""}
    short = {"Counting": "Cnt", "Comparative": "Cmp", "Location": "Loc", "Existential": "Exist", "Temporal": "Temp"}
    for (modality, kind), name in zip(TYPES, KINDS, strict=True):
        assert f"{initials[modality]}-{short[kind]}".strip("-") == name


def questions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Type k has k + 1 questions of which k are right; none of type 8."""
    kind = torch.tensor([k for k in range(8) for _ in range(k + 1)])
    answer = torch.arange(len(kind)) % 42
    wrong = torch.tensor([n == 0 for k in range(8) for n in range(k + 1)])
    return (answer + wrong) % 42, answer, kind


def test_micro_averages_and_format() -> None:
    table = accuracy_table(*questions())
    assert table.correct == (0, 1, 1, 2, 3, 5, 4, 5, 6, 7, 0, 22, 28)
    assert table.total == (1, 2, 3, 3, 4, 7, 5, 6, 7, 8, 0, 26, 36)
    assert table.percent["A"] == pytest.approx(100 / 3)  # the mean of the two types would be 25
    assert math.isnan(table.percent["Temp"])
    header, line = format_table({"all": table}).splitlines()
    assert header.split() == list(COLUMNS)
    percent = "0.00 50.00 33.33 66.67 75.00 71.43 80.00 83.33 85.71 87.50 - 84.62 77.78"
    assert " ".join(line.split()) == f"all {percent}"
    assert header.index("All") + 3 == len(line)  # columns line up
    assert table.to_json()["Temp"] == {"percent": None, "correct": 0, "total": 0}


def test_the_metric_does_not_depend_on_batches_order_or_doubles() -> None:
    predicted, answer, kind = questions()
    index = torch.arange(len(kind))
    whole = AVQAMetric()
    whole.update(predicted, answer, kind)
    pieces = AVQAMetric()
    order = torch.randperm(len(kind), generator=torch.Generator().manual_seed(0))
    for part in [*order.split(5), order[:7]]:  # the last seven come twice, as from a distributed sampler
        pieces.update(predicted[part], answer[part], kind[part], index=index[part])
    assert whole.table() == pieces.table() == accuracy_table(predicted, answer, kind)
    result = pieces.compute()
    assert list(result) == list(COLUMNS)
    assert float(result["All"]) == pytest.approx(28 / 36)
    assert torch.isnan(result["Temp"])
    assert AVQAMetric().table().total == (0,) * 13


def test_four_choices() -> None:
    metric = ChoiceMetric()
    metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3]), torch.tensor([0, 3, 3]))
    table = metric.table()
    assert table.columns == (*AVQA_TYPES, "All")
    assert (table.percent["Which"], table.percent["Where"]) == (100, 50)
    assert (table.correct[-1], table.total[-1]) == (2, 3)
    with pytest.raises(UsageError, match="types"):
        ChoiceMetric(["Which", "Which"])


@pytest.mark.parametrize(
    ("predicted", "answer", "kind", "said"),
    [
        ([1], [1, 2], [0], "shapes"),
        ([1.0], [1], [0], "whole numbers"),
        ([1], [-1], [0], "without a known answer"),
        ([1], [1], [9], "from 9 to 9; allowed: 0 to 8"),
    ],
)
def test_wrong_tensors(predicted: list, answer: list, kind: list, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        AVQAMetric().update(torch.tensor(predicted), torch.tensor(answer), torch.tensor(kind))


# Published rows (spec §5), in our order of columns, and the test file that §4.3 found.
ROWS = {
    "AVSD": ("72.41 61.90 68.52 67.39 74.19 70.83 81.61 58.79 63.89 61.52 61.41 65.49 67.44", "json test"),
    "LAViT": ("74.36 64.56 70.73 69.39 75.65 72.56 81.21 59.33 64.91 64.22 63.23 66.64 68.93", "json test"),
    "AVST": ("78.18 67.05 74.06 71.56 76.38 74.00 81.81 64.51 70.80 66.01 63.23 69.54 71.52", "json test"),
    "LAVISH": ("82.09 65.56 75.97 78.98 81.43 80.22 81.71 66.13 75.51 63.77 67.96 71.26 74.46", "json test"),
    "DG-SCT": ("83.27 64.56 76.34 81.57 82.57 82.08 81.61 65.91 72.84 64.22 67.48 70.56 74.62", "json test"),
    "AVST 2": ("77.78 67.17 73.87 73.52 75.27 74.40 82.49 64.24 69.88 64.67 65.82 69.53 71.59", "json_update test"),
    "AVST 3": ("79.74 63.47 73.74 77.61 75.43 76.51 80.97 62.83 73.44 62.49 63.14 68.96 71.80", "json_update test"),
    "COCA": ("79.94 67.68 75.42 75.10 75.43 75.23 83.50 66.63 69.72 64.12 65.57 69.96 72.33", "json_update test"),
    "AV-Mamba": ("81.61 62.79 74.67 78.86 79.67 79.27 82.49 65.33 74.94 61.31 68.13 70.62 73.63", "json_update test"),
    "TSPM": ("84.07 64.65 76.91 82.29 84.90 83.61 82.19 71.85 76.21 65.76 71.17 73.51 76.79", "json_update test"),
    "QA-TIGER": ("84.86 67.85 78.58 83.96 86.29 85.14 83.10 72.50 78.58 63.94 69.59 73.74 77.62", "json_update test"),
    "MCCD": ("83.87 71.04 79.14 79.78 76.73 78.24 80.87 51.63 71.46 64.67 64.60 67.13 72.20", "json_update test"),
    "QSTar": ("85.64 72.05 80.63 83.46 84.90 84.17 83.81 72.72 79.76 70.03 72.38 75.98 78.98", "json_update test"),
    "PSTP-Net": ("73.97 65.59 70.91 77.15 77.36 77.26 76.18 71.80 72.23 71.79 69.00 72.57 73.52", None),
    "APL": ("82.40 70.71 78.09 76.52 82.74 79.69 82.99 66.68 73.29 64.76 65.95 70.96 74.53", None),
    "AMUSE": ("84.61 82.45 83.58 87.14 84.39 85.84 86.95 73.01 85.49 82.98 83.06 82.43 83.52", None),
}


@pytest.mark.parametrize("name", ROWS)
def test_published_rows_find_their_test_file(name: str) -> None:
    row, expected = ROWS[name]
    guess = identify_split(row)
    assert guess.name == expected
    if expected is not None:
        assert guess.best.fits == (12 if name == "QSTar" else 13)
        other = next(fit for fit in guess.fits if fit.name != expected)
        assert other.fits <= 7
        assert guess.best.wrong_averages == (("V",) if name in ("COCA", "QSTar") else ())
    assert identify_split([float(cell) for cell in row.split()]).name == expected


def test_whole_numbers_of_av_mamba() -> None:
    best = identify_split(ROWS["AV-Mamba"][0]).best
    correct = dict(zip(COLUMNS, best.correct, strict=True))
    assert [correct[name] for name in KINDS] == [830, 373, 944, 976, 815, 601, 948, 675, 560]  # spec §4.3
    assert correct["All"] == 6722
    other = identify_split(ROWS["AVST 3"][0]).best.correct
    assert [other[COLUMNS.index(name)] for name in KINDS] == [811, 377, 929, 924, 800, 578, 929, 688, 519]
    assert other[-1] == 6555


def test_exchanged_and_unknown_columns() -> None:
    cells = ROWS["AV-Mamba"][0].split()
    cells[7], cells[8] = cells[8], cells[7]
    guess = identify_split(" | ".join(cells))
    assert (guess.name, guess.best.swapped) == ("json_update test", True)
    assert "Cnt before Loc" in guess.text
    cm_1 = "- - 75.36 - - 77.99 - - - - - 70.51 73.35"  # AV-Mamba's Table 2, CM I: 6696 right (spec §1.3)
    assert identify_split(cm_1).name == "json_update test"
    assert identify_split(cm_1).best.correct[-1] == 6696
    stray = identify_split("- - 75.36 - - 78.74 - - - - - 70.51 73.35")  # another row's V: 1907 right
    assert stray.best.wrong_averages == ("All",)
    wrong = {"1 2 3": "3 values", "- " * 13: "fewer than 4", "x " * 13: "no number", "101 " * 13: "101"}
    for row, said in wrong.items():
        with pytest.raises(UsageError, match=said):
            identify_split(row)


def test_every_file_is_recognised_by_made_up_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    for name, sizes in SPLIT_SIZES.items():
        hits = [int(torch.randint(0, n + 1, (), generator=generator)) for n in sizes]
        kind = torch.repeat_interleave(torch.arange(9), torch.tensor(sizes))
        predicted = torch.cat([(torch.arange(n) < k).long() for n, k in zip(sizes, hits, strict=True)])
        table = accuracy_table(predicted, torch.ones_like(predicted), kind)
        guess = identify_split([f"{value:.2f}" for value in table.percent.values()])
        assert guess.name == name
        assert guess.best.correct == table.correct
