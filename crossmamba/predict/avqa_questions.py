"""A typed question, as a model's vocabulary has it: forgiving about capitals and about names of two words.

"how many acoustic guitar are in the entire video" becomes How many acoustic_guitar are in the entire video, which is
how MUSIC-AVQA writes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from crossmamba.data.qa.templates import SLOTS, TEMPLATES, Template
from crossmamba.data.qa.vocabulary import Vocabulary, split_question


def known_words(question: str, vocabulary: Vocabulary) -> list[str]:
    """The question's words in the vocabulary's spelling; words that it does not have stay as they are.

    Two words that together are one of the vocabulary's ("acoustic guitar") become that; a word that the vocabulary has
    with other capitals gets those.
    """
    words = split_question(question)
    by_lower: dict[str, list[str]] = {}
    for known in vocabulary.words[1:]:
        by_lower.setdefault(known.lower(), []).append(known)

    def spelled(word: str) -> str | None:
        if word in vocabulary.numbers:
            return word
        found = by_lower.get(word.lower(), [])
        return found[0] if len(found) == 1 else None

    result, position = [], 0
    while position < len(words):
        joined = spelled("_".join(words[position : position + 2])) if position + 1 < len(words) else None
        result.append(joined or spelled(words[position]) or words[position])
        position += 2 if joined else 1
    return result


def kind_of_question(words: Sequence[str]) -> Template | None:
    """Which of the 33 kinds of question these words are, None if none: then a model was never trained on its like."""
    text = " ".join(words)
    return next((template for template, pattern in _patterns() if pattern.fullmatch(text)), None)


@cache
def _patterns() -> list[tuple[Template, re.Pattern[str]]]:
    """Each template as a pattern; placeholders match their values."""
    patterns = []
    for template in TEMPLATES:
        parts = [
            "(?:" + "|".join(map(re.escape, SLOTS[word])) + ")" if word in SLOTS else re.escape(word)
            for word in template.question.removesuffix("?").split(" ")
        ]
        patterns.append((template, re.compile(" ".join(parts))))
    return patterns
