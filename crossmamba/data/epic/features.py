"""Stored tokens of a frozen video encoder: one file a segment, named by its narration id (spec §3.3, layout 5).

    ROOT/P01_01_0.npy                float32 or float16 (L, d)
    ROOT/P01_01_0.safetensors        the same under the name `tokens`

`crossmamba data extract` makes them, and a manifest.json that says of which task: tokens of the actions themselves must
never be given to anticipation. They may lie in ROOT/{split}/ or ROOT/{participant}/ too.

MambaVL's own `{split}/{index}.pkl` are pickles, which can run code, named by a row number that changes with every edit
of the csv: they are not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossmamba.data.epic.annotations import EpicRow
from crossmamba.data.paths import join_under
from crossmamba.errors import DataError, UsageError

__all__ = ["FeatureClips"]

_ENDINGS = (".npy", ".safetensors")
_KEY = "tokens"


class FeatureClips:
    """Tokens of segments.

    Args:
        root: see the module.
        split: also looked for in this folder below it.

    Attributes:
        manifest: what manifest.json says; empty without that file.

    Raises:
        DataError: there is no such folder, or its manifest is damaged.
    """

    layout = "features"

    def __init__(self, root: str | Path, split: str | None = None) -> None:
        self.root, self.split = Path(root), split
        if not self.root.is_dir():
            raise DataError(f"{root}: there is no such folder of stored features")
        self.manifest = _manifest(self.root / "manifest.json")

    def check_task(self, task: str) -> None:
        """Refuses tokens of another task; nothing is known of a folder without manifest.

        Raises:
            UsageError: the manifest names another task.
        """
        settings = self.manifest.get("settings")
        made = settings.get("task") if isinstance(settings, dict) else None
        if made is not None and made != task:
            raise UsageError(
                f"{self.root}: these tokens were made for {made} (manifest.json), not for {task}: the pictures are of "
                f"another time. Make them with `crossmamba data extract ... --task {task}`"
            )

    def path(self, row: EpicRow) -> Path:
        """The file of a row; the first place if it is nowhere."""
        folders = [self.root, *([join_under(self.root, self.split)] if self.split else [])]
        folders.append(join_under(self.root, row.participant_id))
        places = [join_under(folder, row.narration_id + ending) for folder in folders for ending in _ENDINGS]
        return next((place for place in places if place.is_file()), places[0])

    def read(self, row: EpicRow) -> Tensor:
        """Tokens of a segment, float32 (L, d).

        Raises:
            DataError: missing, damaged, of another shape or type, or not finite; file and narration are named.
        """
        path = self.path(row)
        where = f"{path}: narration {row.narration_id}"
        try:
            tokens = _read(path)
        except FileNotFoundError as error:
            pickled = " (pickles such as 0.pkl are not read)" if any(self.root.rglob("*.pkl")) else ""
            raise DataError(f"{where}: there is no such feature file{pickled}") from error
        except Exception as error:  # damaged files raise many kinds
            raise DataError(f"{where}: cannot be read ({str(error)[:200]}); extract this segment again") from error
        if tokens.ndim != 2 or not tokens.is_floating_point() or not len(tokens):
            raise DataError(f"{where}: {tokens.dtype} of shape {tuple(tokens.shape)}; expected floats (tokens, width)")
        tokens = tokens.float()
        if not torch.isfinite(tokens).all():
            raise DataError(f"{where}: values are NaN or infinite; extract this segment again")
        return tokens

    def missing(self, rows: Iterable[EpicRow]) -> list[str]:
        """Files that lack for these rows."""
        return [str(path) for path in map(self.path, rows) if not path.is_file()]


def _manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; expected an object")
    return content


def _read(path: Path) -> Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.load(path, allow_pickle=False).copy())
    if not path.is_file():
        raise FileNotFoundError(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.get_tensor(_KEY)
