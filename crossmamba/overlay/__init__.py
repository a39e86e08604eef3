"""Videos with what a model says drawn on them: masks of what sounds (`masks`), names of actions (`actions`).

The picture keeps its own rate and sound; below it runs a strip over time with a cursor (`film`).
"""

from crossmamba.overlay.actions import ActionFilm, TimedName, write_actions
from crossmamba.overlay.masks import write_overlay

__all__ = ["ActionFilm", "TimedName", "write_actions", "write_overlay"]
