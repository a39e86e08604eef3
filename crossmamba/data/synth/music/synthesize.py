"""Rendering a whole concert set to files in MUSIC-AVQA's layout, with several processes.

    json_update/avqa-{train,val,test}.json   official rows (spec §3.1)
    videos/<video_id>.mp4                    H.264 and AAC
    scene_truth/<video_id>.json              see `truth.py`
    world.json                               the settings
    ceilings.json                            see `ceilings.py`

The questions come last: a set without them is unfinished, and calling again finishes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crossmamba.data.processes import run_all
from crossmamba.data.synth.claim import claimed, split_counts
from crossmamba.data.synth.files import write_bytes, write_changed
from crossmamba.data.synth.music.ceilings import music_ceilings
from crossmamba.data.synth.music.instruments import kinds_of_world
from crossmamba.data.synth.music.questions import choose, row
from crossmamba.data.synth.music.render import FPS, ConcertPicture, render_sound
from crossmamba.data.synth.music.scene import SECONDS, Concert, plan_concert, scene_rng
from crossmamba.data.synth.music.truth import truth_record
from crossmamba.data.synth.voices import SAMPLE_RATE
from crossmamba.data.synth.worlds import SPLITS
from crossmamba.errors import DataError, UsageError

FORMAT_VERSION = 1
_CHUNK = 4  # videos per task of a process
_BY = ("video", "question")


@dataclass(frozen=True)
class _Job:
    """All that a process needs to make any video of the set."""

    root: Path
    seed: int
    size: int
    seconds: tuple[int, int]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class _Clip:
    """One video: its name and where its scene comes from."""

    video_id: str
    split: str
    index: int


def synthesize_music_avqa(
    out: str | Path,
    *,
    videos: int | Mapping[str, int],
    size: int = 64,
    seconds: int | tuple[int, int] = (10, 10),
    questions_per_video: float = 8,
    instruments: int = 8,
    split_by: str = "video",
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Renders a set of concerts with questions in the official layout of MUSIC-AVQA.

    The same arguments give the same bytes of json on one machine, whatever the number of workers (mp4 files depend on
    the encoder). An interrupted call is finished by calling again: only missing files are made.

    Args:
        out: the folder to make.
        videos: number per split, for example {"train": 800, "val": 100, "test": 200}; or one number N for N train
            videos and 15 % of N (at least 1) each for val and test.
        size: side of the frames in pixels, 32 to 2048.
        seconds: length of the videos, or (shortest, longest), 10 to 60.
        questions_per_video: mean number; a set may have a little less (see `questions.py`).
        instruments: number of kinds in the world, 7 to 22.
        split_by: "video": each split asks about its own videos. "question": every split asks about all videos, as the
            official splits nearly do (spec §3.1); no question about a video is in two splits.
        seed: of everything.
        workers: processes.
        progress: whether to show a bar on stderr.
        overwrite: delete another synthetic set that is in the way. A folder without `world.json` is never deleted.

    Returns:
        `out`.

    Raises:
        UsageError: an impossible argument, or `out` holds something else.
        DataError: a file cannot be written, or a process died.
    """
    counts = split_counts(dict(videos) if isinstance(videos, Mapping) else videos, SPLITS, "videos")
    length = (seconds, seconds) if isinstance(seconds, int) else (int(seconds[0]), int(seconds[1]))
    _check(size, length, questions_per_video, split_by, seed, workers)
    kinds = kinds_of_world(instruments)
    root = Path(out)
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "dataset": "music-avqa",
        "videos": counts,
        "size": size,
        "seconds": list(length),
        "questions_per_video": questions_per_video,
        "kinds": list(kinds),
        "split_by": split_by,
        "seed": seed,
        "fps": FPS,
        "sample_rate": SAMPLE_RATE,
    }
    job = _Job(root, seed, size, length, kinds)
    clips = _clips(counts)
    with claimed(root, record, overwrite):
        render = partial(_render_clip, job)
        run_all(render, clips, workers, label="rendering concerts", unit="video", progress=progress, chunk=_CHUNK)
        _ask_all(job, clips, counts, questions_per_video, split_by)
        if counts["train"] and counts["test"] and not (root / "ceilings.json").exists():
            text = json.dumps(music_ceilings(root, progress=progress), indent=1) + "\n"
            write_bytes(root / "ceilings.json", text.encode())
    return root


def _check(size: int, length: tuple[int, int], per_video: float, split_by: str, seed: int, workers: int) -> None:
    if not 32 <= size <= 2048 or seed < 0 or workers < 1:
        raise UsageError(
            f"size={size} seed={seed} workers={workers}: allowed are 32 to 2048 pixels, a seed of 0 or more and "
            "1 worker or more."
        )
    if not SECONDS[0] <= length[0] <= length[1] <= SECONDS[1]:
        raise UsageError(f"seconds={length}: a video lasts {SECONDS[0]} to {SECONDS[1]} s, the shortest first.")
    if not 0 < per_video <= 100:
        raise UsageError(f"questions_per_video={per_video}: allowed is more than 0, up to 100.")
    if split_by not in _BY:
        raise UsageError(f"split_by={split_by!r}: allowed are {', '.join(_BY)}.")


def _clips(counts: Mapping[str, int]) -> list[_Clip]:
    """All videos, numbered through the splits from 1, in eight digits."""
    pairs = [(split, index) for split in SPLITS for index in range(counts[split])]
    return [_Clip(f"{number:08d}", split, index) for number, (split, index) in enumerate(pairs, 1)]


def _render_clip(job: _Job, clip: _Clip) -> None:
    """Makes the missing files of one video."""
    video = job.root / "videos" / f"{clip.video_id}.mp4"
    truth = job.root / "scene_truth" / f"{clip.video_id}.json"
    if video.exists() and truth.exists():
        return
    from crossmamba.data.media import write_video

    concert = _plan(job, clip)
    picture = ConcertPicture(concert, job.size, scene_rng(job.seed, clip.split, clip.index, 1))
    waveform, loudness = render_sound(concert, scene_rng(job.seed, clip.split, clip.index, 2))
    if not video.exists():
        write_video(video, picture.frames(), FPS, audio=waveform, sample_rate=SAMPLE_RATE)
    centres = np.stack([picture.centres(t + 0.5) for t in range(concert.seconds)], 1)
    facts = {
        "video_id": clip.video_id,
        "split": clip.split,
        "seed": job.seed,
        "index": clip.index,
        "size": job.size,
        "fps": FPS,
        "sample_rate": SAMPLE_RATE,
    }
    record = truth_record(concert, centres, loudness, facts)
    write_bytes(truth, (json.dumps(record, sort_keys=False) + "\n").encode())


def _plan(job: _Job, clip: _Clip) -> Concert:
    return plan_concert(job.seed, clip.split, clip.index, job.kinds, job.seconds)


def _ask_all(job: _Job, clips: list[_Clip], counts: Mapping[str, int], per_video: float, split_by: str) -> None:
    """Writes the three annotation files; question ids count through the splits from 1."""
    taken: set[tuple[int, int, tuple[str, ...]]] = set()
    next_id = 1
    for number, split in enumerate(SPLITS):
        path = job.root / "json_update" / f"avqa-{split}.json"
        mine = [clip for clip in clips if clip.split == split] if split_by == "video" else clips
        rows = []
        if counts[split]:
            rng = np.random.default_rng((5, job.seed, number))
            used = taken if split_by == "question" else None
            for question in choose([_plan(job, clip) for clip in mine], round(per_video * counts[split]), rng, used):
                rows.append(row(question, mine[question.scene].video_id, next_id))
                next_id += 1
        write_changed(path, (json.dumps(rows, indent=2) + "\n").encode())


def summarize_music_avqa(root: str | Path) -> dict[str, Any]:
    """What a set holds: root, dataset, seed, videos and questions per split, and the ceilings' 13 columns.

    Raises:
        DataError: no such set, or one of its files is unreadable.
    """
    folder = Path(root)
    try:
        settings = json.loads((folder / "world.json").read_text(encoding="utf-8"))
        questions = {
            split: len(json.loads((folder / "json_update" / f"avqa-{split}.json").read_text(encoding="utf-8")))
            for split in SPLITS
        }
        path = folder / "ceilings.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        ceilings = {}
        if found:
            ceilings["question_only"] = found["question_only"]["from_train"]["columns"]
            ceilings |= {name: found[name]["realised"]["columns"] for name in ("picture_only", "sound_only")}
        return {
            "root": str(folder),
            "dataset": settings["dataset"],
            "seed": settings["seed"],
            "videos": settings["videos"],
            "questions": questions,
            "ceilings": ceilings,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: not a set of `crossmamba data synth music-avqa` ({error!r}).") from error
