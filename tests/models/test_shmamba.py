"""SHMamba: parameter integers, every ablation, inputs, invariances, curvature, precision, learning."""

import itertools

import pytest
import torch
from torch import nn

from crossmamba import create_model
from crossmamba.models import from_pretrained, save_pretrained

TINY = {"width": 16, "audio_dim": 8, "visual_dim": 8, "question_dim": 8, "d_state": 4}


def tiny(**overrides):
    torch.manual_seed(0)
    return create_model("shmamba", **{**TINY, **overrides})


def inputs(videos=4, seconds=5, grid=(3, 4)):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return draw(videos, seconds, 8), draw(videos, seconds, *grid, 8), draw(videos, 8)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_integers():
    with torch.device("meta"):
        model = create_model("shmamba")
    assert count(model.audio_proj) == 128 * 256 + 256
    assert count(model.visual_proj) == count(model.question) == 512 * 256 + 256
    assert count(model.align) == 2 * 256 + 1
    assert count(model.temporal) == 4 * (437_760 + 256)  # spec §2.6: a Mamba-1 block of width 256, and its norm
    assert count(model.cross) == 131_328 + 2 * (1024 + 65_792) + 131_328
    assert count(model.head) == 256 * 42 + 42
    assert count(model) == 2_455_339


@pytest.mark.parametrize(("share", "distinct"), [("none", 4), ("across_modality", 2), ("all", 1)])
def test_sharing_modes(share, distinct):
    with torch.device("meta"):
        model = create_model("shmamba", share=share)
    assert count(model.temporal) == distinct * (437_760 + 256)
    blocks = [*model.temporal.audio, *model.temporal.visual]
    assert len(blocks) == 4
    assert len(set(blocks)) == distinct
    assert (blocks[0] is blocks[1]) == (share == "all")
    assert (blocks[0] is blocks[2]) == (share != "none")


ABLATIONS = [
    {}, {"alignment": "distance"}, {"alignment": "gram_mse"}, {"alignment": "none"}, {"curvature": "fixed"},
    {"mamba": False}, {"share": "across_modality"}, {"share": "all"}, {"fusion": "concat"}, {"fusion": "none"},
    {"space": "ball"}, {"gates": "independent"}, {"picture_grid": (2, 2)}, {"head": "choices"},
    {"question_input": "lstm"}, {"audio_input": "small_sound", "audio_args": {"dim": 8, "width": 8}},
]  # fmt: skip


@pytest.mark.parametrize("change", ABLATIONS, ids=str)
def test_every_ablation_trains_a_step_and_every_parameter_receives_gradient(change):
    model = tiny(**change)
    audio, visual, question = inputs()
    if change.get("question_input") == "lstm":
        question = torch.randint(0, 93, (4, 14))
    if change.get("audio_input"):
        audio = torch.randn(4, 5, 1, 96, 64)
    choices = torch.randn(4, 4, 8) if change.get("head") else None
    out = model(audio, visual, question, choices=choices)
    assert out.logits.shape == (4, 4 if change.get("head") else 42)
    assert set(out.losses) == (set() if change.get("alignment") == "none" else {"alignment"})
    loss = out.logits.square().mean() + sum(out.losses.values())
    loss.backward()
    missing = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert missing == set()
    assert model.eval()(audio, visual, question, choices=choices).losses == {}


def test_receives_gradient_in_numbers():
    """Of the default model's 2,455,339 parameters all are trainable and all receive gradient."""
    torch.manual_seed(0)
    model = create_model("shmamba")
    out = model(torch.randn(2, 3, 128), torch.randn(2, 3, 512), torch.randn(2, 512))
    (out.logits.square().mean() + sum(out.losses.values())).backward()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2_455_339
    assert sum(p.numel() for p in model.parameters() if p.grad is not None) == 2_455_339


def test_the_curvature_receives_gradient_from_distance_and_none_from_gram_mse():
    found = {}
    for name in ("distance", "gram_mse"):
        model = tiny(alignment=name)
        model(*inputs()).losses["alignment"].backward()
        found[name] = model.align.curvature.linear.weight.grad.abs().max().item()
    assert found["distance"] > 1e-6
    assert found["gram_mse"] < 1e-9  # why it is not the default


def test_grids_and_vectors_are_taken():
    model = tiny().eval()
    audio, visual, question = inputs()
    torch.testing.assert_close(
        model(audio, visual, question).logits, model(audio, visual.mean((2, 3)), question).logits
    )


def test_only_a_finer_picture_grid_sees_where_things_are():
    audio, visual, question = inputs(grid=(4, 4))
    turned = visual.flip(3)
    coarse, fine = tiny().eval(), tiny(picture_grid=(2, 2)).eval()
    torch.testing.assert_close(coarse(audio, visual, question).logits, coarse(audio, turned, question).logits)
    assert (fine(audio, visual, question).logits - fine(audio, turned, question).logits).abs().max() > 1e-3


def test_questions_of_one_video_share_its_work():
    model = tiny()
    audio, visual, question = inputs()
    video = torch.tensor([2, 0, 2, 1, 3])
    questions = torch.randn(5, 8)
    shared = model(audio, visual, questions, video=video)
    each = model.eval()(audio[video], visual[video], questions)
    torch.testing.assert_close(shared.logits, each.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared.losses, model.train()(audio, visual, question).losses)  # once per video


@torch.no_grad()
def test_the_order_of_the_batch_does_not_matter():
    model = tiny()
    order = torch.tensor([2, 0, 3, 1])
    first, second = model(*inputs()), model(*(x[order] for x in inputs()))
    torch.testing.assert_close(first.logits[order], second.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first.losses, second.losses, atol=1e-6, rtol=1e-6)
    alone = model(*(x[1:2] for x in inputs()))
    torch.testing.assert_close(alone.logits, first.logits[1:2], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("space", ["tangent", "ball"])
def test_without_curvature_it_is_the_flat_model(space):
    flat = tiny(alignment="none")
    curved = tiny(alignment="distance", k0=0.0, c_min=1e-9, space=space)
    curved.load_state_dict({**curved.state_dict(), **flat.state_dict()})
    audio, visual, question = inputs()
    found = curved(audio, visual, question)
    torch.testing.assert_close(found.logits, flat(audio, visual, question).logits, atol=1e-5, rtol=1e-5)
    gap = flat.audio_proj(audio) - flat.visual_proj(visual)
    torch.testing.assert_close(found.losses["alignment"], 0.1 * 2 * gap.norm(dim=-1).mean(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alignment", ["distance", "infonce", "gram_mse"])
def test_autocast_does_not_change_the_alignment_loss(dtype, alignment):
    """spec §2.4: by at most 1e-3, at the default model's widths. Only the two linear encoders before it round."""
    torch.manual_seed(0)
    model = create_model("shmamba", alignment=alignment, mamba=False)
    features = torch.randn(8, 10, 128), torch.randn(8, 10, 512), torch.randn(8, 512)
    plain = model(*features).losses["alignment"]
    with torch.autocast("cpu", dtype):
        half = model(*features).losses["alignment"]
    assert half.dtype == torch.float32
    assert abs(half - plain) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_run_whole(dtype):
    model = tiny().to(dtype)
    out = model(*(x.to(dtype) for x in inputs()))
    (out.logits.float().square().mean() + out.losses["alignment"]).backward()
    assert out.logits.dtype == dtype
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_batch_can_be_learned_by_heart():
    model = tiny()
    audio, visual, question = inputs()
    answers = torch.tensor([3, 41, 7, 3])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        out = model(audio, visual, question)
        loss = nn.functional.cross_entropy(out.logits, answers) + sum(out.losses.values())
        if nn.functional.cross_entropy(out.logits, answers) < 0.05:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"cross-entropy plus alignment is {loss:.3f} after 150 steps")


@pytest.mark.parametrize("share", ["none", "all"])
def test_saving_and_loading(tmp_path, share):
    model = tiny(share=share, picture_grid=(2, 2)).eval()
    save_pretrained(model, tmp_path, preprocessing={"task": "avqa"})
    loaded = from_pretrained(tmp_path)
    assert torch.equal(loaded(*inputs()).logits, model(*inputs()).logits)
    assert len(set(map(id, itertools.chain(loaded.temporal.audio, loaded.temporal.visual)))) == (
        4 if share == "none" else 1
    )


def test_the_small_model_takes_the_synthetic_worlds_features():
    torch.manual_seed(0)
    model = create_model("shmamba_small")
    assert count(model) < 500_000
    assert model.needs == {"audio": (64,), "visual": (None, None, 64), "question": "words"}
    audio, visual, question = torch.randn(2, 10, 64), torch.randn(2, 10, 8, 8, 64), torch.randint(0, 93, (2, 14))
    assert model(audio, visual, question).logits.shape == (2, 42)
    maps = model.explain(audio, visual, question)
    assert maps.spatial.shape == (2, 10, 8, 8)
    torch.testing.assert_close(maps.spatial.sum((2, 3)), torch.ones(2, 10))
    torch.testing.assert_close(maps.audio.sum(1), torch.ones(2))


@pytest.mark.parametrize(
    "bad",
    [
        {"alignment": "cosine"},
        {"share": "some"},
        {"fusion": "sum"},
        {"gates": "both"},
        {"space": "sphere"},
        {"curvature": "free"},
        {"head": "words"},
        {"question_input": "bert"},
        {"audio_input": "vgg"},
        {"widht": 3},
        {"alignment": "none", "space": "ball"},
    ],
    ids=str,
)
def test_unknown_values_are_errors(bad):
    with pytest.raises(ValueError):
        tiny(**bad)


def test_inputs_that_do_not_fit_are_named():
    model = tiny(picture_grid=(2, 2))
    audio, visual, question = inputs()
    with pytest.raises(ValueError, match="same \\(videos, seconds\\)"):
        model(audio[:, :3], visual, question)
    with pytest.raises(ValueError, match="lower picture_grid"):
        model(audio, visual[:, :, :1], question)
