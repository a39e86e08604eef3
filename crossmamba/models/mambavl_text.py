"""The text side of MambaVL: a question as tokens (B, L, dim) and a mask of what is padding.

| name | question | tokens |
|---|---|---|
| `words` | ids (B, L) of `WordTokenizer`, 0 is padding | learned embedding + learned position, width of the model |
| `roberta_embeddings` | ids (B, L) of RoBERTa's tokenizer, 1 is padding | its embeddings alone, frozen (as released) |
| `roberta_encoder` | the same | its encoder's last layer, frozen |
| `stored` | vectors (B, L, dim) | as they are |
| `none` | none | |

The linear layers behind them (`TextProjection`) belong to the model; learned words need none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from crossmamba.encoders import TextEncoder, build_text_encoder
from crossmamba.errors import UsageError

TEXT_SIDES = ("words", "roberta_embeddings", "roberta_encoder", "stored", "none")


class TextProjection(nn.Sequential):
    """Linear (no bias), ReLU, Linear, ReLU, Linear (spec §1.1, `txt_proj`).

    Parameter count 768 -> 768: 1,771,008; 768 -> 1024: 2,885,632.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__(
            nn.Linear(dim, width, bias=False), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )


class WordText(nn.Module):
    """Learned word vectors plus learned positions, then a LayerNorm.

    Args:
        dim: width. words: size of the vocabulary, id 0 being the padding. length: most tokens in a question.
    """

    needs = "words"

    def __init__(self, dim: int, words: int, length: int = 40) -> None:
        super().__init__()
        self.dim, self.words, self.length = dim, words, length
        self.embedding = nn.Embedding(words, dim)
        self.places = nn.Parameter(0.02 * torch.randn(length, dim))
        self.norm = nn.LayerNorm(dim)

    def forward(self, question: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """int64 (B, L) word ids -> (B, L, dim), and the mask: the one given, or where no padding is.

        Raises:
            UsageError: not ids, more than `length`, or an id outside the vocabulary.
        """
        check_ids(question, self.words, self.length)
        tokens = self.norm(self.embedding(question) + self.places[: question.shape[1]])
        return tokens, question != 0 if mask is None else mask


class EncodedText(nn.Module):
    """Ids through a text encoder, one vector per token.

    Args:
        encoder: with `.dim` and `.vocabulary`, and `pad_id` (1 if it does not say).
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder, self.dim = encoder, encoder.dim
        self.needs = "roberta"
        self.pad_id = int(getattr(encoder, "pad_id", 1))

    def forward(self, question: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """int64 (B, L) token ids -> (B, L, dim), and the mask: the one given, or where no padding is.

        Raises:
            UsageError: not ids, too many, or an id outside the vocabulary.
        """
        return self.encoder(question).words, question != self.pad_id if mask is None else mask


class StoredText(nn.Module):
    """Stored vectors, one per token, such as RoBERTa's embeddings. Without a mask all of them are read."""

    needs = "stored"

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, question: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, L, dim) -> the same, and the mask as given. UsageError for another shape."""
        if question.dim() != 3 or question.shape[-1] != self.dim or not question.is_floating_point():
            raise UsageError(
                f"questions are stored vectors (B, L, {self.dim}), got {question.dtype} of shape "
                f'{tuple(question.shape)}; a model with text="words" or "roberta_embeddings" takes ids'
            )
        return question, mask


TextSide = WordText | EncodedText | StoredText


def check_ids(question: Tensor, words: int, length: int) -> None:
    """UsageError unless these are ids (B, L <= length) below `words`; values are looked at on the CPU only."""
    if question.is_floating_point() or question.dim() != 2 or not 1 <= question.shape[1] <= length:
        raise UsageError(
            f"questions are token ids, int64 (B, L), L at most {length}, got {question.dtype} of shape "
            f'{tuple(question.shape)}; a model with text="stored" takes vectors'
        )
    if question.device.type == "cpu" and not torch.compiler.is_compiling() and question.numel():
        low, high = int(question.min()), int(question.max())
        if low < 0 or high >= words:
            raise UsageError(
                f"token id {low if low < 0 else high} is outside the vocabulary of {words} words (0..{words - 1}): "
                "build the model with words=the tokenizer's size"
            )


def build_text_side(
    name: str, width: int, *, words: int = 512, length: int = 40, dim: int = 768, **options: Any
) -> tuple[TextSide | None, nn.Module]:
    """A text side of `TEXT_SIDES` and the layers behind it to tokens of `width`.

    Args:
        words, length: of "words". dim: of "stored". options: of the text encoder.

    Raises:
        UsageError: an unknown name, or options for a side that has none.
    """
    if name not in TEXT_SIDES:
        raise UsageError(f"text is one of {', '.join(TEXT_SIDES)}, not {name!r}")
    if options and not name.startswith("roberta"):
        raise UsageError(f"text {name!r} has no options, got {', '.join(options)}")
    if name == "none":
        return None, nn.Identity()
    if name == "words":
        return WordText(width, words, length), nn.Identity()
    side = StoredText(dim) if name == "stored" else EncodedText(build_text_encoder(name, **options))
    return side, TextProjection(side.dim, width)
