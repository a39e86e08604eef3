"""Checkpoints that must not load: each ends in one CheckpointError that says what to do, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from crossmamba.encoders import build_sound_encoder, load_encoder_weights, read_state_dict
from crossmamba.encoders.base import SoundEncoder
from crossmamba.encoders.pvt_v2 import PvtV2, PvtV2Size
from crossmamba.errors import CheckpointError


@pytest.fixture
def encoder() -> SoundEncoder:
    return build_sound_encoder("small_sound", dim=8, width=8)


class Evil:
    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.flag}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(tmp_path: Path, encoder: SoundEncoder, zipped: bool) -> None:
    flag, path = tmp_path / "executed", tmp_path / "evil.pth"
    torch.save({"features.0.weight": Evil(flag)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused, because it asks for \S*system"):
        load_encoder_weights(encoder, path)
    assert not flag.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.pth", b"<html>not found</html>", "not a torch checkpoint"),
        ("empty.pth", b"", "damaged or truncated"),
        ("page.safetensors", b"<html>not found</html>", "damaged safetensors"),
        ("empty.safetensors", b"", "damaged safetensors"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files(tmp_path: Path, encoder: SoundEncoder, share: float, zipped: bool) -> None:
    path = tmp_path / "cut.pth"
    torch.save(encoder.state_dict(), path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"cut\.pth: .*damaged"):
        load_encoder_weights(encoder, path)


def test_missing_file_says_where_to_get_it(tmp_path: Path) -> None:
    encoder = PvtV2(PvtV2Size((16, 20, 40, 48), (1, 1, 1, 1)))
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: no such file.*https://github.com/whai362/PVT"):
        load_encoder_weights(encoder, tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="no such file"):
        load_encoder_weights(encoder, tmp_path)


def test_keys_and_shapes_that_do_not_fit_are_listed(tmp_path: Path, encoder: SoundEncoder) -> None:
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state = {key: value + 1 for key, value in before.items()}
    state["head.9.weight"] = state.pop("head.0.weight")
    state["head.2.bias"] = torch.zeros(9)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(CheckpointError) as error:
        load_encoder_weights(encoder, tmp_path / "other.pth")
    for part in (
        "1 keys are missing: head.0.weight",
        "1 keys fit nothing: head.9.weight",
        "1 tensors have another shape: head.2.bias (9,) instead of (8,)",
    ):
        assert part in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_contents_other_than_tensors(tmp_path: Path) -> None:
    torch.save({"features.0.weight": [1, 2]}, tmp_path / "lists.pth")
    with pytest.raises(CheckpointError, match=r"tensors only.*features\.0\.weight"):
        read_state_dict(tmp_path / "lists.pth")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    with pytest.raises(CheckpointError, match="no dict of tensors"):
        read_state_dict(tmp_path / "tensor.pth")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://only/two", "expected hf://OWNER/REPO/FILE"),
        ("hf://owner/repo/pytorch_model.bin", r"only \.safetensors"),
    ],
)
def test_hub_addresses_are_checked_before_any_connection(source: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(source)


def test_hub_file_is_asked_for_by_repo_file_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from safetensors.torch import save_file

    asked = []

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        asked.append((repo_id, filename, revision))
        if repo_id == "owner/offline":
            raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand more")
        save_file({"a": torch.ones(2)}, tmp_path / "file.safetensors")
        return str(tmp_path / "file.safetensors")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert torch.equal(read_state_dict("hf://owner/repo/sub/m.safetensors@v1")["a"], torch.ones(2))
    read_state_dict("hf://owner/repo/m.safetensors")
    assert asked == [("owner/repo", "sub/m.safetensors", "v1"), ("owner/repo", "m.safetensors", None)]
    with pytest.raises(CheckpointError, match=r"cannot be had from the Hub \(no connection\)"):
        read_state_dict("hf://owner/offline/m.safetensors")
