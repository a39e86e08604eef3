"""How what is wrong with a file of predictions is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

__all__ = ["told_problems"]

_SHOWN = 10  # names of one kind in the text


def told_problems(kinds: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """A line for each kind of problem that has names, with their number and the first of them.

    Args:
        kinds: what is wrong -> ids of the questions, segments, ... that it is wrong with.
    """
    for kind, names in kinds.items():
        if names:
            more = f" ... and {len(names) - _SHOWN} more (--json lists all)" if len(names) > _SHOWN else ""
            yield f"{kind} ({len(names)}): {', '.join(names[:_SHOWN])}{more}"
