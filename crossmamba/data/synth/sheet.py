"""A picture of a few clips: frames, outlines of who sounds, and bars of who sounds when."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crossmamba.data.synth.files import png_bytes, stacked, write_bytes
from crossmamba.data.synth.layout import ClipPaths, Layout
from crossmamba.data.synth.truth import SceneTruth
from crossmamba.errors import DataError, UsageError

_TILE = 128  # pixels a side of a frame on the sheet
_GAP = 6
_LABEL = 184  # pixels to the left, for the names of the bars
_BAR = 16
_PAPER, _INK, _FAINT, _SILENT = (255, 255, 255), (40, 44, 52), (120, 126, 138), (228, 231, 236)
_GLOW = (255, 196, 0)
_BARS = ((46, 134, 222), (16, 172, 132), (238, 82, 83), (136, 84, 208))
_OFFSCREEN = (160, 160, 160)


def draw_contact_sheet(
    root: str | Path, subset: str, split: str, out_png: str | Path, *, clips: int = 3, first: int = 0
) -> Path:
    """Draws clips of a synthetic set: per second the frame, the frame with only the sounding objects lit, and the bars.

    Args:
        root, subset, split: as for `reference_scores`.
        out_png: the picture to write.
        clips, first: how many clips, from which position in the index of the split.

    Returns:
        `out_png`.

    Raises:
        UsageError: no clips asked for, or unknown names.
        DataError: the set or one of its files is missing or unreadable.
    """
    if clips < 1 or first < 0:
        raise UsageError(f"contact sheet of {clips} clips from {first}: give 1 or more, from 0 or more.")
    layout = Layout.find(root, subset)
    found = _clip_paths(layout, split)[first : first + clips]
    if not found:
        raise DataError(f"{layout.csv}: fewer than {first + 1} clips in split {split!r}.")
    strips = [_strip(paths) for paths in found]
    write_bytes(Path(out_png), png_bytes(stacked(strips, _PAPER)))
    return Path(out_png)


def _clip_paths(layout: Layout, split: str) -> list[ClipPaths]:
    """The files of the split's clips, in the order of the csv."""
    try:
        seconds = int(json.loads(layout.settings.read_text(encoding="utf-8"))["seconds"])
        with layout.csv.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{layout.base}: not a finished synthetic set ({error}); run `data synth` again.") from error
    name = "name" if layout.subset == "s4" else "video_id"
    return [layout.clip(split, row.get("category", ""), row[name], seconds) for row in rows]


def _strip(paths: ClipPaths) -> Image.Image:
    """One clip: a row of frames, a row of lit objects, a bar for each voice."""
    truth = SceneTruth.read(paths.truth)
    voices = _voices(truth)
    step = _TILE + _GAP
    height = 2 * step + len(voices) * (_BAR + 4) + 4 * _GAP
    strip = Image.new("RGB", (_LABEL + truth.seconds * step + _GAP, height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    for row, label in enumerate(("picture", "who sounds")):
        draw.text((_LABEL - 10, _GAP + row * step + _TILE / 2), label, _FAINT, font, anchor="rm")
    for t in range(truth.seconds):
        frame = _read(paths.frames[t], "RGB")
        left = _LABEL + t * step
        strip.paste(Image.fromarray(frame).resize((_TILE, _TILE), Image.Resampling.NEAREST), (left, _GAP))
        if t < len(paths.masks):
            lit = _lit(frame, _read(paths.masks[t], "L") > 0)
            strip.paste(Image.fromarray(lit), (left, _GAP + step))
    for k, (label, sounding, colour) in enumerate(voices):
        top = 2 * step + 2 * _GAP + k * (_BAR + 4)
        draw.text((_LABEL - 10, top + _BAR / 2), label, _INK, font, anchor="rm")
        for t, on in enumerate(sounding):
            left = _LABEL + t * step
            end = left + (_TILE if t + 1 == truth.seconds else step)
            draw.rectangle((left, top, end - 1, top + _BAR - 1), fill=colour if on else _SILENT)
    return strip


def _voices(truth: SceneTruth) -> list[tuple[str, tuple[bool, ...], tuple[int, int, int]]]:
    """Label, schedule and colour of every voice; look-alikes are numbered."""
    names = [thing.class_name for thing in truth.objects]
    voices = []
    for k, thing in enumerate(truth.objects):
        number = f" {thing.instance + 1}" if names.count(thing.class_name) > 1 else ""
        voices.append((thing.class_name.replace("_", " ") + number, thing.sounding, _BARS[k % len(_BARS)]))
    offscreen = [(v.class_name.replace("_", " ") + " (off-screen)", v.sounding, _OFFSCREEN) for v in truth.offscreen]
    return voices + offscreen


def _read(path: Path, mode: str) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert(mode))
    except OSError as error:
        raise DataError(f"{path}: unreadable picture ({error}); run `data synth` again.") from error


def _lit(frame: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The frame at the tile's size: what sounds in full colour with a bright outline, the rest dim."""
    rows = np.arange(_TILE) * frame.shape[0] // _TILE
    picture, mask = frame[rows][:, rows].astype(np.float32), mask[rows][:, rows]
    dim = 0.4 * picture
    out = np.where(mask[..., None], picture, dim)
    near = np.pad(mask, 2)
    grown = np.zeros_like(mask)
    for down in range(5):
        for right in range(5):
            grown |= near[down : down + _TILE, right : right + _TILE]
    out[grown & ~mask] = _GLOW
    return out.astype(np.uint8)
