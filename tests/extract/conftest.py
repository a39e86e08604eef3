"""Small videos, and small encoders with random weights in the files that training writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from crossmamba.data.media import write_video
from crossmamba.encoders import build_picture_encoder, build_sound_encoder

FPS = 8
LEVELS = (30, 90, 150, 210)


def coded(second: float) -> int:
    """Grey level on display at a time: it changes 0.4 s into each second, so it tells t from t + 0.5."""
    return LEVELS[int(second + 0.6 + 1e-6) % len(LEVELS)]


def coded_video(path: Path, seconds: float, *, sound: bool = True, fps: int = FPS, tone: int | None = None) -> Path:
    """Grey pictures that code the second (see `coded`); noise as sound, or a tone in second `tone` only."""
    times = np.arange(round(seconds * fps)) / fps
    frames = (np.full((48, 64, 3), coded(float(time)), np.uint8) for time in times)
    samples = np.arange(round(seconds * 16000))
    if tone is None:
        wave = 0.1 * np.random.default_rng(0).standard_normal(len(samples))
    else:
        wave = 0.5 * np.sin(0.3 * samples) * (samples // 16000 == tone)
    write_video(path, frames, fps, audio=wave.astype(np.float32) if sound else None)
    return path


@pytest.fixture(scope="session")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Both small encoders' files in one folder, as a training run leaves them; `other` holds different ones."""
    sources = {}
    for name, seed in (("run", 1), ("other", 2)):
        folder = tmp_path_factory.mktemp(name) / "model"
        folder.mkdir()
        torch.manual_seed(seed)
        for encoder, file in (
            (build_sound_encoder("small_sound", dim=64), "small_sound.safetensors"),
            (build_picture_encoder("small_pyramid", widths=(8, 64, 8, 8), stem_width=8), "small_picture.safetensors"),
        ):
            save_file(encoder.state_dict(), folder / file)
        sources[name] = str(folder.parent)
    return sources


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set's root with four videos of 3 s; nobody writes into it."""
    root = tmp_path_factory.mktemp("set")
    for number in range(4):
        coded_video(root / "videos" / f"{number:08d}.mp4", 3.0)
    return root
