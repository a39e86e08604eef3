"""The picture of an answer: where the model looked in each second, when it listened and looked, what it answered.

Frames with the spatial map over them stand above the seconds that they are of; below are the weights over time of sound
and picture on the same axis, and the sound's loudness; on the right the answers. Needs matplotlib (extra `train`).
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from crossmamba.errors import UsageError

MOST_FRAMES = 12  # shown side by side; of more seconds so many are shown, evenly spaced
SIDE = 200  # pixels of the longer side of a drawn frame
INK, SOFT, LINE = "#1d2733", "#5b6875", "#e3e8ee"
SOUND, PICTURE, CHOSEN, OTHER = "#2463b5", "#d9682b", "#2f8f5b", "#b9c3cf"


@dataclass(frozen=True)
class AnswerPicture:
    """What is drawn.

    Attributes:
        question: in words. answers: (answer, probability), best first.
        times: (T,) in seconds, when the frames were shown; the weights belong to these seconds.
        frames: T pictures, uint8 (H, W, 3). spatial: (T, h, w), each frame sums to 1.
        audio, visual: (T,) weights over time, each sums to 1.
        loudness: (n,) loudness of the sound from 0 to 1 over [0, duration], or None.
        duration: of the video in seconds.
        note: a line below, such as what the model was trained on.
    """

    question: str
    answers: Sequence[tuple[str, float]]
    times: NDArray[np.float64]
    frames: Sequence[NDArray[np.uint8]]
    spatial: NDArray[np.float32]
    audio: NDArray[np.float32]
    visual: NDArray[np.float32]
    loudness: NDArray[np.float32] | None
    duration: float
    note: str = ""


def draw_answer(path: str | Path, content: AnswerPicture) -> None:
    """Writes the picture as PNG, whole or not at all.

    Raises:
        UsageError: matplotlib is not installed.
    """
    save_figure(path, answer_figure(content))


def save_figure(path: str | Path, figure: Any) -> None:
    """Writes a matplotlib figure as PNG, whole or not at all."""
    part = Path(path).with_suffix(".part")
    figure.savefig(part, format="png", dpi=110, metadata={"Software": None})
    os.replace(part, path)


def new_figure(size: tuple[float, float]) -> Any:
    """An empty figure of (width, height) in inches.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"pictures need matplotlib: pip install 'crossmamba[train]' ({error})") from error
    return Figure(figsize=size, facecolor="white")


def answer_figure(content: AnswerPicture) -> Any:
    """The picture as a matplotlib figure."""
    shown = spread(len(content.times))
    height, width = content.frames[0].shape[:2]
    wide, margin = 12.6, 0.55  # inches: end of the time axis, its start
    tall = min(2.6, (wide - margin) / len(shown) * height / width)
    size = (wide + 3.6, 2 * tall + 2.75)

    def place(left: float, bottom: float, breadth: float, rise: float) -> Any:
        return figure.add_axes((left / size[0], bottom / size[1], breadth / size[0], rise / size[1]))

    figure = new_figure(size)
    title = textwrap.fill(content.question, 110)
    figure.text(margin / size[0], 1 - 0.16 / size[1], title, fontsize=15, weight="bold", color=INK, va="top")
    plain, mapped = _tiles(content, shown)
    draw_frames(place(margin, 2.15 + tall, wide - margin, tall), plain, "frame")
    draw_frames(place(margin, 2.13, wide - margin, tall), mapped, "looked at")
    _draw_weights(place(margin, 0.66, wide - margin, 1.4), content, shown)
    draw_answers(place(wide + 0.25, 0.66, 3.1, 2 * tall + 1.45), content.answers)
    if content.note:
        figure.text(margin / size[0], 0.08 / size[1], content.note, fontsize=8.5, color=SOFT)
    return figure


def heat(frame: NDArray[np.uint8], spatial: NDArray[np.float32], strongest: float) -> NDArray[np.uint8]:
    """A frame, uint8 (H, W, 3), with its map (h, w) over it: grey where the model did not look, warm where it did.

    Args:
        strongest: the value that is drawn at full strength, so that the frames of a video can be compared.
    """
    from matplotlib import colormaps

    height, width = frame.shape[:2]
    level = Image.fromarray((spatial / max(strongest, 1e-12)).clip(0, 1).astype(np.float32))
    level = np.asarray(level.resize((width, height), Image.Resampling.BICUBIC)).clip(0, 1)[..., None]
    grey = 0.75 * frame.mean(axis=-1, keepdims=True) + 0.25 * frame
    warm = 255 * colormaps["inferno"](0.25 + 0.7 * level[..., 0])[..., :3]
    return ((1 - 0.62 * level) * grey + 0.62 * level * warm).round().clip(0, 255).astype(np.uint8)


def spread(count: int, most: int = MOST_FRAMES) -> list[int]:
    """Which of `count` pictures are shown: the middle one of each of `most` equal parts, or all."""
    parts = min(count, most)
    return [int((part + 0.5) * count / parts) for part in range(parts)]


def _tiles(content: AnswerPicture, shown: list[int]) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]]:
    """The frames of `shown` as they are, and with their maps over them."""
    strongest = float(np.quantile(content.spatial, 0.995))
    plain, mapped = [], []
    for number in shown:
        frame = content.frames[number]
        scale = SIDE / max(frame.shape[:2])
        size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
        resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        plain.append(np.asarray(Image.fromarray(frame).resize(size, resample)))
        mapped.append(heat(plain[-1], content.spatial[number], strongest))
    return plain, mapped


def draw_frames(axes: Any, tiles: list[NDArray[np.uint8]], name: str) -> None:
    """Tiles side by side, each as wide as its part of the time axis below."""
    gaps = [np.pad(tile, ((2, 2), (2, 2), (0, 0)), constant_values=255) for tile in tiles]
    axes.imshow(np.concatenate(gaps, axis=1), aspect="auto", interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_ylabel(name, color=SOFT, fontsize=9)


def _draw_weights(axes: Any, content: AnswerPicture, shown: list[int]) -> None:
    """Bars of sound and picture weights below the frames; the loudness behind them."""
    count = len(content.times)
    axes.set_xlim(-0.5, count - 0.5)
    edges = np.arange(count)
    top = max(float(content.audio.max()), float(content.visual.max()), 1e-9) * 1.12
    axes.set_ylim(0, top)
    if content.loudness is not None and len(content.loudness):
        axes.fill_between(*_loudness_line(content, top), color=LINE, linewidth=0, label="loudness")
    axes.bar(edges - 0.17, content.audio, 0.32, color=SOUND, label="sound: when it listened")
    axes.bar(edges + 0.17, content.visual, 0.32, color=PICTURE, label="picture: when it looked")
    if content.loudness is not None and len(content.loudness):
        axes.plot(*_loudness_line(content, top), color=SOFT, linewidth=0.7, alpha=0.6)
    axes.axhline(1 / count, color=SOFT, linewidth=0.8, linestyle=":", label="evenly over all seconds")
    digits = 1 if content.duration < 30 else 0
    axes.set_xticks(shown, [f"{content.times[number]:.{digits}f} s" for number in shown])
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(SOFT)
    axes.tick_params(colors=SOFT, labelsize=9, length=2)
    axes.set_ylabel("weight", color=SOFT, fontsize=9)
    axes.legend(
        frameon=False,
        fontsize=9,
        ncols=4,
        loc="upper left",
        bbox_to_anchor=(-0.005, -0.13),
        borderaxespad=0,
        labelcolor=INK,
    )


def _loudness_line(content: AnswerPicture, top: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The loudness at the places of the time axis (0, 1, ... for `times`), scaled to its height."""
    assert content.loudness is not None
    moments = (np.arange(len(content.loudness)) + 0.5) / len(content.loudness) * content.duration
    places = np.interp(moments, content.times, np.arange(len(content.times)))
    if len(content.times) > 1:  # beyond the outer frames the axis goes on with the same step
        first, last = content.times[1] - content.times[0], content.times[-1] - content.times[-2]
        before, after = moments < content.times[0], moments > content.times[-1]
        places[before] = (moments[before] - content.times[0]) / first
        places[after] = len(content.times) - 1 + (moments[after] - content.times[-1]) / last
    return places, 0.95 * top * content.loudness


def draw_answers(axes: Any, answers: Sequence[tuple[str, float]]) -> None:
    """Horizontal bars, the best on top."""
    names = [name.replace("_", " ") for name, _ in answers]
    values = [probability for _, probability in answers]
    places = np.arange(len(answers))[::-1]
    axes.barh(places, values, 0.34, color=[CHOSEN, *[OTHER] * (len(answers) - 1)])
    for place, name, value in zip(places, names, values, strict=True):
        weight = "bold" if place == len(answers) - 1 else "normal"
        label = textwrap.shorten(name, 34, placeholder="...")
        axes.text(0, place + 0.24, label, fontsize=12, color=INK, weight=weight, va="bottom")
        axes.text(1.0, place + 0.24, f"{100 * value:.1f} %", fontsize=10.5, color=SOFT, va="bottom", ha="right")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.4, max(len(answers), 4) - 0.3)
    axes.axis("off")
