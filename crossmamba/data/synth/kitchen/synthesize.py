"""Rendering a whole kitchen set to files in the layout of EPIC-KITCHENS-100, with several processes.

EPIC_100_train.csv, EPIC_100_validation.csv          all 15 columns
EPIC_100_test_timestamps.csv                         the first 8: labels are hidden
EPIC_100_{verb,noun}_classes.csv                     id, key, instances, category
EPIC_100_tail_{verbs,nouns}.csv                      the rarest classes, by the official rule
EPIC_100_unseen_participant_ids_{validation,test}.csv
EPIC_100_{train,validation}_missing_timestamp_narrations.csv
EPIC_100_video_info.csv                              duration, fps, resolution
videos/P01/P01_01.mp4                                H.264, no sound
truth/EPIC_100_test.csv, truth/<video_id>.json       hidden labels; what truly happens (`truth.py`)
truth/ceilings.json                                  see `ceilings.py`
world.json                                           the settings
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from crossmamba.data.processes import run_all
from crossmamba.data.synth.claim import claimed, split_counts
from crossmamba.data.synth.files import write_bytes, write_changed
from crossmamba.data.synth.kitchen.annotations import files
from crossmamba.data.synth.kitchen.ceilings import kitchen_ceilings
from crossmamba.data.synth.kitchen.plan import SPLITS, Participant, Video, draw_participant, plan_video
from crossmamba.data.synth.kitchen.render import KitchenPicture
from crossmamba.data.synth.kitchen.truth import truth_record
from crossmamba.errors import DataError, UsageError

FORMAT_VERSION = 1
VIDEOS = {"train": 30, "val": 10, "test": 5}
"""Videos of a set unless other numbers are asked for."""
SEGMENTS = 20
"""Mean number of segments of a video."""
PEOPLE = 6
"""Participants of the train split, P01 to P06."""
UNSEEN = {"val": (7, 8), "test": (7, 9)}
"""Numbers of the participants of a split who are not in train."""
RATES: dict[str, tuple[Fraction, Fraction]] = {
    "30": (Fraction(30), Fraction(30)),
    "50": (Fraction(50), Fraction(50)),
    "59.94": (Fraction(60000, 1001), Fraction(60000, 1001)),
    "mixed": (Fraction(60000, 1001), Fraction(50)),
}
"""Frames per second of videos with ids of two digits and of three, by the name of the choice."""
GOP = 30
"""A reader decodes at most so many frames to reach any moment."""


@dataclass(frozen=True)
class _Job:
    """All that a process needs to make any video of the set."""

    root: Path
    seed: int
    size: int
    segments: int
    fps: str


@dataclass(frozen=True)
class _Clip:
    """One video: its name, whose it is, and where its plan comes from."""

    video_id: str
    who: int
    split: str
    index: int


def synthesize_epic100(
    out: str | Path,
    *,
    videos: int | Mapping[str, int] = VIDEOS,
    size: int = 64,
    segments: int = SEGMENTS,
    fps: str = "30",
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Renders a set of kitchen videos in the official layout of EPIC-KITCHENS-100.

    The same arguments give the same pictures, and the same bytes of csv and json, on one machine, whatever the number
    of workers. The mp4 files depend on the encoder: its version, and now and then a block that it codes otherwise.
    An interrupted call is finished by calling again: only missing files are made.

    Args:
        out: the folder to make.
        videos: number per split, for example {"train": 30, "val": 10, "test": 5}; or one number N for N train videos
            and 15 % of N (at least 1) each for val and test.
        size: side of the frames in pixels, 32 to 2048, even.
        segments: mean number of segments in a video, 4 to 400.
        fps: frames per second, "30", "50", "59.94", or "mixed": 59.94 for video ids of two digits, 50 for three, as
            most of the real videos have.
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
    _check(size, segments, fps, seed, workers)
    root = Path(out)
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "dataset": "epic100",
        "videos": counts,
        "size": size,
        "segments": segments,
        "fps": fps,
        "seed": seed,
    }
    job = _Job(root, seed, size, segments, fps)
    clips = _clips(counts)
    with claimed(root, record, overwrite):
        render = partial(_render_clip, job)
        run_all(render, clips, workers, label="rendering kitchens", unit="video", progress=progress)
        _write_tables(job, clips)
    return root


def _check(size: int, segments: int, fps: str, seed: int, workers: int) -> None:
    if not 32 <= size <= 2048 or size % 2 or seed < 0 or workers < 1:
        raise UsageError(
            f"size={size} seed={seed} workers={workers}: allowed are an even number of pixels from 32 to 2048, a seed "
            "of 0 or more and 1 worker or more."
        )
    if not 4 <= segments <= 400:
        raise UsageError(f"segments={segments}: a video has 4 to 400 segments.")
    if fps not in RATES:
        raise UsageError(f"fps={fps!r}: allowed are {', '.join(RATES)}.")


def _clips(counts: Mapping[str, int]) -> list[_Clip]:
    """All videos. Of val and test about a third (from two videos on) are of participants who are not in train."""
    numbers: dict[int, int] = {}
    found = []
    for split in SPLITS:
        seen = min(PEOPLE, counts["train"] or PEOPLE)
        for index in range(counts[split]):
            strange = split != "train" and index % 3 == 1
            who = UNSEEN[split][index // 3 % 2] if strange else 1 + index % seen
            number = numbers[who] = numbers.get(who, 0) + 1
            found.append(_Clip(_video_id(who, number), who, split, index))
    return found


def _video_id(who: int, number: int) -> str:
    """Ids of two digits (50 + 49 of them) and of three, in turn, as the two recordings of the real set have them."""
    half, late = divmod(number + 1, 2)
    if half > 99:
        raise UsageError(f"participant P{who:02d} would have {number} videos; ids are there for 198: ask for fewer.")
    return f"P{who:02d}_{half + 100 * late:0{2 + late}d}"


def _participant(job: _Job, clip: _Clip) -> Participant:
    return draw_participant(job.seed, clip.who)


def _plan(job: _Job, clip: _Clip) -> Video:
    rate = RATES[job.fps][len(clip.video_id.split("_")[1]) == 3]
    who = _participant(job, clip)
    return plan_video(job.seed, who, clip.video_id, clip.split, clip.index, job.segments, rate)


def _render_clip(job: _Job, clip: _Clip) -> None:
    """Makes the missing files of one video."""
    video = job.root / "videos" / f"P{clip.who:02d}" / f"{clip.video_id}.mp4"
    truth = job.root / "truth" / f"{clip.video_id}.json"
    if video.exists() and truth.exists():
        return
    from crossmamba.data.media import write_video

    plan = _plan(job, clip)
    picture = KitchenPicture(plan, job.size)
    if not video.exists():
        write_video(video, picture.frames(), plan.fps, gop=GOP)
    write_bytes(truth, (json.dumps(truth_record(plan, picture.places)) + "\n").encode())


def _write_tables(job: _Job, clips: list[_Clip]) -> None:
    """The csv files and the ceilings; what is there already and right is left alone."""
    videos: dict[str, list[Video]] = {split: [] for split in SPLITS}
    for clip in clips:
        videos[clip.split].append(_plan(job, clip))
    content = files(videos, job.size)
    if videos["train"]:
        content["truth/ceilings.json"] = (json.dumps(kitchen_ceilings(videos), indent=1) + "\n").encode()
    for name, data in content.items():
        write_changed(job.root / name, data)


def summarize_epic100(root: str | Path) -> dict[str, Any]:
    """What a set holds: root, dataset, seed, videos and segments per split, and the ceilings of the val split.

    Raises:
        DataError: no such set, or one of its files is unreadable.
    """
    folder = Path(root)
    names = {"train": "EPIC_100_train", "val": "EPIC_100_validation", "test": "EPIC_100_test_timestamps"}
    try:
        settings = json.loads((folder / "world.json").read_text(encoding="utf-8"))
        lines = {s: (folder / f"{name}.csv").read_text(encoding="utf-8").count("\n") for s, name in names.items()}
        path = folder / "truth" / "ceilings.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        ceilings = {
            task: {name: group for name, group in found[task]["val"]["all"].items() if name != "segments"}
            for task in ("recognition", "anticipation")
            if "val" in found.get(task, {})
        }
        return {
            "root": str(folder),
            "dataset": settings["dataset"],
            "seed": settings["seed"],
            "videos": settings["videos"],
            "segments": {split: count - 1 for split, count in lines.items()},
            "ceilings": ceilings,
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}: not a set of `crossmamba data synth epic100` ({error!r}).") from error
