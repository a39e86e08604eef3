"""The results of a model of actions: for a moment, for a whole video; as JSON, as a picture, as a video."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmamba import __version__
from crossmamba.data.media import DEFAULT_LIMITS, MediaInfo, MediaLimits, frames_at
from crossmamba.overlay import ActionFilm, TimedName, write_actions
from crossmamba.overlay.actions import joined
from crossmamba.predict.action_names import (
    TOP,
    ClassNames,
    Segment,
    Window,
    describe,
    describe_segment,
    join_windows,
    timed,
    timed_ahead,
    top_actions,
)

THUMBNAIL = 240  # pixels of the longer side of pictures on the timeline


@dataclass(frozen=True)
class MomentResult:
    """What is said of a moment.

    Attributes:
        path: the video. info: its header. moment: in seconds.
        now: of a recogniser, None without. later: of an anticipator, None without; it says what begins `gap` seconds
            after the moment.
        names, later_names: the classes of each. pictures: that the (first) model saw, uint8 (H, W, 3).
        about: models, settings and warnings.
    """

    path: Path
    info: MediaInfo
    moment: float
    now: Window | None
    later: Window | None
    gap: float
    names: ClassNames
    later_names: ClassNames
    pictures: list[NDArray[np.uint8]]
    about: Mapping[str, Any] = field(default_factory=dict)

    def actions(self, count: int = TOP) -> list[tuple[str, str, float]]:
        """The best (verb, noun, probability): now, or of an anticipator what comes."""
        window, names = (self.now, self.names) if self.now is not None else (self.later, self.later_names)
        assert window is not None  # one of them is there
        return top_actions(window.said, names, count)

    def describe(self, top: int = TOP) -> dict[str, Any]:
        """The content of `result.json`."""
        found: dict[str, Any] = {**_head(self.info, self.about), "at": self.moment, "clip": None, "anticipation": None}
        if self.now is not None:
            span = {"start": round(self.now.start, 3), "end": round(self.now.end, 3)}
            found["clip"] = span | describe(self.now.said, self.names, top)
        if self.later is not None:
            span = {"seen_from": round(self.later.start, 3), "seen_until": round(self.later.end, 3)}
            found["anticipation"] = span | {"begins_at": round(self.later.end + self.gap, 3)}
            found["anticipation"] |= describe(self.later.said, self.later_names, top)
        return found

    def save_picture(self, path: str | Path, top: int = TOP) -> None:
        """Writes the clip's pictures and the best verbs, nouns and actions as PNG; see `predict.timeline`.

        Raises:
            UsageError: matplotlib is not installed.
        """
        from crossmamba.predict.action_timeline import MomentPicture, draw_moment

        described = self.describe(top)
        sides = []
        if described["clip"]:
            span = described["clip"]
            sides.append((f"{span['start']:.2f} to {span['end']:.2f} s", span))
        if described["anticipation"]:
            span = described["anticipation"]
            sides.append((f"begins at {span['begins_at']:.2f} s", span))
        draw_moment(path, MomentPicture(self.moment, self.pictures, sides, note(self.path, self.about)))


@dataclass(frozen=True)
class ActionResult:
    """What is said of a whole video.

    Attributes:
        path: the video. info: its header. end: when the picture ends, seconds.
        windows: of a recogniser, each as the model judged it by itself; None without. ahead: of an anticipator; None
            without. Neither is smoothed.
        gap: seconds that anticipations look ahead. names, ahead_names: the classes.
        about: models, settings and warnings. limits: under which the video was read.
        actions: (verb, noun) of each window after smoothing; None for the best of each by itself.
    """

    path: Path
    info: MediaInfo
    end: float
    windows: list[Window] | None
    ahead: list[Window] | None
    gap: float
    names: ClassNames
    ahead_names: ClassNames
    about: Mapping[str, Any] = field(default_factory=dict)
    limits: MediaLimits = DEFAULT_LIMITS
    actions: list[tuple[int, int]] | None = None

    @cached_property
    def segments(self) -> list[Segment] | None:
        """Neighbouring windows with the same action; None without a recogniser."""
        return None if self.windows is None else join_windows(self.windows, self.end, self.actions)

    def describe(self, top: int = TOP) -> dict[str, Any]:
        """The content of `result.json`: segments, and the `top` best of every window before any smoothing."""
        found: dict[str, Any] = {**_head(self.info, self.about), "end": round(self.end, 3)}
        segments = self.segments
        found["segments"] = None if segments is None else [describe_segment(s, self.names, top) for s in segments]
        found["windows"] = (
            None if self.windows is None else [_describe_window(w, self.names, top) for w in self.windows]
        )
        found["anticipation"] = None
        if self.ahead is not None:
            found["anticipation"] = {
                "gap": self.gap,
                "moments": [
                    {"seen_until": round(window.end, 3), "begins_at": round(window.end + self.gap, 3)}
                    | describe(window.said, self.ahead_names, top)
                    for window in self.ahead
                ],
            }
        return found

    def to_json(self, top: int = TOP) -> str:
        """The description as JSON text."""
        return json.dumps(self.describe(top), indent=2)

    def lanes(self) -> tuple[list[TimedName], list[TimedName]]:
        """Segments and anticipations as they are drawn."""
        now = [timed(segment, self.names) for segment in self.segments or ()]
        return now, timed_ahead(self.ahead or (), self.ahead_names, self.end)

    def save_film(self, path: str | Path, progress: Callable[[float], None] | None = None) -> None:
        """Writes the video with the names and a timeline bar on it; see `crossmamba.overlay.actions`."""
        now, ahead = self.lanes()
        film = ActionFilm(self.end, now, ahead, self.gap)
        write_actions(self.path, path, film, limits=self.limits, progress=progress)

    def save_timeline(self, path: str | Path, truth: Sequence[TimedName] = ()) -> None:
        """Writes a picture of the timeline as PNG, with the true segments above where they are given.

        Raises:
            UsageError: matplotlib is not installed.
        """
        from crossmamba.predict.action_timeline import TimelinePicture, draw_timeline, picture_times

        now, ahead = self.lanes()
        moved = [
            TimedName(entry.start + self.gap, entry.end + self.gap, entry.verb, entry.noun, entry.probability)
            for entry in ahead
        ]
        lanes = [("true", truth), ("now", now), (f"said {self.gap:g} s\nbefore", joined(moved))]
        pictures = []
        for frame in frames_at(self.path, picture_times(self.end), hold=1.0, limits=self.limits):
            scale = min(1.0, THUMBNAIL / max(frame.size))
            pictures.append(frame.rgb((max(1, round(frame.size[0] * scale)), max(1, round(frame.size[1] * scale)))))
        shown = [(name, lane) for name, lane in lanes if lane]
        draw_timeline(path, TimelinePicture(self.end, shown, pictures, note(self.path, self.about)))


def _describe_window(window: Window, names: ClassNames, top: int) -> dict[str, Any]:
    return {"start": round(window.start, 3), "end": round(window.end, 3)} | describe(window.said, names, top)


def _head(info: MediaInfo, about: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format_version": 1,
        "crossmamba_version": __version__,
        "task": "action",
        "video": info.describe(),
        **about,
    }


def note(path: Path, about: Mapping[str, Any]) -> str:
    """A line below a picture: which model, trained on what, asked what."""
    model, settings = about.get("model", {}), about.get("settings", {})
    trained = model.get("trained_on")
    line = f"{path.name}, by {model.get('name')}" + (f", trained on {trained}" if trained else "")
    return f"{line}; question source: {settings.get('question_source')}"
