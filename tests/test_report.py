"""The page of a run: complete, self-contained, and safe against names with markup in them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from crossmamba.report import (
    Curve,
    Plot,
    Report,
    Row,
    Sample,
    png_data_uri,
    read_curve,
    render,
    text_table,
    write_report,
)

pytest.importorskip("matplotlib")

ROWS = [Row("this run", "hears", 84.84, 88.0, 95.5, "run"), Row("ceiling <b>", "sees only", 57.46, None, None, "bound")]


class Elements(HTMLParser):
    """Counts elements and remembers addresses; fails on elements that are closed in another order than opened."""

    VOID = frozenset({"meta", "img", "br", "link", "path", "use", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.fixture
def report(tmp_path: Path) -> Report:
    draw = np.random.default_rng(0)
    video = tmp_path / "overlay.mp4"
    video.write_bytes(b"not really a video")
    sample = Sample(
        title="clip <script>alert(1)</script>",
        frames=draw.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8),
        truth=draw.random((5, 32, 32)) > 0.5,
        prediction=np.zeros((5, 32, 32), bool),
        log_mel=draw.normal(-2, 1, (5, 96, 64)),
        schedule=[("bell", True, [True, False, True, False, True]), ("horn", False, [False] * 5)],
    )
    plots = [
        Plot("Loss", "step", "loss", [Curve("train", [(0, 2.0), (10, 1.0)])]),
        Plot("M_J", "step", "%", [Curve("a", [(1, 50.0)]), Curve("empty", [])], [("ceiling", 57.5)]),
        Plot("Seconds", "second", "%", [Curve("a", [(1, 50.0), (2, 60.0)])], bars=True),
    ]
    return Report(
        "A run", "Lead.", ROWS, plots, [sample], ["It knows nothing."], [("seed", "0")], [("x", "x.csv")], video
    )


def test_the_page_is_whole_and_asks_for_nothing_from_elsewhere(report: Report, tmp_path: Path) -> None:
    page = write_report(tmp_path / "new" / "report.html", report).read_text(encoding="utf-8")
    elements = Elements()
    elements.feed(page)
    assert not elements.open
    assert elements.counts["svg"] == 3
    assert elements.counts["img"] == 4
    assert elements.counts["video"] == 1
    assert "script" not in elements.counts
    inside = ("data:image/png;base64,", "data:video/mp4;base64,", "#")
    assert [address for address in elements.addresses if not address.startswith(inside)] == ["x.csv"]
    assert not re.search(r"url\((?!['\"]?#)|@import", page)
    for text in ("84.8", "57.5", "horn (off-screen)", "It knows nothing.", "clip &lt;script&gt;"):
        assert text in page


def test_parts_that_are_not_given_are_left_out() -> None:
    page = render(Report("A run", "Lead.", ROWS))
    assert "<h2>Scores</h2>" in page
    assert page.count("<h2>") == 1


def test_the_table_for_a_terminal_lines_up() -> None:
    lines = text_table(ROWS).splitlines()
    assert len(lines) == 3
    assert lines[0].split() == ["M_J", "M_F", "black", "kept"]
    assert lines[1].split() == ["this", "run", "84.8", "88.0", "95.5"]
    assert lines[2].endswith("–")
    assert lines[1].index("84.8") == lines[2].index("57.5")


def test_curves_skip_empty_cells(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_text("step,train/loss,val/M_J\n1,0.5,\n2,0.4,0.7\n,0.3,0.8\n")
    assert read_curve(table, "train/loss") == [(1.0, 0.5), (2.0, 0.4)]
    assert read_curve(table, "val/M_J") == [(2.0, 0.7)]
    assert read_curve(table, "absent") == []


def test_pictures_are_scaled_without_smoothing() -> None:
    import base64
    import io

    from PIL import Image

    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    data = base64.b64decode(png_data_uri(pixels, scale=3).split(",")[1])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)))[::3, ::3], pixels)
