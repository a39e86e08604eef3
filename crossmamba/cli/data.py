"""`crossmamba data synth|verify|extract`: make a synthetic data set, check one on disk, compute a set's features.

Each action is a module `data_<action>` of this package with `HELP`, `DESCRIPTION`, `EXAMPLE`, `configure(parser)` and
`run(args) -> int`, imported when the verb is.
"""

from __future__ import annotations

import argparse
from types import ModuleType

from crossmamba.cli import data_extract, data_synth, data_verify

HELP = "make a synthetic data set, check one on disk, or compute a set's features"
EXAMPLE = """crossmamba data synth avsbench-ms3 data/synthetic --clips 1000,100,300 --size 64 --seed 0
  crossmamba data verify avsbench-ms3 data/synthetic
  crossmamba data extract folder my/videos --features vggish --weights vggish=vggish-10086976.pth"""
ACTIONS: dict[str, ModuleType] = {"synth": data_synth, "verify": data_verify, "extract": data_extract}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(ACTIONS))
    for name, module in ACTIONS.items():
        module.configure(
            actions.add_parser(
                name,
                help=module.HELP,
                description=module.DESCRIPTION,
                epilog=f"example:\n  {module.EXAMPLE}",
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
        )


def run(args: argparse.Namespace) -> int:
    """Runs the chosen action."""
    return int(ACTIONS[args.action].run(args))
