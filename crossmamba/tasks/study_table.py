"""A study's results as one table: means and spreads over the seeds, beside the ceilings of a synthetic set."""

from __future__ import annotations

import json
import math
import platform
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import crossmamba
from crossmamba.errors import DataError
from crossmamba.metrics.avqa import COLUMNS
from crossmamba.tasks.progress import read_table
from crossmamba.tasks.run_folder import write_text_atomically
from crossmamba.tasks.studies import Study
from crossmamba.tasks.study import Job, StudyOptions

SENSES = {
    "none": "",
    "silence": "sound silenced",
    "blank": "picture blanked",
    "question_only": "question only",
    "swap": "sound swapped",
    "swap_picture": "picture swapped",
}
CEILINGS = (
    ("question only", ("question_only", "from_train")),
    ("picture only", ("picture_only", "expected")),
    ("sound only", ("sound_only", "expected")),
)
"""Lines of the table, and where their columns stand in ceilings.json."""


@dataclass(frozen=True)
class Line:
    """A row of a study under one perturbation.

    Attributes:
        name, perturbation: of the line. model: registered name.
        seeds: that were run. scores: column -> per cent of each seed, NaN where a column has no question.
        parameters: of the model. train_seconds, milliseconds: of a training, and of answering one question.
        published: the paper's scores on MUSIC-AVQA by column.
    """

    name: str
    perturbation: str
    model: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Sequence[float]]
    parameters: int
    train_seconds: Sequence[float]
    milliseconds: Sequence[float]
    published: Mapping[str, float]


def lines_of(jobs: Sequence[Job]) -> list[Line]:
    """The lines of all jobs whose scores are there, in the study's order."""
    by_row: dict[str, list[Job]] = {}
    for job in jobs:
        if job.scores_file.exists():
            by_row.setdefault(job.row.name, []).append(job)
    order = list(dict.fromkeys(job.row.name for job in jobs))
    return [
        _line(by_row[name], perturbation)
        for name in order
        if name in by_row
        for perturbation in by_row[name][0].row.perturbations
    ]


def _line(jobs: Sequence[Job], perturbation: str) -> Line:
    row = jobs[0].row
    results = [_read(job.scores_file) for job in jobs]
    scored = [result["scores"][perturbation] for result in results]
    own = perturbation == row.perturbations[0]
    tampered = "" if own else f", {SENSES.get(perturbation, perturbation)}"
    return Line(
        name=row.name + tampered,
        perturbation=perturbation,
        model=results[0]["name"],
        seeds=tuple(job.seed for job in jobs),
        scores={
            column: [
                math.nan if scores["accuracy"][column] is None else 100 * scores["accuracy"][column]
                for scores in scored
            ]
            for column in scored[0]["accuracy"]
        },
        parameters=results[0]["parameters"],
        train_seconds=[_train_seconds(job) for job in jobs],
        milliseconds=[1000 * scores["seconds_per_question"] for scores in scored],
        published=dict(row.published) if own else {},
    )


def _train_seconds(job: Job) -> float:
    rows = read_table(job.run / "metrics.csv")
    return rows[-1]["seconds"] if rows else math.nan


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; delete the file, and the same study command makes it again") from error


def read_ceilings(root: Path, split: str) -> dict[str, dict[str, float]]:
    """What can be scored without a sense, per cent by column, for each line of `CEILINGS`; {} for a set without.

    Raises:
        DataError: the file cannot be read.
    """
    path = root / "ceilings.json"
    if not path.exists():
        return {}
    content = _read(path)
    if content.get("split", split) != split:
        return {}
    try:
        return {title: dict(content[first][second]["columns"]) for title, (first, second) in CEILINGS}
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: {error!r} is missing; make the set again") from error


def spread(values: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation of the sample); the latter NaN for one value, both NaN where a value is."""
    mean = statistics.fmean(values)
    known = len(values) > 1 and not math.isnan(mean)  # `stdev` of a NaN fails
    return mean, statistics.stdev(values) if known else math.nan


def markdown(study: Study, lines: Sequence[Line], ceilings: Mapping[str, Mapping[str, float]], facts: str) -> str:
    """The table as markdown: `All` and the three groups first, then the nine types."""
    columns = _columns(lines)
    text = [f"## {study.title}", "", study.about, "", facts, ""]
    text += [_row("", [*columns, "parameters", "training", "a question"]), "|---|" + "--:|" * (len(columns) + 3)]
    for title, values in ceilings.items():
        cells = ["-" if values.get(c) is None else f"{values[c]:.1f}" for c in columns]
        text.append(_row(f"*ceiling: {title}*", [*cells, "", "", ""]))
    for line in lines:
        cells = [_cell(line.scores[column]) for column in columns]
        seconds, milliseconds = statistics.fmean(line.train_seconds), statistics.fmean(line.milliseconds)
        text.append(_row(line.name, [*cells, f"{line.parameters:,}", f"{seconds:.0f} s", f"{milliseconds:.2f} ms"]))
    text += ["", "Per cent of the questions: mean ± standard deviation over the seeds. " + _notes(lines, ceilings)]
    if any(line.published for line in lines):
        text += ["", *_published(lines)]
    return "\n".join(text) + "\n"


def _columns(lines: Sequence[Line]) -> list[str]:
    first = ["All", "A", "V", "AV"]
    known = list(lines[0].scores) if lines else list(COLUMNS)
    return [c for c in first if c in known] + [c for c in known if c not in first]


def _notes(lines: Sequence[Line], ceilings: Mapping[str, Any]) -> str:
    notes = ["A, V, AV and All are micro averages."]
    if len({line.seeds for line in lines}) > 1:
        notes.append("Not every row has all seeds yet.")
    if ceilings:
        notes.append(
            "Ceilings are computed from the set's scene truth: what an answerer can score that knows the question (as "
            "the train questions teach it), and besides it all of the picture's truth or all of the sound's."
        )
    return " ".join(notes)


def _published(lines: Sequence[Line]) -> list[str]:
    columns = ("A", "V", "AV", "All")
    text = ["The paper's scores on MUSIC-AVQA, another data set and another size of model:", ""]
    text += [_row("", columns), "|---|" + "--:|" * len(columns)]
    for line in lines:
        if line.published:
            text.append(_row(line.name, [f"{line.published[c]:.2f}" if c in line.published else "?" for c in columns]))
    return text


def _row(name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([name, *cells]) + " |"


def _cell(values: Sequence[float]) -> str:
    if any(math.isnan(value) for value in values):
        return "-"
    mean, deviation = spread(values)
    return f"{mean:.1f}" if math.isnan(deviation) else f"{mean:.1f} ± {deviation:.1f}"


def plain_text(markdown_text: str) -> str:
    """A markdown text with its tables set in columns, for the terminal."""
    out, block = [], []
    for line in [*markdown_text.splitlines(), ""]:
        if line.startswith("|"):
            block.append([cell.strip().replace("*", "") for cell in line.strip("|").split("|")])
            continue
        if block:
            rows = [row for row in block if not row[0].startswith("---")]
            widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
            for row in rows:
                cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
                out.append("  ".join(cells).rstrip())
            block = []
        out.append(line)
    return "\n".join(out).rstrip() + "\n"


def write_result(study: Study, options: StudyOptions, jobs: Sequence[Job], command: Sequence[str]) -> str:
    """Writes `study.json` and `study.md` of what is done and returns the markdown.

    Raises:
        DataError: a file of the study or the ceilings cannot be read.
    """
    lines, ceilings = lines_of(jobs), read_ceilings(options.root, options.split)
    facts = {
        "study": study.name,
        "command": shlex.join(["crossmamba", *command]),
        "machine": f"{platform.platform()}, {options.threads or 'shared'} threads a training",
        "versions": {"crossmamba": crossmamba.__version__, "torch": torch.__version__},
        "settings": options.settings(study),
    }
    result = {**facts, "ceilings": ceilings, "rows": [_plain(line) for line in lines]}
    write_text_atomically(options.out / "study.json", json.dumps(result, indent=1) + "\n")
    said = f"Made by `{facts['command']}` with crossmamba {crossmamba.__version__} and torch {torch.__version__} on "
    text = markdown(
        study, lines, ceilings, f"{said}{platform.platform()}; split {options.split}, scale {options.scale}."
    )
    write_text_atomically(options.out / "study.md", text)
    return text


def _plain(line: Line) -> dict[str, Any]:
    """A line for JSON; NaN becomes null."""

    def clean(values: Sequence[float]) -> list[float | None]:
        return [None if math.isnan(value) else value for value in values]

    return {
        "name": line.name,
        "model": line.model,
        "perturbation": line.perturbation,
        "seeds": list(line.seeds),
        "scores": {column: clean(values) for column, values in line.scores.items()},
        "mean": {column: clean([spread(values)[0]])[0] for column, values in line.scores.items()},
        "parameters": line.parameters,
        "train_seconds": clean(line.train_seconds),
        "milliseconds_per_question": clean(line.milliseconds),
        "published": dict(line.published),
    }
