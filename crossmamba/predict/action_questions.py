"""What a model of actions is asked about a video: nothing, the same for every clip, or the user's own words.

Questions made of true labels ("oracle") do not exist for a new video, and those made of another model's guesses
("predicted") need that model's guess for every clip: a model that was trained with them is asked the generic ones, and
the result says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from crossmamba.errors import CheckpointError, UsageError
from crossmamba.questions.templates import GENERIC
from crossmamba.questions.tokens import MASK, ROBERTA, Tokenizer, WordTokenizer, roberta_tokenizer, words_of

SOURCES = ("none", "generic")
TOKENIZER = "tokenizer"
"""Name under which the folder of RoBERTa's tokenizer is given with the weights; else looked for in the model folder."""


@dataclass(frozen=True)
class Asked:
    """The two questions.

    Attributes:
        source: "none", "generic" or "own". verb, noun: texts, None for none.
        ids: int64 (1, L) token numbers by slot, None for none.
        warnings: what a reader should know.
    """

    source: str
    verb: str | None = None
    noun: str | None = None
    ids: tuple[Tensor | None, Tensor | None] = (None, None)
    warnings: list[str] = field(default_factory=list)

    def describe(self) -> dict[str, Any]:
        """For `result.json`."""
        return {"question_source": self.source, "verb_question": self.verb, "noun_question": self.noun}


def ask(
    needs: str | None,
    preprocessing: Mapping[str, Any],
    folder: Path | None,
    weights: Mapping[str, str | Path],
    *,
    source: str | None = None,
    verb: str | None = None,
    noun: str | None = None,
) -> Asked:
    """The questions for a model.

    Args:
        needs: `MambaVL.needs["question"]`. preprocessing: of the card. folder: of the model.
        weights: may name the folder of RoBERTa's tokenizer.
        source: "none" or "generic"; None for what suits the training. verb, noun: own texts.

    Raises:
        UsageError: a question to a model that reads none, both a source and own texts, or an empty text.
        CheckpointError: no vocabulary, or no tokenizer.
    """
    if source is not None and source not in SOURCES:
        raise UsageError(f"--question-source {source}: for a new video there are {', '.join(SOURCES)}, or own texts")
    own = verb is not None or noun is not None
    if own and source is not None:
        raise UsageError("give --question-source, or own questions (--verb-question, --noun-question), not both")
    trained = "none" if needs is None else str(preprocessing.get("question_source", "generic"))
    if trained == "none":
        if own or source == "generic":
            raise UsageError(
                "this model reads no questions, or was trained without: leave --question-source, --verb-question and "
                "--noun-question out"
            )
        return Asked("none")
    if source == "none":
        return Asked("none", warnings=[f"The model was trained with questions ({trained}) and is asked none here."])
    if needs == "stored":
        raise UsageError("this model takes questions as stored vectors, which a new video does not have: use none")
    tokenizer = _tokenizer(needs, preprocessing, folder, weights)
    verb, noun = (verb, noun) if own else GENERIC
    warnings = [] if own else _generic(trained)
    ids: list[Tensor | None] = []
    for text in (verb, noun):
        ids.append(None if text is None else tokenizer.encode(text)[None])
        warnings += [] if text is None else _unknown(text, tokenizer)
    return Asked("own" if own else "generic", verb, noun, (ids[0], ids[1]), warnings)


def _generic(trained: str) -> list[str]:
    if trained == "generic":
        return []
    made = {"oracle": "made of the true labels", "predicted": "made of another model's guesses"}.get(trained, trained)
    return [
        f"The model was trained with questions {made}. Here it is asked the same two about every clip, so its scores "
        "with those questions say nothing about this result."
    ]


def _unknown(text: str, tokenizer: Tokenizer) -> list[str]:
    if not isinstance(tokenizer, WordTokenizer):
        return []
    unknown = [word for word in words_of(text) if word != MASK and word not in tokenizer.words]
    return [f"The model does not know the words {', '.join(unknown)} of {text!r}."] if unknown else []


def _tokenizer(
    needs: str, preprocessing: Mapping[str, Any], folder: Path | None, weights: Mapping[str, str | Path]
) -> Tokenizer:
    length = int(preprocessing.get("question_length") or 40)
    if needs == "words":
        words = preprocessing.get("vocabulary")
        if not words:
            raise CheckpointError("the model's preprocessing lacks its vocabulary of words; save it again with it")
        return WordTokenizer(words, length)
    own = None if folder is None else folder / TOKENIZER
    there = weights.get(TOKENIZER) or (own if own is not None and own.is_dir() else None)
    return roberta_tokenizer(there or preprocessing.get(TOKENIZER) or ROBERTA, length)
