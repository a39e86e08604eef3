"""Annotation files, class tables and the frame rule; the real files where they are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from crossmamba.data.epic.annotations import parse_rows, read_rows, seconds_of
from crossmamba.data.epic.classes import action_list, read_classes, read_epic_classes, read_ids
from crossmamba.data.epic.frames import frame_name, frame_range, frame_rate
from crossmamba.errors import DataError, UsageError
from tests.data.epic.epic_toy import HEADER, csv_rows, write_annotations, write_csv
from tests.metrics.epic_truth import real_folder

COLUMN = {name: place for place, name in enumerate(HEADER.split(","))}


def test_a_row(tmp_path: Path) -> None:
    row = read_rows(write_annotations(tmp_path) / "EPIC_100_train.csv")[2]
    assert (row.narration_id, row.participant_id, row.video_id) == ("P01_01_2", "P01", "P01_01")
    assert (row.start_timestamp, row.stop_timestamp, row.narration_timestamp) == (2.5, 6.0, 2.5)
    assert (row.start_frame, row.stop_frame) == (150, 360)
    assert (row.verb, row.verb_class, row.noun, row.noun_class) == ("cut", 2, "plate", 0)
    assert (row.all_nouns, row.all_noun_classes, row.line) == (("plate",), (0,), 4)
    assert row.seconds == 3.5


def test_the_test_file_has_no_labels(tmp_path: Path) -> None:
    rows = read_rows(write_annotations(tmp_path) / "EPIC_100_test_timestamps.csv")
    assert not any(row.labelled for row in rows)
    with pytest.raises(UsageError, match="P01_01_0 has no classes"):
        action_list(rows)


def test_times_are_decimals() -> None:
    assert seconds_of("00:00:00.560") == 0.56
    assert seconds_of("00:00:01.05") == 1.05  # a rule that counts hundredths as written would agree; this one not:
    assert seconds_of("00:00:01.5") == 1.5
    assert seconds_of("01:02:03.45") == 3723.45
    for bad in ("nan", "", "1.5", "00:61:00.0", "00:00:60.0", "-00:00:01.0", "00:00:01,5"):
        with pytest.raises(ValueError, match="no time"):
            seconds_of(bad)


@pytest.mark.parametrize(
    ("column", "value", "kind", "message"),
    [
        ("start_timestamp", "NaN", "time", "start_timestamp is 'NaN'; only narration_timestamp may be NaN"),
        ("stop_timestamp", "", "time", "stop_timestamp is 'empty'"),
        ("stop_timestamp", "00:00:00.00", "time", "stops at 0.0 s, not after its start"),
        ("narration_timestamp", "soon", "time", "narration_timestamp 'soon' is no time"),
        ("verb_class", "97", "unknown class", "verb_class is 97; the class table has 0 to 96"),
        ("noun_class", "300", "unknown class", "noun_class is 300; the class table has 0 to 299"),
        ("noun_class", "", "number", "noun_class is 'empty'; expected a whole number"),
        ("verb_class", "-1", "number", "verb_class is '-1'"),
        ("start_frame", "0", "frames", "start_frame 0 and stop_frame"),
        ("all_noun_classes", "[0", "list", "all_noun_classes is"),
        ("all_noun_classes", "['0']", "list", "expected a list of int"),
        ("video_id", "../P01_01", "name", "cannot be used as a file name"),
        ("video_id", "P02_01", "name", "is not one of participant 'P01'"),
        ("narration_id", "P01_01_0", "duplicate id", "already that of line 2"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, column: str, value: str, kind: str, message: str) -> None:
    rows = csv_rows()
    rows[1][COLUMN[column]] = value
    path = write_csv(tmp_path / "a.csv", rows)
    good, problems = parse_rows(path)
    assert len(good) == len(rows) - 1
    assert [(problem.line, problem.kind) for problem in problems] == [(3, kind)]
    name = value if column == "narration_id" else "P01_01_1"
    with pytest.raises(DataError, match=f"a.csv:3: narration {name}: .*{message}"):
        read_rows(path)


def test_a_missing_narration_time_is_none(tmp_path: Path) -> None:
    rows = csv_rows()
    rows[0][COLUMN["narration_timestamp"]] = ""
    rows[1][COLUMN["narration_timestamp"]] = "nan"
    read = read_rows(write_csv(tmp_path / "a.csv", rows))
    assert [row.narration_timestamp for row in read[:3]] == [None, None, 2.5]


def test_files_that_are_no_annotations(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such annotation file"):
        read_rows(tmp_path / "a.csv")
    with pytest.raises(DataError, match="pickles can run code"):
        read_rows(tmp_path / "a.pkl")
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(DataError, match="empty"):
        read_rows(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(HEADER + "\n")
    with pytest.raises(DataError, match="no rows"):
        read_rows(tmp_path / "a.csv")
    write_csv(tmp_path / "a.csv", csv_rows(), HEADER.replace("start_frame", "begin"))
    with pytest.raises(DataError, match="no column start_frame"):
        read_rows(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(HEADER + "\nP01_01_0,P01\n")
    with pytest.raises(DataError, match=r"a\.csv:2: the row does not have the header's 15 cells"):
        read_rows(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a csv"):
        read_rows(tmp_path / "a.csv")


def test_rulstm_files(tmp_path: Path) -> None:
    (tmp_path / "training.csv").write_text("0, P01_01, 4, 101, 3, 3, 5\n1, P01_101, 90, 123, 0, 2, 7\n")
    first, second = read_rows(tmp_path / "training.csv")
    assert first.narration_id == "0"
    assert first.start_timestamp == pytest.approx(4 / 30)
    assert (first.verb_class, first.noun_class, first.participant_id) == (3, 3, "P01")
    assert (second.start_frame, second.stop_frame) == (150, 205)
    (tmp_path / "training.csv").write_text("0, P01, 4, 101, 3, 3, 5\n")
    with pytest.raises(DataError, match=r"training\.csv:1: narration 0"):
        read_rows(tmp_path / "training.csv")


def test_rates_follow_the_video_number() -> None:
    assert (frame_rate("P01_01"), frame_rate("P01_101")) == (60, 50)
    assert frame_name(7) == "frame_0000000007.jpg"
    for bad in ("P01", "P01_1", "P01_1001", "x"):
        with pytest.raises(DataError, match="ids have the form"):
            frame_rate(bad)


def test_class_files(tmp_path: Path) -> None:
    classes = read_epic_classes(write_annotations(tmp_path))
    assert classes.verbs.keys == ("take", "turn-on", "cut")
    assert classes.nouns.number("box:lunch-x") == 1
    assert (classes.tail_verbs, classes.tail_nouns, classes.unseen) == ({1}, {1}, {"P02"})
    with pytest.raises(DataError, match="'fly' is no instance of any verb class"):
        classes.verbs.number("fly")
    (tmp_path / "EPIC_100_tail_verbs.csv").write_text("verb\n3\n")
    with pytest.raises(DataError, match="'3' is no class number; the class table has 0 to 2"):
        read_epic_classes(tmp_path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["1,take,['take'],a"], r"a\.csv:2: id '1'; expected 0"),
        (["0,take,['take'],a", "1,take,['x'],a"], "also class 0"),
        (["0,take,['take'],a", "1,put,['take'],a"], r"'take' is in class 0 \(take\) and in put"),
        (["0,take,take,a"], "no list of words"),
        (["0,take,[1],a"], "no list of words"),
        (["0,take"], "2 cells; the header has 4"),
        ([], "no rows"),
    ],
)
def test_wrong_class_tables(tmp_path: Path, lines: list[str], message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["id,key,instances,category", *lines]) + "\n")
    with pytest.raises(DataError, match=message):
        read_classes(path, "verb")
    with pytest.raises(DataError, match="no column verb"):
        read_ids(path, "verb")


def test_actions_are_sorted_as_texts(tmp_path: Path) -> None:
    rows = csv_rows()
    for k, (verb, noun) in enumerate([(2, 0), (10, 0), (10, 0), (1, 9), (1, 10)]):
        rows[k][COLUMN["verb_class"]], rows[k][COLUMN["noun_class"]] = str(verb), str(noun)
    actions = action_list(read_rows(write_csv(tmp_path / "a.csv", rows))[:5])
    assert actions == [(10, 0), (1, 10), (1, 9), (2, 0)]


def test_the_real_files() -> None:
    folder = real_folder()
    rows, classes = read_rows(folder / "EPIC_100_validation.csv"), read_epic_classes(folder)
    assert len(rows) == 9668
    assert len({row.video_id for row in rows}) == 138
    assert len({row.participant_id for row in rows}) == 32
    assert sum(row.narration_timestamp is None for row in rows) == 70
    assert sum(len(row.all_nouns) > 1 for row in rows) == 1602
    assert len(action_list(rows)) == 1352
    assert (len(classes.verbs), len(classes.nouns)) == (97, 300)
    assert sum(map(len, classes.verbs.instances)) == 974
    assert sum(map(len, classes.nouns.instances)) == 2760
    assert (len(classes.tail_verbs or ()), len(classes.tail_nouns or ())) == (86, 228)
    assert classes.unseen == {"P18", "P32"}
    odd = {row.verb for row in rows if row.verb not in classes.verbs.instances[row.verb_class or 0]}
    assert odd == {"bring-into"}
    assert all(row.noun in classes.nouns.instances[row.noun_class or 0] for row in rows)


def test_the_frame_rule_holds_on_every_real_row() -> None:
    rows = read_rows(real_folder() / "EPIC_100_validation.csv")
    assert [row.narration_id for row in rows if frame_range(row) != (row.start_frame, row.stop_frame)] == []
