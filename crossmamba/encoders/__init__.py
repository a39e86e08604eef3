"""Picture and sound encoders behind one small contract (base.py), with the remaps of published checkpoints beside each.

transformers is imported when an encoder that needs it is built, not before.
"""

from crossmamba.encoders.base import Encoder, PictureEncoder, SoundEncoder
from crossmamba.encoders.registry import (
    PICTURE_ENCODERS,
    SOUND_ENCODERS,
    build_picture_encoder,
    build_sound_encoder,
)
from crossmamba.encoders.weights import load_encoder_weights, read_state_dict

__all__ = [
    "PICTURE_ENCODERS",
    "SOUND_ENCODERS",
    "Encoder",
    "PictureEncoder",
    "SoundEncoder",
    "build_picture_encoder",
    "build_sound_encoder",
    "load_encoder_weights",
    "read_state_dict",
]
