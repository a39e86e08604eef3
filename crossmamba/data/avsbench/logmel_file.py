"""The pickled log-mel tensors that AVSBench publishes, read without running anything in them.

The official preprocessing wrote `pickle.dump(tensor)`, a plain pickle and not a `torch.save` archive, so
`torch.load(weights_only=True)` refuses the genuine files (tried with torch 2.13) and `pickle.load`, which the official
loaders use, would run whatever a stranger put there. Read here are
  * what `torch.save` writes, through `torch.load(weights_only=True)`;
  * a plain pickle of one tensor, through an unpickler that knows only the names that such a pickle uses; the bytes of
    the storage inside it again go through `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crossmamba.errors import DataError

__all__ = ["UnsafePickleError", "read_log_mel"]

EXAMPLE_SHAPE = (1, 96, 64)  # channel, frames of 10 ms, mel bands
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_SLACK = 2**20  # bytes that a file may take beyond its tensor


class UnsafePickleError(DataError):
    """A pickle asks for code other than what rebuilds one tensor."""


def read_log_mel(path: Path, seconds: int) -> Tensor:
    """The clip's log-mel examples, float32 (seconds, 1, 96, 64), detached (the published ones require grad).

    Raises:
        UnsafePickleError: the pickle names anything but the rebuilding of a tensor; nothing of it was run.
        DataError: the file is missing, too large, unreadable, of another shape or type, or holds NaN or infinity.
    """
    shape = (seconds, *EXAMPLE_SHAPE)
    try:
        data = _read_limited(path, 4 * 4 * torch.Size(shape).numel() + _SLACK)
        value = _unpickle(data)
    except FileNotFoundError as error:
        raise DataError(f"{path}: the log-mel file is missing") from error
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: refused: {error}; delete it and use audio='wav'") from error
    except Exception as error:  # broken pickles raise nearly every kind of exception
        if isinstance(error, DataError):
            raise
        reason = str(error).split("\n")[0][:160] or type(error).__name__
        raise DataError(f"{path}: cannot be read as a pickled log-mel tensor ({reason})") from error
    if not isinstance(value, Tensor):
        raise DataError(f"{path}: holds a {type(value).__name__}; expected a tensor of shape {shape}")
    if tuple(value.shape) != shape or not value.is_floating_point():
        raise DataError(f"{path}: holds {value.dtype} of shape {tuple(value.shape)}; expected floating point {shape}")
    tensor = value.detach().to(torch.float32, copy=True)
    if not torch.isfinite(tensor).all():
        raise DataError(f"{path}: the log-mel holds NaN or infinite values; compute it again from the wav")
    return tensor


def _read_limited(path: Path, limit: int) -> bytes:
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: the log-mel file is empty")
    if size > limit:
        raise DataError(f"{path}: {size} bytes; a log-mel of this length takes at most {limit}")
    return path.read_bytes()


def _unpickle(data: bytes) -> object:
    if zipfile.is_zipfile(io.BytesIO(data)):  # torch.save's archive
        return _safe_load(data)
    value = _TensorUnpickler(io.BytesIO(data)).load()
    # torch.save's older form starts with a number of its own.
    return _safe_load(data) if type(value) is int and value == _LEGACY_MAGIC else value


def _safe_load(data: bytes) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TypedStorage being deprecated: the files are what they are
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            asked = re.search(r"GLOBAL ([\w.]+)", str(error))
            if asked:
                raise UnsafePickleError(f"it asks for {asked[1]}, which no tensor needs") from error
            raise


class _TensorUnpickler(pickle.Unpickler):
    """Knows the names in `pickle.dumps(tensor)`; they are fresh closures, so no pickle can alter them for good."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)

        def rebuild(storage: Any, offset: int, size: tuple, stride: tuple, *_grad_and_hooks: object) -> Tensor:
            if not isinstance(storage, torch.storage.TypedStorage):
                raise UnsafePickleError("its tensor has no storage")
            return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)

        def load_storage(data: bytes) -> Any:
            return _safe_load(data)

        def hooks(*_: object) -> dict:
            return {}

        self._known: dict[tuple[str, str], Callable] = {
            ("torch._utils", "_rebuild_tensor_v2"): rebuild,
            ("torch.storage", "_load_from_bytes"): load_storage,
            ("collections", "OrderedDict"): hooks,
            ("_codecs", "encode"): lambda text, _encoding: text.encode("latin1"),  # bytes, in pickle protocols 0 to 2
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise UnsafePickleError(f"it asks for {module}.{name}, which no tensor needs")
        return self._known[module, name]
