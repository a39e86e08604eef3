"""The command `crossmamba`. Verbs are modules of this package, imported only when called.

A verb module defines `HELP` (one line), `EXAMPLE` (a working command), `configure(parser)` and `run(args) -> int`.
A module with `RAW_ARGUMENTS = True` gets its arguments untouched as `run(argv)` (Lightning's CLI parses its own).

Exit codes: 0 fine, 1 internal error, 2 wrong usage, 3 bad data.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from crossmamba.errors import CrossmambaError, DataError, UsageError

VERBS = (
    "demo",
    "train",
    "eval",
    "study",
    "predict",
    "score",
    "data",
    "questions",
    "models",
    "configs",
    "bench",
    "doctor",
)


def main(argv: list[str] | None = None) -> int:
    """Runs one verb and returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    verb = argv[0] if argv and argv[0] in VERBS else None
    try:
        if verb is None:
            _overview().parse_args(argv)
            _overview().print_help()
            return 2
        module = importlib.import_module(f"crossmamba.cli.{verb}")
        if getattr(module, "RAW_ARGUMENTS", False):
            return int(module.run(argv[1:]) or 0)
        return int(module.run(verb_parser(verb).parse_args(argv[1:])) or 0)
    except UsageError as error:
        return _fail(error, 2)
    except DataError as error:
        return _fail(error, 3)
    except CrossmambaError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        print("crossmamba: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the reader of our output has gone
        return 0


def verb_parser(verb: str) -> argparse.ArgumentParser:
    """The argument parser of a verb that has one (not of those with RAW_ARGUMENTS)."""
    module = importlib.import_module(f"crossmamba.cli.{verb}")
    parser = argparse.ArgumentParser(
        prog=f"crossmamba {verb}",
        description=module.HELP,
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.configure(parser)
    return parser


def _fail(error: Exception, code: int) -> int:
    print(f"crossmamba: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _overview() -> argparse.ArgumentParser:
    from crossmamba import __version__

    lines = [f"  {verb:10s} {importlib.import_module('crossmamba.cli.' + verb).HELP}" for verb in VERBS]
    parser = argparse.ArgumentParser(
        prog="crossmamba",
        usage="crossmamba VERB [options]   (crossmamba VERB --help shows an example)",
        description="State-space models for sound, picture and language.\n\nverbs:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"crossmamba {__version__}")
    parser.add_argument("verb", nargs="?", choices=VERBS, help=argparse.SUPPRESS)
    return parser
