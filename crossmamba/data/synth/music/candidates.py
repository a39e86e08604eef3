"""With which values each template is worth asking about a scene."""

from __future__ import annotations

from crossmamba.data.qa.templates import TEMPLATES
from crossmamba.data.synth.music.answers import (
    ANSWERERS,
    RANKS,
    both_seen,
    longer,
    louder,
    more_rhythmic,
    named_louder,
    named_more_rhythmic,
    number_seen,
    one_seen,
    sound_of_both,
    sound_of_one,
    sounding_of_kind,
)
from crossmamba.data.synth.music.scene import PLACES, Concert


def candidates(concert: Concert, position: int) -> list[tuple[str, ...]]:
    """The values with which a template is worth asking about a scene (its answer may still be unclear).

    Kinds that the scene has, and for questions of presence and number absent ones too, with at least one of a pair
    heard or seen.

    Args:
        concert: the scene.
        position: of the template in `TEMPLATES`.
    """
    slots = TEMPLATES[position].slots
    seen = list(dict.fromkeys(t.kind for t in concert.stage.instruments))
    heard = list(dict.fromkeys(v.kind for v in concert.voices))
    rule = ANSWERERS[position]
    if rule in (sound_of_one, one_seen, number_seen):
        return [(kind,) for kind in concert.kinds]
    if rule is sounding_of_kind:
        return [(kind,) for kind in dict.fromkeys((*seen, *heard))]
    if rule in (sound_of_both, both_seen):
        present = heard if rule is sound_of_both else seen
        return [(a, b) for a in concert.kinds for b in concert.kinds if a != b and (a in present or b in present)]
    if rule in (louder, more_rhythmic, longer):
        return [(a, b) for a in heard for b in heard if a != b]
    if rule in (named_louder, named_more_rhythmic):
        spots = list(dict.fromkeys((t.kind, t.place) for t in concert.stage.instruments))
        return [(*a, *b) for a in spots for b in spots if a[1] != b[1]]
    options = {
        "<Object>": tuple(seen),
        "<LR>": PLACES,
        "<LRer>": ("leftest", "rightest"),
        "<FL>": ("first", "last"),
        "<TH>": RANKS,
        "<LL>": ("loudest", "lowest"),
        "<BA>": ("before", "after"),
    }
    found: list[tuple[str, ...]] = [()]
    for slot in slots:
        found = [(*values, value) for values in found for value in options[slot]]
    return found
