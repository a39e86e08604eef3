"""The Poincaré ball against closed forms (spec §6.3), float64 gradcheck, limits, and geoopt where it is installed."""

import math
import warnings

import pytest
import torch

from crossmamba.blocks.hyperbolic import RIM, clip_tangent, dist, dist0, exp0, log0, mobius_add, project


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def curvatures(dtype=torch.float32):
    return torch.tensor([0.01, 0.3, 1.0, 5.0], dtype=dtype).reshape(4, 1, 1)  # (B, 1, 1), one a sample


def tangents(length=0.7, dtype=torch.float32):
    u = torch.randn(4, 6, 16, dtype=torch.float64)
    lengths = length * torch.linspace(0.1, 1, 6, dtype=torch.float64)[:, None] / curvatures(torch.float64).sqrt()
    return (u / u.norm(dim=-1, keepdim=True) * lengths).to(dtype)


def points(length=1.2, dtype=torch.float32):
    return exp0(tangents(length, dtype), curvatures(dtype))


def arccosh_distance(x, y, c):
    """The textbook form, in float64."""
    x, y, c = x.double(), y.double(), c.double()
    gap, xx, yy = ((value**2).sum(-1, keepdim=True) for value in (x - y, x, y))
    return (torch.acosh(1 + 2 * c * gap / ((1 - c * xx) * (1 - c * yy))) / c.sqrt())[..., 0]


def test_a_tangent_vector_lands_twice_its_length_from_the_origin():
    u, c = tangents(2.0), curvatures()
    torch.testing.assert_close(dist0(exp0(u, c), c), 2 * u.norm(dim=-1), atol=0, rtol=7e-6)
    u, c = tangents(2.0, torch.float64), curvatures(torch.float64)
    torch.testing.assert_close(dist0(exp0(u, c), c), 2 * u.norm(dim=-1), atol=0, rtol=1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4e-6), (torch.float64, 1e-12)])
def test_distance_is_the_arccosh_form(dtype, tolerance):
    x, y, c = points(dtype=dtype), points(dtype=dtype).flip(1), curvatures(dtype)
    expected = arccosh_distance(x, y, c).to(dtype)
    torch.testing.assert_close(dist(x, y, c), expected, atol=tolerance, rtol=tolerance)


def test_distance_is_the_length_of_the_mobius_difference():
    x, y, c = points(dtype=torch.float64), points(dtype=torch.float64).flip(1), curvatures(torch.float64)
    torch.testing.assert_close(dist(x, y, c), dist0(mobius_add(-x, y, c), c), atol=1e-12, rtol=1e-12)


def test_distance_from_the_origin_agrees_and_distance_is_a_metric():
    x, y, z = (points(dtype=torch.float64) for _ in range(3))
    c = curvatures(torch.float64)
    torch.testing.assert_close(dist(x, torch.zeros_like(x), c), dist0(x, c))
    torch.testing.assert_close(dist(x, y, c), dist(y, x, c))
    assert (dist(x, x, c) < 1e-12).all()
    assert (dist(x, z, c) <= dist(x, y, c) + dist(y, z, c) + 1e-12).all()
    torch.testing.assert_close(dist(mobius_add(z, x, c), mobius_add(z, y, c), c), dist(x, y, c))  # ⊕ is an isometry


def test_small_curvature_is_flat_space():
    u, v = torch.randn(2, 4, 6, 16).unbind(0)
    c = torch.full((4, 1, 1), 1e-10)
    torch.testing.assert_close(exp0(u, c), u, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(log0(u, c), u, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mobius_add(u, v, c), u + v, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(dist(u, v, c), 2 * (u - v).norm(dim=-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.float64, 1e-12)])
def test_mobius_addition_cancels_on_the_left(dtype, tolerance):
    x, y, c = points(0.8, dtype), points(0.8, dtype).flip(1), curvatures(dtype)
    torch.testing.assert_close(mobius_add(-x, mobius_add(x, y, c), c), y, atol=tolerance, rtol=0)
    zero = torch.zeros_like(x)
    torch.testing.assert_close(mobius_add(zero, y, c), y)
    torch.testing.assert_close(mobius_add(x, zero, c), x)


def test_logarithm_undoes_the_exponential():
    u, c = tangents(2.0), curvatures()
    torch.testing.assert_close(log0(project(exp0(u, c), c), c), u, atol=0, rtol=3e-5)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 3.106), (torch.float64, 6.103)])
def test_the_rim_bounds_the_logarithm(dtype, limit):
    """spec §6.3: |log0(exp0(u))| stops there whatever |u|, which is why tangent vectors are clipped first."""
    c = curvatures(dtype)
    found = log0(project(exp0(tangents(50.0, dtype), c), c), c).norm(dim=-1)[:, -1] * c.sqrt()[:, 0, 0]
    torch.testing.assert_close(found, torch.full_like(found, limit), atol=1e-3, rtol=0)


def test_projection_holds_points_inside_and_leaves_the_rest():
    c = curvatures()
    outside = project(torch.randn(4, 6, 16) * 100, c).norm(dim=-1) * c.sqrt()[..., 0]
    torch.testing.assert_close(outside, torch.full_like(outside, 1 - RIM[torch.float32]), atol=1e-6, rtol=0)
    inside = points()
    assert torch.equal(project(inside, c), inside)
    far = project(torch.randn(4, 6, 16) * 100, c)
    diameter = torch.full((4, 6), 4 * 3.106) / c.sqrt()[..., 0]
    torch.testing.assert_close(dist(far, -far, c), diameter, atol=0, rtol=1e-3)


def test_clipping_keeps_the_direction():
    u, c = torch.randn(4, 6, 512), curvatures()
    short = clip_tangent(u, c, radius=2.0)
    torch.testing.assert_close(torch.cosine_similarity(short, u, dim=-1), torch.ones(4, 6))
    torch.testing.assert_close(short.norm(dim=-1), torch.minimum(u.norm(dim=-1), 2 / c.sqrt()[..., 0]))
    assert (exp0(short, c).norm(dim=-1) * c.sqrt()[..., 0] <= math.tanh(2.0) + 1e-6).all()


@pytest.mark.parametrize("name", ["exp0", "log0", "project", "clip", "mobius", "dist", "dist0"])
def test_gradients_of_points_and_curvature(name):
    """float64 gradcheck, with a curvature for each sample."""
    c = torch.tensor([0.2, 1.3], dtype=torch.float64).reshape(2, 1, 1).requires_grad_()
    x = (torch.randn(2, 2, 3, dtype=torch.float64) * 0.25).requires_grad_()
    y = (torch.randn(2, 2, 3, dtype=torch.float64) * 0.25).requires_grad_()
    functions = {
        "exp0": lambda: (exp0, (x, c)), "log0": lambda: (log0, (x, c)), "dist0": lambda: (dist0, (x, c)),
        "project": lambda: (project, ((x * 40).detach().requires_grad_(), c)),
        "clip": lambda: (clip_tangent, ((x * 40).detach().requires_grad_(), c)),
        "mobius": lambda: (mobius_add, (x, y, c)), "dist": lambda: (dist, (x, y, c)),
    }  # fmt: skip
    function, arguments = functions[name]()
    assert torch.autograd.gradcheck(function, arguments)


def test_gradients_at_zero_are_finite():
    c = torch.ones(1, 1, 1, requires_grad=True)
    for function in (exp0, log0, project, clip_tangent):
        u = torch.zeros(1, 1, 3, requires_grad=True)
        function(u, c).sum().backward()
        torch.testing.assert_close(u.grad, torch.ones(1, 1, 3))
    for function in (lambda u: dist(u, u.detach(), c), lambda u: dist0(u, c)):
        u = torch.zeros(1, 1, 3, requires_grad=True)
        function(u).sum().backward()
        assert torch.equal(u.grad, torch.zeros(1, 1, 3))
    assert torch.isfinite(c.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_precision_change_nothing(dtype):
    u, v, c = tangents(), tangents(), curvatures()
    expected = dist(exp0(u, c), exp0(v, c), c)
    with torch.autocast("cpu", dtype):
        assert torch.equal(dist(exp0(u, c), exp0(v, c), c), expected)
        assert dist(u.to(dtype), v.to(dtype), c.to(dtype)).dtype == torch.float32


def test_compiles_as_one_graph():
    run = torch.compile(lambda u, c: dist(exp0(u, c), exp0(-u, c), c), fullgraph=True, backend="eager")
    u, c = tangents(), curvatures()
    torch.testing.assert_close(run(u, c), 4 * u.norm(dim=-1), atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def oracle():
    """geoopt's functional API; its curvature is k = -c, and its distances need keepdim=True: with the default and k of
    (B, 1, 1) they broadcast to (B, B, T)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "geoopt.manifolds.stereographic.math", reason="geoopt is not installed: pip install geoopt"
        )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_equals_geoopt(oracle, dtype, tolerance):
    c = curvatures(dtype)
    u, x, y = tangents(1.5, dtype), points(1.0, dtype), points(1.0, dtype).flip(1)
    pairs = {
        "exp0": (exp0(u, c), oracle.expmap0(u, k=-c)),
        "log0": (log0(x, c), oracle.logmap0(x, k=-c)),
        "project": (project(100 * u, c), oracle.project(100 * u, k=-c)),
        "mobius": (mobius_add(x, y, c), oracle.mobius_add(x, y, k=-c)),
        "dist": (dist(x, y, c), oracle.dist(x, y, k=-c, keepdim=True)[..., 0]),
        "dist0": (dist0(x, c), oracle.dist0(x, k=-c, keepdim=True)[..., 0]),
    }
    for name, (ours, theirs) in pairs.items():
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance, msg=lambda m, n=name: f"{n}: {m}")
    assert oracle.dist0(x, k=-c).shape == (4, 4, 6)  # the trap
    assert dist0(x, c).shape == (4, 6)


def test_gradients_equal_geoopts(oracle):
    c = curvatures(torch.float64).requires_grad_()
    x, y = points(dtype=torch.float64).requires_grad_(), points(dtype=torch.float64).flip(1).requires_grad_()
    ours = torch.autograd.grad(dist(x, y, c).sum(), (x, y, c))
    theirs = torch.autograd.grad(oracle.dist(x, y, k=-c, keepdim=True).sum(), (x, y, c))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-9, rtol=1e-9)
