"""What generated texts look like: lengths, variety, duplicates, and how they ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 0  # public: which rows are compared depends on it and on numbers of rows alone


@dataclass(frozen=True)
class Quality:
    """Figures of N texts. A word is what stands between blanks.

    words: mean, 5th, 50th and 95th percentile of the lengths in words. distinct: for n = 1, 2, 3 the share of distinct
    n-grams among all n-grams of the texts (Li et al. 2016, "distinct-n"), 0 where there are none. duplicates: the share
    of texts that are equal to an earlier one. empty: the share of texts without a word. Distinct n-grams and duplicates
    depend on the number of texts: they are computed on `compared` of them.
    """

    rows: int
    compared: int
    words: dict[str, float]
    distinct: dict[str, float]
    duplicates: float
    empty: float


def quality(texts: Sequence[str], compared: int) -> Quality:
    """The figures of at least one text. compared: the number of texts for distinct-n and duplicates, at most all."""
    counts = np.array([len(text.split()) for text in texts])
    low, middle, high = np.percentile(counts, (5, 50, 95))
    chosen = [texts[row] for row in drawn(len(texts), compared)]
    return Quality(
        len(texts),
        len(chosen),
        {"mean": float(counts.mean()), "p5": float(low), "p50": float(middle), "p95": float(high)},
        {str(n): distinct(chosen, n) for n in (1, 2, 3)},
        1 - len(set(chosen)) / len(chosen),
        float((counts == 0).mean()),
    )


def distinct(texts: Sequence[str], n: int) -> float:
    """The share of distinct n-grams of words among all n-grams of the texts; 0 where every text is shorter than n."""
    found: set[tuple[str, ...]] = set()
    total = 0
    for text in texts:
        words = text.split()
        grams = list(zip(*(words[start:] for start in range(n)), strict=False))
        found.update(grams)
        total += len(grams)
    return len(found) / total if total else 0.0


def finish_reasons(reasons: Sequence[str]) -> dict[str, float]:
    """The share of each finish reason, the most frequent first."""
    return {reason: count / len(reasons) for reason, count in Counter(reasons).most_common()}


def drawn(rows: int, count: int) -> NDArray[np.int64]:
    """`count` of `rows` row numbers, or all where there are fewer, in order. The draw is uniform and public."""
    if count >= rows:
        return np.arange(rows)
    return np.sort(np.random.default_rng(SEED).choice(rows, count, replace=False))
