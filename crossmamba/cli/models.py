"""`crossmamba models`: what `create_model` can build."""

from __future__ import annotations

import argparse
import json

from crossmamba.errors import UsageError

HELP = "list the models that can be built"
EXAMPLE = "crossmamba models 'avs_*' --params"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern, for example 'avs_*' (default: all)")
    parser.add_argument("--params", action="store_true", help="build each one (on no memory) and count its parameters")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def run(args: argparse.Namespace) -> int:
    """Prints one line per model."""
    from crossmamba.models import list_models

    names = list_models(args.pattern)
    if not names:
        raise UsageError(f"no model matches {args.pattern!r}; `crossmamba models` lists all of them")
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
