"""Draws docs/images/demo.png, the README's picture, from a finished `crossmamba demo`.

    python docs/images/make_demo_picture.py runs/demo docs/images/demo.png

Clips are chosen by their truth (a silent second, changes, an off-screen voice), not by how well the model does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from crossmamba.demo.avs_page import sample_clips
from crossmamba.report import Sample, side_by_side, tint

GREEN, ORANGE = (70, 200, 110), (255, 140, 40)


def draw(samples: list[Sample], target: Path) -> None:
    """Two clips side by side: frames, what sounds, what the model marks; who sounds when below."""
    figure = Figure(figsize=(12.5, 3.6), dpi=110)
    grids = figure.add_gridspec(1, len(samples), left=0.055, right=0.995, top=0.99, bottom=0.02, wspace=0.12)
    for grid, sample in zip(grids, samples, strict=True):
        rows = grid.subgridspec(4, 1, height_ratios=(1, 1, 1, 0.75), hspace=0.06)
        pictures = (
            sample.frames,
            tint(sample.frames, sample.truth, GREEN),
            tint(sample.frames, sample.prediction, ORANGE),
        )
        for row, (name, frames) in enumerate(zip(("frames", "truth", "model"), pictures, strict=True)):
            axes = figure.add_subplot(rows[row])
            axes.imshow(side_by_side(frames), aspect="auto", interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if grid.colspan.start == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        _schedule(figure.add_subplot(rows[3]), sample)
    figure.savefig(target)


def _schedule(axes, sample: Sample) -> None:
    seconds = len(sample.frames)
    for line, (label, visible, sounding) in enumerate(sample.schedule):
        colour = np.array(GREEN) / 255 if visible else "0.6"
        axes.broken_barh([(t, 1) for t in range(seconds) if sounding[t]], (line - 0.35, 0.7), color=colour)
        axes.text(0.05, line, label + ("" if visible else " (off screen)"), va="center", fontsize=8)
    axes.set(xlim=(0, seconds), ylim=(len(sample.schedule) - 0.4, -0.6), yticks=[], xticks=range(seconds + 1))
    axes.tick_params(labelbottom=False, length=2)


def main() -> None:
    demo, target = Path(sys.argv[1]), Path(sys.argv[2])
    draw(sample_clips(demo / "data", demo / "model", count=2), target)


if __name__ == "__main__":
    main()
