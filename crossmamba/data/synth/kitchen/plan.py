"""The plan of a video: who, in which kitchen, doing what when, and how a narrator told it.

An action truly lasts from `start` to `stop`. The told times lie a little outside: up to `EARLY` seconds before and up
to `LATE` after. So segments of actions that follow closely overlap, as in EPIC-KITCHENS-100, while the hand does one
thing at a time; and one second before the told start nothing of an action can be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from crossmamba.data.synth.kitchen.chain import MOVABLE, Kitchen, Step, act, fixed_of, furnish
from crossmamba.data.synth.kitchen.classes import NOUNS, VERBS, spoken

SECONDS = (0.9, 4.5)
"""Shortest and longest action."""
MEDIAN, SPREAD = 1.7, 0.4
"""Median of the actions' lengths in seconds and standard deviation of their logarithm, before they are cut to range."""
EARLY, LATE = 0.28, 0.28
"""A told start is up to so many seconds before the true one; a told stop up to so many after. The two are equal: else
the middle frame of a segment would tell the direction of time, and with it take from put."""
GAPS = ((0.6, 0.0, 0.4), (0.3, 0.4, 1.2), (0.1, 1.2, 3.5))
"""Pauses between actions: chance, shortest and longest in seconds."""
LEAD = (0.2, 2.5)
"""Seconds before the first action."""
TRAIL = (0.5, 1.5)
"""Seconds after the last action."""
KEY_WORD = 0.7
"""Chance that a narrator uses the class's key rather than another of its words."""
NEIGHBOUR = 0.25
"""Chance that the telling of a put names what stands nearby."""
UNTIMED = 0.01
"""Chance that a narration has no time of its own, as 1 in 140 rows of EPIC-KITCHENS-100 has none."""
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Participant:
    """A participant's kitchen and hand.

    Attributes:
        id: `P01`, ...
        appliances: noun ids of the fixed things.
        skin, sleeve: hue in degrees, saturation, value.
        table: hue and value.
        shift: degrees by which all hues of things are turned.
    """

    id: str
    appliances: tuple[int, ...]
    skin: tuple[float, float, float]
    sleeve: tuple[float, float, float]
    table: tuple[float, float]
    shift: float


@dataclass(frozen=True)
class Segment:
    """One action of a video.

    Attributes:
        step: what is done where, from which state.
        start, stop: true seconds.
        told: told start and stop in hundredths of a second.
        narrated: time of the narration in thousandths of a second, None if there is none.
        verb, noun: the narrator's words, members of the classes' instances.
        narration: the sentence.
        nouns: all nouns of the sentence with their class ids, the acted one first.
    """

    step: Step
    start: float
    stop: float
    told: tuple[int, int]
    narrated: int | None
    verb: str
    noun: str
    narration: str
    nouns: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Video:
    """One planned video.

    Attributes:
        id: `P01_01` or `P01_101`.
        participant: whose it is.
        split: train, val or test.
        seed: what the pictures' random numbers start from.
        frames: number of pictures.
        fps: exact rate.
        segments: in the order of their starts.
        end: the table after the last action.
    """

    id: str
    participant: Participant
    split: str
    seed: tuple[int, ...]
    frames: int
    fps: Fraction
    segments: tuple[Segment, ...]
    end: Kitchen

    @property
    def rate(self) -> int:
        """Rate of the frame numbers in the csv files: 60 for ids of two digits, 50 for three (dossier §3.2)."""
        return 60 if len(self.id.split("_")[1]) == 2 else 50

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return float(self.frames / self.fps)


def draw_participant(seed: int, number: int) -> Participant:
    """The participant with a number, from 1 on."""
    rng = np.random.default_rng((11, seed, number))
    skin = (float(rng.uniform(12, 32)), float(rng.uniform(0.3, 0.6)), float(rng.uniform(0.4, 0.95)))
    sleeve = (float(rng.uniform(0, 360)), float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.2, 0.9)))
    surface = (float(rng.uniform(0, 360)), float(rng.uniform(0.5, 0.8)))
    return Participant(f"P{number:02d}", fixed_of(rng), skin, sleeve, surface, float(rng.uniform(-10, 10)))


def plan_video(
    seed: int, participant: Participant, video_id: str, split: str, index: int, segments: int, fps: Fraction
) -> Video:
    """Plans a video.

    Args:
        seed: of the set.
        participant: whose video it is.
        video_id: its name.
        split, index: which it is; with the seed they draw everything.
        segments: mean number of actions; a video has up to a quarter more or fewer.
        fps: of the pictures.
    """
    key = (12, seed, SPLITS.index(split), index)
    rng = np.random.default_rng(key)
    kitchen = furnish(rng, participant.appliances)
    spread = segments // 4
    steps = act(kitchen, int(rng.integers(segments - spread, segments + spread + 1)), rng)
    rate = 60 if len(video_id.split("_")[1]) == 2 else 50
    now, before, made = float(rng.uniform(*LEAD)), 0, []
    times: list[tuple[float, float]] = []
    for _ in steps:
        length = float(np.clip(MEDIAN * np.exp(SPREAD * rng.standard_normal()), *SECONDS))
        times.append((now, now + length))
        _, low, high = GAPS[int(rng.choice(len(GAPS), p=[gap[0] for gap in GAPS]))]
        now += length + float(rng.uniform(low, high))
    frames = int((times[-1][1] + rng.uniform(*TRAIL)) * fps) + 1
    for step, (start, stop) in zip(steps, times, strict=True):
        told = _tell(start, stop, before, int(100 * frames / fps), rate, rng)
        before = told[0]
        made.append(_segment(step, start, stop, told, rng))
    return Video(video_id, participant, split, (*key, 1), frames, fps, tuple(made), kitchen)


def _tell(start: float, stop: float, after: int, end: int, rate: int, rng: np.random.Generator) -> tuple[int, int]:
    """Told start (not before `after`) and stop (not behind `end`), hundredths of a second."""
    first = max(after, 0, int(100 * (start - rng.uniform(0, EARLY))))
    last = min(end, int(100 * (stop + rng.uniform(0, LATE))))
    return _exact(first, rate), _exact(last, rate)


def _exact(hundredths: int, rate: int) -> int:
    """The next time down whose frame is the same by whole numbers and by floats, so that no reader can differ."""
    while int(hundredths / 100 * rate) != hundredths * rate // 100 and hundredths:
        hundredths -= 1
    return hundredths


def _segment(step: Step, start: float, stop: float, told: tuple[int, int], rng: np.random.Generator) -> Segment:
    """Draws the words of the telling."""
    verb_class, noun_id = VERBS[step.action.verb], step.action.noun
    verb, noun = _word(verb_class.instances, rng), _word(NOUNS[noun_id].instances, rng)
    nouns = [(noun, noun_id)]
    sentence = f"{spoken(verb)} {spoken(noun)}"
    near = _neighbour(step)
    if verb_class.key == "put" and near is not None and rng.random() < NEIGHBOUR:
        other = _word(NOUNS[near].instances, rng)
        nouns.append((other, near))
        sentence += f" next to {spoken(other)}"
    narrated = None if rng.random() < UNTIMED else max(0, int(1000 * (start + rng.uniform(-0.5, 0.5))))
    return Segment(step, start, stop, told, narrated, verb, noun, sentence, tuple(nouns))


def _word(instances: tuple[str, ...], rng: np.random.Generator) -> str:
    """The key, or now and then another word."""
    if len(instances) == 1 or rng.random() < KEY_WORD:
        return instances[0]
    return instances[int(rng.integers(1, len(instances)))]


def _neighbour(step: Step) -> int | None:
    """A thing to the left or right of the place acted on."""
    for place in (step.place - 1, step.place + 1):
        if 0 <= place < len(step.before.places) and place // 4 == step.place // 4:
            noun = step.before.places[place]
            if noun is not None and noun in MOVABLE:
                return noun
    return None
