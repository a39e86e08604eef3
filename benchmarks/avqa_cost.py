"""What the models of audio-visual question answering cost, at full size on stored features.

    python benchmarks/avqa_cost.py                  # results/avqa_cost.md; about half an hour on a quiet 2-core machine
    python benchmarks/avqa_cost.py --small --lengths 2 4 --standard 2 --budget 0.1 --out /tmp/cost      # a trial

One sample is one video with one question. Training is a step: forward, cross-entropy and the model's own losses,
backward, Adam. Every measurement runs in a process of its own. Peak memory is by how much the process' memory (on a
GPU: the allocator's) rose above the model and its inputs; on the first step, before any timing.

Two comparisons over the number of seconds T:
* AV-Mamba against itself with the cross-attention baseline in time. A single question vector is the query there, so
  that baseline is linear in T as well: the comparison is about constants, not about orders.
* SHMamba against itself with full self-attention over the T seconds in place of its four Mamba blocks (four
  Transformer layers of as many parameters), which is quadratic in T.
In both, what is not time (grounding, encoders) is the same on both sides and may hide the difference, so the parts that
differ are also measured by themselves, on (1, T, width) inputs.

What was measured is kept in a json file beside the tables; a run that was stopped goes on there (--fresh forgets it).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cost_common import add_store_options, exponent, machine, measure, measure_cells, number, table_row, write

RESULTS = Path(__file__).resolve().parent / "results" / "avqa_cost"
CASES = {
    "AV-Mamba": ("av_mamba", {}),
    "AV-Mamba, cross-attention in time": ("av_mamba", {"time": "attention"}),
    "AVST": ("avst", {}),
    "SHMamba": ("shmamba", {}),
    "SHMamba, Transformer in time": ("shmamba", {}),
}
GROWING = tuple(label for label in CASES if label != "AVST")
TRANSFORMER = "SHMamba, Transformer in time"
MODES = ("inference", "training")
SMALL = {"seconds": 2, "batch": 1, "small": True}
HEADS = 4


def build(label: str, small: bool) -> Any:
    """The model of a case."""
    from torch import nn

    from crossmamba import create_model
    from crossmamba.models.shmamba import TemporalMamba

    name, overrides = CASES[label]
    model = create_model(name + "_small" * small, **overrides)
    if label == TRANSFORMER:
        width = model.audio_proj.out_features
        block = sum(p.numel() for p in model.temporal.audio[0].parameters())
        hidden = round((block - 4 * width**2 - 9 * width) / (2 * width + 1))  # as many parameters as a Mamba block
        layers = [
            nn.TransformerEncoderLayer(width, HEADS, hidden, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(4)
        ]
        model.temporal = TemporalMamba(layers[:2], layers[2:])
    return model


def time_part(label: str, model: Any, seconds: int, device: str) -> tuple[Any, tuple[Any, ...]]:
    """The part of the model that mixes seconds, and its inputs: question (1, D) if it takes one, (1, T, D) each."""
    import torch

    if "AV-Mamba" in label:
        width = model.join.out_features
        question = (torch.randn(1, width, device=device),)
        part = model.time
    else:
        width, question, part = model.audio_proj.out_features, (), model.temporal
    sequences = (torch.randn(1, seconds, width, device=device, requires_grad=True) for _ in range(2))
    return part, (*question, *sequences)


def program(label: str, part: str, mode: str, seconds: int, batch: int, small: bool, device: str) -> Callable[[], Any]:
    """A function that runs one step of that kind."""
    import torch
    import torch.nn.functional as F

    from crossmamba.models.examples import example_inputs

    torch.manual_seed(0)
    model = build(label, small).to(device)
    sample = example_inputs(model, seconds=seconds, videos=batch, device=device)
    inputs, target = sample.inputs, torch.zeros(batch, dtype=torch.int64, device=device)
    if part == "time":
        model, inputs = time_part(label, model, seconds, device)
    model.train(mode == "training")
    if mode == "inference":

        def infer() -> Any:
            with torch.inference_mode():
                return model(*inputs)

        return infer
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        out = model(*inputs)
        if part == "time":
            loss = sum(value.square().mean() for value in out if isinstance(value, torch.Tensor))
        else:
            loss = F.cross_entropy(out.logits, target) + sum(out.losses.values())
        loss.backward()
        optimizer.step()

    return step


def count(label: str, small: bool, seconds: int) -> dict[str, Any]:
    """Parameters and multiply-adds of a case, by our own counter (no memory, no arithmetic)."""
    import torch

    from crossmamba.benchmarking.count import count_multiply_adds, count_parameters
    from crossmamba.models.examples import example_inputs, read_whole_questions

    with torch.device("meta"):
        model = read_whole_questions(build(label, small))
    one, two = (example_inputs(model, seconds=seconds, videos=videos) for videos in (1, 2))
    parameters, found = count_parameters(model, *two.inputs), count_multiply_adds(model, *one.inputs)
    if found.uncounted:
        sys.exit(f"{label}: no formula for {dict(found.uncounted)}")
    return {**vars(parameters), "multiply_adds": found.total, "scan": found.by_kind["scan"], "inputs": one.shapes}


def cells(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Everything that is measured, as arguments of `program`."""
    common = {"small": args.small, "device": args.device}
    for mode in MODES:
        for seconds in args.standard:
            for label in CASES:
                yield {"label": label, "part": "model", "mode": mode, "seconds": seconds, "batch": args.batch, **common}
        for seconds in args.lengths:
            for label in GROWING:
                for part in ("model", "time"):
                    yield {"label": label, "part": part, "mode": mode, "seconds": seconds, "batch": 1, **common}


class Report:
    """The tables, from what was counted and measured.

    Args:
        args: the command's. counts: by label and T. found: by `key` of a cell.
    """

    def __init__(self, args: argparse.Namespace, counts: dict[str, Any], found: dict[str, Any]) -> None:
        self.args, self.counts, self.found = args, counts, found

    def cell(self, label: str, part: str, mode: str, seconds: int, batch: int, what: str) -> float | str:
        """Milliseconds per sample ("ms") or MiB per step ("mib"), or why there is none."""
        args = self.args
        cell = {"label": label, "part": part, "mode": mode, "seconds": seconds, "batch": batch}
        return number(self.found[key({**cell, "small": args.small, "device": args.device})], what, samples=batch)

    def text(self) -> str:
        """The whole page."""
        args, batch = self.args, self.args.batch
        lines = [
            "# Cost of the question-answering models",
            "",
            f"`python benchmarks/avqa_cost.py` on {machine(args.device)}. Stored features, float32"
            f"{', the small models' if args.small else ''}. Made by the script; its first lines say how.",
            "",
            f"## Per sample, batch {batch}",
            "",
            "| model | T | parameters | trainable | receive gradient | G multiply-adds | of them scan | ms inference "
            "| ms training | peak MiB inference | peak MiB training |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        for seconds in args.standard:
            for label in CASES:
                counted = self.counts[f"{label}/{seconds}"]
                numbers = [
                    self.cell(label, "model", mode, seconds, batch, what) for what in ("ms", "mib") for mode in MODES
                ]
                parameters = [f"{counted[name]:,}" for name in ("total", "trainable", "receiving")]
                costs = [counted["multiply_adds"] / 1e9, counted["scan"] / 1e9, *numbers]
                lines.append(table_row(label, str(seconds), *parameters, numbers=costs))
        lines += [
            "",
            "Inputs: " + "; ".join(f"{x} {self.counts[f'{x}/{args.standard[0]}']['inputs']}" for x in CASES) + ". "
            "Multiply-adds are of one sample's forward pass; a training step is about three times as much. Peak memory "
            f"is of a step with {batch} samples, above the model and the inputs.",
        ]
        for part, title in (("model", "Whole models"), ("time", "The parts that mix seconds, by themselves")):
            for what, unit in (("ms", "milliseconds"), ("mib", "peak MiB")):
                lines += ["", f"## {title}: {unit} over T, batch 1", "", *self.growth(part, what)]
        lines += [
            "",
            "The last column is the exponent p of cost ~ T^p between the last two lengths: 1 is linear, 2 quadratic. "
            "The cross-attention baseline has one question as its query and is linear in T like the scans; only the "
            "Transformer's self-attention is quadratic, and its linear layers outweigh that while T is small against "
            "the width.",
        ]
        return "\n".join(lines) + "\n"

    def growth(self, part: str, what: str) -> list[str]:
        """A table over T."""
        lengths = self.args.lengths
        lines = ["| model | step | " + " | ".join(f"T {n}" for n in lengths) + " | exponent |"]
        lines.append("|---|---|" + "---|" * (len(lengths) + 1))
        for mode in MODES:
            for label in GROWING:
                numbers = [self.cell(label, part, mode, seconds, 1, what) for seconds in lengths]
                lines.append(table_row(label, mode, numbers=numbers, last=exponent(numbers, lengths)))
        return lines


def key(cell: dict[str, Any]) -> str:
    """A cell's name in the json file."""
    return "/".join(str(cell[name]) for name in ("label", "part", "mode", "seconds", "batch", "small", "device"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=[10, 30, 100, 300, 1000], help="T of the growth tables"
    )
    parser.add_argument("--standard", type=int, nargs="+", default=[10, 60], help="T of the first table")
    parser.add_argument("--batch", type=int, default=4, help="samples per step of the first table")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds of timing per measurement, at least 3 steps")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB that one measurement may take")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--small", action="store_true", help="the small models, for a trial")
    add_store_options(parser, RESULTS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(program, args.child, SMALL, args.budget, args.memory)))
        return
    found = measure_cells(__file__, cells(args), key, args, machine(args.device))
    counts = {f"{label}/{seconds}": count(label, args.small, seconds) for seconds in args.standard for label in CASES}
    text = Report(args, counts, found).text()
    write(args.out.with_suffix(".md"), text)
    print(text)


if __name__ == "__main__":
    main()
