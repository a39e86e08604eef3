"""One measurement as a row with its goal, and the table of rows as Markdown and as JSON."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from crossmamba import __version__
from crossmamba.benchmarking.timing import Times


@dataclass(frozen=True)
class Goal:
    """A bound on a row's value, in the row's unit."""

    bound: float
    at_most: bool = False

    def met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound

    def text(self, unit: str) -> str:
        return f"{'≤' if self.at_most else '≥'} {show(self.bound, unit)}"


@dataclass
class Row:
    """One line of the table.

    Attributes:
        what: the measurement. shape: its size.
        theirs, ours: the two sides; of a measurement with one side, only `ours`.
        theirs_ms, ours_ms: medians in milliseconds; None where nothing is timed, or only a value is of interest.
        value: what the goal judges, in `unit`: for two sides the median ratio of interleaved pairs.
        robust: the ratio of the two shortest times.
        goal, met: None without a goal; `met` is None as well where nothing was measured.
        note: why there is no value, or what to know about it.
    """

    what: str
    shape: str = ""
    theirs: str = ""
    ours: str = ""
    theirs_ms: float | None = None
    ours_ms: float | None = None
    value: float | None = None
    robust: float | None = None
    unit: str = "x"
    goal: Goal | None = None
    note: str = ""
    met: bool | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.goal is not None and self.value is not None:
            self.met = self.goal.met(self.value)

    def cells(self) -> list[str]:
        """The cells of the Markdown table, in the order of `COLUMNS`."""
        return [
            self.what,
            self.shape,
            self.theirs,
            self.ours,
            "" if self.theirs_ms is None else show(self.theirs_ms, "ms", named=False),
            "" if self.ours_ms is None else show(self.ours_ms, "ms", named=False),
            "" if self.value is None else show(self.value, self.unit),
            "" if self.robust is None else show(self.robust, self.unit),
            "" if self.goal is None else self.goal.text(self.unit),
            "" if self.goal is None else {None: "not measured", True: "yes", False: "**no**"}[self.met],
            self.note,
        ]

    def to_json(self) -> dict[str, Any]:
        """A flat dictionary; the goal as its bound and direction."""
        data = asdict(self)
        data["goal"] = None if self.goal is None else {"bound": self.goal.bound, "at_most": self.goal.at_most}
        return data


COLUMNS = ("what", "shape", "theirs", "ours", "theirs ms", "ours ms", "value", "min/min", "goal", "met", "note")


def show(value: float, unit: str, named: bool = True) -> str:
    """A number with three digits and its unit."""
    if unit == "relative":
        return f"{value:.1e}"
    text = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text + ({"x": "x", "%": " %"}.get(unit, f" {unit}") if named else "")


def ratio_row(
    what: str, shape: object, theirs: str, ours: str, times: Times, goal: Goal | None = None, slower: bool = False
) -> Row:
    """Theirs over ours, how many times faster ours is; with `slower` ours over theirs, how many times slower."""
    ratio, robust = times.ratio(), times.robust_ratio()
    return Row(
        what,
        str(shape),
        theirs,
        ours,
        1e3 * median(times.theirs),
        1e3 * median(times.ours),
        1 / ratio if slower else ratio,
        1 / robust if slower else robust,
        goal=goal,
        note="one pair" if len(times.ours) == 1 else "",
    )


@dataclass
class Report:
    """The rows of one run and what they were made with."""

    command: str
    machine: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    finished: bool = False

    def markdown(self) -> str:
        """The whole table with the command, the machine and the method."""
        machine = "\n".join(f"* {name}: {value}" for name, value in self.machine.items())
        state = "" if self.finished else "\n**Interrupted: the rows measured until then.**\n"
        absent = "\n".join(f"* {line}" for line in self.absent)
        return "\n".join(
            [
                f"Made by `{self.command}`.\n",
                machine,
                state,
                HEADER,
                *(line(row.cells()) for row in self.rows),
                *(["\nNot timed:\n", absent] if absent else []),
                f"\n{self.verdict()}\n\n{METHOD}",
            ]
        )

    def verdict(self) -> str:
        """How many goals are met, and which are not."""
        judged = [row for row in self.rows if row.goal is not None]
        missed = [f"{row.what} ({row.theirs or row.ours}, {row.shape})" for row in judged if row.met is False]
        unmeasured = sum(row.met is None for row in judged)
        text = f"Goals: {sum(row.met is True for row in judged)} met, {len(missed)} not met, {unmeasured} not measured."
        return text + (f" Not met: {'; '.join(missed)}." if missed else "")

    def to_json(self) -> dict[str, Any]:
        """Everything, for a machine."""
        return {
            "command": self.command,
            "machine": self.machine,
            "finished": self.finished,
            "rows": [row.to_json() for row in self.rows],
            "absent": self.absent,
        }

    def write(self, paths: Sequence[Path]) -> None:
        """Writes each path whole or not at all: JSON if it ends so, else Markdown."""
        for path in paths:
            as_json = path.suffix == ".json"
            text = json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n" if as_json else self.markdown()
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(temporary, 0o644)  # mkstemp makes them private
            os.replace(temporary, path)


def line(cells: Sequence[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


HEADER = line(COLUMNS) + "\n" + "|---" * len(COLUMNS) + "|"

METHOD = """How it is measured. float32, all threads that torch uses unless said. Both sides run in one process in turn,
pair by pair; a pair's time of a side is the median of three calls (one, where a call takes over 0.1 s), after one call
that is not counted where it takes less than 0.1 s; slow peers get fewer pairs. `value` is the median over the pairs,
`min/min` the shortest time of one side over the shortest of the other. Each side gets its native layout, prepared
outside the timing: peers contiguous (B, D, L) or what they document, ours (B, L, D) memory through the public function.
Peers get the tokens of the eight routes already copied into walking order and need not add the results up; ours walks
the tables and adds. Backward takes the gradient of every input. Loops under autograd are timed with fewer channels,
ours with as many: those that index (B, D, L, N) tensors step by step need O(L²) time in backward, which is what their
ratios show. Parallel scans are timed at full size. Before it is timed, each peer's results are compared with ours on
small scans. "crossmamba reference" is this library's own plain loop. Limits of the machine are the best of two
measurements, before and after the scan's."""


def machine_facts() -> dict[str, Any]:
    """Processor, cores, threads, versions and load of this machine."""
    facts = {
        "processor": _processor(),
        "cores, threads": f"{cores()}, {torch.get_num_threads()}",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "software": f"crossmamba {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
    }
    return facts


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> bool:
    """Whether others have used more than a quarter of a processor in the last minute."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > 0.25


def load_average() -> str:
    """Running processes on average over the last 1, 5 and 15 minutes: other people's work shows in the times."""
    return ", ".join(f"{load:.2f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for text in cpuinfo.read_text(encoding="utf-8").splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    return platform.processor() or platform.machine()
