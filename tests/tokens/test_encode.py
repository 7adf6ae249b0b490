"""Encoding: the tokenizer's own tokens, the mask where the paper reads it, and any text at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpft import models
from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.tokens.encode import encode

TEXTS = [
    "a good film",
    "the story is not very good, it is boring!",
    "",
    "a",
    "  spaces \t and\nlines  ",
    "un fílm été 東京",
]
PAIRS = ["it is bad", "", "the man", "a a a a a a a a a a a a", "!", "a film"]


def rows(texts: list[str], pairs: list[str] | None = None) -> Examples:
    return Examples(texts, pairs, np.zeros(len(texts), np.int64))


def row(data: Encoded, number: int) -> list[int]:
    return data.ids[data.starts[number] : data.starts[number + 1]].tolist()


def types(data: Encoded, number: int) -> list[int]:
    return [int(at >= data.second[number]) for at in range(int(data.lengths[number]))]


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return models.tokenizer(str(tiny_model))


@pytest.mark.parametrize("representation", ["cls", "mean"])
@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["single", "pair"])
def test_tokens_and_segments_without_a_mask_are_the_tokenizers_own(
    tokenizer: Any, representation: Any, pairs: list[str] | None
) -> None:
    data = encode(rows(TEXTS, pairs), tokenizer, representation, 128)
    assert len(data) == len(TEXTS)
    own = tokenizer(TEXTS, pairs)  # as lists: a lone empty partner would count as none
    for number in range(len(TEXTS)):
        assert row(data, number) == own["input_ids"][number]
        if data.typed:
            assert types(data, number) == own["token_type_ids"][number]
        assert data.read[number] == 0
    assert data.typed == ("token_type_ids" in tokenizer.model_input_names)
    assert data.padding == tokenizer.pad_token_id


def test_bert_reads_its_mask_before_the_first_separator(tiny_bert: Path) -> None:
    tokenizer = models.tokenizer(str(tiny_bert))
    cls, sep, mask = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
    (a, film), (it,) = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("a film", "it"))
    single = encode(rows(["a film"]), tokenizer, "mask", 128)
    pair = encode(rows(["a film"], ["it"]), tokenizer, "mask", 128)
    assert row(single, 0) == [cls, a, film, mask, sep]
    assert types(single, 0) == [0, 0, 0, 0, 0]
    assert row(pair, 0) == [cls, a, film, mask, sep, it, sep]
    assert types(pair, 0) == [0, 0, 0, 0, 0, 1, 1]
    assert single.read[0] == pair.read[0] == 3


def test_a_separator_of_the_second_segment_is_typed_as_such(tiny_bert: Path) -> None:
    """BERT's own separator counts to the first; other templates open the second segment with one."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = models.tokenizer(str(tiny_bert))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP]:1 $B:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    data, own = encode(rows(["a film"], ["it"]), tokenizer, "cls", 128), tokenizer(["a film"], ["it"])
    assert row(data, 0) == own["input_ids"][0]
    assert types(data, 0) == own["token_type_ids"][0] == [0, 0, 0, 0, 1, 1]


def test_roberta_reads_its_mask_before_the_first_separator(tiny_roberta: Path) -> None:
    tokenizer = models.tokenizer(str(tiny_roberta))
    cls, sep, mask = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id
    first, second = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("a film", "it"))
    single = encode(rows(["a film"]), tokenizer, "mask", 128)
    pair = encode(rows(["a film"], ["it"]), tokenizer, "mask", 128)
    assert row(single, 0) == [cls, *first, mask, sep]
    assert row(pair, 0) == [cls, *first, mask, sep, sep, *second, sep]
    assert single.read[0] == pair.read[0] == 1 + len(first)
    assert not pair.typed


@pytest.mark.parametrize("pairs", [None, PAIRS], ids=["single", "pair"])
@pytest.mark.parametrize("max_length", [8, 9, 13, 128])
def test_the_mask_is_never_truncated_and_always_the_one_that_is_read(
    tokenizer: Any, pairs: list[str] | None, max_length: int
) -> None:
    mask = tokenizer.mask_token_id
    texts = [f"{t} {tokenizer.mask_token} {t} {t}" for t in TEXTS]  # a user's own mask is never mistaken for ours
    data = encode(rows(texts, pairs), tokenizer, "mask", max_length)
    for number in range(len(texts)):
        found, read = row(data, number), int(data.read[number])
        assert len(found) <= max_length
        assert found[read] == mask
        assert found[read + 1] == tokenizer.sep_token_id
        assert found[-1] == tokenizer.sep_token_id


def test_a_single_text_is_cut_as_the_tokenizer_cuts_it(tokenizer: Any) -> None:
    texts = [" ".join(["film"] * count) for count in (1, 6, 7, 40, 300)]
    data = encode(rows(texts), tokenizer, "cls", 16)
    for number, text in enumerate(texts):
        assert row(data, number) == tokenizer(text, truncation=True, max_length=16)["input_ids"]


@pytest.mark.parametrize("representation", ["cls", "mask"])
@pytest.mark.parametrize(
    ("first", "second"), [(100, 1), (1, 100), (100, 100), (5, 6), (0, 50), (50, 0), (40, 60), (60, 40)]
)
def test_a_pair_is_cut_as_the_tokenizer_cuts_it(tokenizer: Any, representation: Any, first: int, second: int) -> None:
    max_length, texts = 24, [" ".join(["a"] * count) for count in (first, second)]
    a, b = tokenizer(texts, add_special_tokens=False)["input_ids"]
    data = encode(rows(texts[:1], texts[1:]), tokenizer, representation, max_length)
    mask = int(representation == "mask")
    special = len(tokenizer([""], [""])["input_ids"][0]) + mask
    stock = tokenizer(texts[:1], texts[1:], truncation="longest_first", max_length=max_length - mask)
    left, right = (stock.sequence_ids(0).count(number) for number in (0, 1))
    found = row(data, 0)
    assert len(found) == left + right + special
    assert found[1 : 1 + left] == a[:left]
    assert found[-1 - right : -1] == b[:right]


ODD = {
    "empty": "", "spaces": " \t\n ", "nul": "\0", "nuls": "a\0good\0film", "lone surrogate": "a \ud800 film \udfff",
    "only a surrogate": "\udc80", "controls": "\x01\x7f\x9f", "joiners": "\u200b\u200d\ufeff",
    "emoji": "👩‍👩‍👧‍👦" * 10, "special tokens": "[CLS] [SEP] [MASK] [PAD] <s> </s> <mask> <pad>",
}  # fmt: skip


@pytest.mark.parametrize("representation", ["cls", "mask"])
@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_any_text_encodes(tokenizer: Any, representation: Any, text: str) -> None:
    for data in (
        encode(rows([text, "a"]), tokenizer, representation, 32),
        encode(rows([text, "a"], ["it", text]), tokenizer, representation, 32),
    ):
        assert len(data) == 2
        assert (data.lengths >= 2).all()
        assert (data.lengths <= 32).all()
        assert (data.ids >= 0).all()
        assert (data.ids < len(tokenizer)).all()
        assert (data.read < data.lengths).all()


@pytest.mark.parametrize("text", ["a" * 10**6, "good " * 200_000], ids=["one word", "many words"])
def test_a_text_of_a_million_characters_is_cut(tokenizer: Any, text: str) -> None:
    data = encode(rows([text]), tokenizer, "mask", 32)
    assert data.lengths[0] <= 32
    assert row(data, 0)[-2:] == [tokenizer.mask_token_id, tokenizer.sep_token_id]


def test_no_rows_encode_to_no_tokens(tokenizer: Any) -> None:
    for pairs in (None, []):
        data = encode(rows([], pairs), tokenizer, "mask", 32)
        assert len(data) == len(data.ids) == len(data.labels) == 0


def test_a_row_does_not_depend_on_the_rows_around_it(tokenizer: Any) -> None:
    """Catches a chunk that is skipped or shifted: 5,000 rows are more than one chunk."""
    texts = [f"a film {'good ' * (i % 7)}" for i in range(5000)]
    data = encode(rows(texts), tokenizer, "mask", 32)
    for number in (0, 4095, 4096, 4999):
        alone = encode(rows([texts[number]]), tokenizer, "mask", 32)
        assert row(data, number) == row(alone, 0)
        assert data.read[number] == alone.read[0]


def test_mask_is_refused_where_the_tokenizer_has_none(tokenizer: Any) -> None:
    tokenizer.mask_token = None
    with pytest.raises(UserError, match=r"mask.*got one without; pass --representation"):
        encode(rows(["a"]), tokenizer, "mask", 32)
    assert len(encode(rows(["a"]), tokenizer, "cls", 32)) == 1


def test_the_builtin_tokenizers_saved_truncation_and_padding_are_not_applied(builtin: str) -> None:
    """Its tokenizer.json pads and cuts to 128 tokens: a long text must keep what `max_length` allows."""
    data = encode(rows(["word " * 400, "word"]), models.tokenizer(builtin), "cls", 256)
    assert data.lengths.tolist() == [256, 3]
