"""Segments and scores for the tests of EPIC-KITCHENS-100's metrics."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass(frozen=True)
class Row:
    """A segment with what the metrics need of it."""

    narration_id: str
    participant_id: str = "P01"
    verb_class: int | None = 0
    noun_class: int | None = 0


def made_rows(count: int, verbs: int = 97, nouns: int = 300, seed: int = 0) -> list[Row]:
    """Segments with random classes, of participants P01 to P04 in turn."""
    random = np.random.default_rng(seed)
    classes = zip(random.integers(0, verbs, count), random.integers(0, nouns, count), strict=True)
    return [Row(f"P0{i % 4 + 1}_01_{i}", f"P0{i % 4 + 1}", int(v), int(n)) for i, (v, n) in enumerate(classes)]


def wave(rows: int, classes: int) -> NDArray[np.float64]:
    """Scores of the dossier's golden formula, float64 (rows, classes)."""
    i = np.arange(rows, dtype=np.float64)[:, None]
    c = np.arange(classes, dtype=np.float64)[None] ** 1.5
    return sum(np.sin((0.7 + 0.31 * k) * i + (1.3 + 0.47 * k) * c + k) for k in range(6))


def real_folder() -> Path:
    """The real annotation files: `CROSSMAMBA_EPIC100`, or epic_kitchens_100/ in `CROSSMAMBA_REAL_DATA`; else skips."""
    named = os.environ.get("CROSSMAMBA_EPIC100")
    if named is None and (data := os.environ.get("CROSSMAMBA_REAL_DATA")):
        named = str(Path(data, "epic_kitchens_100"))
    if named is None:
        pytest.skip("set CROSSMAMBA_REAL_DATA to the folder that holds epic_kitchens_100/")
    return Path(named)
