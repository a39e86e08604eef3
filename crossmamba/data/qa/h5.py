"""AVQA's published .h5 features (spec §3.2), read if the package h5py is installed.

| name | data set in the file | shape | as read |
|---|---|---|---|
| h5_audio | vlaudio_features | (N, 2048) | (8, 2048): PANNs' one vector a clip, repeated |
| h5_appearance | resnet_features | (N, 8, 16, 2048) | (8, 2048): the mean over the 16 frames of each part |
| h5_motion | resnext_features | (N, 8, 2048) | (8, 2048) |

A clip has 8 parts, so T is at most 8. `ids` (N,) gives the `video_id` of each row.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossmamba.errors import DataError, UsageError

__all__ = ["H5_FEATURES", "PARTS", "H5Store"]

PARTS = 8
H5_FEATURES: dict[str, tuple[str, str, tuple[int, ...]]] = {
    "h5_audio": ("audio", "vlaudio_features", (2048,)),
    "h5_appearance": ("visual", "resnet_features", (PARTS, 16, 2048)),
    "h5_motion": ("visual", "resnext_features", (PARTS, 2048)),
}
"""Name -> (modality, data set in the file, shape of one row)."""


class H5Store:
    """One kind of .h5 feature; reads like `features.FeatureStore`.

    Args:
        root: the set's folder; the file is the only .h5 in it, or one folder below, that holds the data set.
        name: see `H5_FEATURES`.
        numbers: video name -> the number by which `ids` knows it.
        file: the .h5 file; None looks for it.

    Raises:
        UsageError: an unknown name, or h5py is not installed.
        DataError: no file, or several, hold the data set; or it has another shape.
    """

    def __init__(self, root: str | Path, name: str, numbers: Mapping[str, int], file: str | Path | None = None) -> None:
        if name not in H5_FEATURES:
            raise UsageError(f"{name!r} is no kind of .h5 feature; known: {', '.join(H5_FEATURES)}")
        self.name, self.numbers = name, numbers
        self.of, self.key, self.shape = H5_FEATURES[name]
        h5py = _h5py(name)
        self.file = self._find(h5py, Path(root)) if file is None else Path(file)
        with _opened(h5py, self.file) as content:
            self._check(content)
            self._row = {int(number): row for row, number in enumerate(np.asarray(content["ids"]).ravel())}
        self._open: tuple[int, Any] | None = None

    def _find(self, h5py: Any, root: Path) -> Path:
        found = []
        for path in sorted([*root.glob("*.h5"), *root.glob("*/*.h5")]):
            with _opened(h5py, path) as content:
                if self.key in content:
                    found.append(path)
        if len(found) != 1:
            where = ", ".join(map(str, found)) or "none"
            raise DataError(f"{root}: one .h5 file with {self.key!r} is needed for {self.name}; found: {where}")
        return found[0]

    def _check(self, content: Any) -> None:
        for key in (self.key, "ids"):
            if key not in content:
                raise DataError(f"{self.file}: there is no data set {key!r} in it")
        shape = tuple(content[self.key].shape)
        if shape[1:] != self.shape or len(content["ids"]) != shape[0]:
            wanted = "(N, " + ", ".join(map(str, self.shape)) + ")"
            raise DataError(f"{self.file}: {self.key} is {shape} for {len(content['ids'])} ids; expected {wanted}")

    def path(self, item: str | int) -> str:
        """Where a video's features are, for messages."""
        return f"{self.file}[{self.key!r}], video {item}"

    def missing(self, items: Iterable[str | int]) -> list[str]:
        """The videos that the file does not hold."""
        return [str(item) for item in items if self.numbers.get(str(item)) not in self._row]

    def rows(self, item: str | int) -> int:
        """T: 8."""
        return PARTS

    def load(self, item: str | int, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """The features of a video, float32 (T, 2048).

        Raises:
            DataError: the file does not hold it, or it holds NaN or infinity.
        """
        number = self.numbers.get(str(item))
        if number is None or number not in self._row:
            raise DataError(f"{self.path(item)}: `ids` has no number {number}")
        values = np.asarray(self._content()[self.key][self._row[number]], dtype=np.float32)
        if not np.isfinite(values).all():
            raise DataError(f"{self.path(item)}: values are NaN or infinite")
        if self.name == "h5_audio":
            values = np.repeat(values[None], PARTS, axis=0)
        elif self.name == "h5_appearance":
            values = values.mean(axis=1)
        return values if rows is None else values[rows]

    def _content(self) -> Any:
        """The opened file; each process opens its own, since HDF5 handles do not survive a fork."""
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), _opened(_h5py(self.name), self.file))
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


def _h5py(name: str) -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise UsageError(
            f"{name} features are .h5 files: install h5py (pip install h5py), or use .npy features such as vggish"
        ) from error


def _opened(h5py: Any, path: Path) -> Any:
    try:
        return h5py.File(path, "r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as HDF5 ({error})") from error
