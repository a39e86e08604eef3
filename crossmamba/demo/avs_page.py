"""The demo's numbers as table rows and as a page: the scores compared, the clips shown, what is not claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from crossmamba.demo.common import page_links, page_video
from crossmamba.report import Curve, Plot, Report, Row, Sample, environment_facts, read_curve

CAVEATS = (
    "A model trained on this world knows nothing of the real one. What is shown is that the path from files to a "
    "trained model works, and that the model uses the sound.",
    "This is one seed. Trainings that differ in nothing but the seed differ by some points.",
    "A score above that of the silenced model proves little: silence alone tells a model to mark nothing. The ceiling "
    "of the picture alone, the loudness oracle, the training without sound and the swapped sound carry the claim.",
    "On the default world other ways to fuse sound and picture do as well at this size: it does not show that Mamba is "
    "better.",
    "The best checkpoint was chosen on the validation split; the test split was scored once per row.",
)


TRAINED = (
    ("run", "this run", "sees the picture and hears the sound"),
    ("silenced", "same model, sound silenced", "digital silence in place of the sound, when tested"),
    ("swapped", "same model, sound swapped", "every clip gets the sound of another one, when tested"),
    ("without_sound", "trained and tested without sound", "the same model in a second training on silence"),
)
BOUNDS = (
    ("expected", "exact ceiling of the picture alone", "no predictor that only sees can expect more", None),
    ("loudness_oracle", "oracle that hears only loudness", "nothing if no visible object sounds, else all", 100.0),
    ("all_objects", "all visible objects marked", "the picture's objects with exact outlines", 0.0),
    ("all_black", "nothing marked", "black in every second", 100.0),
)


def score_rows(scores: dict[str, Any]) -> list[Row]:
    """The table of `scores.json`, in per cent.

    `run`, `silenced`, `swapped`, `without_sound` hold what `AVSMetric` gives, in [0, 1] (those not measured may lack);
    `reference` holds what `crossmamba.data.synth.reference_scores` gives.
    """

    return [_row(scores, *line) for line in TRAINED if line[0] in scores] + [_bound(scores, *line) for line in BOUNDS]


def seconds_of(values: dict[str, Any]) -> list[float]:
    """M_J of each second of the clips, from the first on, of what `evaluate_avs` gives."""
    return list(values["M_J_per_second"])


def _row(scores: dict[str, Any], key: str, name: str, explanation: str) -> Row:
    values = [100 * scores[key][metric] for metric in ("M_J", "M_F", "black_kept")]
    return Row(name, explanation, *values, kind="run" if key == "run" else "control")


def _bound(scores: dict[str, Any], key: str, name: str, explanation: str, black_kept: float | None) -> Row:
    return Row(name, explanation, 100 * scores["reference"][key], None, black_kept, kind="bound")


def build_page(
    folder: Path, data: Path, runs: dict[str, Path], scores: dict[str, Any], facts: list[tuple[str, str]]
) -> Report:
    """The report of a finished demo.

    Args:
        folder: of the demo. data: its synthetic set. runs: run folders by label, the main one first.
        scores: see `score_rows`. facts: lines of "How it was made", to which the run's environment is added.
    """
    main = next(iter(runs.values()))
    overlay = folder / "predict" / "overlay.mp4"
    return Report(
        title="Who is sounding? A crossmamba demo",
        lead="A small AVS-Mamba was trained on this machine to mark, in every second, the visible objects that sound. "
        "The world is synthetic, and its schedules make the picture alone insufficient: who sounds must be heard.",
        rows=score_rows(scores),
        plots=_plots(data, runs, scores),
        samples=sample_clips(data, main / "model"),
        caveats=CAVEATS,
        facts=[*facts, *environment_facts(main / "environment.txt")],
        links=page_links(folder, overlay, folder / "scores.json", main / "metrics.csv"),
        **page_video(overlay, second=1.0),
    )


def _plots(data: Path, runs: dict[str, Path], scores: dict[str, Any]) -> list[Plot]:
    from crossmamba.data.synth import reference_scores

    ceiling = 100 * reference_scores(data, "ms3", "val")["expected"]
    losses = [Curve(label, read_curve(run / "metrics.csv", "train/loss")) for label, run in runs.items()]
    overlaps = [
        Curve(label, [(step, 100 * value) for step, value in read_curve(run / "metrics.csv", "val/M_J")])
        for label, run in runs.items()
    ]
    seconds = [
        Curve(label, [(float(second), 100 * value) for second, value in enumerate(seconds_of(scores[key]), start=1)])
        for label, key in (("this run", "run"), ("without sound", "without_sound"))
    ]
    return [
        Plot("Training loss", "step", "loss", losses),
        Plot("Validation split", "step", "M_J (%)", overlaps, [("ceiling of the picture alone", ceiling)]),
        Plot("Each second of the test clips", "second", "M_J (%)", seconds, bars=True),
    ]


def sample_clips(data: Path, model_folder: Path, count: int = 3) -> list[Sample]:
    """The first test clips with a silent second, a change of who sounds and an off-screen voice, or nearest to that.

    They are chosen by their truth, not by how well the model does.
    """
    import torch

    from crossmamba.data.avsbench.dataset import IMAGENET_MEAN, IMAGENET_STD, AVSBenchDataset
    from crossmamba.models import from_pretrained

    model = from_pretrained(model_folder)
    card = model.card["preprocessing"]
    dataset = AVSBenchDataset(
        data, "ms3", "test", image_size=card["image_size"], framing=card["framing"], seconds=card["seconds"]
    )
    truths = [_truth(data, clip_id) for clip_id in dataset.clip_ids]
    order = sorted(range(len(truths)), key=lambda index: (-_interest(truths[index]), index))
    samples = []
    for index in order[:count]:
        item, truth = dataset[index], truths[index]
        with torch.inference_mode():
            logits = model(item["frames"][None], item["log_mel"][None]).logits[0, :, 0]
        pixels = item["frames"].permute(0, 2, 3, 1).numpy() * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)
        schedule = [(_label(thing), True, thing.sounding) for thing in truth.objects]
        schedule += [(_words(voice.class_name), False, voice.sounding) for voice in truth.offscreen]
        samples.append(
            Sample(
                title=item["clip_id"],
                frames=(pixels * 255).round().clip(0, 255).astype(np.uint8),
                truth=item["masks"][:, 0].bool().numpy(),
                prediction=(logits.sigmoid() > card["threshold"]).numpy(),
                log_mel=item["log_mel"][:, 0].numpy(),
                schedule=schedule,
            )
        )
    return samples


def _truth(data: Path, clip_id: str) -> Any:
    from crossmamba.data.synth import SceneTruth

    return SceneTruth.read(data / "Multi-sources" / "ms3_data" / "scene_truth" / "test" / f"{clip_id}.json")


def _interest(truth: Any) -> int:
    """How many of the three things worth seeing a clip has."""
    sounding = truth.sounding  # (T, n)
    changes = len({tuple(second) for second in sounding}) >= 3
    return int(not sounding.any(1).all()) + int(changes) + int(bool(truth.offscreen))


def _label(thing: Any) -> str:
    return _words(thing.class_name) + (f" {thing.instance + 1}" if thing.instance else "")


def _words(class_name: str) -> str:
    """`buzz_ring` (voice and shape) to `buzz ring`."""
    return class_name.replace("_", " ")
