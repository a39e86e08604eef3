"""RoBERTa (Liu et al. 2019, arXiv 1907.11692) as MambaVL reads questions: its embeddings alone, or its encoder.

Symbols: N questions, L <= 512 token ids, id 1 being the padding, d width (768).

MambaVL's released code runs no layer of the encoder in front of the scans: a question is its word, place and type
vectors, summed and normed (spec §1.1). The encoder is for comparison. Frozen in both.

Published weights: https://huggingface.co/FacebookAI/roberta-base (model.safetensors). A MambaVL checkpoint holds
embeddings of its own (`text_model.embeddings.*`), which are not RoBERTa's (spec §1.5): load those from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from crossmamba.encoders.base import TextEncoder, TextFeatures
from crossmamba.encoders.remap import rename, select_encoder
from crossmamba.errors import UsageError

__all__ = ["ROBERTA_MODES", "ROBERTA_SIZES", "RobertaSize", "RobertaText"]

ROBERTA_MODES = ("embeddings", "encoder")


@dataclass(frozen=True)
class RobertaSize:
    """Width d, blocks, heads; token ids; rows of the place table, two more than tokens; published weights."""

    width: int
    depth: int
    heads: int
    vocabulary: int = 50265
    places: int = 514
    published: str = ""


ROBERTA_SIZES: dict[str, RobertaSize] = {
    "roberta_base": RobertaSize(768, 12, 12, published="https://huggingface.co/FacebookAI/roberta-base"),
    "roberta_large": RobertaSize(1024, 24, 16, published="https://huggingface.co/FacebookAI/roberta-large"),
}


class RobertaText(TextEncoder):
    """Question tokens (N, L) -> words (N, L, d), and their mean without padding as `vector` (N, d).

    Args:
        mode: "embeddings" or "encoder".
        size: name in `ROBERTA_SIZES`, or the numbers.
        mask_padding: the encoder's attention leaves padding out, as RoBERTa was trained; the released code of MambaVL
            drops the mask. Nothing to the embeddings.
        freeze: keep the weights as loaded, and no dropout.

    Parameter count of roberta_base: embeddings 39,000,576; encoder 124,055,040 with them.

    Raises:
        UsageError: an unknown mode or size.
    """

    pad_id = 1

    def __init__(
        self,
        mode: str = "embeddings",
        size: str | RobertaSize = "roberta_base",
        *,
        mask_padding: bool = True,
        freeze: bool = True,
    ) -> None:
        super().__init__(freeze=freeze)
        if mode not in ROBERTA_MODES:
            raise UsageError(f"mode is {mode!r}; expected {' or '.join(ROBERTA_MODES)}")
        if isinstance(size, str) and size not in ROBERTA_SIZES:
            raise UsageError(f"no size {size!r}; there are {', '.join(ROBERTA_SIZES)}")
        from transformers import RobertaConfig, RobertaModel  # 3 seconds: not at package import

        size = ROBERTA_SIZES[size] if isinstance(size, str) else size
        self.mode, self.mask_padding, self.published = mode, mask_padding, size.published  # type: ignore[misc]
        self.dim, self.vocabulary, self.length = size.width, size.vocabulary, size.places - 2
        model = RobertaModel(
            RobertaConfig(
                vocab_size=size.vocabulary,
                hidden_size=size.width,
                num_hidden_layers=size.depth if mode == "encoder" else 0,
                num_attention_heads=size.heads,
                intermediate_size=4 * size.width,
                max_position_embeddings=size.places,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
                pad_token_id=self.pad_id,
            ),
            add_pooling_layer=False,
        )
        self.tower = model if mode == "encoder" else model.embeddings
        self.set_frozen(freeze)

    def read(self, ids: Tensor) -> TextFeatures:
        """(N, L) -> vector (N, d), words (N, L, d); the vector of nothing but padding is zero."""
        real = ids != self.pad_id
        if self.mode == "embeddings":
            words = self.tower(input_ids=ids)
        else:
            words = self.tower(ids, attention_mask=real.long() if self.mask_padding else None).last_hidden_state
        weights = real.to(words.dtype)[..., None]
        return TextFeatures((words * weights).sum(1) / weights.sum(1).clamp(min=1), words)

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A RoBERTa file, with or without the language model's head, or `text_model.*` of a MambaVL one.

        Raises:
            CheckpointError: lists the keys that are not of this layout.
        """
        state = select_encoder(state_dict, ("roberta.", "text_model.", "tower."))
        dropped = ("lm_head.", "classifier.", "pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
        if self.mode == "encoder":
            wanted, prefix = ("embeddings.", "encoder."), "tower."
        else:
            wanted, prefix, dropped = ("embeddings.",), "tower.", (*dropped, "encoder.")
            own = {"word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm"}
            state = {f"embeddings.{key}" if key.split(".")[0] in own else key: value for key, value in state.items()}

        def translate(key: str) -> str | None:
            if not key.startswith(wanted):
                return None
            return prefix + (key if self.mode == "encoder" else key.removeprefix("embeddings."))

        return rename(state, translate, dropped, "transformers layout of RoBERTa")
