"""CLIP's tokenizer, from files that the user names; no vocabulary comes with this package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from crossmamba.errors import CheckpointError, DataError

__all__ = ["ClipTokens"]

FILES = ("vocab.json", "merges.txt")


class ClipTokens:
    """Text to token ids as OpenAI's code gives them: start, text, end, then id 0 up to `length`.

    transformers' own padding uses the end-of-text id instead, which changes what stands after the end in
    `TextFeatures.words`, never `vector`.

    Args:
        folder: holds vocab.json and merges.txt, as in hf://openai/clip-vit-base-patch32.
        length: tokens in each result; 77 for the published models.

    Raises:
        CheckpointError: a file is missing or cannot be read.
    """

    def __init__(self, folder: str | Path, length: int = 77) -> None:
        missing = [name for name in FILES if not (Path(folder) / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder}: no {' and no '.join(missing)}; name the folder with CLIP's tokenizer "
                "(vocab.json and merges.txt of hf://openai/clip-vit-base-patch32)"
            )
        from transformers import CLIPTokenizer  # 3 seconds: not at package import

        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # damaged files raise many kinds, one of them a bare Exception from Rust
            raise CheckpointError(f"{folder}: not a tokenizer that can be read ({error})") from error
        self.length = length

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """N texts -> int64 (N, length).

        Raises:
            DataError: a text with more tokens than `length`.
        """
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for row, text in enumerate(texts):
            tokens = self._tokenizer(text)["input_ids"]
            if len(tokens) > self.length:
                raise DataError(f"{text[:80]!r}... has {len(tokens)} tokens; CLIP takes at most {self.length}")
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids
