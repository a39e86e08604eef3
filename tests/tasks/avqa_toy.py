"""A question-answering set of random small features in MUSIC-AVQA's layout, every type of question in every split."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

from crossmamba.data.qa.templates import SLOTS, TEMPLATES, answers_of

# Arguments that make configs/avqa/demo_av_mamba.yaml a run of a second.
TINY = (
    "--model.model_args.width 16 --model.model_args.cm_width 16 --model.model_args.d_state 2 --model.warmup_steps 2 "
    "--data.frames 3 --data.batch_size 6 --data.questions_per_video 2 --trainer.max_epochs 2 "
    "--trainer.enable_progress_bar false --trainer.limit_train_batches 3 --run.log_every 1"
)  # 2 epochs x 3 steps


def make_set(root: Path, *, videos: int = 4, seconds: int = 4, seed: int = 0, extra_rows: bool = False) -> Path:
    """Every template once for each split; the splits share no video."""
    rng, numbers = random.Random(seed), np.random.default_rng(seed)
    question = 0
    (root / "json_update").mkdir(parents=True)
    for split in ("train", "val", "test"):
        rows = []
        names = [f"{split}{number:03d}" for number in range(videos)]
        for template in TEMPLATES:
            values = [rng.choice(SLOTS[slot]) for slot in template.slots]
            rows.append(
                {
                    "video_id": names[question % videos],
                    "question_id": question,
                    "type": json.dumps([template.modality, template.kind]),
                    "question_content": template.text,
                    "templ_values": json.dumps(values),
                    "question_deleted": 0,
                    "anser": rng.choice(answers_of(template.answers)),
                }
            )
            question += 1
        (root / "json_update" / f"avqa-{split}.json").write_text(json.dumps(rows))
        for name in names:
            write_features(root, name, numbers, seconds)
    return root


def write_features(root: Path, name: str, numbers: np.random.Generator, seconds: int) -> None:
    for folder, shape in (("small_sound", (64,)), ("small_picture", (4, 4, 64))):
        (root / folder).mkdir(exist_ok=True)
        values = numbers.standard_normal((seconds, *shape)).astype(np.float32)
        np.save(root / folder / f"{name}.npy", values)
