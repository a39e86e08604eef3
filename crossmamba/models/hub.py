"""Saving and loading of whole models: a folder with `config.json` and `model.safetensors`, here or on the hub."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_model
from torch import nn

import crossmamba
from crossmamba.errors import CheckpointError
from crossmamba.models.registry import create_model

FORMAT_VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_pretrained(
    model: nn.Module, folder: str | Path, *, preprocessing: dict[str, Any], metadata: dict[str, Any] | None = None
) -> Path:
    """Writes a model made by `create_model`; each file appears whole or not at all.

    Args:
        preprocessing: what an input must go through: image_size, framing, seconds, mean, std, threshold.
        metadata: what a reader should know: data it was trained on, metrics, run.

    Returns:
        The folder.

    Raises:
        CheckpointError: the model was not made by `create_model`, so its folder could not be loaded again.
    """
    name = getattr(model, "registered_name", None)
    if name is None:
        raise CheckpointError("only models made by create_model can be saved: others cannot be built again from a name")
    card = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "args": model.overrides,
        "preprocessing": preprocessing,
        "metadata": metadata or {},
        "crossmamba_version": crossmamba.__version__,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _atomically(folder / WEIGHTS, lambda path: save_model(model, str(path), metadata={"format": "pt"}))
    _atomically(folder / CONFIG, lambda path: path.write_text(json.dumps(card, indent=2) + "\n"))
    return folder


def _atomically(target: Path, write: Any) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        write(Path(temporary))
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_card(folder: str | Path) -> dict[str, Any]:
    """The parsed config.json of a model folder.

    Raises:
        CheckpointError: missing, not json, of another format version, or without the fields that loading needs.
    """
    path = Path(folder) / CONFIG
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: name a folder that save_pretrained or a run wrote") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(card, dict) or card.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path}: this version reads format_version {FORMAT_VERSION} only")
    missing = [field for field in ("name", "args", "preprocessing") if field not in card]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    return card


def from_pretrained(
    name_or_path: str | Path, revision: str | None = None, map_location: str | torch.device = "cpu"
) -> nn.Module:
    """Loads a model folder, local or from the Hugging Face hub, strictly: every key must match.

    Args:
        name_or_path: a folder, or a hub id `owner/name`. revision: of the hub's repository.

    Returns:
        The model in eval mode, with the parsed config.json as `.card`.

    Raises:
        CheckpointError: not found, not readable, or keys or shapes that do not match the model.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        folder = _download(str(name_or_path), revision)
    card = read_card(folder)
    overrides = {key: tuple(value) if isinstance(value, list) else value for key, value in card["args"].items()}
    model = create_model(card["name"], **overrides)
    path = folder / WEIGHTS
    try:
        state = load_file(path, device=str(map_location))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    _load_strictly(model, state, path)
    model.card = card
    return model.to(map_location).eval()


def _load_strictly(model: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    own = model.state_dict()
    aliases = {key for key in set(own) - set(state) if _stored_elsewhere(key, own, state)}
    missing, unexpected = sorted(set(own) - set(state) - aliases), sorted(set(state) - set(own))
    shapes = [key for key in set(own) & set(state) if own[key].shape != state[key].shape]
    if missing or unexpected or shapes:
        raise CheckpointError(
            f"{path} does not fit the model {model.registered_name}: {len(missing)} keys missing {missing[:3]}, "
            f"{len(unexpected)} unexpected {unexpected[:3]}, {len(shapes)} of another shape {sorted(shapes)[:3]}"
        )
    model.load_state_dict(state, strict=not aliases)


def _stored_elsewhere(key: str, own: dict[str, torch.Tensor], state: dict[str, torch.Tensor]) -> bool:
    """Whether `key` is a second name of a shared parameter, which safetensors stores once."""
    return any(other != key and own[other].data_ptr() == own[key].data_ptr() for other in own if other in state)


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=[CONFIG, WEIGHTS]))
    except HFValidationError:
        raise CheckpointError(f"{repository} is neither a folder nor a hub id (owner/name)") from None
    except Exception as error:  # the hub library raises many kinds: network, missing repository, no permission
        raise CheckpointError(f"{repository} is no folder here, and the hub did not give it: {error}") from error


def push_to_hub(folder: str | Path, repository: str, *, private: bool = False, token: str | None = None) -> str:
    """Uploads a folder that `save_pretrained` wrote to `owner/name` on the Hugging Face hub and returns its address."""
    from huggingface_hub import HfApi

    read_card(folder)
    api = HfApi(token=token)
    api.create_repo(repository, private=private, exist_ok=True)
    done = api.upload_folder(folder_path=str(folder), repo_id=repository, allow_patterns=[CONFIG, WEIGHTS, "README.md"])
    return str(getattr(done, "repo_url", done))
