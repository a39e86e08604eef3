"""`crossmamba data`: a set that is rendered passes its own check, and a damaged one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossmamba.cli import main


@pytest.fixture(scope="module", params=["avsbench-ms3", "avsbench-s4"])
def rendered(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp("synthetic")
    arguments = ["--clips", "3,1,2", "--size", "32", "--mp4", "1", "--workers", "1", "--json"]
    assert main(["data", "synth", request.param, str(root), *arguments]) == 0
    return request.param, root


def test_a_rendered_set_is_whole(rendered: tuple[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    dataset, root = rendered
    assert main(["data", "verify", dataset, str(root), "--json"]) == 0, capsys.readouterr().out
    json.loads(capsys.readouterr().out)


def test_a_damaged_set_is_exit_code_3_and_names_the_file(
    rendered: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, root = rendered
    frame = sorted(root.rglob("visual_frames/**/*_1.png"))[0]
    whole = frame.read_bytes()
    try:
        frame.write_bytes(whole[:20])
        assert main(["data", "verify", dataset, str(root)]) == 3
        assert frame.name in capsys.readouterr().out
    finally:
        frame.write_bytes(whole)


def test_another_set_is_not_overwritten_unasked(rendered: tuple[str, Path]) -> None:
    dataset, root = rendered
    assert main(["data", "synth", dataset, str(root), "--clips", "2,1,1", "--workers", "1", "--json"]) == 2


@pytest.mark.parametrize("clips", ["a", "1,2", "-3", ""])
def test_wrong_counts_are_refused(clips: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", "synth", "avsbench-ms3", str(tmp_path), f"--clips={clips}"])
    assert end.value.code == 2


def test_nothing_to_verify_is_exit_code_3_or_2(tmp_path: Path) -> None:
    assert main(["data", "verify", "avsbench-ms3", str(tmp_path / "absent")]) in (2, 3)
