"""Reading checkpoints of encoders: from a file or the Hugging Face Hub, never running code, never half of the keys."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from crossmamba.encoders.base import Encoder
from crossmamba.encoders.remap import listing
from crossmamba.errors import CheckpointError

__all__ = ["load_encoder_weights", "read_state_dict"]

_HUB = "hf://"
_SCALAR = np.float64(0).__reduce__()[0]
# Research code keeps its command line beside the weights, as argparse.Namespace, and its best score as a NumPy number:
# values whose making runs nothing. What a Namespace holds is checked like the rest.
_PLAIN: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *((_SCALAR, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")),  # NumPy 1 and 2
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]
_FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")


def load_encoder_weights(encoder: Encoder, source: str | Path) -> int:
    """Load a checkpoint in its published layout, or in the encoder's own, into `encoder`.

    Args:
        encoder: any built encoder; its `published` says which file to get where.
        source: path of a `.safetensors` file or of a torch file (`.pth`, `.pt`), of a folder as transformers saves it
            (model.safetensors or pytorch_model.bin in it), or `hf://OWNER/REPO/FILE.safetensors` with `@REVISION`
            behind it if wanted.

    Returns:
        The number of the encoder's tensors, all of them loaded.

    Raises:
        CheckpointError: no such file, unsafe or damaged, keys left over on either side, or tensors of another shape.
            The encoder is unchanged.
    """
    try:
        state = encoder.remap(read_state_dict(source))
        own = encoder.state_dict()
        _check_match(own, state)
    except CheckpointError as error:
        advice = f" Published weights of {type(encoder).__name__}: {encoder.published}." if encoder.published else ""
        raise CheckpointError(f"{source}: {error}.{advice}") from error
    encoder.load_state_dict(state)
    return len(own)


def read_state_dict(source: str | Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU. A wrapping dict named `state_dict`, `model_state` or `model` is opened.

    Raises:
        CheckpointError: no such file, unsafe or damaged.
    """
    path = _from_hub(source) if isinstance(source, str) and source.startswith(_HUB) else Path(source)
    path = _in_folder(path) if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError("no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path, device="cpu")
        except SafetensorError as error:
            raise CheckpointError(f"damaged safetensors file ({error})") from error
    content = _read_torch_file(path)
    for wrapper in ("state_dict", "model_state", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError("holds no dict of tensors")
    wrong = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise CheckpointError(f"expected tensors only, but these are something else: {listing(wrong)}")
    return {str(key): value.detach() for key, value in content.items()}


def _in_folder(folder: Path) -> Path:
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"no such file in this folder: {' or '.join(_FOLDER_FILES)}")


def _read_torch_file(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        if wanted is None:
            raise CheckpointError("not a torch checkpoint, or a damaged one") from error
        raise CheckpointError(
            f"refused, because it asks for {wanted[1]} and not only for tensors; nothing of it was run. If you trust "
            "its origin, save its state dict as safetensors where it was made"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, OSError, struct.error, TypeError, AttributeError) as error:
        raise CheckpointError(f"damaged or truncated torch file ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _from_hub(source: str) -> Path:
    """hf://OWNER/REPO/FILE[@REVISION] -> the file in the local cache, downloaded if needed."""
    address, _, revision = source.removeprefix(_HUB).partition("@")
    parts = address.split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise CheckpointError("not an address on the Hub; expected hf://OWNER/REPO/FILE.safetensors")
    owner, repo, file = parts
    if not file.endswith(".safetensors"):
        raise CheckpointError("from the Hub only .safetensors files are read; download the file to read another kind")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(f"{owner}/{repo}", file, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(f"cannot be had from the Hub ({_first_line(error)})") from error


def _check_match(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    complaints = []
    if missing := own.keys() - state.keys():
        complaints.append(f"{len(missing)} keys are missing: {listing(missing)}")
    if unknown := state.keys() - own.keys():
        complaints.append(f"{len(unknown)} keys fit nothing: {listing(unknown)}")
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    if shapes:
        complaints.append(f"{len(shapes)} tensors have another shape: {listing(shapes)}")
    if complaints:
        raise CheckpointError("does not fit this encoder: " + "; ".join(complaints))
