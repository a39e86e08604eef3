"""Questions as word numbers: MUSIC-AVQA's 93 words, or a vocabulary of one's own.

The 93 are the words of the 33 templates and of the values of their placeholders, and "<pad>" (spec §3.1: the public
val, test and train_fake files give the same 93; val alone lacks "fourth" and "fifth"). The order of the official files
depends on the train file's row order, so it is no fact that a checkpoint could be relied on to share; ours is fixed:
"<pad>" first, then the other words sorted by code point (capitals before small letters).
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crossmamba.data.qa.templates import SLOTS, TEMPLATES
from crossmamba.errors import DataError, UsageError

__all__ = ["PAD", "QUESTION_LENGTH", "UNKNOWN", "WORDS", "Vocabulary", "encode_question", "split_question"]

PAD = "<pad>"
UNKNOWN = "<unknown>"
QUESTION_LENGTH = 14  # words of the longest question
_MARKS = "?？"


def _words() -> tuple[str, ...]:
    words = {value for values in SLOTS.values() for value in values}
    for template in TEMPLATES:
        words.update(word for word in template.text.rstrip()[:-1].split(" ") if "<" not in word)
    return (PAD, *sorted(words))


WORDS: tuple[str, ...] = _words()
"""The 93 words; a word's number is its position."""


def split_question(text: str) -> list[str]:
    """A typed question's words: blanks are collapsed, one question mark at the end is dropped if there is one.

    For people's questions; rows of annotation files go through `templates.fill`, which drops the last character
    whatever it is.
    """
    words = text.split()
    while words and (words[-1] in _MARKS or words[-1][-1] in _MARKS):
        words[-1] = words[-1][:-1]
        if not words[-1]:
            words.pop()
    return words


class Vocabulary:
    """Words and their numbers; number 0 pads.

    Args:
        words: all words, "<pad>" first, none twice. With "<unknown>" among them, words outside get its number;
            without it they are an error.
        length: L, to which questions are padded.

    Raises:
        UsageError: words without "<pad>" in front, a word twice, or a length below 1.
    """

    def __init__(self, words: Sequence[str], length: int = QUESTION_LENGTH) -> None:
        if not words or words[0] != PAD:
            raise UsageError(f"a vocabulary starts with {PAD!r}; this one starts with {list(words[:1])}")
        if len(set(words)) != len(words):
            twice = sorted({word for word in words if list(words).count(word) > 1})
            raise UsageError(f"words given twice: {', '.join(twice[:5])}")
        if length < 1:
            raise UsageError(f"length is {length}; it must be at least 1")
        self.words, self.length = tuple(words), length
        self.numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and (self.words, self.length) == (other.words, other.length)

    __hash__ = None  # type: ignore[assignment]

    def encode(self, question: str | Sequence[str], *, cut: bool = False) -> NDArray[np.int64]:
        """A question as word numbers, int64 (length,), padded with 0 at the end.

        Args:
            question: words, or a text (see `split_question`).
            cut: drop words beyond the length instead of refusing them.

        Raises:
            UsageError: no word, too many, or one that is not in the vocabulary; near words are named.
        """
        words = split_question(question) if isinstance(question, str) else list(question)
        if not words:
            raise UsageError("the question is empty")
        if len(words) > self.length and not cut:
            raise UsageError(f"{' '.join(words)!r} has {len(words)} words; at most {self.length} are understood")
        encoded = np.zeros(self.length, dtype=np.int64)
        for position, word in enumerate(words[: self.length]):
            encoded[position] = self._number(word, words)
        return encoded

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """The words of a question, without padding."""
        return [self.words[int(number)] for number in numbers if int(number) != 0]

    def _number(self, word: str, words: Sequence[str]) -> int:
        number = self.numbers.get(word)
        if number is None or number == 0:
            number = self.numbers.get(UNKNOWN)
        if number is None:
            near = self.near(word)
            hint = f"near it: {', '.join(near)}" if near else "nothing is near it"
            raise UsageError(
                f"the word {word!r} of {' '.join(words)!r} is not among the {len(self) - 1} known words; {hint}"
            )
        return number

    def near(self, word: str, count: int = 3) -> list[str]:
        """Known words that look like `word`, best first; capitals do not matter."""
        spellings: dict[str, list[str]] = {}
        for known in self.words[1:]:
            spellings.setdefault(known.lower(), []).append(known)
        near = difflib.get_close_matches(word.lower(), list(spellings), n=count, cutoff=0.6)
        return [known for spelling in near for known in spellings[spelling]][:count]

    @classmethod
    def of(cls, questions: Iterable[Sequence[str]], length: int | None = None, unknown: bool = True) -> Vocabulary:
        """The words of many questions, sorted; `length` None takes the longest question's."""
        found: set[str] = set()
        longest = 1
        for words in questions:
            found.update(words)
            longest = max(longest, len(words))
        special = (PAD, UNKNOWN) if unknown else (PAD,)
        return cls((*special, *sorted(found - set(special))), longest if length is None else length)

    def save(self, path: str | Path) -> None:
        """Writes the words and the length as JSON, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        text = json.dumps({"length": self.length, "words": list(self.words)}, ensure_ascii=False, indent=0)
        temporary.write_text(text + "\n", encoding="utf-8")
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Reads what `save` wrote.

        Raises:
            DataError: missing, or no such file.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
            words, length = stored["words"], stored["length"]
            if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
                raise TypeError("`words` is no list of words")
            if type(length) is not int:
                raise TypeError("`length` is no whole number")
            return cls(words, length)
        except FileNotFoundError as error:
            raise DataError(f"{path}: there is no such vocabulary file") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read as a vocabulary ({error})") from error


MUSIC_AVQA = Vocabulary(WORDS)


def encode_question(question: str | Sequence[str]) -> NDArray[np.int64]:
    """A MUSIC-AVQA question as word numbers, int64 (14,), padded with 0 at the end.

    Args:
        question: words, or a typed text such as "How many instruments are sounding in the video?".

    Raises:
        UsageError: empty, longer than 14 words, or a word outside the 93 (near words are named).
    """
    return MUSIC_AVQA.encode(question)
