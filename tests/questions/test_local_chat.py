"""A transformers model on this machine: a hand-made one that recites a chain of words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from crossmamba.errors import CheckpointError, UsageError
from crossmamba.questions.cache import AnswerCache
from crossmamba.questions.chat import ChatError
from crossmamba.questions.local_chat import LocalChat
from crossmamba.questions.make import make_questions
from crossmamba.questions.masking import Masker
from crossmamba.questions.writer import ChatBackend
from tests.questions.toy import NOUNS, ROWS, VERBS

PAIR = json.dumps({"verb_question": "How does it end here?", "noun_question": "Which one is that?"})


def recite(folder: Path, text: str, window: int = 512) -> Path:
    """A Llama whose next letter-piece depends on the last one only: after anything unknown it recites the text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = text.split(" ")
    pieces = [f"{word} " if n < len(words) - 1 else word for n, word in enumerate(words)]
    assert len(set(words)) == len(words), "the chain needs different words"
    vocabulary = {"<unk>": 0, "</s>": 1} | {piece: n + 2 for n, piece in enumerate(pieces)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    size = len(vocabulary)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size + size % 2,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=window,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[:, :size] = torch.eye(size)
        model.lm_head.weight.zero_()
        follower = [2, 1, *range(3, size), 1]  # unknown -> the first piece; the last -> the end
        for piece, after in enumerate(follower):
            model.lm_head.weight[after, piece] = 1
    model.save_pretrained(folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recite(tmp_path_factory.mktemp("model"), PAIR)


def test_it_writes_questions(folder: Path) -> None:
    chat = LocalChat(folder, max_tokens=40)
    reply = chat.complete([{"role": "user", "content": "one two"}], json_object=True)
    assert reply.text == PAIR
    assert (reply.tokens_in, reply.cut) == (2, False)
    assert LocalChat(folder, max_tokens=3).complete([{"role": "user", "content": "one"}], json_object=True).cut
    writer = ChatBackend(chat, Masker(VERBS, NOUNS), AnswerCache(None))
    questions = make_questions(ROWS[:2], "oracle", Masker(VERBS, NOUNS), backend=writer)
    assert [q.source for q in questions] == ["model", "model"]
    assert questions[0].verb_question_masked == "How does it end here?"
    assert questions[0].model == str(folder)


def test_a_cut_answer_falls_back(folder: Path) -> None:
    writer = ChatBackend(LocalChat(folder, max_tokens=3), Masker(VERBS, NOUNS), AnswerCache(None))
    question = make_questions(ROWS[:1], "oracle", Masker(VERBS, NOUNS), backend=writer)[0]
    assert question.source == "template_fallback"
    assert "JSON" in question.reason
    assert "--max-tokens" in question.reason


def test_a_prompt_beyond_the_window_and_a_stop(tmp_path: Path) -> None:
    chat = LocalChat(recite(tmp_path, PAIR, window=64), max_tokens=40)
    with pytest.raises(ChatError, match="exceed the model's 64"):
        chat.complete([{"role": "user", "content": "x " * 30}], json_object=True)
    chat.close()
    with pytest.raises(ChatError, match="stopped"):
        chat.complete([{"role": "user", "content": "x"}], json_object=True)


def test_wrong_models(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no language model"):
        LocalChat(tmp_path)
    with pytest.raises(UsageError, match="max_tokens"):
        LocalChat(folder, max_tokens=0)
    with pytest.raises(UsageError, match="device"):
        LocalChat(folder, device="nowhere")
