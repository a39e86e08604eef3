"""The log of an extraction: a line of JSON for each thing that could not be made; many processes write to it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossmamba.errors import DataError

__all__ = ["clear_log", "read_log", "write_log"]


def clear_log(log: Path) -> None:
    """Removes the log of an earlier run and makes its folder.

    Raises:
        DataError: the disk refused.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{log}: cannot be written ({error})") from error


def write_log(log: Path, video: str, message: str, features: Sequence[str], file: Path | None = None) -> None:
    """Appends a line to the log, in one call, so that the lines of several processes do not mix.

    Args:
        video: its id, or the segment's. file: of the video, where there is one.
        message: what happened. features: kinds that were not made because of it.

    Raises:
        DataError: the disk refused.
    """
    path = None if file is None else str(file)
    entry = {"video": video, "file": path, "features": list(features), "message": message}
    try:
        with log.open("ab", buffering=0) as lines:
            lines.write((json.dumps(entry) + "\n").encode())
            os.fsync(lines.fileno())
    except OSError as error:
        raise DataError(f"{log}: cannot be written ({error})") from error


def read_log(log: Path) -> list[dict[str, Any]]:
    """The log's entries, sorted by video and message."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return sorted(entries, key=lambda entry: (entry["video"], entry["message"]))
