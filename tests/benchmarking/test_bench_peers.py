"""Peers: each installed one computes what ours computes before it is timed, and anyone can add one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossmamba.benchmarking import peers
from crossmamba.benchmarking.peers import find_peers, like_mamba_ssm, like_vmamba, ours
from crossmamba.benchmarking.problems import Shape, make_problem
from crossmamba.errors import UsageError
from crossmamba.ops import selective_scan_ref

GATED = Shape("tiny", 2, 11, 6, 3, gate=True)
ROUTED = Shape("tiny", 1, 10, 6, 3, grids=((2, 1, 3), (1, 2, 2)))


@pytest.fixture(scope="module")
def found() -> dict[str, peers.Peer]:
    return {peer.name: peer for peer in find_peers([])[0]}


def test_the_peers_that_need_no_package_are_there(found: dict[str, peers.Peer]) -> None:
    assert {"transformers", "associative_scan", "crossmamba reference"} <= found.keys()


def test_what_is_absent_says_why_and_how_to_get_it() -> None:
    absent = {one.name: one.reason for one in find_peers([])[1]}
    assert "--peer VMamba=" in absent["VMamba"]
    assert "--peer mamba-minimal=" in absent["mamba-minimal"]
    if "mambapy" in absent:
        assert "pip install mambapy" in absent["mambapy"]


@pytest.mark.parametrize("shape", [GATED, ROUTED], ids=["gated", "routes"])
def test_each_peer_takes_the_same_gradients_as_ours(shape: Shape, found: dict[str, peers.Peer]) -> None:
    problem = make_problem(shape)
    mine = ours(problem, "portable")
    mine.gradient = torch.ones_like(mine.forward())
    expected = mine.forward_backward()[2]  # that of A; of routes their sum
    expected = expected.sum(dim=0) if shape.grids else expected
    for peer in found.values():
        side = peer.prepare(problem)
        side.gradient = torch.ones_like(side.forward())
        gradients = side.forward_backward()
        assert len(gradients) == 7 + shape.gate
        got = gradients[2].reshape(-1, *expected.shape).sum(dim=0)  # groups repeat A once per route
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_a_peer_that_computes_something_else_is_refused() -> None:
    wrong = like_mamba_ssm("wrong", lambda u, *rest: selective_scan_ref(2 * u, *rest))
    with pytest.raises(ValueError, match="computes something else"):
        peers._checked(wrong)


def test_a_function_of_ones_own_can_be_a_peer(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from crossmamba.ops import selective_scan_ref\n"
        "def scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=True, oflex=True):\n"
        "    return selective_scan_ref(u, delta, A, B, C, D, None, delta_bias, delta_softplus)\n"
        "class Block:\n"
        "    def selective_scan(self, u, delta, A, B, C, D):\n"
        "        return selective_scan_ref(u, delta.mT, A, B.mT, C.mT, D)\n"
    )
    given = [f"VMamba={file}:scan", f"block={file}:Block.selective_scan", "ours=crossmamba.ops:selective_scan_fn"]
    found, absent = find_peers(given)
    assert {"VMamba", "block", "ours"} <= {peer.name for peer in found}
    assert "VMamba" not in {one.name for one in absent}


@pytest.mark.parametrize(
    "text",
    [
        "crossmamba.ops:selective_scan_fn",
        "mine=crossmamba.ops",
        "mine=no_such_module:scan",
        "mine=crossmamba.ops:no_such_function",
        "mine=no_such_folder/scan.py:scan",
        "mine=math:sqrt",
    ],
)
def test_a_peer_that_cannot_be_used_is_an_error_of_usage(text: str) -> None:
    with pytest.raises(UsageError, match="--peer"):
        find_peers([text])


def test_vmamba_gets_groups_even_if_there_is_one() -> None:
    dimensions = []

    def scan(u, delta, A, B, C, D, delta_bias, delta_softplus):  # type: ignore[no-untyped-def]
        dimensions.append((B.dim(), C.dim()))
        return u

    like_vmamba("x", scan).prepare(make_problem(GATED)).forward()
    assert dimensions == [(4, 4)]
