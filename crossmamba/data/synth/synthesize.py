"""Rendering a whole synthetic set to files in AVSBench's layout, with several processes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from crossmamba.data.processes import run_all
from crossmamba.data.synth.claim import claimed, split_counts
from crossmamba.data.synth.files import png_bytes, wav_bytes, write_bytes
from crossmamba.data.synth.layout import ClipPaths, Layout
from crossmamba.data.synth.render import Scene, render_plan, render_video_frames
from crossmamba.data.synth.scene import ScenePlan, plan_scene
from crossmamba.data.synth.worlds import CLASS_NAMES, SPLITS, World, get_world, single_source
from crossmamba.errors import UsageError

VIDEO_FPS = 8
"""Frames per second of the mp4 files; at 8 the frame at t + 15/16 s is exactly the PNG frame of second t."""
_CHUNK = 8  # clips per task of a process: few enough for a smooth bar, many enough that starting one costs nothing


@dataclass(frozen=True)
class _Job:
    """All that a process needs to make any clip of the set."""

    layout: Layout
    world: World
    seed: int
    size: int
    seconds: int
    videos: int
    log_mel: bool


def synthesize(
    subset: str,
    out: str | Path,
    *,
    clips: int | Mapping[str, int],
    size: int = 64,
    seconds: int | None = None,
    seed: int = 0,
    world: str | World = "default",
    mp4: bool | int | str = True,
    log_mel: bool = False,
    workers: int = 2,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Renders a set of the synthetic world to real files in the official layout of AVSBench (spec §2.2, §2.3).

    The same arguments give the same bytes of csv, PNG, wav and json on one machine, whatever the number of workers
    (mp4 files depend on the encoder). A call that was interrupted, or that now asks for mp4 or log-mel files too, is
    finished by calling again: only missing files are made. The csv comes last, so a set without it is unfinished.

    Args:
        subset: avsbench-s4 (one object sounds throughout, category = its class) or avsbench-ms3.
        out: folder in which `Single-source` or `Multi-sources` is made.
        clips: number of clips per split, for example {"train": 1000, "val": 100, "test": 300}; or one number N for N
            train clips and 15 % of N (at least 1) each for val and test.
        size: side of the frames in pixels, 16 to 2048.
        seconds: length of every clip; None for the world's own (5, in the hard world 10).
        seed: of everything; train, val and test differ in every draw.
        world: default, hard, or own settings.
        mp4: whether to write raw_videos: all (True, "all"), none (False, "none") or the first so many of each split.
            They take as long as all the rest.
        log_mel: whether to write audio_log_mel in the published framing. Readers can compute it from the wav.
        workers: processes.
        progress: whether to show a bar on stderr.
        overwrite: delete another synthetic set that is in the way. A folder without `world.json` is never deleted.

    Returns:
        `out`, the root that readers take.

    Raises:
        UsageError: an impossible argument, or `out` holds something else.
        DataError: a file cannot be written, or a process died.
    """
    settings = get_world(world)
    length = settings.seconds if seconds is None else seconds
    counts = split_counts(dict(clips) if isinstance(clips, Mapping) else clips, SPLITS, "clips")
    layout = Layout.under(out, subset)
    if layout.subset == "s4":
        settings = single_source(settings)
    videos = _number_of_videos(mp4, max(counts.values()))
    if not 16 <= size <= 2048 or length < 1 or seed < 0 or workers < 1:
        raise UsageError(
            f"size={size} seconds={length} seed={seed} workers={workers}: allowed are 16 to 2048 pixels, "
            "1 second or more, a seed of 0 or more and 1 worker or more."
        )
    record = {
        "format_version": 1,
        "subset": f"avsbench-{layout.subset}",
        "clips": counts,
        "size": size,
        "seconds": length,
        "seed": seed,
        "sample_rate": 16000,
        "classes": list(settings.classes),
        "world": settings.to_json(),
    }
    job = _Job(layout, settings, seed, size, length, videos, log_mel)
    every = [(split, index) for split in SPLITS for index in range(counts[split])]
    label = f"rendering {layout.subset} ({settings.name} world)"
    with claimed(layout.base, record, overwrite, layout.settings):
        run_all(partial(_render_clip, job), every, workers, label=label, unit="clip", progress=progress, chunk=_CHUNK)
        write_bytes(layout.csv, _index(job, counts))
    return Path(out)


def _number_of_videos(mp4: bool | int | str, largest_split: int) -> int:
    """How many mp4 files each split gets at most."""
    if isinstance(mp4, str) and mp4 not in ("all", "none"):
        raise UsageError(f"mp4={mp4!r}: give all, none or a number of clips per split.")
    if mp4 is True or mp4 == "all":
        return largest_split
    count = 0 if mp4 == "none" else int(mp4)
    if count < 0:
        raise UsageError(f"mp4={mp4}: the number of videos per split is 0 or more.")
    return count


def _render_clip(job: _Job, clip: tuple[str, int]) -> None:
    """Makes the missing files of one clip, (split, index)."""
    split, index = clip
    plan, paths = _plan(job, split, index)
    wants_video = index < job.videos and not paths.video.exists()
    wants_log_mel = job.log_mel and not paths.log_mel.exists()
    missing = [path for path in (*paths.frames, *paths.masks, paths.wav, paths.truth) if not path.exists()]
    if not (missing or wants_video or wants_log_mel):
        return
    scene = render_plan(plan, job.size)
    if missing:
        _write_scene(scene, paths)
    if wants_video:
        from crossmamba.data.media import write_video

        frames = render_video_frames(plan, job.size, VIDEO_FPS)
        write_video(paths.video, frames, VIDEO_FPS, audio=scene.waveform, sample_rate=16000)
    if wants_log_mel:
        _write_log_mel(scene, paths.log_mel)


def _plan(job: _Job, split: str, index: int) -> tuple[ScenePlan, ClipPaths]:
    plan = plan_scene(job.world, job.seed, split, index, job.seconds)
    name, category = clip_name(plan), CLASS_NAMES[_loudest_class(plan)]
    return plan, job.layout.clip(split, category, name, job.seconds)


def clip_name(plan: ScenePlan) -> str:
    """`video_id` or `name` of a clip; unique over the splits, as MS3 keeps the frames of all splits in one folder."""
    return f"{plan.world.name}_s{plan.seed}_{plan.split}_{plan.index:05d}"


def _loudest_class(plan: ScenePlan) -> int:
    """Class of the object that sounds most: in S4, of the only one that sounds."""
    return plan.voices[int(np.argmax([sum(voice.sounding) for voice in plan.voices]))].class_index


def _write_scene(scene: Scene, paths: ClipPaths) -> None:
    masks = (scene.masks() * 255).astype(np.uint8)
    for path, frame in zip(paths.frames, scene.frames, strict=True):
        write_bytes(path, png_bytes(frame))
    for path, mask in zip(paths.masks, masks, strict=False):  # S4 train: the first only
        write_bytes(path, png_bytes(mask))
    write_bytes(paths.wav, wav_bytes(scene.waveform))
    write_bytes(paths.truth, scene.truth.to_json().encode())


def _write_log_mel(scene: Scene, path: Path) -> None:
    import torch  # seconds to load, and needed for this file alone

    from crossmamba.data.logmel import clip_log_mel

    torch.set_num_threads(1)  # the processes share the cores already
    buffer = io.BytesIO()
    torch.save(clip_log_mel(scene.waveform, len(scene.frames), framing="published"), buffer)
    write_bytes(path, buffer.getvalue())


def _index(job: _Job, counts: dict[str, int]) -> bytes:
    """The csv of all clips, with the official columns (spec §2.2)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    single = job.layout.subset == "s4"
    writer.writerow(("name", "start_time", "category", "split") if single else ("video_id", "split"))
    for split in SPLITS:
        for index in range(counts[split]):
            plan = plan_scene(job.world, job.seed, split, index, job.seconds)
            name = clip_name(plan)
            writer.writerow((name, 0, CLASS_NAMES[_loudest_class(plan)], split) if single else (name, split))
    return text.getvalue().encode()
