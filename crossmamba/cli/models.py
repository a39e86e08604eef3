"""`crossmamba models`: what `create_model` can build, and what it costs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from crossmamba.errors import UsageError

HELP = "list the models that can be built, count parameters and multiply-adds"
EXAMPLE = "crossmamba models 'shmamba*' --count"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, for example 'avs_*' (default: all)")
    parser.add_argument("--params", action="store_true", help="build each one (on no memory) and count its parameters")
    parser.add_argument(
        "--count",
        action="store_true",
        help="also count trainable parameters, those that receive gradient, and multiply-adds, the scan included",
    )
    parser.add_argument(
        "--seconds",
        type=int,
        nargs="+",
        metavar="T",
        help="lengths to count at (default: 10 60, segmentation 5; of actions frames: 16, or what the encoder takes)",
    )
    parser.add_argument("--side", type=int, default=224, help="pixels, for models on frames (default: 224)")
    parser.add_argument("--grid", type=int, nargs=2, metavar=("H", "W"), help="of stored picture features")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints one line per model."""
    from crossmamba.models import list_models

    names = list_models(args.pattern)
    if not names:
        raise UsageError(f"no model matches {args.pattern!r}; `crossmamba models` lists all of them")
    if args.count:
        return _print_counts([count_model(name, args.seconds, args.side, args.grid) for name in names], args.json)
    if args.seconds or args.grid:
        raise UsageError("--seconds and --grid are sizes for --count")
    counts = {name: parameter_count(name) for name in names} if args.params else {}
    if args.json:
        print(json.dumps([{"name": name} | ({"parameters": counts[name]} if counts else {}) for name in names]))
        return 0
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}s}  {counts[name] / 1e6:8.2f} M parameters" if counts else name)
    return 0


def parameter_count(name: str) -> int:
    """The number of parameters of a registered model, counted without allocating them."""
    import torch

    from crossmamba.models import create_model

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_model(name).parameters())


def count_model(
    name: str, seconds: list[int] | None = None, side: int = 224, grid: list[int] | None = None, **overrides: Any
) -> dict[str, Any]:
    """Parameters and multiply-adds of a registered model, counted without allocating or computing anything.

    Args:
        seconds: lengths T to count at; None: the usual ones. side: pixels. grid: (h, w) of stored picture features.
        overrides: arguments of the model.

    Returns:
        name, parameters, trainable, receiving_gradient, and under "forward" for each T: seconds, inputs (their shapes),
        multiply_adds, by_kind, uncounted (operators that may multiply and have no formula).
    """
    import torch

    from crossmamba.benchmarking.count import count_multiply_adds, count_parameters
    from crossmamba.models import create_model
    from crossmamba.models.examples import default_seconds, example_inputs, few_seconds, read_whole_questions

    with torch.device("meta"):
        model = read_whole_questions(create_model(name, **overrides))
    rows = []
    for length in seconds or default_seconds(model):
        sample = example_inputs(model, seconds=length, side=side, grid=tuple(grid) if grid else None)
        found = count_multiply_adds(model, *sample.inputs, **sample.named)
        rows.append(
            {
                "seconds": length,
                "inputs": sample.shapes,
                "multiply_adds": found.total,
                "by_kind": dict(found.by_kind),
                "uncounted": dict(found.uncounted),
            }
        )
    few = example_inputs(model, seconds=few_seconds(model), videos=2, side=side, grid=tuple(grid) if grid else None)
    parameters = count_parameters(model, *few.inputs, **few.named)  # 2 videos: some losses compare videos
    return {
        "name": name,
        "parameters": parameters.total,
        "trainable": parameters.trainable,
        "receiving_gradient": parameters.receiving,
        "forward": rows,
    }


def _print_counts(found: list[dict[str, Any]], as_json: bool) -> int:
    """Counts as JSON, or as text."""
    if as_json:
        print(json.dumps(found))
        return 0
    for model in found:
        print(
            f"{model['name']}: {model['parameters']:,} parameters, {model['trainable']:,} trainable, "
            f"{model['receiving_gradient']:,} receive gradient"
        )
        for row in model["forward"]:
            kinds = ", ".join(f"{kind} {value / 1e9:.4g}" for kind, value in row["by_kind"].items())
            print(f"  {row['multiply_adds'] / 1e9:.4g} G multiply-adds forward ({kinds}) for {row['inputs']}")
            for operator, calls in row["uncounted"].items():
                print(f"  not counted: {operator}, {calls} calls", file=sys.stderr)
    return 0
