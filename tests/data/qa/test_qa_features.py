"""Stored features: every published layout, the rule that chooses seconds, what can be wrong (spec §3.3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from qa_toy import save_features

from crossmamba.data.qa.features import FEATURES, FeatureStore, frame_rows, whole_seconds
from crossmamba.data.qa.inputs import paired_rows
from crossmamba.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("seconds", "frames", "rows"),
    [
        (60, 10, range(0, 60, 6)),
        (61, 10, range(0, 60, 6)),  # cut at 60 first: [::6] of 61 rows would give 11
        (64, 10, range(0, 60, 6)),
        (60, 60, range(60)),
        (10, 10, range(10)),
        (10, 5, range(0, 10, 2)),
        (12, 10, [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]),
        (1, 1, [0]),
    ],
)
def test_seconds_that_a_model_sees(seconds: int, frames: int, rows: range) -> None:
    chosen = frame_rows(seconds, frames)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == list(rows)


def test_too_few_seconds() -> None:
    with pytest.raises(DataError, match="8 seconds cannot give 10 frames"):
        frame_rows(8, 10)
    with pytest.raises(DataError, match="61 frames"):
        frame_rows(80, 61)
    with pytest.raises(UsageError, match="frames is 0"):
        frame_rows(8, 0)
    assert [whole_seconds(s) for s in (0.2, 9.85, 9.95, 10.0, 10.8, 75.0)] == [1, 9, 10, 10, 10, 60]


LAYOUTS = {
    "vggish": ("vggish", (60, 128), (60, 128)),
    "resnet18_grid": ("visual_14x14", (61, 512, 14, 14), (60, 14, 14, 512)),
    "resnet18": ("res18", (60, 512), (60, 512)),
    "r2plus1d": ("r2plus1d_18", (60, 512), (60, 512)),
    "clip_tokens": ("clip_patch-level_vit_b32", (12, 50, 512), (12, 7, 7, 512)),
    "clip_class": ("clip_patch-level_vit_b32", (12, 50, 512), (12, 512)),
    "clip_frame": ("frame_ViT-L14@336px", (60, 768), (60, 768)),
    "clip_l14": ("frame_ViT-L14", (60, 768), (60, 768)),
    "clip_b32": ("frame_ViT-B32", (60, 512), (60, 512)),
    "tome_patches": ("visual_tome14", (5, 14, 1024), (5, 14, 1, 1024)),
    "small_sound": ("small_sound", (10, 64), (10, 64)),
    "small_picture": ("small_picture", (10, 8, 8, 64), (10, 8, 8, 64)),
    "clip_question": ("clip_qst", (1, 512), (512,)),
    "clip_words": ("clip_word", (1, 77, 512), (77, 512)),
    "clip_choices": ("clip_choices", (4, 512), (4, 512)),
}


@pytest.mark.parametrize("name", FEATURES)
def test_layouts(name: str, tmp_path: Path) -> None:
    folder, stored, read = LAYOUTS[name]
    if stored[0] == 61:  # half the memory
        stored, read = (61, 512, 14, 14), (60, 14, 14, 512)
    values = save_features(tmp_path, folder, "00000001", stored)
    store = FeatureStore(tmp_path, name)
    found = store.load("00000001")
    assert found.dtype == np.float32
    assert found.shape == read
    assert found.flags["C_CONTIGUOUS"]
    kind = store.kind
    assert kind.fits(stored)
    whole = read if kind.per_question else read[1:]
    assert all(want in (None, have) for want, have in zip(kind.shape, whole, strict=True))
    match name:
        case "resnet18_grid":
            assert found[3, 2, 5, 7] == values[3, 7, 2, 5]
        case "clip_tokens":
            assert np.array_equal(found[4, 2, 3], values[4, 1 + 2 * 7 + 3])
        case "clip_class":
            assert np.array_equal(found[4], values[4, 0])
    if not kind.per_question:
        assert store.rows("00000001") == read[0]
        assert np.array_equal(store.load("00000001", np.array([0, 3])), found[[0, 3]])


def broken(path: Path, case: str) -> None:
    good = np.zeros((60, 128), np.float32)
    if case == "object":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif case == "truncated":
        np.save(path, good)
        path.write_bytes(path.read_bytes()[:-100])
    elif case == "text":
        path.write_text("hello")
    elif case == "empty":
        path.write_bytes(b"")
    else:
        good[3, 5] = np.nan if case == "nan" else 0
        np.save(
            path,
            {
                "nan": good,
                "double": good.astype(np.float64),
                "width": good[:, :100],
                "axes": good[None],
                "none": good[:0],
            }[case],
        )


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("object", "cannot be read as a .npy"),
        ("truncated", "cannot be read as a .npy"),
        ("text", "cannot be read as a .npy"),
        ("empty", "cannot be read as a .npy"),
        ("nan", "1 values are NaN"),
        ("double", "float64; expected float32"),
        ("width", r"shape \[60, 100\]; vggish features are \[T, 128\]"),
        ("axes", r"shape \[1, 60, 128\]"),
        ("none", r"shape \[0, 128\]"),
    ],
)
def test_faulty_files_are_named(case: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "vggish").mkdir()
    broken(tmp_path / "vggish" / "00000001.npy", case)
    with pytest.raises(DataError, match=said) as error:
        FeatureStore(tmp_path, "vggish").load("00000001")
    assert "00000001.npy" in str(error.value)


def test_absent_folders_files_and_kinds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder of vggish features; make them with"):
        FeatureStore(tmp_path, "vggish")
    with pytest.raises(UsageError, match="known: vggish"):
        FeatureStore(tmp_path, "vgish")
    save_features(tmp_path, "vggish", "a", (60, 128))
    store = FeatureStore(tmp_path, "vggish")
    assert store.missing(["b", "a", "c"]) == ["b", "c"]
    with pytest.raises(DataError, match=r"b\.npy: there is no such"):
        store.load("b")
    with pytest.raises(DataError, match="plain path component"):
        store.load("../a")
    with pytest.raises(DataError, match="60 rows; row 61"):
        store.load("a", np.array([60]))
    for folder in ("res18_14x14", "visual_14x14"):
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match="are both there"):
        FeatureStore(tmp_path, "resnet18_grid")
    assert FeatureStore(tmp_path, "resnet18_grid", "visual_14x14").folder.name == "visual_14x14"


@pytest.mark.parametrize(("heard", "seen", "good"), [(60, 61, True), (62, 60, True), (60, 59, False), (8, 8, False)])
def test_sound_and_pictures_need_the_same_seconds(heard: int, seen: int, good: bool, tmp_path: Path) -> None:
    save_features(tmp_path, "small_sound", "v1", (heard, 64))
    save_features(tmp_path, "small_picture", "v1", (seen, 1, 1, 64))
    stores = FeatureStore(tmp_path, "small_sound"), FeatureStore(tmp_path, "small_picture")
    if good:
        assert paired_rows(*stores, "v1", 10).tolist() == list(range(0, 60, 6))
        return
    with pytest.raises(DataError, match=f"video v1: {heard} rows of small_sound .*, {seen} of small_picture"):
        paired_rows(*stores, "v1", 10)
