"""Whole concert sets on disk: layout, oracle, same bytes, resuming, refusals, ceilings, pictures and sounds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossmamba.data.logmel import clip_log_mel
from crossmamba.data.media import frames_at, probe, read_audio
from crossmamba.data.qa.annotations import read_questions
from crossmamba.data.qa.templates import COUNTS, TEMPLATES
from crossmamba.data.synth.music import (
    KINDS,
    SIZES,
    answer,
    ceilings,
    draw_concert_sheet,
    kinds_of_world,
    music_ceilings,
    plan_concert,
    read_truth,
    summarize_music_avqa,
    synthesize,
    synthesize_music_avqa,
)
from crossmamba.data.synth.music.instruments import sing
from crossmamba.data.synth.music.render import ConcertPicture, render_sound
from crossmamba.data.synth.music.scene import scene_rng
from crossmamba.data.synth.music.truth import truth_record
from crossmamba.errors import DataError, UsageError

SMALL = {"train": 6, "val": 1, "test": 3}
Record = dict[str, Any]


def make(out: Path, **changes: object) -> Path:
    arguments = {"videos": SMALL, "size": 32, "workers": 1, "progress": False, **changes}
    return synthesize_music_avqa(out, **arguments)  # type: ignore[arg-type]


def rows_of(root: Path, split: str) -> list[Record]:
    rows: list[Record] = json.loads((root / "json_update" / f"avqa-{split}.json").read_text(encoding="utf-8"))
    return rows


def digests(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.json")}


def no_video(job: Any, clip: Any) -> None:
    """Stands in for `_render_clip`: the truth alone, for sets of many scenes."""
    concert = synthesize._plan(job, clip)
    facts = {"video_id": clip.video_id, "split": clip.split}
    places = np.array([(thing.x, thing.y) for thing in concert.stage.instruments])
    centres = np.repeat(places[:, None], concert.seconds, 1)
    record = truth_record(concert, centres, np.zeros((len(concert.voices), concert.seconds)), facts)
    path = job.root / "scene_truth" / f"{clip.video_id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture(scope="module", autouse=True)
def _few_draws() -> Iterator[None]:
    """Ceilings from fewer draws than usual: quicker, and still with the right mean."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ceilings, "DRAWS", 50)
        patch.setattr(ceilings, "ENOUGH", 30)
        patch.setattr(ceilings, "MOST", 300)
        yield


@pytest.fixture(scope="module")
def concerts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("concerts"))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """160 train and 80 test scenes with questions and ceilings, without videos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesize, "_render_clip", no_video)
        return make(tmp_path_factory.mktemp("many"), videos={"train": 160, "val": 0, "test": 80})


def test_layout_and_rows_are_the_official_ones(concerts: Path) -> None:
    ids = []
    for split, (first, last) in {"train": (1, 6), "val": (7, 7), "test": (8, 10)}.items():
        rows = rows_of(concerts, split)
        assert rows
        for row in rows:
            assert list(row) == [
                "video_id",
                "question_id",
                "type",
                "question_content",
                "templ_values",
                "question_deleted",
                "anser",
            ]
            assert len(row["video_id"]) == 8
            assert first <= int(row["video_id"]) <= last, "splits have separate videos"
            template = next(t for t in TEMPLATES if t.text == row["question_content"])
            assert json.loads(row["type"]) == [template.modality, template.kind]
            assert isinstance(row["templ_values"], str)
            assert len(json.loads(row["templ_values"])) == len(template.slots)
        ids += [row["question_id"] for row in rows]
        parsed = read_questions(concerts, split)
        assert len(parsed) == len(rows)
        assert [question.answer for question in parsed] == [row["anser"] for row in rows]
    assert len(set(ids)) == len(ids)
    assert {path.stem for path in (concerts / "videos").iterdir()} == {f"{n:08d}" for n in range(1, 11)}
    assert {path.stem for path in (concerts / "scene_truth").iterdir()} == {f"{n:08d}" for n in range(1, 11)}


def test_videos_hold_the_scene(concerts: Path) -> None:
    for path in sorted((concerts / "videos").iterdir())[:3]:
        truth = read_truth(concerts, path.stem)
        info = probe(path)
        assert info.picture is not None
        assert info.sound is not None
        assert (info.picture.codec, info.sound.codec) == ("h264", "aac")
        frames = [shown.rgb() for shown in frames_at(path, [0.5, 9.5])]
        assert [frame.shape for frame in frames] == [(32, 32, 3)] * 2
        sound = read_audio(path)
        assert abs(len(sound) / 16000 - 10) < 0.1
        loudness = np.sqrt(np.mean(sound[: 16000 * 10].reshape(-1, 16000)[:10] ** 2, 1))
        told = np.sqrt(np.sum(np.square([voice["loudness"] for voice in truth.record["voices"]]), 0))
        assert np.abs(loudness - told).max() < 0.02, "the truth's loudness is that of the file"


def by_the_seconds(record: Record, text: str, values: list[str]) -> str | None:
    """An oracle of its own for some templates: from the truth file's seconds, not from the scene's plan."""
    seen, voices = record["instruments"], record["voices"]
    playing = sorted((i for i in seen if any(i["sounding"])), key=lambda i: i["sounding"].index(True))
    entries = [i["sounding"].index(True) for i in playing]
    match text:
        case "Is there a <Object> sound?":
            return "yes" if any(v["kind"] == values[0] and any(v["sounding"]) for v in voices) else "no"
        case "Is there a voiceover?":
            return "yes" if any(v["instrument"] is None for v in voices) else "no"
        case "How many musical instruments were heard throughout the video?":
            return COUNTS[sum(max(v["loudness"]) > 0 for v in voices)]
        case "How many instruments in the video did not sound from beginning to end?":
            return COUNTS[len(seen) - len(playing)]
        case "Is the <Object> in the video always playing?":
            return "yes" if all(next(i["sounding"] for i in seen if i["kind"] == values[0])) else "no"
        case "Where is the <FL> sounding instrument?":
            return str(playing[0 if values[0] == "first" else -1]["place"])
        case "What is the <TH> instrument that comes in?":
            rank = ["first", "second", "third", "fourth"].index(values[0])
            assert entries.count(entries[rank]) == 1
            return str(playing[rank]["kind"])
        case "Is the <Object> playing longer than the <Object>?":
            first, second = (sum(sum(v["sounding"]) for v in voices if v["kind"] == kind) for kind in values)
            return "yes" if first > second else "no"
        case "Is the instrument on the <LR> louder than the instrument on the <LR>?":
            first, second = (
                np.mean(np.square([x for i in seen if i["place"] == place for x in i["loudness"] if x]))
                for place in values
            )
            return "yes" if first > second else "no"
        case "What kind of instrument is the <LRer> instrument? ":
            side = min if values[0] == "leftest" else max
            return str(side(seen, key=lambda i: i["centre"][0][0])["kind"])
    return None


def test_an_oracle_with_the_full_truth_answers_everything(concerts: Path, many: Path) -> None:
    checked: Counter[str] = Counter()
    for root, split in ((concerts, "train"), (concerts, "test"), (many, "train")):
        for row in rows_of(root, split):
            truth, values = read_truth(root, row["video_id"]), json.loads(row["templ_values"])
            assert answer(truth.concert, row["question_content"], values) == row["anser"]
            if root == concerts or ("louder" not in row["question_content"] and "heard" not in row["question_content"]):
                own = by_the_seconds(truth.record, row["question_content"], values)
                assert own in (None, row["anser"]), row
                checked[row["question_content"]] += own is not None
    assert sum(n > 0 for n in checked.values()) >= 9, checked


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = {"train": 5, "val": 0, "test": 0}
    one = digests(make(tmp_path / "one", videos=videos))
    assert digests(make(tmp_path / "two", videos=videos, workers=2)) == one
    monkeypatch.setattr(synthesize, "_render_clip", no_video)
    other = digests(make(tmp_path / "other", videos=videos, seed=1))
    assert set(other) == set(one)
    assert all(other[name] != digest for name, digest in one.items() if "val" not in name and "-test" not in name)


def test_resumes_and_refuses_to_mix(tmp_path: Path) -> None:
    root = make(tmp_path / "set", videos={"train": 2, "val": 0, "test": 1})
    before = digests(root)
    kept = (root / "videos" / "00000001.mp4").stat().st_mtime_ns
    (root / "videos" / "00000002.mp4").unlink()
    (root / "scene_truth" / "00000002.json").unlink()
    (root / "json_update" / "avqa-train.json").unlink()
    make(root, videos={"train": 2, "val": 0, "test": 1})
    assert digests(root) == before
    assert (root / "videos" / "00000002.mp4").is_file()
    assert (root / "videos" / "00000001.mp4").stat().st_mtime_ns == kept
    with pytest.raises(UsageError, match=r"other settings \(seed\)"):
        make(root, videos={"train": 2, "val": 0, "test": 1}, seed=5)
    make(root, videos={"train": 1, "val": 0, "test": 0}, seed=5, overwrite=True)
    assert [path.name for path in (root / "videos").iterdir()] == ["00000001.mp4"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="did not make"):
        make(tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 16}, "32 to 2048"),
        ({"seconds": 9}, "10 to 60"),
        ({"seconds": (30, 20)}, "shortest first"),
        ({"seconds": (10, 61)}, "10 to 60"),
        ({"questions_per_video": 0}, "questions_per_video=0"),
        ({"instruments": 6}, "7 to 22"),
        ({"instruments": 23}, "7 to 22"),
        ({"split_by": "mood"}, "video, question"),
        ({"videos": {"training": 1}}, "train, val, test"),
        ({"videos": 0}, "1 or more"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "worker"),
    ],
)
def test_impossible_arguments(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


def test_damaged_sets_are_named(concerts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="00000099"):
        read_truth(concerts, "00000099")
    (tmp_path / "scene_truth").mkdir()
    (tmp_path / "scene_truth" / "1.json").write_text("{}")
    with pytest.raises(DataError, match="make the set again"):
        read_truth(tmp_path, "1")
    with pytest.raises(DataError, match="not the questions"):
        music_ceilings(tmp_path)
    with pytest.raises(DataError, match="not a set"):
        summarize_music_avqa(tmp_path)


def test_split_by_question_shares_videos_but_no_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesize, "_render_clip", no_video)
    monkeypatch.setattr(synthesize, "music_ceilings", lambda root, **options: {})
    root = make(tmp_path, videos={"train": 40, "val": 5, "test": 20}, split_by="question")
    rows = {split: rows_of(root, split) for split in ("train", "val", "test")}
    assert {r["video_id"] for r in rows["train"]} & {r["video_id"] for r in rows["test"]}
    keys = [(r["video_id"], r["question_content"], r["templ_values"]) for split in rows.values() for r in split]
    assert len(set(keys)) == len(keys)


def test_ceilings(many: Path) -> None:
    found = json.loads((many / "ceilings.json").read_text(encoding="utf-8"))
    assert found["questions"] == len(rows_of(many, "test"))
    question = {name: part["columns"] for name, part in found["question_only"].items()}
    picture, sound = (found[name]["realised"]["columns"] for name in ("picture_only", "sound_only"))
    assert list(picture) == found["columns"]
    assert question["from_train"]["All"] <= 45
    assert question["on_itself"]["All"] <= 55
    assert picture["V"] == 100
    assert sound["A"] == 100
    assert question["on_itself"]["All"] < min(picture["All"], sound["All"])
    for one in (
        picture,
        sound,
        found["picture_only"]["expected"]["columns"],
        found["sound_only"]["expected"]["columns"],
    ):
        assert 40 <= one["AV"] <= 80, "one sense alone leaves room on audio-visual questions"
    for name in ("picture_only", "sound_only"):
        gap = found[name]["realised"]["columns"]["All"] - found[name]["expected"]["columns"]["All"]
        assert abs(gap) < 4 * found[name]["realised_standard_error"], "the posterior is right about itself"


def test_the_picture_has_no_sign_of_the_sound() -> None:
    concert = plan_concert(0, "train", 4, kinds_of_world(8))
    silent = replace(concert, voices=())
    first, second = (ConcertPicture(c, 32, scene_rng(0, "train", 4, 1)).at(3.5) for c in (concert, silent))
    assert (first == second).all()


def test_an_offscreen_voice_is_heard() -> None:
    concert = next(
        c
        for c in (plan_concert(0, "train", i, kinds_of_world(8)) for i in range(200))
        if c.offscreen and len(c.voices) == 1
    )
    sound, loudness = render_sound(concert, np.random.default_rng(0))
    rms = np.sqrt(np.mean(sound.reshape(-1, 16000) ** 2, 1))
    assert rms[loudness[0] > 0].min() > 0.01
    assert rms[loudness[0] == 0].max(initial=0) < 0.002


def test_all_voices_can_be_told_apart() -> None:
    """The nearest mean of three loudest spectra, over rhythms, finds kind and size of another voice."""

    def feature(kind: str, size: str, rate: float, seed: int) -> np.ndarray:
        wave = sing(kind, size, rate, 0.04, 1, np.random.default_rng(seed))
        return np.asarray(clip_log_mel(wave, 1)).reshape(-1, 64).max(0)

    names = [(kind.name, size) for kind in KINDS for size in SIZES]
    means = np.stack([np.mean([feature(*n, rate, s) for s, rate in enumerate((1.5, 3, 6))], 0) for n in names])
    found = [int(np.argmin(((means - feature(*name, 3, 10)) ** 2).sum(1))) for name in names]
    assert [names[k] for k in found[:16]] == names[:16], "the eight of the default world"
    assert np.mean(np.array(found) == np.arange(len(names))) >= 0.95


def test_all_looks_differ() -> None:
    assert len({(kind.shape, kind.texture) for kind in KINDS}) == len(KINDS)
    assert len({kind.shape for kind in KINDS[:8]}) == 8


def test_contact_sheet(concerts: Path, tmp_path: Path) -> None:
    assert draw_concert_sheet(concerts, "train", tmp_path / "sheet.png", videos=2).stat().st_size > 10_000
    with pytest.raises(DataError, match="fewer than"):
        draw_concert_sheet(concerts, "val", tmp_path / "no.png", first=50)
