"""A small kitchen in every layout: pictures carry their number, so that a test knows which one was read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from crossmamba.data.media import VideoWriter

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
SEGMENTS = ((0.0, 1.2), (0.5, 1.0), (2.5, 6.0), (5.0, 5.8), (8.0, 9.9))  # seconds; in every video
VIDEOS = ("P01_01", "P02_101")
SECONDS, FPS = 10, 20  # of the video files
VERBS, NOUNS = ("take", "turn-on", "cut"), ("plate", "box:lunch")


def numbered(number: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Picture `number` (below 4,096), uint8 (H, W, 3): three grey bars, one for each of its digits to base 16."""
    picture = np.zeros((height, width, 3), np.uint8)
    for place in range(3):
        picture[:, place * width // 3 : (place + 1) * width // 3] = 8 + (number >> (4 * place)) % 16 * 15
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number of a decoded `numbered` picture of any size."""
    width = picture.shape[1]
    total = 0
    for place in range(3):
        bar = picture[:, place * width // 3 + width // 12 : (place + 1) * width // 3 - width // 12]
        total += round((float(bar.mean()) - 8) / 15) << (4 * place)
    return total


def write_clip(path: Path, numbers: Iterable[int], fps: float = FPS, gop: int = 10) -> Path:
    """A video of numbered pictures with a key picture every `gop`."""
    with VideoWriter(path, (32, 48), fps, gop=gop, crf=12) as writer:
        for number in numbers:
            writer.write_frame(numbered(number))
    return path


def stamp(seconds: float, decimals: int = 2) -> str:
    """`00:00:01.50`."""
    return f"00:00:{seconds:0{3 + decimals}.{decimals}f}"


def rate_of(video: str) -> int:
    return 60 if len(video.split("_")[1]) == 2 else 50


def csv_rows(segments: Iterable[tuple[float, float]] = SEGMENTS, videos: Iterable[str] = VIDEOS) -> list[list[str]]:
    """Cells of the 15 columns."""
    rows = []
    for video in videos:
        rate = rate_of(video)
        for k, (start, stop) in enumerate(segments):
            verb, noun = k % len(VERBS), k % len(NOUNS)
            frames = [str(max(1, int(start * rate))), str(int(stop * rate))]
            cells = [f"{video}_{k}", video[:3], video, stamp(start, 3), stamp(start), stamp(stop), *frames]
            words = [f"{VERBS[verb]} {NOUNS[noun]}", VERBS[verb], str(verb), NOUNS[noun], str(noun)]
            rows.append([*cells, *words, f"\"['{NOUNS[noun]}']\"", f"[{noun}]"])
    return rows


def write_csv(path: Path, rows: Iterable[list[str]], header: str = HEADER) -> Path:
    """An annotation file; columns beyond the header's are left out."""
    count = len(header.split(","))
    path.write_text("\n".join([header, *(",".join(row[:count]) for row in rows)]) + "\n", encoding="utf-8")
    return path


def write_annotations(root: Path) -> Path:
    """The csv files: two videos, one of each frame rate; validation is train."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation"):
        write_csv(root / f"EPIC_100_{name}.csv", csv_rows())
    write_csv(root / "EPIC_100_test_timestamps.csv", csv_rows(), ",".join(HEADER.split(",")[:8]))
    for kind, keys in (("verb", VERBS), ("noun", NOUNS)):
        lines = [f"{i},{key},\"['{key}', '{key}-x']\",group" for i, key in enumerate(keys)]
        (root / f"EPIC_100_{kind}_classes.csv").write_text("\n".join(["id,key,instances,category", *lines]) + "\n")
        (root / f"EPIC_100_tail_{kind}s.csv").write_text(f"{kind}\n1\n")
    (root / "EPIC_100_unseen_participant_ids_validation.csv").write_text("participant_id\nP02\n")
    return root


def write_videos(root: Path) -> Path:
    """Layout `videos`: picture n of FPS a second has number n, from 0."""
    for video in VIDEOS:
        write_clip(root / video[:3] / "videos" / f"{video}.MP4", range(SECONDS * FPS))
    return root


def write_chunks(root: Path, seconds: int = 4) -> Path:
    """Layout `chunks`; the numbers go on from part to part."""
    for video in VIDEOS:
        for start in range(0, SECONDS, seconds):
            numbers = range(start * FPS, min(start + seconds, SECONDS) * FPS)
            write_clip(root / video[:3] / f"{video}.MP4" / f"{start}.MP4", numbers)
    return root


def write_cuts(root: Path) -> Path:
    """Layout `clips`: the pictures of each segment."""
    for video in VIDEOS:
        for k, (start, stop) in enumerate(SEGMENTS):
            write_clip(root / video[:3] / f"{video}_{k}.mp4", range(int(start * FPS), int(stop * FPS)))
    return root


def jpeg(number: int) -> bytes:
    """A numbered picture as a jpeg file."""
    buffer = io.BytesIO()
    Image.fromarray(numbered(number)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def write_frames(root: Path, packed: Iterable[str] = ()) -> Path:
    """Layout `frames`: file n has number n, from 1; videos in `packed` lie in a tar."""
    for video in VIDEOS:
        folder = root / video[:3] / "rgb_frames" / video
        folder.parent.mkdir(parents=True)
        count = SECONDS * rate_of(video)
        if video in packed:
            with tarfile.open(folder.with_name(f"{video}.tar"), "w") as archive:
                for number in range(1, count + 1):
                    data = jpeg(number)
                    member = tarfile.TarInfo(f"./frame_{number:010d}.jpg")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
            continue
        folder.mkdir()
        for number in range(1, count + 1):
            (folder / f"frame_{number:010d}.jpg").write_bytes(jpeg(number))
    return root
