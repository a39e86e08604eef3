"""Published log-mel pickles are read; hostile and broken ones are refused, and nothing in them runs."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path

import pytest
import torch
from avsbench_toy import log_mel_of

from crossmamba.data.avsbench.logmel_file import UnsafePickleError, read_log_mel
from crossmamba.errors import DataError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_pickles_of_a_tensor_are_read(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(log_mel_of(1).requires_grad_(), protocol=protocol))
    read = read_log_mel(path, 5)
    assert torch.equal(read, log_mel_of(1))
    assert not read.requires_grad
    read += 1  # its own memory


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_files_of_torch_save_are_read(tmp_path: Path, archive: bool) -> None:
    torch.save(log_mel_of(2).double(), tmp_path / "a.pkl", _use_new_zipfile_serialization=archive)
    read = read_log_mel(tmp_path / "a.pkl", 5)
    assert read.dtype == torch.float32
    assert torch.equal(read, log_mel_of(2))


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (os.mkdir, (str(self.path),))


class HostileStorage(Hostile):
    """A tensor's pickle whose storage bytes hold the attack."""

    def __reduce__(self) -> tuple:
        inner = pickle.dumps(Hostile(self.path))
        return (torch._utils._rebuild_tensor_v2, (_Loaded(inner), 0, (1,), (1,), False, collections.OrderedDict()))


class _Loaded:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def __reduce__(self) -> tuple:
        return (torch.storage._load_from_bytes, (self.data,))


@pytest.mark.parametrize("kind", [Hostile, HostileStorage])
@pytest.mark.parametrize("writer", ["pickle", "torch.save", "legacy"])
def test_hostile_pickles_are_refused_and_not_run(tmp_path: Path, kind: type[Hostile], writer: str) -> None:
    owned, path = tmp_path / "owned", tmp_path / "a.pkl"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(kind(owned)))
    else:
        torch.save(kind(owned), path, _use_new_zipfile_serialization=writer == "torch.save")
    with pytest.raises(UnsafePickleError if kind is Hostile else DataError, match=r"a\.pkl"):
        read_log_mel(path, 5)
    assert not owned.exists()


def test_known_names_cannot_be_altered_by_a_pickle(tmp_path: Path) -> None:
    """BUILD may set attributes on what a pickle got hold of: that must not outlive the reading."""
    state = b"N}\x8c\x0c__defaults__)s\x86b."  # (None, {"__defaults__": ()}), BUILD, STOP
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n" + state)
    with pytest.raises(DataError):
        read_log_mel(tmp_path / "a.pkl", 5)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps(log_mel_of(1)))
    assert torch.equal(read_log_mel(tmp_path / "b.pkl", 5), log_mel_of(1))
    assert torch.equal(pickle.loads(pickle.dumps(torch.ones(2))), torch.ones(2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"abc", "cannot be read"),
        (b"PK\x03\x04 no zip", "cannot be read"),
        (pickle.dumps(log_mel_of(1))[:900], "cannot be read"),
        (b"\x00" * 3_000_000, "3000000 bytes"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps(log_mel_of(1)[:4]), r"shape \(4, 1, 96, 64\); expected floating point \(5"),
        (pickle.dumps(log_mel_of(1).int()), "int32"),
        (pickle.dumps(log_mel_of(1) * torch.nan), "NaN"),
    ],
    ids=["empty", "text", "no zip", "truncated", "large", "list", "short", "integers", "nan"],
)
def test_broken_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_log_mel(tmp_path / "a.pkl", 5)
    assert "a.pkl" in str(caught.value)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        read_log_mel(tmp_path / "none.pkl", 5)
