"""Questions as token numbers: by words of a fixed vocabulary, or by RoBERTa's tokenizer.

Symbols: N texts, L tokens of each (40 in MambaVL, spec §1.1). Both tokenizers have `encode`, `encode_all`, `mask_of`,
`length_of`, `size`, `length`, `pad_id` and `mask_id`, and both give `<mask>` one number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from crossmamba.errors import CheckpointError, UsageError

__all__ = ["MASK", "TOKENS", "RobertaTokens", "Tokenizer", "WordTokenizer", "roberta_tokenizer", "words_of"]

MASK = "<mask>"
TOKENS = 40  # tokens of a question, as the official code pads and cuts them (spec §1.1)
_SPECIAL = ("<pad>", "<unk>", MASK)
_WORD = re.compile(r"<mask>|[^\W_]+(?:['’][^\W_]+)*")
ROBERTA = "FacebookAI/roberta-base"


class Tokenizer(Protocol):
    """What a model's text side needs of a tokenizer."""

    size: int
    length: int
    pad_id: int
    mask_id: int

    def encode(self, text: str) -> Tensor:
        """One text -> int64 (L,)."""

    def length_of(self, text: str) -> int:
        """Tokens of the text before it is cut to L."""


def words_of(text: str) -> list[str]:
    """The words of a text: small letters, no punctuation, hyphens and colons part words, `<mask>` is a word."""
    return _WORD.findall(text.lower())


class WordTokenizer:
    """Words to numbers with a fixed vocabulary: `<pad>` 0, `<unk>` 1, `<mask>` 2, then the words in sorted order.

    The same set of words gives the same numbers, in whatever order they come. `words` is all that has to be stored.

    Args:
        words: texts whose words make the vocabulary: questions, class names such as "board:chopping", or single words.
        length: L.

    Raises:
        UsageError: no word at all, or a length below 1.
    """

    pad_id, unknown_id, mask_id = range(3)

    def __init__(self, words: Iterable[str], length: int = TOKENS) -> None:
        known = {word for text in words for word in words_of(text)} - {MASK}
        if not known:
            raise UsageError("a word tokenizer needs at least one word")
        if length < 1:
            raise UsageError(f"length is {length}; it must be at least 1")
        self.words: tuple[str, ...] = tuple(sorted(known))
        self.length = length
        self._numbers = {word: number for number, word in enumerate((*_SPECIAL, *self.words))}
        self.size = len(self._numbers)

    def encode(self, text: str) -> Tensor:
        """One text -> int64 (L,): words outside the vocabulary are `<unk>`; words beyond L are cut off.

        Raises:
            UsageError: a text without a word; where there is no question, give the model None instead.
        """
        words = words_of(text)
        if not words:
            raise UsageError(f"the question {text!r} has no word; a model takes None where there is no question")
        numbers = [self._numbers.get(word, self.unknown_id) for word in words[: self.length]]
        return torch.tensor(numbers + [self.pad_id] * (self.length - len(numbers)), dtype=torch.int64)

    def encode_all(self, texts: Sequence[str]) -> Tensor:
        """N texts -> int64 (N, L)."""
        return _stack([self.encode(text) for text in texts], self.length)

    def mask_of(self, ids: Tensor) -> Tensor:
        """int (..., L) -> bool (..., L), False at padding."""
        return ids != self.pad_id

    def length_of(self, text: str) -> int:
        """Words of the text before it is cut to L."""
        return len(words_of(text))


class RobertaTokens:
    """RoBERTa's tokenizer with the interface of `WordTokenizer`: start, text, end, then id 1 up to L (spec §1.1).

    Longer texts are cut to L, the end token kept, as in the official code; `length_of` tells.

    Args:
        tokenizer: of transformers. length: L.

    Raises:
        CheckpointError: a tokenizer without padding or `<mask>`.
    """

    def __init__(self, tokenizer: Any, length: int = TOKENS) -> None:
        if tokenizer.pad_token_id is None or tokenizer.mask_token != MASK:
            raise CheckpointError(
                f"{tokenizer.name_or_path}: a tokenizer with padding and {MASK!r} is needed, such as {ROBERTA}; "
                f"this one has {tokenizer.pad_token!r} and {tokenizer.mask_token!r}"
            )
        if length < 3:
            raise UsageError(f"length is {length}; it must be at least 3: start, one token, end")
        self._tokenizer, self.length = tokenizer, length
        self.size = len(tokenizer)
        self.pad_id, self.mask_id = int(tokenizer.pad_token_id), int(tokenizer.mask_token_id)

    def encode(self, text: str) -> Tensor:
        """One text -> int64 (L,)."""
        ids = self._tokenizer(text, truncation=True, padding="max_length", max_length=self.length)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    def encode_all(self, texts: Sequence[str]) -> Tensor:
        """N texts -> int64 (N, L)."""
        return _stack([self.encode(text) for text in texts], self.length)

    def mask_of(self, ids: Tensor) -> Tensor:
        """int (..., L) -> bool (..., L), False at padding."""
        return ids != self.pad_id

    def length_of(self, text: str) -> int:
        """Tokens of the text with start and end, before it is cut to L."""
        return len(self._tokenizer(text)["input_ids"])


def roberta_tokenizer(folder_or_name: str | Path = ROBERTA, length: int = TOKENS) -> RobertaTokens:
    """RoBERTa's tokenizer from a folder (then no network is asked) or from the Hub ("FacebookAI/roberta-base").

    Raises:
        CheckpointError: nothing there, or not readable.
    """
    from transformers import AutoTokenizer  # 3 seconds: not at package import

    folder = Path(folder_or_name).expanduser()
    name = str(folder) if folder.is_dir() else str(folder_or_name).removeprefix("hf://")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=folder.is_dir())
    except Exception as error:  # damaged files raise many kinds, one of them a bare Exception from Rust
        raise CheckpointError(
            f"{folder_or_name}: no tokenizer that can be read ({' '.join(str(error).split())[:200]}); name a folder "
            f"that holds the files of hf://{ROBERTA} (vocab.json, merges.txt or tokenizer.json)"
        ) from error
    return RobertaTokens(tokenizer, length)


def _stack(rows: list[Tensor], length: int) -> Tensor:
    return torch.stack(rows) if rows else torch.zeros(0, length, dtype=torch.int64)
