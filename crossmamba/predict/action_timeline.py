"""Pictures of what a model says of actions: the timeline of a video, and the clip around a moment. Needs matplotlib.

A timeline is broken into rows, as text is into lines: pictures, below them lanes of named segments, on one axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmamba.overlay import TimedName
from crossmamba.overlay.actions import colours_of, spoken
from crossmamba.predict.avqa_drawing import INK, SOFT, draw_answers, draw_frames, new_figure, save_figure, spread

ROW, MOST_ROWS = 24.0, 12  # seconds of a row at most; very long videos have longer rows
PER_ROW = 10  # pictures
WIDE, MARGIN = 14.0, 0.85  # inches of the time axis, and before it
LANE = 0.42  # inches
LETTER = 0.078  # inches that a letter of a name takes


@dataclass(frozen=True)
class TimelinePicture:
    """What is drawn.

    Attributes:
        duration: seconds. lanes: (name, segments in order), from above.
        pictures: uint8 (H, W, 3) of one size, at `picture_times(duration)`; fewer where the video ends before.
        note: a line below.
    """

    duration: float
    lanes: Sequence[tuple[str, Sequence[TimedName]]]
    pictures: Sequence[NDArray[np.uint8]]
    note: str = ""


@dataclass(frozen=True)
class MomentPicture:
    """A clip and what is said of it.

    Attributes:
        moment: seconds. pictures: that the model saw, uint8 (H, W, 3).
        sides: (title, {"verbs", "nouns", "actions"} as in `result.json`) for each model. note: a line below.
    """

    moment: float
    pictures: Sequence[NDArray[np.uint8]]
    sides: Sequence[tuple[str, Mapping[str, Any]]]
    note: str = ""


def rows_of(duration: float) -> list[tuple[float, float]]:
    """(start, end) of each row in seconds; all rows are equally long."""
    count = max(1, min(MOST_ROWS, int(np.ceil(duration / ROW))))
    return [(number * duration / count, (number + 1) * duration / count) for number in range(count)]


def picture_times(duration: float) -> list[float]:
    """When the pictures of all rows are taken: the middles of equal parts."""
    return [
        start + (place + 0.5) * (end - start) / PER_ROW for start, end in rows_of(duration) for place in range(PER_ROW)
    ]


def draw_timeline(path: str | Path, content: TimelinePicture) -> None:
    """Writes the timeline as PNG, whole or not at all.

    Raises:
        UsageError: matplotlib is not installed.
    """
    save_figure(path, timeline_figure(content))


def timeline_figure(content: TimelinePicture) -> Any:
    """The timeline as a matplotlib figure."""
    rows = rows_of(content.duration)
    shape = content.pictures[0].shape if content.pictures else (1, 1)
    tall = min(1.6, WIDE / PER_ROW * shape[0] / shape[1])
    step = tall + LANE * max(1, len(content.lanes)) + 0.55
    size = (MARGIN + WIDE + 0.2, step * len(rows) + 0.3)
    figure = new_figure(size)
    colours = colours_of(*(lane for _, lane in content.lanes))

    def place(bottom: float, rise: float, share: float = 1.0) -> Any:
        return figure.add_axes((MARGIN / size[0], bottom / size[1], share * WIDE / size[0], rise / size[1]))

    for number, (start, end) in enumerate(rows):
        top = size[1] - 0.08 - number * step
        tiles = list(content.pictures[number * PER_ROW : (number + 1) * PER_ROW])
        if tiles:
            draw_frames(place(top - tall, tall, len(tiles) / PER_ROW), tiles, "")
        axes = place(top - tall - 0.04 - LANE * len(content.lanes), LANE * len(content.lanes))
        _draw_lanes(axes, content.lanes, (start, end), content.duration, colours)
    if content.note:
        figure.text(MARGIN / size[0], 0.07 / size[1], content.note, fontsize=8.5, color=SOFT)
    return figure


def _draw_lanes(
    axes: Any,
    lanes: Sequence[tuple[str, Sequence[TimedName]]],
    row: tuple[float, float],
    duration: float,
    colours: Mapping[str, tuple[int, int, int]],
) -> None:
    """Bars with names; of bars too short for theirs the verb, or nothing."""
    start, end = row
    axes.set_xlim(start, end)
    axes.set_ylim(len(lanes) - 0.02, -0.02)
    for number, (_, lane) in enumerate(lanes):
        for entry in lane:
            left, right = max(entry.start, start), min(entry.end, end)
            if right - left <= 0:
                continue
            colour = [value / 255 for value in colours[entry.verb]]
            axes.barh(number + 0.5, right - left, 0.86, left, color=colour, edgecolor="white", linewidth=1.2)
            letters = (right - left) / (end - start) * WIDE / LETTER
            text = "\n".join(name for name in (spoken(entry.verb), spoken(entry.noun)) if len(name) <= letters)
            if text:
                middle = (left + right) / 2
                axes.text(middle, number + 0.5, text, fontsize=7.5, color=INK, ha="center", va="center", linespacing=1)
    axes.set_yticks([number + 0.5 for number in range(len(lanes))], [name for name, _ in lanes])
    step = next((s for s in (1, 2, 5, 10, 30, 60, 120, 300) if (end - start) / s <= 24), 600)
    ticks = [tick for tick in range(0, int(end) + 1, step) if start <= tick <= min(end, duration)]
    axes.set_xticks(ticks, [f"{tick // 60}:{tick % 60:02d}" for tick in ticks])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelsize=8.5, length=2)
    axes.tick_params(axis="y", length=0)


def draw_moment(path: str | Path, content: MomentPicture) -> None:
    """Writes the clip's pictures and the bars as PNG, whole or not at all.

    Raises:
        UsageError: matplotlib is not installed.
    """
    save_figure(path, moment_figure(content))


def moment_figure(content: MomentPicture) -> Any:
    """The clip as a matplotlib figure: pictures above, for each model its best verbs, nouns and actions below."""
    shown = [content.pictures[number] for number in spread(len(content.pictures), 8)]
    wide = 12.0
    tall = min(2.4, wide / len(shown) * shown[0].shape[0] / shown[0].shape[1])
    most = max(len(said["actions"]) for _, said in content.sides)
    deep = 0.55 * max(most, 4) + 0.5
    size = (wide + 0.6, tall + deep * len(content.sides) + 0.75)
    figure = new_figure(size)

    def place(left: float, bottom: float, breadth: float, rise: float) -> Any:
        return figure.add_axes((left / size[0], bottom / size[1], breadth / size[0], rise / size[1]))

    title = f"Around {content.moment:.2f} s"
    figure.text(0.3 / size[0], 1 - 0.12 / size[1], title, fontsize=15, weight="bold", color=INK, va="top")
    draw_frames(place(0.3, size[1] - 0.5 - tall, wide, tall), shown, "")
    for number, (name, said) in enumerate(content.sides):
        bottom = size[1] - 0.5 - tall - deep * (number + 1)
        figure.text(0.3 / size[0], (bottom + deep - 0.3) / size[1], name, fontsize=10.5, color=SOFT)
        columns = [[(spoken(entry["name"]), entry["probability"]) for entry in said[key]] for key in ("verbs", "nouns")]
        actions = [(f"{spoken(e['verb'])} {spoken(e['noun'])}", e["probability"]) for e in said["actions"]]
        for column, entries in enumerate((actions, *columns)):
            draw_answers(place(0.3 + column * wide / 3, bottom + 0.05, wide / 3 - 0.4, deep - 0.45), entries)
    if content.note:
        figure.text(0.3 / size[0], 0.07 / size[1], content.note, fontsize=8.5, color=SOFT)
    return figure
