"""RULSTM's csv files and LMDB feature stores. What needs the package lmdb is skipped without it."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from epic_toy import NOUNS, VERBS, VIDEOS

from crossmamba.cli import main
from crossmamba.data.epic.annotations import read_actions, read_rows
from crossmamba.data.epic.dataset import EpicDataset
from crossmamba.data.epic.rulstm import FrameFeatures, FrameStore, frame_of, is_store, store_folders
from crossmamba.data.epic.verify import verify_epic100
from crossmamba.errors import DataError, UsageError

SEGMENTS = ((6, 36), (75, 180), (150, 174), (240, 297))  # frames of 30 a second; in every video
FRAMES = 300
WIDTHS = {"rgb": 8, "flow": 8, "obj": 3}


def lmdb_or_skip():
    return pytest.importorskip("lmdb", reason="lmdb is not installed: pip install lmdb")


def csv_lines(cells: int = 7) -> str:
    lines = []
    for video in VIDEOS:
        for k, (start, stop) in enumerate(SEGMENTS):
            verb, noun = k % len(VERBS), k % len(NOUNS)
            lines.append([f"{video}_{k}", video, start, stop, verb, noun, verb * len(NOUNS) + noun][:cells])
    return "".join(",".join(map(str, line)) + "\n" for line in lines)


def write_set(root: Path, names: tuple[str, ...] = ("training", "validation", "test")) -> Path:
    """RULSTM's csv files with the official class tables."""
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / f"{name}.csv").write_text(csv_lines(4 if name == "test" else 7))
    pairs = [(verb, noun) for verb in range(len(VERBS)) for noun in range(len(NOUNS))]
    lines = [f"{i},{verb},{noun},{VERBS[verb]} {NOUNS[noun]}" for i, (verb, noun) in enumerate(pairs)]
    (root / "actions.csv").write_text("\n".join(["id,verb,noun,action", *lines]) + "\n")
    for kind, keys in (("verb", VERBS), ("noun", NOUNS)):
        lines = [f"{i},{key},\"['{key}']\",group" for i, key in enumerate(keys)]
        (root / f"EPIC_100_{kind}_classes.csv").write_text("\n".join(["id,key,instances,category", *lines]) + "\n")
    return root


def vector(name: str, video: str, number: int) -> np.ndarray:
    """Frame `number` has this number first, then the video's and the store's."""
    values = np.zeros(WIDTHS[name], np.float32)
    values[:3] = number, VIDEOS.index(video), list(WIDTHS).index(name)
    return values


def write_store(root: Path, name: str, change: dict[str, bytes | None] | None = None, frames: int = FRAMES) -> Path:
    """A store as RULSTM's scripts write one; `change` gives other values by key, None leaves a key out."""
    root.mkdir(exist_ok=True)
    environment = lmdb_or_skip().open(str(root / name), map_size=2**26)
    with environment.begin(write=True) as writing:
        for video in VIDEOS:
            for number in range(1, frames + 1):
                key = f"{video}_frame_{number:010d}.jpg"
                value = (change or {}).get(key, vector(name, video, number).tobytes())
                if value is not None:
                    writing.put(key.encode(), value)
    environment.close()
    return root / name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set with all three stores."""
    root = write_set(tmp_path_factory.mktemp("rulstm"))
    for name in WIDTHS:
        write_store(root, name)
    return root


def test_the_published_rows(tmp_path: Path) -> None:
    """Lines as they stand in RULSTM/data/ek100 and ek55."""
    (tmp_path / "validation.csv").write_text("P01_11_0,P01_11,1,56,0,2,106\nP01_11_118,P01_11,11655,11765,14,11,775\n")
    first, second = read_rows(tmp_path / "validation.csv")
    assert (first.narration_id, first.participant_id, first.video_id) == ("P01_11_0", "P01", "P01_11")
    assert (first.verb_class, first.noun_class, first.action_class) == (0, 2, 106)
    assert (second.start_timestamp, second.stop_timestamp) == (11655 / 30, 11765 / 30)
    assert (second.start_frame, second.stop_frame, second.line) == (2 * 11655, 2 * 11765, 2)
    (tmp_path / "training.csv").write_text("00330, P01_02, 0000000152, 0000000205, 000, 004, 0194\n")
    (old,) = read_rows(tmp_path / "training.csv")
    assert (old.narration_id, old.start_timestamp, old.noun_class, old.action_class) == ("00330", 152 / 30, 4, 194)
    (tmp_path / "test.csv").write_text("P01_11_0,P01_11,1,56\n")
    (hidden,) = read_rows(tmp_path / "test.csv")
    assert not hidden.labelled
    assert hidden.action_class is None


def test_wrong_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "validation.csv"
    for line, message in {
        "P01_11_1,P01_11,46,73,1,2": "does not have the first row's 7 cells",
        "P01_11_1,P01_11,46,nan,1,2,5": "narration P01_11_1: stop is 'nan'",
        "P01_11_1,P01_11,46,46,1,2,5": "narration P01_11_1: the action stops at",
        "P01_11_1,P01_11,46,73,1,300,5": "narration P01_11_1: noun_class is 300; the class table has 0 to 299",
        "P01_11_0,P01_11,46,73,1,2,5": "the narration id is already that of line 1",
    }.items():
        path.write_text(f"P01_11_0,P01_11,1,56,0,2,106\n{line}\n")
        with pytest.raises(DataError, match=f"validation.csv:2: .*{message}"):
            read_rows(path)


def test_actions(tmp_path: Path) -> None:
    path = tmp_path / "actions.csv"
    path.write_text("id,verb,noun,action\n0,0,1,take pan\n1,0,10,take fridge\n")
    assert read_actions(path) == [(0, 1), (0, 10)]
    path.write_text("id,action,verb,noun\n0, take_pan,0,1\n")  # as the file of EPIC-KITCHENS-55 has them
    assert read_actions(path) == [(0, 1)]
    path.write_text("id,verb,noun,action\n0,0,1,take pan\n2,0,10,take fridge\n")
    with pytest.raises(DataError, match=r"actions\.csv:3: expected action 1"):
        read_actions(path)
    path.write_text("number,verb,noun\n")
    with pytest.raises(DataError, match="no column id"):
        read_actions(path)


def test_frames_never_show_anything_later() -> None:
    assert [frame_of(seconds) for seconds in (-2.0, 0.0, 0.034, 1.0, 0.999, 59 / 30)] == [1, 1, 1, 30, 29, 59]
    assert all(frame_of(number / 30) == number for number in range(1, 5000))
    assert all(frame_of(number / 30 - 1.0) == number - 30 for number in range(31, 5000))


def test_without_the_package_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_set(tmp_path)
    (tmp_path / "rgb").mkdir()
    (tmp_path / "rgb" / "data.mdb").write_bytes(b"\0" * 8192)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UsageError, match="pip install lmdb"):
        EpicDataset(tmp_path, "val", media=tmp_path / "rgb", layout="features")
    arguments = ["data", "verify", "epic100", str(tmp_path), "--media", str(tmp_path / "rgb"), "--layout", "features"]
    assert main(arguments) == 2
    assert "pip install lmdb" in capsys.readouterr().err


def test_what_anticipation_sees(root: Path) -> None:
    """RULSTM's own input: 11 frames, a quarter of a second apart, the last one second before the action."""
    data = EpicDataset(root, "val", task="anticipation", media=root / "rgb", layout="features", frames=11, observed=2.5)
    item = data[2]  # starts at frame 150, 5 s
    assert item["tokens"].shape == (11, WIDTHS["rgb"])
    assert item["tokens"].dtype == torch.float32
    theirs = np.floor((150 / 30 - np.arange(0.25, 3.75, 0.25)[::-1]) * 30)[:11]
    assert item["tokens"][:, 0].tolist() == theirs.tolist()
    assert (int(item["verb"]), int(item["noun"])) == (2, 0)
    for number, row in enumerate(data.rows):
        seen = data[number]["tokens"][:, 0]
        assert seen.max() / 30 <= row.start_timestamp - 1 or row.narration_id in data.clamped
        assert (data[number]["tokens"][:, 1] == VIDEOS.index(row.video_id)).all()
    assert data.clamped == [f"{video}_0" for video in VIDEOS]
    assert data[0]["tokens"][:, 0].tolist() == [1.0] * 11  # clamped to the first frame


def test_what_recognition_sees(root: Path) -> None:
    common = {"media": root / "rgb", "layout": "features", "frames": 4, "mode": "uniform"}
    test = EpicDataset(root, "val", **common)
    seen = test[1]["tokens"][:, 0]
    assert seen.tolist() == [89.0, 115.0, 141.0, 167.0]  # of 75 to 180: 76 + (105 / 4) (k + 1/2), rounded down
    train = EpicDataset(root, "train", cache_in_memory=True, **common)
    first = train[1]["tokens"][:, 0]
    assert first.min() >= 75
    assert first.max() <= 180
    assert torch.equal(train[1]["tokens"][:, 0], first)
    train.set_epoch(1)
    assert not torch.equal(train[1]["tokens"][:, 0], first)  # random places, also where items are kept


def test_stores_are_joined(root: Path) -> None:
    data = EpicDataset(root, "val", task="anticipation", media=root / "rgb+flow+obj", layout="features", frames=3)
    tokens = data[2]["tokens"]
    assert tokens.shape == (3, 19)
    assert tokens[:, [0, 8, 16]].unique(dim=1).shape == (3, 1)  # of the same frame
    assert tokens[0, [2, 10, 18]].tolist() == [0.0, 1.0, 2.0]
    assert FrameFeatures(store_folders(root / "rgb+flow+obj")).width == 19
    assert store_folders(root / "rgb+audio") == [root / "rgb", root / "audio"]
    with pytest.raises(DataError, match=r"audio/data\.mdb: there is no such feature store"):
        EpicDataset(root, "val", media=root / "rgb+audio", layout="features")
    assert store_folders(root / "nothing+here") == []
    assert not is_store(root)


def test_workers_have_handles_of_their_own(root: Path) -> None:
    data = EpicDataset(root, "val", media=root / "rgb", layout="features", frames=4)
    alone = [data[number]["tokens"] for number in range(len(data))]  # opened here, before the fork
    loader = torch.utils.data.DataLoader(data, batch_size=1, num_workers=2, multiprocessing_context="fork")
    assert all(torch.equal(item["tokens"][0], ours) for item, ours in zip(loader, alone, strict=True))
    assert torch.equal(data[3]["tokens"], alone[3])
    sent = pickle.loads(pickle.dumps(data))  # as to a spawned one
    assert torch.equal(sent[3]["tokens"], alone[3])


def test_missing_frames(tmp_path: Path, root: Path) -> None:
    key = "P01_01_frame_0000000100.jpg"
    write_store(tmp_path, "rgb", {key: None}, frames=290)
    data = EpicDataset(root, "val", media=tmp_path / "rgb", layout="features", frames=106, mode="uniform")
    with pytest.raises(DataError, match=r"validation\.csv:2: .*frame_0000000100\.jpg: not in the store, .*P01_01_1"):
        data[1]
    assert data[3]["tokens"][-1, 0] == 290  # up to half a second behind the end the last frame stands
    with pytest.raises(DataError, match=r"1 files or folders are missing: .*data\.mdb: P01_01"):
        EpicDataset(root, "val", media=write_store(tmp_path, "obj", only("P02_101")), layout="features")


def only(video: str) -> dict[str, bytes | None]:
    others = [other for other in VIDEOS if other != video]
    return {f"{other}_frame_{number:010d}.jpg": None for other in others for number in range(1, FRAMES + 1)}


def test_wrong_values(tmp_path: Path, root: Path) -> None:
    key = "P01_01_frame_0000000100.jpg"
    nan = np.full(WIDTHS["rgb"], np.nan, np.float32).tobytes()
    for number, (value, message) in enumerate(((nan, "NaN or infinite"), (b"1234", "4 bytes; the others have 32"))):
        folder = write_store(tmp_path / str(number), "rgb", {key: value})
        data = EpicDataset(root, "val", media=folder, layout="features", frames=106, mode="uniform")
        with pytest.raises(DataError, match=f"{key}: .*{message}.*narration P01_01_1"):
            data[1]


def test_files_that_are_no_stores(tmp_path: Path, root: Path) -> None:
    whole = (write_store(tmp_path, "rgb") / "data.mdb").read_bytes()
    cases = {
        whole[: len(whole) // 2]: "the file was cut",
        b"\0" * 8192: "cannot be opened as an LMDB store",
        b"": "cannot be opened as an LMDB store",
    }
    for number, (data, message) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "data.mdb").write_bytes(data)
        with pytest.raises(DataError, match=message):
            EpicDataset(root, "val", media=folder, layout="features")
    (tmp_path / "none").mkdir()
    lmdb_or_skip().open(str(tmp_path / "none"), map_size=2**20).close()
    with pytest.raises(DataError, match="the store is empty"):
        EpicDataset(root, "val", media=tmp_path / "none", layout="features")


def test_verified(tmp_path: Path, root: Path) -> None:
    media, root = root, write_set(tmp_path / "set", ("validation",))
    good = verify_epic100(root, media=media / "rgb+obj", layout="features", decode=True, progress=False)
    assert good.problems == []
    assert good.layout == "features"
    assert good.checked["videos"] == 4
    assert not any("frame rule" in note.kind for note in good.notes)
    folder = write_store(tmp_path, "rgb", {"P02_101_frame_0000000100.jpg": None}, frames=240)
    bad = verify_epic100(root, media=folder, layout="features", progress=False)
    assert {finding.kind for finding in bad.problems} == {"past the end", "missing"}
    assert "frame_0000000100.jpg first" in bad.text
    assert "validation.csv:4: narration P01_01_3: stops at 9.90 s; P01_01 ends at 8.00 s" in bad.text
    nan = {"P01_01_frame_0000000101.jpg": np.full(8, np.inf, np.float32).tobytes()}
    folder = write_store(tmp_path / "nan", "rgb", nan)
    assert verify_epic100(root, media=folder, layout="features", progress=False).ok
    found = verify_epic100(root, media=folder, layout="features", decode=True, progress=False)
    assert [finding.kind for finding in found.problems] == ["corrupt"]


def test_actions_are_verified(tmp_path: Path) -> None:
    write_set(tmp_path, ("validation",))
    path = tmp_path / "validation.csv"
    path.write_text(path.read_text().replace("P01_01_1,P01_01,75,180,1,1,3", "P01_01_1,P01_01,75,180,1,1,2"))
    report = verify_epic100(tmp_path, layout="none")
    assert "validation.csv:2: narration P01_01_1: verb and noun (1, 1); its action 2 stands for (1, 0)" in report.text
    assert [finding.kind for finding in report.problems] == ["actions"]


def test_a_share_that_cannot_be_written_will_do(root: Path, tmp_path: Path) -> None:
    """No lock file is made."""
    (tmp_path / "data.mdb").write_bytes((root / "rgb" / "data.mdb").read_bytes())
    tmp_path.chmod(0o555)
    store = FrameStore(tmp_path)
    assert (store.width, store.last("P01_01"), store.last("P03_01")) == (8, FRAMES, 0)
    assert store.numbers("P02_101").tolist() == list(range(1, FRAMES + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["data.mdb"]
    tmp_path.chmod(0o755)
