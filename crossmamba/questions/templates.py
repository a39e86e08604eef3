"""Questions without a language model: one of a few templates, chosen by the narration id (spec §2.4).

The other slot is named only as `<mask>`, and no word of a template is a form of any class of EPIC-KITCHENS-100, so a
template alone gives nothing away. What the questions can tell about an answer is the class's category ("retrieve",
"cutlery"), and only where `hint="category"`. With true labels that is much: the category alone, with no video, gives
72.5 % of the verbs and 36.2 % of the nouns of the validation rows, where guessing the commonest class gives 20.0 and
3.9. (Of these questions, which never name a category that is a word of the answer, `crossmamba questions check` reads
52.8 and 37.9 %; without hints 19.9 and 4.1.) So it belongs to the question source "oracle", or to "predicted", where
the category is that of a model's guess.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

from crossmamba.data.epic.classes import ClassTable
from crossmamba.errors import DataError
from crossmamba.questions.forms import spans_of
from crossmamba.questions.masking import Answers, Masker
from crossmamba.questions.tokens import WordTokenizer

__all__ = ["GENERIC", "HINTED", "HINTS", "PLAIN", "Hint", "chosen", "template_pair", "word_tokenizer"]

Hint = Literal["none", "category"]
HINTS: tuple[Hint, ...] = ("none", "category")

GENERIC = ("What action is performed using hands in the video?", "What is the object in the video?")
"""(verb, noun) questions for every clip alike: the wording that stands unused in the official code."""

PLAIN = (
    (
        "What is the person doing with the <mask>?",
        "What does the person do to the <mask>?",
        "What happens to the <mask> here?",
        "Which action involves the <mask>?",
        "How does the person deal with the <mask>?",
        "What is being done with the <mask> right now?",
        "Which verb says what happens to the <mask>?",
        "What is going on with the <mask> in this moment?",
    ),
    (
        "Which object does the person <mask>?",
        "What does the person <mask> here?",
        "What is the person about to <mask>?",
        "Which object does the person want to <mask>?",
        "What did the person just <mask>?",
        "Which thing will the person <mask>?",
        "To which object does the person do this: <mask>?",
        "What is it that the person tries to <mask>?",
    ),
)
"""(verb questions, noun questions) that are about every class alike."""

HINTED = (
    (
        "Which action of the kind {category} is done with the <mask>?",
        "What does the person do to the <mask>, if it is of the kind {category}?",
        "Of all that is called {category}, what happens to the <mask> here?",
        "Which verb of the kind {category} says what happens to the <mask>?",
    ),
    (
        "Which object of the kind {category} does the person <mask>?",
        "What does the person <mask> here, if it is of the kind {category}?",
        "Of all that is called {category}, what is the person about to <mask>?",
        "Which thing of the kind {category} will the person <mask>?",
    ),
)
"""(verb questions, noun questions) that name the category of the answer's class."""


def chosen(narration_id: str, seed: int, slot: str, count: int) -> int:
    """A number below `count` that depends only on the arguments, on every machine."""
    digest = blake2b(f"{narration_id}|{seed}|{slot}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


def template_pair(
    narration_id: str, answers: Answers, masker: Masker, *, seed: int = 0, hint: Hint = "category"
) -> tuple[str, str]:
    """The verb question and the noun question of one row.

    A category that contains a word of the answer itself ("hand" of the class hand) is not named: this question then is
    one without a hint.

    Raises:
        DataError: a hint is wanted and the class table has no categories.
    """
    questions = []
    tables = (("verb", masker.verbs, answers.verb_class), ("noun", masker.nouns, answers.noun_class))
    for place, (slot, table, number) in enumerate(tables):
        category = _category(table, number) if hint == "category" else ""
        own = masker.verb_form(answers) if slot == "verb" else masker.noun_forms(answers)[0]
        if category and not spans_of(category, own):
            texts: tuple[str, ...] = HINTED[place]
        else:
            texts = PLAIN[place]
        text = texts[chosen(narration_id, seed, slot, len(texts))]
        questions.append(text.replace("{category}", category))
    return questions[0], questions[1]


def word_tokenizer(verbs: ClassTable, nouns: ClassTable) -> WordTokenizer:
    """The tokenizer of the small models: the words of all templates, class names, instances and categories.

    Two data sets with the same class tables get the same numbers.
    """
    texts = [*GENERIC, *(text for group in (*PLAIN, *HINTED) for text in group)]
    for table in (verbs, nouns):
        texts += [*table.keys, *table.categories, *(word for group in table.instances for word in group)]
    return WordTokenizer(text.replace("{category}", "") for text in texts)


def _category(table: ClassTable, number: int) -> str:
    if not any(table.categories):
        raise DataError(
            f"the {table.kind} class table has no categories, so no question can name one; choose the hint 'none'"
        )
    return table.categories[number]
