"""Rows spelled out for a digest: whatever differs in them differs in the bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dpft.data.examples import Examples
from dpft.data.records import serialized
from dpft.data.words import Words

ROWS = Examples(
    ["ab", "c", ""], ["x", "yz", "w"], np.array([0, 1, 2]), np.array([0, 1, 1]),
    words=Words(np.array([[0, 2], [0, 1]], np.int32), np.array([0, 1, 2, 2])),
)  # fmt: skip


def whole(rows: Examples) -> bytes:
    return b"".join(serialized(rows))


@pytest.mark.parametrize(
    "change",
    [
        {"texts": ["a", "bc", ""]}, {"texts": ["ab", "", "c"]}, {"texts": ["c", "ab", ""]}, {"pairs": None},
        {"pairs": ["xy", "z", "w"]}, {"labels": np.array([0, 2, 1])}, {"labels": np.array([0.0, 1.0, 2.0])},
        {"units": np.array([0, 0, 1])}, {"units": None}, {"words": None},
        {"words": Words(np.array([[0, 1], [0, 1]], np.int32), np.array([0, 1, 2, 2]))},
        {"words": Words(np.array([[0, 2], [0, 1]], np.int32), np.array([0, 2, 2, 2]))},
    ],
    ids=["cut elsewhere", "blank elsewhere", "order", "no pairs", "pairs cut elsewhere", "labels", "scores", "units",
         "no units", "no words", "words", "words of other texts"],
)  # fmt: skip
def test_rows_that_differ_in_anything_are_spelled_otherwise(change: dict[str, Any]) -> None:
    """Catches: a column left out of the digest; parts without their length, so that one can stand in for another."""
    assert whole(replace(ROWS, **change)) != whole(ROWS)


def test_equal_rows_are_spelled_alike_however_their_texts_are_held() -> None:
    assert whole(replace(ROWS, texts=tuple(ROWS.texts))) == whole(ROWS)
    assert whole(replace(ROWS, texts=["\ud800", "", ""])) != whole(ROWS)
