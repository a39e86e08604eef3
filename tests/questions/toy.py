"""Small class tables and rows for the tests of questions."""

from __future__ import annotations

from dataclasses import dataclass

from crossmamba.data.epic.classes import ClassTable

VERBS = ClassTable(
    "verb",
    ("take", "turn-on", "cut", "wash"),
    (
        ("take", "take-from", "pick", "pick-up", "get"),
        ("turn-on", "switch-on"),
        ("cut", "slice"),
        ("wash", "clean", "rinse"),
    ),
    ("retrieve", "access", "split", "clean"),
)
NOUNS = ClassTable(
    "noun",
    ("tap", "box", "knife", "board:chopping", "hand"),
    (
        ("tap", "water:tap"),
        ("box", "box:lunch", "container"),
        ("knife", "blade", "cut"),
        ("board:chopping", "board:cutting"),
        ("hand", "finger"),
    ),
    ("appliances", "containers", "cutlery", "utensils", "hand"),
)


@dataclass(frozen=True)
class Row:
    """A row of the annotation file, as far as questions read it."""

    narration_id: str
    narration: str = ""
    verb: str = ""
    verb_class: int | None = None
    noun: str = ""
    noun_class: int | None = None
    all_nouns: tuple[str, ...] = ()


ROWS = (
    Row("P01_01_0", "pick up lunch box", "pick-up", 0, "box:lunch", 1, ("box:lunch",)),
    Row("P01_01_1", "turn tap on", "turn-on", 1, "tap", 0, ("tap",)),
    Row("P01_01_2", "cut box with knife", "cut", 2, "box", 1, ("box", "knife")),
    Row("P01_01_3", "rinse fingers", "rinse", 3, "finger", 4, ("finger",)),
    Row("P01_01_4", "turn tap on", "turn-on", 1, "tap", 0, ("tap",)),
)
