"""Which back end "auto" takes, and what is said when it is a slow one."""

import multiprocessing
import subprocess
import sys
import warnings

import pytest
import torch

from crossmamba.errors import CrossmambaError
from crossmamba.ops import (
    PortableBackend,
    ReferenceBackend,
    SlowBackendError,
    SlowBackendWarning,
    backends,
    list_backends,
    register_backend,
    registered_backend,
    resolve_backend,
    selective_scan_fn,
)
from crossmamba.ops.backends import versioned

CPU = torch.device("cpu")


class Fast(PortableBackend):
    """Pretends to be fast, for float32 only."""

    name, priority, reason = "fast", 30, None

    def why_not(self, device, dtype):
        return "it takes no float64" if dtype == torch.float64 else self.reason


class Named(PortableBackend):
    name, priority = "named", -1


@pytest.fixture(autouse=True)
def only_ours(monkeypatch):
    """A registry with the two loops that run anywhere, and nothing said yet."""
    monkeypatch.setattr(backends, "_BACKENDS", {b.name: b for b in (ReferenceBackend(), PortableBackend())})
    monkeypatch.setattr(backends, "_WARNED", set())
    monkeypatch.delenv("CROSSMAMBA_BACKEND", raising=False)
    monkeypatch.delenv("CROSSMAMBA_REQUIRE_FAST", raising=False)


def test_auto_takes_the_best_that_can_run_and_never_one_that_must_be_named():
    register_backend(Named())
    register_backend(Fast())
    assert resolve_backend("auto", CPU, torch.float32) == "fast"
    assert resolve_backend("auto", CPU, torch.float64) == "portable"
    assert resolve_backend("named", CPU, torch.float32) == "named"
    assert list(list_backends()) == ["fast", "portable", "reference", "named"]
    assert list_backends("cpu", torch.float64)["fast"] == "it takes no float64"


def test_the_environment_chooses_for_auto_only(monkeypatch):
    monkeypatch.setenv("CROSSMAMBA_BACKEND", "reference")
    assert resolve_backend("auto", CPU, torch.float32) == "reference"
    assert resolve_backend("portable", CPU, torch.float32) == "portable"
    monkeypatch.setenv("CROSSMAMBA_BACKEND", "warp")
    with pytest.raises(ValueError, match="unknown scan back end 'warp': choose auto, reference, portable"):
        resolve_backend("auto", CPU, torch.float32)


def test_a_back_end_that_cannot_run_is_refused_with_its_reason():
    register_backend(Fast())
    with pytest.raises(ValueError, match=r"'fast' cannot run on cpu in torch.float64: it takes no float64"):
        resolve_backend("fast", CPU, torch.float64)


def test_a_new_back_end_runs_without_changing_callers():
    class Doubling(PortableBackend):
        name, priority = "doubling", 99

        def forward(self, inputs, save):
            out, state, saved = super().forward(inputs, save)
            return 2 * out, state, saved

    u, A, B = torch.randn(2, 3, 5), -torch.rand(3, 4), torch.randn(2, 4, 5)
    plain = selective_scan_fn(u, u.abs(), A, B, B, backend="portable")
    register_backend(Doubling())
    assert torch.equal(selective_scan_fn(u, u.abs(), A, B, B), 2 * plain)
    assert registered_backend("doubling").priority == 99


def test_the_portable_scan_says_once_that_it_is_slow_and_why():
    absent = Fast()
    absent.reason = "no compiler here"
    register_backend(absent)
    with pytest.warns(SlowBackendWarning, match=r"portable scan runs on cpu.*fast: no compiler here.*pip install"):
        resolve_backend("auto", CPU, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_backend("auto", CPU, torch.float32)


def test_what_was_asked_for_and_float64_are_not_complained_about(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_backend("portable", CPU, torch.float32)
        resolve_backend("auto", CPU, torch.float64)
        monkeypatch.setenv("CROSSMAMBA_BACKEND", "portable")
        resolve_backend("auto", CPU, torch.float32)


def test_worker_processes_do_not_repeat_the_warning(monkeypatch):
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve_backend("auto", CPU, torch.float32)


def test_a_fast_scan_can_be_required(monkeypatch):
    monkeypatch.setenv("CROSSMAMBA_REQUIRE_FAST", "1")
    absent = Fast()
    absent.reason = "no compiler here"
    register_backend(absent)
    u, A, B = torch.randn(2, 3, 5), -torch.rand(3, 4), torch.randn(2, 4, 5)
    with pytest.raises(SlowBackendError, match=r"REQUIRE_FAST.*fast: no compiler here.*pip install ./kernels"):
        selective_scan_fn(u, u.abs(), A, B, B)
    assert issubclass(SlowBackendError, RuntimeError)
    assert issubclass(SlowBackendError, CrossmambaError)
    selective_scan_fn(u.double(), u.abs(), A, B, B)  # float64 has no fast back end, and is for checking
    monkeypatch.setenv("CROSSMAMBA_REQUIRE_FAST", "0")
    selective_scan_fn(u, u.abs(), A, B, B)


def test_importing_the_operators_imports_neither_the_compiler_nor_triton():
    """Both take longer than all of ours; a program that compiles nothing should not pay for them."""
    found = "[name for name in ('triton', 'torch._dynamo') if name in sys.modules]"
    # Without crossmamba too: a torch that imports them itself is not ours to test.
    code = f"import sys, torch; before = {found}; import crossmamba.ops; print(before == {found}, {found})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("True"), run.stdout


def test_a_function_is_marked_as_torch_would_mark_it():
    def ours():
        pass

    def theirs():
        pass

    assert vars(backends.constant_to_dynamo(ours)) == vars(torch.compiler.assume_constant_result(theirs))


def test_compiled_programs_name_the_version_of_what_is_saved():
    """Inductor's cache on disk outlives an update of the library: another layout must be another program."""
    assert versioned("portable") == f"portable/{PortableBackend.saved_version}"
    assert registered_backend(versioned("portable")) is registered_backend("portable")
    with pytest.raises(ValueError, match="unknown scan back end"):
        registered_backend("nothing/1")
    graphs = []

    def capture(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def run(u, delta, A, B, C):
        return selective_scan_fn(u, delta, A, B, C, backend="portable")

    u, A, B = torch.rand(1, 3, 5), -torch.rand(3, 2), torch.rand(1, 2, 5)
    torch.compile(run, fullgraph=True, backend=capture)(u, u, A, B, B)
    (call,) = [node for node in graphs[0].graph.nodes if "crossmamba.scan" in str(node.target)]
    assert call.args[-1] == versioned("portable")
