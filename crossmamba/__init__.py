"""crossmamba: state-space models for sound, picture and language.

Heavy parts are imported on first use, so `import crossmamba` is quick and needs no training extras.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Mamba": "crossmamba.blocks.mamba",
    "SSMFusion": "crossmamba.blocks.ssm_fusion",
    "selective_scan_fn": "crossmamba.ops",
    "selective_state_update": "crossmamba.ops",
    "list_models": "crossmamba.models",
    "create_model": "crossmamba.models",
    "from_pretrained": "crossmamba.models",
    "save_pretrained": "crossmamba.models",
    "push_to_hub": "crossmamba.models",
    "load_pipeline": "crossmamba.predict",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'crossmamba' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
