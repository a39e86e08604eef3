"""Questions about a video: what the model is fed, the answers told, the command's files and refusals, the picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from crossmamba.cli import main
from crossmamba.data.media import write_video
from crossmamba.data.qa import templates, vocabulary
from crossmamba.encoders import build_picture_encoder, build_sound_encoder
from crossmamba.errors import CheckpointError, MediaError, UsageError
from crossmamba.extract.run import extract_features
from crossmamba.models import create_model, save_pretrained
from crossmamba.predict import AVQAPipeline, load_pipeline
from crossmamba.predict.avqa_drawing import MOST_FRAMES, AnswerPicture, answer_figure, heat
from crossmamba.predict.avqa_features import load_features, recipe_of, store_encoder
from crossmamba.predict.avqa_questions import kind_of_question, known_words
from tests.media_files import clicks, good, gray

COUNT = "How many instruments are sounding in the video?"
WHERE = "Where is the loudest instrument?"
CARD = {
    "audio": "small_sound",
    "visual": "small_picture",
    "question": "words",
    "frames": 10,
    "image_size": 224,
    "answers": list(templates.ANSWERS),
    "vocabulary": list(vocabulary.WORDS),
}
FACTS = {"task": "avqa", "trained_on": "the synthetic world in the layout of MUSIC-AVQA"}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both small encoders' weights, as a tagging run leaves it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("encoders")
    save_file(build_sound_encoder("small_sound", dim=64).state_dict(), folder / "small_sound.safetensors")
    pyramid = build_picture_encoder("small_pyramid", widths=(32, 64, 64, 64))
    save_file(pyramid.state_dict(), folder / "small_picture.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, encoders: Path) -> Path:
    """A run folder with an untrained AV-Mamba and its encoders."""
    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("run")
    model = create_model("av_mamba_small", width=16, cm_width=16, d_state=2)
    save_pretrained(model, run / "model", preprocessing=CARD, metadata=FACTS)
    for name in ("small_sound", "small_picture"):
        store_encoder(run / "model", name, encoders / f"{name}.safetensors")
    return run


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good(tmp_path_factory.mktemp("video") / "v.mp4", 12.0, 4)


def test_the_answers_are_the_models_on_extracted_features(
    run: Path, encoders: Path, video: Path, tmp_path: Path
) -> None:
    result = load_pipeline(run)(video, [COUNT, WHERE])
    weights = {name: str(encoders / f"{name}.safetensors") for name in ("small_sound", "small_picture")}
    extract_features(list(weights), tmp_path, videos=[video], weights=weights)
    rows = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]  # floor(12 i / 10)
    assert result.seconds.tolist() == rows
    audio, visual = (torch.from_numpy(np.load(tmp_path / name / "v.npy")[rows])[None] for name in weights)
    model = load_pipeline(run).model
    for number, question in enumerate((COUNT, WHERE)):
        words = torch.from_numpy(vocabulary.encode_question(question))[None]
        with torch.no_grad():
            expected = model(audio, visual, words).logits[0].softmax(-1)
        told = dict(result.answers[number].answers)
        assert list(told) == [templates.ANSWERS[i] for i in expected.argsort(descending=True)]
        np.testing.assert_allclose([told[name] for name in templates.ANSWERS], expected.numpy(), rtol=1e-4)
        maps = model.explain(audio, visual, words)
        np.testing.assert_allclose(result.answers[number].spatial, maps.spatial[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(result.answers[number].audio, maps.audio[0].numpy(), atol=1e-5)


def test_the_command_writes_what_it_promises(run: Path, video: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    arguments = ["predict", str(video), "--model", str(run), "--out", str(out)]
    assert main([*arguments, "--question", COUNT, "--question", "Is there a cello?", "--top", "3", "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads((out / "result.json").read_text())
    assert json.loads(printed.out) == result
    assert "synthetic world" in printed.err
    assert "none of the 33 kinds" in printed.err
    assert sorted(path.name for path in out.iterdir()) == ["answer_1.png", "answer_2.png", "result.json"]
    first, second = result["questions"]
    assert (first["type"], second["type"]) == (["Audio-Visual", "Counting"], None)
    assert first["answer"] == first["answers"][0]["answer"]
    assert len(first["answers"]) == 3
    probabilities = [entry["probability"] for entry in first["answers"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert [entry["second"] for entry in first["when"]] == result["seconds"]
    assert sum(entry["sound"] for entry in first["when"]) == pytest.approx(1, abs=1e-3)
    assert first["where"]["grid"] == [8, 8]
    assert [len(frame) for frame in first["where"]["weights"]] == [64] * 10
    assert Image.open(out / first["picture"]).size[0] > 1000
    assert result["settings"]["encoders"]["small_sound"]["sha256"]
    assert main(arguments) == 2  # never over earlier results without being asked
    assert "--overwrite" in capsys.readouterr().err
    (out / "mine.txt").write_text("keep")
    assert main([*arguments, "--question", COUNT, "--overwrite", "--no-overlay"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["mine.txt", "result.json"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "give --question"),
        (["--question", "How many guitar are there?"], 2, "'guitar'"),
        (["--question", "How many Musicl instruments were heard throughout the video?"], 2, "musical"),
        (["--question", ""], 2, "empty"),
        (["--question", COUNT, "--choice", "two"], 2, "--choice"),
        (["--question", COUNT, "--threshold", "0.5"], 2, "--threshold"),
        (["--question", COUNT, "--top", "0"], 2, "--top"),
        (["--question", COUNT, "--weights", "vggish=x.pth"], 2, "vggish"),
        (["--question", COUNT, "--weights", "vggish"], 2, "NAME=PATH"),
        (["--question", COUNT, "--weights", "small_sound=absent.safetensors"], 3, "absent.safetensors"),
    ],
)
def test_wrong_calls_end_in_one_line(
    run: Path, video: Path, tmp_path: Path, capsys, options: list[str], code: int, words: str
) -> None:
    assert main(["predict", str(video), "--model", str(run), "--out", str(tmp_path / "out"), *options]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


def test_videos_that_do_not_fit_end_in_one_line(run: Path, tmp_path: Path, capsys) -> None:
    silent, short, deaf = tmp_path / "silent.mp4", good(tmp_path / "short.mp4", 4.0), tmp_path / "deaf.mp4"
    write_video(silent, map(gray, range(44)), 4)
    deaf.write_bytes(b"no video")
    arguments = ["--model", str(run), "--out", str(tmp_path / "out"), "--question", COUNT]
    for path, words in ((silent, "no sound"), (short, "4 whole seconds; this model looks at 10"), (deaf, "deaf.mp4")):
        assert main(["predict", str(path), *arguments]) == 3
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line, line
    assert main(["predict", str(silent), *arguments, "--allow-silence", "--no-overlay"]) == 0
    assert "treated as silent" in capsys.readouterr().err


def test_sixty_one_seconds_are_cut_to_sixty(run: Path, tmp_path: Path) -> None:
    result = load_pipeline(run)(good(tmp_path / "v.mp4", 61.0, 1), [COUNT])
    assert result.seconds.tolist() == list(range(0, 60, 6))
    assert any("first 60 s" in warning for warning in result.warnings)


def test_sound_that_ends_early_is_reported(run: Path, tmp_path: Path) -> None:
    result = load_pipeline(run)(good(tmp_path / "v.mp4", 11.0, 4, sound_seconds=5.0), [COUNT])
    assert any("sound ends at 5" in warning for warning in result.warnings)
    assert result.loudness[:50].max() == 1
    assert result.loudness[60:].max() == 0


def test_a_model_that_chooses_takes_choices(encoders: Path, video: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model("av_mamba_small", width=16, cm_width=16, d_state=2, head="choices")
    folder = save_pretrained(model, tmp_path / "m", preprocessing={**CARD, "answers": None}, metadata=FACTS)
    pipe = load_pipeline(folder, weights={name: str(encoders) for name in ("small_sound", "small_picture")})
    result = pipe(
        video, ["What sounds?".replace("What sounds", "Where is the loudest instrument")], choices=["cello", "drum"]
    )
    assert {name for name, _ in result.answers[0].answers} == {"cello", "drum"}
    assert sum(value for _, value in result.answers[0].answers) == pytest.approx(1)
    assert not result.warnings
    with pytest.raises(UsageError, match="--choice"):
        pipe(video, [COUNT])


def test_encoders_that_are_nowhere_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="small_sound"):
        load_features(CARD, tmp_path, {})
    with pytest.raises(UsageError, match=r"vggish.*weights"):
        load_features({**CARD, "audio": "vggish"}, run / "model", {})
    with pytest.raises(UsageError, match=r"tome_patches.*tome_vit_l16_384=FILE.*vit_large_patch16_384"):
        load_features({**CARD, "visual": "tome_patches"}, run / "model", {})
    with pytest.raises(CheckpointError, match="unknown kind"):
        load_features({**CARD, "visual": "smell"}, run / "model", {})
    with pytest.raises(CheckpointError, match="question"):
        load_features({"audio": "vggish", "visual": "frames"}, run / "model", {})
    with pytest.raises(CheckpointError, match="safetensors"):
        store_encoder(tmp_path, "small_sound", tmp_path / "x.pth")
    assert recipe_of("clip_class") == recipe_of("clip_tokens")
    raw = {**CARD, "audio": "log_mel", "visual": "frame_files"}
    assert load_features(raw, run / "model", {}).visual == "frames", "JPEGs of the same moments"


def test_a_damaged_model_is_refused(run: Path, video: Path) -> None:
    pipe = load_pipeline(run)
    with torch.no_grad():
        pipe.model.head.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        pipe(video, [COUNT])
    short = AVQAPipeline(create_model("av_mamba_small"), {**CARD, "answers": ["yes", "no"]}, pipe.features)
    with pytest.raises(CheckpointError, match="42 answers"):
        short(video, [COUNT])
    with pytest.raises(CheckpointError, match="frames"):
        AVQAPipeline(pipe.model, {"audio": "small_sound"}, pipe.features)
    with pytest.raises(UsageError, match="no question"):
        load_pipeline(run)(video, [])


@pytest.mark.parametrize("name", ["shmamba_small", "avst_small"])
def test_every_small_model_answers(name: str, encoders: Path, video: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = save_pretrained(create_model(name), tmp_path / "m", preprocessing=CARD, metadata=FACTS)
    pipe = load_pipeline(folder, weights={kind: str(encoders) for kind in ("small_sound", "small_picture")})
    (answer,) = pipe(video, [COUNT]).answers
    assert answer.audio.shape == answer.visual.shape == (10,)
    assert np.allclose(answer.spatial.sum((1, 2)), 1, atol=1e-4)


def test_a_model_with_its_own_encoders_needs_no_weights(video: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create_model(
        "av_mamba_small", width=16, cm_width=16, d_state=2, audio_input="small_sound", visual_input="small_pyramid"
    )
    card = {**CARD, "audio": "log_mel", "visual": "frames", "image_size": 64}
    pipe = load_pipeline(save_pretrained(model, tmp_path / "m", preprocessing=card, metadata=FACTS))
    assert pipe(video, [COUNT]).answers[0].spatial.shape == (10, 2, 2)


# ---------------------------------------------------------------- questions


def test_typed_questions_are_read_kindly() -> None:
    words = known_words("how many acoustic guitar  are in the entire Video ?", vocabulary.MUSIC_AVQA)
    assert words == ["How", "many", "acoustic_guitar", "are", "in", "the", "entire", "video"]
    kind = kind_of_question(words)
    assert kind is not None
    assert kind.text == "How many <Object> are in the entire video?"
    assert known_words("How many kazoo?", vocabulary.MUSIC_AVQA)[-1] == "kazoo"
    assert kind_of_question(["How", "many"]) is None


@pytest.mark.parametrize("template", templates.TEMPLATES, ids=lambda template: template.text)
def test_every_template_is_recognised(template: templates.Template) -> None:
    words = templates.fill(template.text, [templates.SLOTS[slot][0] for slot in template.slots])
    found = kind_of_question(words)
    assert found is not None
    assert (found.modality, found.kind) == (template.modality, template.kind)


# ---------------------------------------------------------------- the picture


def _content(count: int, size: tuple[int, int] = (48, 64)) -> AnswerPicture:
    draw = np.random.default_rng(0)
    weights = np.full(count, 1 / count, np.float32)
    return AnswerPicture(
        question=COUNT,
        answers=[("two", 0.7), ("acoustic_guitar", 0.2), ("more than ten", 0.1)],
        times=np.arange(count) + 0.5,
        frames=[draw.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)],
        spatial=np.full((count, 8, 8), 1 / 64, np.float32),
        audio=weights,
        visual=weights,
        loudness=draw.random(10 * count).astype(np.float32),
        duration=float(count),
        note="a note",
    )


@pytest.mark.parametrize(("count", "size"), [(1, (48, 64)), (10, (64, 64)), (60, (90, 160)), (10, (200, 40))])
def test_the_picture_has_frames_weights_and_answers(count: int, size: tuple[int, int]) -> None:
    figure = answer_figure(_content(count, size))
    frames, mapped, time, bars = figure.axes
    shown = min(count, MOST_FRAMES)
    assert len(time.get_xticks()) == shown
    assert len([patch for patch in time.patches if patch.get_height() > 0]) == 2 * count
    assert frames.images[0].get_array().shape == mapped.images[0].get_array().shape
    assert [text.get_text() for text in bars.texts][::2] == ["two", "acoustic guitar", "more than ten"]
    assert [patch.get_width() for patch in bars.patches] == [0.7, 0.2, 0.1]
    tile = frames.images[0].get_array().shape[1] / shown  # a tile is as wide as its part of the time axis
    assert tile == int(tile)
    centres = (np.arange(shown) + 0.5) * count / shown - 0.5
    assert np.abs(centres - time.get_xticks()).max() <= 0.5


def test_the_map_is_warm_where_the_model_looked() -> None:
    frame = np.full((64, 64, 3), 100, np.uint8)
    spatial = np.zeros((8, 8), np.float32)
    spatial[1, 1] = 1
    drawn = heat(frame, spatial, 1.0).astype(int)
    assert (drawn[12, 12] - drawn[12, 12].min()).max() > 80
    assert np.ptp(drawn[50, 50]) < 5


def test_a_segmentation_model_takes_no_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import crossmamba.models
    from tests.fake_avs import LoudLeft

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.setattr(crossmamba.models, "from_pretrained", lambda folder: LoudLeft(), raising=False)
    path = tmp_path / "v.mp4"
    write_video(path, map(gray, range(16)), 8, audio=clicks(2.0))
    arguments = ["predict", str(path), "--model", str(tmp_path), "--out", str(tmp_path / "out"), "--question", COUNT]
    assert main(arguments) == 2
    assert "demo avqa" in capsys.readouterr().err
    with pytest.raises(MediaError):
        load_pipeline(tmp_path)(tmp_path / "absent.mp4")
