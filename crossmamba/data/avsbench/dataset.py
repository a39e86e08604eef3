"""AVSBench S4 and MS3 as a PyTorch data set (spec §2).

    index -> pictures, masks, log-mel (as in the files, uint8)  [kept here if `cache_in_memory`]
          -> perturbed sound -> augmentation or resize -> ImageNet normalisation -> one dict a clip

The synthetic world writes the same layout, so one loader reads both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from crossmamba.data import perturb
from crossmamba.data.augment import Augmentation, ClipTensors, resize_clip
from crossmamba.data.avsbench.files import SPLITS, AVSBenchFiles, ClipEntry, find_root, read_wav
from crossmamba.data.avsbench.logmel_file import read_log_mel
from crossmamba.data.images import read_frame, read_mask
from crossmamba.data.logmel import Framing, clip_log_mel
from crossmamba.errors import DataError, UsageError

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "SPLITS", "AVSBenchDataset", "find_root"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

AudioSource = Literal["auto", "pickle", "wav"]


class AVSBenchDataset(Dataset[dict[str, Any]]):
    """One split of S4 or MS3; item i is clip i of the split sorted by id.

    An item is a dict: `frames` float32 (T, 3, S, S), normalised; `log_mel` float32 (T, 1, 96, 64); `masks` float32
    (T, 1, S, S) in {0, 1}, zero where not annotated; `annotated` bool (T,); `clip_id` str; `index` int.

    Augmentation is a function of (seed, epoch, index) and of nothing else: neither workers, nor the order of reading,
    nor the cache change it. `set_epoch` reaches persistent workers too. Masks are resized NEAREST, frames bilinearly
    with antialiasing.

    Args:
        root: the folder that holds `Single-source/` or `Multi-sources/`, or that folder.
        subset: "s4" or "ms3".
        split: "train", "val" or "test".
        image_size: S in pixels.
        augment: see `crossmamba.data.augment`; None for evaluation.
        framing: of the log-mel: "published" (examples every 0.96 s) or "aligned" (one a second).
        audio: "pickle" reads the published log-mel (published framing only), "wav" computes it. "auto" is "pickle" if
            the framing allows it and the split's first clip has one, otherwise "wav": one choice for the whole split.
        seconds: T, frames per clip.
        seed: of augmentation and perturbation.
        cache_in_memory: keep what was read (before augmentation) after the first time. A clip of 5 frames at 64 x 64
            takes 0.2 MB, at 224 x 224 1.1 MB. Every loader worker fills a copy of its own, and loses it when it ends.
        perturbation: of the sound; see `crossmamba.data.perturb`.
        clips: at most so many, the first of the sorted split; None for all.

    Raises:
        UsageError: an argument outside what is allowed.
        DataError: the index is missing or faulty, or the split is empty. Reading an item raises it too (its subclass
            MediaError for pictures and sounds), with the clip and the file.
    """

    def __init__(
        self,
        root: str | Path,
        subset: Literal["s4", "ms3"],
        split: Literal["train", "val", "test"],
        *,
        image_size: int = 224,
        augment: Augmentation | None = None,
        framing: Framing = "published",
        audio: AudioSource = "auto",
        seconds: int = 5,
        seed: int = 0,
        cache_in_memory: bool = False,
        perturbation: perturb.Perturbation = "none",
        clips: int | None = None,
    ) -> None:
        _check(image_size, framing, audio, seconds, seed, clips)
        perturb.check_perturbation(perturbation)
        self.files = AVSBenchFiles(find_root(root, subset), subset, seconds)
        self.entries: list[ClipEntry] = self.files.read_split(split)[:clips]
        self.subset, self.split, self.seconds = subset, split, seconds
        self.image_size, self.augment, self.framing, self.seed = image_size, augment, framing, seed
        self.perturbation = perturbation
        self.audio = self._audio_source(audio)
        self._partners = self._swap_partners() if perturbation == "swap" else []
        self._clips: dict[int, ClipTensors] | None = {} if cache_in_memory else None
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # shared: persistent workers see set_epoch

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def clip_ids(self) -> list[str]:
        """The clips' names in the order of the items."""
        return [entry.clip_id for entry in self.entries]

    @property
    def epoch(self) -> int:
        """The epoch that augmentation is seeded with."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Seeds the augmentation of all items read from now on; call it before the loader's iterator is made."""
        if epoch < 0:
            raise UsageError(f"epoch is {epoch}; it must be at least 0")
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        index %= len(self)
        clip = self._perturbed(index, self._decoded(index))
        if self.augment is None:
            clip = resize_clip(clip, self.image_size)
            frames, masks = clip.frames.float().div_(255), clip.masks.float()
        else:
            clip = self.augment(clip, self.image_size, np.random.default_rng([self.seed, self.epoch, index]))
            frames, masks = clip.frames, clip.masks
        return {
            "frames": frames.sub_(_MEAN).div_(_STD),
            "log_mel": clip.log_mel.clone(),
            "masks": masks,
            "annotated": clip.annotated.clone(),
            "clip_id": self.entries[index].clip_id,
            "index": index,
        }

    def _decoded(self, index: int) -> ClipTensors:
        """The clip before augmentation, from the cache if there is one."""
        if self._clips is not None and index in self._clips:
            return self._clips[index]
        entry = self.entries[index]
        try:
            clip = self._read(entry)
        except DataError as error:
            raise type(error)(f"clip {entry.clip_id}: {error}") from error
        if self.augment is None:
            clip = resize_clip(clip, self.image_size)  # nothing after this needs the files' own size
        if self._clips is not None:
            self._clips[index] = clip
        return clip

    def _read(self, entry: ClipEntry) -> ClipTensors:
        annotated = self.files.annotated(entry)
        frames: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        for k, has_truth in enumerate(annotated, start=1):
            path = self.files.frame(entry, k)
            frames.append(read_frame(path))
            _check_size(frames[-1], frames[0], path)
            if has_truth:
                path = self.files.mask(entry, k)
                masks.append(read_mask(path))
                _check_size(masks[-1], frames[0], path)
            else:
                masks.append(np.zeros(frames[0].shape[:2], np.uint8))
        pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).contiguous()  # (T, 3, H, W)
        truth = torch.from_numpy(np.stack(masks))[:, None]  # (T, 1, H, W)
        return ClipTensors(pixels, truth, self._log_mel(entry), torch.tensor(annotated))

    def _log_mel(self, entry: ClipEntry) -> Tensor:
        if self.audio == "pickle":
            return read_log_mel(self.files.log_mel(entry), self.seconds)
        return clip_log_mel(read_wav(self.files.wav(entry), self.seconds), self.seconds, self.framing)

    def _audio_source(self, audio: AudioSource) -> Literal["pickle", "wav"]:
        if audio != "auto":
            return audio
        has_pickles = self.files.log_mel(self.entries[0]).is_file()
        return "pickle" if has_pickles and self.framing == "published" else "wav"

    def _swap_partners(self) -> list[int]:
        kinds = [entry.category or entry.clip_id for entry in self.entries]
        return perturb.derangement(kinds, self.seed)

    def _perturbed(self, index: int, clip: ClipTensors) -> ClipTensors:
        match self.perturbation:
            case "none":
                return clip
            case "silence":
                log_mel = perturb.silence(clip.log_mel)
            case "noise":
                log_mel = perturb.noise(self.seconds, self.seed, index, self.framing)
            case "shift":
                log_mel = perturb.shift(clip.log_mel)
            case "gain":
                log_mel = perturb.gain(clip.log_mel)
            case "swap":
                log_mel = self._sound_of(self._partners[index])
        return ClipTensors(clip.frames, clip.masks, log_mel, clip.annotated)

    def _sound_of(self, index: int) -> Tensor:
        if self._clips is not None:
            return self._decoded(index).log_mel
        return self._log_mel(self.entries[index])


_MEAN = torch.tensor(IMAGENET_MEAN)[:, None, None]
_STD = torch.tensor(IMAGENET_STD)[:, None, None]


def _check_size(picture: np.ndarray, first: np.ndarray, path: Path) -> None:
    (height, width), (h, w) = picture.shape[:2], first.shape[:2]
    if (height, width) != (h, w):
        raise DataError(f"{path}: {width}x{height} pixels; the clip's first frame has {w}x{h}")


def _check(image_size: int, framing: str, audio: str, seconds: int, seed: int, clips: int | None) -> None:
    if image_size < 1 or seconds < 1:
        raise UsageError(f"image_size is {image_size} and seconds {seconds}; both must be at least 1")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must be at least 0")
    if clips is not None and clips < 1:
        raise UsageError(f"clips is {clips}; give at least 1, or None for all")
    if framing not in get_args(Framing):
        raise UsageError(f"framing is {framing!r}; allowed: {', '.join(get_args(Framing))}")
    if audio not in get_args(AudioSource):
        raise UsageError(f"audio is {audio!r}; allowed: {', '.join(get_args(AudioSource))}")
    if audio == "pickle" and framing != "published":
        raise UsageError(f"framing {framing!r} is computed from wav; the published log-mel has framing 'published'")
