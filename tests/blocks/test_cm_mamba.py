"""CM-Mamba: the oracles of spec §1.1, parameter integers, and the options' readings of the paper's formulas.

Wherever a test says "equation", the recurrence or convolution is written out here in float64, apart from the operator.
"""

import pytest
import torch
import torch.nn.functional as F

from crossmamba.blocks import Mamba
from crossmamba.blocks.cm_mamba import CMMamba, ConditionalMamba

SMALL = {"d_state": 4, "expand": 2}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def block(width=6, query=None, **options):
    torch.manual_seed(0)
    return CMMamba(width, query, **{**SMALL, **options}).double()


def inputs(batch=2, length=9, width=6, query=6):
    generator = torch.Generator().manual_seed(1)
    make = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return make(batch, query), make(batch, length, width)


@pytest.mark.parametrize(
    ("width", "plain", "conditional", "cm"),
    [(128, 116_480, 149_248, 596_992), (256, 437_760, 568_832, 2_275_328), (512, 1_694_720, 2_219_008, 8_876_032)],
)
def test_parameter_integers(width, plain, conditional, cm):
    """spec §1.1's table; the norms are not in it."""
    with torch.device("meta"):
        assert count(Mamba(width)) == plain
        assert count(ConditionalMamba(width)) == conditional
        assert count(CMMamba(width, norm=False)) == cm
        assert count(CMMamba(width)) == cm + 4 * width


def test_four_parameter_sets_and_nothing_shared():
    mixers = [block().get_submodule(f"mamba{i}") for i in (1, 2, 3, 4)]
    assert len({parameter.data_ptr() for mixer in mixers for parameter in mixer.parameters()}) == 4 * 10


@pytest.mark.parametrize("length", [10, 196])
@pytest.mark.parametrize("reverse", [False, True])
def test_tier_1_is_a_convolution(length, reverse):
    """Equation: K_tau = sum_n C_n exp(Δ A_n tau) Δ B_n; y = K * u + D u, gated."""
    torch.manual_seed(0)
    mixer = ConditionalMamba(6, 5, reverse=reverse, **SMALL).double()
    query, (x, z) = torch.randn(2, 5).double(), torch.randn(2, 2, length, mixer.d_inner).double()
    source = mixer.source(query)
    raw, B, C = mixer.selection(source)
    assert raw.shape[1] == B.shape[1] == C.shape[1] == 1  # what the operator's time-invariant form asks for
    delta = F.softplus(raw + mixer.dt_proj.bias)[:, 0]  # (B, D)
    lag = torch.arange(length).double()
    decay = torch.exp(-torch.einsum("bd,dn,t->bdnt", delta, mixer.A_log.exp(), lag))
    kernel = torch.einsum("bn,bdnt,bd,bn->bdt", C[:, 0], decay, delta, B[:, 0])
    u = x.flip(1) if reverse else x
    y = (
        sum(F.pad(u[:, : length - tau], (0, 0, tau, 0)) * kernel[:, None, :, tau] for tau in range(length))
        + mixer.D * u
    )
    y = (y.flip(1) if reverse else y) * F.silu(z)
    torch.testing.assert_close(mixer.scan(x, z, source), y, atol=1e-11, rtol=1e-11)
    single = mixer.float().scan(x.float(), z.float(), mixer.source(query.float()))
    torch.testing.assert_close(single.double(), y, atol=1e-5, rtol=1e-4)


def test_tier_1_equals_the_scan_with_its_selection_repeated_for_every_token():
    torch.manual_seed(0)
    mixer = ConditionalMamba(6, **SMALL).double()
    query, s = inputs()
    repeated = query[:, None].repeat(1, s.shape[1], 1)
    torch.testing.assert_close(mixer(s, query), mixer(s, repeated), atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_permuting_queries_permutes_results():
    model, (_, s) = block(), inputs(batch=1)
    queries = torch.randn(4, 6, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    sequence = s.expand(4, -1, -1)
    out = model(queries, sequence)
    torch.testing.assert_close(model(queries[order], sequence), out[order])
    assert (out[0] - out[1]).abs().max() > 1e-9


@torch.no_grad()
def test_one_token_is_a_pointwise_map():
    model = block()
    query, s = inputs(batch=5, length=1)
    out = model(query[:1].expand(5, -1), s)
    for i in range(5):
        torch.testing.assert_close(out[i : i + 1], model(query[:1], s[i : i + 1]))


def swapped(model, **options):
    other = block(**options)
    names = {"mamba1": "mamba2", "mamba2": "mamba1", "mamba3": "mamba4", "mamba4": "mamba3"}
    state = model.state_dict()
    other.load_state_dict(
        {".".join([names.get(k.split(".")[0], k.split(".")[0]), *k.split(".")[1:]]): v for k, v in state.items()}
    )
    return other


@torch.no_grad()
@pytest.mark.parametrize("cond_conv", [False, True])
def test_swapped_parameters_and_a_reversed_sequence_give_the_reversed_result(cond_conv):
    query, s = inputs()
    second = torch.randn_like(s)
    model = block(cond_conv=cond_conv)
    expected = model(query, s, second).flip(1)
    out = swapped(model, cond_conv=cond_conv)(query, s.flip(1), second.flip(1))
    torch.testing.assert_close(out, expected, atol=1e-13, rtol=1e-12)


@torch.no_grad()
def test_as_printed_the_symmetry_does_not_hold():
    query, s = inputs()
    model = block(unflip=False)
    out = swapped(model, unflip=False)(query, s.flip(1))
    assert (out - model(query, s).flip(1)).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("reverse", [False, True])
def test_a_mixer_conditioned_on_its_own_sequence_is_mamba(reverse):
    torch.manual_seed(0)
    mamba, mixer = Mamba(6, **SMALL).double(), ConditionalMamba(6, reverse=reverse, cond_conv=True, **SMALL).double()
    mixer.load_state_dict(mamba.state_dict(), strict=False)
    mixer.cond_proj.weight.copy_(mamba.in_proj.weight[: mamba.d_inner])  # the condition becomes Mamba's own u
    mixer.cond_conv.load_state_dict(mamba.conv1d.state_dict())
    _, s = inputs()
    expected = mamba(s.flip(1)).flip(1) if reverse else mamba(s)
    torch.testing.assert_close(mixer(s, s), expected, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_fed_with_u_the_scan_is_mambas():
    torch.manual_seed(0)
    mamba, mixer = Mamba(6, **SMALL), ConditionalMamba(6, **SMALL)
    mixer.load_state_dict(mamba.state_dict(), strict=False)
    s = torch.randn(2, 9, 6)
    x, z = mamba.in_proj(s).chunk(2, dim=-1)
    u = F.silu(mamba.conv1d(x))
    torch.testing.assert_close(mixer.out_proj(mixer.scan(u, z, u)), mamba(s), atol=1e-6, rtol=1e-5)


def mixer_by_the_equation(mixer, s, condition):
    """A conditional Mamba forwards, one token after the other."""
    x, z = mixer.in_proj(s).chunk(2, dim=-1)
    taps = mixer.conv1d.weight[:, 0]
    padded = F.pad(x, (0, 0, taps.shape[1] - 1, 0))
    u = F.silu(sum(padded[:, k : k + s.shape[1]] * taps[:, k] for k in range(taps.shape[1])) + mixer.conv1d.bias)
    condition = condition[:, None].repeat(1, s.shape[1], 1) if condition.dim() == 2 else condition
    dt, B, C = mixer.x_proj(mixer.cond_proj(condition)).split([mixer.dt_rank, mixer.d_state, mixer.d_state], dim=-1)
    delta = F.softplus(mixer.dt_proj(dt))
    h, ys = torch.zeros(s.shape[0], mixer.d_inner, mixer.d_state, dtype=s.dtype), []
    for t in range(s.shape[1]):
        decay = torch.exp(-delta[:, t, :, None] * mixer.A_log.exp())
        h = decay * h + (delta[:, t] * u[:, t])[..., None] * B[:, t, None]
        ys.append((h * C[:, t, None]).sum(-1) + mixer.D * u[:, t])
    return mixer.out_proj(torch.stack(ys, 1) * F.silu(z))


@torch.no_grad()
@pytest.mark.parametrize("unflip", [True, False])
def test_the_whole_block_is_the_papers_formula(unflip):
    """Equations of §2.2.2: reversed copies for the second mixers, turned back or (as printed) not."""
    query, s = inputs()
    second = torch.randn_like(s)
    model = CMMamba.paper_literal(6, **SMALL).double() if not unflip else block(norm=False, residual=False)
    assert model.unflip == unflip
    turn = (lambda y: y.flip(1)) if unflip else (lambda y: y)
    run = mixer_by_the_equation
    guide = run(model.mamba1, s, query) + turn(run(model.mamba2, s.flip(1), query))
    expected = run(model.mamba3, second, guide) + turn(run(model.mamba4, second.flip(1), guide.flip(1)))
    torch.testing.assert_close(model(query, s, second), expected, atol=1e-11, rtol=1e-10)


@torch.no_grad()
def test_norm_and_residual_stand_round_the_formula():
    query, s = inputs()
    second = torch.randn_like(s)
    model, bare = block(), block(norm=False, residual=False)
    bare.load_state_dict({k: v for k, v in model.state_dict().items() if "norm" not in k})
    normal = lambda x: F.layer_norm(x, (6,))  # noqa: E731
    torch.testing.assert_close(model(query, s, second), second + bare(normal(query), normal(s), normal(second)))


def test_the_query_reaches_both_tiers_and_only_through_C_and_what_it_reads():
    query, s = inputs()
    query.requires_grad_()
    model = block(norm=False, residual=False)
    for result in (model.tier1(query, s), model(query, s)):
        (gradient,) = torch.autograd.grad(result.square().sum(), query)
        assert gradient.abs().max() > 1e-12
    with torch.no_grad():
        for mixer in (model.mamba1, model.mamba2):
            mixer.x_proj.weight[-mixer.d_state :] = 0  # C
            mixer.D.zero_()
    for result in (model.tier1(query, s), model(query, s)):
        (gradient,) = torch.autograd.grad(result.square().sum(), query)
        assert gradient.abs().max() == 0


def test_the_second_tiers_scan_hears_the_query_through_the_guide_alone():
    query, s = inputs()
    query.requires_grad_()
    model = block(norm=False, residual=False)
    with torch.no_grad():
        for mixer in (model.mamba3, model.mamba4):
            mixer.x_proj.weight[-mixer.d_state :] = 0
    (gradient,) = torch.autograd.grad(model(query, s).square().sum(), query)
    assert gradient.abs().max() == 0  # D u of tier 2 does not depend on the query


@torch.no_grad()
def test_what_a_query_moves_at_the_start():
    """The reason for guide_norm: the result's change with the query, relative to the result."""
    moved = []
    for options in ({}, {"guide_norm": True}, {"guide_norm": True, "dt_min": 0.1, "dt_max": 1.0}):
        torch.manual_seed(0)
        model = CMMamba(64, d_state=8, expand=1, residual=False, **options)
        s, queries = torch.randn(1, 10, 64).expand(2, -1, -1), torch.randn(2, 64)
        out = model(queries, s)
        moved.append(((out[0] - out[1]).std() / out[0].std()).item())
    assert moved[0] < 1e-5 < 1e-4 < moved[1] < 1e-2 < moved[2]


OPTIONS = [
    {}, {"norm": False}, {"guide_norm": True}, {"residual": False}, {"cond_conv": True}, {"unflip": False},
    {"dt_rank": 1}, {"expand": 1}, {"d_state": 1}, {"d_conv": 2},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_trains_all_that_it_builds(options):
    query, s = inputs()
    model = block(**options)
    model(query, s).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    zero = [name for name, p in model.named_parameters() if p.grad.abs().max() == 0]
    assert zero == []


def test_gradients_in_float64():
    query, s = inputs(batch=1, length=3, width=2, query=2)
    model = block(width=2, d_state=2, expand=1)
    assert torch.autograd.gradcheck(model, (query.requires_grad_(), s.requires_grad_()))


def test_a_query_of_another_width_and_long_and_empty_sequences():
    model = CMMamba(4, 7, **SMALL)
    assert model(torch.randn(2, 7), torch.randn(2, 1000, 4)).shape == (2, 1000, 4)
    assert model(torch.randn(2, 7), torch.randn(2, 0, 4)).shape == (2, 0, 4)


def test_single_and_half_precision_follow_double():
    query, s = inputs(length=40)
    model = block()
    expected = model(query, s)
    single = model.float()(query.float(), s.float())
    torch.testing.assert_close(single.double(), expected, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(query.float(), s.float())
    half.float().square().mean().backward()
    assert (half.double() - expected).abs().max() < 0.1
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("query", "first", "second"),
    [((2, 1, 6), (2, 9, 6), None), ((3, 6), (2, 9, 6), None), ((2, 6), (2, 9), None), ((2, 6), (2, 9, 6), (2, 8, 6))],
)
def test_shapes_that_do_not_fit_are_named(query, first, second):
    with pytest.raises(ValueError, match="got"):
        CMMamba(6, **SMALL)(torch.zeros(query), torch.zeros(first), None if second is None else torch.zeros(second))
