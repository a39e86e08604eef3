"""The whole work: which items, which of them are this process's, folders claimed, bad videos listed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from crossmamba.data.processes import run_chunks
from crossmamba.errors import DataError, UsageError
from crossmamba.extract.encoders import Extractor
from crossmamba.extract.log import clear_log, read_log
from crossmamba.extract.manifest import claim_folder, clear_folder, describe
from crossmamba.extract.recipes import Recipe, recipes_for
from crossmamba.extract.texts import Texts, extract_texts
from crossmamba.extract.videos import BAD, KEPT, MADE, Job, extract_video, extractor_of

__all__ = [
    "VIDEO_SUFFIXES",
    "Report",
    "extract_features",
    "find_videos",
    "local_device",
    "rank_and_world",
    "run_items",
]

Item = TypeVar("Item")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass
class Report:
    """What became of this process's share.

    Attributes:
        made, kept, bad: videos (or segments) with something new; with all files there and whole already; with something
            missing.
        texts_made, texts_kept: questions.
        troubles: what the log says, one object a line: `video`, `file`, `features`, `message`.
        notes: lines for the user.
        log: where the troubles are; None if there are none.
        rank, world: whose share it is.
        items: what is counted.
    """

    made: int = 0
    kept: int = 0
    bad: int = 0
    texts_made: int = 0
    texts_kept: int = 0
    troubles: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    log: Path | None = None
    rank: int = 0
    world: int = 1
    items: str = "videos"

    def take(self, log: Path) -> None:
        """Takes over what the log says, if there is one."""
        if log.is_file():
            self.log, self.troubles = log, read_log(log)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.__dict__, "log": None if self.log is None else str(self.log)}

    @property
    def text(self) -> str:
        """For people: the counts, then every trouble."""
        lines = [f"{self.made} {self.items} made, {self.kept} there already, {self.bad} bad"]
        if self.texts_made or self.texts_kept:
            lines[0] += f"; {self.texts_made} texts made, {self.texts_kept} there already"
        if self.world > 1:
            lines[0] += f" (share {self.rank} of {self.world})"
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"  {trouble['message']}" for trouble in self.troubles]
        if self.log is not None:
            lines.append(f"listed in {self.log}")
        return "\n".join(lines)


def rank_and_world(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """(rank, number of ranks) as torchrun sets them; (0, 1) without it.

    Raises:
        UsageError: values that make no sense.
    """
    environment = os.environ if environment is None else environment
    texts = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    if not all(text.isdigit() for text in texts) or not int(texts[0]) < int(texts[1]):
        raise UsageError(
            f"RANK={texts[0]}, WORLD_SIZE={texts[1]}: expected 0 <= RANK < WORLD_SIZE, as torchrun sets them"
        )
    return int(texts[0]), int(texts[1])


def find_videos(folder: Path) -> list[Path]:
    """The videos of a folder, sorted by name.

    Raises:
        DataError: no such folder, none in it, or two of the same name.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of videos")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise DataError(f"{folder}: no videos in it ({', '.join(VIDEO_SUFFIXES)})")
    by_name: dict[str, Path] = {}
    for path in found:
        if path.stem in by_name:
            raise DataError(f"{by_name[path.stem]} and {path.name} would have the same feature files: remove one")
        by_name[path.stem] = path
    return found


def extract_features(
    features: Sequence[str],
    out: str | Path,
    *,
    videos: Sequence[Path] = (),
    texts: Texts | None = None,
    weights: Mapping[str, str] | None = None,
    device: str = "cpu",
    batch: int = 32,
    workers: int = 1,
    small_size: int = 64,
    seconds: int | None = None,
    max_seconds: int | None = None,
    silence: bool = False,
    tokenizer: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Makes features of videos and questions; what is there and whole is kept, so calling again continues.

    Under torchrun (RANK and WORLD_SIZE in the environment) item i belongs to rank i modulo the number of ranks.

    Args:
        features: names in `recipes.RECIPES`.
        out: folder in which the feature folders are.
        videos: see `find_videos`. texts: see `texts.music_texts`; needed for text features.
        weights, device, small_size, tokenizer: see `encoders.Extractor`; under torchrun "cuda" and "auto" take the
            GPU LOCAL_RANK.
        batch: seconds in one pass of an encoder.
        workers: processes on this machine, each with its own encoders.
        seconds, max_seconds, silence: see `videos.Job`.
        overwrite: delete what the asked features' folders hold first; only without torchrun.
        progress: show a bar on standard error.

    Raises:
        UsageError: a wrong argument, or a folder whose files were made in another way.
        DataError: weights that do not load, a disk that refuses.
    """
    recipes = recipes_for(features)
    rank, world = rank_and_world()
    out = Path(out)
    _check(recipes, batch, workers, seconds, max_seconds, videos, texts)
    if overwrite and world > 1:
        raise UsageError(
            "overwrite under torchrun would delete what another process makes: delete the folders yourself"
        )
    report = Report(rank=rank, world=world, notes=[] if texts is None else list(texts.notes))
    pairs = tuple(sorted((weights or {}).items()))
    job = Job(
        features=tuple(recipe.name for recipe in recipes if recipe.of_videos),
        out=out,
        weights=_belonging(pairs, [recipe for recipe in recipes if recipe.of_videos]),
        device=local_device(device, world),
        batch=batch,
        small_size=small_size,
        seconds=seconds,
        max_seconds=max_seconds,
        silence=silence,
        log=out / ("extract-bad.jsonl" if world == 1 else f"extract-bad.rank{rank}.jsonl"),
        threads=max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None,
    )
    of_text = [recipe for recipe in recipes if not recipe.of_videos]
    if unknown := sorted(dict(pairs).keys() - {name for r in recipes if r.encoder for name in (r.name, r.weights)}):
        raise UsageError(f"weights for {', '.join(unknown)}, which none of {', '.join(features)} needs")
    settings = {"seconds": seconds, "max_seconds": max_seconds}
    readers = (
        Extractor(of_text, dict(_belonging(pairs, of_text)), device=job.device, tokenizer=tokenizer)
        if of_text
        else None
    )
    if job.features:
        _claim(*extractor_of(job), out, settings, overwrite)
        _run_videos(job, list(videos)[rank::world], workers, progress, report)
    if readers is not None and texts is not None:
        _claim(readers, readers.row_shapes(), out, {}, overwrite)
        _run_texts(readers, texts, out, progress, report)
    return report


def _check(
    recipes: Sequence[Recipe],
    batch: int,
    workers: int,
    seconds: int | None,
    max_seconds: int | None,
    videos: Sequence[Path],
    texts: Texts | None,
) -> None:
    numbers = {"batch": batch, "workers": workers, "seconds": seconds, "max_seconds": max_seconds}
    if wrong := [f"{name} is {value}" for name, value in numbers.items() if value is not None and value < 1]:
        raise UsageError(f"{', '.join(wrong)}; it must be at least 1")
    if any(recipe.of_videos for recipe in recipes) and not videos:
        raise UsageError("these features are made of videos, and there are none")
    for recipe in recipes:
        if not recipe.of_videos and texts is None:
            raise UsageError(
                f"{recipe.name} is made of questions; name a data set that has some, not a folder of videos"
            )
        if recipe.name == "clip_choices" and texts is not None and not texts.choices:
            raise UsageError("clip_choices is made of AVQA's choices; these questions have none")


def _belonging(pairs: Iterable[tuple[str, str]], recipes: Sequence[Recipe]) -> tuple[tuple[str, str], ...]:
    known = {name for recipe in recipes for name in (recipe.name, recipe.weights)}
    return tuple(pair for pair in pairs if pair[0] in known)


def local_device(device: str, world: int) -> str:
    """Under torchrun each process of a machine takes a GPU of its own."""
    if world == 1 or device not in ("cuda", "auto"):
        return device
    import torch

    if not torch.cuda.is_available():
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def _claim(
    extractor: Extractor, shapes: dict[str, tuple[int, ...]], out: Path, settings: dict[str, Any], overwrite: bool
) -> None:
    for group in extractor.groups:
        for recipe in group.recipes:
            if overwrite:
                clear_folder(out / recipe.folder)
            manifest = describe(group, recipe, shapes.get(recipe.name, ()), settings)
            claim_folder(out / recipe.folder, manifest)


def _run_videos(job: Job, videos: list[Path], workers: int, progress: bool, report: Report) -> None:
    clear_log(job.log)
    if workers > 1 and len(videos) > 1:
        extractor_of.cache_clear()  # the encoders are the workers' now
    run_items(partial(extract_video, job), videos, workers, progress, report, "video")
    report.take(job.log)


def run_items(
    work: Callable[[Item], int], items: Sequence[Item], workers: int, progress: bool, report: Report, unit: str
) -> None:
    """Does `work` on every item, in so many processes, and adds what became of them to the report.

    Args:
        work: returns MADE, KEPT or BAD; see `run_chunks`.
        unit: of the progress bar.
    """
    counts = {MADE: 0, KEPT: 0, BAD: 0}
    with tqdm(
        total=len(items), desc="extracting", unit=unit, file=sys.stderr, disable=None if progress else True
    ) as bar:
        for outcome in run_chunks(work, items, workers):
            counts[outcome] += 1
            bar.set_postfix(bad=counts[BAD], refresh=False)
            bar.update()
    report.made, report.kept = report.made + counts[MADE], report.kept + counts[KEPT]
    report.bad += counts[BAD]


def _run_texts(extractor: Extractor, texts: Texts, out: Path, progress: bool, report: Report) -> None:
    shown = tqdm(
        extract_texts(extractor, texts, out, report.rank, report.world),
        desc="reading questions",
        unit="text",
        file=sys.stderr,
        disable=None if progress else True,
    )
    for outcome in shown:
        if outcome == "made":
            report.texts_made += 1
        else:
            report.texts_kept += 1
