"""`crossmamba predict` with a segmentation model: masks as they come, an overlay to look at, result.json."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from crossmamba.cli.outputs import clear, write_json
from crossmamba.errors import MediaError, UsageError

if TYPE_CHECKING:
    from crossmamba.predict import AVSPipeline, AVSStream

OUTPUTS = ("masks", "probabilities", "overlay.mp4", "result.json")


def predict_masks(args: argparse.Namespace, pipeline: AVSPipeline, folder: Path) -> tuple[dict[str, Any], str]:
    """Judges the video; returns the content of result.json and a line that sums it up.

    Raises:
        UsageError: an option of question answering. MediaError: the video cannot be used.
    """
    for name, value in (("--question", args.question), ("--choice", args.choice), ("--top", args.top)):
        if value:
            raise UsageError(
                f"{name} needs a model that answers questions; {args.model or 'the newest run'} marks what sounds. "
                "`crossmamba demo avqa` trains one."
            )
    stream = pipeline.stream(args.video, allow_silence=args.allow_silence)
    clear(folder, OUTPUTS)
    result = save_prediction(stream, folder, probabilities=args.probabilities, overlay=not args.no_overlay)
    marked = sum(second["area"] > 0 for second in result["seconds"])
    return result, f"{len(result['seconds'])} seconds judged, something marked in {marked} of them."


def save_prediction(stream: AVSStream, folder: Path, *, probabilities: bool, overlay: bool) -> dict[str, Any]:
    """Writes masks as they come, then result.json and the overlay; returns the content of result.json.

    Raises:
        MediaError: the video is damaged on the way. What was judged before stays, and result.json says so.
    """
    from tqdm import tqdm

    from crossmamba.overlay import write_overlay

    seconds: list[dict[str, Any]] = []
    failure: MediaError | None = None
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    with tqdm(total=stream.expected_seconds, desc="judging", unit="s", file=sys.stderr, disable=None) as bar:
        try:
            for second in stream:
                name = f"{second.second:05d}.png"
                entry = second.describe() | {"mask": f"masks/{name}"}
                write_png(folder / "masks" / name, second.mask().astype(np.uint8) * 255)
                if probabilities:
                    write_png(folder / "probabilities" / name, np.rint(second.probability_at() * 255))
                    entry["probabilities"] = f"probabilities/{name}"
                seconds.append(entry)
                bar.update()
        except MediaError as error:
            failure = error
    result = stream.describe(seconds) | {"overlay": None, "error": None if failure is None else str(failure)}
    if failure is not None:
        if not seconds:
            (folder / "masks").rmdir()
            raise failure
        write_json(folder / "result.json", result)
        raise MediaError(f"{failure} The masks of the {len(seconds)} seconds before are kept in {folder}.") from failure
    write_json(folder / "result.json", result)
    if overlay:
        areas = [entry["area"] for entry in seconds]

        def mask_at(number: int, size: tuple[int, int]) -> np.ndarray:
            with Image.open(folder / "masks" / f"{number:05d}.png") as mask:
                return np.asarray(mask.resize(size[::-1], Image.Resampling.BILINEAR)) > 127

        with tqdm(total=len(seconds), desc="drawing", unit="s", file=sys.stderr, disable=None) as bar:
            write_overlay(
                stream.path, folder / "overlay.mp4", areas, mask_at, progress=lambda time: bar.update(int(time) - bar.n)
            )
        result["overlay"] = "overlay.mp4"
        write_json(folder / "result.json", result)
    return result


def write_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(values.astype(np.uint8)).save(part, format="PNG")
    os.replace(part, path)
