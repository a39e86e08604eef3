"""The kernels' shared library: found, loaded, and called through ctypes. It links neither torch nor Python.

OpenMP is not linked either: the library is loaded where torch's own OpenMP is already in sight, so that both share one
pool of threads. In a forked child that pool is gone, and using it would hang: there the kernels run on one thread.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from array import array
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

ABI = 2  # CROSSMAMBA_ABI of kernels/src/scan.h
INSTRUCTION_SETS = {"baseline": 0, "avx2": 1, "avx512": 2}
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
STATUS = {1: "no memory for the kernels' scratch", 2: "the processor lacks that instruction set"}
PROBES = {
    "exp": (0, 1 << 22),
    "fma": (1, 1 << 22),
    "read": (2, 4),
    "core": (3, 1 << 13),
    "core backward": (4, 1 << 12),
    "fma from L1": (5, 1 << 22),
}

_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def threads() -> int:
    """Threads for one call: torch's number, or 1 in a forked process."""
    return 1 if _forked else torch.get_num_threads()


class Library:
    """The loaded kernels.

    Attributes:
        path: the file.
        isas: names of the instruction sets that are built in and that this processor has, best first.
    """

    def __init__(self, path: Path) -> None:
        _share_openmp()
        self.path = path
        self._dll = dll = ctypes.CDLL(str(path))
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        dll.crossmamba_abi.restype = number
        if dll.crossmamba_abi() != ABI:
            raise OSError(
                f"{path} has version {dll.crossmamba_abi()} of the kernels' interface, this crossmamba needs {ABI}: "
                "run pip install ./kernels again"
            )
        self._functions: dict[str, Callable[..., int]] = {}
        for name, result, arguments in (
            ("isas", number, []),
            ("splits", number, [pointer, number]),
            ("forward", ctypes.c_int, [pointer, number, number]),
            ("backward", ctypes.c_int, [pointer, number, number]),
            ("step", ctypes.c_int, [pointer, number, number]),
            ("probe", ctypes.c_double, [number, number, number, number]),
            ("poison", None, [number]),
        ):
            function = getattr(dll, f"crossmamba_{name}")
            function.restype, function.argtypes = result, arguments
            self._functions[name] = function
        found = dll.crossmamba_isas()
        self.isas = [name for name, bit in reversed(INSTRUCTION_SETS.items()) if found >> bit & 1]

    def call(self, name: str, fields: list[int], isa: int, count: int) -> None:
        """Runs forward, backward or step, with that many threads, on a struct given as its 8-byte fields in order."""
        struct = array("q", fields)  # quicker to make than an array of ctypes
        status = self._functions[name](struct.buffer_info()[0], count, isa)
        if status:
            raise RuntimeError(f"native scan: {STATUS.get(status, status)}")

    def splits(self, fields: list[int], count: int) -> int:
        """First axis of the gradients of B and C in a backward call with that many threads."""
        struct = array("q", fields)
        return self._dll.crossmamba_splits(struct.buffer_info()[0], count)

    def probe(self, what: str, count: int, isa: str) -> float:
        """A limit of the machine with that many threads; see the function `probe`."""
        number, repeats = PROBES[what]
        return self._dll.crossmamba_probe(number, count, INSTRUCTION_SETS[isa], repeats)

    def poison(self, on: bool) -> None:
        """See `poison_scratch`."""
        self._dll.crossmamba_poison(int(on))


def _share_openmp() -> None:
    """Makes the OpenMP runtime that torch has loaded visible to the kernels. Other packages may have brought theirs."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:  # not Linux: the library brings what it needs
        return
    paths = {Path(fields[5]) for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6}
    loaded = sorted(path for path in paths if re.match(r"lib(g?omp|iomp5)\b.*\.so", path.name))
    packages = Path(torch.__file__).parents[1]
    homes = {packages / "torch" / "lib", packages / "torch.libs"}
    of_torch = [path for path in loaded if path.parent in homes]
    chosen = (of_torch or loaded or [Path("libgomp.so.1")])[0]
    ctypes.CDLL(str(chosen), mode=ctypes.RTLD_GLOBAL)


@cache
def _load() -> tuple[Library | None, str | None]:
    """The library, or why there is none."""
    if sys.maxsize < 2**32:
        return None, "needs a 64-bit Python"
    path = os.environ.get("CROSSMAMBA_KERNELS")
    if path is None:
        try:
            import crossmamba_kernels
        except ImportError:
            return None, "crossmamba-kernels is not installed: pip install ./kernels (needs a C++ compiler)"
        path = str(crossmamba_kernels.library_path())
    try:
        return Library(Path(path)), None
    except (OSError, AttributeError) as error:
        return None, f"the kernels do not load: {error}"


def why_no_library() -> str | None:
    """None if the kernels are there, else why not."""
    return _load()[1]


def native_library() -> Library:
    """The loaded kernels. Raises RuntimeError if there are none."""
    found, reason = _load()
    if found is None:
        raise RuntimeError(f"no native kernels: {reason}")
    return found


def pointer(tensor: Tensor | None) -> int:
    """Where a tensor's data lies, 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


NO_ARRAY = [0, 0, 0, 0, 0, 0, 0]


def probe(what: str, threads: int | None = None, isa: str | None = None) -> float:
    """A limit of this machine, measured with the kernels' own instructions.

    Args:
        what: "exp" (exponentials a second), "fma" (float operations a second), "fma from L1" (the same, each with an
            operand from the first cache), "read" (bytes a second from memory), "core" or "core backward" (state updates
            a second of the forward or backward scan's inner loop on data in the first cache).
        threads: default torch's number. isa: default the best.
    """
    found = native_library()
    return found.probe(what, threads or torch.get_num_threads(), isa or found.isas[0])


def poison_scratch(on: bool) -> None:
    """For tests: fill the kernels' scratch memory with NaN whenever it is taken."""
    native_library().poison(on)
