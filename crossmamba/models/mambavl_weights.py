"""Released MambaVL checkpoints: their names to ours, whole or not at all.

The file is {"epoch", "model_state", "optimizer_state", "cfg", "scaler_state"} (spec §1.5). Nothing in it is run.

| theirs | ours |
|---|---|
| `A_log` | `fusion.A_log` |
| `mamba_video.*`, `mamba_text.*` | `fusion.branches.{video,text}.*` |
| `txt_proj.{0,2,4}.*` | `text_proj.{0,2,4}.*` |
| `head0.*`, `head1.*` | `verb_head.*`, `noun_head.*` |
| `text_model.embeddings.*` | `text.encoder.*` |
| `orvit.*` (AVION's tower) | `encoder.*`, by the encoder's own remap |
| `pre_logits.fc.*` (name from memory) | `video_proj.fc.*` |
| ORViT's `blocks.*`, `patch_embed_3d.*`, ... | not loaded, listed: its tokens are stored ones here |

RoBERTa's embeddings come from the file and never from the Hub: the released constructors overwrite them, so the model
was trained on others (spec §1.5). For the published numbers build the model with `pad_mode="official"` besides.

No released file was at hand: this is tested on files with these names and shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from crossmamba.blocks.ssm_fusion import SSMFusion
from crossmamba.encoders import read_state_dict
from crossmamba.errors import CheckpointError, UsageError
from crossmamba.models.mambavl import MambaVL, PreLogits
from crossmamba.models.mambavl_text import EncodedText

_MOVED = {
    "mamba_video.": "fusion.branches.video.",
    "mamba_text.": "fusion.branches.text.",
    "txt_proj.": "text_proj.",
    "head0.": "verb_head.",
    "head1.": "noun_head.",
}
_UNREAD = ("B_log", "mamba_video.A_log", "mamba_text.A_log")
"""A's that the released forward never reads: of its "disjoint" option, and inside the blocks."""
SHOWN = 5


@dataclass(frozen=True)
class ReleasedWeights:
    """What became of a checkpoint.

    Attributes:
        loaded: tensors of the model that were set, which is all of them.
        left: keys of the checkpoint that the model has no place for: ORViT's backbone, RoBERTa's encoder.
    """

    loaded: int
    left: tuple[str, ...]


def load_released(model: MambaVL, source: str | Path) -> ReleasedWeights:
    """Loads a checkpoint of the authors' code into a MambaVL of the same sizes.

    Args:
        model: with fusion "shared_a" and text "roberta_embeddings" (or "roberta_encoder", if the file has it);
            `mambavl_orvit_features` for ORViT, `mambavl_avion_b` and the like for AVION.
        source: path of a torch file (`.pyth`, `.pth`, `.pt`) or `.safetensors`.

    Raises:
        CheckpointError: unreadable or unsafe, or keys or shapes that do not fit; the model is unchanged.
        UsageError: a model of another kind.
    """
    try:
        state, left = convert_released(model, read_state_dict(source))
        _check(model.state_dict(), state)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error
    model.load_state_dict(state)
    return ReleasedWeights(len(state), left)


def convert_released(model: MambaVL, released: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A released `model_state` in the model's names, and the keys that it has no place for.

    Raises:
        CheckpointError: a key of a kind that the layout does not have. UsageError: a model of another kind.
    """
    if not isinstance(model.fusion, SSMFusion) or model.fusion.A_log is None:
        raise UsageError('released weights are of fusion "shared_a": build the model with it')
    if not isinstance(model.text, EncodedText):
        raise UsageError(
            "a released file has word embeddings of its own, which are not RoBERTa's: build the model with "
            'text="roberta_embeddings", so that they can be loaded'
        )
    encoder, reader = model.encoder, model.text.encoder
    state, parts, left = _by_part(model, released)
    state |= {f"text.encoder.{key}": value for key, value in reader.remap(parts["text_model."]).items()}
    if getattr(reader, "mode", "") == "embeddings":
        left += [key for key in parts["text_model."] if not key.startswith("text_model.embeddings.")]
    if encoder is None:
        left += parts["orvit."]
    else:
        if other := [key for key in left if key not in _UNREAD and not key.startswith("text_model.")]:
            raise CheckpointError(
                f"{len(other)} keys are of a backbone that is not AVION's (orvit.*): {_some(other)}; for ORViT build "
                "mambavl_orvit_features"
            )
        state |= {f"encoder.{key}": value for key, value in encoder.remap(parts["orvit."]).items()}
    return state, tuple(sorted(left))


def _by_part(
    model: MambaVL, released: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], list[str]]:
    """Fusion, layers and heads in the model's names; text and tower in the file's, by prefix; all other keys."""
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {"text_model.": {}, "orvit.": {}}
    left = []
    moved = {**_MOVED, "pre_logits.": "video_proj."} if isinstance(model.video_proj, PreLogits) else _MOVED
    for key, value in released.items():
        key = key.removeprefix("module.")
        old = next((prefix for prefix in (*moved, *parts) if key.startswith(prefix)), None)
        if key == "A_log":
            state["fusion.A_log"] = value
        elif key in _UNREAD or old is None:
            left.append(key)
        elif old in parts:
            parts[old][key] = value
        else:
            state[moved[old] + key[len(old) :]] = value
    return state, parts, left


def _check(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    complaints = []
    if missing := sorted(own.keys() - state.keys()):
        complaints.append(f"{len(missing)} keys are missing: {_some(missing)}")
    if unknown := sorted(state.keys() - own.keys()):
        complaints.append(f"{len(unknown)} keys fit nothing: {_some(unknown)}")
    if shapes := [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in sorted(own.keys() & state.keys())
        if own[key].shape != state[key].shape
    ]:
        complaints.append(f"{len(shapes)} tensors have another shape: {_some(shapes)}")
    if complaints:
        raise CheckpointError("does not fit this model (names are the model's): " + "; ".join(complaints))


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (" and others" if len(names) > SHOWN else "")
