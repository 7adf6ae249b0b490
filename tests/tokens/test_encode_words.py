"""Labels at words' first tokens, in the tokens of the whole text; ragged labels through micro-batches and features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpft import models
from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.data.words import IGNORED, join_words
from dpft.errors import UserError
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import collate, microbatches

SENTENCES = [["the", "unbelievable", "film"], ["a"], [], ["xyzzy,", "Rio", "!"], ["\u200b", "dog"], ["é" * 20, "cat"]]


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return models.tokenizer(str(tiny_model))


def rows(sentences: list[list[str]], first: int = 1) -> Examples:
    texts, words = join_words(sentences)
    return Examples(texts, None, np.arange(first, first + len(words.spans)), words=words)


def labels(data: Encoded, row: int) -> list[int]:
    return data.labels[data.starts[row] : data.starts[row + 1]].tolist()


def test_the_tokens_are_the_whole_texts_and_each_word_is_labelled_once_at_its_first(tokenizer: Any) -> None:
    given = rows(SENTENCES)
    data = encode(given, tokenizer, "token", 128)
    stock = tokenizer(list(given.texts), return_offsets_mapping=True)
    number = 0
    for row, sentence in enumerate(SENTENCES):
        ids = data.ids[data.starts[row] : data.starts[row + 1]].tolist()
        assert ids == stock["input_ids"][row]
        wanted, at = {}, 0
        for word in sentence:
            number += 1
            inside = [
                token
                for token, (start, end) in enumerate(stock["offset_mapping"][row])
                if start < at + len(word) and end > at and end > start
            ]
            if inside:
                wanted[inside[0]] = number
            at += len(word) + 1
        found = {token: label for token, label in enumerate(labels(data, row)) if label != IGNORED}
        assert found == wanted


def test_it_agrees_with_the_tokenizers_own_splitting_of_words(tiny_bert: Path) -> None:
    """transformers' recipe for token classification: word_ids of texts that are split already."""
    tokenizer = models.tokenizer(str(tiny_bert))
    sentences = [sentence for sentence in SENTENCES if sentence and "\u200b" not in sentence]
    data, stock = encode(rows(sentences), tokenizer, "token", 128), tokenizer(sentences, is_split_into_words=True)
    before = 0
    for row, sentence in enumerate(sentences):
        ids = stock.word_ids(row)
        first = [IGNORED if word is None or word in ids[:at] else before + word + 1 for at, word in enumerate(ids)]
        assert labels(data, row) == first
        before += len(sentence)


def test_a_text_that_is_cut_keeps_its_first_words_and_counts_the_others(tokenizer: Any) -> None:
    data = encode(rows([["film"] * 50, ["dog"]]), tokenizer, "token", 16)
    assert data.lengths[0] == 16
    seen = [label for label in labels(data, 0) if label != IGNORED]
    assert seen == list(range(1, len(seen) + 1))
    assert 5 < len(seen) <= 14
    assert [label for label in labels(data, 1) if label != IGNORED] == [51]
    assert data.words is not None
    assert data.words.count == 51


def test_a_row_does_not_depend_on_the_rows_around_it(tokenizer: Any) -> None:
    data = encode(rows(SENTENCES, first=0), tokenizer, "token", 32)
    for row, sentence in enumerate(SENTENCES):
        alone = encode(rows([sentence], first=sum(map(len, SENTENCES[:row]))), tokenizer, "token", 32)
        assert labels(data, row) == labels(alone, 0)
    empty = encode(rows([]), tokenizer, "token", 32)
    assert len(empty) == len(empty.ids) == len(empty.labels) == 0


def test_a_batch_pads_labels_as_tokens_that_are_not_judged(tokenizer: Any) -> None:
    data = encode(rows(SENTENCES), tokenizer, "token", 128)
    batch = collate(data, np.array([1, 0, 2]))
    assert batch.labels.shape == batch.ids.shape
    for place, row in enumerate((1, 0, 2)):
        own = labels(data, row)
        assert batch.labels[place].tolist() == own + [IGNORED] * (batch.ids.shape[1] - len(own))
    assert sum(len(part) for part in microbatches(data, np.arange(len(data)), 40)) == len(data)
    assert list(microbatches(data, np.zeros(0, np.int64), 40)) == []


def test_frozen_features_keep_judged_tokens_and_no_row_without_one(tokenizer: Any) -> None:
    data = encode(rows(SENTENCES), tokenizer, "token", 128)
    kept = np.flatnonzero(data.kept)
    features = kept[:, None].astype(np.float32).repeat(3, 1)
    small = data.with_features(features)
    assert (small.lengths >= 1).all()
    for row in range(len(data)):
        batch = collate(small, np.array([row]))
        own = [at for at in kept if data.starts[row] <= at < data.starts[row + 1]]
        assert batch.features is not None
        assert batch.features[0, :, 0].tolist() == own
        assert batch.labels[0].tolist() == data.labels[own].tolist()
    wide = collate(small, np.arange(len(small)))
    assert wide.features is not None
    assert wide.features.shape == (*wide.labels.shape, 3)
    assert torch.equal(
        (wide.labels != IGNORED).sum(1),
        torch.tensor([3, 1, 0, 3, (data.labels[data.starts[4] : data.starts[5]] != IGNORED).sum(), 2]),
    )


def test_a_slow_tokenizer_is_refused_in_one_line(tokenizer: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="labels of words need a fast tokenizer"):
        encode(rows(SENTENCES), Slow(), "token", 16)
