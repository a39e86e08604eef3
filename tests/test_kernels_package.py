"""The installed kernel library as others meet it: what it links and shows, life without it, forks and threads."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from crossmamba.ops import ScanGradients, ScanInputs, registered_backend
from crossmamba.ops.native import native_library, why_no_library
from crossmamba.ops.native.library import ABI

ROOT = Path(__file__).parents[1]
needs_kernels = pytest.mark.skipif(why_no_library() is not None, reason=f"no kernels here: {why_no_library()}")
needs_readelf = pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf (package binutils)")


def in_a_new_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code; it fails the test if it takes longer than a minute and a half."""
    cleared = {k: v for k, v in os.environ.items() if k not in ("CROSSMAMBA_BACKEND", "CROSSMAMBA_REQUIRE_FAST")}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**cleared, **environment},
        capture_output=True,
        text=True,
        timeout=90,
    )


# ---- what the file is


@needs_kernels
@needs_readelf
def test_the_library_shows_its_c_interface_and_nothing_else():
    text = subprocess.run(["readelf", "-W", "--dyn-syms", native_library().path], capture_output=True, text=True).stdout
    symbols = [line.split() for line in text.splitlines() if re.match(r"\s*\d+:", line)]
    shown = {fields[7] for fields in symbols if len(fields) > 7 and fields[6] != "UND"}
    wanted = {fields[7] for fields in symbols if len(fields) > 7 and fields[6] == "UND"}
    declared = set(re.findall(r"\b(crossmamba_\w+)\(", (ROOT / "kernels/src/scan.h").read_text()))
    assert shown == declared
    foreign = {name for name in wanted if re.match(r"_?Py|_ZN\d*(at|c10|torch)", name)}
    assert not foreign, "it calls Python or torch"


@needs_kernels
@needs_readelf
def test_the_library_links_the_c_library_only():
    text = subprocess.run(["readelf", "-W", "-d", native_library().path], capture_output=True, text=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
    assert needed
    own = re.compile(r"(ld-linux.*|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s))\.so[.\d]*")
    assert [name for name in needed if not own.fullmatch(name)] == []


@needs_kernels
def test_the_interface_has_one_version_everywhere():
    header = (ROOT / "kernels/src/scan.h").read_text()
    assert re.search(r"#define CROSSMAMBA_ABI (\d+)", header)[1] == str(ABI)
    assert native_library()._dll.crossmamba_abi() == ABI
    assert "baseline" in native_library().isas


# ---- without it

SCAN = """
    import warnings
    import torch
    from crossmamba.ops import selective_scan_fn
    torch.manual_seed(0)
    u, A, B = torch.randn(2, 3, 5), -torch.rand(3, 4), torch.randn(2, 4, 5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        out = [selective_scan_fn(u, u.abs(), A, B, B) for _ in range(3)]
    assert torch.equal(out[0], selective_scan_fn(u, u.abs(), A, B, B, backend="portable"))
    print(len(said), said[0].category.__name__, said[0].message)
"""


@pytest.mark.parametrize("kind", ["missing", "garbage", "another library"])
def test_a_library_that_does_not_load_gives_way_to_the_portable_scan_with_one_warning(kind, tmp_path):
    path = tmp_path / "kernels.so"
    if kind == "garbage":
        path.write_bytes(b"\x7fELF" + bytes(range(256)))
    if kind == "another library":
        path = Path(sys.modules["_ctypes"].__file__)
    run = in_a_new_process(SCAN, CROSSMAMBA_KERNELS=str(path))
    assert run.returncode == 0, run.stderr
    assert re.match(r"1 SlowBackendWarning the portable scan runs on cpu", run.stdout), run.stdout
    assert "the kernels do not load" in run.stdout
    assert "pip install ./kernels" in run.stdout


def test_requiring_a_fast_scan_turns_that_into_an_error_that_says_what_to_do(tmp_path):
    run = in_a_new_process(SCAN, CROSSMAMBA_KERNELS=str(tmp_path / "none.so"), CROSSMAMBA_REQUIRE_FAST="1")
    assert run.returncode != 0
    assert "SlowBackendError" in run.stderr
    assert "the kernels do not load" in run.stderr
    assert "pip install ./kernels" in run.stderr


# ---- threads and processes


def inputs(batch: int, channels: int = 200, routes: int = 1, states: int = 5, tokens: int = 100) -> ScanInputs:
    draw = torch.Generator().manual_seed(batch)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    return ScanInputs(
        u=normal(batch, tokens, channels),
        delta=normal(batch, routes, tokens, channels) - 1.0,
        A=-normal(routes, channels, states).abs() - 0.05,
        B=normal(batch, routes, 1, tokens, states),
        C=normal(batch, routes, 1, tokens, states),
        D=normal(routes, channels),
        z=normal(batch, tokens, channels) if routes == 1 else None,
        delta_bias=normal(routes, channels),
        initial_state=normal(batch, routes, channels, states),
        lengths=None,
        order=torch.stack([torch.randperm(tokens, generator=draw) for _ in range(routes)]).int()
        if routes > 1
        else None,
        softplus=True,
        reverse=False,
    )


def results(given: ScanInputs) -> dict[str, torch.Tensor]:
    native = registered_backend("native")
    out, state, saved = native.forward(given, True)
    gradients = native.backward(given, saved, torch.ones_like(out), torch.ones_like(state))
    found = {f"d_{name}": g for name, g in zip(ScanGradients._fields, gradients, strict=True) if g is not None}
    return {"out": out, "state": state} | found


@pytest.fixture
def with_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_call_gives_the_same_bits(threads, with_threads):
    with_threads(threads)
    given = inputs(2, routes=2)
    first = results(given)
    for _ in range(5):
        for name, value in results(given).items():
            assert torch.equal(value, first[name]), name


@needs_kernels
@pytest.mark.parametrize("routes", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3, 5, 32])
def test_what_depends_on_the_number_of_threads(batch, routes, with_threads):
    """Up to 4 threads: nothing but the gradients of B and C, and those only where there are so few samples that threads
    share one. Then each thread adds up its own channels, and their sum is rounded in another order."""
    given = inputs(batch, routes=routes)
    with_threads(1)
    alone = results(given)
    for threads in (2, 3, 4):
        with_threads(threads)
        shared = batch < 4 * threads and batch % threads != 0
        for name, value in results(given).items():
            if name in ("d_B", "d_C") and shared:
                torch.testing.assert_close(value, alone[name], rtol=1e-5, atol=1e-6 * alone[name].abs().max().item())
            else:
                assert torch.equal(value, alone[name]), (name, threads)


@needs_kernels
def test_calls_from_several_threads_at_once_do_not_meet(with_threads):
    with_threads(2)
    cases = [inputs(batch, routes=routes) for batch in (1, 2, 3) for routes in (1, 2)]
    expected = [results(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for right, found in zip(expected, pool.map(results, cases), strict=True):
                for name in ("out", "state", "d_u", "d_A"):
                    assert torch.equal(found[name], right[name]), name


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_flushing_subnormal_numbers_ends_with_the_call(threads, with_threads):
    """The kernels flush them to zero, in threads that torch uses too; its own arithmetic must not notice."""
    with_threads(threads)
    tiny = torch.full((1 << 20,), 1e-40)
    results(inputs(4))
    assert torch.equal(tiny * 1.0, tiny)
    assert 1e-310 * 1.0 == 1e-310


FORKED = """
    import multiprocessing
    import torch
    from torch.utils.data import DataLoader, Dataset
    from crossmamba.ops import selective_scan_fn, selective_state_update

    def scan():
        draw = torch.Generator().manual_seed(0)
        u, A, B = torch.randn(8, 64, 50, generator=draw), -torch.ones(64, 16), torch.randn(8, 16, 50, generator=draw)
        u.requires_grad_()
        out = selective_scan_fn(u, u.abs(), A, B, B, backend="native")
        (gradient,) = torch.autograd.grad(out.square().sum(), u)
        state = torch.zeros(8, 64, 16)
        step = selective_state_update(state, u[..., 0].detach(), u[..., 1].detach(), A, B[..., 0], B[..., 1])
        return out.detach(), gradient, step

    class Scans(Dataset):
        def __len__(self):
            return 6
        def __getitem__(self, index):
            return torch.cat([value.flatten() for value in scan()])

    def child(results):
        results.send([value.numpy() for value in scan()])

    torch.set_num_threads(2)
    expected = scan()  # starts the threads that a child will not have
    fork = multiprocessing.get_context("fork")
    for _ in range(3):
        receiver, sender = fork.Pipe(False)
        process = fork.Process(target=child, args=(sender,))
        process.start()
        assert receiver.poll(60), "the child hangs"
        for value, right in zip(receiver.recv(), expected, strict=True):
            assert torch.equal(torch.from_numpy(value), right)
        process.join()
    right = torch.cat([value.flatten() for value in expected])
    for batch in DataLoader(Scans(), batch_size=2, num_workers=2, multiprocessing_context="fork", timeout=60):
        assert torch.equal(batch, right.expand(2, -1))
    assert all(torch.equal(a, b) for a, b in zip(scan(), expected, strict=True))
    print("fine")
"""


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_children_scan_though_their_parent_used_threads():
    """OpenMP's threads do not survive a fork; a child that waited for them would hang."""
    run = in_a_new_process(FORKED)
    assert run.stdout == "fine\n", run.stdout + run.stderr
