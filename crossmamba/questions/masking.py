"""Hiding answers in questions, and finding what they give away (spec §2.2 and §2.6).

A verb question must not name its own answer, and the noun only as `<mask>`; a noun question likewise. Looked for are
all words of the class, not only the narrator's own, because half of the narrators' verbs differ from the class's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

from crossmamba.data.epic.classes import ClassTable
from crossmamba.errors import DataError
from crossmamba.questions.forms import Form, forms_of, noun_variants, spans_of, verb_inflections
from crossmamba.questions.tokens import MASK, words_of

__all__ = ["Answers", "LabelledRow", "Masker", "apply_mask", "enough_left"]

_LEAST_WORDS = 3  # that must be left of a question beside its masks


class LabelledRow(Protocol):
    """What is read of an annotation row; `crossmamba.data.epic.EpicRow` is one."""

    @property
    def narration_id(self) -> str: ...
    @property
    def narration(self) -> str: ...
    @property
    def verb(self) -> str: ...
    @property
    def verb_class(self) -> int | None: ...
    @property
    def noun(self) -> str: ...
    @property
    def noun_class(self) -> int | None: ...
    @property
    def all_nouns(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Answers:
    """The pair that a question is about.

    Attributes:
        verb_class, noun_class: class numbers.
        verb: the narrator's word, or the class's name where the pair is a model's guess. noun: likewise.
        more_nouns: other nouns of the narration.
    """

    verb_class: int
    noun_class: int
    verb: str
    noun: str
    more_nouns: tuple[str, ...] = ()


def apply_mask(text: str, form: Form) -> str:
    """The text with every form replaced by `<mask>`. Doing it again changes nothing.

    Parted forms ("turn the tap on") lose both parts and keep what stands between.
    """
    while spans := spans_of(text, form):
        for start, stop in reversed(spans):
            text = text[:start] + MASK + text[stop:]
    return text


def enough_left(text: str) -> bool:
    """Whether a masked question still asks something: three words beside its masks."""
    return sum(word != MASK for word in words_of(text)) >= _LEAST_WORDS


class Masker:
    """Masks and checks questions with the words of two class tables.

    Args:
        verbs, nouns: the tables; every instance counts.
    """

    def __init__(self, verbs: ClassTable, nouns: ClassTable) -> None:
        self.verbs, self.nouns = verbs, nouns
        self._form = lru_cache(maxsize=4096)(self._make_form)

    def answers(self, row: LabelledRow) -> Answers:
        """The true pair of a row.

        Raises:
            DataError: a row without classes, or with classes that the tables do not have.
        """
        if row.verb_class is None or row.noun_class is None:
            raise DataError(
                f"narration {row.narration_id} has no classes (a test row?): questions about it are generic, or made "
                "from a model's predictions"
            )
        return self.pair(row.verb_class, row.noun_class, row.verb, row.noun, row.all_nouns, f"row {row.narration_id}")

    def pair(
        self,
        verb_class: int,
        noun_class: int,
        verb: str = "",
        noun: str = "",
        all_nouns: Iterable[str] = (),
        where: str = "the pair",
    ) -> Answers:
        """Checked class numbers and words; words that are not given are the classes' names.

        Raises:
            DataError: a class that its table does not have.
        """
        for number, table in ((verb_class, self.verbs), (noun_class, self.nouns)):
            if not 0 <= number < len(table):
                raise DataError(f"{where}: {table.kind} class {number}; the class table has 0 to {len(table) - 1}")
        verb, noun = verb or self.verbs.keys[verb_class], noun or self.nouns.keys[noun_class]
        return Answers(verb_class, noun_class, verb, noun, tuple(word for word in all_nouns if word != noun))

    def mask(self, verb_question: str, noun_question: str, answers: Answers) -> tuple[str, str]:
        """Both questions without the words of both answers."""
        verb, nouns = self.verb_form(answers), self.noun_forms(answers)
        masked = []
        for text in (verb_question, noun_question):
            text = text.replace(MASK.upper(), MASK)
            before = ""
            while text != before:  # one answer's mask may bring another's parts within reach
                before = text
                for form in (verb, *nouns):
                    text = apply_mask(text, form)
            masked.append(text)
        return masked[0], masked[1]

    def flags(self, verb_question: str, noun_question: str, answers: Answers) -> tuple[str, ...]:
        """What the questions give away, as `slot:kind:words` with slot verb or noun and kind one of

        * own: names its own answer;
        * own_maybe: a word that is a verb form and a noun form, such as "cut": without a tagger nobody knows which;
        * other: names the other question's answer.
        """
        verb, nouns = self.verb_form(answers), self.noun_forms(answers)
        found = []
        for slot, text, own, other in (
            ("verb", verb_question, (verb,), nouns),
            ("noun", noun_question, nouns, (verb,)),
        ):
            kinds = {True: "own_maybe", False: "own"}
            found += [f"{slot}:{kinds[words in self._both]}:{words}" for words in _found(text, own)]
            found += [f"{slot}:other:{words}" for words in _found(text, other)]
        return tuple(found)

    def verb_form(self, answers: Answers) -> Form:
        """Forms of the verb's class and of the narrator's word."""
        return self._form("verb", answers.verb_class, answers.verb)

    def noun_forms(self, answers: Answers) -> tuple[Form, ...]:
        """Forms of the noun's class, of the narrator's word, and of the classes of the narration's other nouns."""
        others = [(self.nouns.by_word.get(word, -1), word) for word in answers.more_nouns]
        return tuple(self._form("noun", number, word) for number, word in [(answers.noun_class, answers.noun), *others])

    def _make_form(self, kind: str, number: int, word: str) -> Form:
        table = self.verbs if kind == "verb" else self.nouns
        if number < 0:
            return forms_of(kind, (), (word,))
        return forms_of(kind, table.instances[number], (table.keys[number], word))

    @cached_property
    def _both(self) -> frozenset[str]:
        """Single words that are a form of some verb and of some noun."""
        verbs = {form for word in self.verbs.by_word if "-" not in word for form in verb_inflections(word)}
        nouns = {form for word in self.nouns.by_word if ":" not in word for form in noun_variants(word)}
        return frozenset(verbs & nouns)


def _found(text: str, forms: Iterable[Form]) -> list[str]:
    """The different words found, small, in order."""
    words = [text[start:stop].lower() for form in forms for start, stop in spans_of(text, form)]
    return list(dict.fromkeys(words))
