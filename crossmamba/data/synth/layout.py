"""Where each file of a synthetic set lies: the official layout of AVSBench S4 and MS3 (spec §2.2, §2.3).

    MS3  Multi-sources/ms3_meta_data.csv                              video_id,split
         Multi-sources/ms3_data/visual_frames/{id}/{id}.mp4_{k}.png   no split folder, and `.mp4` inside the name
         Multi-sources/ms3_data/{gt_masks,audio_wav,audio_log_mel,scene_truth}/{split}/{id}...
         Multi-sources/ms3_data/raw_videos/{id}.mp4
    S4   Single-source/s4_meta_data.csv                               name,start_time,category,split
         Single-source/s4_data/{visual_frames,gt_masks,...}/{split}/{category}/{name}...   train has mask 1 only

`scene_truth` and `world.json` (beside the csv) are this project's additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crossmamba.errors import DataError, UsageError

_FOLDERS = {"s4": ("Single-source", "s4"), "ms3": ("Multi-sources", "ms3")}


@dataclass(frozen=True)
class ClipPaths:
    """The files of one clip. `video` and `log_mel` exist where they were asked for."""

    frames: tuple[Path, ...]
    masks: tuple[Path, ...]
    wav: Path
    truth: Path
    video: Path
    log_mel: Path


def subset_name(subset: str) -> str:
    """`"s4"` or `"ms3"`, from either that or `"avsbench-s4"`, `"avsbench-ms3"`.

    Raises:
        UsageError: any other name.
    """
    short = subset.removeprefix("avsbench-")
    if short not in _FOLDERS:
        raise UsageError(f"subset {subset!r} does not exist; there are avsbench-s4 and avsbench-ms3.")
    return short


@dataclass(frozen=True)
class Layout:
    """Paths of one subset.

    Attributes:
        base: the folder `Single-source` or `Multi-sources`.
        subset: s4 or ms3.
    """

    base: Path
    subset: str

    @classmethod
    def under(cls, root: str | Path, subset: str) -> Layout:
        """The layout in a folder that holds `Single-source` or `Multi-sources`, made or not."""
        short = subset_name(subset)
        return cls(Path(root) / _FOLDERS[short][0], short)

    @classmethod
    def find(cls, root: str | Path, subset: str) -> Layout:
        """The layout of an existing set; `root` holds `Single-source` or `Multi-sources`, or is that folder.

        Raises:
            DataError: neither is there.
        """
        layout = cls.under(root, subset)
        for base in (layout.base, Path(root)):
            found = cls(base, layout.subset)
            if found.data.is_dir():
                return found
        raise DataError(
            f"{root}: no {layout.base.name}/{layout.data.name} here; "
            f"`crossmamba data synth avsbench-{layout.subset} {root}` makes one."
        )

    @property
    def csv(self) -> Path:
        """The index of clips."""
        return self.base / f"{self.subset}_meta_data.csv"

    @property
    def settings(self) -> Path:
        """What was rendered: all settings of the world and the call."""
        return self.base / "world.json"

    @property
    def data(self) -> Path:
        """The folder of everything but the index."""
        return self.base / f"{self.subset}_data"

    def truth_folder(self, split: str) -> Path:
        """Holds one json per clip of the split, in S4 within a folder per category."""
        return self.data / "scene_truth" / split

    def clip(self, split: str, category: str, name: str, seconds: int) -> ClipPaths:
        """The files of a clip."""
        data, single = self.data, self.subset == "s4"
        place = Path(split, category) if single else Path(split)
        frames = data / "visual_frames" / (place / name if single else name)
        stem = name if single else f"{name}.mp4"
        annotated = 1 if single and split == "train" else seconds
        return ClipPaths(
            frames=tuple(frames / f"{stem}_{k}.png" for k in range(1, seconds + 1)),
            masks=tuple(data / "gt_masks" / place / name / f"{name}_{k}.png" for k in range(1, annotated + 1)),
            wav=data / "audio_wav" / place / f"{name}.wav",
            truth=data / "scene_truth" / place / f"{name}.json",
            video=data / "raw_videos" / (place if single else "") / f"{name}.mp4",
            log_mel=data / "audio_log_mel" / place / f"{name}.pkl",
        )
