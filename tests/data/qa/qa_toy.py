"""A MUSIC-AVQA set of invented rows: one for each of the 33 templates, every oddity of the real files (spec §3, §8).

No row of the data set is here: ids and values are made up, the templates are facts about the format.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from crossmamba.data.media import write_video
from crossmamba.data.qa.templates import SLOTS, TEMPLATES, Template, answers_of

SECONDS = 60
VIDEOS = ("00000001", "00000002", "va00000003")  # the last is one of the synthetic kind


def row(template: Template, question_id: int, video_id: str, shift: int = 0) -> dict[str, Any]:
    """A row as the files have it: JSON inside strings, the misspelt key."""
    values = [SLOTS[slot][(question_id + i) % len(SLOTS[slot])] for i, slot in enumerate(template.slots)]
    answers = answers_of(template.answers)
    return {
        "video_id": video_id,
        "question_id": question_id,
        "type": json.dumps([template.modality, template.kind]),
        "question_content": template.text,
        "templ_values": json.dumps(values),
        "question_deleted": 0,
        "anser": answers[(question_id + shift) % len(answers)],
    }


def rows_of(split: int = 0) -> list[dict[str, Any]]:
    """One row for each template."""
    return [row(t, 1000 * split + 7 * n, VIDEOS[n % len(VIDEOS)]) for n, t in enumerate(TEMPLATES)]


def save_rows(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def save_features(root: Path, folder: str, video: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Values that tell row and channel apart: the first value of row t is t."""
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    if shape[0] > 1:
        values.reshape(shape[0], -1)[:, 0] = np.arange(shape[0])
    (root / folder).mkdir(parents=True, exist_ok=True)
    np.save(root / folder / f"{video}.npy", values)
    return values


def make_root(root: Path, seconds: int = SECONDS) -> Path:
    """Annotations of three splits, small features of every video."""
    for number, split in enumerate(("train", "val", "test")):
        save_rows(root / "json_update" / f"avqa-{split}.json", rows_of(number))
    for video in VIDEOS:
        save_features(root, "small_sound", video, (seconds, 64))
        save_features(root, "small_picture", video, (seconds, 2, 3, 64))
    return root


def contradictory_rows() -> list[dict[str, Any]]:
    """As in `json`: one id twice with two answers, another id twice with two templates."""
    rows = rows_of()
    yes_no = rows[0]
    other = "no" if yes_no["anser"] == "yes" else "yes"
    return [*rows, {**yes_no, "anser": other}, {**rows[5], "question_id": rows[4]["question_id"]}]


def version_2_rows() -> list[dict[str, Any]]:
    """As in v2.0: no id, a real list, further keys, a mirrored video, the answer "ten"."""
    rows = rows_of()
    del rows[0]["question_id"]
    rows[1]["question_id"] = None
    rows[2]["templ_values"] = json.loads(rows[2]["templ_values"])
    del rows[3]["question_deleted"]
    rows[4] |= {"audio_instrument": ["cello"], "video_instrument": [], "unmatch_audio": [], "person": 2}
    rows[6]["video_id"] = "-aB_c123XyZ_flip"
    rows[7]["anser"] = "ten"
    return rows


def make_video(path: Path, seconds: int = 4, side: int = 32, sound: bool = True) -> Path:
    """Second i is one grey of 20 (i + 1); the sound is a tone that gets louder each second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fps, rate = 8, 16000
    frames = [np.full((side, side, 3), 20 * (n // fps + 1), np.uint8) for n in range(seconds * fps)]
    time = np.arange(seconds * rate) / rate
    tone = (0.1 * (1 + time.astype(int)) * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    write_video(path, frames, fps=fps, audio=tone if sound else None, sample_rate=rate)
    return path
