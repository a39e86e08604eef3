"""One HTML page about a run: scores, curves, sample clips, caveats and how it was made.

The page is one file: styles, plots (SVG) and pictures (PNG) are inside it and nothing is fetched from elsewhere,
so it can be mailed or opened without a network. This module knows no model and no data set: it gets arrays and numbers.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

INK, BLUE, ORANGE, GREY = "#1d2733", "#2463b5", "#d9682b", "#8a95a3"


@dataclass(frozen=True)
class Row:
    """One line of the score table. Scores are percentages; None prints as a dash, where there is nothing to measure."""

    name: str
    explanation: str
    M_J: float | None
    M_F: float | None = None
    black_kept: float | None = None
    kind: str = "control"  # "run": what was trained; "control": the run, weakened; "bound": no trained model at all


@dataclass(frozen=True)
class Line:
    """One line of a `Table`: percentages, one a column; None prints as a dash. `kind` as in `Row`."""

    name: str
    explanation: str
    values: Sequence[float | None]
    kind: str = "control"


@dataclass(frozen=True)
class Table:
    """Scores with columns of their own. The bar below a line's name shows the column number `bar`."""

    columns: Sequence[str]
    lines: Sequence[Line]
    note: str = ""
    bar: int = 0


@dataclass(frozen=True)
class Curve:
    """A line in a plot: `points` are (x, y)."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """A small plot with its axes named; `levels` are horizontal lines (label, y)."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    levels: Sequence[tuple[str, float]] = ()
    bars: bool = False


@dataclass(frozen=True)
class Sample:
    """A clip to look at.

    Shapes:
        frames: uint8 (T, H, W, 3). truth, prediction: bool (T, H, W).
        log_mel: float (T, 96, 64), time by mel band. schedule: (voice, visible, T booleans), None where unknown.
    """

    title: str
    frames: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    log_mel: np.ndarray
    schedule: Sequence[tuple[str, bool, Sequence[bool]]] = ()


@dataclass(frozen=True)
class Picture:
    """A PNG file to show, with its title and a line of text."""

    title: str
    path: Path
    text: str = ""


@dataclass(frozen=True)
class Report:
    """Everything that the page shows.

    `rows` is the table of segmentation scores, `tables` are others. `video` (mp4) is put into the page, so keep it to a
    few megabytes; `poster`, uint8 (H, W, 3), stands there until it is played; `pictures` stand below it.
    """

    title: str
    lead: str
    rows: Sequence[Row]
    plots: Sequence[Plot] = ()
    samples: Sequence[Sample] = ()
    caveats: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
    video: Path | None = None
    poster: np.ndarray | None = None
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


def write_report(out_html: str | Path, report: Report) -> Path:
    """Writes the page and returns its path. An older page of that name is replaced."""
    out = Path(out_html)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(render(report), encoding="utf-8")
    return out


def render(report: Report) -> str:
    """The page as text."""
    style = resources.files("crossmamba").joinpath("report.css").read_text(encoding="utf-8")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>{_text(report.title)}</title><style>{style}</style></head><body><main>",
        f"<h1>{_text(report.title)}</h1><p class='lead'>{_text(report.lead)}</p>",
        _links(report.links),
        _section("Scores", "".join(map(_table, [*_segmentation(report.rows), *report.tables]))),
        _section("The model at work", _at_work(report)) if report.video or report.pictures else "",
        _section("Curves", "<div class='plots'>" + "".join(map(_plot, report.plots)) + "</div>")
        if report.plots
        else "",
        _section("Clips from the test split", "".join(map(_sample, report.samples))) if report.samples else "",
        _section("What this does not show", _bullets(report.caveats)) if report.caveats else "",
        _section("How it was made", _facts(report.facts)) if report.facts else "",
        "</main></body></html>\n",
    ]
    return "\n".join(part for part in parts if part)


def text_table(rows: Sequence[Row]) -> str:
    """The table of segmentation scores for a terminal."""
    return table_text(_segmentation(rows)[0])


def table_text(table: Table) -> str:
    """A table for a terminal."""
    cells = [("", *table.columns), *((line.name, *map(_number, line.values)) for line in table.lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        for line in cells
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def read_curve(metrics_csv: str | Path, column: str, x: str = "step") -> list[tuple[float, float]]:
    """The (x, y) pairs of one column of a Lightning `metrics.csv`; lines where either is empty are left out."""
    with open(metrics_csv, newline="", encoding="utf-8") as file:
        return [
            (float(line[x]), float(line[column])) for line in csv.DictReader(file) if line.get(column) and line.get(x)
        ]


def environment_facts(path: Path) -> list[tuple[str, str]]:
    """The lines of a run's environment.txt that a reader asks for first."""
    if not path.exists():
        return []
    pairs = [line.split(": ", 1) for line in path.read_text(encoding="utf-8").splitlines() if ": " in line]
    packages = ", ".join(value for name, value in pairs if name == "package")
    chosen = {name: value for name, value in pairs if name in ("started", "git commit", "python", "machine", "gpus")}
    return [*chosen.items(), ("packages", packages)]


def png_data_uri(pixels: np.ndarray, scale: int = 1) -> str:
    """uint8 (H, W, 3) as a `data:` address; each pixel becomes `scale` x `scale` without smoothing."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels.repeat(scale, 0).repeat(scale, 1)))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{body}</section>"


def _bullets(lines: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _links(links: Sequence[tuple[str, str]]) -> str:
    if not links:
        return ""
    return "<p class='links'>" + "".join(f"<a href='{_text(to)}'>{_text(label)}</a>" for label, to in links) + "</p>"


def _video(path: Path, poster: np.ndarray | None) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    still = "" if poster is None else f" poster='{png_data_uri(poster)}'"
    return f"<video controls loop playsinline{still} src='data:video/mp4;base64,{data}'></video>"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts) + "</dl>"


def _segmentation(rows: Sequence[Row]) -> list[Table]:
    """Rows of segmentation scores as a table; none if there are none."""
    note = (
        "M_J: mean overlap of the marked and the true area (Jaccard). M_F: F-score of precision and recall. Black "
        "kept: share of the seconds in which nothing visible sounds that were left wholly unmarked. All in per cent; "
        "higher is better."
    )
    lines = [Line(row.name, row.explanation, (row.M_J, row.M_F, row.black_kept), row.kind) for row in rows]
    return [Table(("M_J", "M_F", "black kept"), lines, note)] if rows else []


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    body = []
    for line in table.lines:
        level = line.values[table.bar]
        width = 0.0 if level is None or math.isnan(level) else level
        body.append(
            f"<tr class='{_text(line.kind)}'><td><b>{_text(line.name)}</b><small>{_text(line.explanation)}</small>"
            f"<i style='width:{width:.1f}%'></i></td>"
            + "".join(f"<td>{_number(value)}</td>" for value in line.values)
            + "</tr>"
        )
    note = f"<p class='note'>{_text(table.note)}</p>" if table.note else ""
    wide = " class='wide'" if len(table.columns) > 6 else ""
    return (
        f"<div class='scroll'><table{wide}><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>{note}"
    )


def _at_work(report: Report) -> str:
    """The video, and the pictures below it."""
    parts = [_video(report.video, report.poster)] if report.video else []
    for picture in report.pictures:
        data, title = base64.b64encode(picture.path.read_bytes()).decode("ascii"), _text(picture.title)
        image = f"<img src='data:image/png;base64,{data}' alt='{title}'>"
        parts.append(
            f"<figure class='picture'><figcaption>{title}</figcaption>{image}<p>{_text(picture.text)}</p></figure>"
        )
    return "".join(parts)


def _plot(plot: Plot) -> str:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context(
        {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11, "svg.hashsalt": "0"}
    ):
        figure = Figure(figsize=(5.2, 3.3), layout="constrained")
        axes = figure.subplots()
        _draw_curves(axes, plot)
        axes.set_title(plot.title, loc="left", fontsize=12, color=INK, fontweight="bold")
        axes.set_xlabel(plot.x_label)
        axes.set_ylabel(plot.y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e6eaef")
        axes.set_axisbelow(True)
        if len(plot.curves) > 1 or plot.levels:
            figure.legend(frameon=False, fontsize=9.5, loc="outside lower center", ncols=3)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"


def _draw_curves(axes, plot: Plot) -> None:
    for number, (curve, colour) in enumerate(zip(plot.curves, _cycle(len(plot.curves)), strict=True)):
        x, y = zip(*curve.points, strict=True) if curve.points else ((), ())
        if plot.bars:
            width = 0.8 / len(plot.curves)
            axes.bar(np.array(x) + (number + 0.5) * width - 0.4, y, width * 0.92, color=colour, label=curve.label)
            axes.set_xticks(sorted(set(x)))
        else:
            axes.plot(x, y, color=colour, label=curve.label, marker="o" if len(x) < 40 else None, markersize=3)
    for (label, level), dashes in zip(plot.levels, ("--", ":", "-."), strict=False):
        axes.axhline(level, color=INK, linestyle=dashes, linewidth=1.2, label=label)


def _cycle(count: int) -> list[str]:
    colours = (BLUE, ORANGE, GREY, "#3f8f5b", "#8757a6")
    return [colours[index % len(colours)] for index in range(count)]


def _sample(sample: Sample) -> str:
    scale = max(1, 192 // sample.frames.shape[1])
    truth = tint(sample.frames, sample.truth, (64, 200, 120))
    prediction = tint(sample.frames, sample.prediction, (255, 140, 50))
    strips = [
        ("Picture", png_data_uri(side_by_side(sample.frames), scale)),
        ("Truth", png_data_uri(side_by_side(truth), scale)),
        (
            "Marked by the model",
            png_data_uri(side_by_side(prediction), scale),
        ),
        ("Sound (log-mel)", png_data_uri(_spectrogram(sample.log_mel))),
    ]
    lines = "".join(
        f"<span>{label}</span><img src='{uri}' alt='{label}, {len(sample.frames)} seconds'>" for label, uri in strips
    )
    for voice, visible, sounding in sample.schedule:
        cells = "".join(f"<b class='{'on' if second else 'off'}'></b>" for second in sounding)
        lines += f"<span>{_text(voice)}{'' if visible else ' (off-screen)'}</span><div class='schedule'>{cells}</div>"
    caption = f"<figcaption>{_text(sample.title)}</figcaption>"
    return f"<figure class='sample'>{caption}<div class='strips'>{lines}</div></figure>"


def side_by_side(frames: np.ndarray) -> np.ndarray:
    """uint8 (T, H, W, 3) to one strip (H, T * (W + gap), 3) with white gaps, so that seconds can be told apart."""
    gap = max(1, frames.shape[2] // 32)
    padded = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)


def tint(frames: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Frames turned grey and dim, with the masked area in colour."""
    grey = frames.mean(-1, keepdims=True).repeat(3, -1) * 0.45
    painted = 0.2 * frames + 0.8 * np.array(colour)
    return np.where(mask[..., None], painted, grey).astype(np.uint8)


def _spectrogram(log_mel: np.ndarray) -> np.ndarray:
    """(T, 96, 64) to a coloured picture (64, T * (96 + gap), 3), low bands at the bottom."""
    from matplotlib import colormaps

    low, high = math.log(0.01), max(float(log_mel.max()), 0.0)
    level = np.clip((log_mel - low) / (high - low), 0, 1).transpose(0, 2, 1)[:, ::-1]
    return side_by_side((colormaps["magma"](level)[..., :3] * 255).astype(np.uint8))
