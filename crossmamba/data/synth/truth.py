"""The truth of a scene, as kept in `scene_truth/*.json`: who is visible, how large, who sounds, and under which law."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.scene import FRAME_OF_SECOND, ScenePlan
from crossmamba.data.synth.worlds import CLASS_NAMES
from crossmamba.errors import DataError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class ObjectTruth:
    """A visible object.

    Attributes:
        id: its value in the object-id picture, 1 and up; later ones hide earlier ones.
        class_name, instance: its class, and which of the scene's objects of that class it is.
        sounding: per second.
        area: visible pixels per second.
        height: its centre's height per second, 0 at the bottom and 1 at the top of the picture.
        pitch: turns of the pitch circle per second where the voice follows the height, else None.
    """

    id: int
    class_name: str
    instance: int
    sounding: tuple[bool, ...]
    area: tuple[int, ...]
    height: tuple[float, ...]
    pitch: tuple[float, ...] | None


@dataclass(frozen=True)
class OffscreenTruth:
    """A voice without an object in the picture: its class and when it sounds."""

    class_name: str
    sounding: tuple[bool, ...]


@dataclass(frozen=True)
class SceneTruth:
    """The truth of one clip.

    Attributes:
        world, seed, split, index, seconds, size: which clip, and its size in pixels.
        size_probabilities: P(k of the objects sound) for one second, k = 0 to n; which ones is uniform. This is the
            exact law of every second given the picture (see `schedule.py`).
        objects: the visible objects.
        offscreen: voices without an object.
        bursts: the seconds in which noise stands in place of all voices; empty for none.
    """

    world: str
    seed: int
    split: str
    index: int
    seconds: int
    size: int
    size_probabilities: tuple[float, ...]
    objects: tuple[ObjectTruth, ...]
    offscreen: tuple[OffscreenTruth, ...]
    bursts: tuple[bool, ...] = ()

    @property
    def sounding(self) -> NDArray[np.bool_]:
        """Who sounds, bool (T, n)."""
        return np.array([thing.sounding for thing in self.objects], bool).reshape(-1, self.seconds).T

    @property
    def areas(self) -> NDArray[np.int64]:
        """Visible pixels, int64 (T, n)."""
        return np.array([thing.area for thing in self.objects], np.int64).reshape(-1, self.seconds).T

    @classmethod
    def from_plan(cls, plan: ScenePlan, object_ids: NDArray[np.uint8]) -> SceneTruth:
        """The truth of a plan and its rendered object ids, uint8 (T, S, S)."""
        frames = np.arange(plan.seconds) + FRAME_OF_SECOND
        objects = []
        for k, (thing, voice) in enumerate(zip(plan.objects, plan.voices, strict=True)):
            area = tuple(int(v) for v in (object_ids == k + 1).sum((1, 2)))
            height = tuple(round(1 - float(v), 6) for v in thing.motion.position(frames)[1])
            name = CLASS_NAMES[thing.class_index]
            objects.append(ObjectTruth(k + 1, name, thing.instance, voice.sounding, area, height, voice.pitch))
        offscreen = tuple(OffscreenTruth(CLASS_NAMES[v.class_index], v.sounding) for v in plan.offscreen)
        law = plan.world.size_law[len(plan.objects)]
        size = object_ids.shape[-1]
        clip = (plan.world.name, plan.seed, plan.split, plan.index, plan.seconds, size)
        return cls(*clip, law, tuple(objects), offscreen, plan.bursts)

    def to_json(self) -> str:
        """The truth as text, the same text for the same truth."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, sort_keys=True) + "\n"

    @classmethod
    def read(cls, path: str | Path) -> SceneTruth:
        """Reads a `scene_truth` file.

        Raises:
            DataError: the file is missing, is not JSON, is of another version, or its fields are not those of a truth.
        """
        try:
            fields: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            version = fields.pop("format_version")
            if version != FORMAT_VERSION:
                raise DataError(
                    f"{path}: scene truth of format version {version}; this program reads {FORMAT_VERSION}."
                )
            fields["objects"] = tuple(ObjectTruth(**_tuples(thing)) for thing in fields["objects"])
            fields["offscreen"] = tuple(OffscreenTruth(**_tuples(voice)) for voice in fields["offscreen"])
            truth = cls(**_tuples(fields))
        except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: not a readable scene truth ({error}); render the data set again.") from error
        lengths = {len(v) for thing in truth.objects for v in (thing.sounding, thing.area)}
        if lengths - {truth.seconds} or len(truth.size_probabilities) != len(truth.objects) + 1:
            raise DataError(f"{path}: its lists do not fit {truth.seconds} seconds and {len(truth.objects)} objects.")
        return truth


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
