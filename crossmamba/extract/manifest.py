"""What a feature folder says about how its files were made, and the refusal to mix two ways in one folder."""

from __future__ import annotations

import datetime
import json
import os
from pathlib import Path
from typing import Any

import torch

from crossmamba import __version__
from crossmamba.errors import DataError, UsageError
from crossmamba.extract.encoders import Group
from crossmamba.extract.recipes import CLIP_FRAMES, INSTANT, Recipe
from crossmamba.extract.store import part_of

__all__ = ["MANIFEST", "claim_folder", "clear_folder", "describe"]

MANIFEST = "manifest.json"
_FORMAT = 1
_FREE = ("made", "crossmamba_version", "torch_version")  # may differ between two runs into one folder


def describe(
    group: Group, recipe: Recipe, row: tuple[int, ...], settings: dict[str, Any], dtype: str = "float32"
) -> dict[str, Any]:
    """The manifest of a feature.

    Args:
        row: shape of one second's row; () for frames.
        settings: of the run, as far as they change the values.
        dtype: of the files' numbers.
    """
    return {
        "format_version": _FORMAT,
        "feature": recipe.name,
        "encoder": recipe.encoder or None,
        "output": recipe.output,
        "weights": group.weights.get("source"),
        "weights_sha256": group.weights.get("sha256"),
        "row": list(row),
        "dtype": "jpeg" if recipe.source == "frames" else dtype,
        "transform": group.transform.describe() if group.transform is not None else None,
        "rows": _rows(recipe),
        "settings": settings,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "crossmamba_version": __version__,
        "torch_version": str(torch.__version__),
    }


def _rows(recipe: Recipe) -> str:
    return {
        "sound": "row t: the first 0.975 s of the sound from t s on",
        "picture": f"row t: the picture on display at t + {INSTANT} s",
        "frames": f"file t + 1: the picture on display at t + {INSTANT} s",
        "motion": f"row t: {CLIP_FRAMES} pictures evenly over [t, t + 1) s",
        "text": "one text a row",
        "clip": "one token of the segment a row",
    }[recipe.source]


def claim_folder(folder: Path, wanted: dict[str, Any]) -> None:
    """Writes the folder's manifest, or checks that the one that is there says the same.

    Raises:
        UsageError: files of another making are there.
        DataError: the manifest cannot be read or written.
    """
    path = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            others = _files(folder)
            if others and not path.exists():  # asked again: another process may have begun in between
                raise UsageError(
                    f"{folder}: holds {len(others)} files ({others[0]}, ...) and no {MANIFEST}, so how they were "
                    "made is not known: choose another --out, or give --overwrite to delete and make them again"
                )
            part = part_of(path)
            part.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
            try:
                os.link(part, path)  # fails if another process has just written its own
                return
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links: two processes write the same, the last one stays
                os.replace(part, path)
            finally:
                part.unlink(missing_ok=True)
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise DataError(f"{path}: cannot be read or written ({error})") from error
    if not isinstance(there, dict):
        raise DataError(f"{path}: holds no object; delete it together with the folder's files")
    differing = [
        f"{key} {there.get(key)!r} there, {wanted.get(key)!r} now"
        for key in dict.fromkeys([*wanted, *there])
        if key not in _FREE and key != "weights" and there.get(key) != wanted.get(key)
    ]
    if differing:
        raise UsageError(
            f"{folder}: its files were made in another way ({'; '.join(differing)}), and two ways in one folder could "
            "not be told apart: choose another --out, or give --overwrite to delete and make them again"
        )


def _files(folder: Path) -> list[str]:
    """Feature files and folders of frames in a folder, sorted; hidden names do not count."""
    return sorted(entry.name for entry in os.scandir(folder) if _is_feature(entry))


def _is_feature(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and (entry.name.endswith(".npy") or entry.is_dir(follow_symlinks=False))


def clear_folder(folder: Path) -> None:
    """Deletes a folder's features (`.npy` files, folders of numbered `.jpg`) and its manifest; other files stay.

    Raises:
        DataError: the disk refused.
    """
    try:
        if not folder.is_dir():
            return
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in _files(folder):
            path = folder / name
            if not path.is_dir():
                path.unlink()
                continue
            for picture in path.glob("[0-9]*.jpg"):
                picture.unlink()
            if not any(path.iterdir()):
                path.rmdir()
    except OSError as error:
        raise DataError(f"{folder}: cannot be cleared ({error})") from error
