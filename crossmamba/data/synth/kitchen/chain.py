"""Which action comes next: a chain over activities whose law is known exactly.

The next action depends on what is on the table (which lids are open, what is switched on, what has been taken away) and
on the last action, on nothing else:

    p(next) = FOLLOW * (next step of an activity that the last action belongs to) + (1 - FOLLOW) * (base law)

* An activity (`ACTIVITIES`) is a list of steps. A last action that is a step of k activities passes 1/k of the weight
  on to the first possible step after it in each; an activity without one passes nothing. Is there none at all, the base
  law has all the weight.
* The base law is skewed: weight of the verb times weight of the noun, over all that is possible now.
* Possible is what the table allows: only what is closed can be opened, only what is on it can be taken; something taken
  must be closed and switched off; it can be put back where a place is free.

So the exact chance of every next action given everything that truly happened before is `Kitchen.law()`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.synth.kitchen.classes import ACTION_INDEX, ACTIONS, NOUN_ID, NOUNS, VERBS, Action, action

FOLLOW = 0.75
"""Share of the next actions that follow an activity."""
BACK, FRONT = 4, 4
"""Places at the back and at the front of the table, numbered from the back left: 0 to 7."""
APPLIANCES = 3
"""Fixed things in a kitchen; they stand at the back."""
AT_FIRST = (3, 4)
"""Fewest and most things on the table at the start, besides the fixed ones."""


def _steps(text: str) -> tuple[int, ...]:
    """`"open fridge, put onion"` to numbers of actions."""
    return tuple(ACTION_INDEX[action(*step.split())] for step in text.split(", "))


ACTIVITIES: dict[str, tuple[int, ...]] = {
    "tea": _steps(
        "put kettle, turn-on kettle, put cup, put bag:tea, squeeze bag:tea, turn-off kettle, pour kettle, mix cup, "
        "take bag:tea, take cup"
    ),
    "salad": _steps(
        "open fridge, put onion, close fridge, wash onion, put board:chopping, cut onion, cut board:chopping, "
        "put bowl, mix bowl, pour bowl, take board:chopping"
    ),
    "washing up": _steps(
        "turn-on tap, put sponge, squeeze sponge, wash cup, wash plate, wash pan, wash bowl, turn-off tap, take plate"
    ),
    "frying": _steps(
        "put pan, turn-on hob, put bottle, open bottle, pour bottle, close bottle, shake pan, mix pan, turn-off hob, "
        "take pan"
    ),
    "packed lunch": _steps(
        "put box:lunch, open box:lunch, cut onion, close box:lunch, shake box:lunch, take box:lunch"
    ),
    "warming up": _steps(
        "open microwave, take bowl, close microwave, turn-on microwave, turn-off microwave, open microwave, put bowl, "
        "close microwave, mix bowl"
    ),
    "tidying": _steps("open drawer, take plate, take cup, close drawer, wash hob, wash fridge, take sponge"),
    "drinks": _steps(
        "open fridge, put bottle, close fridge, shake bottle, open bottle, put cup, pour bottle, take cup"
    ),
}
"""The activities, each a list of actions' numbers."""

_AFTER: tuple[tuple[tuple[int, ...], ...], ...] = tuple(
    tuple(steps[k + 1 :] for steps in ACTIVITIES.values() for k, step in enumerate(steps) if step == number)
    for number in range(len(ACTIONS))
)
_BASE = np.array([VERBS[a.verb].weight * NOUNS[a.noun].weight for a in ACTIONS])
_OF_NOUN = tuple(tuple(i for i, a in enumerate(ACTIONS) if a.noun == noun) for noun in range(len(NOUNS)))
_VERB_OF = tuple(VERBS[a.verb].key for a in ACTIONS)
MOVABLE = tuple(i for i, noun in enumerate(NOUNS) if not noun.fixed)
FIXED = tuple(i for i, noun in enumerate(NOUNS) if noun.fixed)


@dataclass
class Kitchen:
    """The table and what was done last.

    Attributes:
        places: noun id on each place, None where it is free; float of `BACK + FRONT` places.
        opened, running: noun ids that are open, that are switched on.
        last: number of the last action, None at the start.
    """

    places: list[int | None]
    opened: set[int] = field(default_factory=set)
    running: set[int] = field(default_factory=set)
    last: int | None = None

    def place_of(self, noun: int) -> int | None:
        """Where something stands, None if it is not on the table."""
        return self.places.index(noun) if noun in self.places else None

    def free_places(self) -> list[int]:
        """Places where something can be put."""
        return [k for k, noun in enumerate(self.places) if noun is None]

    def possible(self) -> NDArray[np.bool_]:
        """Whether each action can be done now, bool (actions,)."""
        found = np.zeros(len(ACTIONS), bool)
        free = None in self.places
        for noun in range(len(NOUNS)):
            here = noun in self.places
            for number in _OF_NOUN[noun]:
                verb = _VERB_OF[number]
                if verb == "put":
                    found[number] = free and not here
                elif here:
                    found[number] = self._allows(verb, noun)
        return found

    def _allows(self, verb: str, noun: int) -> bool:
        """Whether the state of something on the table lets a verb be done to it."""
        if verb == "take":
            return noun not in self.opened and noun not in self.running
        if verb in ("open", "close"):
            # What runs stays shut.
            return (noun in self.opened) == (verb == "close") and noun not in self.running
        if verb in ("turn-on", "turn-off"):
            return (noun in self.running) == (verb == "turn-off") and noun not in self.opened
        return True

    def law(self) -> NDArray[np.float64]:
        """The exact chance of each next action, float64 (actions,), sum 1."""
        possible = self.possible()
        base = _BASE * possible
        base /= base.sum()
        after = () if self.last is None else _AFTER[self.last]
        following = np.zeros(len(ACTIONS))
        for steps in after:
            step = next((step for step in steps if possible[step]), None)
            if step is not None:
                following[step] += 1
        total = following.sum()
        return base if total == 0 else FOLLOW * following / total + (1 - FOLLOW) * base

    def do(self, number: int, place: int | None = None) -> int:
        """Changes the table as an action does.

        Args:
            number: of the action, in `ACTIONS`.
            place: where a `put` puts it.

        Returns:
            the place that was acted on.

        Raises:
            ValueError: the table does not allow it.
        """
        noun, verb = ACTIONS[number].noun, _VERB_OF[number]
        at = place if verb == "put" else self.place_of(noun)
        if at is None or not self.possible()[number] or (verb == "put" and self.places[at] is not None):
            raise ValueError(f"{ACTIONS[number].name} at {place} cannot be done now")
        if verb == "put":
            self.places[at] = noun
        elif verb == "take":
            self.places[at] = None
        elif verb in ("open", "close"):
            (self.opened.add if verb == "open" else self.opened.discard)(noun)
        elif verb in ("turn-on", "turn-off"):
            (self.running.add if verb == "turn-on" else self.running.discard)(noun)
        self.last = number
        return at

    def copy(self) -> Kitchen:
        """Another one in the same state."""
        return Kitchen(list(self.places), set(self.opened), set(self.running), self.last)


@dataclass(frozen=True)
class Step:
    """One action of a plan: what, where, from which state, with which law."""

    number: int
    place: int
    before: Kitchen
    law: NDArray[np.float64]

    @property
    def action(self) -> Action:
        """The verb and the noun."""
        return ACTIONS[self.number]


def furnish(rng: np.random.Generator, appliances: tuple[int, ...] | None = None) -> Kitchen:
    """A kitchen at the start of a video: fixed things at the back, a few others anywhere else.

    Args:
        rng: draws what and where.
        appliances: noun ids of the fixed things; None draws `APPLIANCES` of all.
    """
    if appliances is None:
        appliances = tuple(int(i) for i in rng.choice(FIXED, APPLIANCES, replace=False))
    places: list[int | None] = [None] * (BACK + FRONT)
    for noun, place in zip(appliances, rng.permutation(BACK), strict=False):
        places[int(place)] = noun
    weights = np.array([NOUNS[i].weight for i in MOVABLE])
    amount = int(rng.integers(AT_FIRST[0], AT_FIRST[1] + 1))
    chosen = rng.choice(MOVABLE, amount, replace=False, p=weights / weights.sum())
    free = [k for k, noun in enumerate(places) if noun is None]
    for noun, place in zip(chosen, rng.choice(free, amount, replace=False), strict=True):
        places[int(place)] = int(noun)
    return Kitchen(places)


def act(kitchen: Kitchen, steps: int, rng: np.random.Generator) -> list[Step]:
    """Lets the chain run; changes `kitchen`.

    Args:
        kitchen: where it starts.
        steps: number of actions.
        rng: draws them.
    """
    made = []
    for _ in range(steps):
        before, law = kitchen.copy(), kitchen.law()
        number = int(rng.choice(len(ACTIONS), p=law))
        place = int(rng.choice(kitchen.free_places())) if _VERB_OF[number] == "put" else None
        made.append(Step(number, kitchen.do(number, place), before, law))
    return made


def fixed_of(rng: np.random.Generator) -> tuple[int, ...]:
    """The fixed things of one participant's kitchen, `APPLIANCES` noun ids: the tap and two others."""
    others = [i for i in FIXED if i != NOUN_ID["tap"]]
    return (NOUN_ID["tap"], *(int(i) for i in rng.choice(others, APPLIANCES - 1, replace=False)))
