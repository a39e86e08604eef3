"""The scan as a torch operator: what the compiler's checks, torch.func, checkpointing and autocast make of it."""

import pytest
import torch
from scan_cases import Case, problem
from torch.func import functional_call, grad, hessian, jacrev, jvp, vmap
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from crossmamba import Mamba
from crossmamba.ops import list_backends, route_scan, route_table, selective_scan_fn, selective_scan_ref

BACKENDS = [name for name, problem in list_backends().items() if problem is None and name != "reference"]
every_backend = pytest.mark.parametrize("backend", BACKENDS)

MIXTURES = [
    Case(tokens=5),
    Case(tokens=5, short_delta=True, B="short", C="constant", memory="BDM"),
    Case(tokens=5, lengths=(2, 5), reverse=True, z=False, bias=False),
    Case(tokens=5, routes=3, groups=2, order=True, z=False, D=False, state=False),
    Case(tokens=5, dtypes=(torch.bfloat16,), softplus=False),
]


def flat(case: Case, requires_grad: bool = True) -> list:
    """The inputs as the operator takes them, without NaN past the samples' ends (a check compares tensors)."""
    values = [torch.nan_to_num(v) if torch.is_tensor(v) and v.is_floating_point() else v for v in problem(case).inputs]
    if requires_grad:
        values = [v.requires_grad_() if torch.is_tensor(v) and v.is_floating_point() else v for v in values]
    return values


@every_backend
@pytest.mark.parametrize("case", MIXTURES, ids=str)
def test_torchs_own_check_of_the_operators(backend, case):
    """Schema, registrations, shapes and strides by FakeTensor, and dynamic shapes through AOTAutograd."""
    torch.library.opcheck(torch.ops.crossmamba.scan.default, (*flat(case), True, backend))
    torch.library.opcheck(torch.ops.crossmamba.scan.default, (*flat(case, False), False, backend))
    plain = flat(case, requires_grad=False)
    out, state, saved = torch.ops.crossmamba.scan(*plain, True, backend)
    from_above = torch.randn_like(out), torch.randn_like(state)
    for has_saved, kept in [(True, saved), (False, saved.new_empty(0))]:
        arguments = (*from_above, kept, *plain, has_saved, backend)
        torch.library.opcheck(torch.ops.crossmamba.scan_backward.default, arguments)


@every_backend
def test_torchs_own_check_of_the_step(backend):
    normal = torch.randn
    state, x, dt, B, C = normal(2, 6, 4), normal(2, 6), torch.rand(2, 6), normal(2, 4), normal(2, 3, 4)
    arguments = (state, x, dt, -torch.rand(6, 4), B, C, normal(6), normal(2, 6), normal(6), True, backend)
    torch.library.opcheck(torch.ops.crossmamba.step.default, arguments)


def test_torchs_own_check_of_the_route_table():
    arguments = ("THW+ WTH-", 3, [2, 3, 4, 2, 1, 2], 2, 0, torch.device("cpu"))
    torch.library.opcheck(torch.ops.crossmamba.route_order.default, arguments)


@every_backend
def test_backward_computes_what_was_not_saved(backend):
    """As after `torch.export` or under vmap: the same gradients from an empty `saved`."""
    plain = flat(Case(tokens=9), requires_grad=False)
    out, state, saved = torch.ops.crossmamba.scan(*plain, True, backend)
    above = torch.randn_like(out), torch.randn_like(state)
    kept = torch.ops.crossmamba.scan_backward(*above, saved, *plain, True, backend)
    again = torch.ops.crossmamba.scan_backward(*above, saved.new_empty(0), *plain, False, backend)
    for first, second in zip(kept, again, strict=True):
        assert torch.equal(first, second)


def arguments(*lead: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    """Arguments of `selective_scan_fn`, with further axes in front."""
    shapes = {
        "u": (2, 3, 5),
        "delta": (2, 3, 5),
        "A": (3, 2),
        "B": (2, 2, 5),
        "C": (2, 2, 5),
        "D": (3,),
        "z": (2, 3, 5),
    }
    draw = torch.Generator().manual_seed(0)
    values = {n: torch.randn(*lead, *shape, generator=draw, dtype=dtype) for n, shape in shapes.items()}
    return values | {"A": -values["A"].abs()}


def scan(**values):
    return selective_scan_fn(**values, delta_softplus=True, return_last_state=True, backend="portable")


def scan_ref(**values):
    return selective_scan_ref(**values, delta_softplus=True, return_last_state=True)


def scalar(function, values):
    out, state = function(**values)
    return out.sin().sum() + state.square().sum()


def assert_close(found, expected):
    for a, b in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


def test_func_grad_and_jacrev():
    values = arguments()
    assert_close(grad(lambda v: scalar(scan, v))(values), grad(lambda v: scalar(scan_ref, v))(values))
    for name in ("u", "A"):
        both = [jacrev(lambda x, f=f, name=name: f(**{**values, name: x})[0])(values[name]) for f in (scan, scan_ref)]
        assert_close(*both)


@pytest.mark.parametrize(
    "mapped", [["u"], ["delta", "C"], ["u", "delta", "B", "C", "z"], ["A"], ["D", "u"], list(arguments())], ids=str
)
def test_vmap_over_anything_also_in_and_around_gradients(mapped):
    single, many = arguments(), arguments(4)
    values = {name: many[name] if name in mapped else single[name] for name in single}
    dims = ({name: 0 if name in mapped else None for name in single},)
    for build in (
        lambda f: vmap(lambda v: f(**v), in_dims=dims),
        lambda f: vmap(grad(lambda v: scalar(f, v)), in_dims=dims),
        lambda f: grad(lambda v: vmap(lambda w: scalar(f, w), in_dims=dims)(v).sum()),
    ):
        assert_close(build(scan)(values), build(scan_ref)(values))


def test_vmap_over_constant_projections_lengths_and_another_axis():
    values = arguments()
    constant = torch.randn(3, 2, 4, dtype=torch.float64)
    both = [vmap(lambda c, f=f: f(**{**values, "C": c})[0], in_dims=2)(constant) for f in (scan, scan_ref)]
    assert_close(*both)
    lengths = torch.tensor([[1, 5], [0, 2], [4, 3]])
    both = [vmap(lambda n, f=f: f(**values, lengths=n)[0])(lengths) for f in (scan, scan_ref)]
    assert_close(*both)


def test_vmap_over_route_scans():
    table = route_table(["HW+", "WH-"], [(3, 2)])
    shapes = [(2, 6, 3), (2, 2, 6, 3), (2, 2, 6, 4), (2, 2, 6, 4)]
    u, delta, B, C = (torch.randn(5, *shape, dtype=torch.float64) for shape in shapes)
    A = -torch.rand(2, 3, 4, dtype=torch.float64)
    mapped = vmap(lambda u, d, b, c: route_scan(u, d, A, b, c, table, delta_softplus=True))(u, delta, B, C)
    single = [route_scan(*v[:2], A, *v[2:], table, delta_softplus=True) for v in zip(u, delta, B, C, strict=True)]
    assert_close(mapped, torch.stack(single))


def test_gradients_of_each_sample_of_a_module():
    torch.manual_seed(0)
    block = Mamba(8).double()
    parameters, x = dict(block.named_parameters()), torch.randn(3, 6, 8, dtype=torch.float64)

    def loss(parameters, sample):
        return functional_call(block, parameters, (sample[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i, sample in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, sample), list(parameters.values()))
        assert_close([value[i] for value in found.values()], expected)


@every_backend
def test_second_order_gradients_are_refused_in_words(backend):
    values = {name: value.float().requires_grad_() for name, value in arguments().items()}
    out = selective_scan_fn(**values, backend=backend)
    (gradient,) = torch.autograd.grad(out.sum(), values["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="no second-order gradient"):
        gradient.sum().backward()


def test_second_order_and_forward_mode_are_refused_by_func_too():
    values = arguments()

    def loss(u):
        return scalar(scan, {**values, "u": u})

    with pytest.raises(RuntimeError, match="no second-order gradient"):
        grad(lambda u: grad(loss)(u).sum())(values["u"])
    for refused in (lambda: hessian(loss)(values["u"]), lambda: jvp(loss, (values["u"],), (values["u"],))):
        with pytest.raises(RuntimeError, match="no forward-mode derivative"):
            refused()


@every_backend
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_changes_no_bit(backend, use_reentrant):
    values = {name: value.requires_grad_() for name, value in arguments(dtype=torch.float32).items()}
    names = list(values)

    def run(*tensors):
        given = dict(zip(names, tensors, strict=True))
        return selective_scan_fn(**given, delta_softplus=True, return_last_state=True, backend=backend)

    def outcome(out, state):
        for value in values.values():
            value.grad = None
        (out.sin().sum() + state.square().sum()).backward()  # reentrant checkpointing refuses autograd.grad
        return out, state, *(value.grad for value in values.values())

    plain = outcome(*run(*values.values()))
    again = outcome(*checkpoint(run, *values.values(), use_reentrant=use_reentrant))
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_no_bit_of_results_or_gradients(backend, dtype):
    values = {name: value.requires_grad_() for name, value in arguments(dtype=torch.float32).items()}

    def outcome():
        out, state = selective_scan_fn(**values, delta_softplus=True, return_last_state=True, backend=backend)
        return out, state, *torch.autograd.grad(out.sum() + state.sum(), list(values.values()))

    plain = outcome()
    with torch.autocast("cpu", dtype):
        cast = outcome()
    for a, b in zip(plain, cast, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
