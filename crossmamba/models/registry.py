"""Models by name: a builder with the values that make it that model."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from crossmamba.errors import UsageError


@dataclass(frozen=True)
class ModelEntry:
    """A registered name: `builder(**defaults)` makes the model."""

    name: str
    builder: Callable[..., nn.Module]
    defaults: dict[str, Any]


_MODELS: dict[str, ModelEntry] = {}


def register_model(name: str, builder: Callable[..., nn.Module], **defaults: Any) -> None:
    """Registers `builder(**defaults)` as `<system>_<encoder or size>`. A name is taken once."""
    if name in _MODELS:
        raise ValueError(f"the model name {name!r} is taken")
    _MODELS[name] = ModelEntry(name, builder, defaults)


def list_models(pattern: str = "*") -> list[str]:
    """Registered names that match a shell pattern, sorted: `list_models("avs_*")`."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def model_entry(name: str) -> ModelEntry:
    """The entry of that name; UsageError with the nearest names if there is none."""
    if name not in _MODELS:
        raise UsageError(f"there is no model {name!r}; `crossmamba models` lists: {', '.join(list_models())}")
    return _MODELS[name]


def create_model(name: str, **overrides: Any) -> nn.Module:
    """Builds a registered model with fresh weights.

    Args:
        name: one of `list_models()`. overrides: arguments of its builder, in place of its defaults.

    Raises:
        UsageError: an unknown name, or an override that the builder does not have.
    """
    entry = model_entry(name)
    known = inspect.signature(entry.builder).parameters
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise UsageError(f"{name} has no argument {', '.join(unknown)}; it has: {', '.join(known)}")
    model = entry.builder(**{**entry.defaults, **overrides})
    model.registered_name, model.overrides = name, dict(overrides)
    return model
