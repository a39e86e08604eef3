"""The whole work on EPIC-KITCHENS-100: every split by every encoder asked for, folders claimed, bad segments listed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from crossmamba.data.epic.dataset import SPLIT_FILES, split_file
from crossmamba.encoders import build_video_encoder
from crossmamba.errors import DataError, UsageError
from crossmamba.extract.encoders import RANDOM
from crossmamba.extract.log import clear_log
from crossmamba.extract.manifest import claim_folder, clear_folder, describe
from crossmamba.extract.run import Report, local_device, rank_and_world, run_items
from crossmamba.extract.segments import SegmentJob, describe_segments, extract_segment, opened, token_recipes_for

__all__ = ["extract_segments"]


def extract_segments(
    features: Sequence[str],
    root: str | Path,
    out: str | Path | None = None,
    *,
    weights: Mapping[str, str],
    splits: Sequence[str] = (),
    media: str | Path | None = None,
    layout: str = "auto",
    task: str = "recognition",
    mode: str = "dense",
    frames: int | None = None,
    image: int | None = None,
    activation: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Report:
    """Makes tokens of segments; what is there and whole is kept, so calling again continues.

    Under torchrun (RANK and WORLD_SIZE in the environment) segment i belongs to rank i modulo the number of ranks.

    Args:
        features: names of video encoders.
        root: the data set's folder. out: folder in which the feature folders are; None is `root`.
        weights: encoder -> file, folder, run folder, `hf://...`, or "random".
        splits: of "train", "validation", "test"; none for those whose annotation file is there.
        media, layout, task, mode, frames, image, activation, device, dtype: see `segments.SegmentJob`.
        workers: processes on this machine, each with its own encoder.
        overwrite: delete what the asked features' folders hold first; only without torchrun.
        progress: show a bar on standard error.

    Raises:
        UsageError: a wrong argument, or a folder whose files were made in another way.
        DataError: annotations or weights that do not load, a disk that refuses.
    """
    recipes = token_recipes_for(features)
    rank, world = rank_and_world()
    if workers < 1 or (frames is not None and frames < 1) or (image is not None and image < 1):
        raise UsageError(f"workers={workers}, frames={frames}, image={image}: each must be at least 1")
    if overwrite and world > 1:
        raise UsageError(
            "overwrite under torchrun would delete what another process makes: delete the folders yourself"
        )
    _check_weights([recipe.name for recipe in recipes], weights)
    root, out = Path(root), Path(root if out is None else out)
    log = out / ("extract-bad.jsonl" if world == 1 else f"extract-bad.rank{rank}.jsonl")
    report = Report(rank=rank, world=world, items="segments")
    clear_log(log)
    for recipe in recipes:
        for position, split in enumerate(_splits(root, splits)):
            job = SegmentJob(
                recipe.name,
                out,
                weights[recipe.name],
                root,
                split,
                media=None if media is None else Path(media),
                layout=layout,
                task=task,
                mode=mode,
                frames=frames,
                image=image,
                activation=activation,
                device=local_device(device, world),
                dtype=dtype,
                log=log,
                threads=max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None,
            )
            _run(job, rank, world, workers, overwrite and position == 0, progress, report)
    report.take(log)
    return report


def _run(job: SegmentJob, rank: int, world: int, workers: int, overwrite: bool, progress: bool, report: Report) -> None:
    made = opened(job)
    if overwrite:
        clear_folder(job.folder)
    claim_folder(job.folder, describe(*describe_segments(job, made)))
    numbers = range(len(made.dataset.rows))[rank::world]
    if made.dataset.clamped:
        report.notes.append(
            f"{job.split}: {len(made.dataset.clamped)} actions begin within the first second of their video; for them "
            "the first picture is shown"
        )
    if workers > 1 and len(numbers) > 1:
        del made
        opened.cache_clear()  # the encoders are the workers' now
    run_items(partial(extract_segment, job), numbers, workers, progress, report, "segment")


def _splits(root: Path, wanted: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys("validation" if name == "val" else name for name in wanted))
    found = names or [name for name in SPLIT_FILES if split_file(root, name).is_file()]
    if not found:
        raise DataError(f"{root}: no annotations such as {split_file(root, 'train').name} in it")
    return found


def _check_weights(names: Sequence[str], weights: Mapping[str, str]) -> None:
    if unknown := [name for name in weights if name not in names]:
        raise UsageError(f"weights for {', '.join(unknown)}, which none of {', '.join(names)} needs")
    for name in names:
        if name not in weights:
            raise UsageError(
                f"feature {name} needs weights: --weights {name}=FILE ({_published(name)}); {name}={RANDOM} only to "
                "measure time and space"
            )


def _published(name: str) -> str:
    import torch

    with torch.device("meta"):  # no memory for weights that are not loaded
        published = build_video_encoder(name).published
    return f"published: {published}" if published else "the run folder of a training of MambaVL with this encoder"
