"""Complete systems, one paper a file, by name."""

from crossmamba.models.av_mamba import AVMamba
from crossmamba.models.avqa import AVQAMaps, AVQAModel, AVQAOutput
from crossmamba.models.avs_mamba import AVSMamba, AVSOutput
from crossmamba.models.baselines.avst import AVST
from crossmamba.models.hub import from_pretrained, push_to_hub, read_card, save_pretrained
from crossmamba.models.mambavl import MambaVL, MambaVLOutput
from crossmamba.models.registry import create_model, list_models, model_entry, register_model
from crossmamba.models.shmamba import SHMamba

__all__ = [
    "AVST",
    "AVMamba",
    "AVQAMaps",
    "AVQAModel",
    "AVQAOutput",
    "AVSMamba",
    "AVSOutput",
    "MambaVL",
    "MambaVLOutput",
    "SHMamba",
    "create_model",
    "from_pretrained",
    "list_models",
    "model_entry",
    "push_to_hub",
    "read_card",
    "register_model",
    "save_pretrained",
]
