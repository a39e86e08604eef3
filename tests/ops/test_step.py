"""`selective_state_update`: steps one by one equal the scan; the state changes in place; misuse is named."""

import pytest
import torch
from torch.func import vmap

from crossmamba import selective_scan_fn, selective_state_update
from crossmamba.ops import list_backends

BACKENDS = [name for name, problem in list_backends().items() if problem is None]


def step_arguments(groups=None, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=dtype)

    projection = (2, 4) if groups is None else (2, groups, 4)
    return {
        "state": normal(2, 6, 4),
        "x": normal(2, 6),
        "dt": normal(2, 6),
        "A": -normal(6, 4).abs(),
        "B": normal(*projection),
        "C": normal(*projection),
        "D": normal(6),
        "z": normal(2, 6),
        "dt_bias": normal(6),
    }


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("groups", [None, 3])
def test_steps_equal_the_scan(backend, groups):
    given = step_arguments(groups)
    u, delta, z = torch.randn(3, 2, 6, 7)
    projection = (2, 4, 7) if groups is None else (2, 3, 4, 7)
    B, C = torch.randn(projection), torch.randn(projection)
    expected, last = selective_scan_fn(
        u, delta, given["A"], B, C, given["D"], z, given["dt_bias"], True, True, initial_state=given["state"]
    )
    state = given["state"].clone()
    for t in range(7):
        now = {"x": u[..., t], "dt": delta[..., t], "B": B[..., t], "C": C[..., t], "z": z[..., t], "state": state}
        out = selective_state_update(**{**given, **now}, dt_softplus=True, backend=backend)
        torch.testing.assert_close(out, expected[..., t], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-5)


def test_a_state_in_other_memory_is_changed_where_it_lies():
    given = step_arguments()
    expected_state = given["state"].clone()
    expected = selective_state_update(**{**given, "state": expected_state})
    cache = torch.zeros(2, 4, 6)
    state = cache.transpose(1, 2)
    state.copy_(given["state"])
    assert torch.equal(selective_state_update(**{**given, "state": state}), expected)
    assert torch.equal(state, expected_state)
    assert not torch.equal(state, given["state"])


def test_half_precision_inputs_and_parameters_meet_a_float32_state():
    given = step_arguments()
    half = {name: value if name == "state" else value.bfloat16() for name, value in given.items()}
    out = selective_state_update(**{**half, "state": given["state"].clone()}, dt_softplus=True)
    wide = {name: value.double() for name, value in half.items()}
    expected = selective_state_update(**wide, dt_softplus=True)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), expected, atol=2**-7, rtol=2**-7)


def test_a_float64_state_makes_everything_float64():
    given = step_arguments()
    given["state"] = given["state"].double()
    out = selective_state_update(**given)
    assert out.dtype == torch.float32
    assert given["state"].dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": torch.zeros(2, 6, 4).bfloat16()}, "half precision loses"),
        ({"state": torch.zeros(2, 24)}, r"state is float32 or float64 \(B, D, N\)"),
        ({"x": torch.zeros(2, 5)}, r"x has shape \(2, 5\), expected \(2, 6\)"),
        ({"B": torch.zeros(2, 4, 4)}, "4 groups, which do not divide the 6 channels"),
        ({"C": torch.zeros(2, 5)}, r"C has shape \(2, 5\)"),
        ({"dt": torch.zeros(2, 6).double()}, "dt is torch.float64"),
        ({"D": torch.zeros(6).long()}, "D is torch.int64"),
        ({"backend": "warp"}, "unknown scan back end"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        selective_state_update(**{**step_arguments(), **change})


def test_gradients_are_refused_unless_they_are_off():
    given = step_arguments()
    given["A"].requires_grad_()
    with pytest.raises(RuntimeError, match=r"no gradient: call it under torch.no_grad\(\)"):
        selective_state_update(**given)
    with torch.no_grad():
        selective_state_update(**given)


def test_vmap_is_refused_with_the_way_out():
    given = step_arguments()
    states = given.pop("state").expand(3, 2, 6, 4).clone()
    with pytest.raises(RuntimeError, match="put the mapped axis into the batch"):
        vmap(lambda state: selective_state_update(state, **given))(states)
