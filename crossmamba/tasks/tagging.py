"""Training of two small feature encoders on tags: which instruments sound in a second, which stands where.

The question answering models take stored features of encoders that were trained before and stay as they are (VGGish,
CLIP). This makes such encoders for the synthetic world, whose scene truth is known in full:

    sound    `SmallSound`, a second of log-mel -> 64 numbers; from these, linearly, which instruments sound, and the
             loudness and rhythm of each
    picture  `SmallPyramid`'s level of stride 8, a frame -> (h, w, 64); from each cell, linearly, which instrument
             stands there, and from the mean over the cells whether it is indoors

So the features' meaning comes from synthetic tags of the training split, never from questions or answers. Features
are what stands before the linear layers, which are only kept in the run's checkpoints.

Symbols: B videos, n seconds of each, N = B n, V = 44 voices (each of the 22 instruments in two sizes).
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from crossmamba.encoders import build_picture_encoder, build_sound_encoder
from crossmamba.tasks.guards import parse_policy
from crossmamba.tasks.optim import learning_rate_schedule
from crossmamba.tasks.tagging_data import NOTHING, VOICES

DIM = 64
"""Length of the feature vectors."""
WIDTHS = (32, DIM, 64, 64)
"""Channels of `SmallPyramid`; its second level has stride 8."""
LEVEL = 1
FILES = {"small_sound": "small_sound.safetensors", "small_picture": "small_picture.safetensors"}


class TaggingTask(LightningModule):
    """Both encoders in one training; nothing is shared between them.

    Args:
        learning_rate, weight_decay: of AdamW. warmup_steps: of the linear warm-up, then half a cosine down to 0.
        level_weight: of the regression of loudness and rhythm beside the tags' cross-entropy.
        nothing_weight: weight of empty cells, which are most of the picture.
        nan_policy: "stop", or "skip:N" steps that are not finite before stopping.
    """

    monitor = "val/tags"

    def __init__(
        self,
        *,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 20,
        level_weight: float = 0.5,
        nothing_weight: float = 0.3,
        nan_policy: str = "stop",
    ) -> None:
        super().__init__()
        parse_policy(nan_policy)
        self.learning_rate, self.weight_decay, self.warmup_steps = learning_rate, weight_decay, warmup_steps
        self.level_weight, self.nan_policy = level_weight, nan_policy
        self.sound = build_sound_encoder("small_sound", dim=DIM, levels=True)
        self.picture = build_picture_encoder("small_pyramid", widths=WIDTHS)
        self.sounding = nn.Linear(DIM, len(VOICES) * 3)  # logit, loudness and rhythm of each voice
        self.standing = nn.Linear(DIM, NOTHING + 1)
        self.room = nn.Linear(DIM, 2)
        weights = torch.ones(NOTHING + 1)
        weights[NOTHING] = nothing_weight
        self.register_buffer("cell_weights", weights, persistent=False)
        self._counts: dict[str, Tensor] = {}

    def forward(self, frames: Tensor, log_mel: Tensor) -> tuple[Tensor, Tensor]:
        """frames (N, 3, S, S), log_mel (N, 1, 96, 64) -> picture (N, S/8, S/8, 64), sound (N, 64)."""
        return self.picture(frames)[LEVEL].movedim(1, -1), self.sound(log_mel)

    def tags(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is said of the seconds of a batch (B videos of n seconds, N = B n).

        Returns:
            sounding (N, V) logits, levels (N, V, 2) loudness and rhythm, cells (N, h, w, V + 1) logits, room (N, 2)
            logits.
        """
        picture, sound = self(batch["frames"].flatten(0, 1), batch["log_mel"].flatten(0, 1))
        voices = self.sounding(sound).unflatten(-1, (-1, 3))  # (N, V, 3)
        return {
            "sounding": voices[..., 0],
            "levels": voices[..., 1:],
            "cells": self.standing(picture),
            "room": self.room(picture.mean((1, 2))),
        }

    def losses(self, said: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropies of the tags, and the squared error of loudness and rhythm where something sounds."""
        true = _folded(batch)
        heard = true["sounding"][..., None]
        error = (said["levels"] - true["levels"]).square() * heard
        cells = F.cross_entropy(said["cells"].flatten(0, 2), true["cells"].flatten(), self.cell_weights)
        return {
            "sounding": 10 * F.binary_cross_entropy_with_logits(said["sounding"], true["sounding"]),
            "levels": self.level_weight * error.sum() / heard.sum().clamp(min=1),
            "cells": cells,
            "room": F.cross_entropy(said["room"], true["room"]),
        }

    # Steps
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        parts = self.losses(self.tags(batch), batch)
        loss = torch.stack(list(parts.values())).sum()
        size = len(batch["index"])
        self.log("train/loss", loss.detach(), batch_size=size)
        for name, part in parts.items():
            self.log(f"train/loss_{name}", part.detach(), batch_size=size)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        said = self.tags(batch)
        for name, value in count_right(said, batch).items():
            self._counts[name] = self._counts.get(name, torch.zeros_like(value)) + value

    def on_validation_epoch_end(self) -> None:
        scores = rates(self._counts)
        self._counts = {}
        for name, value in scores.items():
            self.log(f"val/{name}", value, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        total = self.trainer.datamodule.total_steps
        schedule = learning_rate_schedule(optimizer, "cosine", warmup_steps=self.warmup_steps, total_steps=total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # The trained encoders
    def export_model(self, folder: Path, metrics: dict[str, float]) -> None:
        """Writes both encoders as safetensors, for `crossmamba data extract --weights`, and `tags.json` about them."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, encoder in (("small_sound", self.sound), ("small_picture", self.picture)):
            part = folder / f".{FILES[name]}.part"
            save_file({key: value.contiguous().cpu() for key, value in encoder.state_dict().items()}, part)
            os.replace(part, folder / FILES[name])
        scores = {name: value for name, value in metrics.items() if name.startswith("val/") and math.isfinite(value)}
        card = {
            "trained_on": self.trainer.datamodule.describe(),
            "step": self.trainer.global_step,
            "scores": {name.removeprefix("val/"): value for name, value in scores.items()},
        }
        part = folder / ".tags.json.part"
        part.write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        os.replace(part, folder / "tags.json")


def _folded(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The truth of a batch with (B, n) folded into N."""
    return {key: batch[key].flatten(0, 1) for key in ("sounding", "levels", "cells", "room")}


def count_right(said: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Counts of a batch as (right, all), to be added up; see `rates`."""
    true = _folded(batch)
    heard, claimed = true["sounding"].bool(), said["sounding"] > 0
    cells = said["cells"].argmax(-1)
    occupied = true["cells"] != NOTHING
    near = ((said["levels"] - true["levels"]).abs() < 0.5) & heard[..., None]

    def pair(right: Tensor, total: Tensor | int) -> Tensor:
        return torch.stack([right.sum().double(), torch.as_tensor(total, device=right.device).double()])

    return {
        "sounding": pair(2 * (heard & claimed), heard.sum() + claimed.sum()),
        "seconds": pair((heard == claimed).all(-1), len(heard)),
        "loudness": pair(near[..., 0], heard.sum()),
        "rhythm": pair(near[..., 1], heard.sum()),
        "cells": pair((cells == true["cells"]) & occupied, (occupied | (cells != NOTHING)).sum()),
        "room": pair(said["room"].argmax(-1) == true["room"], len(true["room"])),
    }


def rates(counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores of counts, all from 0 to 1.

    Returns: `sounding` (F-score of the voices of all seconds), `seconds` (share with all voices right), `loudness` and
        `rhythm` (share of the sounding voices nearer to the true level than to the next), `cells` (overlap of the true
        and the claimed cells of instruments, the right kind and size only), `room` (share right), and `tags`, the mean
        of these without `seconds`.
    """
    scores = {name: (right / total.clamp(min=1)).float() for name, (right, total) in counts.items()}
    return {**scores, "tags": torch.stack([value for name, value in scores.items() if name != "seconds"]).mean()}
