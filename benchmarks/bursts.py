"""Models trained on the world of bursts, scored apart where the sound is heard and where noise hides it.

    python benchmarks/avs_synthetic.py --world bursts --steps 1200 --fusion scan film none --no-control --name bursts
    python benchmarks/bursts.py runs/benchmark/bursts-seed0-1000-100-300

In a burst no method that works second by second can be better than the picture alone, whose exact best is printed; it
also cannot tell a silent clip there. What lies above was carried from other seconds.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from crossmamba.data.avsbench.dataset import AVSBenchDataset
from crossmamba.data.synth.ceiling import mean_reference_scores, read_truths
from crossmamba.data.synth.truth import SceneTruth
from crossmamba.metrics import frame_iou
from crossmamba.models import from_pretrained


def frame_scores(model_folder: Path, data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """M_J (clips, T), whether the truth is black, and whether the prediction is, of the test split."""
    model = from_pretrained(model_folder)
    how = model.card["preprocessing"]
    clips = AVSBenchDataset(data, "ms3", "test", **{k: how[k] for k in ("image_size", "framing", "seconds")})
    iou, black, nothing = [], [], []
    for item in clips:
        with torch.inference_mode():
            mask = model(item["frames"][None], item["log_mel"][None]).logits[0, :, 0].sigmoid()
        truth = item["masks"][:, 0]
        iou.append(frame_iou(mask, truth).numpy())
        black.append((truth.sum((1, 2)) == 0).numpy())
        nothing.append(((mask > 0.5).sum((1, 2)) == 0).numpy())
    return np.stack(iou), np.stack(black), np.stack(nothing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of benchmarks/avs_synthetic.py, with data/ and runs")
    print("| set | fusion | M_J | heard | in bursts | best of the picture alone in bursts | black kept in bursts |")
    print("|---|---|---|---|---|---|---|")
    for folder in parser.parse_args().folders:
        truths = list(read_truths(folder / "data", "ms3", "test"))
        bursts = np.array([truth.bursts for truth in truths])  # (clips, T), in the order of the clip ids
        blind = np.array([[_realised(truth, t) for t in range(truth.seconds)] for truth in truths])[bursts].mean()
        for run in sorted(path.parent for path in folder.glob("*/finished")):
            iou, black, nothing = frame_scores(run / "model", folder / "data")
            kept = nothing[bursts & black].mean()
            cells = [iou.mean(), iou[~bursts].mean(), iou[bursts].mean(), blind, kept]
            texts = " | ".join(f"{100 * value:.1f}" for value in cells)
            print(f"| {folder.name} | {run.name} | {texts} |", flush=True)


def _realised(truth: SceneTruth, second: int) -> float:
    """What the best predictor without sound scores in one second."""
    things = tuple(replace(o, sounding=(o.sounding[second],), area=(o.area[second],)) for o in truth.objects)
    return mean_reference_scores([replace(truth, objects=things, seconds=1, bursts=())])["realised"]


if __name__ == "__main__":
    main()
