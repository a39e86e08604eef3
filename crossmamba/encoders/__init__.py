"""Picture and sound encoders behind one small contract (base.py), with the remaps of published checkpoints beside each.

transformers is imported when an encoder that needs it is built, not before.
"""

from crossmamba.encoders.base import (
    Encoder,
    FrameEncoder,
    FrameFeatures,
    MotionEncoder,
    PictureEncoder,
    SoundEncoder,
    TextEncoder,
    TextFeatures,
)
from crossmamba.encoders.registry import (
    FRAME_ENCODERS,
    MOTION_ENCODERS,
    PICTURE_ENCODERS,
    SOUND_ENCODERS,
    TEXT_ENCODERS,
    VIDEO_ENCODERS,
    build_frame_encoder,
    build_motion_encoder,
    build_picture_encoder,
    build_sound_encoder,
    build_text_encoder,
    build_video_encoder,
)
from crossmamba.encoders.small_video import SmallVideoEncoder
from crossmamba.encoders.video_base import CLS_PLACES, SCAN_ORDERS, VideoEncoder, VideoTokens, arrange_tokens
from crossmamba.encoders.weights import load_encoder_weights, read_state_dict

__all__ = [
    "CLS_PLACES",
    "FRAME_ENCODERS",
    "MOTION_ENCODERS",
    "PICTURE_ENCODERS",
    "SCAN_ORDERS",
    "SOUND_ENCODERS",
    "TEXT_ENCODERS",
    "VIDEO_ENCODERS",
    "Encoder",
    "FrameEncoder",
    "FrameFeatures",
    "MotionEncoder",
    "PictureEncoder",
    "SmallVideoEncoder",
    "SoundEncoder",
    "TextEncoder",
    "TextFeatures",
    "VideoEncoder",
    "VideoTokens",
    "arrange_tokens",
    "build_frame_encoder",
    "build_motion_encoder",
    "build_picture_encoder",
    "build_sound_encoder",
    "build_text_encoder",
    "build_video_encoder",
    "load_encoder_weights",
    "read_state_dict",
]
