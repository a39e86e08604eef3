"""The classes of the kitchen world: 12 verbs, 16 nouns, and which verbs go with which noun.

Keys are written as EPIC-KITCHENS-100 writes them (verbs of several words with hyphens, `turn-on`; nouns head first with
colons, `box:lunch`), but the tables are this world's own: other ids, other numbers of classes, other instances.
Ids follow the expected frequency, as the official ids do.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """A verb class: `key`, the words narrators use for it (the key first), its category, its weight in the base law."""

    key: str
    instances: tuple[str, ...]
    category: str
    weight: float


@dataclass(frozen=True)
class Noun:
    """A noun class: `key`, the words narrators use for it (the key first), its category, its weight in the base law.

    Attributes:
        verbs: keys of the verbs that can be done to it.
        fixed: stands at the back and is never taken away.
    """

    key: str
    instances: tuple[str, ...]
    category: str
    weight: float
    verbs: tuple[str, ...]
    fixed: bool = False


VERBS: tuple[Verb, ...] = (
    Verb("take", ("take", "pick-up", "grab", "fetch"), "retrieve", 1.0),
    Verb("put", ("put", "put-down", "put-on", "place"), "leave", 1.0),
    Verb("wash", ("wash", "rinse", "clean", "wash-up"), "clean", 0.5),
    Verb("open", ("open", "open-up"), "access", 0.6),
    Verb("close", ("close", "shut"), "block", 0.6),
    Verb("turn-on", ("turn-on", "switch-on"), "manipulate", 0.5),
    Verb("turn-off", ("turn-off", "switch-off"), "manipulate", 0.5),
    Verb("pour", ("pour", "pour-out", "tip"), "leave", 0.3),
    Verb("mix", ("mix", "stir"), "merge", 0.3),
    Verb("cut", ("cut", "chop", "slice"), "split", 0.25),
    Verb("shake", ("shake", "shake-up"), "manipulate", 0.12),
    Verb("squeeze", ("squeeze", "squeeze-out"), "manipulate", 0.12),
)
"""Verb classes; a class's id is its place."""

NOUNS: tuple[Noun, ...] = (
    Noun("cup", ("cup", "mug", "cup:coffee"), "crockery", 1.0, ("take", "put", "wash", "mix", "pour")),
    Noun("bowl", ("bowl", "bowl:salad"), "crockery", 0.9, ("take", "put", "wash", "mix", "pour")),
    Noun("tap", ("tap", "faucet"), "appliances", 0.8, ("turn-on", "turn-off", "wash"), fixed=True),
    Noun("fridge", ("fridge", "refrigerator"), "appliances", 0.8, ("open", "close", "wash"), fixed=True),
    Noun("pan", ("pan", "pan:frying"), "cookware", 0.7, ("take", "put", "wash", "mix", "shake")),
    Noun("bottle", ("bottle", "bottle:oil"), "containers", 0.7, ("take", "put", "open", "close", "pour", "shake")),
    Noun("drawer", ("drawer",), "furniture", 0.6, ("open", "close", "wash"), fixed=True),
    Noun("kettle", ("kettle", "boiler:water"), "appliances", 0.6, ("take", "put", "turn-on", "turn-off", "pour")),
    Noun("plate", ("plate", "dish", "plate:dinner"), "crockery", 0.5, ("take", "put", "wash")),
    Noun("onion", ("onion", "onion:red"), "vegetables", 0.5, ("take", "put", "wash", "cut")),
    Noun("hob", ("hob", "stove"), "appliances", 0.5, ("turn-on", "turn-off", "wash"), fixed=True),
    Noun("board:chopping", ("board:chopping", "board"), "utensils", 0.4, ("take", "put", "wash", "cut")),
    Noun(
        "microwave",
        ("microwave", "oven:microwave"),
        "appliances",
        0.3,
        ("open", "close", "turn-on", "turn-off"),
        fixed=True,
    ),
    Noun("sponge", ("sponge", "sponge:washing:up"), "cleaning equipment", 0.25, ("take", "put", "wash", "squeeze")),
    Noun("box:lunch", ("box:lunch", "lunchbox"), "containers", 0.25, ("take", "put", "open", "close", "wash", "shake")),
    Noun("bag:tea", ("bag:tea", "teabag"), "containers", 0.15, ("take", "put", "squeeze", "shake")),
)
"""Noun classes; a class's id is its place."""

VERB_ID = {verb.key: index for index, verb in enumerate(VERBS)}
NOUN_ID = {noun.key: index for index, noun in enumerate(NOUNS)}

REVERSED = {
    "take": "put",
    "put": "take",
    "open": "close",
    "close": "open",
    "turn-on": "turn-off",
    "turn-off": "turn-on",
}
"""Verbs whose picture is another verb's picture played backwards; the others look the same both ways."""


@dataclass(frozen=True, order=True)
class Action:
    """A verb done to a noun, by their ids."""

    verb: int
    noun: int

    @property
    def name(self) -> str:
        """For example `open fridge`."""
        return f"{VERBS[self.verb].key} {NOUNS[self.noun].key}"


ACTIONS: tuple[Action, ...] = tuple(
    sorted(Action(VERB_ID[verb], index) for index, noun in enumerate(NOUNS) for verb in noun.verbs)
)
"""All that can be done in this kitchen, by verb, then noun."""
ACTION_INDEX = {action: index for index, action in enumerate(ACTIONS)}


def action(verb: str, noun: str) -> Action:
    """The action of two keys, for example `action("open", "fridge")`.

    Raises:
        KeyError: nobody does that here.
    """
    found = Action(VERB_ID[verb], NOUN_ID[noun])
    if found not in ACTION_INDEX:
        raise KeyError(f"{verb} {noun}")
    return found


def spoken(word: str) -> str:
    """A key or instance as a narrator says it: `board:chopping` is "chopping board", `put-down` is "put down"."""
    if ":" in word:
        head, *rest = word.split(":")
        return " ".join([*rest, head])
    return word.replace("-", " ")
