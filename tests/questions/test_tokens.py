"""Token numbers of questions: fixed, one for `<mask>`, cut and padded to one length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossmamba.errors import CheckpointError, UsageError
from crossmamba.questions.tokens import RobertaTokens, WordTokenizer, roberta_tokenizer, words_of

TEXTS = ["What is the person doing with the <mask>?", "board:chopping", "turn-on", "it's"]


@pytest.fixture(scope="module")
def roberta_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer in RoBERTa's format, with letters and no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = {piece: number for number, piece in enumerate([*special, *letters, "<mask>"])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
    )
    folder = tmp_path_factory.mktemp("roberta")
    tokenizer.save_pretrained(folder)
    return folder


def test_numbers_do_not_depend_on_the_order_of_words() -> None:
    one, other = WordTokenizer(TEXTS), WordTokenizer(reversed(TEXTS))
    assert one.words == other.words
    assert WordTokenizer(one.words).words == one.words  # storing the words is enough
    assert one.size == len(one.words) + 3
    assert torch.equal(one.encode(TEXTS[0]), other.encode(TEXTS[0]))


def test_words_and_mask() -> None:
    assert words_of("Cut-up the Board:chopping, <MASK>?") == ["cut", "up", "the", "board", "chopping", "<mask>"]
    tokenizer = WordTokenizer(TEXTS)
    ids = tokenizer.encode("<mask> the zebra?")
    assert ids.shape == (40,)
    assert ids.dtype == torch.int64
    assert ids[:3].tolist() == [2, tokenizer.encode("the")[0], 1]
    assert not ids[3:].any()
    assert tokenizer.mask_of(ids).sum() == 3


def test_long_texts_are_cut_and_tell() -> None:
    tokenizer = WordTokenizer(["a b c"], length=4)
    assert tokenizer.encode("a b c a b c").tolist() == [3, 4, 5, 3]
    assert tokenizer.length_of("a b c a b c") == 6
    assert tokenizer.encode_all(["a", "b"]).shape == (2, 4)
    assert tokenizer.encode_all([]).shape == (0, 4)


@pytest.mark.parametrize(("words", "length"), [([], 40), (["?"], 40), (["a"], 0)])
def test_wrong_vocabularies(words: list[str], length: int) -> None:
    with pytest.raises(UsageError):
        WordTokenizer(words, length)


def test_an_empty_question_is_refused() -> None:
    with pytest.raises(UsageError, match="None"):
        WordTokenizer(["a"]).encode(" ? ")


def test_roberta(roberta_folder: Path) -> None:
    tokenizer = roberta_tokenizer(roberta_folder)
    assert isinstance(tokenizer, RobertaTokens)
    ids = tokenizer.encode("do <mask>?")
    assert ids.shape == (40,)
    assert tokenizer.pad_id == 1
    assert (ids == tokenizer.mask_id).sum() == 1  # one token
    assert ids[0] == 0
    assert tokenizer.mask_of(ids).sum() == tokenizer.length_of("do <mask>?") == 7  # start d o blank mask ? end
    assert tokenizer.encode("x" * 100)[-1] == 2  # cut, the end token kept
    assert tokenizer.length_of("x" * 100) == 102
    assert int(tokenizer.encode_all(["a", "b"]).max()) < tokenizer.size


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"vocab\.json"):
        roberta_tokenizer(tmp_path)
