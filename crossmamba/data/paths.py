"""Paths built from names in annotation files, kept under their root.

An annotation file is untrusted text: a clip called `../../etc/passwd` must not be opened. The check is on the words
(no separators, no `..`, no absolute paths). Symbolic links below the root are followed, because whoever placed them
owns the disk: data sets are often linked together from several of them.
"""

from __future__ import annotations

from pathlib import Path

from crossmamba.errors import DataError

__all__ = ["join_under", "safe_name"]

_LONGEST_NAME = 200  # bytes; file systems allow 255 and the layouts append `.mp4_10.png`


def safe_name(name: str, where: str) -> str:
    """`name` itself, if it can be one component of a path.

    Args:
        name: a clip id or category as an annotation file gives it.
        where: what the message starts with, such as `index.csv:12`.

    Raises:
        DataError: the name is empty, too long, `.` or `..`, or holds a separator or a control character.
    """
    if not name or name in {".", ".."} or any(c in "/\\" or ord(c) < 32 or ord(c) == 127 for c in name):
        raise DataError(f"{where}: {name!r} cannot be used as a file name: it must be one plain path component")
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
        raise DataError(f"{where}: the name {name[:40]!r}... is longer than {_LONGEST_NAME} bytes")
    return name


def join_under(root: Path, *names: str) -> Path:
    """`root / names[0] / names[1] ...`, where each name is one plain component.

    Raises:
        DataError: a name would leave `root` (see `safe_name`).
    """
    return root.joinpath(*(safe_name(name, str(root)) for name in names))
