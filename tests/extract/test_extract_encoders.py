"""Every recipe: folder and shape as the published layout has them, transforms, encoders shared, text."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from crossmamba.cli import main
from crossmamba.cli.data_extract import DESCRIPTION
from crossmamba.data.media import PictureStream, ShownFrame
from crossmamba.data.qa.features import FEATURES
from crossmamba.encoders import build_frame_encoder, build_motion_encoder, build_sound_encoder, build_text_encoder
from crossmamba.encoders.clip import ClipFrames, ClipSize, ClipText
from crossmamba.encoders.egocentric import VitSize
from crossmamba.encoders.r2plus1d import R2Plus1D
from crossmamba.encoders.resnet import ResNetFrames
from crossmamba.encoders.token_merging import ToMeFrames
from crossmamba.errors import CheckpointError, DataError, UsageError
from crossmamba.extract import encoders as encoders_module
from crossmamba.extract.encoders import Extractor
from crossmamba.extract.reading import seconds_of
from crossmamba.extract.recipes import RECIPES, recipes_for
from crossmamba.extract.run import extract_features, find_videos
from crossmamba.extract.texts import avqa_texts, collect, music_texts
from crossmamba.extract.transforms import CLIP_224, KINETICS_112, KINETICS_448, TOME_384
from tests.extract.conftest import coded_video

TINY = ClipSize(224, 32, 16, 1, 2, 12, 1, 2, 10, length=40, vocabulary=64)
PICTURES = ("clip_tokens", "clip_b32", "resnet18_grid", "resnet18", "r2plus1d", "tome_patches")
QUESTIONS = ("clip_question", "clip_words")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoders of the published kinds, with few channels."""
    builders: dict[str, Callable[[], nn.Module]] = {
        "clip_vit_b32": lambda: ClipFrames(TINY),
        "resnet18": lambda: ResNetFrames((8, 8, 8, 12), (1, 1, 1, 1), 8),
        "r2plus1d_18": lambda: R2Plus1D((8, 8, 8, 14), (1, 1, 1, 1), (4, 8)),
        "clip_text_vit_b32": lambda: ClipText(TINY),
    }
    monkeypatch.setattr(encoders_module, "ToMeFrames", lambda: ToMeFrames(VitSize(6, 24, 2, 16)))
    for kind in ("frame", "motion", "text"):
        monkeypatch.setattr(encoders_module, f"build_{kind}_encoder", lambda name: builders[name]())
    monkeypatch.setattr(encoders_module, "ClipTokens", partial(encoders_module.ClipTokens, length=TINY.length))


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A tokenizer that knows letters, `is` and the question mark."""
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz?"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "is</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\ni s</w>\n")
    return folder


def random_weights(names: tuple[str, ...]) -> dict[str, str]:
    return {RECIPES[name].weights: "random" for name in names}


def shown(width: int, height: int) -> ShownFrame:
    """A decoded picture whose red grows to the right and whose green grows downwards."""
    import av

    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([columns, rows, np.full_like(rows, 128)], -1).astype(np.uint8)
    return ShownFrame(0.0, 0.0, av.VideoFrame.from_ndarray(pixels, format="rgb24"))


def test_recipes_are_what_the_data_sets_read() -> None:
    """Same names, folders and, with the encoders' real sizes, shapes."""
    for name, recipe in RECIPES.items():
        assert f"  {name} " in DESCRIPTION
        assert f" {recipe.folder}/" in DESCRIPTION
        assert recipe.source == "frames" or f"weights {recipe.weights}" in DESCRIPTION
        if name in FEATURES:
            assert recipe.folder == FEATURES[name].folders[0]
    assert FEATURES.keys() - RECIPES.keys() == {"clip_class"}, "read from another feature's file"
    assert RECIPES.keys() - FEATURES.keys() == {"frames"}
    with torch.device("meta"):
        for name in ("clip_tokens", "clip_frame", "resnet18", "resnet18_grid"):
            encoder, transform = build_frame_encoder(RECIPES[name].encoder), RECIPES[name].transform
            assert transform is not None
            assert encoder.size in (None, transform.size)
            made = getattr(encoder(torch.zeros(1, 3, *transform.size)), RECIPES[name].output)
            assert FEATURES[name].fits(made.shape)
        merged = ToMeFrames()
        assert merged.size == RECIPES["tome_patches"].transform.size
        assert FEATURES["tome_patches"].fits(merged(torch.zeros(1, 3, 384, 384)).tokens.shape)
        assert build_frame_encoder("clip_vit_l14").dim == 768
        assert build_motion_encoder("r2plus1d_18").dim == 512
        assert build_text_encoder("clip_text_vit_b32").dim == 512
        assert build_sound_encoder("vggish").dim == 128


def test_pictures_of_every_kind_in_one_pass(tmp_path: Path, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six features of one decoding; CLIP's tokens and vector of one forward; values equal the encoder by hand."""
    path = coded_video(tmp_path / "v" / "a.mp4", 3.0, fps=16)
    opened, calls, start = [], [], PictureStream.__init__
    monkeypatch.setattr(PictureStream, "__init__", lambda self, *a, **k: (opened.append(1), start(self, *a, **k))[1])
    forward = ClipFrames.look
    monkeypatch.setattr(ClipFrames, "look", lambda self, frames: (calls.append(len(frames)), forward(self, frames))[1])
    report = extract_features(
        PICTURES, tmp_path, videos=find_videos(tmp_path / "v"), weights=random_weights(PICTURES), progress=False
    )
    assert report.made == 1
    assert len(opened) == 1
    assert calls == [1, 3], "once for the shapes, once for three seconds"
    made = {name: np.load(tmp_path / RECIPES[name].folder / "a.npy") for name in PICTURES}
    assert {name: values.shape for name, values in made.items()} == {
        "clip_tokens": (3, 50, 10),
        "clip_b32": (3, 10),
        "resnet18_grid": (3, 12, 14, 14),
        "resnet18": (3, 12),
        "r2plus1d": (3, 14),
        "tome_patches": (3, 14, 6),
    }
    np.testing.assert_array_equal(made["clip_tokens"][:, 0], made["clip_b32"])
    extractor = Extractor(recipes_for(["resnet18_grid"]), random_weights(PICTURES[2:3]))
    (group,) = extractor.groups
    assert group.view is not None
    second = list(seconds_of(path, 3, [group.view], sound=False))[1]
    inputs = KINETICS_448.standardise(torch.tensor(second.views[group.key][0]))[None]
    assert group.encoder is not None
    with torch.no_grad():
        grid = group.encoder(inputs).grid
    torch.testing.assert_close(torch.tensor(made["resnet18_grid"][1:2]), grid)


def test_transforms() -> None:
    wide = shown(400, 200)
    clip = CLIP_224.picture(wide)
    assert clip.shape == (224, 224, 3)
    red = clip[112, :, 0].astype(float)
    assert abs(red[0] - 255 * 0.25) < 3, "the middle square of a picture twice as wide as high"
    assert abs(red[-1] - 255 * 0.75) < 3
    whole = KINETICS_448.picture(wide)
    assert whole.shape == (448, 448, 3)
    assert (whole[0, 0, 0] < 3, whole[0, -1, 0] > 252) == (True, True), "nothing is cut off"
    middle = KINETICS_112.picture(wide)
    assert middle.shape == (112, 112, 3)
    assert abs(float(middle[56, 0, 0]) - 255 * (30 / 171)) < 4
    merged = TOME_384.picture(wide)
    assert merged.shape == (384, 384, 3)
    assert abs(float(merged[0, 192, 1]) - 255 * (27 / 438)) < 3, "of 438 rows 27 are cut off above"
    expected = Image.fromarray(wide.rgb()).resize((448, 224), Image.Resampling.BICUBIC).crop((112, 0, 336, 224))
    np.testing.assert_array_equal(clip, np.asarray(expected))
    values = KINETICS_448.standardise(torch.full((2, 4, 4, 3), 255, dtype=torch.uint8))
    torch.testing.assert_close(
        values[0, :, 0, 0], torch.tensor([0.56784 / 0.22803, 0.605334 / 0.22145, 0.62355 / 0.216989])
    )
    assert values.shape == (2, 3, 4, 4)


def annotate(root: Path, rows: list[tuple[int, str]], split: str = "val") -> None:
    def row(number: int, instrument: str) -> dict[str, object]:
        return {
            "video_id": "00000000", "question_id": number, "type": '["Audio", "Counting"]', "anser": "yes",
            "question_content": "Is there a <Object> sound?", "question_deleted": 0,
            "templ_values": f'["{instrument}"]',
        }  # fmt: skip

    (root / "json_update").mkdir(exist_ok=True)
    content = json.dumps([row(*pair) for pair in rows])
    (root / "json_update" / f"avqa-{split}.json").write_text(content)


def test_questions(tmp_path: Path, tiny: None, tokenizer: Path) -> None:
    """One file a question of every split, from the filled sentence; resumed; refused with another encoder."""
    annotate(tmp_path, [(3, "cello"), (4, "tuba")])
    annotate(tmp_path, [(9, "pipa")], "test")
    command = ["data", "extract", "music-avqa", str(tmp_path), "--features", *QUESTIONS, "--tokenizer", str(tokenizer)]
    command += ["--weights", "clip_vit_b32=random"]
    assert main(command) == 0
    vectors = {path.stem: np.load(path) for path in (tmp_path / "clip_qst").glob("*.npy")}
    words = {path.stem: np.load(path) for path in (tmp_path / "clip_word").glob("*.npy")}
    assert vectors.keys() == words.keys() == {"3", "4", "9"}
    assert {values.shape for values in vectors.values()} == {(1, 10)}
    assert {values.shape for values in words.values()} == {(1, 40, 10)}
    encoder = Extractor(recipes_for(QUESTIONS), {"clip_vit_b32": "random"}, tokenizer=str(tokenizer))
    expected = encoder.texts(["Is there a tuba sound?"], encoder.groups[0])
    np.testing.assert_allclose(vectors["4"], expected["clip_question"], atol=1e-6)
    assert np.abs(vectors["3"] - vectors["4"]).max() > 1e-4
    (tmp_path / "clip_qst" / "9.npy").write_bytes(b"")
    again = extract_features(
        QUESTIONS, tmp_path, texts=music_texts(tmp_path), weights={"clip_vit_b32": "random"}, progress=False,
        tokenizer=str(tokenizer),
    )  # fmt: skip
    assert (again.texts_made, again.texts_kept) == (1, 2)
    torch.manual_seed(5)
    save_file({k: v.contiguous() for k, v in ClipText(TINY).state_dict().items()}, tmp_path / "other.safetensors")
    with pytest.raises(UsageError, match="made in another way"):
        extract_features(
            QUESTIONS, tmp_path, texts=music_texts(tmp_path), progress=False, tokenizer=str(tokenizer),
            weights={"clip_vit_b32": str(tmp_path / "other.safetensors")},
        )  # fmt: skip


def test_choices(tmp_path: Path, tiny: None, tokenizer: Path) -> None:
    rows = [
        {"id": 7, "video_name": "x_1", "video_id": 0, "question_text": "is it a?", "multi_choice": ["a", "b", "c", "d"],
         "answer": 1, "question_relation": "View", "question_type": "Which"},
    ]  # fmt: skip
    (tmp_path / "val_qa.json").write_text(json.dumps(rows))
    texts = avqa_texts(tmp_path)
    assert texts.choices == (("7", ("a", "b", "c", "d")),)
    command = ["data", "extract", "avqa", str(tmp_path), "--features", "clip_choices", "clip_question"]
    assert main([*command, "--weights", "clip_vit_b32=random", "--tokenizer", str(tokenizer)]) == 0
    assert np.load(tmp_path / "clip_choices" / "7.npy").shape == (4, 10)
    assert np.load(tmp_path / "clip_qst" / "7.npy").shape == (1, 10)
    assert main([*command, "--weights", "clip_vit_b32=random"]) == 2, "no tokenizer"
    with pytest.raises(DataError, match="val_qa"):
        avqa_texts(tmp_path / "clip_qst")


def test_the_tokenizer_pads_with_zero_and_names_what_is_missing(tmp_path: Path, tokenizer: Path) -> None:
    from crossmamba.encoders.clip_tokens import ClipTokens

    ids = ClipTokens(tokenizer, 12)(["Is it?", "ab"])
    assert ids.tolist() == [[55, 54, 8, 46, 53, 56, 0, 0, 0, 0, 0, 0], [55, 0, 28, 56, 0, 0, 0, 0, 0, 0, 0, 0]]
    with pytest.raises(DataError, match="18 tokens; CLIP takes at most 12"):
        ClipTokens(tokenizer, 12)(["abcdefghijklmnop"])
    (tokenizer / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no merges\.txt"):
        ClipTokens(tokenizer)
    (tokenizer / "merges.txt").write_text("")
    (tokenizer / "vocab.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a tokenizer"):
        ClipTokens(tokenizer)


def test_ids_that_are_missing_or_come_twice_are_said() -> None:
    texts = collect(
        [("1", "is it?", ()), (None, "who?", ()), ("1", "is it?", ()), ("1", "is he?", ()), ("2", "a?", ())]
    )
    assert texts.questions == (("1", "is it?"), ("2", "a?"))
    assert [note.split(":")[0] for note in texts.notes] == [
        "1 rows have no question id and so can have no file",
        "1 ids occur again with another question; the first counts",
    ]
