"""Scores on the synthetic worlds over several seeds: the tables of the README.

    python benchmarks/avs_synthetic.py --seeds 0 1 2
    python benchmarks/avs_synthetic.py --seeds 0 1 2 --framing published aligned --no-control --name framing
    python benchmarks/avs_synthetic.py --world hard --fusion scan film cross_attention none --no-control --name hard

Every seed has a data set, a training and an evaluation of its own. Results go to `benchmarks/results/NAME.json` and
`NAME.md`; sets and runs stay under `--work`, and what is finished there is not done again. The demo's functions do it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossmamba.demo.avs import DemoSettings, render_set, score_runs, train_run
from crossmamba.demo.avs_page import score_rows, seconds_of
from crossmamba.demo.common import say

RESULTS = Path(__file__).parent / "results"
SECONDS = {"default": 5, "bursts": 5, "hard": 10}


def main() -> int:
    """Runs what is asked for and writes the tables."""
    args = parser().parse_args()
    rows = [run_one(args, *choice) for choice in itertools.product(args.world, args.framing, args.fusion, args.seeds)]
    result = {"command": " ".join(["python", *sys.argv]), "machine": platform.platform(), "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{args.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    text = markdown(result)
    (RESULTS / f"{args.name}.md").write_text(text)
    print(text)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    made.add_argument("--world", nargs="+", default=["default"], choices=tuple(SECONDS))
    made.add_argument("--framing", nargs="+", default=["aligned"], choices=("aligned", "published"))
    made.add_argument("--fusion", nargs="+", default=["scan"], help="fusion modules of AVS-Mamba: scan, film, ...")
    made.add_argument("--steps", type=int, default=DemoSettings.steps)
    made.add_argument("--control-steps", type=int, default=DemoSettings.silent_steps)
    made.add_argument("--batch-size", type=int, default=DemoSettings.batch_size)
    made.add_argument("--clips", type=int, nargs=3, default=DemoSettings.clips, metavar=("TRAIN", "VAL", "TEST"))
    made.add_argument("--no-control", action="store_true", help="leave out the trainings without sound")
    made.add_argument("--name", default="avs_synthetic", help="of the files in benchmarks/results")
    made.add_argument("--work", type=Path, default=Path("runs/benchmark"), help="for sets and runs")
    return made


def run_one(args: argparse.Namespace, world: str, framing: str, fusion: str, seed: int) -> dict[str, Any]:
    """One training with its scores, and the training without sound if wanted."""
    settings = replace(
        DemoSettings(),
        **{"seed": seed, "clips": tuple(args.clips), "steps": args.steps, "silent_steps": args.control_steps},
        **{"world": world, "seconds": SECONDS[world], "framing": framing, "batch_size": args.batch_size},
        options=("--model.model_args.fusion", fusion),
    )
    folder = args.work / f"{world}-seed{seed}-{'-'.join(map(str, args.clips))}"
    data, run = folder / "data", folder / f"{fusion}-{framing}-{args.steps}x{args.batch_size}"
    say(f"== {world} world, {framing} framing, {fusion} fusion, seed {seed}")
    render_set(data, settings, videos=0)
    started = time.monotonic()
    train_once(run, data, settings)
    silent = (
        None if args.no_control else folder / f"{fusion}-{framing}-{args.control_steps}x{args.batch_size}-without-sound"
    )
    if silent is not None:
        train_once(silent, data, settings, silent=True)
    scores = score_runs(data, run, silent)
    choice = {"world": world, "framing": framing, "fusion": fusion, "seed": seed, "steps": args.steps}
    return {**choice, "seconds": round(time.monotonic() - started), "scores": scores}


def train_once(run: Path, data: Path, settings: DemoSettings, silent: bool = False) -> None:
    """Trains unless a finished run is there (marked by a file of ours)."""
    mark = run / "finished"
    if not mark.exists():
        train_run(run, data, settings, silent=silent)
        mark.touch()


def markdown(result: dict[str, Any]) -> str:
    """A table for each world, framing and fusion: one column per seed and the mean, in per cent of M_J."""
    lines = [f"Made by `{result['command']}` on {result['machine']}.", ""]
    key = ("world", "framing", "fusion", "steps")
    for choice, group in itertools.groupby(result["rows"], lambda row: tuple(row[name] for name in key)):
        rows = list(group)
        lines += ["**{} world, {} framing, {} fusion, {} steps**".format(*choice), ""]
        lines += table(rows)
        lines += ["", f"M_J by second (mean over seeds): {per_second(rows)}", ""]
    return "\n".join(lines)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of the markdown table of some seeds."""
    seeds = [row["seed"] for row in rows]
    lines = [_line("M_J (M_F)", [f"seed {seed}" for seed in seeds], "mean"), "|---|" + "---|" * (len(seeds) + 1)]
    columns = [score_rows(row["scores"]) for row in rows]
    for cells in zip(*columns, strict=True):
        texts = [f"{cell.M_J:.1f}" + (f" ({cell.M_F:.1f})" if cell.M_F is not None else "") for cell in cells]
        lines.append(_line(cells[0].name, texts, f"{statistics.mean(cell.M_J for cell in cells):.1f}"))
    kept = [100 * row["scores"]["run"]["black_kept"] for row in rows]
    lines.append(_line("black kept, this run", [f"{value:.1f}" for value in kept], f"{statistics.mean(kept):.1f}"))
    return lines


def _line(name: str, cells: list[str], last: str) -> str:
    return "| " + " | ".join([name, *cells, last]) + " |"


def per_second(rows: list[dict[str, Any]]) -> str:
    """M_J of each second of the clip, averaged over the seeds."""
    seconds = zip(*(seconds_of(row["scores"]["run"]) for row in rows), strict=True)
    return ", ".join(f"{100 * statistics.mean(values):.1f}" for values in seconds)


if __name__ == "__main__":
    sys.exit(main())
