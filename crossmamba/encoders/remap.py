"""Helpers for translating published state dicts; each encoder's own names stand beside it, in its file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from crossmamba.errors import CheckpointError

__all__ = ["listing", "rename", "select_encoder"]

_WRAPPERS = ("module.", "model.", "encoder_backbone.", "backbone.")


def select_encoder(state_dict: Mapping[str, Tensor], wrappers: tuple[str, ...]) -> dict[str, Tensor]:
    """The part of a checkpoint that is the encoder, without the names of the modules around it.

    Wrappers known everywhere are `module.` (DataParallel), `model.`, `backbone.` and `encoder_backbone.` (whole models
    of AVSBench and its heirs). Where a wrapper occurs, only the keys under it are kept: the others are other parts of
    that model. Nothing can get lost unseen this way, because loading asks for every key of the encoder.

    Args:
        wrappers: further prefixes, each with its dot.
    """
    selected = dict(state_dict)
    found = True
    while found:
        found = False
        for wrapper in (*_WRAPPERS, *wrappers):
            inner = {key[len(wrapper) :]: value for key, value in selected.items() if key.startswith(wrapper)}
            if inner:
                selected, found = inner, True
    return selected


def rename(
    state_dict: Mapping[str, Tensor], translate: Callable[[str], str | None], dropped: tuple[str, ...], layout: str
) -> dict[str, Tensor]:
    """Translate every key, leaving out those that start with one of `dropped`.

    Args:
        translate: published key -> own key, None if the layout has no such key.
        layout: the layout's name, for the message.

    Raises:
        CheckpointError: lists the keys that `translate` does not know.
    """
    renamed, unknown = {}, []
    for key, value in state_dict.items():
        if key.startswith(dropped):
            continue
        target = translate(key)
        if target is None:
            unknown.append(key)
        else:
            renamed[target] = value
    if unknown:
        raise CheckpointError(f"{len(unknown)} of {len(state_dict)} keys are not of the {layout}: {listing(unknown)}")
    return renamed


def listing(names: Iterable[str], shown: int = 8) -> str:
    """The first few names and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - shown} more" if len(ordered) > shown else ""
    return ", ".join(ordered[:shown]) + more
