"""The csv files of a kitchen set, column for column as EPIC-KITCHENS-100 has them (dossier §3.1)."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence

from crossmamba.data.epic.annotations import COLUMNS, seconds_of
from crossmamba.data.epic.frames import frame_number
from crossmamba.data.synth.kitchen.classes import NOUNS, VERBS, Noun, Verb
from crossmamba.data.synth.kitchen.plan import Video

TIMED = COLUMNS[:8]
"""Columns of the test file, whose labels are hidden."""
TAIL_SHARE = 0.2
"""The rarest classes with at most this share of the train segments, all together, are tail classes."""

Row = dict[str, object]


def stamp(units: int, decimals: int) -> str:
    """`HH:MM:SS.ff` of a time in units of 10^-decimals seconds."""
    seconds, rest = divmod(units, 10**decimals)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:0{decimals}d}"


def narration_id(video: Video, k: int) -> str:
    """Name of a video's k-th segment, `P01_01_0` for the first."""
    return f"{video.id}_{k}"


def rows_of(videos: Iterable[Video]) -> list[Row]:
    """All 15 columns of all segments, sorted by narration id as text, as the official files are."""
    rows = [_row(video, k) for video in videos for k in range(len(video.segments))]
    return sorted(rows, key=lambda row: (str(row["video_id"]), str(row["narration_id"])))


def _row(video: Video, k: int) -> Row:
    segment = video.segments[k]
    start, stop = segment.told
    return {
        "narration_id": narration_id(video, k),
        "participant_id": video.participant.id,
        "video_id": video.id,
        "narration_timestamp": "" if segment.narrated is None else stamp(segment.narrated, 3),
        "start_timestamp": stamp(start, 2),
        "stop_timestamp": stamp(stop, 2),
        "start_frame": max(1, frame_number(seconds_of(stamp(start, 2)), video.rate)),
        "stop_frame": frame_number(seconds_of(stamp(stop, 2)), video.rate),
        "narration": segment.narration,
        "verb": segment.verb,
        "verb_class": segment.step.action.verb,
        "noun": segment.noun,
        "noun_class": segment.step.action.noun,
        "all_nouns": [word for word, _ in segment.nouns],
        "all_noun_classes": [number for _, number in segment.nouns],
    }


def table(columns: Sequence[str], rows: Iterable[Row]) -> bytes:
    """A csv file of some columns of rows; lists are written as Python writes them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def class_rows(kind: str) -> list[Row]:
    """Rows of `EPIC_100_{verb,noun}_classes.csv`: id, key, instances, category."""
    classes: Sequence[Verb | Noun] = VERBS if kind == "verb" else NOUNS
    return [
        {"id": number, "key": c.key, "instances": list(c.instances), "category": c.category}
        for number, c in enumerate(classes)
    ]


def tail(kind: str, train: Iterable[Row]) -> list[int]:
    """Ids of the tail classes, ascending: the rarest in train, as many as have `TAIL_SHARE` of its segments at most."""
    counts = Counter(row[f"{kind}_class"] for row in train)
    number, total, found, seen = len(VERBS if kind == "verb" else NOUNS), sum(counts.values()), [], 0
    for index in sorted(range(number), key=lambda i: (counts[i], i)):
        seen += counts[index]
        if seen > TAIL_SHARE * total:
            break
        found.append(index)
    return sorted(found)


def files(videos: dict[str, list[Video]], size: int) -> dict[str, bytes]:
    """Name and content of every csv file of a set.

    Args:
        videos: by split: train, val, test.
        size: side of the pictures in pixels.
    """
    rows = {split: rows_of(made) for split, made in videos.items()}
    known = {video.participant.id for video in videos["train"]}
    every = sorted((video for made in videos.values() for video in made), key=lambda video: video.id)
    info = [
        {"video_id": v.id, "duration": f"{v.seconds:.6f}", "fps": float(v.fps), "resolution": f"{size}x{size}"}
        for v in every
    ]
    found = {
        "train": table(COLUMNS, rows["train"]),
        "validation": table(COLUMNS, rows["val"]),
        "test_timestamps": table(TIMED, rows["test"]),
        "video_info": table(("video_id", "duration", "fps", "resolution"), info),
    }
    for kind in ("verb", "noun"):
        found[f"{kind}_classes"] = table(("id", "key", "instances", "category"), class_rows(kind))
        found[f"tail_{kind}s"] = table((kind,), [{kind: index} for index in tail(kind, rows["train"])])
    for split, name in (("val", "validation"), ("test", "test")):
        unseen = sorted({video.participant.id for video in videos[split]} - known)
        found[f"unseen_participant_ids_{name}"] = table(
            ("participant_id",), [{"participant_id": who} for who in unseen]
        )
    for split, name in (("train", "train"), ("val", "validation")):
        untimed = [row for row in rows[split] if not row["narration_timestamp"]]
        found[f"{name}_missing_timestamp_narrations"] = table(("narration_id",), untimed)
    named = {f"EPIC_100_{name}.csv": content for name, content in found.items()}
    return named | {"truth/EPIC_100_test.csv": table(COLUMNS, rows["test"])}
