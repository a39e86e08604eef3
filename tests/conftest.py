"""Fixtures for the whole suite."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import pytest

from crossmamba.cli import VERBS, verb_parser


@pytest.fixture
def parses() -> Callable[[Sequence[str]], None]:
    """Fails the test unless the arguments after `crossmamba` are accepted by the verb's parser (nothing is run)."""

    def check(argv: Sequence[str]) -> None:
        assert argv, "a bare `crossmamba` does nothing"
        verb, *rest = argv
        if verb.startswith("-"):
            return
        assert verb in VERBS, f"no verb {verb!r}"
        module = importlib.import_module(f"crossmamba.cli.{verb}")
        if getattr(module, "RAW_ARGUMENTS", False):
            module.check_arguments(rest)
            return
        try:
            verb_parser(verb).parse_args(rest)
        except SystemExit as end:
            if end.code:
                pytest.fail(f"not accepted: crossmamba {' '.join(argv)}")

    return check
