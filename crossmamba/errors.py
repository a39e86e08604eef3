"""The package's errors. Each message says what was wrong, where, and what to do next.

The command line maps them to exit codes: `UsageError` 2, `DataError` (and its subclasses) 3, anything else 1.
"""


class CrossmambaError(ValueError):
    """Base of all errors that this package raises on purpose."""


class UsageError(CrossmambaError):
    """The command or call was wrong (exit code 2)."""


class DataError(CrossmambaError):
    """A file, folder or annotation is missing, unreadable or contradicts its format (exit code 3)."""


class MediaError(DataError):
    """A picture, sound or video file cannot be used: corrupt, empty, over a limit, or without a needed stream."""


class CheckpointError(DataError):
    """A checkpoint is missing, unsafe, corrupt, or does not fit the model."""
