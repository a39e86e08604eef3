"""What could also have been: other sounds to the same picture, and other pictures to the same sound.

Sound given the picture is the world's own law, `plan_sound`. A picture given the sound is drawn by matching. The law
of the schedule, loudness and rhythm depends on nothing but which kinds and sizes sound, so the picture depends on the
sound only through those, and all kinds and both sizes are alike (the laws do not change if kinds are renamed, or if
large and small are exchanged for one kind). So: take any scene of a large library in which as many kinds have one voice
and as many have two, rename its kinds so that the voices fit, exchange the sizes of a kind where they do not fit, and
keep its stage. This is the exact law up to the library's finite number of scenes.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from crossmamba.data.synth.music.instruments import SIZES
from crossmamba.data.synth.music.scene import Concert, Stage, Voice, plan_picture, plan_sound
from crossmamba.errors import DataError

LIBRARY = 6000
"""Scenes of the library."""

Signature = tuple[int, ...]


def other_sound(concert: Concert, rng: np.random.Generator) -> Concert:
    """A scene with the same picture, and a sound from its law given the picture."""
    return replace(concert, voices=plan_sound(rng, concert.stage, concert.kinds, concert.seconds))


def other_picture(concert: Concert, rng: np.random.Generator) -> Concert:
    """A scene with the same sound, and a picture from its law given the sound.

    Raises:
        DataError: voices that this world cannot have.
    """
    library = _library(concert.kinds).get(_signature(concert.voices))
    if not library:
        raise DataError(f"no scene of this world has voices as {[(v.kind, v.size) for v in concert.voices]}")
    model = library[int(rng.integers(len(library)))]
    renamed = _renaming(model, concert, rng)
    sizes = {v.kind: v.size for v in concert.voices}
    turned = {kind for kind, n in Counter(v.kind for v in model.voices).items() if n == 1}
    turned = {v.kind for v in model.voices if v.kind in turned and sizes[renamed[v.kind]] != v.size}
    things = tuple(
        replace(
            thing,
            kind=renamed[thing.kind],
            size=SIZES[1 - SIZES.index(thing.size)] if thing.kind in turned else thing.size,
        )
        for thing in model.stage.instruments
    )
    return replace(concert, stage=Stage(things, model.stage.room))


def _signature(voices: Sequence[Voice]) -> Signature:
    """How many voices each heard kind has, in descending order."""
    return tuple(sorted(Counter(v.kind for v in voices).values(), reverse=True))


@lru_cache(maxsize=4)
def _library(kinds: tuple[str, ...]) -> dict[Signature, list[Concert]]:
    """Scenes by signature; always the same ones."""
    rng = np.random.default_rng(20_240_601)
    found: dict[Signature, list[Concert]] = defaultdict(list)
    for _ in range(LIBRARY):
        stage = plan_picture(rng, kinds)
        concert = Concert(stage, plan_sound(rng, stage, kinds, 10), 10, kinds)
        found[_signature(concert.voices)].append(concert)
    return dict(found)


def _renaming(model: Concert, concert: Concert, rng: np.random.Generator) -> dict[str, str]:
    """A random one-to-one map from the model's kinds to the world's under which its voices are the wanted ones."""
    names: dict[str, str] = {}
    wanted, has = Counter(v.kind for v in concert.voices), Counter(v.kind for v in model.voices)
    for number in set(has.values()):
        mine = [kind for kind, n in has.items() if n == number]
        theirs = [kind for kind, n in wanted.items() if n == number]
        names.update(zip(mine, (theirs[int(k)] for k in rng.permutation(len(theirs))), strict=True))
    silent = [kind for kind in dict.fromkeys(t.kind for t in model.stage.instruments) if kind not in names]
    free = [kind for kind in concert.kinds if kind not in wanted]
    names.update(zip(silent, (free[int(k)] for k in rng.permutation(len(free))), strict=False))
    return names
