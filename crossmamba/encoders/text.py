"""Question encoders: words through an LSTM as in AVST and AV-Mamba, or a stored vector of a text encoder such as CLIP.

Symbols: B questions, L words (14, padded at the end with word 0), E embedding width, H LSTM width, D model width.
Both are called alike and say by `needs` which kind of question they take.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crossmamba.errors import UsageError

__all__ = ["QUESTION_INPUTS", "LSTMQuestion", "VectorQuestion", "build_question_input"]

QUESTION_INPUTS = ("lstm", "features")


class LSTMQuestion(nn.Module):
    """AVST's question encoder: embedding, tanh, one-layer LSTM, last hidden and cell state, tanh, linear.

    Source: spec §1.4 (the public `net_avst.py` in words). As released, the padding words are read by the LSTM like any
    other, so the answer depends on how far a question is padded; `packed` stops at each question's last word.

    Args:
        width: D. words: size of the vocabulary, word 0 being the padding. embedding: E, D if None. hidden: H, D if
            None. packed: read no padding.

    Parameter count at 93 words and D = E = H = 512: 2,673,664.
    """

    needs = "words"

    def __init__(
        self,
        width: int = 512,
        words: int = 93,
        *,
        embedding: int | None = None,
        hidden: int | None = None,
        packed: bool = False,
    ) -> None:
        super().__init__()
        embedding, hidden = embedding or width, hidden or width
        self.dim, self.words, self.packed = width, words, packed
        self.embedding = nn.Embedding(words, embedding)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True)
        self.project = nn.Linear(2 * hidden, width)

    def forward(self, question: Tensor) -> Tensor:
        """int64 (..., L) word ids -> (..., D).

        Raises:
            UsageError: not integers, no words, a word id outside the vocabulary, or (packed) only padding.
        """
        ids = self._checked(question)  # (N, L)
        x = torch.tanh(self.embedding(ids))  # (N, L, E)
        if self.packed:
            x = nn.utils.rnn.pack_padded_sequence(x, self._lengths(ids), batch_first=True, enforce_sorted=False)
        _, (hidden, cell) = self.lstm(x)  # (1, N, H) each
        state = torch.tanh(torch.cat([hidden[-1], cell[-1]], dim=-1))  # (N, 2 H)
        return self.project(state).unflatten(0, question.shape[:-1])

    def _checked(self, question: Tensor) -> Tensor:
        if question.is_floating_point() or question.dim() < 2 or question.shape[-1] == 0:
            raise UsageError(
                f"questions are word ids, int64 (questions, words), got {question.dtype} of shape "
                f'{tuple(question.shape)}; a model with question_input="features" takes vectors'
            )
        if not question.is_cuda and not torch.compiler.is_compiling() and question.numel():
            low, high = int(question.min()), int(question.max())
            if low < 0 or high >= self.words:
                wrong = low if low < 0 else high
                raise UsageError(
                    f"word id {wrong} is outside the vocabulary of {self.words} words (0..{self.words - 1})"
                )
        return question.flatten(0, -2)

    @staticmethod
    def _lengths(ids: Tensor) -> Tensor:
        """Position of each question's last word, plus one, on the CPU as packing wants it."""
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        lengths = ((ids != 0) * places).amax(dim=1).cpu()
        if lengths.numel() and int(lengths.min()) == 0:
            raise UsageError(f"question {int(lengths.argmin())} of the batch is nothing but padding (word 0)")
        return lengths


class VectorQuestion(nn.Module):
    """A stored question vector, such as CLIP's (512), through one linear layer (SHMamba's "linear encoding").

    Args:
        width: D. dim: length of the stored vector.
    """

    needs = "features"

    def __init__(self, width: int = 512, dim: int = 512) -> None:
        super().__init__()
        self.dim, self.input_dim = width, dim
        self.project = nn.Linear(dim, width)

    def forward(self, question: Tensor) -> Tensor:
        """(..., dim) floating point -> (..., D).

        Raises:
            UsageError: integers, or another length.
        """
        if not question.is_floating_point() or question.shape[-1] != self.input_dim:
            raise UsageError(
                f"questions are vectors of {self.input_dim} numbers, got {question.dtype} of shape "
                f'{tuple(question.shape)}; a model with question_input="lstm" takes word ids'
            )
        return self.project(question)


def build_question_input(
    name: str, width: int, *, words: int = 93, dim: int = 512, packed: bool = False
) -> LSTMQuestion | VectorQuestion:
    """The question encoder "lstm" (words, packed) or "features" (dim).

    Raises:
        UsageError: another name.
    """
    if name == "lstm":
        return LSTMQuestion(width, words, packed=packed)
    if name == "features":
        return VectorQuestion(width, dim)
    raise UsageError(f"question_input is {' or '.join(QUESTION_INPUTS)}, not {name!r}")
