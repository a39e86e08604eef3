"""Every back end against the equations in float64: outputs, states and every gradient, over shapes, layouts, dtypes.

A new back end is tested by being registered. Errors are norm-relative; `scan_cases.tolerance` says what is allowed.
"""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_cases import (
    HALF_UNIT,
    Case,
    assert_agrees,
    error,
    errors,
    poisoned_allocations,
    problem,
    results,
    skip_unless_able,
    tolerance,
)

from crossmamba.ops import ScanGradients, StepInputs, list_backends, registered_backend, selective_scan_fn

CUDA = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
PLACES = [(name, device) for device in ("cpu", *["cuda"] * CUDA) for name in list_backends()]
every_backend = pytest.mark.parametrize(("backend", "device"), PLACES)
fast_backends = pytest.mark.parametrize(("backend", "device"), [place for place in PLACES if place[0] != "reference"])
"""The reference is the truth in float64 and promises nothing in float32."""

OPTIONS = [
    Case(),
    Case(D=False, z=False, bias=False, state=False, softplus=False),
    Case(reverse=True),
    Case(softplus=False),
    Case(groups=3),
    Case(groups=3, reverse=True, z=False),
    Case(B="constant"),
    Case(C="constant", groups=2),
    Case(B="constant", C="constant", softplus=False),
    Case(short_delta=True),
    Case(B="short"),
    Case(C="short", groups=2),
    Case(short_delta=True, B="short", C="short"),
    Case(short_delta=True, B="short", C="short", reverse=True, groups=2),
    Case(short_delta=True, B="constant", C="short", softplus=False, bias=False),
    Case(short_delta=True, B="constant", C="constant", z=False),
    Case(short_delta=True, B="short", C="time"),
    Case(short_delta=True, B="short", C="short", z=False, routes=3, order=True),
    Case(routes=4, z=False),
    Case(routes=3, z=False, order=True),
    Case(routes=2, z=False, order=True, groups=3, D=False, state=False),
    Case(routes=3, z=False, order=True, B="constant", C="short"),
    Case(routes=8, z=False, order=True, bias=False, softplus=False, states=1),
    Case(order=True),  # one route, gated
    Case(routes=2, z=False, reverse=True),
]
WITH_LENGTHS = [
    Case(batch=4, lengths=(37, 0, 1, 20)),
    Case(batch=4, lengths=(37, 0, 1, 20), reverse=True),
    Case(batch=3, lengths=(5, 36, 17), groups=2, C="constant", z=False),
    Case(batch=3, lengths=(5, 36, 17), short_delta=True, B="short", C="short"),
    Case(batch=3, lengths=(5, 0, 17), short_delta=True, B="short", C="time", reverse=True),
    Case(batch=3, lengths=(0, 0, 0)),
    Case(batch=2, lengths=(64, 65), tokens=70),
]
STATES = [1, 2, 3, 4, 5, 8, 16, 17, 64, 256]
CHANNELS = [0, 1, 3, 16, 17, 33, 64, 65, 100]
TOKENS = [0, 1, 2, 63, 64, 65, 130]
SHAPES = [
    *(Case(states=n) for n in STATES),
    *(Case(states=n, routes=3, order=True, z=False, tokens=20) for n in STATES),
    *(Case(states=n, short_delta=True, B="short", C="short", tokens=20) for n in STATES),
    *(Case(channels=d) for d in CHANNELS),
    *(Case(channels=d, routes=3, order=True, z=False, tokens=20) for d in CHANNELS),
    *(Case(channels=d, states=16, tokens=20, reverse=True) for d in CHANNELS),
    *(Case(tokens=length) for length in TOKENS),
    *(Case(tokens=length, routes=3, order=True, z=False, states=1) for length in TOKENS),
    *(Case(tokens=length, short_delta=True, B="short", C="short", reverse=True) for length in TOKENS),
    *(Case(tokens=length, batch=1, channels=65, states=16) for length in TOKENS),
    Case(batch=1),
    Case(batch=0),
    Case(batch=17, channels=5, tokens=9),
    Case(batch=3, channels=96, groups=32, tokens=9),
    Case(batch=1, channels=40, groups=40, tokens=9, states=3),
]
MEMORIES = [
    Case(memory=memory, groups=2, **options)
    for memory in ("BDM", "sliced", "expanded")
    for options in (
        {},
        {"reverse": True, "states": 16},
        {"short_delta": True, "B": "short", "C": "short"},
        {"routes": 3, "order": True, "z": False},
        {"routes": 3, "order": True, "z": False, "states": 1},
    )
] + [Case(memory="BDM", lengths=(9, 30)), Case(memory="sliced", lengths=(9, 30), reverse=True)]
HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
DTYPES = [
    replace(case, dtypes=dtypes)
    for dtypes in ((BRAIN,), (HALF,), (BRAIN, FULL, HALF, FULL, BRAIN), (FULL, BRAIN, BRAIN, BRAIN, HALF))
    for case in (
        Case(),
        Case(states=16, groups=2, memory="BDM"),
        Case(short_delta=True, B="short", C="short", reverse=True),
        Case(routes=3, order=True, z=False),
        Case(C="constant", lengths=(9, 30)),
    )
]
FEW = [  # one small case of every kind, for back ends that run under an interpreter
    replace(case, tokens=11, channels=12, states=3)
    for case in (
        Case(),
        Case(reverse=True, groups=2, C="constant"),
        Case(lengths=(4, 11), z=False),
        Case(short_delta=True, B="short", C="short", D=False, state=False),
        Case(routes=2, order=True, z=False, memory="BDM"),
        Case(dtypes=(torch.bfloat16,), bias=False, softplus=False, memory="sliced"),
    )
]
DOUBLE = [replace(case, dtypes=(torch.float64,)) for case in [*OPTIONS, *WITH_LENGTHS]]


def check(backend: str, device: str, case: Case) -> None:
    skip_unless_able(backend, device, torch.float64 if case.dtypes[0] == torch.float64 else torch.float32)
    assert_agrees(backend, case, device)


@fast_backends
@pytest.mark.parametrize("case", FEW, ids=str)
def test_one_of_every_kind(backend, device, case):
    check(backend, device, case)


@fast_backends
@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options(backend, device, case):
    check(backend, device, case)


@fast_backends
@pytest.mark.parametrize("case", WITH_LENGTHS, ids=str)
def test_lengths_hide_even_nan(backend, device, case):
    check(backend, device, case)


@fast_backends
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_shapes(backend, device, case):
    check(backend, device, case)


@fast_backends
@pytest.mark.parametrize("case", MEMORIES, ids=str)
def test_strides(backend, device, case):
    check(backend, device, case)


@fast_backends
@pytest.mark.parametrize("case", DTYPES, ids=str)
def test_half_precision_and_mixtures(backend, device, case):
    check(backend, device, case)


@every_backend
@pytest.mark.parametrize("case", DOUBLE, ids=str)
def test_float64(backend, device, case):
    check(backend, device, case)


@fast_backends
@pytest.mark.parametrize("case", [Case(tokens=700), Case(tokens=300, routes=2, order=True, z=False)], ids=str)
def test_long_sequences_of_many_chunks(backend, device, case):
    check(backend, device, case)


@fast_backends
@pytest.mark.parametrize(
    "case", [replace(case, positive=True) for case in [*OPTIONS, *SHAPES] if not case.short_delta], ids=str
)
def test_accuracy_where_nothing_cancels(backend, device, case):
    check(backend, device, case)


@every_backend
@pytest.mark.parametrize("case", [*OPTIONS, *WITH_LENGTHS, Case(tokens=0), Case(tokens=130, states=17)], ids=str)
def test_fresh_memory_full_of_nan_changes_nothing(backend, device, case):
    skip_unless_able(backend, device)
    plain = results(backend, case, device)
    with poisoned_allocations():
        poisoned = results(backend, case, device)
    for name, value in plain.items():
        assert torch.equal(value, poisoned[name]), name


@fast_backends
def test_before_a_nan_and_beside_it_all_is_as_without(backend, device):
    """Also where exp(delta A) leaves float32's range first: a tile's largest |delta| is not lost behind the NaN."""
    skip_unless_able(backend, device)
    torch.manual_seed(0)
    u, B, C = (torch.randn(1, width, 12, device=device) for width in (20, 4, 4))
    delta = torch.rand(1, 20, 12, device=device)
    delta[:, 3, 2] = 300.0
    A = -torch.arange(1.0, 5.0, device=device).expand(20, 4)
    expected = selective_scan_fn(u, delta, A, B, C, backend=backend)
    delta[:, 3, 5] = math.nan
    found = selective_scan_fn(u, delta, A, B, C, backend=backend)
    others = [channel for channel in range(20) if channel != 3]
    torch.testing.assert_close(found[:, others], expected[:, others])
    torch.testing.assert_close(found[:, 3, :5], expected[:, 3, :5])
    assert found[:, 3, 5:].isnan().all()


@every_backend
@pytest.mark.parametrize("case", [*OPTIONS, *WITH_LENGTHS, *MEMORIES, Case(tokens=0), Case(channels=0)], ids=str)
def test_what_is_returned_is_laid_out_as_promised(backend, device, case):
    """Shapes and dtypes are checked by `errors`; here strides, the size of `saved`, aliasing, and save=False."""
    skip_unless_able(backend, device)
    drawn, chosen = problem(case, device), registered_backend(backend)
    out, state, saved = chosen.forward(drawn.inputs, True)
    assert out.stride() == torch.empty_like(drawn.inputs.u).stride()
    assert state.is_contiguous()
    assert saved.shape == (chosen.saved_elements(drawn.inputs),)
    assert saved.dtype == drawn.inputs.A.dtype
    out_alone, state_alone, nothing = chosen.forward(drawn.inputs, False)
    assert torch.equal(out, out_alone)
    assert torch.equal(state, state_alone)
    assert nothing.shape == (0,)
    gradients = chosen.backward(drawn.inputs, saved, drawn.d_out, drawn.d_state)
    for name, gradient in zip(ScanGradients._fields, gradients, strict=True):
        value = getattr(drawn.inputs, name)
        assert (value is None) == (gradient is None), name
        if value is not None and name in ("u", "delta", "z"):
            assert gradient.stride() == torch.empty_like(value).stride(), name
        elif value is not None:
            assert gradient.is_contiguous(), name
    tensors = [
        v for v in [out, state, saved, *gradients, *drawn.inputs, drawn.d_out, drawn.d_state] if torch.is_tensor(v)
    ]
    memory = [value.untyped_storage().data_ptr() for value in tensors if value.numel()]
    made = len([v for v in [out, state, saved, *gradients] if v is not None and v.numel()])
    assert len(set(memory[:made])) == made, "two results share memory"
    assert not set(memory[:made]) & set(memory[made:]), "a result shares memory with an input"


@every_backend
def test_a_gradient_from_above_may_have_any_strides(backend, device):
    skip_unless_able(backend, device)
    drawn, chosen = problem(Case(), device), registered_backend(backend)
    _, _, saved = chosen.forward(drawn.inputs, True)
    one = torch.full((), 0.5, device=device)
    plain = chosen.backward(drawn.inputs, saved, one.expand(drawn.d_out.shape).clone(), drawn.d_state * 0 + 0.5)
    expanded = chosen.backward(drawn.inputs, saved, one.expand(drawn.d_out.shape), one.expand(drawn.d_state.shape))
    for name, a, b in zip(ScanGradients._fields, plain, expanded, strict=True):
        assert torch.equal(a, b), name


@every_backend
def test_the_same_call_gives_the_same_bits(backend, device):
    skip_unless_able(backend, device)
    case = Case(batch=3, tokens=90, channels=70, states=16, routes=4, order=True, z=False)
    first, second = results(backend, case, device), results(backend, case, device)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@fast_backends
def test_extreme_steps_and_decays_stay_finite(backend, device):
    """Steps from far below to far above softplus's bend, and decays that underflow to 0."""
    skip_unless_able(backend, device)
    case = Case(states=16)
    inputs = problem(case, device).inputs
    delta = torch.linspace(-200.0, 200.0, inputs.delta.numel(), device=device).view_as(inputs.delta)
    inputs = inputs._replace(delta=delta, A=inputs.A * torch.linspace(1e-6, 1e3, 16, device=device))
    chosen, truth = registered_backend(backend), registered_backend("reference")
    wide = inputs._replace(**{n: v.double() for n, v in inputs._asdict().items() if torch.is_tensor(v)})
    out, state, saved = chosen.forward(inputs, True)
    expected_out, expected_state, _ = truth.forward(wide, False)
    assert torch.linalg.vector_norm(out - expected_out) <= 3e-7 * torch.linalg.vector_norm(expected_out)
    assert torch.linalg.vector_norm(state - expected_state) <= 3e-7 * torch.linalg.vector_norm(expected_state)
    gradients = chosen.backward(inputs, saved, torch.ones_like(out), torch.ones_like(state))
    expected = truth.backward(wide, wide.A.new_empty(0), torch.ones_like(expected_out), torch.ones_like(expected_state))
    for name, found, right in zip(ScanGradients._fields, gradients, expected, strict=True):
        assert torch.linalg.vector_norm(found - right) <= 2e-6 * torch.linalg.vector_norm(right), name


@fast_backends
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_any_shape(backend, device, data):
    skip_unless_able(backend, device)
    draw = data.draw
    groups, routes = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    order = draw(st.booleans())
    tokens, batch = draw(st.integers(0, 40)), draw(st.integers(1, 3))
    with_lengths = not order and draw(st.booleans())
    case = Case(
        batch=batch,
        tokens=tokens,
        channels=groups * draw(st.integers(1, 40)),
        states=draw(st.integers(1, 20)),
        routes=routes,
        groups=groups,
        short_delta=draw(st.booleans()),
        B=draw(st.sampled_from(["time", "short", "constant"])),
        C=draw(st.sampled_from(["time", "short", "constant"])),
        D=draw(st.booleans()),
        z=routes == 1 and draw(st.booleans()),
        bias=draw(st.booleans()),
        state=draw(st.booleans()),
        lengths=tuple(draw(st.integers(0, tokens)) for _ in range(batch)) if with_lengths else None,
        order=order,
        softplus=draw(st.booleans()),
        reverse=not order and draw(st.booleans()),
        memory=draw(st.sampled_from(["BMD", "BDM", "sliced"])),
    )
    found = errors(backend, case, device)
    # Ten times what is allowed elsewhere: with a handful of numbers nothing averages cancellation out.
    assert all(value <= 10 * tolerance(name, case) for name, value in found.items()), (case, found)


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("groups", [None, 1, 3])
@pytest.mark.parametrize(("channels", "states"), [(24, 16), (33, 1), (99, 5)])
@pytest.mark.parametrize("bare", [False, True])
def test_one_step(backend, device, dtype, groups, channels, states, bare):
    inputs = step_inputs(device, dtype, groups, channels, states, bare)
    skip_unless_able(backend, device, inputs.state.dtype)
    wide = inputs._replace(**{n: v.double().clone() for n, v in inputs._asdict().items() if torch.is_tensor(v)})
    expected = registered_backend("reference").step(wide)
    out = registered_backend(backend).step(inputs)
    assert out.dtype == dtype
    exact = 1e-14 if dtype == torch.float64 else 1.6 * 1.5e-7  # numbers of random sign cancel, as in `tolerance`
    rounding = 0.0 if dtype in (torch.float32, torch.float64) else HALF_UNIT[dtype]
    assert error(out, expected.cpu()) <= exact + rounding
    assert error(inputs.state, wide.state.cpu()) <= exact


def step_inputs(device, dtype, groups, channels, states, bare):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    draw = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=dtype):
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).to(device)

    projection = (3, states) if groups is None else (3, groups, states)
    return StepInputs(
        state=normal(3, channels, states, dtype=wide),
        x=normal(3, channels),
        dt=normal(3, channels).abs(),
        A=-normal(channels, states, dtype=wide).abs(),
        B=normal(*projection),
        C=normal(*projection),
        D=None if bare else normal(channels, dtype=wide),
        z=None if bare else normal(3, channels),
        dt_bias=None if bare else normal(channels, dtype=wide),
        dt_softplus=not bare,
    )


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter's own process")
@pytest.mark.skipif("triton" not in list_backends(), reason="the triton back end is not registered")
def test_triton_agrees_under_its_interpreter():
    """Triton reads TRITON_INTERPRET when it is imported, so this file is run again in a process that sets it."""
    pytest.importorskip("triton", reason="triton is not installed")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-k", "triton-cpu and one_of_every_kind"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert f"{len(FEW)} passed" in run.stdout, run.stdout[-4000:] + run.stderr[-2000:]
