"""Actions in videos: what a model is shown, segments, streaming, questions, the command and its refusals."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from crossmamba.cli import main
from crossmamba.data.epic.classes import ClassTable
from crossmamba.data.epic.crops import ClipTransform
from crossmamba.data.epic.dataset import EpicDataset
from crossmamba.data.epic.sampling import WINDOW
from crossmamba.data.media import frames_at, probe, write_video
from crossmamba.errors import CheckpointError, MediaError, UsageError
from crossmamba.models import create_model, save_pretrained
from crossmamba.overlay import ActionFilm, TimedName
from crossmamba.overlay.actions import PALETTE, _Painter, colours_of
from crossmamba.predict import load_pipeline
from crossmamba.predict.action_names import ClassNames, Said, Window, join_windows, top_actions
from crossmamba.predict.action_run import Live
from crossmamba.predict.action_smoothing import smoothed
from crossmamba.predict.action_timeline import picture_times, rows_of
from crossmamba.predict.action_windows import GridPictures, clips, grid_of
from crossmamba.questions.templates import GENERIC, word_tokenizer
from tests.data.epic.epic_toy import NOUNS, VERBS, number_of, write_annotations, write_clip, write_videos
from tests.media_files import clicks

TABLES = [ClassTable(kind, keys, tuple((key,) for key in keys)) for kind, keys in (("verb", VERBS), ("noun", NOUNS))]
WORDS = list(word_tokenizer(*TABLES).words)
SIZE = 32


def saved(folder: Path, *, kind: str = "recognition", source: str = "none", seed: int = 0, **args: Any) -> Path:
    """A run folder with an untrained small model and the card that a training writes."""
    torch.manual_seed(seed)
    width = {"width": 16, "d_state": 2, "video_args": {"width": 16, "stem_width": 8}}
    args = {"verbs": 3, "nouns": 2, "words": len(WORDS) + 3, "fusion": "shared_a", **width, **args}
    model = create_model("mambavl_small", **args)
    with torch.no_grad():  # so that logits differ between clips
        model.verb_head.weight.mul_(20)
        model.noun_head.weight.mul_(20)
    card = {
        "video": "clips",
        "frames": 6,
        "mode": "dense",
        "image_size": SIZE,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "observed": WINDOW,
        "text": None if source == "none" else "words",
        "tokenizer": None,
        "vocabulary": None if source == "none" else WORDS,
        "verbs": list(VERBS),
        "nouns": list(NOUNS),
    }
    facts = {
        "task": "action",
        "trained_on": "the synthetic kitchen in the layout of EPIC-KITCHENS-100",
        "epic_task": kind,
        "question_source": source,
    }
    save_pretrained(model, folder / "model", preprocessing=card, metadata=facts)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("actions")


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    return saved(home / "run")


@pytest.fixture(scope="module")
def asking(home: Path) -> Path:
    return saved(home / "asking", source="generic")


@pytest.fixture(scope="module")
def ahead(home: Path) -> Path:
    return saved(home / "ahead", kind="anticipation", seed=1)


@pytest.fixture(scope="module")
def kitchen(home: Path) -> Path:
    """The toy set with videos of 10 s, whose pictures carry their number."""
    return write_videos(write_annotations(home / "kitchen"))


@pytest.fixture(scope="module")
def video(kitchen: Path) -> Path:
    return kitchen / "P01" / "videos" / "P01_01.MP4"


# ---------------------------------------------------------------- what the model is shown


@pytest.mark.parametrize("mode", ["dense", "uniform"])
def test_the_clip_around_a_moment_is_the_data_sets(kitchen: Path, video: Path, home: Path, mode: str) -> None:
    folder = saved(home / f"of_{mode}")
    card = json.loads((folder / "model" / "config.json").read_text())
    card["preprocessing"]["mode"] = mode
    (folder / "model" / "config.json").write_text(json.dumps(card))
    pipe = load_pipeline(folder)
    dataset = EpicDataset(kitchen, "validation", frames=6, mode=mode, transform=ClipTransform(SIZE))
    row, item = dataset.rows[2], dataset[2]  # 2.5 to 6 s
    length = row.stop_timestamp - row.start_timestamp
    if mode == "dense":  # whose first view is the segment's first 64/30 s
        length = WINDOW
    moment = pipe.at(video, row.start_timestamp + length / 2, window=length)
    with torch.no_grad():
        expected = pipe.model(item["video"][None])
    assert moment.now is not None
    np.testing.assert_allclose(moment.now.said.verb, expected.verb[0].double().softmax(-1), rtol=1e-4)
    np.testing.assert_allclose(moment.now.said.noun, expected.noun[0].double().softmax(-1), rtol=1e-4)


def test_windows_hold_their_pictures(video: Path) -> None:
    grid = grid_of(6, "dense", 2.0, 0.5, 20.0)
    assert grid.spacing == pytest.approx(1.95 / 5)
    transform = ClipTransform(SIZE)
    pictures = GridPictures(video, grid, transform)
    found = list(clips(pictures))
    assert pictures.end == pytest.approx(10.0)
    starts = [start for start, _, _ in found]
    np.testing.assert_allclose(np.diff(starts), grid.stride)
    assert found[-1][1] <= 10.0 < found[-1][1] + grid.stride + grid.spacing
    for start, end, clip in found:
        assert end - start == pytest.approx(2.0)
        shown = frames_at(video, [start + place * grid.spacing for place in range(6)])
        torch.testing.assert_close(clip, transform([frame.rgb() for frame in shown]))


def test_what_lies_before_a_moment_never_holds_later_pictures(video: Path, ahead: Path) -> None:
    pipe = load_pipeline(ahead)
    result = pipe(video)
    assert result.segments is None
    assert result.windows is None
    assert result.ahead is not None
    assert result.ahead[0].end == pytest.approx(WINDOW)
    assert result.ahead[-1].end <= 10.0
    transform = ClipTransform(SIZE)
    for _, end, clip in clips(GridPictures(video, grid_of(6, "past", WINDOW, 0.5, 20.0), transform)):
        (last,) = frames_at(video, [end])
        assert number_of(last.rgb()) == int(end * 20 + 1e-6)
        torch.testing.assert_close(clip[:, -1:], transform([last.rgb()]))
    moment = pipe.at(video, 5.0)
    assert moment.now is None
    assert moment.later is not None
    assert (moment.later.start, moment.later.end) == (pytest.approx(5 - WINDOW), 5.0)
    early = pipe.at(video, 0.5)  # less of the past is there than it was trained on: the first picture repeated
    assert early.later is not None
    assert early.later.start == 0.0


def test_a_video_shorter_than_a_window(run: Path, ahead: Path, tmp_path: Path) -> None:
    short = write_clip(tmp_path / "s.mp4", range(20))
    pipe = load_pipeline(run)
    result, streamed = pipe(short), pipe(short, stream=True)
    assert result.windows is not None
    assert streamed.windows is not None
    assert [(s.start, s.end) for s in result.segments or ()] == [(0.0, pytest.approx(WINDOW / 2, abs=0.1))]
    np.testing.assert_allclose(streamed.windows[0].said.verb, result.windows[0].said.verb, rtol=1e-4)
    assert load_pipeline(ahead)(short).ahead == []
    assert pipe.at(short, 1.0).now is not None


# ---------------------------------------------------------------- segments


def _window(start: float, verb: int, noun: int) -> Window:
    values = [np.full(3, 0.1), np.full(2, 0.2)]
    values[0][verb] = 0.8
    values[1][noun] = 0.8
    return Window(start, start + 2, Said(*values))


def test_neighbours_with_the_same_action_are_one_segment() -> None:
    actions = [(0, 0), (0, 0), (1, 0), (1, 1), (1, 1), (0, 0)]
    segments = join_windows([_window(float(n), *action) for n, action in enumerate(actions)], 9.5)
    assert [segment.action for segment in segments] == [(0, 0), (1, 0), (1, 1), (0, 0)]
    assert [(segment.start, segment.end) for segment in segments] == [(0, 2.5), (2.5, 3.5), (3.5, 5.5), (5.5, 9.5)]
    assert [segment.windows for segment in segments] == [2, 1, 2, 1]
    assert segments[0].probability == pytest.approx(0.64)
    assert join_windows([], 3.0) == []


def test_the_best_actions_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    said = Said(rng.dirichlet(np.ones(7)), rng.dirichlet(np.ones(9)))
    names = ClassNames(tuple("abcdefg"), tuple("123456789"))
    product = said.verb[:, None] * said.noun[None]
    order = np.argsort(-product, axis=None)[:5]
    expected = [(names.verbs[i // 9], names.nouns[i % 9]) for i in order]
    assert [(verb, noun) for verb, noun, _ in top_actions(said, names, 5)] == expected
    with pytest.raises(CheckpointError, match="3 verbs, its card names 2"):
        ClassNames.of({"verbs": ["a", "b"]}, 3, 2)


# ---------------------------------------------------------------- streaming


@pytest.mark.parametrize("fusion", ["shared_a", "concat", "none"])
@pytest.mark.parametrize("kind", ["recognition", "anticipation"])
def test_frame_by_frame_is_window_by_window(video: Path, tmp_path: Path, fusion: str, kind: str) -> None:
    source = "none" if fusion == "none" else "generic"
    pipe = load_pipeline(saved(tmp_path, kind=kind, source=source, fusion=fusion))
    whole, streamed = pipe(video, stride=0.9), pipe(video, stride=0.9, stream=True)
    pairs = list(zip(whole.windows or whole.ahead, streamed.windows or streamed.ahead, strict=True))
    assert len(pairs) > 5
    for one, other in pairs:
        assert (one.start, one.end) == (pytest.approx(other.start), pytest.approx(other.end))
        np.testing.assert_allclose(other.said.verb, one.said.verb, rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(other.said.noun, one.said.noun, rtol=2e-4, atol=1e-7)
    assert len({tuple(one.said.verb) for one, _ in pairs}) == len(pairs)  # else nothing was compared
    assert streamed.about["settings"]["state_bytes"][kind] > 0


def test_memory_does_not_grow_with_the_video(run: Path, tmp_path: Path) -> None:
    pipe = load_pipeline(run)
    kept = []
    for seconds in (4, 16):
        path = write_clip(tmp_path / f"{seconds}.mp4", range(20 * seconds))
        streaming = pipe.run(path)
        steps = sum(1 for _ in streaming.steps())
        assert steps == streaming.pictures.count
        kept.append(streaming.most_bytes)
    assert kept[0] == kept[1] < 200_000


def test_a_stride_longer_than_a_window(run: Path, video: Path) -> None:
    pipe = load_pipeline(run)
    whole, streamed = (pipe(video, window=1.0, stride=3.0, stream=stream) for stream in (False, True))
    assert whole.windows is not None
    assert streamed.windows is not None
    assert len(whole.windows) == len(streamed.windows) == 3  # of pictures 0.19 s apart, every sixteenth
    for one, other in zip(whole.windows, streamed.windows, strict=True):
        np.testing.assert_allclose(other.said.verb, one.said.verb, rtol=2e-4)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"fusion": "cm_mamba"}, "needs the whole clip"),
        ({"fusion": "transformer_6x4"}, "needs the whole clip"),
        ({"video_args": {"width": 16, "stem_width": 8, "order": "space_major"}}, "time_major"),
    ],
)
def test_models_that_cannot_stream_are_refused(
    video: Path, tmp_path: Path, args: dict[str, Any], words: str, capsys
) -> None:
    folder = saved(tmp_path, source="generic", **args)
    assert main(["predict", str(video), "--model", str(folder), "--stream"]) == 2
    assert words in capsys.readouterr().err
    assert load_pipeline(folder).at(video, 3.0).actions()


# ---------------------------------------------------------------- questions


def test_questions_reach_the_model(asking: Path, video: Path) -> None:
    pipe = load_pipeline(asking)
    generic, none = pipe.at(video, 5.0), pipe.at(video, 5.0, asked=pipe.ask("none"))
    own = pipe.at(video, 5.0, asked=pipe.ask(verb="What does the person do to the plate?"))
    said = [moment.now.said for moment in (generic, none, own) if moment.now is not None]
    assert len({tuple(entry.verb) for entry in said}) == 3
    assert tuple(said[1].noun) == tuple(said[2].noun)  # no noun question in either
    settings = generic.describe()["settings"]
    assert (settings["question_source"], settings["verb_question"]) == ("generic", GENERIC[0])
    assert none.describe()["settings"]["question_source"] == "none"
    assert own.describe()["settings"]["question_source"] == "own"
    assert any("none here" in warning for warning in none.about["warnings"])
    assert generic.about["warnings"] == []


def test_unknown_words_and_other_sources_are_told(tmp_path: Path, video: Path, asking: Path) -> None:
    asked = load_pipeline(asking).ask(noun="Which xylophone?")
    assert asked.warnings == ["The model does not know the words xylophone of 'Which xylophone?'."]
    oracle = load_pipeline(saved(tmp_path, source="oracle"))
    assert "made of the true labels" in oracle.at(video, 1.0).describe()["warnings"][0]


# ---------------------------------------------------------------- the command


def test_a_moment_on_the_command_line(run: Path, ahead: Path, video: Path, tmp_path: Path, capsys) -> None:
    arguments = ["predict", str(video), "--task", "action", "--at", "5.5", "--weights", str(run)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "clip of 4.43 to 6.57 s" in printed.out
    assert "question source: none" in printed.out
    assert "synthetic world" in printed.err
    out = tmp_path / "out"
    assert main([*arguments, "--anticipation", str(ahead), "--out", str(out), "--top", "2", "--json"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert json.loads(capsys.readouterr().out) == result
    assert [len(result["clip"][key]) for key in ("verbs", "nouns", "actions")] == [2, 2, 2]
    assert result["clip"]["verbs"][0]["name"] in VERBS
    assert result["anticipation"]["begins_at"] == 6.5
    assert result["anticipation"]["seen_until"] == 5.5
    assert result["anticipation_model"]["kind"] == "anticipation"
    assert Image.open(out / "clip.png").size[0] > 1000


def test_a_whole_video_on_the_command_line(
    run: Path, ahead: Path, video: Path, kitchen: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    arguments = ["predict", str(video), "--model", str(run), "--anticipation", str(ahead), "--out", str(out)]
    truth = ["--annotations", str(kitchen / "EPIC_100_validation.csv")]
    assert main([*arguments, *truth]) == 0
    assert "said 1 s before" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["actions.mp4", "result.json", "timeline.png"]
    result = json.loads((out / "result.json").read_text())
    segments = result["segments"]
    assert segments[0]["start"] == 0
    assert segments[-1]["end"] == result["end"] == 10.0
    assert all(a["end"] == b["start"] for a, b in pairwise(segments))
    for moment in result["anticipation"]["moments"]:
        assert moment["begins_at"] == pytest.approx(moment["seen_until"] + 1)
    film = probe(out / "actions.mp4")
    assert film.picture is not None
    assert film.picture.end == pytest.approx(10.0, abs=0.05)
    assert film.picture.width == 640
    assert film.picture.height > 426  # the bar below
    assert main([*arguments, "--overwrite", "--no-overlay", "--stream"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["result.json", "stream.jsonl"]
    lines = [json.loads(line) for line in (out / "stream.jsonl").read_text().splitlines()]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    again = json.loads((out / "result.json").read_text())
    assert [(w["start"], w["end"]) for w in again["windows"]] == [(w["start"], w["end"]) for w in result["windows"]]
    for one, other in zip(again["windows"], result["windows"], strict=True):
        said = [[(action["verb"], action["noun"]) for action in entry["actions"]][:1] for entry in (one, other)]
        assert said[0] == said[1]


@pytest.fixture(scope="module")
def wavering(home: Path) -> Path:
    """A recogniser whose best action changes along the video."""
    return saved(home / "wavering", seed=1)


def test_segments_are_smoothed_and_what_the_model_said_of_windows_is_kept(
    wavering: Path, video: Path, tmp_path: Path, capsys
) -> None:
    pipe = load_pipeline(wavering)
    results = {smooth: pipe(video, stride=0.2, smooth=smooth) for smooth in (None, 0.0, 0.5, 1e3)}
    raw = [window.said.best for window in results[0.0].windows or ()]
    assert results[0.0].actions == raw
    assert len(results[0.0].segments or ()) > len(results[0.5].segments or ()) > 1
    assert results[None].actions == results[0.5].actions == smoothed(results[0.5].windows or (), 0.5)
    assert len(results[1e3].segments or ()) == 1
    for result in results.values():
        assert [window.said.best for window in result.windows or ()] == raw
        described = result.describe(2)
        assert [(w["actions"][0]["verb"], len(w["verbs"])) for w in described["windows"]] == [
            (VERBS[verb], 2) for verb, _ in raw
        ]
        lane, _ = result.lanes()  # of the timeline and of the mp4
        named = [(entry["start"], entry["verb"], entry["noun"]) for entry in described["segments"]]
        assert [(round(entry.start, 3), entry.verb, entry.noun) for entry in lane] == named
    assert results[None].about["settings"]["smoothing"] == {"kind": "viterbi", "nats": 0.5}
    assert results[0.0].about["settings"]["smoothing"] == {"kind": "none", "nats": 0.0}

    arguments = ["predict", str(video), "--model", str(wavering), "--no-overlay", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--smooth", "0"]) == 0
    assert "smoothing: none" in capsys.readouterr().out
    assert main([*arguments, "--overwrite"]) == 0
    assert "smoothing: over the whole video, a change costs 0.5 nats" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "result.json").read_text())["settings"]["smoothing"]["kind"] == "viterbi"


def test_a_stream_is_smoothed_on_demand_and_never_looks_ahead(wavering: Path, video: Path) -> None:
    pipe = load_pipeline(wavering)
    plain = pipe(video, stride=0.2, stream=True)
    assert plain.about["settings"]["smoothing"] == {"kind": "none", "nats": 0.0}
    assert plain.actions == [window.said.best for window in plain.windows or ()]
    live: list[Live] = []
    result = pipe(video, stride=0.2, stream=True, smooth=0.5, each=live.append)
    assert result.about["settings"]["smoothing"] == {"kind": "online", "nats": 0.5}
    assert [step.action for step in live if step.number is not None] == result.actions
    assert all(step.action is None for step in live if step.number is None)
    assert result.actions == smoothed(result.windows or (), 0.5, online=True) != plain.actions
    assert (
        result.about["settings"]["state_bytes"]["recognition"] > plain.about["settings"]["state_bytes"]["recognition"]
    )


def test_anticipations_are_never_made_up(run: Path, ahead: Path, video: Path, capsys) -> None:
    assert main(["predict", str(video), "--model", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["anticipation"] is None
    assert main(["predict", str(video), "--model", str(ahead)]) == 0
    assert "trained to anticipate, not to recognise" in capsys.readouterr().out
    assert main(["predict", str(video), "--model", str(run), "--anticipation", str(run)]) == 2
    assert "cannot say what comes next" in capsys.readouterr().err
    assert main(["predict", str(video), "--model", str(ahead), "--anticipation", str(ahead)]) == 2
    capsys.readouterr()
    assert main(["predict", str(video), "--model", str(ahead), "--smooth", "1"]) == 2
    assert "has no segments" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--at", "10.6"], 2, "lasts 10.00 s"),
        (["--at", "-1"], 2, "--at -1"),
        (["--at", "nan"], 2, "--at nan"),
        (["--at", "3", "--stream"], 2, "--stream is for the whole video"),
        (["--at", "3", "--window", "0"], 2, "--window"),
        (["--stride", "-1"], 2, "--stride"),
        (["--smooth", "-1"], 2, "--smooth -1"),
        (["--smooth", "inf", "--stream"], 2, "--smooth inf"),
        (["--at", "3", "--smooth", "0"], 2, "--smooth is for the whole video"),
        (["--top", "0"], 2, "--top"),
        (["--question-source", "generic"], 2, "reads no questions"),
        (["--verb-question", "What?", "--question-source", "none"], 2, "not both"),
        (["--question", "What?"], 2, "--verb-question"),
        (["--threshold", "0.5"], 2, "--threshold"),
        (["--weights", "avion_b=x.pt"], 2, "avion_b"),
        (["--weights", "folder"], 2, "named already"),
        (["--task", "avs"], 2, "is a model for action, not for avs"),
        (["--annotations", "absent.csv"], 3, "absent.csv"),
        (["--anticipation", "absent"], 3, "absent"),
    ],
)
def test_refusals(run: Path, video: Path, capsys, options: list[str], code: int, words: str) -> None:
    assert main(["predict", str(video), "--model", str(run), *options]) == code
    assert words in capsys.readouterr().err


def test_weights_of_another_task(video: Path, tmp_path: Path, run: Path, capsys) -> None:
    model = create_model("av_mamba_small", width=16, cm_width=16, d_state=2)
    save_pretrained(model, tmp_path, preprocessing={}, metadata={"task": "avqa"})
    assert main(["predict", str(video), "--task", "action", "--weights", str(tmp_path)]) == 2
    assert "is a model for avqa, not for action" in capsys.readouterr().err
    assert main(["predict", str(video), "--weights", str(tmp_path), "--at", "3", "--out", "x"]) == 2
    assert "--at is for models of actions" in capsys.readouterr().err
    assert main(["predict", str(video), "--weights", str(tmp_path)]) == 2
    assert "--out DIR is needed" in capsys.readouterr().err
    assert main(["predict", str(video), "--model", str(run), "--anticipation", str(tmp_path)]) == 3


def test_the_newest_run_of_the_task_is_taken(run: Path, video: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", str(video), "--task", "action", "--at", "3"]) == 2
    assert "crossmamba demo action" in capsys.readouterr().err
    saved(tmp_path / "runs" / "mine")
    (tmp_path / "runs" / "other" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "other" / "model" / "config.json").write_text("{}")
    assert main(["predict", str(video), "--task", "action", "--at", "3"]) == 0
    assert "runs/mine" in capsys.readouterr().err


def test_files_without_pictures(run: Path, tmp_path: Path, capsys) -> None:
    import av

    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(clicks(2.0)[None], format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert main(["predict", str(sound), "--model", str(run)]) == 3
    assert "no pictures" in capsys.readouterr().err
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert main(["predict", str(tmp_path / "empty.mp4"), "--model", str(run)]) == 3
    pipe = load_pipeline(run)
    with pytest.raises(MediaError):
        pipe(sound)


def test_a_file_that_is_cut_off_is_told_from_a_moment_past_the_end(run: Path, tmp_path: Path, capsys) -> None:
    import av

    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(120):
            picture = av.VideoFrame.from_ndarray(rng.integers(0, 256, (64, 96, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    arguments = ["predict", str(cut), "--model", str(run)]
    assert main([*arguments, "--at", "5"]) == 3
    assert "the file is cut off" in capsys.readouterr().err
    assert main([*arguments, "--at", "7"]) == 2
    assert "past the end" in capsys.readouterr().err
    assert main(arguments) == 3
    assert "damaged" in capsys.readouterr().err
    assert main(["predict", str(whole), "--model", str(run), "--at", "5"]) == 0


def test_damaged_packets_that_were_passed_over_are_told(run: Path, video: Path, monkeypatch) -> None:
    class Damaged(GridPictures):
        def __iter__(self):
            yield from super().__iter__()
            self.bad_packets = 2

    assert load_pipeline(run)(video).about["warnings"] == []
    monkeypatch.setattr("crossmamba.predict.action_run.GridPictures", Damaged)
    for stream in (False, True):
        warnings = load_pipeline(run)(video, stream=stream).describe()["warnings"]
        assert warnings == ["2 damaged picture packets were passed over."]


def test_cards_that_lack_something(run: Path, tmp_path: Path, video: Path) -> None:
    source = json.loads((run / "model" / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((run / "model" / "model.safetensors").read_bytes())

    def load(**changes: Any) -> Any:
        card = {**source, "preprocessing": {**source["preprocessing"], **changes}}
        if changes.get("frames", 1) is None:
            del card["preprocessing"]["frames"]
        (tmp_path / "config.json").write_text(json.dumps(card))
        return load_pipeline(tmp_path)

    with pytest.raises(CheckpointError, match="lacks frames"):
        load(frames=None)
    with pytest.raises(CheckpointError, match="mode 'sparse'"):
        load(mode="sparse")
    with pytest.raises(CheckpointError, match="questions alone"):
        load(video="none")
    assert load(verbs=None).at(video, 1.0).actions()[0][0].startswith("verb ")


def test_a_model_on_stored_tokens_needs_their_encoder(run: Path, tmp_path: Path, video: Path) -> None:
    from crossmamba.encoders import build_video_encoder

    torch.manual_seed(2)
    encoder = build_video_encoder("small_video", width=16, stem_width=8)
    save_file(encoder.state_dict(), tmp_path / "encoder.safetensors")
    args = {"verbs": 3, "nouns": 2, "fusion": "none", "video": "features", "video_dim": 16, "width": 16}
    model = create_model("mambavl_orvit_features", **args, video_proj="linear")
    card = {"video": "tokens_small_video", "frames": 6, "mode": "dense", "image_size": SIZE}
    save_pretrained(model, tmp_path / "m", preprocessing=card, metadata={"task": "action", "epic_task": "recognition"})
    with pytest.raises(CheckpointError, match="--weights small_video=FILE"):
        load_pipeline(tmp_path / "m")
    pipe = load_pipeline(tmp_path / "m", weights={"small_video": tmp_path / "encoder.safetensors"})
    whole, streamed = pipe(video), pipe(video, stream=True)
    for one, other in zip(whole.windows or (), streamed.windows or (), strict=True):
        np.testing.assert_allclose(other.said.verb, one.said.verb, rtol=2e-4)


# ---------------------------------------------------------------- pictures


def test_the_names_stand_on_the_picture_while_they_hold(tmp_path: Path) -> None:
    now = [TimedName(0, 2, "take", "cup", 0.9), TimedName(2, 4, "turn-on", "box:lunch", 0.5)]
    ahead = [TimedName(1, 3, "take", "cup", 0.4)]
    painter = _Painter(ActionFilm(4.0, now, ahead), (360, 640))
    picture = np.full((360, 640, 3), 200, np.uint8)
    assert (painter.paint(picture, 1.0) == 200).all()
    strips = {time: painter.strip(time) for time in (0.5, 0.6, 1.5, 3.5)}
    assert {strip.shape for strip in strips.values()} == {(painter.height, 640, 3)}
    assert painter.height % 2 == 0
    band = painter.height - painter.lanes.height
    names = {time: strip[:band] for time, strip in strips.items()}
    assert (names[0.5] == names[0.6]).all()
    below = names[0.5][band // 2 + 4 :]
    assert (below == below[0, 0]).all()  # no anticipation yet
    assert (names[1.5][band // 2 + 4 :] != below).any()
    assert (names[3.5][: band // 2] != names[0.5][: band // 2]).any()
    assert (strips[0.5][band:] != strips[3.5][band:]).any()
    assert now[1].name == "turn on lunch box"
    assert colours_of(now, ahead) == {"take": PALETTE[0], "turn-on": PALETTE[1]}


def test_rows_of_a_timeline_cover_the_video() -> None:
    for duration in (1.0, 20.0, 31.0, 600.0):
        rows = rows_of(duration)
        assert rows[0][0] == 0
        assert rows[-1][1] == pytest.approx(duration)
        assert len(rows) <= 12
        times = picture_times(duration)
        assert times == sorted(times)
        assert 0 < times[0] < times[-1] < duration


def test_the_film_keeps_the_sound(run: Path, tmp_path: Path) -> None:
    frames = (np.full((32, 48, 3), 9 * n, np.uint8) for n in range(24))
    write_video(tmp_path / "v.mp4", frames, 8, audio=clicks(3.0))
    load_pipeline(run)(tmp_path / "v.mp4").save_film(tmp_path / "o.mp4")
    info = probe(tmp_path / "o.mp4")
    assert info.sound is not None
    assert len(list(frames_at(tmp_path / "o.mp4", [0.1, 1.0, 2.9]))) == 3


def test_pipelines_that_do_not_fit(run: Path, ahead: Path, video: Path) -> None:
    pipe = load_pipeline(run)
    with pytest.raises(UsageError, match="leave --anticipation out"):
        load_pipeline(ahead)(video, ahead=load_pipeline(ahead))
    with pytest.raises(UsageError, match="reads no questions"):
        pipe.ask("generic")
    with pytest.raises(UsageError, match="--question-source oracle"):
        pipe.ask("oracle")
