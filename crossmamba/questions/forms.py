"""Surface forms of class words: how `turn-on` and `box:lunch` look in a sentence.

Source: spec §2.2 (what the released masking misses) and §2.4. Rules:

* a verb `x-y` is "x y", "x-y" and "x ... y" with up to three words between; x has all its inflections; where x alone
  means the same class, x is enough;
* a noun `a:b:c` is "b c a", "a b c", with or without blanks or hyphens between ("lunchbox"), "a of (the) b", and
  where the word is a row's own or its class's name also its head "a"; every word may be singular or plural;
* words are whole words, in capitals or not; `<mask>` is never part of a form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["Form", "forms_of", "noun_variants", "spans_of", "verb_inflections"]

_VOWELS = "aeiou"
_START, _STOP = r"(?<![\w<])", r"(?![\w>])"
_BETWEEN = r"(?:\s+[^\s.?!;:]+){1,3}?\s+"  # of "turn the tap on": one to three words of one sentence

# Past tense and participle where they are not formed with -ed. `un-`, `re-` and `over-` words follow their stem.
_IRREGULAR = {
    "bite": "bit bitten",
    "blow": "blew blown",
    "break": "broke broken",
    "bring": "brought",
    "catch": "caught",
    "choose": "chose chosen",
    "cut": "cut",
    "do": "did done does",
    "draw": "drew drawn",
    "drink": "drank drunk",
    "eat": "ate eaten",
    "fall": "fell fallen",
    "feel": "felt",
    "find": "found",
    "fit": "fit",
    "freeze": "froze frozen",
    "get": "got gotten",
    "give": "gave given",
    "go": "went gone goes",
    "grind": "ground",
    "hang": "hung",
    "have": "had has",
    "hit": "hit",
    "hold": "held",
    "keep": "kept",
    "lay": "laid",
    "lean": "leant",
    "leave": "left",
    "let": "let",
    "lie": "lay lain",
    "light": "lit",
    "make": "made",
    "pay": "paid",
    "put": "put",
    "read": "read",
    "rise": "rose risen",
    "run": "ran run",
    "see": "saw seen",
    "set": "set",
    "shake": "shook shaken",
    "shut": "shut",
    "sit": "sat",
    "slide": "slid",
    "smell": "smelt",
    "spill": "spilt",
    "spin": "spun",
    "split": "split",
    "spread": "spread",
    "stand": "stood",
    "stick": "stuck",
    "sweep": "swept",
    "take": "took taken",
    "tear": "tore torn",
    "throw": "threw thrown",
    "wear": "wore worn",
    "wet": "wet",
    "wind": "wound",
    "wring": "wrung",
}
_PLURALS = {"foot": "feet", "tooth": "teeth", "mouse": "mice", "man": "men", "woman": "women", "child": "children"}
_SINGULARS = {plural: word for word, plural in _PLURALS.items()}


@lru_cache(maxsize=8192)
def verb_inflections(word: str) -> tuple[str, ...]:
    """The forms of a verb, the longest first: take, takes, taking, took, taken.

    Too many forms do no harm, so both "openned" and "opened" are made.
    """
    forms = {word, word + "s", word + "ed", word + "ing"}
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.add(word + "es")
    if word.endswith("e"):
        forms |= {word + "d", word[:-1] + "ing"}
    if word.endswith("ie"):
        forms.add(word[:-2] + "ying")
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        forms |= {word[:-1] + "ies", word[:-1] + "ied"}
    if len(word) > 2 and word[-1] not in _VOWELS + "wxy" and word[-2] in _VOWELS and word[-3] not in _VOWELS:
        forms |= {word + word[-1] + "ed", word + word[-1] + "ing"}
    for prefix in ("", "un", "re", "over"):
        stem = word.removeprefix(prefix)
        if word.startswith(prefix) and stem in _IRREGULAR:
            forms |= {prefix + form for form in _IRREGULAR[stem].split()}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


@lru_cache(maxsize=8192)
def noun_variants(word: str) -> tuple[str, ...]:
    """A noun in singular and plural, whichever of them it is, the longest first: knife, knives."""
    forms = {word, word + "s"}
    if word.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.add(word + "es")
    if word.endswith("y") and word[-2:-1] not in _VOWELS:
        forms.add(word[:-1] + "ies")
    if word.endswith("f"):
        forms.add(word[:-1] + "ves")
    if word.endswith("fe"):
        forms.add(word[:-2] + "ves")
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        forms.add(word[:-1])
        if word.endswith("ies"):
            forms.add(word[:-3] + "y")
        if word.endswith("ves"):
            forms |= {word[:-3] + "f", word[:-3] + "fe"}
        if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
            forms.add(word[:-2])
    forms |= {table[word] for table in (_PLURALS, _SINGULARS) if word in table}
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))


class Form:
    """Regular expressions of a set of class words.

    Args:
        whole: patterns of contiguous forms. parted: patterns of forms with words between, two groups each.
    """

    def __init__(self, whole: Iterable[str], parted: Iterable[str]) -> None:
        ordered = sorted(set(whole), key=lambda pattern: (-len(pattern), pattern))  # "turn on" before "turn"
        self.whole = re.compile(f"{_START}(?:{'|'.join(ordered)}){_STOP}", re.I) if ordered else None
        self.parted = tuple(re.compile(pattern, re.I) for pattern in sorted(set(parted)))


def forms_of(kind: str, words: Iterable[str], named: Iterable[str] = ()) -> Form:
    """The forms of class words.

    Args:
        kind: "verb" or "noun".
        words: instances of a class, such as "turn-on" or "box:lunch".
        named: the class's name and the row's own words: of these also a noun's head, and "x y" even where x alone is
            an instance.
    """
    named = {word.strip().lower() for word in named if word and word.strip()}
    every = {word.strip().lower() for word in words if word and word.strip()} | named
    whole: list[str] = []
    parted: list[str] = []
    for word in every:
        parts = [part for part in re.split(r"[-:\s]+", word) if part]
        if not parts:
            continue
        if kind == "verb":
            first, rest = _any(verb_inflections(parts[0])), r"[\s\-]+".join(map(re.escape, parts[1:]))
            # Where x alone is of the class, hiding x hides the answer; hiding every later "in" would only hurt.
            if not rest:
                whole.append(first)
            elif word in named or parts[0] not in every:
                whole.append(rf"{first}[\s\-]+{rest}")
                parted.append(f"{_START}({first}){_BETWEEN}({rest}){_STOP}")
        else:
            whole += _noun_patterns([_any(noun_variants(part)) for part in parts], word in named)
    return Form(whole, parted)


def _noun_patterns(parts: list[str], named: bool) -> list[str]:
    if len(parts) == 1:
        return parts
    loose = r"[\s\-]*"
    found = [loose.join([*parts[1:], parts[0]]), loose.join(parts), rf"{parts[0]}\s+of\s+(?:(?:the|an?)\s+)?{parts[1]}"]
    return [*found, parts[0]] if named else found


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(map(re.escape, words))})"


def spans_of(text: str, form: Form) -> list[tuple[int, int]]:
    """Where forms stand in a text, (start, stop) in order and not overlapping; a parted form gives two spans."""
    found: list[tuple[int, int]] = []
    for pattern in form.parted:
        for match in pattern.finditer(text):
            found += [match.span(1), match.span(2)]
    if form.whole is not None:
        found += [match.span() for match in form.whole.finditer(text)]
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(found):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged
