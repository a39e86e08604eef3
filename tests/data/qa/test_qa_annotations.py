"""Annotation files are read exactly as they are, and what is wrong is named with file and row (spec §3.1, §3.2, §8)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from qa_toy import VIDEOS, contradictory_rows, rows_of, save_rows, version_2_rows

from crossmamba.data.qa.annotations import QuestionFile, in_subset, is_synthetic, read_questions
from crossmamba.data.qa.keys import head_or_tail, row_keys
from crossmamba.data.qa.splits import split_by_video, split_of_video, video_overlap
from crossmamba.data.qa.templates import ANSWERS, TEMPLATES, answers_of, template_of
from crossmamba.data.qa.vocabulary import WORDS
from crossmamba.errors import DataError, UsageError


def test_every_template_is_read(tmp_path: Path) -> None:
    save_rows(tmp_path / "json_update" / "avqa-val.json", rows_of())
    file = read_questions(tmp_path, "val")
    assert isinstance(file, QuestionFile)
    assert len(file) == 33
    for row, template in zip(file, TEMPLATES, strict=True):
        assert (row.modality, row.kind, row.template) == (template.modality, template.kind, template.text)
        assert len(row.values) == len(template.slots)
        assert not {"?", "？"} & set("".join(row.words))
        assert set(row.words) <= set(WORDS)
        assert ANSWERS[row.answer_index] == row.answer
    assert file[0].row == 1
    assert file.videos == tuple(sorted(VIDEOS))
    assert file[0].video_id == "00000001"  # leading zeros stay


@pytest.mark.parametrize("place", ["json_update/avqa-test.json", "data/json_update/avqa-test.json", "avqa-test.json"])
def test_files_are_found(tmp_path: Path, place: str) -> None:
    path = save_rows(tmp_path / place, rows_of())
    assert read_questions(tmp_path, "test").path == path
    assert len(read_questions(path)) == 33


def test_absent_files_and_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split 'val'.*json_update/avqa-val\.json"):
        read_questions(tmp_path, "val")
    with pytest.raises(DataError, match="no such annotation file"):
        read_questions(tmp_path / "none.json")
    with pytest.raises(UsageError, match="train, val, test"):
        read_questions(tmp_path, "valid")
    with pytest.raises(UsageError, match="version"):
        read_questions(tmp_path, "val", "v3")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="duplicates"):
        read_questions(tmp_path, "val", duplicates="first")  # type: ignore[arg-type]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "answer": ({"anser": "vioiln"}, "'vioiln' is none of the 42; near it: violin"),
    "no answer": ({"anser": None}, "none of the 42"),
    "template": ({"question_content": "How many sounding <Object> in the video?"}, "none of the 33 templates; near it"),
    "type": ({"type": '["Audio", "Location"]'}, "type is"),
    "type of another template": ({"type": '["Visual", "Counting"]'}, "is a question of type Audio-Visual Counting"),
    "type that is no JSON": ({"type": "Audio-Visual"}, "not JSON inside a string"),
    "values": ({"templ_values": '["violni"]'}, "'violni' .* outside the 93 words; near it: violin"),
    "no values": ({"templ_values": "[]"}, "0 values"),
    "a real list": ({"templ_values": ["violin"]}, "only v2.0 has lists"),
    "video id": ({"video_id": 93}, "leading zeros"),
    "path": ({"video_id": "../../x"}, "plain path component"),
    "question id": ({"question_id": "7"}, "question_id is '7'"),
    "null id": ({"question_id": None}, "'v2'"),
    "deleted": ({"question_deleted": 1}, "question_deleted is 1"),
    "extra key": ({"person": 2}, "'person'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_faulty_row_is_named(case: str, tmp_path: Path) -> None:
    change, said = WRONG[case]
    rows = rows_of()
    sounding = next(n for n, row in enumerate(rows) if row["question_content"].endswith("？"))
    rows[sounding] |= change
    path = save_rows(tmp_path / "avqa-val.json", rows)
    with pytest.raises(DataError, match=said) as error:
        read_questions(tmp_path, "val")
    assert str(path) in str(error.value)
    assert f"row {sounding + 1}" in str(error.value)


@pytest.mark.parametrize("key", ["video_id", "question_id", "type", "question_content", "templ_values", "anser"])
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    rows = rows_of()
    del rows[2][key]
    save_rows(tmp_path / "avqa-val.json", rows)
    with pytest.raises(DataError, match=f"row 3.*no key '{key}'"):
        read_questions(tmp_path, "val")


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "[1]", '"x"', "[" * 100000])
def test_files_that_are_no_list_of_rows(text: str, tmp_path: Path) -> None:
    (tmp_path / "avqa-val.json").write_text(text)
    with pytest.raises(DataError, match=r"avqa-val\.json"):
        read_questions(tmp_path, "val")


def test_rows_without_an_answer_for_prediction_only(tmp_path: Path) -> None:
    rows = rows_of()
    del rows[0]["anser"]
    save_rows(tmp_path / "avqa-test.json", rows)
    file = read_questions(tmp_path, "test", require_answers=False)
    assert (file[0].answer, file[0].answer_index) == (None, -1)


def test_duplicate_ids_of_json(tmp_path: Path) -> None:
    save_rows(tmp_path / "json" / "avqa-val.json", contradictory_rows())
    with pytest.warns(UserWarning, match="2 question ids occur more than once, [12] with contradictory answers.*kept"):
        kept = read_questions(tmp_path, "val", "json")
    assert len(kept) == 35
    assert len(kept.duplicates) == 2
    assert kept.contradictory >= 1
    with pytest.warns(UserWarning, match="4 rows dropped"):
        dropped = read_questions(tmp_path, "val", "json", duplicates="drop")
    assert (len(dropped), dropped.dropped) == (31, 4)
    with pytest.raises(DataError, match="json_update"):
        read_questions(tmp_path, "val", "json", duplicates="error")
    save_rows(tmp_path / "json_update" / "avqa-val.json", contradictory_rows())
    with pytest.raises(DataError, match="2 question ids"):
        read_questions(tmp_path, "val")  # there ids are unique: a duplicate is damage


def test_version_2(tmp_path: Path) -> None:
    save_rows(tmp_path / "v2" / "avqa-test.json", version_2_rows())
    file = read_questions(tmp_path, "test", "v2")
    assert file[0].question_id is None
    assert file[1].question_id is None
    assert len(file[2].values) == len(TEMPLATES[2].slots)
    assert file[4].extra["person"] == 2
    assert file[6].video_id.endswith("_flip")
    assert file[7].answer == "ten"
    assert row_keys(file)[:3] == ["row:1", "row:2", str(file[2].question_id)]
    with pytest.raises(DataError, match="question_id"):
        read_questions(tmp_path / "v2" / "avqa-test.json")


def rephrased(question_id: int, text: str, **more: Any) -> dict[str, Any]:
    return {
        "video_id": "00000001",
        "question_id": question_id,
        "type": '["Audio", "Counting"]',
        "question_content": text,
        "templ_values": "[]",
        "question_deleted": 0,
        "anser": "yes",
        **more,
    }


def test_rephrasings_with_words_outside_the_93(tmp_path: Path) -> None:
    head = [rephrased(7, "Can you hear a flute, by chance?"), rephrased(7, "Does a flute play?")]
    tail = [rephrased(9, "Was it a tuba that you heard")]
    for name, rows in (("headtail", [head[0], tail[0], head[1]]), ("head", head), ("tail", tail)):
        save_rows(tmp_path / "r" / f"avqa-test-{name}.json", rows)
    file = read_questions(tmp_path, "test", "r")
    assert file[0].words == ("Can", "you", "hear", "a", "flute,", "by", "chance")
    assert file[1].words[-1] == "heard"  # no mark, so no letter is lost
    assert row_keys(file) == ["7#1", "9", "7#2"]
    assert head_or_tail(file) == ["head", "tail", "head"]
    save_rows(tmp_path / "r" / "avqa-test-tail.json", [rephrased(10, "Strange?")])
    with pytest.raises(DataError, match="rows 2 of it are in neither"):
        head_or_tail(file)


def test_fortisavqa_rows_carry_their_group(tmp_path: Path) -> None:
    rows = [rephrased(1, "Is it?", split="head", x=0), rephrased(2, "Is it not?", split="tail", x=1)]
    file = read_questions(save_rows(tmp_path / "f.json", rows), version="r")
    assert head_or_tail(file) == ["head", "tail"]
    assert file[0].extra == {"split": "head", "x": 0}


def test_real_and_synthetic_videos(tmp_path: Path) -> None:
    for name in ("va00000003", "vv00000001", "sa00000001", "eva00000001", "evv00000001", "esa00000001"):
        assert is_synthetic(name)
    for name in ("00000093", "va0000003", "-aB_c123XyZ", "vax0000003"):
        assert not is_synthetic(name)
    rows = list(read_questions(save_rows(tmp_path / "a.json", rows_of())))
    real, synthetic = in_subset(rows, "real"), in_subset(rows, "synthetic")
    assert len(real) + len(synthetic) == 33
    assert {row.video_id for row in synthetic} == {"va00000003"}
    with pytest.raises(UsageError, match="subset"):
        in_subset(rows, "fake")  # type: ignore[arg-type]


def test_split_by_video_shares_no_video(tmp_path: Path) -> None:
    rows = list(read_questions(save_rows(tmp_path / "a.json", rows_of())))
    dealt = {name: split_by_video(rows, name) for name in ("train", "val", "test")}
    assert sum(map(len, dealt.values())) == 33
    assert set(video_overlap(dealt).values()) == {0}
    assert video_overlap({"a": rows, "b": rows[:1]}) == {("a", "b"): 1}
    shares = Counter(split_of_video(f"{number:08d}") for number in range(5000))
    assert [round(shares[name] / 5000, 1) for name in ("train", "val", "test")] == [0.7, 0.1, 0.2]
    assert split_of_video("abc_flip") == split_of_video("abc")


def annotations(name: str) -> Path:
    """A real annotation file (spec §8): `CROSSMAMBA_MUSIC_AVQA`, or music_avqa/ in `CROSSMAMBA_REAL_DATA`."""
    folders = [os.environ.get("CROSSMAMBA_MUSIC_AVQA")]
    if real := os.environ.get("CROSSMAMBA_REAL_DATA"):
        folders.append(f"{real}/music_avqa")
    for folder in filter(None, folders):
        for place in (Path(folder) / name, Path(folder) / "data" / name, Path(folder) / Path(name).name):
            if place.is_file() and (place.parent.name == "json") == name.startswith("json/"):
                return place
    pytest.skip(f"{name} is not there; set CROSSMAMBA_MUSIC_AVQA to the folder that holds json_update/ and json/")


def test_real_val_file() -> None:
    file = read_questions(annotations("json_update/avqa-val.json"))
    counts = Counter(row.type_index for row in file)
    assert len(file) == 4568
    assert [counts[n] for n in range(9)] == [511, 295, 600, 613, 495, 461, 633, 549, 411]
    assert len(file.videos) == 3815
    assert len({row.answer for row in file}) == 41
    assert not file.duplicates
    assert (max(len(row.words) for row in file), min(len(row.words) for row in file)) == (14, 4)
    words = {word for row in file for word in row.words}
    assert set(WORDS[1:]) - words == {"fourth", "fifth"}  # in test and train_fake only
    assert words <= set(WORDS)
    assert {row.template for row in file} == {template.text for template in TEMPLATES}
    for row in file:
        template = template_of(row.template)
        assert template is not None
        assert row.answer in answers_of(template.answers)


@pytest.mark.parametrize(
    ("name", "rows", "videos", "counts", "contradictory"),
    [
        ("json_update/avqa-test.json", 9129, 6399, (1017, 594, 1197, 1225, 988, 920, 1265, 1101, 822), 0),
        ("json/avqa-test.json", 9185, 6399, (1022, 601, 1199, 1228, 995, 927, 1274, 1115, 824), 55),
        ("json/avqa-val.json", 4595, 3815, (515, 299, 600, 614, 499, 462, 635, 557, 414), 27),
    ],
)
@pytest.mark.filterwarnings("ignore:.*question ids occur more than once")
def test_real_files(name: str, rows: int, videos: int, counts: tuple[int, ...], contradictory: int) -> None:
    file = read_questions(annotations(name), version="json" if name.startswith("json/") else "json_update")
    found = Counter(row.type_index for row in file)
    assert (len(file), len(file.videos)) == (rows, videos)
    assert tuple(found[n] for n in range(9)) == counts
    assert len(file.duplicates) == contradictory
    assert len({row.answer for row in file}) == 41
