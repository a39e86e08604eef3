"""The question answering demo's numbers as a table and as a page, and what is not claimed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossmamba.demo.common import page_links, page_video, read_json
from crossmamba.metrics.avqa import COLUMNS
from crossmamba.report import Curve, Line, Picture, Plot, Report, Table, environment_facts, read_curve

NAMES = {"av_mamba": "AV-Mamba", "shmamba": "SHMamba", "avst": "AVST"}
SENSES = {
    "none": ("", "hears and sees"),
    "silence": (", sound silenced", "digital silence in place of the sound, when tested"),
    "blank": (", picture blanked", "a grey picture in place of every frame, when tested"),
}
CEILINGS = {
    "question only": "the most frequent answer of the training split to this question: nothing heard, nothing seen",
    "picture only": "all of the picture's truth known, nothing heard: what the best answer can expect (estimated)",
    "sound only": "all of the sound's truth known, nothing seen: what the best answer can expect (estimated)",
}
NOTE = (
    "Per cent of the questions answered right. A, V and AV: questions about the sound, the picture, both; Cnt: "
    "counting, Cmp: comparing (louder, more rhythmic, longer), Loc: where, or what kind, Exist: is there, Temp: when. "
    "A, V, AV and All are micro averages. A dash: no such question."
)
CAVEATS = (
    "The world is synthetic, and so is the training of the feature encoders: they learned tags of this world's scene "
    "truth (which voices sound, how loud and how fast, which instrument stands in which cell, indoors or outdoors), of "
    "the training split. This mirrors the papers, whose models stand on frozen VGGish and CLIP; the numbers cannot be "
    "compared with theirs.",
    "A model trained on this world knows nothing of real music.",
    "This is one seed, and a few minutes of training. Which of the models comes out ahead here says little.",
    "The best checkpoint was chosen on the validation split; the test split was scored once per row.",
    "The pictures of where and when a model looked are its attention weights where it has any, else gradients times "
    "inputs. They show what moved the answer, which is not the same as a reason.",
)


def score_table(scores: dict[str, Any]) -> Table:
    """The table of `scores.json`: the models with both senses and with one taken away, then the ceilings."""
    lines = []
    for name, results in scores["models"].items():
        for perturbation, values in results.items():
            suffix, explanation = SENSES.get(perturbation, (f", {perturbation}", perturbation))
            kind = "run" if perturbation == "none" else "control"
            lines.append(Line(NAMES.get(name, name) + suffix, explanation, _cells(values), kind))
    for name, values in scores["ceilings"].items():
        lines.append(Line(f"ceiling: {name}", CEILINGS.get(name, ""), _cells(values), "bound"))
    return Table(COLUMNS, lines, NOTE, bar=len(COLUMNS) - 1)


def _cells(values: dict[str, float | None]) -> list[float | None]:
    return [values.get(column) for column in COLUMNS]


def tag_line(tags: dict[str, Any]) -> str:
    """What the feature encoders reached, in words, of `tags.json`."""
    if not tags.get("scores"):
        return "The encoders were not validated."
    named = {
        "sounding": "voices heard (F)",
        "loudness": "loudness",
        "rhythm": "rhythm",
        "cells": "instruments' cells (overlap)",
        "room": "indoors or outdoors",
    }
    parts = [f"{text} {100 * tags['scores'][name]:.1f}" for name, text in named.items() if name in tags["scores"]]
    return "The encoders' tags on validation videos, per cent: " + ", ".join(parts)


def build_page(folder: Path, runs: dict[str, Path], scores: dict[str, Any], facts: list[tuple[str, str]]) -> Report:
    """The report of a finished demo.

    Args:
        folder: of the demo. runs: run folders of the models, the main one first.
        scores: of `scores.json`. facts: lines of "How it was made", to which the run's environment is added.
    """
    main = next(iter(runs.values()))
    predicted = folder / "predict"
    truth = read_json(predicted / "truth.json")
    there = (predicted / "result.json", folder / "scores.json", main / "metrics.csv")
    tags = tag_line(read_json(folder / "encoders" / "model" / "tags.json"))
    *rest, last = (NAMES.get(name, name) for name in runs)
    names = " and ".join([", ".join(rest), last] if rest else [last])
    return Report(
        title="What is playing? A crossmamba demo of audio-visual question answering",
        lead=f"{names} learned on this machine to answer MUSIC-AVQA's 33 kinds of question about synthetic concerts. "
        "Who plays is told by the sound, who stands where by the picture; questions about both need both.",
        rows=(),
        tables=[score_table(scores)],
        plots=_plots(runs, scores),
        caveats=CAVEATS,
        facts=[*facts, ("encoders' tags", tags), *environment_facts(main / "environment.txt")],
        links=page_links(folder, *there),
        pictures=_pictures(predicted, truth),
        **page_video(Path(truth["video"]) if truth else None, second=1.0),
    )


def _pictures(folder: Path, truth: dict[str, Any]) -> list[Picture]:
    """The pictures of the answers, with the true answers beside."""
    result = read_json(folder / "result.json")
    asked = truth.get("questions", [])
    pictures = []
    for entry, (question, answer) in zip(result.get("questions", []), asked, strict=False):
        best = entry["answers"][0]
        said = f"{_words(best['answer'])} ({100 * best['probability']:.0f} %)"
        kind = " / ".join(entry["type"] or ["of no known kind"])
        verdict = "right" if best["answer"] == answer else f"wrong, it is {_words(answer)}"
        pictures.append(Picture(question, folder / entry["picture"], f"{kind}. The model says {said}: {verdict}."))
    return pictures


def _words(answer: str) -> str:
    return answer.replace("_", " ")


def _plots(runs: dict[str, Path], scores: dict[str, Any]) -> list[Plot]:
    losses, accuracies = [], []
    for name, run in runs.items():
        label, table = NAMES.get(name, name), run / "metrics.csv"
        losses.append(Curve(label, read_curve(table, "train/loss")))
        accuracies.append(Curve(label, [(step, 100 * value) for step, value in read_curve(table, "val/All")]))
    question = scores["ceilings"].get("question only", {}).get("All")
    level = [] if question is None else [("question only", question)]
    name, results = next(iter(scores["models"].items()))
    senses = [
        Curve(
            NAMES.get(name, name) + SENSES[sense][0],
            [(float(place), values[group] or 0.0) for place, group in enumerate(("A", "V", "AV"), start=1)],
        )
        for sense, values in results.items()
    ]
    return [
        Plot("Training loss", "step", "loss", losses),
        Plot("Validation split", "step", "questions right (%)", accuracies, level),
        Plot("Questions about sound, picture, both", "1 sound, 2 picture, 3 both", "right (%)", senses, bars=True),
    ]
