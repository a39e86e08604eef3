"""The pictures' part of `verify`: every file that the annotations want, in whatever layout it lies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from crossmamba.data.epic.annotations import EpicRow
from crossmamba.data.epic.chunks import Chunks
from crossmamba.data.epic.features import FeatureClips
from crossmamba.data.epic.frames import WRONG_FRAMES, frame_name, frame_range, frame_rate
from crossmamba.data.epic.layouts import Clips, FrameFolders, Pictures, RawVideos, open_layout
from crossmamba.data.epic.pictures import decode_picture, looks_whole, read_bytes
from crossmamba.data.epic.rulstm import RATE, FrameFeatures, FrameStore, frame_of, store_folders
from crossmamba.data.epic.verify import EpicSetReport
from crossmamba.data.epic.video import END_SLACK, pictures_at
from crossmamba.data.media import probe
from crossmamba.data.media_read import PictureStream
from crossmamba.errors import DataError

__all__ = ["verify_media"]

_NAMED = 3  # rows named beside a missing picture
_PAST = 3.5  # seconds before an action that RULSTM observes


def verify_media(
    report: EpicSetReport,
    root: Path,
    rows: Sequence[EpicRow],
    files: Mapping[int, Path],
    *,
    layout: str,
    decode: bool,
    progress: bool | None,
) -> None:
    """Adds what is found to the report.

    Args:
        report: fills. root: of the pictures. rows: of all splits. files: of each row by its `id()`, for messages.
        layout, decode, progress: see `verify.verify_epic100`.
    """
    check = _Media(report, files, decode, None if progress is None else not progress)
    if not rows:
        return
    if layout == "features":
        stores = store_folders(root)
        if stores:
            check.stores(stores, rows)
        else:
            check.features(root, rows)
        return
    try:
        pictures = open_layout(root, rows, layout)  # type: ignore[arg-type]  # checked by the caller
    except DataError as error:
        report.problem("missing", root, str(error))
        return
    report.layout = pictures.layout
    if isinstance(pictures, Clips):
        check.clips(pictures, rows)
        return
    by_video: dict[str, list[EpicRow]] = defaultdict(list)
    for row in rows:
        by_video[row.video_id].append(row)
    for members in check.bar([by_video[video] for video in sorted(by_video)], "videos"):
        check.video(pictures, members)


class _Media:
    """One pass over the files."""

    def __init__(self, report: EpicSetReport, files: Mapping[int, Path], decode: bool, hidden: bool | None) -> None:
        self.report, self.files, self.decode, self.hidden = report, files, decode, hidden

    def bar(self, items: Sequence, what: str) -> tqdm:
        """A bar on stderr."""
        return tqdm(items, desc="verify", unit=f" {what}", disable=self.hidden, leave=False)

    def named(self, row: EpicRow) -> str:
        """File, line and narration id of a row."""
        return f"{self.files[id(row)]}:{row.line}: narration {row.narration_id}"

    def video(self, pictures: Pictures, rows: list[EpicRow]) -> None:
        """All that is wanted of one video."""
        self.report.count("videos")
        if isinstance(pictures, FrameFolders):
            self._frames(pictures, rows)
        elif isinstance(pictures, Chunks):
            self._chunks(pictures, rows)
        elif isinstance(pictures, RawVideos):
            self._raw(pictures, rows)

    # extracted pictures

    def _frames(self, source: FrameFolders, rows: list[EpicRow]) -> None:
        row = rows[0]
        folder = source.folder(row)
        if row.video_id in WRONG_FRAMES:
            message = (
                f"{folder}: the published pictures of {row.video_id} are wrong (official erratum); extract them anew"
            )
            self.report.note("erratum", folder, message)
        try:
            there = source.numbers(row)
        except DataError as error:
            self.report.problem("corrupt", folder, str(error))
            return
        if not len(there):
            message = f"{folder}: no pictures, neither there nor in {folder.name}.tar; {len(rows)} segments want them"
            self.report.problem("missing", folder, message)
            return
        last = int(there[-1])
        slack = END_SLACK * frame_rate(row.video_id)
        wanted = np.zeros(last + 1, dtype=bool)
        for one in rows:
            try:
                first, stop = frame_range(one)
            except DataError:
                continue  # the row's own problem is in the report
            if stop > last:
                message = (
                    f"{self.named(one)}: wants pictures {first}-{stop}; {row.video_id} has {last}, the last at "
                    f"{last / frame_rate(row.video_id):.2f} s"
                )
                late = stop > last + slack
                (self.report.problem if late else self.report.note)("past the end", folder, message)
            wanted[first : stop + 1] = True
        has = np.zeros(last + 1, dtype=bool)
        has[there] = True
        tar = source.tar(row)
        self._gaps(folder if tar is None else tar.path, np.flatnonzero(wanted & ~has), rows)
        self._content(source, row, np.flatnonzero(wanted & has))

    def _gaps(self, place: Path, absent: NDArray[np.int64], rows: list[EpicRow]) -> None:
        """One problem a run of missing numbers, with the segments that want it."""
        if not len(absent):
            return
        for run in np.split(absent, np.flatnonzero(np.diff(absent) > 1) + 1):
            first, last = int(run[0]), int(run[-1])
            users = [row for row in rows if row.start_frame <= last and row.stop_frame >= first]
            named = ", ".join(row.narration_id for row in users[:_NAMED])
            more = f" and {len(users) - _NAMED} more" if len(users) > _NAMED else ""
            names = frame_name(first) if first == last else f"{frame_name(first)} to {frame_name(last)} ({len(run)})"
            message = f"{place}: missing {names}, wanted by {named}{more}"
            self.report.problem("missing", place, message)

    def _content(self, source: FrameFolders, row: EpicRow, numbers: NDArray[np.int64]) -> None:
        tar, folder = source.tar(row), source.folder(row)
        for number in map(int, numbers):
            place = folder / frame_name(number)
            where = str(place) if tar is None else f"{tar.path}: {frame_name(number)}"
            self.report.count("pictures")
            try:
                data = read_bytes(place) if tar is None else tar.read(number)
                if self.decode:
                    decode_picture(data, where)
                elif not looks_whole(data):
                    raise DataError(f"{where}: no whole jpeg ({len(data)} bytes); copy or extract it again")
            except DataError as error:
                self.report.problem("corrupt", place, str(error))

    # video files

    def _raw(self, source: RawVideos, rows: list[EpicRow]) -> None:
        path = source.path(rows[0])
        if not path.is_file():
            message = f"{path}: there is no video {rows[0].video_id}; {len(rows)} segments want it"
            self.report.problem("missing", path, message)
            return
        try:
            end = self._open(path)
        except DataError as error:
            self.report.problem("corrupt", path, str(error))
            return
        self._past_end(path, end, rows)
        self._read_end(path, 0.0, end, max(row.stop_timestamp for row in rows))

    def _open(self, path: Path) -> float:
        """Where the pictures end by the header, seconds.

        Raises:
            DataError: unreadable, without pictures, or without a length.
        """
        picture = probe(path).picture
        if picture is None or picture.end is None:
            raise DataError(f"{path}: the file has {'no pictures' if picture is None else 'no known length'}")
        return picture.end

    def _past_end(self, path: Path, end: float, rows: list[EpicRow]) -> None:
        for row in rows:
            if row.stop_timestamp > end:
                message = f"{self.named(row)}: stops at {row.stop_timestamp:.2f} s; {path} ends at {end:.2f} s"
                late = row.stop_timestamp > end + END_SLACK
                (self.report.problem if late else self.report.note)("past the end", path, message)

    def _read_end(self, path: Path, start: float, end: float, stop: float) -> None:
        """Reads the last picture that is wanted, which a file that was cut does not have; or all of them.

        Args:
            path: of the file. start: where it starts in its video. end: where it ends. stop: the last time wanted.
        """
        try:
            if self.decode:
                with PictureStream(path) as stream:
                    for _ in stream.at(np.arange(0.0, end - start + 1, 1.0)):
                        self.report.count("seconds decoded")
                return
            time = max(min(stop, end) - start - 0.1, 0.0)
            if not pictures_at(path, [time])[0]:
                raise DataError(f"{path}: no picture at {time:.2f} s, but the header announces {end - start:.2f} s")
        except DataError as error:
            self.report.problem("corrupt", path, str(error))

    def _chunks(self, source: Chunks, rows: list[EpicRow]) -> None:
        folder = source.folder(rows[0])
        try:
            parts = source.parts(rows[0])
        except DataError as error:
            self.report.problem("missing", folder, str(error))
            return
        for start in parts.absent:
            users = [row for row in rows if row.start_timestamp < start + parts.seconds and row.stop_timestamp > start]
            path = folder / f"{start}.MP4"
            message = f"{path}: the part is missing; {len(users)} segments want it"
            (self.report.problem if users else self.report.note)("missing", path, message)
        last, end = max(parts.files), 0.0
        for start, path in parts.files.items():
            self.report.count("parts")
            try:
                length = self._open(path)
            except DataError as error:
                self.report.problem("corrupt", path, str(error))
                length = float(parts.seconds)
            else:
                if start != last and length < parts.seconds - END_SLACK:
                    message = f"{path}: {length:.2f} s long; a part has {parts.seconds} s"
                    self.report.problem("corrupt", path, message)
                self._read_end(path, start, start + length, start + length)
            end = start + length
        step_back = end - last >= parts.seconds - END_SLACK
        for row in rows:
            if row.stop_timestamp <= end:
                continue
            message = (
                f"{self.named(row)}: stops at {row.stop_timestamp:.2f} s; the parts in {folder} end at {end:.2f} s"
            )
            soft = row.stop_timestamp <= end + (parts.seconds if step_back else END_SLACK)
            if soft and step_back:
                message += f" ({last + parts.seconds}.MP4 is missing; the last picture before it stands for it)"
            (self.report.note if soft else self.report.problem)("past the end", folder, message)

    def clips(self, source: Clips, rows: Sequence[EpicRow]) -> None:
        """One file a segment."""
        for row in self.bar(rows, "clips"):
            path = source.path(row)
            if not path.is_file():
                self.report.problem("missing", path, f"{path}: there is no clip; {self.named(row)} wants it")
                continue
            self.report.count("clips")
            try:
                length = self._open(path)
            except DataError as error:
                self.report.problem("corrupt", path, f"{error} ({self.named(row)})")
                continue
            if length < row.seconds - END_SLACK:
                message = f"{self.named(row)}: {row.seconds:.2f} s long; {path} has {length:.2f} s"
                self.report.problem("past the end", path, message)
            self._read_end(path, 0.0, length, length)

    def features(self, root: Path, rows: Sequence[EpicRow]) -> None:
        """Stored tokens: all there, all readable, one width."""
        splits = {"train": "train", "training": "train", "validation": "validation"}
        try:
            stores = {split: FeatureClips(root, split) for split in ("train", "validation", "test")}
        except DataError as error:
            self.report.problem("missing", root, str(error))
            return
        self.report.layout = "features"
        shapes: dict[int, str] = {}
        for row in self.bar(rows, "segments"):
            store = stores[splits.get(self.files[id(row)].stem.removeprefix("EPIC_100_"), "test")]
            path = store.path(row)
            if not path.is_file():
                message = f"{path}: there are no stored features; {self.named(row)} wants them"
                self.report.problem("missing", path, message)
                continue
            try:
                tokens = store.read(row)
            except DataError as error:
                self.report.problem("corrupt", path, str(error))
                continue
            self.report.count("feature files")
            shapes.setdefault(tokens.shape[1], str(path))
        if len(shapes) > 1:
            given = ", ".join(f"{width} ({path})" for width, path in shapes.items())
            self.report.problem("features", root, f"{root}: features of different widths: {given}")

    def stores(self, folders: Sequence[Path], rows: Sequence[EpicRow]) -> None:
        """RULSTM's LMDB stores: every frame of the segments and of the time before them."""
        self.report.layout = "features"
        by_video: dict[str, list[EpicRow]] = defaultdict(list)
        for row in rows:
            by_video[row.video_id].append(row)
        try:
            stores = FrameFeatures(folders).stores
        except DataError as error:
            self.report.problem("missing", folders[0], str(error))
            return
        for store in stores:
            for video in self.bar(sorted(by_video), "videos"):
                self._store(store, video, by_video[video])

    def _store(self, store: FrameStore, video: str, rows: list[EpicRow]) -> None:
        there = store.numbers(video)
        self.report.count("videos")
        if not len(there):
            message = f"{store.folder}: no frame of {video}; {len(rows)} segments want it"
            self.report.problem("missing", store.folder, message)
            return
        last = int(there[-1])
        has, wanted = np.zeros(last + 1, dtype=bool), np.zeros(last + 1, dtype=bool)
        has[there] = True
        for row in rows:
            if row.stop_timestamp * RATE > last + 1:
                message = f"{self.named(row)}: stops at {row.stop_timestamp:.2f} s; {video} ends at {last / RATE:.2f} s"
                late = row.stop_timestamp > last / RATE + END_SLACK
                (self.report.problem if late else self.report.note)("past the end", store.folder, message)
            wanted[frame_of(row.start_timestamp - _PAST) : frame_of(row.stop_timestamp) + 1] = True
        absent = np.flatnonzero(wanted & ~has)
        if len(absent):
            users = [row for row in rows if _wants(row, absent)]
            named = ", ".join(row.narration_id for row in users[:_NAMED])
            more = f" and {len(users) - _NAMED} more" if len(users) > _NAMED else ""
            message = (
                f"{store.folder}: {len(absent)} frames of {video} are missing, {frame_name(int(absent[0]))} first, in "
                f"or up to {_PAST} s before {named}{more}"
            )
            self.report.problem("missing", store.folder, message)
        numbers = np.flatnonzero(wanted & has)
        for number in numbers if self.decode else {*numbers[:1], *numbers[-1:]}:
            self.report.count("frames")
            try:
                store.read(video, [int(number)])
            except DataError as error:
                self.report.problem("corrupt", store.folder, str(error))


def _wants(row: EpicRow, numbers: NDArray[np.int64]) -> bool:
    """Whether any of RULSTM's frames is in a row or in the time before it."""
    first, last = frame_of(row.start_timestamp - _PAST), frame_of(row.stop_timestamp)
    return bool(np.any((numbers >= first) & (numbers <= last)))
