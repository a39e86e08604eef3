"""A kitchen of a few segments with clips, random tokens and questions, and the arguments of a run of seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from crossmamba.cli import main
from crossmamba.data.epic.annotations import read_rows
from crossmamba.data.synth.kitchen import synthesize_epic100

# Make configs/action/demo_kitchen*.yaml runs of seconds.
COMMON = (
    "--model.warmup_epochs 0.5 --data.batch_size 2 --trainer.max_epochs 2 --trainer.limit_train_batches 3 "
    "--trainer.enable_progress_bar false --run.log_every 1 --data.segments 8"
)  # 2 epochs x 3 steps
CLIPS = f"{COMMON} --data.frames 2 --data.image_size 32 --data.jitter [32,36]"
TOKENS = COMMON
FILES = {"train": "EPIC_100_train", "validation": "EPIC_100_validation", "test": "truth/EPIC_100_test"}


def make_set(root: Path) -> Path:
    """8 videos or fewer of 32 pixels, with `tokens_small_video` (and for anticipation) and oracle questions."""
    videos = {"train": 2, "val": 1, "test": 1}
    synthesize_epic100(root, videos=videos, size=32, segments=5, workers=1, progress=False)
    random = np.random.default_rng(0)
    (root / "questions" / "oracle").mkdir(parents=True)
    for split, name in FILES.items():
        for row in read_rows(root / f"{name}.csv", verbs=12, nouns=16):
            for folder in ("tokens_small_video", "tokens_small_video_anticipation"):
                (root / folder).mkdir(exist_ok=True)
                tokens = random.standard_normal((6, 64)).astype(np.float32)
                np.save(root / folder / f"{row.narration_id}.npy", tokens)
        out = root / "questions" / "oracle" / f"{split}.jsonl"
        made = ["questions", "make", "--annotations", str(root / f"{name}.csv"), "--classes", str(root)]
        assert main([*made, "--source", "oracle", "--out", str(out)]) == 0
    return root
