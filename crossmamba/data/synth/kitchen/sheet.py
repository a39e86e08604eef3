"""A picture of a few segments of a kitchen set: frames in a row, with what was told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from crossmamba.data.synth.files import png_bytes, write_bytes
from crossmamba.data.synth.kitchen.truth import read_truth
from crossmamba.errors import DataError, UsageError

_TILE, _GAP, _TEXT, _FRAMES = 112, 5, 190, 8
_PAPER, _INK, _FAINT = (255, 255, 255), (40, 44, 52), (120, 126, 138)


def draw_kitchen_sheet(root: str | Path, video_id: str, out_png: str | Path, *, segments: int = 8) -> Path:
    """Draws the first segments of a video: eight frames each, the label, the told times and the likeliest next action.

    Args:
        root: the set.
        video_id: the video.
        out_png: the picture to write.
        segments: how many.

    Returns:
        `out_png`.

    Raises:
        UsageError: no segments asked for.
        DataError: the set or the video is missing or unreadable.
    """
    if segments < 1:
        raise UsageError(f"contact sheet of {segments} segments: give 1 or more.")
    from crossmamba.data.media import frames_at

    record = read_truth(root, video_id)
    path = Path(root) / "videos" / record["participant_id"] / f"{video_id}.mp4"
    if not path.is_file():
        raise DataError(f"{path}: no such video.")
    rows = record["segments"][:segments]
    sheet = Image.new("RGB", (_TEXT + _FRAMES * (_TILE + _GAP), len(rows) * (_TILE + _GAP) + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for k, row in enumerate(rows):
        top = _GAP + k * (_TILE + _GAP)
        best = max(row["law"], key=row["law"].get)
        draw.text((_GAP, top), f"{row['verb']} {row['noun']}", _INK, font)
        draw.text((_GAP, top + 20), f"{row['told_start']:.2f} to {row['told_stop']:.2f} s", _FAINT, font)
        draw.text((_GAP, top + 40), f"chance {row['law'][row['verb'] + ' ' + row['noun']]:.2f}", _FAINT, font)
        draw.text((_GAP, top + 60), f"likeliest {best}", _FAINT, font)
        last = min(row["told_stop"], record["seconds"] - 1 / record["fps"])
        times = [float(t) for t in np.linspace(row["told_start"], last, _FRAMES)]
        for i, shown in enumerate(frames_at(path, times)):
            tile = Image.fromarray(shown.rgb()).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (_TEXT + i * (_TILE + _GAP), top))
    write_bytes(Path(out_png), png_bytes(np.asarray(sheet)))
    return Path(out_png)
