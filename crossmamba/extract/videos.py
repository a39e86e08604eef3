"""One video to all the features that are missing of it, decoded once.

What goes wrong with a video is its own trouble: it is written to the log of bad videos and the next one comes. What
goes wrong with the disk or the weights ends the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from crossmamba.data.media import probe
from crossmamba.data.media_open import MediaInfo
from crossmamba.errors import MediaError
from crossmamba.extract.encoders import Extractor, Group
from crossmamba.extract.log import write_log
from crossmamba.extract.reading import Second, seconds_in, seconds_of
from crossmamba.extract.recipes import RECIPES, Recipe
from crossmamba.extract.store import FramesWriter, NpyWriter, clear_leftovers, valid_frames, valid_npy

__all__ = ["BAD", "KEPT", "MADE", "Job", "extract_video", "extractor_of", "target_of"]

MADE, KEPT, BAD = 0, 1, 2
"""What became of a video: at least one file made; all files there and whole already; something could not be made."""

_FITTING = {"sound": "sound", "picture": "pictures", "motion": "pictures", "frames": "pictures"}


@dataclass(frozen=True)
class Job:
    """What to make of each video. Plain values, so that it can be sent to other processes.

    Attributes:
        features: names in `RECIPES`, of videos only.
        out: the folder in which the feature folders are.
        weights: pairs as `Extractor` takes them.
        device: as `Extractor` takes it.
        batch: seconds in one pass of an encoder.
        small_size: see `Extractor`.
        seconds: every feature gets exactly so many rows: longer videos are cut, the last picture of shorter ones stays
            and their sound goes on as silence. None: as many as the video has.
        max_seconds: longer videos are cut; None: never.
        silence: a video without sound is silent instead of bad.
        log: file of the bad videos, a line of JSON each.
        threads: of torch in each process; None for torch's own choice.
    """

    features: tuple[str, ...]
    out: Path
    weights: tuple[tuple[str, str], ...]
    device: str = "cpu"
    batch: int = 32
    small_size: int = 64
    seconds: int | None = None
    max_seconds: int | None = None
    silence: bool = False
    log: Path = Path("extract-bad.jsonl")
    threads: int | None = None


@lru_cache(maxsize=1)
def extractor_of(job: Job) -> tuple[Extractor, dict[str, tuple[int, ...]]]:
    """The job's encoders and the shape of each feature's row, loaded once in a process."""
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    recipes = [RECIPES[name] for name in job.features]
    extractor = Extractor(recipes, dict(job.weights), device=job.device, small_size=job.small_size)
    return extractor, extractor.row_shapes()


def target_of(out: Path, recipe: Recipe, item: str) -> Path:
    """The file (for frames the folder) of a video's or question's feature."""
    return out / recipe.folder / (item if recipe.source == "frames" else f"{item}.npy")


def extract_video(job: Job, path: Path) -> int:
    """Makes what is missing or damaged of one video's features; returns MADE, KEPT or BAD.

    Raises:
        DataError: the disk refused, or an encoder gives values that are not finite.
    """
    extractor, row_shapes = extractor_of(job)
    try:
        info = probe(path)
        rows = seconds_in(info)
    except MediaError as error:
        write_log(job.log, path.stem, str(error), job.features, path)
        return BAD
    if job.seconds is not None:
        rows = job.seconds
    elif job.max_seconds is not None:
        rows = min(rows, job.max_seconds)
    missing = [RECIPES[name] for name in job.features if not _there(job, path.stem, RECIPES[name], rows, row_shapes)]
    if not missing:
        return KEPT
    possible = [recipe for recipe in missing if _lacks(info, recipe, job.silence) is None]
    for recipe in missing:
        if recipe not in possible:
            write_log(job.log, path.stem, f"{path}: {_lacks(info, recipe, job.silence)}", [recipe.name], path)
    if possible:
        try:
            _make(job, path, rows, possible, extractor, row_shapes)
        except MediaError as error:
            write_log(job.log, path.stem, str(error), [recipe.name for recipe in possible], path)
            return BAD
    return MADE if len(possible) == len(missing) else BAD


def _there(job: Job, item: str, recipe: Recipe, rows: int, row_shapes: dict[str, tuple[int, ...]]) -> bool:
    target = target_of(job.out, recipe, item)
    if recipe.source == "frames":
        return valid_frames(target, rows)
    return valid_npy(target, (rows, *row_shapes[recipe.name]))


def _lacks(info: MediaInfo, recipe: Recipe, silence: bool) -> str | None:
    """Why a feature cannot be made of a file; None if it can."""
    if _FITTING[recipe.source] == "pictures":
        return "the file has no pictures, only sound" if info.picture is None else None
    if info.sound is None and not silence:
        return "the video has no sound; --silence-missing takes it as silent"
    return None


def _make(
    job: Job,
    path: Path,
    rows: int,
    recipes: Sequence[Recipe],
    extractor: Extractor,
    row_shapes: dict[str, tuple[int, ...]],
) -> None:
    """Writes the features of one video, all of them or, where anything fails, none."""
    wanted = {recipe.name for recipe in recipes}
    groups = [group for group in extractor.groups if any(recipe.name in wanted for recipe in group.recipes)]
    writers: dict[str, NpyWriter | FramesWriter] = {}
    notes: list[str] = []
    try:
        for recipe in recipes:
            target = target_of(job.out, recipe, path.stem)
            clear_leftovers(target)
            if recipe.source == "frames":
                writers[recipe.name] = FramesWriter(target, rows)
            else:
                writers[recipe.name] = NpyWriter(target, (rows, *row_shapes[recipe.name]))
        for batch in _batches(path, rows, groups, job.batch, notes):
            for group in groups:
                for name, values in extractor.encode(group, batch).items():
                    if name in writers:
                        writers[name].write(values)
        for writer in writers.values():
            writer.finish()
    finally:
        for writer in writers.values():
            writer.abandon()
    for note in notes:
        write_log(job.log, path.stem, f"{path}: note: {note}", [], path)


def _batches(path: Path, rows: int, groups: Sequence[Group], size: int, notes: list[str]) -> Iterator[list[Second]]:
    views = [view for group in groups if (view := group.view) is not None]
    sound = any(group.source == "sound" for group in groups)
    batch: list[Second] = []
    for second in seconds_of(path, rows, views, sound=sound, notes=notes):
        batch.append(second)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
