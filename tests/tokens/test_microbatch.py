"""Micro-batches: every drawn row once, within the token budget, and padding that no model can see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpft.data.encoded import Encoded
from dpft.data.units import Units
from dpft.tokens.microbatch import collate, cut, microbatches

PADDING = 7


def encoded(lengths: list[int], typed: bool = True) -> Encoded:
    """Rows whose tokens name them: row i holds 100 i + 10, 100 i + 11, ..."""
    starts = np.cumsum([0, *lengths]).astype(np.int64)
    ids = np.array([100 * i + 10 + t for i, n in enumerate(lengths) for t in range(n)], np.int32)
    second = np.array([n // 2 for n in lengths], np.int32)
    read = np.array([n - 1 for n in lengths], np.int32)
    return Encoded(ids, starts, second, read, np.arange(len(lengths)), PADDING, typed)


draws = st.lists(st.integers(1, 60), min_size=1, max_size=40).flatmap(
    lambda lengths: st.tuples(
        st.just(lengths), st.lists(st.integers(0, len(lengths) - 1), unique=True), st.integers(1, 300)
    )
)


@settings(max_examples=60, deadline=None)
@given(draws)
def test_every_drawn_row_comes_once_longest_first_and_within_the_token_budget(
    draw: tuple[list[int], list[int], int],
) -> None:
    lengths, drawn, tokens = draw
    batches = list(microbatches(encoded(lengths), np.array(drawn, np.int64), tokens))
    assert sorted(label for batch in batches for label in batch.labels.tolist()) == sorted(drawn)
    seen = [lengths[label] for batch in batches for label in batch.labels.tolist()]
    assert seen == sorted(seen, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or batch.ids.numel() <= tokens
        assert batch.ids.shape[1] == max(lengths[label] for label in batch.labels.tolist())


@settings(max_examples=60, deadline=None)
@given(draws)
def test_a_padded_row_holds_its_own_tokens_then_padding_that_is_not_allowed(
    draw: tuple[list[int], list[int], int],
) -> None:
    lengths, drawn, tokens = draw
    for batch in microbatches(encoded(lengths), np.array(drawn, np.int64), tokens):
        for i, label in enumerate(batch.labels.tolist()):
            n, width = lengths[label], batch.ids.shape[1]
            own = [100 * label + 10 + t for t in range(n)]
            assert batch.ids[i].tolist() == own + [PADDING] * (width - n)
            assert batch.types is not None
            assert batch.types[i].tolist() == [0] * (n // 2) + [1] * (n - n // 2) + [0] * (width - n)
            assert batch.ids[i, batch.read[i]] == own[-1]
            allowed = torch.ones(width, dtype=torch.bool) if batch.allowed is None else batch.allowed[i]
            assert allowed.tolist() == [True] * n + [False] * (width - n)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 300))
def test_cut_packs_as_many_rows_as_the_budget_holds(lengths: list[int], tokens: int) -> None:
    """Catches a cut that is safe but wasteful: one more row would not have fitted."""
    ordered = np.array(sorted(lengths, reverse=True), np.int64)
    parts = [range(len(ordered))[part] for part in cut(ordered, tokens)]
    assert [row for part in parts for row in part] == list(range(len(ordered)))
    for part in parts[:-1]:
        assert (len(part) + 1) * ordered[part[0]] > tokens


def test_an_empty_draw_gives_no_batch() -> None:
    assert list(microbatches(encoded([3, 4]), np.array([], np.int64), 100)) == []


@pytest.mark.parametrize("tokens", [1, 100])
def test_one_row_comes_alone_and_unpadded_even_when_it_is_longer_than_the_budget(tokens: int) -> None:
    (batch,) = microbatches(encoded([3, 50]), np.array([1]), tokens)
    assert batch.ids.shape == (1, 50)
    assert batch.allowed is None


def test_the_dtypes_are_those_that_torch_embeds_and_scores_with() -> None:
    data = encoded([2, 3], typed=False)
    scores = Encoded(data.ids, data.starts, data.second, data.read, np.array([0.5, 1.5], np.float32), PADDING, False)
    classes, floats = collate(data, np.array([0, 1])), collate(scores, np.array([0, 1]))
    assert classes.ids.dtype == classes.read.dtype == classes.labels.dtype == torch.int64
    assert floats.labels.dtype == torch.float32
    assert classes.types is None
    assert classes.allowed is not None
    assert classes.allowed.dtype == torch.bool


def test_a_units_tokens_are_those_of_all_its_rows() -> None:
    # Catches tokens counted in the order of rows, where units' rows lie apart.
    data = encoded([3, 50, 7, 20])
    assert data.tokens.tolist() == [3, 50, 7, 20]
    of_three = replace(data, units=Units.of(np.array([2, 0, 2, 1])))
    assert of_three.tokens.tolist() == [50, 20, 10]
    assert replace(encoded([]), units=Units.of(np.empty(0, np.int64))).tokens.tolist() == []
