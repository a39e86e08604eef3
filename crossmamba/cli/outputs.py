"""Folders that commands write results to: never over others' files, every file whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from crossmamba.errors import UsageError


def check_folder(folder: Path, overwrite: bool) -> None:
    """Raises UsageError if `folder` is a file, or not empty and not to be overwritten."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder} is a file; name a folder.")
    if not overwrite and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"--out {folder} is not empty; name another folder, or give --overwrite to replace results in it."
        )


def clear(folder: Path, names: Iterable[str]) -> None:
    """Removes the results of an earlier run, files or folders of these names (or patterns); other files stay."""
    for name in names:
        for path in folder.glob(name):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
