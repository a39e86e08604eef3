"""Scores a trained segmentation model on AVSBench, with its sound as it is and with its sound tampered with.

A model that scores the same with another clip's sound does not listen (spec §7): `delta_M_J`, the M_J
that a perturbation costs, says how much it does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from crossmamba.data.avsbench.dataset import AudioSource, AVSBenchDataset
from crossmamba.data.images import read_mask, write_prediction_png
from crossmamba.data.perturb import check_perturbation
from crossmamba.errors import DataError, UsageError
from crossmamba.metrics import AVSMetric

Scores = dict[str, Any]


def evaluate_avs(
    model: nn.Module,
    root: str | Path,
    subset: Literal["s4", "ms3"],
    split: Literal["train", "val", "test"] = "test",
    *,
    perturbations: Sequence[str] = ("none",),
    preprocessing: dict[str, Any] | None = None,
    batch_size: int = 4,
    num_workers: int = 0,
    audio: AudioSource = "auto",
    clips: int | None = None,
    seed: int = 0,
    clips_per_batch: int = 1,
    out: str | Path | None = None,
    soft: bool = False,
    progress: bool = True,
) -> dict[str, Scores]:
    """Scores `model` on every clip of a split, once per sound perturbation. No clip is left out: a bad one is an error.

    Args:
        model: gives an object with `.logits` (B, T, 1, S, S); runs on the device of its parameters.
        root, subset, split: of AVSBench, real or synthetic.
        perturbations: names of `crossmamba.data.perturb`; "none" is the sound as it is.
        preprocessing: `image_size`, `framing`, `seconds`; by default those of the model's card.
        batch_size, num_workers: of the loader; the scores do not depend on them.
        audio, clips, seed: see `AVSBenchDataset`.
        clips_per_batch: of the `official` protocol.
        out: folder for predicted masks, as PNG under the names of AVSBench's `gt_masks/{split}`; with several
            perturbations, in a folder for each.
        soft: write probabilities (0..255) instead of masks (0 or 255).
        progress: show a bar on stderr.

    Returns:
        Per perturbation the values of `AVSMetric` as fractions of 1 (`M_J_per_second` is a list), and where "none" is
        among them `delta_M_J`: M_J with the sound as it is minus M_J with the perturbation.

    Raises:
        UsageError: no preprocessing known, or an unknown name. DataError: a file is missing or unreadable.
    """
    card = getattr(model, "card", None) or {}
    preprocessing = preprocessing or card.get("preprocessing")
    if not preprocessing:
        raise UsageError("the model has no card with its preprocessing; give preprocessing={'image_size': ..., ...}")
    for name in perturbations:
        check_perturbation(name)
    options = {key: preprocessing[key] for key in ("image_size", "framing", "seconds")}
    device = next(model.parameters()).device
    results: dict[str, Scores] = {}
    for name in perturbations:
        dataset = AVSBenchDataset(
            root, subset, split, audio=audio, clips=clips, seed=seed, perturbation=name, **options
        )
        loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers)
        folder = None if out is None else Path(out) / (name if len(perturbations) > 1 else "")
        metric = AVSMetric(clips_per_batch=clips_per_batch).to(device)
        bar = tqdm(loader, desc=f"sound: {name}", unit="batch", file=sys.stderr, disable=not progress)
        for batch in unwrapped_errors(bar):
            probability = _predict(model, batch, device)
            metric.update(probability, batch["masks"], index=batch["index"], annotated=batch["annotated"])
            if folder is not None:
                for clip, index in zip(probability.cpu(), batch["index"].tolist(), strict=True):
                    _write_clip(clip, dataset, index, folder, soft)
        results[name] = _plain(metric.compute())
    if "none" in results:
        for scores in results.values():
            scores["delta_M_J"] = results["none"]["M_J"] - scores["M_J"]
    return results


def _plain(scores: dict[str, Tensor]) -> Scores:
    """Tensors to numbers; the seconds' values as one list."""
    plain: Scores = {key: value.item() for key, value in scores.items() if not key.startswith("M_J_second_")}
    seconds = [key for key in scores if key.startswith("M_J_second_")]
    return {**plain, "M_J_per_second": [scores[key].item() for key in seconds]}


def unwrapped_errors(loader: Iterable[Any]) -> Iterator[Any]:
    """The loader's batches; a `DataError` of a loader worker comes without the traceback that torch puts before it."""
    try:
        yield from loader
    except DataError as error:
        raise type(error)(without_worker_traceback(str(error))) from error


def without_worker_traceback(message: str) -> str:
    """The last line's message, if `message` is an error that a loader worker raised."""
    if not message.startswith("Caught "):
        return message
    last = message.rstrip().rpartition("\ncrossmamba.errors.")[2]
    return last.partition(": ")[2] or message


def _predict(model: nn.Module, batch: dict[str, Any], device: torch.device) -> Tensor:
    """(B, T, 1, S, S) probabilities, in eval mode whatever mode the model is in."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return torch.sigmoid(model(batch["frames"].to(device), batch["log_mel"].to(device)).logits.float())
    finally:
        model.train(training)


def _write_clip(probability: Tensor, dataset: AVSBenchDataset, index: int, folder: Path, soft: bool) -> None:
    """Writes (T, 1, S, S) as one PNG per second, at the truth's size where there is a truth."""
    truth_folder = dataset.files.data / "gt_masks" / dataset.split
    for k, frame in enumerate(probability[:, 0], start=1):
        truth = dataset.files.mask(dataset.entries[index], k)
        path = folder / truth.relative_to(truth_folder)
        if truth.exists():  # `crossmamba score` compares pixel by pixel
            frame = _resized(frame, read_mask(truth).shape)
        write_prediction_png(path, frame.numpy() if soft else (frame > 0.5).numpy())


def _resized(probability: Tensor, size: tuple[int, ...]) -> Tensor:
    """(S, S) to another size, bilinear."""
    if tuple(probability.shape) == tuple(size):
        return probability
    return F.interpolate(probability[None, None], size=size, mode="bilinear", align_corners=False)[0, 0].clamp(0, 1)


def table(results: dict[str, Scores], *, model: str, data: str, clips_per_batch: int = 1) -> str:
    """The scores as text, per cent, with the protocol named."""
    first = next(iter(results.values()))
    lines = [
        f"{model} on {data}: {first['clips']} clips, {first['frames']} frames, {first['black_frames']} of them black",
        f"per cent; M_J and M_F over all frames (protocol dataset); M_F* by the official protocol at "
        f"{clips_per_batch} clip{'s' if clips_per_batch > 1 else ''} per batch",
        f"{'sound':10s}{'M_J':>7s}{'M_F':>7s}{'M_F*':>7s}{'black kept':>12s}{'FPR':>7s}{'M_J lost':>10s}",
    ]
    for name, scores in results.items():
        lost = f"{100 * scores['delta_M_J']:10.1f}" if "delta_M_J" in scores and name != "none" else f"{'':10s}"
        values = [100 * scores[key] for key in ("M_J", "M_F", "M_F_official")]
        line = f"{name:10s}" + "".join(f"{value:7.1f}" for value in values)
        lines.append(line + f"{100 * scores['black_kept']:12.1f}{100 * scores['FPR']:7.1f}" + lost)
    return "\n".join(line.rstrip() for line in lines)
