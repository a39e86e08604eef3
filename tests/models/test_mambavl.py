"""MambaVL: parameter integers and multiply-adds, which head reads which question, additivity, missing sides, inputs."""

import pytest
import torch

from crossmamba import create_model, from_pretrained, list_models, save_pretrained
from crossmamba.benchmarking.count import count_multiply_adds
from crossmamba.blocks.ssm_fusion import official_init_
from crossmamba.encoders.roberta import RobertaSize
from crossmamba.errors import UsageError
from crossmamba.models.baselines.vl_fusion import VL_FUSIONS
from crossmamba.models.examples import default_seconds, example_inputs, few_seconds
from crossmamba.models.mambavl_text import EncodedText

WORDS = 30
READING = tuple(name for name in VL_FUSIONS if name != "none")


def small(fusion="shared_a", **overrides):
    torch.manual_seed(0)
    options = {"words": WORDS, "width": 16, "d_state": 4, "video_args": {"width": 16, "stem_width": 8}, **overrides}
    return create_model("mambavl_small", fusion=fusion, **options).double().eval()


def clip(batch=3, frames=3, side=32):
    return torch.randn(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def ask(batch=3, length=7, seed=2):
    ids = torch.randint(1, WORDS, (2, batch, length), generator=torch.Generator().manual_seed(seed))
    ids[0, 0, 4:] = 0
    ids[1, 1, 2:] = 0
    return ids[0], ids[1]


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def close(one, other, atol=1e-12):
    torch.testing.assert_close(one.verb, other.verb, rtol=0, atol=atol)
    torch.testing.assert_close(one.noun, other.noun, rtol=0, atol=atol)


FULL = {
    "videomae_b": 768, "timesformer_b": 768, "vivit_b": 768, "clip_b": 768, "avion_b": 768, "lavila_b": 768,
    "vjepa2_l": 1024, "avion_l": 1024,
}  # fmt: skip


def test_registered_names():
    names = {f"mambavl_{name}" for name in FULL} | {"mambavl_small", "mambavl_orvit_features"}
    assert set(list_models("mambavl*")) == names


@pytest.mark.parametrize("width", [768, 1024])
def test_parameter_integers(width):
    """Spec §1.6. RoBERTa's embeddings are frozen and counted nowhere in the paper."""
    with torch.device("meta"):
        model = create_model("mambavl_orvit_features", width=width, video_dim=width)
    assert count(model.text_proj) == {768: 1_771_008, 1024: 2_885_632}[width]
    assert count(model.fusion, model.text_proj) == {768: 9_288_192, 1024: 16_185_344}[width]
    assert count(model.verb_head, model.noun_head) == {768: 305_293, 1024: 406_925}[width]
    assert count(model.video_proj) == width * (width + 1)
    assert count(model.text) == 39_000_576
    assert not any(parameter.requires_grad for parameter in model.text.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == count(model) - 39_000_576


@pytest.mark.parametrize(("fusion", "params"), [
    ("shared_a", 9_288_192), ("separate_a", 9_312_768), ("mlp", 5_312_256), ("transformer_6x4", 51_967_488),
    ("transformer_12x12", 94_480_896), ("none", 0), ("concat", 5_543_424), ("cm_mamba", 22_168_320),
])  # fmt: skip
def test_published_totals(fusion, params):
    """148 M of ORViT (heads and pre_logits among them) plus the fusion: 157.3 M and 242.5 M (spec §1.6)."""
    with torch.device("meta"):
        model = create_model("mambavl_orvit_features", fusion=fusion, text="stored" if fusion != "none" else "none")
    assert count(model) - count(model.video_proj, model.verb_head, model.noun_head) == params


def test_published_multiply_adds():
    """Spec §1.6: video Mamba 5.861 G and 0.010 G (convolution), questions 0.299 G, txt_proj 0.142 G, pre_logits 0.925 G
    on all 1,569 tokens; 405 G of ORViT and this give the paper's 413."""
    with torch.device("meta"):
        model = create_model("mambavl_orvit_features", text="stored", pool_first=False)
        pooled = create_model("mambavl_orvit_features", text="stored")
        inputs = torch.empty(1, 1569, 768), torch.empty(1, 40, 768), torch.empty(1, 40, 768)
    found, less = count_multiply_adds(model, *inputs), count_multiply_adds(pooled, *inputs)
    assert found.uncounted == {}
    block = 768 * 3072 + 1536 * (48 + 32) + 48 * 1536 + 1536 * 768
    linear = 1569 * block + 80 * block + 80 * 3 * 768**2 + 1569 * 768**2 + 768 * 397
    assert found.by_kind["matmul"] == linear
    assert round(1569 * block / 1e9, 3) == 5.861
    assert round(80 * block / 1e9, 3) == 0.299
    assert found.total / 1e9 == pytest.approx(7.24 + 0.12, abs=0.02)  # the scan by our count, 3 N + 1 a token
    assert round(405 + found.total / 1e9) == 412
    assert less.total == found.total - (1569 + 80 - 3) * 1536 * 768


@pytest.mark.parametrize(("tokens", "width"), [(1569, 768), (3137, 768), (4097, 1024)])
@pytest.mark.parametrize("fusion", VL_FUSIONS)
def test_shapes_of_the_published_token_counts(tokens, width, fusion):
    with torch.device("meta"):
        model = create_model(
            "mambavl_avion_b", video="features", video_dim=width, text="stored", width=width, fusion=fusion
        )
        asked = () if fusion == "none" else (torch.empty(2, 40, 768), torch.empty(2, 40, 768))
        out = model(torch.empty(2, tokens, width), *asked)
    assert (out.verb.shape, out.noun.shape) == ((2, 97), (2, 300))


@pytest.mark.parametrize(("name", "tokens"), [
    ("avion_b", 3137), ("lavila_b", 3137), ("timesformer_b", 3137), ("vivit_b", 3137), ("clip_b", 3137),
    ("videomae_b", 1568), ("avion_l", 4097), ("vjepa2_l", 1568),
])  # fmt: skip
def test_a_clip_through_a_full_size_model(name, tokens):
    """Spec §6: 16 frames of 224 pixels, ViViT 32."""
    with torch.device("meta"):
        model = create_model(f"mambavl_{name}")
        assert model.encoder.dim == FULL[name]
        seen = model.video_tokens(torch.empty(1, 3, 32 if name == "vivit_b" else 16, 224, 224))
        asked = torch.empty(1, 40, 768)
        text = model.text_proj(asked)
        fused = model.fusion({"video": seen, "text": text})
        out = model.classify(fused, fused)
    assert seen.shape == (1, tokens, FULL[name])
    assert (out.verb.shape, out.noun.shape) == ((1, 97), (1, 300))


@pytest.mark.parametrize("fusion", READING)
@torch.no_grad()
def test_each_head_reads_its_own_question(fusion):
    """Swap test: the verb head moves with the verb question and with nothing else of the text."""
    model, (verb, noun) = small(fusion), ask()
    _, other = ask(seed=3)
    base = model(clip(), verb, noun)
    moved = model(clip(), other, noun)
    torch.testing.assert_close(moved.noun, base.noun, rtol=0, atol=1e-12)
    assert (moved.verb - base.verb).abs().max() > 1e-6
    moved = model(clip(), verb, other)
    torch.testing.assert_close(moved.verb, base.verb, rtol=0, atol=1e-12)
    assert (moved.noun - base.noun).abs().max() > 1e-6
    swapped = model(clip(), noun, verb)
    assert (swapped.verb - base.verb).abs().max() > 1e-6
    assert (swapped.noun - base.noun).abs().max() > 1e-6


@pytest.mark.parametrize("fusion", READING)
@torch.no_grad()
def test_additivity(fusion):
    """Logits of shared and separate A are g(video) + h(question) + b; those of the others are not (spec §1.3)."""
    model, one, other = small(fusion), clip(), clip().flip(0)
    first, second = ask()[0], ask(seed=3)[0]

    def verb(video, question):
        return model(video, question, question).verb

    met = (verb(one, first) + verb(other, second) - verb(one, second) - verb(other, first)).abs().max().item()
    if fusion in ("shared_a", "separate_a"):
        assert met < 1e-12
        text_only, video_only = model(None, first, first).verb, model(one).verb
        torch.testing.assert_close(verb(one, first), text_only + video_only - model.verb_head.bias, rtol=0, atol=1e-12)
    else:
        assert met > 1e-7


@pytest.mark.parametrize("fusion", READING)
@torch.no_grad()
def test_missing_sides(fusion):
    model, (verb, noun) = small(fusion), ask()
    both, video = model(clip(), verb, noun), model(clip())
    only_verb = model(clip(), verb)
    torch.testing.assert_close(only_verb.verb, both.verb, rtol=0, atol=1e-12)
    torch.testing.assert_close(only_verb.noun, video.noun, rtol=0, atol=1e-12)
    text = model(None, verb, noun)
    assert text.verb.shape == (3, 97)
    assert (text.verb - text.verb[0]).abs().amax(dim=1)[1:].min() > 1e-7
    for out in (both, video):
        assert (out.verb - text.verb).abs().max() > 1e-6


@pytest.mark.parametrize("fusion", READING)
@torch.no_grad()
def test_padding_words_are_not_read(fusion):
    model, (verb, noun) = small(fusion), ask()
    longer = torch.nn.functional.pad(verb, (0, 9)), torch.nn.functional.pad(noun, (0, 9))
    close(model(clip(), *longer), model(clip(), verb, noun))
    official = small(fusion, pad_mode="official")
    assert (official(clip(), *longer).verb - official(clip(), verb, noun).verb).abs().max() > 1e-7
    close(model(clip(), verb, noun, verb_mask=verb != 0, noun_mask=noun != 0), model(clip(), verb, noun))


@pytest.mark.parametrize("fusion", READING)
@torch.no_grad()
def test_a_question_of_padding_is_no_question(fusion):
    model = small(fusion)
    for norm in model.norms.values():  # a bias that was learned must not count where there is no term
        norm.bias.add_(0.5)
    empty = torch.zeros(3, 5, dtype=torch.int64)
    close(model(clip(), empty, empty), model(clip()))


def test_norms_ahead_of_the_heads():
    assert set(small().norms) == {"video", "text"}
    assert set(small("none").norms) == {"video"}
    assert set(small("mlp").norms) == {"fused"}
    assert not create_model("mambavl_small", fused_norm=False).norms
    with torch.device("meta"):
        assert not create_model("mambavl_avion_b").norms


@torch.no_grad()
def test_video_masks_and_stored_tokens():
    model, asked = small(), ask()
    tokens = model.encoder(clip()).tokens
    close(model(tokens, *asked), model(clip(), *asked))
    mask = torch.arange(tokens.shape[1]) < torch.tensor([[12], [12], [5]])
    out = model(tokens, *asked, video_mask=mask)
    for row, length in ((0, 12), (2, 5)):
        alone = model(tokens[[row], :length], *(q[[row]] for q in asked))
        torch.testing.assert_close(out.noun[[row]], alone.noun, rtol=0, atol=1e-12)


def test_questions_of_different_lengths_are_read_apart():
    model, (verb, noun) = small(), ask()
    with torch.no_grad():
        close(model(clip(), verb[:, :5], noun[:, :6]), model(clip(), verb[:, :5], noun[:, :6].clone()))
        torch.testing.assert_close(model(clip(), verb, noun[:, :3]).verb, model(clip(), verb, noun).verb)


@pytest.mark.parametrize("fusion", VL_FUSIONS)
def test_every_parameter_learns(fusion):
    model, asked = small(fusion).train(), ask()
    out = model(clip(), *(asked if fusion != "none" else ()))
    (torch.randn_like(out.verb) * out.verb).sum().add((torch.randn_like(out.noun) * out.noun).sum()).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert silent == ({"fusion.unasked"} if fusion == "cm_mamba" else set())


def test_it_learns_a_batch_by_heart():
    torch.manual_seed(0)
    model = create_model("mambavl_small", video="features", video_dim=8, words=WORDS, width=16, verbs=8, nouns=8)
    tokens, asked, labels = torch.randn(8, 4, 8), ask(8), torch.arange(8)
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    for _ in range(30):
        out = model(tokens, *asked)
        loss = torch.nn.functional.cross_entropy(out.verb, labels)
        loss = loss + torch.nn.functional.cross_entropy(out.noun, labels.flip(0))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.4  # 4.2 at first


@pytest.mark.parametrize("fusion", VL_FUSIONS)
def test_half_precision_trains(fusion):
    model, asked = small(fusion).float().train(), () if fusion == "none" else ask()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(clip().float(), *asked)
        (out.verb.float().square().sum() + out.noun.float().square().sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    whole = small(fusion)(clip(), *asked)
    torch.testing.assert_close(out.verb.double(), whole.verb, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("fusion", ["shared_a", "concat", "cm_mamba"])
def test_it_is_one_graph(fusion):
    class Pair(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, *inputs):
            out = self.model(*inputs)
            return out.verb, out.noun

    pair, inputs = Pair(small(fusion)), (clip(), *ask())
    program = torch.export.export(pair, inputs).module()
    for one, other in zip(program(*inputs), pair(*inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_official_initialisation_spares_the_encoder():
    torch.manual_seed(0)
    model = create_model("mambavl_small", init="official", words=WORDS)
    A = -model.fusion.A_log.exp()
    assert -1.3 < A.min() < A.max() < -0.7
    assert torch.equal(model.fusion.branches["text"].dt_proj.bias, torch.zeros(128))
    assert model.text.embedding.weight.abs().max() < 0.3  # Xavier's, no longer a normal of deviation 1
    torch.manual_seed(0)
    untouched = create_model("mambavl_small", words=WORDS).encoder.state_dict()
    assert all(torch.equal(value, untouched[name]) for name, value in model.encoder.state_dict().items())


def test_only_official_initialisation_overwrites_pretrained_text():
    """Spec §1.5: the released constructors lose RoBERTa's embeddings, and reset its norm."""

    class Pretrained(torch.nn.Module):
        dim, vocabulary, pad_id = 12, 30, 1

        def __init__(self):
            super().__init__()
            self.words, self.norm = torch.nn.Embedding(30, 12), torch.nn.LayerNorm(12)
            with torch.no_grad():
                self.words.weight.fill_(7)
                self.norm.weight.fill_(7)

    kept, lost = EncodedText(Pretrained()), official_init_(EncodedText(Pretrained()))
    assert (kept.encoder.words.weight == 7).all()
    assert lost.encoder.words.weight.abs().max() <= (6 / (30 + 12)) ** 0.5
    assert (lost.encoder.norm.weight == 1).all()
    size = {"text": "roberta_embeddings", "text_args": {"size": RobertaSize(12, 1, 2, vocabulary=30, places=44)}}
    found = {init: small(init=init, **size).text.encoder.tower for init in ("paper", "official")}
    bound = (6 / (30 + 12)) ** 0.5
    assert found["official"].word_embeddings.weight.abs().max() <= bound
    assert found["official"].word_embeddings.weight.std() > 0.9 * bound / 3**0.5  # of a uniform law
    assert found["paper"].word_embeddings.weight.std() < 0.9 * bound / 3**0.5


@pytest.mark.parametrize(("proj", "kind"), [("auto", "Linear"), ("mlp", "Sequential"), ("pre_logits", "PreLogits")])
def test_video_projections(proj, kind):
    model = small(video="features", video_args=None, video_dim=12, video_proj=proj)
    assert type(model.video_proj).__name__ == kind
    assert model(torch.randn(1, 4, 12, dtype=torch.float64)).verb.shape == (1, 97)
    assert type(small().video_proj).__name__ == "Identity"


def test_needs():
    assert small().needs == {"video": "clip", "video_dim": 16, "question": "words"}
    assert small("none").needs["question"] is None
    stored = small(video="features", video_args=None, video_dim=12, text="stored", text_dim=10)
    assert stored.needs == {"video": "tokens", "video_dim": 12, "question": "stored"}
    out = stored(torch.randn(2, 4, 12).double(), torch.randn(2, 5, 10).double(), torch.randn(2, 5, 10).double())
    assert out.noun.shape == (2, 300)


@pytest.mark.parametrize("fusion", ["shared_a", "concat"])
@torch.no_grad()
def test_a_saved_model_loads_equal(tmp_path, fusion):
    torch.manual_seed(0)
    model = create_model("mambavl_small", fusion=fusion, words=WORDS, video_args={"width": 64, "stem_width": 8}).eval()
    save_pretrained(model, tmp_path / "m", preprocessing={})
    loaded, inputs = from_pretrained(tmp_path / "m"), (clip(side=64).float(), *ask())
    assert torch.equal(loaded(*inputs).verb, model(*inputs).verb)


def test_example_inputs_of_every_kind():
    def shapes(model, **options):
        return [tuple(x.shape) for x in example_inputs(model, seconds=default_seconds(model)[0], **options).inputs]

    with torch.device("meta"):
        assert shapes(create_model("mambavl_vivit_b")) == [(1, 3, 32, 224, 224), (1, 40), (1, 40)]
        stored = create_model("mambavl_orvit_features", text="stored")
    assert shapes(stored) == [(1, 1569, 768), (1, 40, 768), (1, 40, 768)]
    assert shapes(stored, grid=(2, 3), videos=2)[0] == (2, 49, 768)
    assert shapes(small("none"), side=64) == [(1, 3, 16, 64, 64)]
    real = example_inputs(small(), seconds=2, side=32, videos=2, device="cpu").inputs
    assert small().float()(*real).verb.shape == (2, 97)
    assert few_seconds(small()) == 16


def test_wrong_calls():
    model, (verb, noun) = small(), ask()
    with pytest.raises(UsageError, match="at least one of them"):
        model(None)
    with pytest.raises(UsageError, match="without a video both heads need a question"):
        model(None, verb)
    with pytest.raises(UsageError, match=r"tokens \(B, L, 16\), got \(3, 4, 15\): tokens of another encoder"):
        model(torch.zeros(3, 4, 15))
    with pytest.raises(UsageError, match="token id 30 is outside the vocabulary of 30 words"):
        model(clip(), torch.full((3, 4), 30), noun)
    with pytest.raises(UsageError, match="questions are token ids"):
        model(clip(), verb.double(), noun.double())
    with pytest.raises(UsageError, match="verb_mask is given without verb_question"):
        model(clip(), None, noun, verb_mask=verb != 0)
    with pytest.raises(UsageError, match="reads no questions"):
        small("none")(clip(), verb, noun)
    with pytest.raises(UsageError, match=r"batches of \[1, 3, 3\]"):
        model(clip(batch=1), verb, noun)
    with pytest.raises(UsageError, match="takes stored tokens"):
        small(video="features", video_args=None)(clip())
    for wrong, message in [
        ({"fusion": "sum"}, "fusion is one of"),
        ({"text": "bert"}, "text is one of"),
        ({"init": "zero"}, "init is one of paper, official, not 'zero'"),
        ({"video": "film"}, "no video encoder named 'film'"),
        ({"video": "features"}, "has no options, got width"),
        ({"video_proj": "conv"}, "video_proj is one of"),
        ({"text_args": {"size": 1}}, "text 'words' has no options, got size"),
    ]:
        with pytest.raises(UsageError, match=message):
            small(**wrong)
