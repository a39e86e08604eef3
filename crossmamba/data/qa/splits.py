"""Which videos are in which split: the official split shares videos, and one by video does not (spec §3.1).

MUSIC-AVQA is split by question: 2,296 videos are in both val and test. A model may then have met a
test video in training. `split_by_video` deals whole videos to the splits instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from crossmamba.data.qa.annotations import SPLITS, QuestionRow
from crossmamba.errors import UsageError

__all__ = ["SHARES", "split_by_video", "split_of_video", "video_overlap"]

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}
"""Of the videos; the official shares of the questions."""


def video_overlap(splits: Mapping[str, Iterable[QuestionRow]]) -> dict[tuple[str, str], int]:
    """How many videos each pair of splits shares."""
    videos = {name: {row.video_id for row in rows} for name, rows in splits.items()}
    return {(a, b): len(videos[a] & videos[b]) for a, b in combinations(videos, 2)}


def split_of_video(video_id: str) -> str:
    """The split of a video: a function of its id alone, so it never changes with files, order or seed.

    The SHA-256 of the id, read as a number in [0, 1), is compared with the shares 0.7, 0.8. A mirrored copy of v2.0
    (`<id>_flip`) goes where its original goes.
    """
    digest = hashlib.sha256(video_id.removesuffix("_flip").encode()).digest()
    number = int.from_bytes(digest[:8], "big") / 2**64
    reached = 0.0
    for name in SPLITS:
        reached += SHARES[name]
        if number < reached:
            return name
    return SPLITS[-1]


def split_by_video(rows: Sequence[QuestionRow], split: str) -> list[QuestionRow]:
    """The rows, of all official splits together, whose video belongs to `split`.

    Raises:
        UsageError: an unknown split.
    """
    if split not in SPLITS:
        raise UsageError(f"split is {split!r}; allowed: {', '.join(SPLITS)}")
    return [row for row in rows if split_of_video(row.video_id) == split]
