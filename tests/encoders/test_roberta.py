"""RoBERTa: both modes give transformers' own values from a published file; padding; MambaVL's embeddings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossmamba.encoders import build_text_encoder, load_encoder_weights
from crossmamba.encoders.roberta import RobertaSize, RobertaText
from crossmamba.errors import CheckpointError, UsageError

TINY = RobertaSize(24, 2, 3, vocabulary=50, places=14, published="the tiny file")
IDS = torch.tensor([[0, 5, 49, 7, 2, 1, 1], [0, 9, 2, 1, 1, 1, 1]])


def published(folder: Path) -> torch.nn.Module:
    """What `FacebookAI/roberta-base` is: the language model, as transformers saves it."""
    from transformers import RobertaConfig, RobertaForMaskedLM

    torch.manual_seed(0)
    config = RobertaConfig(vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
                           intermediate_size=96, max_position_embeddings=14, type_vocab_size=1,
                           layer_norm_eps=1e-5)  # fmt: skip
    model = RobertaForMaskedLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    model.save_pretrained(folder)
    return model.roberta.double()


@torch.no_grad()
def test_embeddings_are_words_places_and_type_normed(tmp_path: Path) -> None:
    """Written out: places count the tokens that are not padding from 2; padding stands at place 1."""
    model = published(tmp_path)
    encoder = RobertaText("embeddings", TINY)
    assert load_encoder_weights(encoder, tmp_path) == 5
    words = encoder.double()(IDS).words
    tables = model.embeddings.state_dict()
    for row in range(2):
        for i, token in enumerate(IDS[row].tolist()):
            place = 1 if token == 1 else 2 + i
            x = tables["word_embeddings.weight"][token] + tables["position_embeddings.weight"][place]
            x = x + tables["token_type_embeddings.weight"][0]
            x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
            expected = x * tables["LayerNorm.weight"] + tables["LayerNorm.bias"]
            torch.testing.assert_close(words[row, i], expected, rtol=0, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("mask_padding", [True, False])
def test_encoder_is_that_of_transformers(tmp_path: Path, mask_padding: bool) -> None:
    model = published(tmp_path)
    encoder = RobertaText("encoder", TINY, mask_padding=mask_padding)
    assert load_encoder_weights(encoder, tmp_path) == len(encoder.state_dict())
    got = encoder.double()(IDS)
    mask = (IDS != 1).long() if mask_padding else torch.ones_like(IDS)
    expected = model(IDS, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(got.words, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(got.vector, torch.stack([expected[0, :5].mean(0), expected[1, :3].mean(0)]))
    shorter = encoder(IDS[1:, :3]).words
    assert torch.allclose(shorter, got.words[1:, :3], atol=1e-10) is mask_padding


@torch.no_grad()
def test_frozen_has_no_dropout_and_padding_alone_is_zero() -> None:
    for mode in ("embeddings", "encoder"):
        encoder = RobertaText(mode, TINY).train()
        assert not any(p.requires_grad for p in encoder.parameters())
        assert torch.equal(encoder(IDS).words, encoder(IDS).words)
        assert not encoder(torch.ones(1, 4, dtype=torch.int64)).vector.any()
        learning = RobertaText(mode, TINY, freeze=False).train()
        assert not torch.equal(learning(IDS).words, learning(IDS).words)


def test_the_text_side_of_a_mambavl_checkpoint_loads(tmp_path: Path) -> None:
    published(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    inner = {key.replace("roberta.", "text_model."): v for key, v in state.items() if key.startswith("roberta.")}
    torch.save({"model_state": inner | {"A_log": torch.zeros(2, 2)}, "epoch": 3}, tmp_path / "mambavl.pyth")
    for mode in ("embeddings", "encoder"):
        encoder = RobertaText(mode, TINY)
        load_encoder_weights(encoder, tmp_path / "mambavl.pyth")
        table = next(value for key, value in encoder.state_dict().items() if "word_embeddings" in key)
        assert torch.equal(table, state["roberta.embeddings.word_embeddings.weight"])
        save_file(encoder.state_dict(), tmp_path / "own.safetensors")
        load_encoder_weights(RobertaText(mode, TINY), tmp_path / "own.safetensors")


@pytest.mark.parametrize(("name", "parameters"), [("roberta_embeddings", 39_000_576), ("roberta_encoder", 124_055_040)])
def test_full_size(name: str, parameters: int) -> None:
    """As spec §1.6 counts; its 124,645,632 have the pooler, 590,592, too."""
    with torch.device("meta"):
        encoder = build_text_encoder(name)
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert (encoder.dim, encoder.length, encoder.vocabulary) == (768, 512, 50265)


def test_wrong_calls(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="embeddings or encoder"):
        RobertaText("pooled", TINY)
    with pytest.raises(UsageError, match="no size 'base'"):
        RobertaText(size="base")
    with pytest.raises(UsageError, match="knows 0 to 49"):
        RobertaText(size=TINY)(torch.tensor([[50]]))
    with pytest.raises(UsageError, match="L at most 12"):
        RobertaText(size=TINY)(torch.ones(1, 13, dtype=torch.int64))
    published(tmp_path)
    state = load_file(tmp_path / "model.safetensors") | {"roberta.surprise.weight": torch.zeros(2)}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"surprise\.weight.*the tiny file"):
        load_encoder_weights(RobertaText(size=TINY), tmp_path / "x.safetensors")
