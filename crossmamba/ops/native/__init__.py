"""The native CPU back end: C++ kernels from the distribution `crossmamba-kernels` (folder `kernels/`)."""

from crossmamba.ops.native.backend import NativeBackend
from crossmamba.ops.native.library import (
    INSTRUCTION_SETS,
    Library,
    native_library,
    poison_scratch,
    probe,
    why_no_library,
)

__all__ = [
    "INSTRUCTION_SETS",
    "Library",
    "NativeBackend",
    "native_library",
    "poison_scratch",
    "probe",
    "why_no_library",
]
