"""Complete systems, one paper a file, by name."""

from crossmamba.models.avs_mamba import AVSMamba, AVSOutput
from crossmamba.models.hub import from_pretrained, push_to_hub, read_card, save_pretrained
from crossmamba.models.registry import create_model, list_models, model_entry, register_model

__all__ = [
    "AVSMamba",
    "AVSOutput",
    "create_model",
    "from_pretrained",
    "list_models",
    "model_entry",
    "push_to_hub",
    "read_card",
    "register_model",
    "save_pretrained",
]
