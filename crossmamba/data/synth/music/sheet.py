"""A picture of a few concerts: frames, bars of who sounds how loud, and questions with their answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from crossmamba.data.qa.templates import fill
from crossmamba.data.synth.files import png_bytes, stacked, write_bytes
from crossmamba.data.synth.music.truth import read_truth
from crossmamba.errors import DataError, UsageError

_TILE, _GAP, _BAR, _LABEL = 128, 6, 16, 190
_WIDTH, _FRAMES, _QUESTIONS = 1400, 5, 8
_PAPER, _INK, _FAINT, _SILENT = (255, 255, 255), (40, 44, 52), (120, 126, 138), (228, 231, 236)
_SEEN, _UNSEEN = (46, 134, 222), (200, 110, 60)


def draw_concert_sheet(root: str | Path, split: str, out_png: str | Path, *, videos: int = 4, first: int = 0) -> Path:
    """Draws videos of a concert set: frames, a bar for each voice (its height is its loudness), some questions.

    Args:
        root: the set.
        split: train, val or test.
        out_png: the picture to write.
        videos, first: how many, from which of those with questions on.

    Returns:
        `out_png`.

    Raises:
        UsageError: no videos asked for.
        DataError: the set or one of its files is missing or unreadable.
    """
    if videos < 1 or first < 0:
        raise UsageError(f"contact sheet of {videos} videos from {first}: give 1 or more, from 0 or more.")
    path = Path(root) / "json_update" / f"avqa-{split}.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not the questions of a concert set ({error}).") from error
    ids = sorted({row["video_id"] for row in rows})[first : first + videos]
    if not ids:
        raise DataError(f"{path}: fewer than {first + 1} videos with questions.")
    strips = [_strip(Path(root), name, [row for row in rows if row["video_id"] == name]) for name in ids]
    write_bytes(Path(out_png), png_bytes(stacked(strips, _PAPER)))
    return Path(out_png)


def _strip(root: Path, video_id: str, rows: list[dict[str, Any]]) -> Image.Image:
    """One video."""
    record = read_truth(root, video_id).record
    voices = record["voices"]
    silent = [i for i in record["instruments"] if i["entering"] is None]
    lines = len(voices) + len(silent)
    height = max(_TILE + 40 + lines * (_BAR + 4), 40 + _QUESTIONS * 20) + 2 * _GAP
    strip = Image.new("RGB", (_WIDTH, height), _PAPER)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(13)
    draw.text((_GAP, _GAP), f"{video_id}  {record['room']}  {record['seconds']} s", _INK, font)
    for k, frame in enumerate(_frames(root / "videos" / f"{video_id}.mp4")):
        tile = Image.fromarray(frame).resize((_TILE, _TILE), Image.Resampling.NEAREST)
        strip.paste(tile, (_GAP + k * (_TILE + _GAP), 26))
    step = (_FRAMES * (_TILE + _GAP) - _LABEL) / record["seconds"]
    top = _TILE + 34
    for voice in voices:
        place = next((i["place"] for i in record["instruments"] if i["id"] == voice["instrument"]), "off-screen")
        label = f"{voice['size']} {voice['kind']}, {place}, {voice['rhythm']:.1f}/s"
        draw.text((_GAP, top), label, _INK if voice["instrument"] else _UNSEEN, font)
        for t, loudness in enumerate(voice["loudness"]):
            left, bottom = _LABEL + 30 + t * step, top + _BAR
            draw.rectangle((left, top, left + step - 2, bottom), fill=_SILENT)
            if voice["sounding"][t]:
                colour = _SEEN if voice["instrument"] else _UNSEEN
                draw.rectangle((left, bottom - _BAR * min(1, loudness / 0.09), left + step - 2, bottom), fill=colour)
        top += _BAR + 4
    for thing in silent:
        draw.text((_GAP, top), f"{thing['size']} {thing['kind']}, {thing['place']}, silent", _FAINT, font)
        top += _BAR + 4
    left = _FRAMES * (_TILE + _GAP) + 60
    for k, row in enumerate(rows[:_QUESTIONS]):
        words = " ".join(fill(row["question_content"], json.loads(row["templ_values"])))
        draw.text((left, 26 + 20 * k), f"{words}?  {row['anser']}", _INK, font)
    return strip


def _frames(path: Path) -> list[NDArray[np.uint8]]:
    """A few frames, evenly spread."""
    from crossmamba.data.media import frames_at, probe

    seconds = probe(path).duration or 10.0
    return [shown.rgb() for shown in frames_at(path, [(k + 0.5) * seconds / _FRAMES for k in range(_FRAMES)])]
