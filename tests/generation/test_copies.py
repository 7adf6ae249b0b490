"""Shared runs of words: exact, by comparing every pair of places; and alike for both sides."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from dpft.generation import copies as module
from dpft.generation.copies import LONG, Places, copies, words


def run_length(left: list[str], right: list[str]) -> int:
    """The longest common prefix of two lists of words."""
    return next(
        (at for at, (one, other) in enumerate(zip(left, right, strict=False)) if one != other),
        min(len(left), len(right)),
    )  # fmt: skip


def oracle(generated: list[str], side: list[str]) -> list[list[int]]:
    """For each text the longest run from each of its words on, by all pairs of places."""
    theirs = [found[at:] for found in map(words, side) for at in range(len(found))]
    return [
        [max((run_length(own[at:], other) for other in theirs), default=0) for at in range(len(own))]
        for own in map(words, generated)
    ]


def texts(rng: Random, count: int, letters: str, longest: int) -> list[str]:
    return [" ".join(rng.choice(letters) for _ in range(rng.randrange(longest))) for _ in range(count)]


@pytest.mark.parametrize("chunk", [module._CHUNK, 7], ids=["at once", "in small chunks"])
def test_shared_runs_are_those_of_all_pairs(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    rng = Random(0)
    for letters in ("ab", "abc", "abcdefgh"):
        for _ in range(15):
            own, side = texts(rng, 6, letters, 12), texts(rng, 8, letters + "xyz", 14)
            places = Places.of(own)
            found = np.split(places.longest(side), places.starts[1:])
            assert [one[:-1].tolist() for one in found] == oracle(own, side)
            assert all(one[-1] == 0 for one in found)


def test_the_shares_are_those_of_all_pairs() -> None:
    rng = Random(3)
    own, training, held_out = (texts(rng, count, "ab", 20) for count in (12, 3, 3))
    found = copies(own, training, held_out)
    seen, unseen = oracle(own, training), oracle(own, held_out)
    pairs = [list(zip(*one, strict=True)) for one in zip(seen, unseen, strict=True)]
    assert found.only_in_training == np.mean([any(a >= LONG and a > b for a, b in one) for one in pairs])
    assert found.only_in_held_out == np.mean([any(b >= LONG and b > a for a, b in one) for one in pairs])
    assert found.training.mean == np.mean([max(one, default=0) for one in seen])
    assert found.held_out.p95 == np.percentile([max(one, default=0) for one in unseen], 95)
    assert found.all_training == found.training
    assert 0 < found.only_in_training < 1


def test_a_run_never_crosses_two_rows_or_two_generated_texts() -> None:
    """Catches rows that are joined without an end between them."""
    found = copies(["a b c d", "e f g h"], ["a b", "c d e f", "g h"], ["x"] * 3)
    assert found.training.largest == 2


def test_a_copy_hides_behind_neither_case_nor_punctuation_nor_unicode_forms() -> None:
    row = "Größe, naïve – Éclair: 漢字 ½ don't stop; ever (really)!"
    told = "grösse naïve éclair 漢字 ½ DON'T stop ever REALLY"
    assert copies([told], [row], ["other"]).training.largest == len(words(row)) == 10


def test_texts_without_words_share_nothing() -> None:
    found = copies(["", "...", "a b"], [""], ["a b"])
    assert (found.training.largest, found.held_out.largest) == (0, 2)
    assert found.only_in_held_out == 0  # shorter than LONG


def test_a_copied_row_is_found_and_only_a_training_row_counts() -> None:
    secret = "the code of the red door is seven four nine two"
    held_out = "the code of the blue gate is one one eight six"
    found = copies([secret, "hello there"], [secret], [held_out])
    assert (found.training.largest, found.held_out.largest) == (11, 4)
    assert (found.only_in_training, found.only_in_held_out) == (0.5, 0)
    turned = copies([secret, "hello there"], [held_out], [secret])
    assert (turned.only_in_training, turned.only_in_held_out) == (0, 0.5)


def test_what_both_sides_have_is_no_copy() -> None:
    common = "please find the report of this week in the attachment"
    found = copies([common] * 5, [common, "x"], [common, "y"])
    assert (found.only_in_training, found.only_in_held_out) == (0, 0)


def _kind(rng: Random, count: int) -> list[str]:
    return [" ".join(f"w{int(rng.paretovariate(0.7))}" for _ in range(30)) for _ in range(count)]


def test_a_larger_side_has_no_advantage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Injected bug: all training rows beside few held-out rows. A model that copied nothing then looks guilty."""
    rng = Random(5)
    own, training, held_out = _kind(rng, 150), _kind(rng, 3000), _kind(rng, 150)
    found = copies(own, training, held_out)
    assert found.compared == 150
    assert found.training.mean == pytest.approx(found.held_out.mean, rel=0.05)
    assert found.all_training.mean > 1.1 * found.held_out.mean
    exchanged = copies(own, held_out, training)
    assert (exchanged.training, exchanged.held_out) == (found.held_out, found.training)
    monkeypatch.setattr(module, "_some", lambda texts, count: iter(texts))
    wrong = copies(own, training, held_out)
    assert wrong.training.mean > 1.1 * wrong.held_out.mean


def test_one_long_text_that_repeats_a_word_is_exact() -> None:
    found = copies(["ha " * 3000], ["ha " * 1000], ["ha"])
    assert (found.training.largest, found.held_out.largest) == (1000, 1)
