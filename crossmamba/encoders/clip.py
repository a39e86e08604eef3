"""CLIP's picture and text encoders (Radford et al. 2021, arXiv 2103.00020) on transformers' modules.

Symbols: P patches (7 x 7 for ViT-B/32, 16 x 16 for L/14, 24 x 24 for L/14 at 336 pixels), W the tower's width,
D the joint space of pictures and texts (512; 768 for L/14), L = 77 token ids.

Published weights: OpenAI's, as transformers stores them (hf://openai/clip-vit-base-patch32/model.safetensors and the
files named in `CLIP_SIZES`), or in the layout of OpenAI's own code and open_clip
(hf://timm/vit_base_patch32_clip_224.openai/open_clip_model.safetensors). A file holds both towers; each encoder takes
its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from crossmamba.encoders.base import FrameEncoder, FrameFeatures, TextEncoder, TextFeatures
from crossmamba.encoders.remap import rename, select_encoder

__all__ = ["CLIP_SIZES", "ClipFrames", "ClipSize", "ClipText", "remap_clip"]


@dataclass(frozen=True)
class ClipSize:
    """The size of a CLIP model.

    Attributes:
        image: side of the pictures in pixels. patch: side of a patch in pixels.
        width, depth, heads: of the picture tower.
        text_width, text_depth, text_heads: of the text tower.
        dim: of the joint space.
        length: most tokens of a text. vocabulary: number of token ids.
        published: the file of the published weights.
    """

    image: int
    patch: int
    width: int
    depth: int
    heads: int
    text_width: int
    text_depth: int
    text_heads: int
    dim: int
    length: int = 77
    vocabulary: int = 49408
    published: str = ""


CLIP_SIZES: dict[str, ClipSize] = {
    "clip_vit_b32": ClipSize(
        224, 32, 768, 12, 12, 512, 12, 8, 512, published="hf://openai/clip-vit-base-patch32/model.safetensors"
    ),
    "clip_vit_b16": ClipSize(
        224, 16, 768, 12, 12, 512, 12, 8, 512, published="hf://openai/clip-vit-base-patch16/model.safetensors"
    ),
    "clip_vit_l14": ClipSize(
        224, 14, 1024, 24, 16, 768, 12, 12, 768, published="hf://openai/clip-vit-large-patch14/model.safetensors"
    ),
    "clip_vit_l14_336": ClipSize(
        336, 14, 1024, 24, 16, 768, 12, 12, 768, published="hf://openai/clip-vit-large-patch14-336/model.safetensors"
    ),
}


class ClipFrames(FrameEncoder):
    """CLIP's picture tower (ViT). All tokens come in the joint space of pictures and texts.

    The published model projects the class token only; the other tokens take the same way here: the last layer norm,
    then the projection (spec §3.3: the released PSTP-Net extraction meant this, and its layout [T, 50, 512] is this).
    So `vector` is `tokens[:, 0]`, CLIP's picture embedding, not normalised.

    Args:
        size: name in `CLIP_SIZES`, or the numbers.
        freeze: keep the weights as loaded; see `Encoder.set_frozen`.
    """

    def __init__(self, size: str | ClipSize = "clip_vit_b32", *, freeze: bool = True) -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # 3 seconds: not at package import

        super().__init__(freeze=freeze)
        size = CLIP_SIZES[size] if isinstance(size, str) else size
        self.published = size.published
        self.size, self.dim, self.cells = (size.image, size.image), size.dim, size.image // size.patch
        self.tower = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=size.width,
                intermediate_size=4 * size.width,
                num_hidden_layers=size.depth,
                num_attention_heads=size.heads,
                projection_dim=size.dim,
                image_size=size.image,
                patch_size=size.patch,
                hidden_act="quick_gelu",
            )
        )
        self.set_frozen(freeze)

    def look(self, frames: Tensor) -> FrameFeatures:
        """(N, 3, S, S) -> vector (N, D), tokens (N, 1 + P, D), grid (N, D, sqrt P, sqrt P)."""
        hidden = self.tower.vision_model(frames).last_hidden_state  # (N, 1 + P, W), before the last layer norm
        tokens = self.tower.visual_projection(self.tower.vision_model.post_layernorm(hidden))
        grid = tokens[:, 1:].unflatten(1, (self.cells, self.cells)).permute(0, 3, 1, 2)
        return FrameFeatures(tokens[:, 0], tokens, grid)

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The picture tower of a file in transformers' or OpenAI's layout."""
        return {f"tower.{key}": value for key, value in remap_clip(state_dict, "vision").items()}


class ClipText(TextEncoder):
    """CLIP's text tower.

    `vector` is taken at the end-of-text token, which has the largest id, as OpenAI's code finds it. `words` are all
    tokens after the last layer norm in the joint space; what stands after the end of the text depends on the id that
    pads (0 in OpenAI's code, and in `crossmamba.extract`).

    Args:
        size: name in `CLIP_SIZES`, or the numbers.
        freeze: keep the weights as loaded.
    """

    def __init__(self, size: str | ClipSize = "clip_vit_b32", *, freeze: bool = True) -> None:
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        super().__init__(freeze=freeze)
        size = CLIP_SIZES[size] if isinstance(size, str) else size
        self.published = size.published
        self.dim, self.length, self.vocabulary = size.dim, size.length, size.vocabulary
        self.tower = CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=size.vocabulary,
                hidden_size=size.text_width,
                intermediate_size=4 * size.text_width,
                num_hidden_layers=size.text_depth,
                num_attention_heads=size.text_heads,
                projection_dim=size.dim,
                max_position_embeddings=size.length,
                hidden_act="quick_gelu",
            )
        )
        self.set_frozen(freeze)

    def read(self, ids: Tensor) -> TextFeatures:
        """(N, L) -> vector (N, D), words (N, L, D). Attention is causal and pads are not masked, as published."""
        words = self.tower.text_projection(self.tower.text_model(input_ids=ids).last_hidden_state)
        return TextFeatures(words[torch.arange(len(ids), device=ids.device), ids.argmax(1)], words)

    def remap(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The text tower of a file in transformers' or OpenAI's layout."""
        return {f"tower.{key}": value for key, value in remap_clip(state_dict, "text").items()}


_OTHERS = {
    "vision": ("text_model.", "text_projection.", "logit_scale", "vision_model.embeddings.position_ids"),
    "text": ("vision_model.", "visual_projection.", "logit_scale", "text_model.embeddings.position_ids"),
}


def remap_clip(state_dict: Mapping[str, Tensor], tower: str) -> dict[str, Tensor]:
    """Translate OpenAI's names to transformers', and keep one tower; transformers' own names pass as they are.

    Args:
        tower: "vision" or "text".

    Raises:
        CheckpointError: lists the keys that are not of this layout.
    """
    state = select_encoder(state_dict, ("tower.",))
    openai = any(key in state for key in ("visual.class_embedding", "token_embedding.weight"))
    if openai:
        state = _from_openai(state)
    wanted = ("vision_model.", "visual_projection.") if tower == "vision" else ("text_model.", "text_projection.")

    def translate(key: str) -> str | None:
        return key if key.startswith(wanted) else None

    return rename(state, translate, _OTHERS[tower], f"{'OpenAI' if openai else 'transformers'} layout of CLIP")


_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_SINGLE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
# Numbers that OpenAI's archives keep among the tensors, and a mask that older open_clip files hold.
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def _from_openai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names -> transformers'. Queries, keys and values are one matrix there; projections are transposed."""
    translated: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", key)
        if key in _NOT_WEIGHTS:
            continue
        if key in ("visual.proj", "text_projection"):
            target = "visual_projection.weight" if key == "visual.proj" else "text_projection.weight"
            translated[target] = value.T.contiguous()
        elif match is None:
            translated[_SINGLE.get(key, key)] = value
        else:
            model = "vision_model" if match[1] else "text_model"
            layer = f"{model}.encoder.layers.{match[2]}."
            if match[3] in ("attn.in_proj_weight", "attn.in_proj_bias"):
                kind = match[3].removeprefix("attn.in_proj_")
                for name, part in zip("qkv", value.chunk(3), strict=True):
                    translated[f"{layer}self_attn.{name}_proj.{kind}"] = part.clone()
            else:
                path, _, kind = match[3].rpartition(".")
                translated[f"{layer}{_LAYER[path]}.{kind}" if path in _LAYER else key] = value
    return translated
