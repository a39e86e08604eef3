"""The checker finds what is wrong with a set, names the file, and lets a sound set pass."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from avsbench_toy import SPLITS, frame_of, make_root, save_pickle, save_png, save_wav, sound_of
from PIL import ImageFile

from crossmamba.cli import main
from crossmamba.data.avsbench.verify import OFFICIAL_CLIPS, verify_avsbench
from crossmamba.errors import DataError, UsageError

WORLD = {"clips": SPLITS, "size": 12, "seconds": 5}
FRAME = "ms3_data/visual_frames/id3_0_5000/id3_0_5000.mp4_3.png"
MASK = "ms3_data/gt_masks/test/id3_0_5000/id3_0_5000_1.png"
PICKLE = "ms3_data/audio_log_mel/test/id3_0_5000.pkl"
WAV = "ms3_data/audio_wav/test/id3_0_5000.wav"


@pytest.fixture(scope="module")
def sound_roots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("verify")
    for subset, folder in (("s4", "Single-source"), ("ms3", "Multi-sources")):
        make_root(root, subset)
        (root / folder / "world.json").write_text(json.dumps(WORLD))
    return root


@pytest.fixture
def home(tmp_path: Path, sound_roots: Path) -> Path:
    """An MS3 set that a test may damage."""
    return Path(shutil.copytree(sound_roots / "Multi-sources", tmp_path / "Multi-sources"))


@pytest.mark.parametrize("subset", ["s4", "ms3"])
def test_a_sound_set_passes(sound_roots: Path, subset: str) -> None:
    report = verify_avsbench(sound_roots, subset, progress=False)
    assert report.ok, report.text
    assert report.clips == SPLITS
    assert not report.notes
    masks = (3 * 1 if subset == "s4" else 3 * 5) + 4 * 5
    assert report.files == 7 * (5 + 1 + 1) + masks
    assert report.sizes == {"12x12": 35}
    assert report.mask_modes == {"L": masks}
    assert verify_avsbench(sound_roots, f"avsbench-{subset}", progress=False).ok


def huge_png(path: Path, height: int, width: int = 14000) -> None:
    """A valid PNG of a few hundred kB whose pixels would take 588 MB."""
    raw = zlib.compressobj(1)
    data = b"".join(raw.compress(b"\0" * (1 + 3 * width)) for _ in range(height)) + raw.flush()

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


class Hostile:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("owned",))


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def grey_edges(path: Path) -> None:
    save_png(path, np.linspace(0, 255, 144).astype(np.uint8).reshape(12, 12))


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing frame": (FRAME, Path.unlink, "missing"),
    "missing mask": (MASK, Path.unlink, "missing"),
    "missing pickle": (PICKLE, Path.unlink, "missing"),
    "missing wav": (WAV, Path.unlink, "missing"),
    "empty frame": (FRAME, lambda p: p.write_bytes(b""), "unreadable"),
    "truncated frame": (FRAME, cut(0.6), "unreadable"),
    "corrupt frame": (FRAME, lambda p: p.write_bytes(os.urandom(500)), "unreadable"),
    "text mask": (MASK, lambda p: p.write_text("mask"), "unreadable"),
    "empty pickle": (PICKLE, lambda p: p.write_bytes(b""), "unreadable"),
    "truncated pickle": (PICKLE, cut(0.5), "unreadable"),
    "short pickle": (PICKLE, lambda p: save_pickle(p, torch.zeros(4, 1, 96, 64)), "unreadable"),
    "hostile pickle": (PICKLE, lambda p: p.write_bytes(pickle.dumps(Hostile())), "unsafe pickle"),
    "empty wav": (WAV, lambda p: p.write_bytes(b""), "unreadable"),
    "truncated wav": (WAV, cut(0.5), "unreadable"),
    "text wav": (WAV, lambda p: p.write_text("la la"), "unreadable"),
    "short wav": (WAV, lambda p: save_wav(p, sound_of(1, 3.0)), "sound"),
    "long wav": (WAV, lambda p: save_wav(p, sound_of(1, 7.0)), "sound"),
    "small frame": (FRAME, lambda p: save_png(p, frame_of(1, 1, side=10)), "size"),
    "large mask": (MASK, lambda p: save_png(p, np.zeros((14, 12), np.uint8)), "size"),
    "soft mask": (MASK, grey_edges, "mask values"),
    "folder for a frame": (FRAME, lambda p: (p.unlink(), p.mkdir()), "unreadable"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_each_damage_is_found_and_named(home: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    file, damage, kind = DAMAGE[name]
    damage(home / file)
    report = verify_avsbench(home, "ms3", progress=False)
    assert not report.ok
    assert [(p.kind, p.path) for p in report.problems] == [(kind, str(home / file))], report.text
    assert Path(file).name in report.text
    assert not (home / "owned").exists()


@pytest.mark.parametrize("height", [600, 14000])
def test_a_huge_picture_is_refused_by_its_header(home: Path, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def watched(picture: ImageFile.ImageFile) -> object:
        decoded.append(picture.size)
        return load(picture)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    huge_png(home / FRAME, height=height)
    report = verify_avsbench(home, "ms3", progress=False)
    assert [(p.kind, p.path) for p in report.problems] == [("unreadable", str(home / FRAME))]
    assert str(14000 * height) in report.text or "14000 x 600" in report.text
    assert set(decoded) == {(12, 12)}  # the others, and nothing of the huge one


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("id9_0_5000,test", "overlap", "ms3_meta_data.csv:9: clip 'id9_0_5000' was already given in line 2"),
        ("x,dev", "index", "ms3_meta_data.csv:9: split is 'dev'"),
        ("../../x,test", "index", "ms3_meta_data.csv:9"),
    ],
)
def test_faulty_index_rows_are_listed_and_the_rest_is_checked(home: Path, line: str, kind: str, words: str) -> None:
    index = home / "ms3_meta_data.csv"
    index.write_text(index.read_text() + line + "\n")
    (home / FRAME).unlink()
    report = verify_avsbench(home, "ms3", progress=False)
    assert [p.kind for p in report.problems] == [kind, "missing"]
    assert words in report.problems[0].message


def test_counts_are_compared_with_the_world_or_the_official_set(home: Path) -> None:
    index = home / "ms3_meta_data.csv"
    index.write_text("\n".join(index.read_text().splitlines()[:-1]) + "\n")
    report = verify_avsbench(home, "ms3", progress=False)
    assert [p.message.split(": ")[1] for p in report.problems] == ["test has 1 clips, expected 2"]
    assert {n.kind for n in report.notes} == {"extra"}  # the files of the clip that left the index
    (home / "world.json").unlink()
    report = verify_avsbench(home, "ms3", progress=False)
    assert report.expected == OFFICIAL_CLIPS["ms3"]
    assert {p.kind for p in report.problems} == {"counts", "size"}  # neither 424 clips nor 224 pixels
    assert verify_avsbench(home, "ms3", expected="none", progress=False).ok


def test_the_same_pictures_in_two_splits_are_found(home: Path) -> None:
    frames = home / "ms3_data/visual_frames"
    for k in range(1, 6):
        source = frames / f"id9_0_5000/id9_0_5000.mp4_{k}.png"  # train
        shutil.copy(source, frames / f"id3_0_5000/id3_0_5000.mp4_{k}.png")  # test
    report = verify_avsbench(home, "ms3", progress=False)
    assert [p.kind for p in report.problems] == ["overlap"]
    assert "id9_0_5000" in report.text
    assert "id3_0_5000" in report.text


def test_oddities_are_notes(home: Path) -> None:
    (home / "ms3_data/visual_frames/.DS_Store").write_bytes(b"x")
    report = verify_avsbench(home, "ms3", progress=False)
    assert report.ok
    assert [n.kind for n in report.notes] == ["extra"]
    assert ".DS_Store" in report.text


def test_one_source_video_in_two_splits_is_a_note(home: Path) -> None:
    index = home / "ms3_meta_data.csv"
    index.write_text(index.read_text() + "id9_5000_10000,test\n")
    report = verify_avsbench(home, "ms3", expected="none", progress=False)
    assert "source video id9 has clips in test, train" in [n.message for n in report.notes]


def test_a_short_wav_of_a_real_set_is_a_note(home: Path) -> None:
    (home / "world.json").unlink()
    save_wav(home / WAV, sound_of(1, 4.2))
    report = verify_avsbench(home, "ms3", expected="none", progress=False)
    assert report.ok
    assert [n.kind for n in report.notes] == ["sound"]


def test_sound_may_be_wav_or_pickle_but_not_neither(home: Path) -> None:
    shutil.rmtree(home / "ms3_data/audio_log_mel")
    assert verify_avsbench(home, "ms3", progress=False).ok
    shutil.rmtree(home / "ms3_data/audio_wav")
    report = verify_avsbench(home, "ms3", progress=False)
    assert [p.kind for p in report.problems] == ["missing"] * 7


def test_long_lists_are_cut_in_text_and_whole_in_json(home: Path) -> None:
    shutil.rmtree(home / "ms3_data/gt_masks")
    report = verify_avsbench(home, "ms3", progress=False)
    assert len(report.problems) == 35
    assert "... and 27 more" in report.text
    assert len(json.loads(json.dumps(report.to_json()))["problems"]) == 35


@pytest.mark.parametrize("content", ["{", "[]", '{"clips": {}, "size": 12, "seconds": 5}', "null"])
def test_a_damaged_world_json_is_a_data_error(home: Path, content: str) -> None:
    (home / "world.json").write_text(content)
    with pytest.raises(DataError, match=r"world\.json"):
        verify_avsbench(home, "ms3", progress=False)


def test_wrong_calls(tmp_path: Path, home: Path) -> None:
    with pytest.raises(DataError, match="no AVSBench S4 here"):
        verify_avsbench(tmp_path / "nowhere", "s4")
    with pytest.raises(UsageError, match="subset"):
        verify_avsbench(home, "avss")
    with pytest.raises(UsageError, match="expected"):
        verify_avsbench(home, "ms3", expected="official")  # type: ignore[arg-type]


def test_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "verify", "avsbench-ms3", str(home)]) == 0
    (home / MASK).unlink()
    capsys.readouterr()
    assert main(["data", "verify", "avsbench-ms3", str(home), "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["problems"][0]["path"].endswith("id3_0_5000_1.png")
