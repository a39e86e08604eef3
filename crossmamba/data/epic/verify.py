"""Checks EPIC-KITCHENS-100 on disk: `crossmamba data verify epic100 ROOT` (spec §3).

Everything that training or judging would trip over is a problem and makes the report not ok: rows that cannot be read,
unknown classes, missing and corrupt pictures or videos, segments past the end of their video. What is odd but does no
harm is a note.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from crossmamba.data.epic.annotations import NOUN_COUNT, VERB_COUNT, EpicRow, parse_rows, read_actions
from crossmamba.data.epic.classes import ClassTable, class_file, read_epic_classes
from crossmamba.data.epic.dataset import SPLIT_FILES, split_file
from crossmamba.data.epic.frames import frame_range
from crossmamba.data.epic.sampling import GAP
from crossmamba.data.epic.video import END_SLACK
from crossmamba.data.findings import Finding, Findings
from crossmamba.errors import DataError, UsageError

__all__ = ["OFFICIAL_ROWS", "EpicSetReport", "SegmentSummary", "verify_epic100"]

OFFICIAL_ROWS = {"train": 67_217, "validation": 9_668, "test": 13_092}
_V2_NOUNS = 305
_STRANGE_SHARE = 0.01  # single rows are slips of the annotators; more means tables of another version


@dataclass
class SegmentSummary:
    """What a split holds: its file, segments, videos, participants; classes that occur; rows without any past."""

    file: str
    segments: int
    videos: int
    participants: int
    verbs: int
    nouns: int
    actions: int
    clamped: int


@dataclass
class EpicSetReport(Findings):
    """What `verify_epic100` found.

    Attributes:
        root: the folder of the annotations. media: of the pictures.
        classes: number of verbs and nouns.
        splits: name -> what it holds.
        layout: how the pictures lie; None where they were not looked for or not found.
        checked: what was looked at, such as videos, pictures, seconds -> how much.
        problems, notes: see `Findings`.
    """

    shown: ClassVar[int] = 12
    root: str
    media: str
    classes: tuple[int, int] = (0, 0)
    splits: dict[str, SegmentSummary] = field(default_factory=dict)
    layout: str | None = None
    checked: dict[str, int] = field(default_factory=dict)
    problems: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)

    def count(self, what: str, number: int = 1) -> None:
        """Adds to `checked`."""
        self.checked[what] = self.checked.get(what, 0) + number

    def to_json(self) -> dict[str, Any]:
        """A plain dict of everything, all findings included."""
        return {**asdict(self), "ok": self.ok}

    @property
    def text(self) -> str:
        """For a terminal: counts, then findings by kind, long lists cut."""
        lines = [f"{self.root} (EPIC-KITCHENS-100): {self.classes[0]} verbs, {self.classes[1]} nouns"]
        for name, split in self.splits.items():
            occurring = (
                f"{split.verbs} verbs, {split.nouns} nouns, {split.actions} actions" if split.actions else "no labels"
            )
            lines.append(
                f"  {name:10} {split.segments:6d} segments, {split.videos} videos, {split.participants} participants; "
                f"{occurring}; {split.clamped} start within {GAP:.0f} s of their video"
            )
        seen = ", ".join(f"{count} {what}" for what, count in self.checked.items())
        lines.append(f"  pictures in {self.media}: {self.layout or 'not checked'}{'; ' + seen if seen else ''}")
        return "\n".join([*lines, *self.told()])


def verify_epic100(
    root: str | Path,
    *,
    media: str | Path | None = None,
    layout: str = "auto",
    decode: bool = False,
    progress: bool | None = None,
) -> EpicSetReport:
    """Reads the class tables, the annotations of all splits that are there, and looks at every picture they want.

    Args:
        root: folder of the csv files. media: of the pictures; None is `root`.
        layout: see `layouts.open_layout`; "features" for stored tokens, in files or in RULSTM's stores; "none" looks
            at annotations only.
        decode: decode every picture; else files are looked for, opened, and read at their ends.
        progress: a bar on stderr; None if that is a terminal.

    Raises:
        UsageError: an unknown layout.
        DataError: no such folder, or it has no annotation file.
    """
    from crossmamba.data.epic.layouts import LAYOUTS
    from crossmamba.data.epic.verify_media import verify_media

    if layout not in (*LAYOUTS, "auto", "features", "none"):
        raise UsageError(f"layout is {layout!r}; one of {', '.join(LAYOUTS)}, features, auto, none")
    if not Path(root).is_dir():
        raise DataError(f"{root}: there is no such folder; give the one that holds EPIC_100_validation.csv")
    place = Path(root if media is None else media)
    check = _Annotations(Path(root), EpicSetReport(str(root), str(place)))
    check.run()
    if layout != "none":
        rows = [row for split in check.rows.values() for row in split]
        files = {id(row): check.files[split] for split, members in check.rows.items() for row in members}
        verify_media(check.report, place, rows, files, layout=layout, decode=decode, progress=progress)
    return check.report


class _Annotations:
    """The csv files; `report` fills as it goes."""

    def __init__(self, root: Path, report: EpicSetReport) -> None:
        self.root, self.report = root, report
        self.rows: dict[str, list[EpicRow]] = {}
        self.files: dict[str, Path] = {}
        self.tables: tuple[ClassTable, ClassTable] | None = None
        self.unseen: frozenset[str] | None = None
        self.strange: dict[Path, int] = {}  # words of another class than the row's

    def run(self) -> None:
        self.files = {split: split_file(self.root, split) for split in SPLIT_FILES}
        there = [split for split, path in self.files.items() if path.is_file()]
        if not there:
            raise DataError(f"{self.files['validation']}: there is no such file, nor that of another split")
        self._classes()
        for split, path in self.files.items():
            if split in there:
                self._split(split, path)
            else:
                self.report.note("missing split", path, f"{path}: there is no such file; split {split} was not checked")
        self._across_splits()
        self._actions()
        self._video_info()

    def _classes(self) -> None:
        try:
            classes = read_epic_classes(self.root)
        except DataError as error:
            self.report.problem("classes", self.root, str(error))
            return
        self.tables, self.unseen = (classes.verbs, classes.nouns), classes.unseen
        self.report.classes = (len(classes.verbs), len(classes.nouns))
        if len(classes.nouns) == _V2_NOUNS:
            path = class_file(self.root, "noun_classes")
            self.report.problem(
                "classes",
                path,
                f"{path}: {_V2_NOUNS} nouns: this is the v2 table of VISOR; the 300-way task needs the first version",
            )
        for table in self.tables:
            for number, (key, words) in enumerate(zip(table.keys, table.instances, strict=True)):
                if key not in words:
                    path = class_file(self.root, f"{table.kind}_classes")
                    message = f"{path}: {table.kind} class {number}: the key {key!r} is not among its instances"
                    self.report.note("classes", path, message)
        for name, given in (
            ("tail_verbs", classes.tail_verbs),
            ("tail_nouns", classes.tail_nouns),
            ("unseen", self.unseen),
        ):
            if given is None:
                self.report.note("classes", self.root, f"{self.root}: no list of {name}: there will be no such scores")

    def _split(self, split: str, path: Path) -> None:
        verbs, nouns = (VERB_COUNT, NOUN_COUNT) if self.tables is None else map(len, self.tables)
        try:
            rows, faults = parse_rows(path, verbs=verbs, nouns=nouns)
        except DataError as error:
            self.report.problem("annotations", path, str(error))
            return
        for fault in faults:
            self.report.problem(fault.kind, path, fault.message)
        self.rows[split] = rows
        labelled = [(row.verb_class, row.noun_class) for row in rows if row.labelled]
        self.report.splits[split] = SegmentSummary(
            file=str(path),
            segments=len(rows),
            videos=len({row.video_id for row in rows}),
            participants=len({row.participant_id for row in rows}),
            verbs=len({verb for verb, _ in labelled}),
            nouns=len({noun for _, noun in labelled}),
            actions=len(set(labelled)),
            clamped=sum(row.start_timestamp <= GAP for row in rows),
        )
        if split != "test" and len(labelled) < len(rows):
            self.report.problem("annotations", path, f"{path}: the columns of the labels are missing")
        official = OFFICIAL_ROWS[split]
        if self.report.classes == (VERB_COUNT, NOUN_COUNT) and len(rows) + len(faults) != official:
            message = f"{path}: {len(rows) + len(faults)} rows; the official file has {official}"
            self.report.note("counts", path, message)
        for row in rows:
            self._row(path, row)
        if self.strange.get(path, 0) > _STRANGE_SHARE * len(rows):
            message = (
                f"{path}: {self.strange[path]} words belong to another class than their row's: wrong class tables?"
            )
            self.report.problem("class", path, message)

    def _row(self, path: Path, row: EpicRow) -> None:
        where = f"{path}:{row.line}: narration {row.narration_id}"
        try:
            first, last = frame_range(row)
        except DataError as error:
            self.report.problem("name", path, f"{where}: {error}")
            return
        off = max(abs(first - row.start_frame), abs(last - row.stop_frame))
        if off and path.name.startswith("EPIC_100_"):  # RULSTM's own frames are at another rate
            message = (
                f"{where}: frames {row.start_frame}-{row.stop_frame}; the times {row.start_timestamp:.2f} s to "
                f"{row.stop_timestamp:.2f} s give {first}-{last}"
            )
            (self.report.note if off == 1 else self.report.problem)("frame rule", path, message)
        if self.tables is None or not row.labelled:
            return
        for table, number, word in zip(
            self.tables, (row.verb_class, row.noun_class), (row.verb, row.noun), strict=True
        ):
            if number is not None and word and word not in table.instances[number] and word != table.keys[number]:
                belongs = table.by_word.get(word)
                message = f"{where}: {word!r} is no instance of {table.kind} class {number} ({table.keys[number]})"
                if belongs is not None:
                    message += f", but of class {belongs} ({table.keys[belongs]})"
                self.report.note("class", path, message)
                self.strange[path] = self.strange.get(path, 0) + (belongs is not None)
        if row.all_noun_classes and row.all_noun_classes[0] != row.noun_class:
            message = (
                f"{where}: noun_class is {row.noun_class}, the first of all_noun_classes {row.all_noun_classes[0]}"
            )
            self.report.problem("class", path, message)

    def _across_splits(self) -> None:
        owner: dict[str, tuple[str, EpicRow]] = {}
        videos = {split: {row.video_id for row in rows} for split, rows in self.rows.items()}
        for split, rows in self.rows.items():
            for row in rows:
                if row.narration_id in owner:
                    path, other = self.files[split], owner[row.narration_id]
                    message = f"{path}:{row.line}: narration {row.narration_id} is also in {self.files[other[0]]}"
                    self.report.problem("duplicate id", path, message)
                owner[row.narration_id] = (split, row)
        names = list(videos)
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                shared = videos[first] & videos[second]
                if shared:
                    message = f"{len(shared)} videos are in {first} and in {second}, such as {min(shared)}"
                    self.report.note("overlap", self.root, message)
        if self.unseen and "train" in self.rows:
            seen = sorted({row.participant_id for row in self.rows["train"]} & self.unseen)
            if seen:
                message = f"{self.files['train']}: participants {', '.join(seen)} are listed as unseen and are in train"
                self.report.problem("unseen", self.files["train"], message)

    def _actions(self) -> None:
        """RULSTM's numbers of actions."""
        path = self.root / "actions.csv"
        numbered = [(split, row) for split, rows in self.rows.items() for row in rows if row.action_class is not None]
        if not numbered or not path.is_file():
            return
        try:
            pairs = read_actions(path)
        except DataError as error:
            self.report.problem("actions", path, str(error))
            return
        for split, row in numbered:
            number, pair = row.action_class or 0, (row.verb_class, row.noun_class)
            if number >= len(pairs) or pairs[number] != pair:
                stands = f"stands for {pairs[number]}" if number < len(pairs) else f"is not among {len(pairs)}"
                message = (
                    f"{self.files[split]}:{row.line}: narration {row.narration_id}: verb and noun {pair}; its action "
                    f"{number} {stands} in {path}"
                )
                self.report.problem("actions", self.files[split], message)

    def _video_info(self) -> None:
        path = class_file(self.root, "video_info")
        if not path.is_file():
            self.report.note("video info", path, f"{path}: there is no such file; lengths come from the videos alone")
            return
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lengths = {cell["video_id"]: float(cell["duration"]) for cell in csv.DictReader(file)}
        except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
            self.report.problem("video info", path, f"{path}: no table of video_id and duration ({error!r})")
            return
        for split, rows in self.rows.items():
            for row in rows:
                length = lengths.get(row.video_id)
                if length is None or row.stop_timestamp <= length:
                    continue
                message = (
                    f"{self.files[split]}:{row.line}: narration {row.narration_id}: stops at "
                    f"{row.stop_timestamp:.2f} s; {row.video_id} lasts {length:.2f} s"
                )
                late = row.stop_timestamp > length + END_SLACK
                (self.report.problem if late else self.report.note)("past the end", self.files[split], message)
        unknown = sorted({row.video_id for rows in self.rows.values() for row in rows} - set(lengths))
        if unknown:
            message = f"{path}: no row for {len(unknown)} videos, such as {unknown[0]}"
            self.report.note("video info", path, message)
