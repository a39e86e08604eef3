"""A study's results as one table: means and spreads over the seeds, beside the ceilings of a synthetic set."""

from __future__ import annotations

import json
import math
import platform
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import crossmamba
from crossmamba.errors import DataError
from crossmamba.metrics.avqa import COLUMNS
from crossmamba.questions.records import describe, needs_warning
from crossmamba.studies.ceilings import Ceilings, read_ceilings
from crossmamba.studies.rows import Study
from crossmamba.studies.run import Job, StudyOptions
from crossmamba.tasks.progress import read_table
from crossmamba.tasks.run_folder import write_text_atomically

SENSES = {
    "none": "",
    "silence": "sound silenced",
    "blank": "picture blanked",
    "question_only": "question only",
    "swap": "sound swapped",
    "swap_picture": "picture swapped",
    "video_only": "questions dropped",
}


@dataclass(frozen=True)
class Line:
    """A row of a study under one perturbation.

    Attributes:
        name, perturbation: of the line. model: registered name.
        seeds: that were run. scores: column -> per cent of each seed, NaN where a column has no question.
        parameters: of the model. train_seconds, milliseconds: of a training, and of one sample.
        published: the paper's scores on MUSIC-AVQA by column.
        source: where the questions came from, for studies of actions.
        beside: what else was scored on the same samples: name -> column -> per cent of each seed.
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
    source: str | None = None
    beside: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)


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
        scores=_by_column([scores["accuracy"] for scores in scored]),
        parameters=results[0]["parameters"],
        train_seconds=[_train_seconds(job) for job in jobs],
        milliseconds=[1000 * scores.get("seconds_per_question", scores.get("seconds_per_clip")) for scores in scored],
        published=dict(row.published) if own else {},
        source=scored[0].get("question_source"),
        beside=_beside(results),
    )


def _by_column(shares: Sequence[Mapping[str, float | None]]) -> dict[str, list[float]]:
    """Fractions of each seed -> column -> per cent of each seed; NaN where there is none."""
    return {
        column: [math.nan if (share := one.get(column)) is None else 100 * share for one in shares]
        for column in shares[0]
    }


def _beside(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """What the reports of actions have beside the model: the words alone, and the class prior."""
    found = {}
    if all(result.get("prior") for result in results):
        found["class prior of train"] = _by_column([result["prior"] for result in results])
    if all(result.get("probe") and result.get("task") == "recognition" for result in results):
        source = results[0]["question_source"]
        found[f"words of {source} questions, a linear model"] = _by_column([result["probe"] for result in results])
    return found


def _train_seconds(job: Job) -> float:
    rows = read_table(job.run / "metrics.csv")
    return rows[-1]["seconds"] if rows else math.nan


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}; delete the file, and the same study command makes it again") from error


def spread(values: Sequence[float]) -> tuple[float, float]:
    """(mean, standard deviation of the sample); the latter NaN for one value, both NaN where a value is."""
    mean = statistics.fmean(values)
    known = len(values) > 1 and not math.isnan(mean)  # `stdev` of a NaN fails
    return mean, statistics.stdev(values) if known else math.nan


def markdown(study: Study, lines: Sequence[Line], ceilings: Ceilings, facts: str) -> str:
    """The table as markdown: `All` and the three groups first, then the nine types."""
    columns = _columns(lines)
    text = [f"## {study.title}", "", study.about, "", facts, ""]
    heads = [*columns, "parameters", "training", f"a {study.unit}"]
    text += [_row("", heads), "|---|" + "--:|" * (len(columns) + 3)]
    for title, values in ceilings.lines.items():
        cells = ["-" if values.get(c) is None else f"{values[c]:.1f}" for c in columns]
        text.append(_row(f"*ceiling: {title}*", [*cells, "", "", ""]))
    for title, scores in {name: scores for line in lines for name, scores in line.beside.items()}.items():
        cells = ["" if c not in scores else _cell(scores[c]) for c in columns]
        text.append(_row(f"*{title}*", [*cells, "", "", ""]))
    for line in lines:
        cells = [_cell(line.scores[column]) for column in columns]
        seconds, milliseconds = statistics.fmean(line.train_seconds), statistics.fmean(line.milliseconds)
        text.append(_row(line.name, [*cells, f"{line.parameters:,}", f"{seconds:.0f} s", f"{milliseconds:.2f} ms"]))
    text += ["", f"{study.measure}: mean ± standard deviation over the seeds. {_notes(lines, ceilings)}".rstrip()]
    text += _told_sources(lines)
    if any(line.published for line in lines):
        text += ["", *_published(lines)]
    return "\n".join(text) + "\n"


def _columns(lines: Sequence[Line]) -> list[str]:
    first = ["All", "A", "V", "AV"]
    known = list(lines[0].scores) if lines else list(COLUMNS)
    return [c for c in first if c in known] + [c for c in known if c not in first]


def _notes(lines: Sequence[Line], ceilings: Ceilings) -> str:
    notes = ["A, V, AV and All are micro averages."] if "All" in _columns(lines) else []
    if len({line.seeds for line in lines}) > 1:
        notes.append("Not every row has all seeds yet.")
    if ceilings.lines:
        notes.append(ceilings.about)
    return " ".join(notes)


def _told_sources(lines: Sequence[Line]) -> list[str]:
    """Every question source of the table in words, and a warning where oracle stands beside others."""
    sources = list(dict.fromkeys(line.source for line in lines if line.source is not None))
    text = [f"* {describe(source)}" for source in sources]
    if needs_warning(sources):
        text.append(
            "* **Oracle lines do not compare with the others**: their questions were made from the true labels."
        )
    return ["", *text] if text else []


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
    lines, ceilings = lines_of(jobs), read_ceilings(options.root, options.split, study.name)
    facts = {
        "study": study.name,
        "command": shlex.join(["crossmamba", *command]),
        "machine": f"{platform.platform()}, {options.threads or 'shared'} threads a training",
        "versions": {"crossmamba": crossmamba.__version__, "torch": torch.__version__},
        "settings": options.settings(study),
    }
    result = {**facts, "ceilings": ceilings.lines, "rows": [_plain(line, study.unit) for line in lines]}
    write_text_atomically(options.out / "study.json", json.dumps(result, indent=1) + "\n")
    note = study.preparation(options.scale, options.folds).note
    said = f"{note} " if note else ""
    said += f"Made by `{facts['command']}` with crossmamba {crossmamba.__version__} and torch {torch.__version__} on "
    text = markdown(
        study, lines, ceilings, f"{said}{platform.platform()}; split {options.split}, scale {options.scale}."
    )
    write_text_atomically(options.out / "study.md", text)
    return text


def _plain(line: Line, unit: str) -> dict[str, Any]:
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
        f"milliseconds_per_{unit}": clean(line.milliseconds),
        "published": dict(line.published),
        **({} if line.source is None else {"question_source": line.source}),
        **(
            {"beside": {name: {c: clean(v) for c, v in values.items()} for name, values in line.beside.items()}}
            if line.beside
            else {}
        ),
    }
