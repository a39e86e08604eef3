"""The scans against the equations in float64: outputs, every gradient, states, and each option."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossmamba.ops import list_backends, portable, route_scan, route_table, selective_scan_fn

FAST = [
    name for name, problem in list_backends("cpu", torch.float64).items() if problem is None and name != "reference"
]
"""Back ends that run in float64 on the CPU; those that do not are compared in test_backends.py."""


def scan_inputs(batch=2, channels=6, length=11, states=4, groups=None, constant=False, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_()

    projection = (batch, states, length) if groups is None else (batch, groups, states, length)
    return {
        "u": draw(batch, channels, length),
        "delta": draw(batch, channels, length),
        "A": (-torch.rand(channels, states, generator=generator, dtype=dtype) - 0.1).requires_grad_(),
        "B": draw(*projection),
        "C": draw(channels, states) if constant else draw(*projection),
        "D": draw(channels),
        "z": draw(batch, channels, length),
        "delta_bias": draw(channels),
    }


def results(inputs, initial_state, backend, **options):
    """Output, last state, and the gradients of a loss that uses both."""
    out, state = selective_scan_fn(
        **inputs, delta_softplus=True, return_last_state=True, initial_state=initial_state, backend=backend, **options
    )
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum() + (state**2).sum()
    wanted = [value for value in [*inputs.values(), initial_state] if value is not None]
    return [out, state, *torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)]


def assert_same(first, second, tolerance):
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        scale = b.abs().max().clamp(min=1.0) if b.numel() else 1.0
        assert torch.isfinite(a).all()
        assert ((a - b).abs() / scale).max().item() < tolerance if a.numel() else True


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [3, 11]])
@pytest.mark.parametrize("kind", ["plain", "groups", "constant C", "all constant groups"])
def test_equals_the_reference_in_every_option(backend, reverse, lengths, kind):
    options = {"groups": {"groups": 3}, "constant C": {"constant": True}}.get(kind, {})
    inputs = scan_inputs(**options)
    if kind == "all constant groups":
        inputs["B"] = torch.randn(6, 4, dtype=torch.float64).requires_grad_()
        inputs["C"] = torch.randn(2, 2, 4, 11, dtype=torch.float64).requires_grad_()
    state = torch.randn(2, 6, 4, dtype=torch.float64).requires_grad_()
    lengths = None if lengths is None else torch.tensor(lengths)
    expected = results(inputs, state, "reference", reverse=reverse, lengths=lengths)
    assert_same(results(inputs, state, backend, reverse=reverse, lengths=lengths), expected, 1e-12)


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_many_chunks_with_and_without_kept_states(backend, kept, monkeypatch):
    monkeypatch.setattr(portable, "CHUNK_ELEMENTS", 1)  # chunks of 4 steps
    monkeypatch.setattr(portable, "KEPT_ELEMENTS", kept)
    inputs = scan_inputs(length=37)
    assert_same(results(inputs, None, backend), results(inputs, None, "reference"), 1e-12)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    length=st.integers(0, 9),
    states=st.integers(1, 5),
    reverse=st.booleans(),
)
def test_any_small_shape_equals_the_reference(batch, channels, length, states, reverse):
    inputs = scan_inputs(batch, channels, length, states)
    state = torch.randn(batch, channels, states, dtype=torch.float64).requires_grad_()
    for backend in FAST:
        expected = results(inputs, state, "reference", reverse=reverse)
        assert_same(results(inputs, state, backend, reverse=reverse), expected, 1e-12)


@pytest.mark.parametrize("backend", FAST)
def test_gradcheck_by_finite_differences(backend):
    inputs = scan_inputs(batch=1, channels=2, length=4, states=2)
    state = torch.randn(1, 2, 2, dtype=torch.float64).requires_grad_()

    def run(*values):
        return selective_scan_fn(*values[:-1], True, True, initial_state=values[-1], backend=backend)

    assert torch.autograd.gradcheck(run, (*inputs.values(), state))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision_inputs_keep_a_float32_state(backend, dtype, tolerance):
    inputs = {name: value.detach().to(dtype) for name, value in scan_inputs(length=64).items()}
    out, state = selective_scan_fn(**inputs, delta_softplus=True, return_last_state=True, backend=backend)
    wide = {name: value.double() for name, value in inputs.items()}
    expected, expected_state = selective_scan_fn(
        **wide, delta_softplus=True, return_last_state=True, backend="reference"
    )
    assert out.dtype == dtype
    assert state.dtype == torch.float32
    assert (out.double() - expected).abs().max() / expected.abs().max() < tolerance
    assert (state.double() - expected_state).abs().max() / expected_state.abs().max() < 2e-5


@pytest.mark.parametrize("backend", FAST)
def test_autocast_does_not_lower_the_state(backend):
    inputs = {name: value.detach().float() for name, value in scan_inputs().items()}
    plain = selective_scan_fn(**inputs, delta_softplus=True, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        cast = selective_scan_fn(**inputs, delta_softplus=True, backend=backend)
    assert torch.equal(plain, cast)


@pytest.mark.parametrize("backend", FAST)
def test_splitting_a_sequence_and_passing_the_state_changes_nothing(backend):
    inputs = scan_inputs(length=20)
    whole, last = selective_scan_fn(**inputs, delta_softplus=True, return_last_state=True, backend=backend)

    def part(a, b, state):
        cut = {n: v[..., a:b] if n in ("u", "delta", "B", "C", "z") else v for n, v in inputs.items()}
        return selective_scan_fn(
            **cut, delta_softplus=True, return_last_state=True, initial_state=state, backend=backend
        )

    first, state = part(0, 7, None)
    second, state = part(7, 20, state)
    torch.testing.assert_close(torch.cat([first, second], -1), whole, atol=1e-13, rtol=0)
    torch.testing.assert_close(state, last, atol=1e-13, rtol=0)


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("reverse", [False, True])
def test_padding_may_be_anything_even_nan(backend, reverse):
    inputs = {name: value.detach().clone() for name, value in scan_inputs(batch=1, length=9).items()}
    short = {n: v[..., :5] if n in ("u", "delta", "B", "C", "z") else v for n, v in inputs.items()}
    for name in ("u", "delta", "B", "C", "z"):
        inputs[name][..., 5:] = math.nan
    lengths = torch.tensor([5])
    out, state = selective_scan_fn(
        **inputs, delta_softplus=True, return_last_state=True, lengths=lengths, reverse=reverse, backend=backend
    )
    expected, last = selective_scan_fn(
        **short, delta_softplus=True, return_last_state=True, reverse=reverse, backend=backend
    )
    torch.testing.assert_close(out[..., :5], expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(state, last, atol=1e-13, rtol=0)
    assert (out[..., 5:] == 0).all()


@pytest.mark.parametrize("backend", FAST)
def test_causality(backend):
    inputs = {name: value.detach().clone() for name, value in scan_inputs().items()}
    before = selective_scan_fn(**inputs, backend=backend)
    inputs["u"][..., 6] += 1.0
    after = selective_scan_fn(**inputs, backend=backend)
    assert torch.equal(before[..., :6], after[..., :6])
    assert not torch.equal(before[..., 6:], after[..., 6:])


def test_second_order_gradients_are_refused_in_words():
    inputs = scan_inputs(length=3)
    out = selective_scan_fn(**inputs, backend="portable")
    (gradient,) = torch.autograd.grad(out.sum(), inputs["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="no second-order gradient"):
        gradient.sum().backward()


def test_memory_of_a_long_scan_is_bounded_by_the_chunk(monkeypatch):
    monkeypatch.setattr(portable, "KEPT_ELEMENTS", 0)
    saved = []
    inputs = scan_inputs(batch=1, channels=64, length=4096, states=16, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        selective_scan_fn(**inputs, delta_softplus=True, backend="portable")
    assert sum(saved) < 64 * 4096 * 16 / 2, "backward keeps less than half of all states"


def test_route_scan_equals_one_scan_per_route_in_float64():
    for backend in FAST:
        assert_same(*(route_results(name) for name in (backend, "reference")), 1e-12)


def route_results(backend):
    generator = torch.Generator().manual_seed(1)
    table = route_table(["THW+", "WTH-", "HWT+"], [(2, 3, 2), (2, 1, 2)], prefix=2)
    batch, routes, tokens, channels, states = 2, 3, table.tokens, 5, 3

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    values = [
        draw(batch, tokens, channels),
        draw(batch, routes, tokens, channels),
        (-torch.rand(routes, channels, states, generator=generator, dtype=torch.float64) - 0.1).requires_grad_(),
        draw(batch, routes, tokens, states),
        draw(batch, routes, tokens, states),
    ]
    D, bias = draw(routes, channels), draw(routes, channels)
    out = route_scan(*values, table, D, bias, True, backend=backend)
    loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum()
    return [out, *torch.autograd.grad(loss, [*values, D, bias])]


def test_merging_identity_scans_gives_k_times_the_input():
    """With no state (B = 0) and D = 1 each route gives its input back, so the merge must give K x (spec §1.13, 3)."""
    table = route_table(["HW+", "WH+", "HW-", "WH-"], [(3, 5), (2, 2)])
    x = torch.randn(2, table.tokens, 4)
    zeros = torch.zeros(2, 4, table.tokens, 2)
    out = route_scan(x, torch.randn(2, 4, table.tokens, 4), -torch.ones(4, 4, 2), zeros, zeros, table, torch.ones(4, 4))
    torch.testing.assert_close(out, 4 * x)


def test_flipping_the_input_of_a_reversed_route_flips_its_output():
    forward, backward = route_table(["L+"], [(7,)]), route_table(["L-"], [(7,)])
    x, delta, B, C = (torch.randn(1, *shape) for shape in [(7, 3), (1, 7, 3), (1, 7, 2), (1, 7, 2)])
    A = -torch.ones(1, 3, 2)
    ahead = route_scan(x, delta, A, B, C, forward, delta_softplus=True)
    mirrored = route_scan(x.flip(1), delta.flip(2), A, B.flip(2), C.flip(2), backward, delta_softplus=True)
    torch.testing.assert_close(mirrored.flip(1), ahead)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": torch.zeros(2, 6, 10)}, r"delta has shape \(2, 6, 10\), expected \(2, 6, 11\)"),
        ({"B": torch.zeros(2, 4, 4, 11)}, "4 groups, which do not divide the 6 channels"),
        ({"D": torch.zeros(5)}, "D has shape"),
        ({"lengths": torch.zeros(2)}, "lengths are integers"),
        ({"backend": "warp"}, "unknown scan back end 'warp'"),
    ],
)
def test_bad_arguments_are_named(change, message):
    inputs = {**{name: value.detach() for name, value in scan_inputs().items()}, **change}
    with pytest.raises(ValueError, match=message):
        selective_scan_fn(**inputs)


def test_complex_parameters_are_refused():
    inputs = {name: value.detach() for name, value in scan_inputs().items()}
    inputs["A"] = inputs["A"].to(torch.complex64)
    with pytest.raises(NotImplementedError, match="complex"):
        selective_scan_fn(**inputs)


def constant_inputs():
    """u (2, 6, 9) with delta, B and C of length 1."""
    inputs = scan_inputs(length=9, groups=3)
    for name in ("delta", "B", "C"):
        inputs[name] = inputs[name].detach()[..., :1].clone().requires_grad_()
    return inputs


@pytest.mark.parametrize("backend", ["reference", *FAST])
@pytest.mark.parametrize("reverse", [False, True])
def test_what_is_constant_along_the_sequence_may_have_length_1_or_be_expanded(backend, reverse):
    inputs = constant_inputs()
    short = results(inputs, None, backend, reverse=reverse)
    names, leaves = list(inputs), list(inputs.values())

    def with_long(long):
        given = {name: long(value) if name in ("delta", "B", "C") else value for name, value in inputs.items()}
        out, state = selective_scan_fn(
            **given, delta_softplus=True, return_last_state=True, reverse=reverse, backend=backend
        )
        loss = (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum() + (state**2).sum()
        return [out, state, *torch.autograd.grad(loss, leaves)]

    assert names[0] == "u"
    assert_same(with_long(lambda value: value.expand(*value.shape[:-1], 9)), short, 1e-14)
    assert_same(with_long(lambda value: value.repeat(*[1] * (value.dim() - 1), 9)), short, 1e-12)


def test_an_expanded_tensor_is_scanned_as_constant(monkeypatch):
    seen = []
    monkeypatch.setattr("crossmamba.ops.selective_scan.run_scan", lambda inputs, name: seen.append(inputs) or 1 / 0)
    inputs = {name: value.detach() for name, value in constant_inputs().items()}
    long = {name: inputs[name].expand(*inputs[name].shape[:-1], 9) for name in ("delta", "B", "C")}
    with pytest.raises(ZeroDivisionError):
        selective_scan_fn(**{**inputs, **long})
    assert seen[0].delta.shape == (2, 1, 1, 6)
    assert seen[0].B.shape == seen[0].C.shape == (2, 1, 3, 1, 4)


def test_an_expanded_leaf_keeps_a_gradient_for_every_step():
    inputs = {name: value.detach() for name, value in constant_inputs().items()}
    inputs["delta"] = inputs["delta"].expand(2, 6, 9).requires_grad_()
    assert inputs["delta"].is_leaf
    found = torch.autograd.grad(selective_scan_fn(**inputs).sum(), inputs["delta"])
    copied = inputs["delta"].detach().clone().requires_grad_()
    expected = torch.autograd.grad(selective_scan_fn(**{**inputs, "delta": copied}).sum(), copied)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("backend", FAST)
def test_routes_over_constant_conditions(backend):
    table = route_table(["HW+", "WH-"], [(3, 4)])
    u, A = torch.randn(2, 12, 5, dtype=torch.float64), -torch.rand(2, 5, 3, dtype=torch.float64)
    shapes = [(2, 2, 1, 5), (2, 2, 1, 3), (2, 2, 1, 3)]
    delta, B, C = (torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in shapes)

    def outcome(long):
        out = route_scan(u, long(delta), A, long(B), long(C), table, delta_softplus=True, backend=backend)
        return [out, *torch.autograd.grad(out.sin().sum(), [delta, B, C])]

    short = outcome(lambda value: value)
    assert_same(outcome(lambda value: value.expand(-1, -1, 12, -1)), short, 1e-14)
    assert_same(outcome(lambda value: value.repeat(1, 1, 12, 1)), short, 1e-12)


def test_route_scan_names_what_does_not_fit():
    table = route_table(["HW+", "WH-"], [(3, 4)])
    good = [torch.zeros(shape) for shape in [(2, 12, 5), (2, 2, 12, 5), (2, 5, 3), (2, 2, 12, 3), (2, 2, 12, 3)]]
    for position, shape, message in [
        (0, (2, 11, 5), r"u has shape \(2, 11, 5\), expected \(2, 12, 5\)"),
        (1, (2, 2, 11, 5), r"delta has shape .* or \(2, 2, 1, 5\)"),
        (2, (3, 5, 3), "A has shape"),
        (3, (2, 2, 12, 4), "B has shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            route_scan(*good[:position], torch.zeros(shape), *good[position + 1 :], table)
    with pytest.raises(ValueError, match=r"delta is torch\.int64"):
        route_scan(good[0], good[1].long(), *good[2:], table)
    if torch.cuda.is_available():
        with pytest.raises(ValueError, match="route table is on cpu"):
            route_scan(*(value.cuda() for value in good), table)
