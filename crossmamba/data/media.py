"""Media reading and writing. Everything that opens a picture, sound or video file goes through here."""

from __future__ import annotations

from crossmamba.data.media_write import VideoWriter, write_video

__all__ = ["VideoWriter", "write_video"]
