"""`crossmamba predict`: masks of what is sounding in a video, an overlay to look at, and result.json."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from crossmamba.errors import MediaError, UsageError

if TYPE_CHECKING:
    from crossmamba.predict import AVSStream

HELP = "Mark what is sounding in a video."
EXAMPLE = "crossmamba predict clip.mp4 --model runs/demo --out out/clip"
OUTPUTS = ("masks", "probabilities", "overlay.mp4", "result.json")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("video", metavar="VIDEO", help="a video file with sound, of any length, size and aspect")
    parser.add_argument(
        "--model", metavar="RUN_OR_FOLDER", help="a run folder or a model folder (default: the newest run under ./runs)"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the results; made if it is not there")
    parser.add_argument("--probabilities", action="store_true", help="also write the probabilities as 8-bit PNG")
    parser.add_argument(
        "--threshold", type=float, help="probability above which a pixel is marked (default: the model's)"
    )
    parser.add_argument("--allow-silence", action="store_true", help="treat a video without sound as silent")
    parser.add_argument("--no-overlay", action="store_true", help="do not write overlay.mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace the results of an earlier run in DIR")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps or auto (default: cpu)")
    parser.add_argument("--json", action="store_true", help="print result.json to standard output")


def run(args: argparse.Namespace) -> int:
    """Judges the video; returns the exit code."""
    from crossmamba.predict import check_video, find_model, load_pipeline

    folder = Path(args.out)
    _check_folder(folder, args.overwrite)
    source = find_model(args.model) if args.model else newest_run(Path("runs"))
    check_video(args.video, allow_silence=args.allow_silence)  # a bad file should not wait for a large model to load
    pipeline = load_pipeline(source, device=args.device, threshold=args.threshold)
    stream = pipeline.stream(args.video, allow_silence=args.allow_silence)
    _clear(folder)
    result = save_prediction(stream, folder, probabilities=args.probabilities, overlay=not args.no_overlay)
    if pipeline.knows_only_synthetic:
        print(
            "crossmamba: warning: this model was trained on the synthetic world and knows nothing of the real one.",
            file=sys.stderr,
        )
    for warning in result["warnings"]:
        print(f"crossmamba: warning: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        marked = sum(second["area"] > 0 for second in result["seconds"])
        print(f"{len(result['seconds'])} seconds judged, something marked in {marked} of them. Open:")
        for name in OUTPUTS:
            if (folder / name).exists():
                print(f"  {folder / name}")
    return 0


def newest_run(runs: Path) -> Path:
    """The model folder of the newest run (a folder with model/config.json) under `runs`.

    Raises:
        UsageError: there is none.
    """
    found = sorted(runs.glob("*/model/config.json"), key=os.path.getmtime)
    if not found:
        raise UsageError(
            f"No --model was given and there is no run under {runs}/. `crossmamba demo` makes one in some minutes; "
            "or give --model RUN_OR_FOLDER."
        )
    print(f"crossmamba: using the newest run, {found[-1].parent.parent}", file=sys.stderr)
    return found[-1].parent


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
                _write_png(folder / "masks" / name, second.mask().astype(np.uint8) * 255)
                if probabilities:
                    _write_png(folder / "probabilities" / name, np.rint(second.probability_at() * 255))
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
        _write_json(folder / "result.json", result)
        raise MediaError(f"{failure} The masks of the {len(seconds)} seconds before are kept in {folder}.") from failure
    _write_json(folder / "result.json", result)
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
        _write_json(folder / "result.json", result)
    return result


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; name a folder.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"--out {folder} is not empty; name another folder, or give --overwrite to replace results in it."
        )


def _clear(folder: Path) -> None:
    """Removes the results of an earlier run; other files stay."""
    for name in OUTPUTS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _write_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_suffix(".part")
    Image.fromarray(values.astype(np.uint8)).save(part, format="PNG")
    os.replace(part, path)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
