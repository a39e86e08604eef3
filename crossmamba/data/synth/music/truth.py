"""The truth of a concert as `scene_truth/<video_id>.json`.

format_version 1; video_id, split, seed, index; seconds, size, fps, sample_rate; kinds (of the world); room
instruments   one entry for each on the stage:
    id        1, 2, ...
    kind, size, place          "violin", "large", "left"
    at        [x, y], where it stands, shares of the side to the right and down; it sways a little round it
    centre    [x, y] per second, shares of the side to the right and down, at the middle of the second
    radius    share of the side
    visible   per second (always true: nothing leaves or hides)
    sounding, loudness         per second; loudness is the voice's root mean square, 0 where silent
    rhythm    strokes per second, null for a silent one
    entering  1 for the first to come in of those on the stage, and so on; equal for equal moments; null if silent
voices        one entry for each voice, seen or not:
    kind, size, instrument     id of the instrument, null for an off-screen voice
    start, end                 seconds; it sounds in start, ..., end - 1
    level     root mean square over its whole span
    rhythm    strokes per second
    sounding, loudness         per second
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.music.scene import Concert, Instrument, Stage, Voice
from crossmamba.errors import DataError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ConcertTruth:
    """The truth of one video, as read back.

    Attributes:
        video_id, split: which.
        concert: the scene, from which every answer follows.
        record: the whole file, see the module's text.
    """

    video_id: str
    split: str
    concert: Concert
    record: dict[str, Any]


def truth_record(
    concert: Concert,
    centres: NDArray[np.float64],
    loudness: NDArray[np.float64],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """The file's content.

    Args:
        concert: the scene.
        centres: (instruments, seconds, 2), see above.
        loudness: (voices, seconds) root mean square.
        facts: video_id, split, seed, index, size, fps, sample_rate.
    """
    starts = sorted({voice.start for voice in concert.playing if voice is not None})
    voices = list(concert.voices)
    silent = [0.0] * concert.seconds
    per_voice = [[round(float(x), 5) for x in row] for row in loudness]
    instruments = []
    for k, (thing, voice) in enumerate(zip(concert.stage.instruments, concert.playing, strict=True)):
        instruments.append(
            {
                "id": k + 1,
                "kind": thing.kind,
                "size": thing.size,
                "place": thing.place,
                "at": [thing.x, thing.y],
                "centre": [[round(float(x), 4), round(float(y), 4)] for x, y in centres[k]],
                "radius": thing.radius,
                "visible": [True] * concert.seconds,
                "sounding": _sounding(voice, concert.seconds),
                "loudness": per_voice[voices.index(voice)] if voice else silent,
                "rhythm": voice.rhythm if voice else None,
                "entering": starts.index(voice.start) + 1 if voice else None,
            }
        )
    ids = {(entry["kind"], entry["size"]): entry["id"] for entry in instruments}
    return {
        "format_version": FORMAT_VERSION,
        **facts,
        "seconds": concert.seconds,
        "kinds": list(concert.kinds),
        "room": concert.stage.room,
        "instruments": instruments,
        "voices": [
            {
                "kind": voice.kind,
                "size": voice.size,
                "instrument": ids.get((voice.kind, voice.size)),
                "start": voice.start,
                "end": voice.end,
                "level": voice.loudness,
                "rhythm": voice.rhythm,
                "sounding": _sounding(voice, concert.seconds),
                "loudness": per_voice[k],
            }
            for k, voice in enumerate(voices)
        ],
    }


def _sounding(voice: Voice | None, seconds: int) -> list[bool]:
    return [voice is not None and voice.start <= t < voice.end for t in range(seconds)]


def read_truth(root: str | Path, video_id: str) -> ConcertTruth:
    """The truth of one video of a set made by `crossmamba data synth music-avqa`.

    Raises:
        DataError: no such file, or one that is not of this format.
    """
    path = Path(root) / "scene_truth" / f"{video_id}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format_version"] != FORMAT_VERSION:
            raise DataError(f"{path}: format version {record['format_version']}, this program reads {FORMAT_VERSION}.")
        instruments = tuple(
            Instrument(str(i["kind"]), str(i["size"]), str(i["place"]), float(i["at"][0]), float(i["at"][1]))
            for i in record["instruments"]
        )
        voices = tuple(
            Voice(str(v["kind"]), str(v["size"]), int(v["start"]), int(v["end"]), float(v["level"]), float(v["rhythm"]))
            for v in record["voices"]
        )
        concert = Concert(Stage(instruments, record["room"]), voices, int(record["seconds"]), tuple(record["kinds"]))
        return ConcertTruth(str(record["video_id"]), str(record["split"]), concert, record)
    except FileNotFoundError as error:
        raise DataError(f"{path}: not found; only sets made by `crossmamba data synth` have scene truth.") from error
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: not the truth of a scene ({error!r}); make the set again.") from error
