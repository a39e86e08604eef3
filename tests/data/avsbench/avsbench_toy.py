"""A few clips in AVSBench's layout, written by hand: what the loader and the checker are tested on."""

from __future__ import annotations

import pickle
import wave
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SIDE, SECONDS = 12, 5
CATEGORIES = ("dog", "violin", "helicopter")
SPLITS = {"train": 3, "val": 2, "test": 2}


def save_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_wav(path: Path, samples: np.ndarray, rate: int = 16000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())


def save_pickle(path: Path, tensor: torch.Tensor) -> None:
    """As the official preprocessing does: a plain pickle of a tensor that requires grad."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tensor.clone().requires_grad_()))


def frame_of(clip: int, k: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng([clip, k]).integers(0, 256, (side, side, 3), dtype=np.uint8)


def mask_of(clip: int, k: int, side: int = SIDE) -> np.ndarray:
    """0 and 1; second 2 is black."""
    mask = np.zeros((side, side), np.uint8)
    if k != 2:
        mask[clip % 4 : clip % 4 + 5, k : k + 4] = 1
    return mask


def log_mel_of(clip: int) -> torch.Tensor:
    return torch.randn(SECONDS, 1, 96, 64, generator=torch.Generator().manual_seed(clip))


def sound_of(clip: int, seconds: float = SECONDS) -> np.ndarray:
    time = np.arange(int(seconds * 16000)) / 16000
    return 0.3 * np.sin(2 * np.pi * (300 + 100 * clip) * time)


def make_root(root: Path, subset: str, *, pickles: bool = True, wavs: bool = True) -> Path:
    """Writes 3 + 2 + 2 clips and returns `root`, which then holds `Single-source` or `Multi-sources`.

    Ids descend while the index ascends, so that a loader which does not sort is found out.
    """
    home = root / {"s4": "Single-source", "ms3": "Multi-sources"}[subset]
    data = home / f"{subset}_data"
    rows = ["name,start_time,category,split" if subset == "s4" else "video_id,split"]
    clip = 0
    for split, count in SPLITS.items():
        for i in range(count):
            name, category = f"id{9 - clip}_0_5000", CATEGORIES[i % 3]
            place = Path(split, category) if subset == "s4" else Path(split)
            rows.append(f"{name},0,{category},{split}" if subset == "s4" else f"{name},{split}")
            stem = name if subset == "s4" else f"{name}.mp4"
            folder = data / "visual_frames" / (place / name if subset == "s4" else name)
            for k in range(1, SECONDS + 1):
                save_png(folder / f"{stem}_{k}.png", frame_of(clip, k))
                if not (subset == "s4" and split == "train" and k > 1):
                    save_png(data / "gt_masks" / place / name / f"{name}_{k}.png", mask_of(clip, k) * 255)
            if pickles:
                save_pickle(data / "audio_log_mel" / place / f"{name}.pkl", log_mel_of(clip))
            if wavs:
                save_wav(data / "audio_wav" / place / f"{name}.wav", sound_of(clip))
            clip += 1
    (home / f"{subset}_meta_data.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root
