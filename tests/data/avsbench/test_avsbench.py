"""AVSBench's loader: the official layout with its quirks, and items that depend on (seed, epoch, index) alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from avsbench_toy import CATEGORIES, frame_of, log_mel_of, make_root, mask_of, save_png, sound_of
from PIL import Image
from torch.utils.data import DataLoader

from crossmamba.data.augment import ClipAugmentation
from crossmamba.data.avsbench.dataset import IMAGENET_MEAN, IMAGENET_STD, AVSBenchDataset, find_root
from crossmamba.data.images import read_mask
from crossmamba.data.logmel import clip_log_mel
from crossmamba.data.paths import join_under
from crossmamba.errors import DataError, UsageError


@pytest.fixture(scope="module")
def shared_roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("avsbench")
    return {subset: make_root(folder, subset) for subset in ("s4", "ms3")}


@pytest.fixture
def ms3(tmp_path: Path, shared_roots: dict[str, Path]) -> Path:
    """A copy of MS3 that a test may damage."""
    return Path(shutil.copytree(shared_roots["ms3"] / "Multi-sources", tmp_path / "Multi-sources"))


def pixels(frames: torch.Tensor) -> torch.Tensor:
    """Undoes the normalisation: (T, 3, S, S) in 0 to 255."""
    mean, std = (torch.tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (frames * std + mean) * 255


@pytest.mark.parametrize("subset", ["s4", "ms3"])
def test_items_hold_what_the_files_hold(shared_roots: dict[str, Path], subset: str) -> None:
    data = AVSBenchDataset(shared_roots[subset], subset, "test", image_size=12)
    assert data.clip_ids == ["id3_0_5000", "id4_0_5000"]  # clips 6 and 5 of the index, sorted by id
    item = data[0]
    for k in range(1, 6):
        expected = torch.from_numpy(frame_of(6, k)).permute(2, 0, 1).float()
        assert torch.allclose(pixels(item["frames"][k - 1]), expected, atol=1e-3)
        assert torch.equal(item["masks"][k - 1, 0], torch.from_numpy(mask_of(6, k)).float())
    assert torch.equal(item["log_mel"], log_mel_of(6))
    assert not item["log_mel"].requires_grad
    assert item["annotated"].tolist() == [True] * 5
    assert (item["clip_id"], item["index"]) == ("id3_0_5000", 0)
    assert {k: v.dtype for k, v in item.items() if isinstance(v, torch.Tensor)} == {
        "frames": torch.float32,
        "log_mel": torch.float32,
        "masks": torch.float32,
        "annotated": torch.bool,
    }


def test_s4_trains_on_one_annotated_frame(shared_roots: dict[str, Path]) -> None:
    data = AVSBenchDataset(shared_roots["s4"], "s4", "train", image_size=12)
    assert len(data) == 3
    item = data[0]
    assert item["annotated"].tolist() == [True, False, False, False, False]
    assert item["masks"][0].any()
    assert not item["masks"][1:].any()
    assert item["frames"].shape == (5, 3, 12, 12)


def test_both_forms_of_the_root_are_found(shared_roots: dict[str, Path]) -> None:
    root = shared_roots["ms3"]
    assert find_root(root, "ms3") == find_root(root / "Multi-sources", "ms3") == root / "Multi-sources"
    with pytest.raises(DataError, match=r"ms3_meta_data\.csv is missing"):
        find_root(root / "Single-source", "ms3")
    with pytest.raises(UsageError, match="allowed: s4, ms3"):
        find_root(root, "avss")


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA"])
def test_masks_of_every_mode_are_read_alike(tmp_path: Path, mode: str, value: int) -> None:
    mask = mask_of(1, 1)
    picture = Image.fromarray(mask * np.uint8(value))
    if mode == "P":
        picture = Image.fromarray(mask).convert("P")
        picture.putpalette([0, 0, 0, 0, 0, value])  # dark blue vanishes in a conversion to grey
    elif mode == "1":
        picture = Image.fromarray(mask.astype(bool))
    else:
        picture = picture.convert(mode)
    assert picture.mode == mode
    picture.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_a_palette_whose_index_zero_is_white_counts_by_colour(tmp_path: Path) -> None:
    mask = mask_of(1, 1)
    picture = Image.fromarray(1 - mask).convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0])
    picture.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), mask)


def test_other_sizes_are_resized_masks_to_the_nearest_pixel(shared_roots: dict[str, Path]) -> None:
    item = AVSBenchDataset(shared_roots["ms3"], "ms3", "test", image_size=24)[0]
    expected = torch.from_numpy(mask_of(6, 1)).repeat_interleave(2, 0).repeat_interleave(2, 1).float()
    assert torch.equal(item["masks"][0, 0], expected)
    small = AVSBenchDataset(shared_roots["ms3"], "ms3", "test", image_size=4)[0]
    assert small["frames"].shape == (5, 3, 4, 4)
    assert set(small["masks"].unique().tolist()) <= {0.0, 1.0}
    whole = torch.from_numpy(frame_of(6, 1)).float().mean().item()
    assert pixels(small["frames"][0]).mean().item() == pytest.approx(whole, abs=4)  # antialiased: the mean stays


def test_sound_comes_from_pickle_or_wav(shared_roots: dict[str, Path]) -> None:
    def log_mel(**kwargs: str) -> torch.Tensor:
        return AVSBenchDataset(shared_roots["ms3"], "ms3", "test", image_size=12, **kwargs)[0]["log_mel"]

    waveform = (sound_of(6) * 32767).astype("<i2").astype(np.float32) / 32768
    for framing in ("published", "aligned"):
        expected = clip_log_mel(waveform, 5, framing)
        assert torch.allclose(log_mel(audio="wav", framing=framing), expected, atol=1e-4)
    assert torch.equal(log_mel(), log_mel_of(6))
    assert torch.equal(log_mel(framing="aligned"), log_mel(audio="wav", framing="aligned"))
    with pytest.raises(UsageError, match="framing 'aligned' is computed from wav"):
        log_mel(audio="pickle", framing="aligned")


def test_auto_is_wav_without_pickles_and_never_mixes(ms3: Path) -> None:
    (ms3 / "ms3_data/audio_log_mel/test/id4_0_5000.pkl").unlink()
    data = AVSBenchDataset(ms3, "ms3", "test", image_size=12)
    assert data.audio == "pickle"
    with pytest.raises(DataError, match=r"id4_0_5000.pkl: the log-mel file is missing"):
        data[1]
    shutil.rmtree(ms3 / "ms3_data/audio_log_mel")
    assert AVSBenchDataset(ms3, "ms3", "test", image_size=12).audio == "wav"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("id9_0_5000,val", r"ms3_meta_data.csv:9: clip 'id9_0_5000' was already given in line 2"),
        ("new,dev", r"ms3_meta_data.csv:9: split is 'dev'; allowed: train, val, test"),
        ("../../etc/passwd,test", r"ms3_meta_data.csv:9: clip id: '../../etc/passwd' cannot be used"),
        ("..,test", r"csv:9: clip id: '..' cannot be used"),
        ("a\\b,test", r"csv:9: clip id: "),
        (",test", r"csv:9: clip id: ''"),
        ("x" * 300 + ",test", r"csv:9: clip id: the name 'x+'\.\.\. is longer"),
        ("one", r"csv:9: 1 columns; the head has 2"),
    ],
)
def test_faulty_rows_name_file_and_line(ms3: Path, line: str, message: str) -> None:
    index = ms3 / "ms3_meta_data.csv"
    index.write_text(index.read_text() + line + "\n")
    with pytest.raises(DataError, match=message):
        AVSBenchDataset(ms3, "ms3", "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a column 'split'"),
        (b"video_id\na\n", "expected a column 'split'"),
        (b"video_id,split\n", "no clip has split 'train'; the file has 0"),
        (b"video_id,split\na,test\n", "no clip has split 'train'; the file has 1"),
        (b"\xff\xfe\x00", "not UTF-8"),
    ],
)
def test_broken_indices_are_refused(ms3: Path, content: bytes, message: str) -> None:
    (ms3 / "ms3_meta_data.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        AVSBenchDataset(ms3, "ms3", "train")


def test_columns_may_be_quoted_spaced_or_marked(ms3: Path) -> None:
    index = ms3 / "ms3_meta_data.csv"
    text = index.read_text().replace("id9_0_5000", '" id9_0_5000 "').replace("\n", "\r\n")
    index.write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert "id9_0_5000" in AVSBenchDataset(ms3, "ms3", "train").clip_ids


def test_missing_and_misshapen_files_name_clip_and_file(ms3: Path) -> None:
    data = AVSBenchDataset(ms3, "ms3", "test", image_size=12)
    frame = ms3 / "ms3_data/visual_frames/id3_0_5000/id3_0_5000.mp4_3.png"
    mask = ms3 / "ms3_data/gt_masks/test/id4_0_5000/id4_0_5000_2.png"
    save_png(frame, frame_of(0, 1, side=10))
    with pytest.raises(DataError, match=r"clip id3_0_5000: .*mp4_3.png: 10x10 pixels; .* 12x12"):
        data[0]
    frame.unlink()
    with pytest.raises(DataError, match=r"clip id3_0_5000: .*mp4_3.png"):
        data[0]
    save_png(mask, mask_of(0, 1, side=14))
    with pytest.raises(DataError, match=r"clip id4_0_5000: .*_2.png: 14x14 pixels"):
        data[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"seconds": 0},
        {"seed": -1},
        {"clips": 0},
        {"framing": "centred"},
        {"audio": "mp3"},
        {"perturbation": "echo"},
    ],
)
def test_arguments_outside_what_is_allowed(shared_roots: dict[str, Path], wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        AVSBenchDataset(shared_roots["ms3"], "ms3", "test", **wrong)
    with pytest.raises(UsageError, match="split is 'dev'"):
        AVSBenchDataset(shared_roots["ms3"], "ms3", "dev")


def test_clips_takes_the_first_of_the_sorted_split(shared_roots: dict[str, Path]) -> None:
    assert AVSBenchDataset(shared_roots["ms3"], "ms3", "train", clips=2).clip_ids == ["id7_0_5000", "id8_0_5000"]
    assert len(AVSBenchDataset(shared_roots["ms3"], "ms3", "train", clips=99)) == 3


def same(a: dict[str, object], b: dict[str, object]) -> bool:
    return all(torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items())


def augmented(root: Path, **kwargs: object) -> AVSBenchDataset:
    return AVSBenchDataset(root, "ms3", "train", image_size=8, augment=ClipAugmentation(vflip=0.5), **kwargs)


def test_augmentation_depends_on_seed_epoch_and_index_alone(shared_roots: dict[str, Path]) -> None:
    root = shared_roots["ms3"]
    data = augmented(root)
    first = [data[i] for i in range(3)]
    data.set_epoch(1)
    second = [data[i] for i in (2, 0, 1)]
    assert not same(first[0], second[1])
    data.set_epoch(0)
    assert same(data[1], first[1])
    assert same(augmented(root)[2], first[2])
    assert not same(augmented(root, seed=1)[2], first[2])
    cached = augmented(root, cache_in_memory=True)
    for _ in range(2):  # the second time from memory
        for i in range(3):
            assert same(cached[i], first[i])
    cached.set_epoch(1)
    assert same(cached[2], second[0])


def test_clips_of_one_epoch_draw_for_themselves(shared_roots: dict[str, Path]) -> None:
    root, flip = shared_roots["ms3"], ClipAugmentation(hflip=0.5, crop=0, colour=0)
    plain = AVSBenchDataset(root, "ms3", "train", image_size=12)
    data = AVSBenchDataset(root, "ms3", "train", image_size=12, augment=flip)
    draws = []
    for epoch in range(8):
        data.set_epoch(epoch)
        draws.append(tuple(torch.equal(data[i]["frames"], plain[i]["frames"]) for i in range(3)))
    assert any(len(set(draw)) == 2 for draw in draws)
    assert len(set(draws)) > 2


def test_the_cache_reads_each_file_once_and_cannot_be_spoilt(ms3: Path) -> None:
    data = AVSBenchDataset(ms3, "ms3", "test", image_size=12, cache_in_memory=True)
    before = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in data[0].items()}
    shutil.rmtree(ms3 / "ms3_data")
    spoilt = data[0]
    for value in spoilt.values():
        if isinstance(value, torch.Tensor):
            value.zero_()
    assert same(data[0], before)
    with pytest.raises(DataError):
        data[1]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing_and_hear_of_the_epoch(shared_roots: dict[str, Path], persistent: bool) -> None:
    here, there = augmented(shared_roots["ms3"]), augmented(shared_roots["ms3"], cache_in_memory=True)
    loader = DataLoader(there, batch_size=None, num_workers=2, persistent_workers=persistent)
    for epoch in (0, 3):
        here.set_epoch(epoch)
        there.set_epoch(epoch)
        for i, item in enumerate(loader):
            assert same(item, here[i])


def test_batches_have_the_contract_s_shapes(shared_roots: dict[str, Path]) -> None:
    batch = next(iter(DataLoader(AVSBenchDataset(shared_roots["ms3"], "ms3", "train", image_size=8), batch_size=2)))
    assert batch["frames"].shape == (2, 5, 3, 8, 8)
    assert batch["log_mel"].shape == (2, 5, 1, 96, 64)
    assert batch["masks"].shape == (2, 5, 1, 8, 8)
    assert batch["annotated"].shape == (2, 5)
    assert batch["clip_id"] == ["id7_0_5000", "id8_0_5000"]
    assert batch["index"].tolist() == [0, 1]


def test_index_follows_python_s_rules(shared_roots: dict[str, Path]) -> None:
    data = AVSBenchDataset(shared_roots["ms3"], "ms3", "test", image_size=8)
    assert data[-1]["index"] == 1
    with pytest.raises(IndexError):
        data[2]
    assert len(list(iter(data))) == 2


@pytest.mark.parametrize("name", ["silence", "noise", "swap", "shift", "gain"])
@pytest.mark.parametrize("cache", [False, True])
def test_perturbations_change_the_sound_alone(shared_roots: dict[str, Path], name: str, cache: bool) -> None:
    root = shared_roots["s4"]
    plain = AVSBenchDataset(root, "s4", "train", image_size=12)
    changed = AVSBenchDataset(root, "s4", "train", image_size=12, perturbation=name, cache_in_memory=cache)
    for i in range(3):
        a, b = plain[i], changed[i]
        assert not torch.equal(a["log_mel"], b["log_mel"])
        assert same({k: v for k, v in a.items() if k != "log_mel"}, b)
        assert torch.equal(b["log_mel"], changed[i]["log_mel"])
    sounds = [item["log_mel"] for item in (plain[0], plain[1], plain[2])]
    if (
        name == "swap"
    ):  # each clip of one of three categories gets another category's sound, and each sound is used once
        used = [next(j for j in range(3) if torch.equal(changed[i]["log_mel"], sounds[j])) for i in range(3)]
        assert sorted(used) == [0, 1, 2]
        assert len({plain.entries[i].category for i in range(3)}) == len(CATEGORIES)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "/etc", "a\x00b", "a\nb"])
def test_paths_stay_under_the_root(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        join_under(tmp_path, "ok", name)
    assert join_under(tmp_path, "-a_b.mp4_1.png") == tmp_path / "-a_b.mp4_1.png"
