"""The synthetic worlds as data: every setting of the scenes, and the two named worlds.

All lengths are shares of the picture's side, all times are seconds, all angles radians unless a name says degrees.
The default world's numbers are the calibrated ones (see `describe_world`): with them a model of half a million
parameters learns in about a minute who sounds, and a model that cannot hear stays at a ceiling that `ceiling.py`
computes exactly.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from crossmamba.errors import UsageError

CLASS_NAMES = (
    "bell_disc",
    "drum_square",
    "horn_triangle",
    "whistle_star",
    "buzz_ring",
    "chirp_cross",
    "hiss_diamond",
    "siren_crescent",
    "tick_hexagon",
    "flute_bar",
    "engine_pill",
    "organ_heart",
)
"""Voice and shape of every class, in class order. A world uses the first `n_classes`."""

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class World:
    """Settings of a world. Unknown or impossible values are errors, so a typo cannot make another world in silence.

    Attributes:
        name: printed in files and reports.
        n_classes: how many of `CLASS_NAMES` exist.
        n_visible: numbers of visible objects that a scene may have, drawn with the probabilities `p_visible`.
        size_law: for n visible objects, `size_law[n]` = P(0), ..., P(n) objects sound in a second. Which ones is
            uniform.
        persistence: probability that the sounding objects of a second are those of the second before; otherwise they
            are drawn anew from the law. The law of each single second is `size_law` whatever the persistence.
        radius: smallest and largest radius.
        speed: largest horizontal (and, without `swing`, vertical) drift per second.
        spin: largest turn per second, radians.
        min_gap: smallest distance of two centres in units of the sum of their radii; small values let objects hide
            others.
        swing: smallest and largest amplitude of a slow vertical oscillation; (0, 0) for none.
        swing_period: smallest and largest period of that oscillation, seconds.
        hue_jitter: how far a hue strays from its class, in units of the distance between two classes.
        background_saturation: largest saturation of the background.
        lookalikes: smallest and largest number of identical instances of one class in a scene; (1, 1) for none.
        decoy_rate: probability that another object wears the colours of the look-alikes.
        pitch_follows_height: whether an object's voice follows its height (see `describe_world`); the voice then is a
            tone of the class's band and rhythm, not the class's fixed-pitch voice.
        pitch_scale: smallest and largest change of pitch over the picture's height, in turns of the pitch circle.
        offscreen_rate: share of scenes with the voice of a class that is not visible.
        burst_rate: share of the seconds in which loud noise stands in place of all voices.
        gain: smallest and largest loudness of a voice.
        noise: largest amplitude of the noise floor.
        seconds: length of a clip where none is asked for.
    """

    name: str = "default"
    n_classes: int = 8
    n_visible: tuple[int, ...] = (2, 3)
    p_visible: tuple[float, ...] = (0.3, 0.7)
    size_law: tuple[tuple[float, ...], ...] = (
        (1.0,),
        (0.25, 0.75),
        (0.2, 0.6, 0.2),
        (0.2, 0.5, 0.25, 0.05),
        (0.2, 0.4, 0.25, 0.1, 0.05),
    )
    persistence: float = 0.0
    radius: tuple[float, float] = (0.14, 0.26)
    speed: float = 0.045
    spin: float = 0.12
    min_gap: float = 0.85
    swing: tuple[float, float] = (0.0, 0.0)
    swing_period: tuple[float, float] = (6.0, 12.0)
    hue_jitter: float = 0.3
    background_saturation: float = 0.25
    lookalikes: tuple[int, int] = (1, 1)
    decoy_rate: float = 0.0
    pitch_follows_height: bool = False
    pitch_scale: tuple[float, float] = (0.5, 1.0)
    offscreen_rate: float = 0.3
    burst_rate: float = 0.0
    gain: tuple[float, float] = (0.35, 1.0)
    noise: float = 0.004
    seconds: int = 5

    def __post_init__(self) -> None:
        if not 2 <= self.n_classes <= len(CLASS_NAMES):
            raise UsageError(f"World n_classes={self.n_classes}: allowed are 2 to {len(CLASS_NAMES)}.")
        if len(self.n_visible) != len(self.p_visible) or abs(sum(self.p_visible) - 1) > 1e-9:
            raise UsageError(
                f"World n_visible={self.n_visible} needs one probability each, sum 1, not {self.p_visible}."
            )
        if not 1 <= min(self.n_visible) <= max(self.n_visible) <= min(self.n_classes, 8):
            raise UsageError(f"World n_visible={self.n_visible}: allowed are 1 to {min(self.n_classes, 8)} objects.")
        for n in self.n_visible:
            law = self.size_law[n] if n < len(self.size_law) else ()
            if len(law) != n + 1 or min(law) < 0 or abs(sum(law) - 1) > 1e-9:
                raise UsageError(f"World size_law[{n}]={law}: it needs {n + 1} probabilities with sum 1.")
        if not 1 <= self.lookalikes[0] <= self.lookalikes[1]:
            raise UsageError(
                f"World lookalikes={self.lookalikes}: give the smallest and the largest number, 1 or more."
            )
        for name in ("persistence", "decoy_rate", "offscreen_rate", "burst_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"World {name}={getattr(self, name)}: a probability lies in 0 to 1.")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of this world's classes, in class order."""
        return CLASS_NAMES[: self.n_classes]

    def to_json(self) -> dict[str, Any]:
        """All settings, as JSON types only (tuples become lists)."""

        def plain(value: Any) -> Any:
            return [plain(v) for v in value] if isinstance(value, tuple) else value

        return {key: plain(value) for key, value in asdict(self).items()}


WORLDS = {
    "default": World(),
    "hard": World(
        name="hard",
        n_visible=(3, 4),
        p_visible=(0.5, 0.5),
        size_law=((1.0,), (0.25, 0.75), (0.2, 0.6, 0.2), (0.2, 0.55, 0.25, 0.0), (0.2, 0.5, 0.25, 0.05, 0.0)),
        persistence=0.75,
        radius=(0.12, 0.18),
        speed=0.02,
        min_gap=0.45,
        swing=(0.12, 0.25),
        hue_jitter=0.45,
        lookalikes=(2, 3),
        decoy_rate=0.5,
        pitch_follows_height=True,
        seconds=10,
    ),
    "bursts": World(name="bursts", persistence=1.0, burst_rate=0.5),
}
"""The named worlds."""


def get_world(world: str | World) -> World:
    """A world by name, or the world itself.

    Raises:
        UsageError: no world has this name.
    """
    if isinstance(world, World):
        return world
    if world not in WORLDS:
        raise UsageError(f"world {world!r} does not exist; there are {', '.join(sorted(WORLDS))}.")
    return WORLDS[world]


def single_source(world: World) -> World:
    """The same world with exactly one visible object sounding throughout, as in AVSBench S4 (spec §2.2)."""
    longest = max(world.n_visible)
    law = tuple(tuple(float(k == min(n, 1)) for k in range(n + 1)) for n in range(longest + 1))
    return replace(world, size_law=law, persistence=1.0)


def describe_world(world: str | World = "default") -> str:
    """What the world is, what it is not, and what a score on it means; plain text for reports."""
    w = get_world(world)
    objects = " or ".join(str(n) for n in w.n_visible)
    text = [
        f"The {w.name} synthetic world: {w.n_classes} classes, each with a look (shape x hue x texture) and a voice",
        f"(band x rhythm). A clip shows {objects} moving objects over a textured background. In each second some of",
        f"them sound, often one, sometimes none; {w.offscreen_rate:.0%} of the clips also have a voice of a class that",
        "is not in the picture. The truth of a second is the pixels of the objects that sound. Who sounds is drawn",
        "independently of the picture: a model that does not listen has a ceiling, which is computed exactly.",
    ]
    if w.burst_rate:
        text += [
            f"In {w.burst_rate:.0%} of the seconds loud noise stands in place of all voices, while those who sound go",
            "on: what was heard in other seconds must be carried there.",
        ]
    if w.pitch_follows_height:
        alike = " or ".join(str(n) for n in sorted(set(w.lookalikes)))
        text += [
            f"{alike} of the objects are identical, in look and in class of voice. Each rises and sinks slowly on",
            "its own path, may hide behind others, and the pitch of its voice follows its height from second to second",
            "with an unknown offset: one second alone never tells which of the look-alikes sounds, several seconds do.",
        ]
    text += [
        "It is no recording and no model of real scenes: a model trained on it knows nothing of real pictures or",
        "sounds, and its score says only that sound was used to choose among objects.",
    ]
    return "\n".join(text)
