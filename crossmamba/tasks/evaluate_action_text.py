"""The report of `evaluate_action` as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from crossmamba.questions.records import describe, needs_warning
from crossmamba.tasks.evaluate_action import ActionReport

LINES = {"none": "as it is", "question_only": "text only (its video dropped)", "video_only": "its questions dropped"}
WARNING = (
    "WARNING: lines with ORACLE questions were told of the true labels; they do not compare with any other line here, "
    "nor with results of models that see the video only."
)


def oracle_warning(sources: Iterable[str]) -> list[str]:
    """The warning as a line, where results of these question sources stand in one table and it is due."""
    return [WARNING] if needs_warning(sources) else []


def to_json(report: ActionReport) -> dict[str, Any]:
    """Everything, with the question source in words."""
    return {
        "task": report.task,
        "segments": report.segments,
        "views": report.views,
        "crops": report.crops,
        "action_head": report.actions,
        "question_source": report.question_source,
        "question_source_text": describe(report.question_source),
        "trained_question_source": report.trained_source,
        "scores": report.scores,
        "prior": report.prior,
        "probe": report.probe,
        "probe_note": report.probe_note,
        "warnings": oracle_warning(_sources(report)),
    }


def _sources(report: ActionReport) -> list[str]:
    """Of all lines; the class prior is one without questions."""
    return [*(scores["question_source"] for scores in report.scores.values()), *(["none"] if report.prior else [])]


def table(report: ActionReport, *, model: str, data: str) -> str:
    """The scores as text, per cent: one line per perturbation, then what can be had without the model."""
    lines = [
        f"{model} on {data} {report.split}: {report.segments} segments, {report.task}",
        describe(report.question_source),
    ]
    if report.trained_source != report.question_source:
        lines.append(f"trained with {describe(report.trained_source)}")
    if report.views * report.crops > 1:
        lines.append(f"mean probability of {report.views} clips in time x {report.crops} squares of each segment")
    if not report.scores:
        return "\n".join([*lines, "the labels of this split are hidden: nothing was scored"])
    measure = "official mean top-5 recall" if report.task == "anticipation" else "accuracy, @5: among the best five"
    lines.append(f"per cent, {measure}")
    if report.actions:
        lines.append(f"actions by a head over the {report.actions} pairs of the train split, which is not the paper's")
    rows: dict[str, Mapping[str, float | None]] = {
        LINES.get(name, name): scores["accuracy"] for name, scores in report.scores.items()
    }
    if report.probe and report.task == "recognition":
        rows["text only (words, a linear model)"] = report.probe
    if report.prior:
        rows["class prior of train"] = report.prior
    heads = list(next(iter(report.scores.values()))["accuracy"])
    width = max(len(name) for name in rows)
    lines.append(" " * width + "".join(f"{head:>15}" for head in heads))
    for name, values in rows.items():
        cells = ["" if head not in values else _cell(values[head]) for head in heads]
        lines.append(f"{name:{width}}" + "".join(f"{cell:>15}" for cell in cells))
    if report.probe and report.task == "anticipation":
        lines.append("top-1 of the words alone: " + ", ".join(f"{k} {_cell(v)}" for k, v in report.probe.items()))
    if report.probe_note:
        lines.append(report.probe_note)
    return "\n".join([*lines, *oracle_warning(_sources(report))])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
