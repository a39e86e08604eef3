"""What truly happens in a video, as json: `truth/<video_id>.json`.

video_id, participant_id, split, seconds, fps, frames
segments: a list; for each
    narration_id, verb, noun (keys), verb_class, noun_class
    start, stop                true seconds of the movement
    told_start, told_stop      seconds of the csv file
    place, x, y                number of the place and its middle, shares of the picture's side (camera at rest)
    table                      before: key of the noun on each place or null; `open` and `running`: keys
    law                        exact chance of each possible action given all before it, by name ("open fridge")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from crossmamba.data.synth.kitchen.annotations import narration_id
from crossmamba.data.synth.kitchen.classes import ACTIONS, NOUNS, VERBS
from crossmamba.data.synth.kitchen.plan import Video
from crossmamba.errors import DataError


def truth_record(video: Video, places: list[tuple[float, float]]) -> dict[str, Any]:
    """The record of a video; JSON types only.

    Args:
        video: the plan.
        places: middles of the table's places, shares of the side.
    """
    segments = []
    for k, segment in enumerate(video.segments):
        step, before = segment.step, segment.step.before
        segments.append(
            {
                "narration_id": narration_id(video, k),
                "verb": VERBS[step.action.verb].key,
                "noun": NOUNS[step.action.noun].key,
                "verb_class": step.action.verb,
                "noun_class": step.action.noun,
                "start": round(segment.start, 4),
                "stop": round(segment.stop, 4),
                "told_start": segment.told[0] / 100,
                "told_stop": segment.told[1] / 100,
                "place": step.place,
                "x": round(places[step.place][0], 4),
                "y": round(places[step.place][1], 4),
                "table": [None if noun is None else NOUNS[noun].key for noun in before.places],
                "open": [NOUNS[noun].key for noun in sorted(before.opened)],
                "running": [NOUNS[noun].key for noun in sorted(before.running)],
                "law": {ACTIONS[i].name: round(float(step.law[i]), 6) for i in np.flatnonzero(step.law)},
            }
        )
    return {
        "video_id": video.id,
        "participant_id": video.participant.id,
        "split": video.split,
        "seconds": round(video.seconds, 6),
        "fps": float(video.fps),
        "frames": video.frames,
        "segments": segments,
    }


def read_truth(root: str | Path, video_id: str) -> dict[str, Any]:
    """The record of a video of a set.

    Raises:
        DataError: missing or unreadable.
    """
    path = Path(root) / "truth" / f"{video_id}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not the truth of a kitchen video ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("segments"), list):
        raise DataError(f"{path}: not the truth of a kitchen video (no list of segments).")
    return record
