"""Figures of generated texts, by hand and by plain counting."""

from __future__ import annotations

from random import Random

import pytest

from dpft.generation.quality import distinct, drawn, finish_reasons, quality


def test_the_figures_of_a_few_texts_are_those_counted_by_hand() -> None:
    found = quality(["a b a b", "a b a b", "", "c"], compared=4)
    assert (found.rows, found.compared) == (4, 4)
    assert found.words == {"mean": 2.25, "p5": pytest.approx(0.15), "p50": 2.5, "p95": 4.0}
    assert found.distinct == {"1": 3 / 9, "2": 2 / 6, "3": 2 / 4}
    assert (found.duplicates, found.empty) == (0.25, 0.25)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["one"], {"1": 1.0, "2": 0.0, "3": 0.0}),  # shorter than n
        ([""], {"1": 0.0, "2": 0.0, "3": 0.0}),
        (["même тест 漢字", "même тест 漢字"], {"1": 0.5, "2": 0.5, "3": 0.5}),
    ],
)
def test_short_and_foreign_texts_have_figures(texts: list[str], expected: dict[str, float]) -> None:
    assert quality(texts, compared=len(texts)).distinct == expected


def test_n_grams_never_cross_two_texts() -> None:
    """Catches a corpus that is joined before it is counted."""
    assert distinct(["a b", "b a"], 2) == 1.0
    assert distinct(["a", "b", "a", "b"], 2) == 0.0


def test_identical_texts_are_all_duplicates_but_one() -> None:
    found = quality(["same words"] * 50, compared=50)
    assert found.duplicates == pytest.approx(49 / 50)
    assert found.distinct["1"] == pytest.approx(2 / 100)


def test_distinct_n_of_unequal_numbers_of_texts_is_compared_on_equal_ones() -> None:
    """Texts of one kind look less varied the more of them there are: without the draw the larger side would lose."""
    rng = Random(0)

    def texts(count: int) -> list[str]:
        return [" ".join(f"w{int(rng.paretovariate(1))}" for _ in range(12)) for _ in range(count)]

    few, many = texts(200), texts(4000)
    assert quality(many, compared=4000).distinct["2"] < 0.8 * quality(few, compared=200).distinct["2"]
    assert quality(many, compared=200).distinct["2"] == pytest.approx(quality(few, compared=200).distinct["2"], rel=0.1)
    assert quality(many, compared=200).rows == 4000


def test_the_draw_is_public_and_without_repeats() -> None:
    assert drawn(5, 9).tolist() == [0, 1, 2, 3, 4]
    chosen = drawn(1000, 100).tolist()
    assert chosen == sorted(set(chosen)) == drawn(1000, 100).tolist()
    assert len(chosen) == 100


def test_finish_reasons_are_shares() -> None:
    assert finish_reasons(["stop", "length", "stop", "stop"]) == {"stop": 0.75, "length": 0.25}
