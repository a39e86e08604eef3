"""The data set: items, determinism, anticipation, questions, and errors that name file, line and narration."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from crossmamba.data.epic.annotations import read_rows
from crossmamba.data.epic.crops import AVION_MEAN, AVION_STD, ClipTransform
from crossmamba.data.epic.dataset import EpicDataset, read_question_texts
from crossmamba.data.epic.randaug import OPERATIONS, RandAugment
from crossmamba.errors import DataError, UsageError
from tests.data.epic.epic_toy import (
    FPS,
    SEGMENTS,
    csv_rows,
    number_of,
    write_annotations,
    write_csv,
    write_cuts,
    write_frames,
    write_videos,
)

SMALL = ClipTransform(size=24)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_videos(write_annotations(tmp_path_factory.mktemp("epic")))


class Letters:
    """Encodes a text as the numbers of its first four letters."""

    def encode(self, text: str) -> Tensor:
        return torch.tensor([ord(letter) for letter in text[:4].ljust(4)])


def test_an_item(root: Path) -> None:
    data = EpicDataset(root, "validation", frames=4, transform=SMALL)
    assert len(data) == 10
    item = data[2]
    assert set(item) == {"video", "verb", "noun", "index"}
    assert item["video"].shape == (3, 4, 24, 24)
    assert item["video"].dtype == torch.float32
    assert (int(item["verb"]), int(item["noun"]), int(item["index"])) == (2, 0, 2)
    assert data.rows[2].narration_id == "P01_01_2"
    assert (len(data.verbs or ()), data.question_source) == (3, "none")
    assert -1.01 < float(item["video"].min()) < float(item["video"].max()) < 1.01
    assert torch.equal(data[2]["video"], item["video"])
    with pytest.raises(IndexError):
        data[10]


def test_the_test_split_has_no_labels(root: Path) -> None:
    item = EpicDataset(root, "test", frames=2, transform=SMALL)[0]
    assert (int(item["verb"]), int(item["noun"])) == (-1, -1)


def test_recognition_sees_its_segment_only(root: Path) -> None:
    for mode in ("dense", "uniform"):
        for split in ("train", "val"):
            data = EpicDataset(root, split, mode=mode, transform=SMALL)
            for row in data.rows:
                rng = np.random.default_rng(1) if split == "train" else None
                numbers = [number_of(picture) for picture in data.read(row, rng)]
                assert int(row.start_timestamp * FPS) <= min(numbers)
                assert max(numbers) < row.stop_timestamp * FPS
                assert numbers == sorted(numbers)


def test_anticipation_never_sees_past_the_gap(root: Path, tmp_path: Path) -> None:
    frames = write_frames(write_annotations(tmp_path))
    for place, rate in ((root, {"P01_01": FPS, "P02_101": FPS}), (frames, {"P01_01": 60, "P02_101": 50})):
        data = EpicDataset(place, "val", task="anticipation", transform=SMALL)
        assert data.clamped == ["P01_01_0", "P01_01_1", "P02_101_0", "P02_101_1"]
        for row in data.rows:
            numbers = [number_of(picture) for picture in data.read(row)]
            if row.narration_id not in data.clamped:
                assert max(numbers) <= (row.start_timestamp - 1) * rate[row.video_id] + 1e-6
        seen = [number_of(picture) for picture in data.read(data.rows[4])]  # starts at 8 s
        assert seen[-1] == 7 * rate["P01_01"]
        assert seen[0] == int((7 - 64 / 30) * rate["P01_01"])


def test_training_draws_depend_on_seed_epoch_and_index_only(root: Path) -> None:
    def make(**options: int) -> EpicDataset:
        return EpicDataset(root, "train", frames=3, transform=SMALL, **options)  # type: ignore[arg-type]

    first, again = make(), make()
    again[7]
    assert torch.equal(first[2]["video"], again[2]["video"])
    assert torch.equal(pickle.loads(pickle.dumps(first))[2]["video"], first[2]["video"])
    assert not torch.equal(make(seed=1)[2]["video"], first[2]["video"])
    again.set_epoch(1)
    assert not torch.equal(again[2]["video"], first[2]["video"])


def test_the_cache_changes_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, options in (
        ("val", {"views": 2, "crops": 3}),
        ("train", {"task": "anticipation"}),
        ("train", {"task": "recognition"}),
    ):
        plain = EpicDataset(root, split, frames=3, transform=SMALL, **options)  # type: ignore[arg-type]
        kept = EpicDataset(root, split, frames=3, transform=SMALL, cache_in_memory=True, **options)  # type: ignore[arg-type]
        for epoch in (0, 1):
            plain.set_epoch(epoch)
            kept.set_epoch(epoch)
            for i in (0, 5, 6, 7):
                assert torch.equal(plain[i]["video"], kept[i]["video"])
    data = EpicDataset(root, "train", frames=3, transform=SMALL, task="anticipation", cache_in_memory=True)
    first = data[4]["video"]
    monkeypatch.setattr(data, "read", lambda *_: pytest.fail("read again"))
    data.set_epoch(1)
    assert not torch.equal(data[4]["video"], first)  # other crops of the kept pictures


def test_views_are_items_of_their_own(root: Path) -> None:
    data = EpicDataset(root, "val", frames=2, views=3, transform=SMALL)
    assert len(data) == 30
    assert [int(data[i]["index"]) for i in (6, 7, 8, 9)] == [2, 2, 2, 3]
    assert not torch.equal(data[6]["video"], data[8]["video"])
    with pytest.raises(UsageError, match="views are for testing"):
        EpicDataset(root, "train", views=2)


def test_crops_are_items_of_their_own(root: Path) -> None:
    data = EpicDataset(root, "val", frames=2, views=2, crops=3, transform=SMALL)
    assert len(data) == 60
    left, middle, right = (data[12 + crop]["video"] for crop in range(3))  # row 2, view 0
    assert torch.equal(middle, EpicDataset(root, "val", frames=2, transform=SMALL)[2]["video"])
    assert not torch.equal(left, right)
    assert [int(data[i]["index"]) for i in (11, 12, 17, 18)] == [1, 2, 2, 3]
    with pytest.raises(UsageError, match="crops are for testing"):
        EpicDataset(root, "train", crops=3)
    with pytest.raises(UsageError, match="crops 1 or 3"):
        EpicDataset(root, "val", crops=2)


def test_frames_follow_the_frame_rule(tmp_path: Path) -> None:
    data = EpicDataset(write_frames(write_annotations(tmp_path), packed=["P01_01"]), "val", transform=SMALL)
    for row in data.rows:
        numbers = [number_of(picture) for picture in data.read(row)]
        assert numbers[0] == row.start_frame + 1
        assert max(numbers) <= row.stop_frame
    assert number_of(data.read(data.rows[3])[-1]) == data.rows[3].stop_frame  # 0.8 s: shorter than the window


def test_stored_tokens(root: Path, tmp_path: Path) -> None:
    for row in read_rows(root / "EPIC_100_train.csv"):
        np.save(tmp_path / f"{row.narration_id}.npy", np.full((5, 8), row.line, np.float32))
    data = EpicDataset(root, "train", media=tmp_path, layout="features", cache_in_memory=True)
    item = data[3]
    assert torch.equal(item["tokens"], torch.full((5, 8), 5.0))
    item["tokens"].zero_()
    assert torch.equal(data[3]["tokens"], torch.full((5, 8), 5.0))
    EpicDataset(root, "train", media=tmp_path, layout="features", task="anticipation")  # nothing says what they are
    (tmp_path / "manifest.json").write_text('{"settings": {"task": "recognition"}}')
    assert len(EpicDataset(root, "train", media=tmp_path, layout="features")) == 10
    with pytest.raises(UsageError, match=r"made for recognition .* not for anticipation: the pictures are of another"):
        EpicDataset(root, "train", media=tmp_path, layout="features", task="anticipation")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json: cannot be read as JSON"):
        EpicDataset(root, "train", media=tmp_path, layout="features")
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "P01_01_3.npy").unlink()
    with pytest.raises(DataError, match=r"1 files or folders are missing: .*P01_01_3\.npy"):
        EpicDataset(root, "train", media=tmp_path, layout="features")


def test_cut_clips_cannot_be_anticipated(root: Path, tmp_path: Path) -> None:
    write_cuts(tmp_path)
    assert EpicDataset(root, "val", media=tmp_path, frames=2, transform=SMALL)[0]["video"].shape == (3, 2, 24, 24)
    with pytest.raises(UsageError, match="nothing of the time before an action"):
        EpicDataset(root, "val", task="anticipation", media=tmp_path)


def question(name: str, source: str = "oracle") -> str:
    record = {"narration_id": name, "verb_question": "x", "noun_question": "y", "source": "template"}
    record |= {"verb_question_masked": f"v{name}", "noun_question_masked": f"n{name}", "question_source": source}
    return json.dumps(record) + "\n"


def test_questions(root: Path, tmp_path: Path) -> None:
    names = [f"{video}_{k}" for video in ("P01_01", "P02_101") for k in range(len(SEGMENTS))]
    path = tmp_path / "q.jsonl"
    path.write_text("".join(map(question, names)))
    data = EpicDataset(root, "val", frames=1, transform=SMALL, questions=path, encoder=Letters())
    item = data[5]
    assert data.question_source == "oracle"
    assert item["verb_question"].tolist() == [ord(letter) for letter in "vP02"]
    assert item["noun_question"].tolist() == [ord(letter) for letter in "nP02"]
    given = (torch.arange(10)[:, None], -torch.arange(10)[:, None])
    item = EpicDataset(root, "val", frames=1, transform=SMALL, questions=given)[4]
    assert (item["verb_question"].tolist(), item["noun_question"].tolist()) == ([4], [-4])
    with pytest.raises(UsageError, match="need an encoder"):
        EpicDataset(root, "val", questions=path)
    path.write_text("".join(map(question, names[1:])))
    with pytest.raises(DataError, match=r"no questions for 1 segments: narration P01_01_0 \(line 2\)"):
        EpicDataset(root, "val", questions=path, encoder=Letters())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{\n", r"q\.jsonl:1: no line of questions"),
        ('{"narration_id": "a"}\n', r"q\.jsonl:1: no line of questions"),
        (question("a") + question("a"), r"q\.jsonl:2: narration a comes twice"),
        (question("a") + question("b", "predicted"), "questions of 2 sources"),
        ("", "questions of 0 sources"),
    ],
)
def test_wrong_question_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        read_question_texts(tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="questions make"):
        read_question_texts(tmp_path / "none.jsonl")


def test_errors_name_file_line_and_narration(root: Path, tmp_path: Path) -> None:
    write_annotations(tmp_path)
    write_csv(tmp_path / "EPIC_100_train.csv", csv_rows([(8.0, 14.0)]))
    data = EpicDataset(tmp_path, "train", media=root, train=False, mode="uniform", transform=SMALL)
    with pytest.raises(DataError, match=r"EPIC_100_train\.csv:2: .*P01_01\.MP4: the pictures end .*narration P01_01_0"):
        data[0]
    with pytest.raises(DataError, match="2 files or folders are missing"):
        EpicDataset(root, "val", media=tmp_path, layout="videos")
    late = EpicDataset(root, "val", media=tmp_path, layout="videos", check_files=False, transform=SMALL)
    with pytest.raises(DataError, match=r"EPIC_100_validation\.csv:2: narration P01_01_0: .*no such file"):
        late[0]


def test_classes_beyond_the_tables_are_refused(root: Path, tmp_path: Path) -> None:
    write_annotations(tmp_path)
    rows = csv_rows()
    rows[6][10] = "3"
    write_csv(tmp_path / "EPIC_100_train.csv", rows)
    with pytest.raises(
        DataError, match=r"EPIC_100_train\.csv:8: narration P02_101_1: verb_class is 3; the class table"
    ):
        EpicDataset(tmp_path, "train", media=root)


def test_wrong_arguments(root: Path) -> None:
    for options in ({"task": "both"}, {"frames": 0}, {"segments": 0}, {"layout": "gulp"}):
        with pytest.raises(UsageError):
            EpicDataset(root, "val", **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="split is 'dev'"):
        EpicDataset(root, "dev")  # type: ignore[arg-type]
    assert len(EpicDataset(root, "val", segments=3)) == 3


def test_the_transform() -> None:
    wide = [np.full((40, 80, 3), value, np.uint8) for value in (0, 255)]
    wide[0][:, :16] = 255  # outside the middle square
    clip = ClipTransform(size=20)(wide)
    assert clip.shape == (3, 2, 20, 20)
    torch.testing.assert_close(clip[:, 0], torch.full((3, 20, 20), -1.0))
    torch.testing.assert_close(clip[:, 1], torch.full((3, 20, 20), 1.0))
    ends = [ClipTransform(size=20)(wide, place=(i, 3))[0, 0] for i in (0, 2)]
    torch.testing.assert_close(ends[0][:, :7], torch.ones(20, 7))
    torch.testing.assert_close(ends[1], torch.full((20, 20), -1.0))
    with pytest.raises(UsageError, match="square 3 of 3"):
        ClipTransform(size=20)(wide, place=(3, 3))
    avion = ClipTransform(size=40, mean=AVION_MEAN, std=AVION_STD)(wide[1:])
    wanted = (255 - np.array([108.327, 116.746, 104.094])) / np.array([68.50, 66.63, 70.32])
    np.testing.assert_allclose(avion[:, 0, 0, 0], wanted, rtol=1e-4)
    moved = {ClipTransform(size=20)(wide, np.random.default_rng(seed))[0, 0].sum().item() for seed in range(20)}
    assert len(moved) > 5
    assert ClipTransform().sides == (256, 320)
    small = [np.zeros((10, 12, 3), np.uint8)]
    assert ClipTransform(size=20)(small, np.random.default_rng(0)).shape == (3, 1, 20, 20)
    with pytest.raises(UsageError, match="pictures of 2 sizes"):
        ClipTransform(size=20)([*small, *wide])
    for options in ({"jitter": (10, 30)}, {"mirror": 2.0}, {"std": (1.0, 1.0, 0.0)}):
        with pytest.raises(UsageError):
            ClipTransform(size=20, **options)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_changes_pictures_and_grows_with_strength(name: str) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    soft = np.kron(random.integers(40, 216, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    image = Image.fromarray(soft)
    signed, operation = OPERATIONS[name]
    strong, weak = (np.asarray(operation(image, s), dtype=float) for s in (0.8, 0.1))
    assert strong.shape == soft.shape
    assert np.abs(strong - soft).mean() >= np.abs(weak - soft).mean()
    assert np.abs(strong - soft).max() > 0
    if signed:
        assert not np.array_equal(strong, np.asarray(operation(image, -0.8)))
    assert np.array_equal(np.asarray(image), soft)


def test_a_clip_gets_one_draw() -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (16, 24, 3)).astype(np.uint8)
    changed = 0
    for seed in range(20):
        one, two, three = RandAugment()([picture, picture.copy(), picture], np.random.default_rng(seed))
        assert np.array_equal(one, two)
        assert one is three
        again = RandAugment()([picture], np.random.default_rng(seed))[0]
        assert np.array_equal(one, again)
        changed += not np.array_equal(one, picture)
    assert 10 <= changed <= 20
    assert RandAugment(operations=0)([picture], random)[0] is picture
    with pytest.raises(UsageError, match="strength 0 to 10"):
        RandAugment(strength=11)
    plain, varied = ClipTransform(size=16), ClipTransform(size=16, randaug=RandAugment(probability=1.0))
    assert torch.equal(plain([picture]), varied([picture]))  # evaluation: nothing random
    pairs = [[made([picture], np.random.default_rng(seed)) for made in (plain, varied)] for seed in range(5)]
    assert not all(torch.equal(first, second) for first, second in pairs)


def test_workers_give_what_one_process_gives(tmp_path: Path) -> None:
    root = write_frames(write_annotations(tmp_path), packed=["P01_01"])
    data = EpicDataset(root, "train", frames=2, transform=SMALL)
    alone = [data[i]["video"] for i in range(len(data))]
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=2)
    assert torch.equal(torch.cat([batch["video"] for batch in loader]), torch.stack(alone))
    data.set_epoch(3)
    later = [data[i]["video"] for i in range(len(data))]
    data.set_epoch(0)
    loader = torch.utils.data.DataLoader(data, batch_size=5, num_workers=1, persistent_workers=True)
    assert torch.equal(torch.cat([batch["video"] for batch in loader]), torch.stack(alone))
    data.set_epoch(3)
    assert torch.equal(torch.cat([batch["video"] for batch in loader]), torch.stack(later))
    assert not torch.equal(torch.stack(alone), torch.stack(later))
    with pytest.raises(UsageError, match="epoch is -1"):
        data.set_epoch(-1)
