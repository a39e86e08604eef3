"""What a language model is asked, and how its answer is read (spec §2.5; the paper's own prompts are not published).

Two steps: a narration becomes one sentence; sentence, verb and noun become two questions. What comes back is text of a
stranger: only two short texts are taken out of it, without control characters.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from crossmamba.data.epic.classes import ClassTable
from crossmamba.errors import CrossmambaError
from crossmamba.questions.masking import Answers
from crossmamba.questions.tokens import MASK

__all__ = [
    "PROMPT_VERSION",
    "BadReply",
    "Messages",
    "Prompt",
    "ask",
    "ask_again",
    "clean_sentence",
    "describe_action",
    "parse_pair",
    "prompt_of",
]

PROMPT_VERSION = "1"  # change it with every change of a text below: stored answers belong to it

Messages = list[dict[str, str]]

_DESCRIBE = (
    "You rewrite short kitchen narrations as one concrete third-person sentence. Add no objects that are not implied. "
    "Answer with the sentence only."
)
_ASK = (
    "You write questions about short kitchen videos, filmed from the cook's head. Write two questions about the clip. "
    "verb_question must be answerable only by the verb, noun_question only by the noun. Never use the answer of a "
    "question in it, nor its synonyms, nor any inflection of them. Each question is one sentence of at most 25 words. "
    'Return JSON and nothing else: {"verb_question": "...", "noun_question": "..."}'
)
_MOST_SYNONYMS = 30
_LONGEST = 300  # characters of a question
_THOUGHTS = re.compile(r"^\s*<think>.*?(?:</think>|\Z)|^.*?</think>", re.S)  # some servers leave them in the answer
_FENCE = re.compile(r"```[a-zA-Z]*")
_TRAILING_COMMA = re.compile(r",\s*([}\]])")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class BadReply(CrossmambaError):
    """A reply that is not two questions."""


@dataclass(frozen=True)
class Prompt:
    """What a pair of questions is written from. Rows with equal prompts are asked about once.

    Attributes:
        answers: the pair; its words are the narrator's or the classes' names.
        narration: the narrator's sentence; empty where only predicted classes may be known.
        verb_synonyms, noun_synonyms: words that a question must not use.
    """

    answers: Answers
    narration: str
    verb_synonyms: tuple[str, ...] = ()
    noun_synonyms: tuple[str, ...] = ()


def prompt_of(answers: Answers, narration: str, verbs: ClassTable, nouns: ClassTable) -> Prompt:
    """The prompt of a pair, with the first 30 words of each class as synonyms."""
    return Prompt(
        answers,
        " ".join(narration.lower().split()),
        tuple(_plain(word) for word in verbs.instances[answers.verb_class][:_MOST_SYNONYMS]),
        tuple(_plain(word) for word in nouns.instances[answers.noun_class][:_MOST_SYNONYMS]),
    )


def _plain(word: str) -> str:
    """`board:chopping` as "chopping board", `turn-on` as "turn on"."""
    head, *rest = word.split(":")
    return " ".join([*rest, head]).replace("-", " ")


def describe_action(prompt: Prompt) -> Messages:
    """The first step's messages."""
    given = {"verb": _plain(prompt.answers.verb), "noun": _plain(prompt.answers.noun)}
    if prompt.narration:
        given = {"narration": prompt.narration, **given}
    return _messages(_DESCRIBE, given)


def ask(prompt: Prompt, description: str) -> Messages:
    """The second step's messages."""
    return _messages(
        _ASK,
        {
            "description": description,
            "verb": _plain(prompt.answers.verb),
            "noun": _plain(prompt.answers.noun),
            "words that verb_question must not use": ", ".join(prompt.verb_synonyms),
            "words that noun_question must not use": ", ".join(prompt.noun_synonyms),
        },
    )


def ask_again(messages: Messages, reply: str, complaint: str) -> Messages:
    """The messages after a reply that cannot be used."""
    return [
        *messages,
        {"role": "assistant", "content": reply[: 4 * _LONGEST]},
        {"role": "user", "content": f"{complaint} Return only the JSON object with verb_question and noun_question."},
    ]


def _messages(system: str, given: dict[str, str]) -> Messages:
    user = "\n".join(f"{name}: {value}" for name, value in given.items() if value)
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def parse_pair(text: str) -> tuple[str, str]:
    """(verb question, noun question) of a reply.

    Repaired are: thoughts before it (<think>), text or a code fence around it, and commas before a closing bracket.
    Nothing is guessed.

    Raises:
        BadReply: no JSON object, or without two questions of 1 to 300 characters.
    """
    bare = _FENCE.sub("", _THOUGHTS.sub("", text))
    start, stop = bare.find("{"), bare.rfind("}")
    if start < 0 or stop < start:
        raise BadReply(f"no JSON object in the reply {_short(text)!r}")
    inner = bare[start : stop + 1]
    try:
        record = json.loads(inner, strict=False)
    except (ValueError, RecursionError):
        try:
            record = json.loads(_TRAILING_COMMA.sub(r"\1", inner), strict=False)
        except (ValueError, RecursionError) as error:
            raise BadReply(f"broken JSON in the reply {_short(text)!r}") from error
    pair = [_clean(record.get(name)) for name in ("verb_question", "noun_question")]
    for name, question in zip(("verb_question", "noun_question"), pair, strict=True):
        if not question or len(question) > _LONGEST:
            raise BadReply(f"{name} is missing, no text, or longer than {_LONGEST} characters in {_short(text)!r}")
    return pair[0], pair[1]


def _clean(value: object) -> str:
    text = " ".join(_CONTROL.sub(" ", value).split()) if isinstance(value, str) else ""
    return text.replace(MASK, "it")  # hiding is ours to do


def clean_sentence(text: str) -> str:
    """A description as one line, without the thoughts before it.

    Raises:
        BadReply: empty, or longer than 300 characters.
    """
    sentence = _clean(_THOUGHTS.sub("", text)).strip("\"'` ")
    if not sentence or len(sentence) > _LONGEST:
        raise BadReply(f"the description is empty or longer than {_LONGEST} characters: {_short(text)!r}")
    return sentence


def _short(text: str) -> str:
    return " ".join(text.split())[:80]
