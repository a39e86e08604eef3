"""Pictures that were taken out of the videos before: one JPEG a second in a folder of each video (spec §3.3).

    root/avqa-frames-1fps/<video_id>/000001.jpg, 000002.jpg, ...       picture i + 1 is second i

`crossmamba data extract --features frames` makes them. Like stored features, at most 60 count.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from crossmamba.data.images import read_frame
from crossmamba.data.media import ShownFrame
from crossmamba.data.paths import join_under
from crossmamba.data.qa.features import MAX_SECONDS
from crossmamba.errors import DataError

__all__ = ["FRAME_FILES", "FrameFiles"]

FRAME_FILES = "frame_files"
FOLDER = "avqa-frames-1fps"
_NAME = re.compile(r"(\d{6})\.jpg")


class FrameFiles:
    """Reads like `features.FeatureStore`; a second is a picture (3, S, S), as raw videos give it.

    Args:
        root: the set's folder.
        side: S in pixels; pictures are squeezed to a square, as those of raw videos.
        mean, std: pictures in [0, 1] are normalised with these.
        folder: below `root`, or an absolute path; None takes `avqa-frames-1fps`.

    Raises:
        DataError: there is no such folder.
    """

    name = FRAME_FILES

    def __init__(
        self, root: str | Path, side: int, mean: Sequence[float], std: Sequence[float], folder: str | Path | None = None
    ) -> None:
        self.folder, self.side = Path(root) / (FOLDER if folder is None else folder), side
        self._mean, self._std = (np.array(values, np.float32)[:, None, None] for values in (mean, std))
        if not self.folder.is_dir():
            raise DataError(
                f"{self.folder}: no folder of frames; make it with `crossmamba data extract --features frames`"
            )

    def path(self, item: str | int) -> Path:
        """The folder of a video."""
        return join_under(self.folder, str(item))

    def missing(self, items: Iterable[str | int]) -> list[str]:
        """The videos that have no folder."""
        return [str(item) for item in items if not self.path(item).is_dir()]

    def rows(self, item: str | int) -> int:
        """Number of pictures that count, at most 60.

        Raises:
            DataError: no folder, no picture, or a number is left out.
        """
        folder = self.path(item)
        try:
            numbers = sorted(int(found[1]) for name in os.listdir(folder) if (found := _NAME.fullmatch(name)))
        except OSError as error:
            raise DataError(f"{folder}: there is no such folder of frames") from error
        if not numbers or numbers != list(range(1, len(numbers) + 1)):
            lacking = next(number for number in range(1, len(numbers) + 2) if number not in numbers)
            raise DataError(f"{folder}: there is no {lacking:06d}.jpg; extract the frames of this video again")
        return min(len(numbers), MAX_SECONDS)

    def load(self, item: str | int, rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Pictures of a video, float32 (T, 3, S, S); of these seconds, or all.

        Raises:
            DataError: as `rows`; or a picture is damaged, too large, or not there.
        """
        used = self.rows(item)
        wanted = np.arange(used) if rows is None else rows
        if len(wanted) and int(wanted.max()) >= used:
            raise DataError(f"{self.path(item)}: {used} frames; frame {int(wanted.max()) + 1} is wanted")
        pictures = np.stack([self._picture(self.path(item) / f"{row + 1:06d}.jpg") for row in wanted.tolist()])
        values = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255
        return np.asarray((values - self._mean) / self._std, dtype=np.float32)

    def _picture(self, path: Path) -> NDArray[np.uint8]:
        """uint8 (S, S, 3), scaled by FFmpeg as the pictures of raw videos are."""
        frame = av.VideoFrame.from_ndarray(read_frame(path), format="rgb24")
        return ShownFrame(0.0, 0.0, frame).rgb((self.side, self.side))
