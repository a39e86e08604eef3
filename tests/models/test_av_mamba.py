"""AV-Mamba, AVST and what all question-answering models share."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossmamba import create_model, from_pretrained, list_models, save_pretrained
from crossmamba.blocks.grounding import CMSpace, FusedSequence, OwnSequence, QuestionAttention, WeightedPool
from crossmamba.encoders.text import LSTMQuestion, VectorQuestion, build_question_input
from crossmamba.errors import UsageError
from crossmamba.models.av_mamba import TABLE_2, TIERS

TINY = {"width": 16, "audio_dim": 8, "visual_dim": 12, "dropout": 0.0}
TINY_CM = {**TINY, "cm_width": 8, "d_state": 2}
BOTH = [("av_mamba_small", TINY_CM), ("avst_small", TINY)]


def tiny(name="av_mamba_small", **overrides):
    torch.manual_seed(0)
    return create_model(name, **{**(TINY if name.startswith("avst") else TINY_CM), **overrides})


def batch(videos=3, questions=5, seconds=4, grid=(3, 2), audio=8, visual=12):
    generator = torch.Generator().manual_seed(1)
    sound = torch.randn(videos, seconds, audio, generator=generator)
    picture = torch.randn(videos, seconds, *grid, visual, generator=generator)
    asked = torch.randint(1, 93, (questions, 14), generator=generator)
    return sound, picture, asked, torch.randint(videos, (questions,), generator=generator)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_integers():
    """AVST: spec §0 and §5, "7.92M with gradient"; its published 22.3M hold a ResNet-18 that is never used."""
    with torch.device("meta"):
        avst, av = create_model("avst"), create_model("av_mamba")
        assert count(avst) == 7_916_716
        assert count(create_model("avst", match_loss_weight=0.0)) == 7_916_716 - 689_282
        scans = [av.ground.space.horizontal, av.ground.space.vertical, av.time.audio.scan, av.time.visual.scan]
        assert {count(scan) for scan in scans} == {2_275_328 + 4 * 131_072 + 2 * 256 + 2 * 512 - 2 * 131_072}
        assert count(av) == 15_543_594
        assert count(create_model("av_mamba_small")) < 500_000
    assert {"av_mamba", "av_mamba_small", "avst", "avst_small"} <= set(list_models())


@pytest.mark.parametrize(("name", "overrides"), BOTH)
def test_every_parameter_gets_gradient(name, overrides):
    model = tiny(name)
    sound, picture, asked, video = batch()
    out = model(sound, picture, asked, video=video)
    assert out.logits.shape == (5, 42)
    (F.cross_entropy(out.logits, torch.arange(5)) + sum(out.losses.values())).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


@pytest.mark.parametrize("row", [*TABLE_2, "CM IV"])
def test_every_row_of_table_2_trains_all_that_it_builds(row):
    model = tiny(**TABLE_2.get(row, {"space": "cm", "time": "cm4"}))
    sound, picture, asked, video = batch()
    out = model(sound, picture, asked, video=video)
    out.logits.square().mean().backward()
    assert out.losses == {}
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


def test_the_tiers_of_table_2_scan_what_the_paper_says():
    assert TIERS["cm1"] == (OwnSequence, OwnSequence)
    assert TIERS["cm3"] == (FusedSequence, OwnSequence)  # §2.2.2: s_av is the first tier's input
    assert set(TIERS.values()) == {(a, b) for a in (OwnSequence, FusedSequence) for b in (OwnSequence, FusedSequence)}
    assert create_model("av_mamba_small").time.audio.first.other.weight.shape == (48, 64)


@torch.no_grad()
@pytest.mark.parametrize(("name", "overrides"), BOTH)
def test_questions_of_one_video_are_independent_and_indexed(name, overrides):
    model = tiny(name).eval()
    sound, picture, asked, video = batch()
    together = model(sound, picture, asked, video=video).logits
    repeated = model(sound[video], picture[video], asked).logits
    torch.testing.assert_close(together, repeated, atol=1e-5, rtol=1e-5)
    alone = model(sound[video[2:3]], picture[video[2:3]], asked[2:3]).logits
    torch.testing.assert_close(together[2:3], alone, atol=1e-5, rtol=1e-5)


def test_space_is_grounded_once_per_video():
    model = tiny()
    sizes = []
    model.ground.space.register_forward_hook(lambda module, args, out: sizes.append(args[1].shape[0]))
    sound, picture, asked, video = batch()
    model(sound, picture, asked, video=video)
    assert sizes == [3]


@torch.no_grad()
@pytest.mark.parametrize("space", ["average", "weighted", "cm"])
@pytest.mark.parametrize("time", ["attention", "cm3"])
def test_vectors_are_a_grid_of_one(space, time):
    model = tiny(space=space, time=time).eval()
    sound, picture, asked, video = batch(grid=(1, 1))
    expected = model(sound, picture, asked, video=video).logits
    torch.testing.assert_close(model(sound, picture[:, :, 0, 0], asked, video=video).logits, expected)


@torch.no_grad()
def test_columns_are_rows_of_the_transposed_picture():
    torch.manual_seed(0)
    space = CMSpace(8, 6, d_state=2).double()
    sound, picture = torch.randn(2, 3, 8).double(), torch.randn(2, 3, 4, 5, 8).double()
    tokens = space.tokens(sound, picture)
    assert tokens.shape == (2, 3, 4, 5, 6)
    space.horizontal, space.vertical = space.vertical, space.horizontal
    turned = space.tokens(sound, picture.transpose(2, 3)).transpose(2, 3)
    torch.testing.assert_close(turned, tokens, atol=1e-12, rtol=1e-12)


@torch.no_grad()
def test_each_frame_meets_the_sound_of_its_own_second_only():
    torch.manual_seed(0)
    space = CMSpace(8, 6, d_state=2).double()
    sound, picture = torch.randn(1, 3, 8).double(), torch.randn(1, 3, 4, 5, 8).double()
    changed = sound.clone()
    changed[:, 1] += torch.randn(8)
    moved = (space(changed, picture)[0] - space(sound, picture)[0]).abs().amax(-1)[0] > 0
    assert moved.tolist() == [False, True, False]


@torch.no_grad()
def test_weighted_pool_is_avsts():
    """Equation: softmax over patches of <v/|v|, a/|a|>, weighting the normalised patches."""
    sound, picture = torch.randn(1, 1, 5).double(), torch.randn(1, 1, 2, 3, 5).double()
    pooled, weights = WeightedPool()(sound, picture)
    patches = picture.reshape(6, 5) / picture.reshape(6, 5).norm(dim=1, keepdim=True)
    expected = torch.softmax(patches @ (sound[0, 0] / sound.norm()), 0)
    torch.testing.assert_close(weights.reshape(6), expected)
    torch.testing.assert_close(pooled[0, 0], expected @ patches)


@torch.no_grad()
def test_question_attention_is_avsts():
    """Equation, one head: softmax(q k / sqrt(D)) v, network, LayerNorm, plus the mean of the sequence."""
    torch.manual_seed(0)
    module = QuestionAttention(6, heads=1).double().eval()
    asked, sequence = torch.randn(2, 6).double(), torch.randn(2, 4, 6).double()
    w, b = module.attention.in_proj_weight.chunk(3), module.attention.in_proj_bias.chunk(3)
    q, k, v = asked @ w[0].T + b[0], sequence @ w[1].T + b[1], sequence @ w[2].T + b[2]
    weights = torch.softmax(torch.einsum("nd,ntd->nt", q, k) / 6**0.5, dim=-1)
    x = module.attention.out_proj(torch.einsum("nt,ntd->nd", weights, v))
    expected = module.norm(x + module.network(x)) + sequence.mean(1)
    out, got = module(asked, sequence)
    torch.testing.assert_close(got, weights)
    torch.testing.assert_close(out, expected)


def test_match_loss_by_the_equation_and_its_edges():
    model = tiny("avst_small", match_loss_weight=0.25).train()
    sound, picture, asked, _ = batch(videos=2, questions=2, seconds=1)  # the foreign frame can only be the other's
    torch.manual_seed(0)
    loss = model(sound, picture, asked).losses["match"]
    heard, seen = model.audio_proj(sound), model.visual_proj(picture)
    own = model.match(torch.cat([heard, model.ground(heard, seen)[0]], -1)).log_softmax(-1)[..., 1]
    foreign = model.match(torch.cat([heard, model.ground(heard, seen.flip(0))[0]], -1)).log_softmax(-1)[..., 0]
    torch.testing.assert_close(loss, -0.25 * torch.cat([own, foreign]).mean())
    single = model(sound[:1], picture[:1], asked[:1]).losses["match"]
    single.backward()
    assert single.item() == 0
    assert all(p.grad is not None for p in model.match.parameters())
    assert model.eval()(sound, picture, asked).losses == {}
    assert tiny("avst_small", match_loss_weight=0.0).train()(sound, picture, asked).losses == {}


@torch.no_grad()
def test_match_loss_draws_other_videos_by_torchs_random_state():
    model = tiny("avst_small").train()
    sound, picture, asked, _ = batch(videos=5)
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(model(sound, picture, asked).losses["match"].item())
    assert losses[0] == losses[1] != losses[2]


ENCODERS = [
    {"question_input": "features", "question_dim": 20},
    {"audio_input": "small_sound", "audio_args": {"dim": 8, "width": 8}},
    {"visual_input": "small_pyramid", "visual_args": {"widths": (8, 8, 8, 8), "stem_width": 8}},
    {"head": "choices"},
    {"head": "choices", "question_input": "features", "question_dim": 20},
]


@pytest.mark.parametrize("name", ["av_mamba_small", "avst_small"])
@pytest.mark.parametrize("encoders", ENCODERS, ids=str)
def test_other_encoders_train_and_explain(name, encoders):
    model = tiny(name, **encoders)
    sound, picture, asked, video = batch()
    if "audio_input" in encoders:
        sound = torch.randn(3, 4, 1, 96, 64)
        assert model.needs["audio"] == (1, 96, 64)
    if "visual_input" in encoders:
        picture = torch.randn(3, 4, 3, 64, 32)
        assert model.needs["visual"] == (3, None, None)
    if "question_input" in encoders:
        asked = torch.randn(5, 20)
    assert model.needs["question"] == ("features" if "question_input" in encoders else "words")
    choices = asked[:, None].flip(0).expand(-1, 4, -1) if "head" in encoders else None
    out = model(sound, picture, asked, video=video, choices=choices)
    assert out.logits.shape == (5, 4 if "head" in encoders else 42)
    (out.logits.square().mean() + sum(out.losses.values())).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    maps = model.explain(sound, picture, asked, video=video, choices=choices)
    assert maps.spatial.shape[:2] == (5, 4)


def test_published_encoders_can_stand_in():
    with torch.device("meta"):
        model = create_model("av_mamba", audio_input="vggish", visual_input="clip_vit_b32")
    assert model.needs == {"audio": (1, 96, 64), "visual": (3, 224, 224), "question": "words"}
    assert model.visual.dim == 512
    assert not any(p.requires_grad for p in [*model.audio.parameters(), *model.visual.parameters()])
    with torch.device("meta"):
        assert create_model("avst", visual_input="resnet18").visual.dim == 512


@pytest.mark.parametrize("name", ["av_mamba_small", "avst_small"])
def test_explain_gives_shares_and_leaves_the_model_alone(name):
    model = tiny(name).train()
    with torch.inference_mode():
        sound, picture, asked, video = batch()
        maps = model.explain(sound, picture, asked, video=video)
    assert maps.spatial.shape == (5, 4, 3, 2)
    assert maps.audio.shape == maps.visual.shape == (5, 4)
    for values in (maps.spatial.flatten(2), maps.audio, maps.visual):
        assert (values >= 0).all()
        torch.testing.assert_close(values.sum(-1), torch.ones(values.shape[:-1]))
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_explain_is_the_gradient_of_the_answer_asked_for():
    model = tiny().eval()
    sound, picture, asked, _ = batch(videos=2, questions=2)
    answer = torch.tensor([3, 7])
    picture.requires_grad_()
    score = model(sound, picture, asked).logits[torch.arange(2), answer].sum()
    (gradient,) = torch.autograd.grad(score, picture)
    relevance = (gradient * picture).sum(-1).clamp(min=0).detach()
    expected = relevance / relevance.sum((2, 3), keepdim=True)
    some = relevance.sum((2, 3)) > 0
    assert some.any()
    maps = model.explain(sound, picture.detach(), asked, answer=answer)
    torch.testing.assert_close(maps.spatial[some], expected[some])
    assert not torch.allclose(maps.spatial, model.explain(sound, picture.detach(), asked, answer=answer - 2).spatial)


@torch.no_grad()
def test_explain_gives_attention_where_there_is_some():
    model = tiny("avst_small").eval()
    sound, picture, asked, video = batch()
    maps = model.explain(sound, picture, asked, video=video)
    _, weights = WeightedPool()(model.audio_proj(sound), model.visual_proj(picture))
    torch.testing.assert_close(maps.spatial, weights[video])


@torch.no_grad()
@pytest.mark.parametrize("time", ["attention", "cm3"])
def test_a_thousand_seconds(time):
    model = tiny(time=time).eval()
    sound, picture, asked, _ = batch(videos=1, questions=1, seconds=1000)
    assert model(sound, picture, asked).logits.isfinite().all()


@pytest.mark.parametrize("name", ["av_mamba_small", "avst_small"])
def test_bf16_autocast(name):
    model = tiny(name)
    sound, picture, asked, video = batch()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(sound, picture, asked, video=video)
    (out.logits.float().square().mean() + sum(out.losses.values())).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@torch.no_grad()
@pytest.mark.parametrize("name", ["av_mamba_small", "avst_small"])
def test_saved_and_loaded_models_answer_alike(name, tmp_path):
    model = tiny(name, head="choices").eval()
    save_pretrained(model, tmp_path, preprocessing={"task": "avqa", "seconds": 10})
    sound, picture, asked, video = batch()
    choices = asked[:, None].expand(-1, 4, -1)
    loaded = from_pretrained(tmp_path)
    assert torch.equal(
        loaded(sound, picture, asked, choices=choices, video=video).logits,
        model(sound, picture, asked, choices=choices, video=video).logits,
    )
    assert loaded.needs == model.needs == {"audio": (8,), "visual": (None, None, 12), "question": "words"}


@pytest.mark.parametrize("name", ["av_mamba_small", "avst_small"])
def test_a_few_videos_can_be_learned_by_heart(name):
    model = tiny(name)
    sound, picture, asked, video = batch(questions=6, seconds=2, grid=(2, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(60):
        out = model(sound, picture, asked, video=video)
        loss = F.cross_entropy(out.logits, torch.arange(6))
        optimizer.zero_grad()
        (loss + sum(out.losses.values())).backward()
        optimizer.step()
        if loss < 0.05:
            return
    raise AssertionError(f"cross-entropy is {loss:.3f} after 60 steps")


@torch.no_grad()
def test_lstm_question_is_avsts_and_packing_ignores_padding():
    torch.manual_seed(0)
    encoder = LSTMQuestion(8, 20).double()
    words = torch.tensor([[3, 7, 2, 0, 0], [5, 1, 4, 9, 6]])
    x = torch.tanh(encoder.embedding.weight[words])
    _, (h, c) = encoder.lstm(x)
    torch.testing.assert_close(encoder(words), encoder.project(torch.tanh(torch.cat([h[0], c[0]], 1))))
    longer = F.pad(words, (0, 3))
    assert (encoder(longer) - encoder(words)).abs().max() > 1e-3  # as released: padding is read
    packed = LSTMQuestion(8, 20, packed=True).double()
    packed.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(packed(longer), packed(words))
    torch.testing.assert_close(packed(words)[0], encoder(words[:1, :3])[0])
    torch.testing.assert_close(packed(words.expand(3, 2, 5))[1], packed(words))
    assert count(LSTMQuestion()) == 2_673_664


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tiny(space="best"), "space is"),
        (lambda: tiny(time="cm5"), "time is"),
        (lambda: tiny(head="words"), "head is"),
        (lambda: tiny(visual_input="vgg"), "visual_input is"),
        (lambda: tiny(audio_input="wav2vec"), "sound encoder"),
        (lambda: build_question_input("bert", 8), "question_input is"),
        (lambda: LSTMQuestion(8, 20)(torch.tensor([[20]])), "word id 20"),
        (lambda: LSTMQuestion(8)(torch.randn(2, 512)), "word ids"),
        (lambda: LSTMQuestion(8, packed=True)(torch.zeros(2, 3, dtype=torch.int64)), "padding"),
        (lambda: VectorQuestion(8)(torch.ones(2, 14, dtype=torch.int64)), "vectors of 512"),
    ],
)
def test_wrong_values_are_named(call, message):
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sound": torch.randn(3, 5, 8)}, "same .videos, seconds"),
        ({"sound": torch.randn(3, 4, 9)}, r"audio is \(videos, seconds, 8\)"),
        ({"picture": torch.randn(3, 4, 3, 2, 13)}, "visual is"),
        ({"video": None}, "5 questions about 3 videos"),
        ({"video": torch.zeros(4, dtype=torch.int64)}, "video is int64"),
        ({"choices": torch.ones(5, 4, 14, dtype=torch.int64)}, "its own list"),
        ({"asked": torch.full((5, 14), 93)}, "word id 93"),
    ],
    ids=str,
)
def test_inputs_that_do_not_fit_are_named(change, message):
    values = dict(zip(("sound", "picture", "asked", "video"), batch(), strict=True)) | {"choices": None} | change
    with pytest.raises(UsageError, match=message):
        tiny()(values["sound"], values["picture"], values["asked"], video=values["video"], choices=values["choices"])


def test_a_choosing_model_wants_choices():
    sound, picture, asked, video = batch()
    with pytest.raises(UsageError, match="choices"):
        tiny(head="choices")(sound, picture, asked, video=video)
