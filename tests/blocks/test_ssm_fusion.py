"""SSM-Fusion: parameter integers, loops in float64, what sharing A does and does not do, padding, streams."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from crossmamba import SSMFusion
from crossmamba.blocks.ssm_fusion import SSMBranch, official_init_, packing_order
from crossmamba.errors import UsageError

LENGTHS = {"video": 11, "text": 5, "sound": 7}


def fusion(names=("video", "text"), width=16, **options):
    torch.manual_seed(0)
    options = {"d_state": 4, "dt_min": 0.1, "dt_max": 1.0, **options}
    made = SSMFusion(dict.fromkeys(names, width), width, **options).double()
    with torch.no_grad():  # D and A_log start alike everywhere; a swap of channels must show
        for name, parameter in made.named_parameters():
            if name.endswith(("A_log", ".D")):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def draw(names=("video", "text"), batch=2, width=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {m: torch.randn(batch, LENGTHS[m], width, generator=generator, dtype=torch.float64) for m in names}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("width", "block", "both", "a"), [(768, 3_746_304, 7_517_184, 24_576), (1024, 6_633_472, 13_299_712, 32_768)]
)
def test_parameter_integers(width, block, both, a):
    """Spec §1.6."""
    with torch.device("meta"):
        shared = SSMFusion({"video": width, "text": width}, width)
        separate = SSMFusion({"video": width, "text": width}, width, share_a=False)
    assert count(shared.branches["video"]) == count(shared.branches["text"]) == block
    assert count(shared) == both
    assert count(separate) == both + a
    assert [name for name, _ in shared.named_parameters() if name.endswith("A_log")] == ["A_log"]
    assert list(shared.state_dict()).count("A_log") == 1
    assert "branches.video.A_log" not in shared.state_dict()


def by_loops(made, tokens):
    """Algorithm 1 of spec §1.3, written down again in loops."""
    total = 0
    for name, x in tokens.items():
        branch = made.branches[name]
        A = -torch.exp(made.A_log if made.A_log is not None else branch.A_log)
        u, z = (x @ branch.in_proj.weight.T).chunk(2, dim=-1)
        kernel = branch.conv1d.weight[:, 0]  # (D, 4)
        convolved = []
        for t in range(x.shape[1]):
            taps = [kernel[:, 3 - k] * u[:, t - k] for k in range(4) if t >= k]
            convolved.append(F.silu(sum(taps) + branch.conv1d.bias))
        h, outs = torch.zeros(x.shape[0], *A.shape, dtype=x.dtype), []
        for t, value in enumerate(convolved):
            dt, B, C = (value @ branch.x_proj.weight.T).split([branch.dt_rank, A.shape[1], A.shape[1]], dim=-1)
            step = torch.log1p(torch.exp(dt @ branch.dt_proj.weight.T + branch.dt_proj.bias))
            h = torch.exp(step[..., None] * A) * h + (step * value)[..., None] * B[:, None]
            y = (h * C[:, None]).sum(-1) + branch.D * value
            outs.append((y * F.silu(z[:, t])) @ branch.out_proj.weight.T)
        total = total + sum(outs) / len(outs)
    return total


@pytest.mark.parametrize("share_a", [True, False])
@pytest.mark.parametrize("names", [("video", "text"), ("video", "text", "sound")], ids=len)
def test_equals_the_loops_with_gradients(names, share_a):
    made, tokens = fusion(names, share_a=share_a), draw(names)
    for value in tokens.values():
        value.requires_grad_()
    weight = torch.randn(2, 16, dtype=torch.float64)
    wanted = {**tokens, **dict(made.named_parameters())}
    own, looped = made(tokens), by_loops(made, tokens)
    torch.testing.assert_close(own, looped, rtol=0, atol=1e-10)
    for name, mine, theirs in zip(
        wanted,
        torch.autograd.grad((own * weight).sum(), wanted.values()),
        torch.autograd.grad((looped * weight).sum(), wanted.values()),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_the_mean_before_and_after_the_last_layer_are_the_same_numbers():
    before, after = fusion(), fusion(pool_first=False)
    masks = {"text": torch.arange(5) < torch.tensor([[5], [2]])}
    torch.testing.assert_close(before(draw(), masks), after(draw(), masks), rtol=0, atol=1e-12)


def test_the_shared_gradient_is_the_sum_of_the_branches():
    made, tokens = fusion(("video", "text", "sound")), draw(("video", "text", "sound"))
    weight = torch.randn(2, 16, dtype=torch.float64)
    (whole,) = torch.autograd.grad((made(tokens) * weight).sum(), made.A_log)
    parts = [torch.autograd.grad((made({m: x}) * weight).sum(), made.A_log)[0] for m, x in tokens.items()]
    assert all(part.abs().max() > 1e-6 for part in parts)
    torch.testing.assert_close(whole, sum(parts), rtol=0, atol=1e-12)


@pytest.mark.parametrize("share_a", [True, False])
def test_logits_are_additive_so_sharing_moves_no_information(share_a):
    """Spec §1.3: f(v, t) - f(v', t) does not depend on t."""
    made, one, other = fusion(share_a=share_a), draw(seed=1), draw(seed=2)
    crossed = made({"video": one["video"], "text": other["text"]}), made({"video": other["video"], "text": one["text"]})
    torch.testing.assert_close(made(one) + made(other), crossed[0] + crossed[1], rtol=0, atol=1e-12)
    assert (made(one) - crossed[0]).abs().max() > 1e-3
    text = one["text"].requires_grad_()
    (reached,) = torch.autograd.grad(made.terms(one)["video"].sum(), text, allow_unused=True)
    assert reached is None


def test_missing_modalities_drop_their_term_and_order_does_not_matter():
    names = ("video", "text", "sound")
    made, tokens = fusion(names), draw(names)
    terms = made.terms(tokens)
    for chosen in itertools.chain.from_iterable(itertools.combinations(names, n) for n in (1, 2, 3)):
        part = {m: tokens[m] for m in chosen}
        torch.testing.assert_close(made(part), sum(terms[m] for m in chosen), rtol=0, atol=1e-12)
        assert torch.equal(made(part), made(dict(reversed(part.items()))))


@pytest.mark.parametrize("share_a", [True, False])
def test_masked_equals_truncated_wherever_the_padding_stands(share_a):
    made, tokens = fusion(share_a=share_a), draw()
    for place in ("right", "left", "between"):
        mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
        if place == "left":
            mask = mask.flip(1)
        elif place == "between":
            mask[1] = torch.tensor([True, False, True, False, True])
        dirty = {**tokens, "text": tokens["text"].masked_fill(~mask[..., None], math.nan)}
        out = made(dirty, {"text": mask})
        for sample in range(2):
            kept = {"video": tokens["video"][[sample]], "text": tokens["text"][[sample]][:, mask[sample]]}
            torch.testing.assert_close(out[[sample]], made(kept), rtol=0, atol=1e-13)


def test_the_official_padding_differs_and_counts_everything():
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    tokens, official = draw(), fusion(pad_mode="official")
    assert torch.equal(official(tokens, {"text": mask}), official(tokens))
    assert (fusion()(tokens, {"text": mask}) - official(tokens, {"text": mask}))[1].abs().max() > 1e-3


def test_a_sample_without_tokens_has_no_term():
    made, tokens = fusion(), draw()
    masks = {"text": torch.tensor([[True] * 5, [False] * 5])}
    torch.testing.assert_close(made(tokens, masks)[1], made({"video": tokens["video"]})[1], rtol=0, atol=1e-13)
    (gradient,) = torch.autograd.grad(made(tokens, masks).sum(), made.A_log)
    assert torch.isfinite(gradient).all()


def test_modalities_of_other_widths_are_projected():
    torch.manual_seed(0)
    made = SSMFusion({"video": 24, "text": 16}, 16, d_state=4)
    assert set(made.proj) == {"video"}
    assert made({"video": torch.randn(2, 3, 24), "text": torch.randn(2, 4, 16)}).shape == (2, 16)


def test_initialisations():
    """Spec §1.5: A in [-16, -1] and steps of 0.001 to 0.1, or A near -1 and steps of 0.69."""
    torch.manual_seed(0)
    good = SSMFusion({"video": 768}, 768)
    A, step = -good.A_log.exp(), F.softplus(good.branches["video"].dt_proj.bias)
    assert (A.min().item(), A.max().item()) == (pytest.approx(-16), -1)
    assert 9e-4 < step.min() < step.max() < 0.11
    bad = SSMFusion({"video": 768}, 768, init="official")
    A, step = -bad.A_log.exp(), F.softplus(bad.branches["video"].dt_proj.bias)
    assert -1.066 < A.min() < -1.06
    assert -0.945 < A.max() < -0.939
    assert torch.equal(step, torch.full_like(step, math.log(2)))
    assert torch.equal(bad.branches["video"].D, torch.ones(1536))
    assert bad.branches["video"].in_proj.weight.std().item() == pytest.approx(0.02, rel=0.01)
    norm = official_init_(torch.nn.LayerNorm(4).requires_grad_(True))
    assert torch.equal(norm.weight, torch.ones(4))


def test_drop_path_drops_whole_terms_in_training_only():
    made, tokens = fusion(drop_path=0.5), draw(batch=64)
    assert torch.equal(made.eval()(tokens), fusion().eval()(tokens))
    terms = made.train().terms(tokens)
    whole = made.eval().terms(tokens)
    for name, term in terms.items():
        dropped = (term == 0).all(dim=1)
        assert 10 < dropped.sum() < 54
        torch.testing.assert_close(term[~dropped], 2 * whole[name][~dropped])


@pytest.mark.parametrize("by", ["step", "scan"])
@pytest.mark.parametrize("d_conv", [1, 4])
def test_a_branch_goes_on_where_it_stopped(by, d_conv):
    torch.manual_seed(0)
    branch = SSMBranch(16, d_state=4, d_conv=d_conv, dt_min=0.1, dt_max=1.0).double()
    tokens = torch.randn(2, 13, 16, dtype=torch.float64)
    memory, found = branch.start(2), []
    for piece in tokens.split([1, 2, 0, 5, 4, 1], dim=1):
        y, memory = branch.extend(piece, memory, by=by)
        found.append(y)
        assert memory.window.shape == (2, d_conv - 1, 32)
        assert memory.state.shape == (2, 32, 4)
    torch.testing.assert_close(torch.cat(found, dim=1), branch.inner(tokens), rtol=0, atol=1e-12)


def test_a_branch_stops_at_each_samples_length():
    torch.manual_seed(0)
    branch = SSMBranch(16, d_state=4, dt_min=0.1, dt_max=1.0).double()
    tokens, more = torch.randn(2, 6, 16, dtype=torch.float64), torch.randn(2, 3, 16, dtype=torch.float64)
    _, memory = branch.extend(tokens, branch.start(2), lengths=torch.tensor([6, 2]), by="scan")
    y, _ = branch.extend(more, memory)
    for sample, length in enumerate((6, 2)):
        alone = branch.inner(torch.cat([tokens[[sample], :length], more[[sample]]], dim=1))
        torch.testing.assert_close(y[[sample]], alone[:, length:], rtol=0, atol=1e-12)


def test_packing_keeps_order():
    mask = torch.tensor([[False, True, False, True]])
    assert packing_order(mask).tolist() == [[1, 3, 0, 2]]


def test_wrong_calls():
    made, tokens = fusion(), draw()
    with pytest.raises(UsageError, match=r"no modality named smell; there are video, text"):
        made({"smell": tokens["video"]})
    with pytest.raises(UsageError, match="no modality is given"):
        made({})
    with pytest.raises(UsageError, match=r"text is tokens \(2, L, 16\), got \(2, 5, 15\)"):
        made({**tokens, "text": tokens["text"][..., :15]})
    with pytest.raises(UsageError, match=r"the mask of text is bool \(2, 5\)"):
        made(tokens, {"text": torch.ones(2, 4, dtype=torch.bool)})
    with pytest.raises(UsageError, match="a mask but no tokens of text"):
        made({"video": tokens["video"]}, {"text": torch.ones(2, 5, dtype=torch.bool)})
    with pytest.raises(UsageError, match="init is one of paper, official"):
        fusion(init="other")
    for name in ("", "video.rgb", "type", "keys"):
        with pytest.raises(UsageError, match=f"a modality cannot be named '{name}'"):
            SSMFusion({"text": 16, name: 16}, 16)
    with pytest.raises(UsageError, match="at least one modality"):
        SSMFusion({}, 16)
    with pytest.raises(UsageError, match="by is"):
        made.branches["text"].extend(tokens["text"], made.branches["text"].start(2), by="jump")
