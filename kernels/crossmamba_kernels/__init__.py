"""The compiled kernels of crossmamba: one shared library with a C interface, loaded by `crossmamba.ops.native`."""

from pathlib import Path

__version__ = "0.1.0"


def library_path() -> Path:
    """The shared library's file."""
    return Path(__file__).with_name("libcrossmamba_kernels.so")
