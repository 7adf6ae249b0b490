"""Runs of words that generated texts share with training rows, beside those that they share with held-out rows."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpft.generation.quality import drawn

LONG = 8  # words: shorter runs are shared by any two texts of a kind
_END, _OTHER, _FIRST = 0, 1, 2  # the end of a generated text; a word that no generated text has; the first word
_CHUNK = 1_000_000  # words of other texts that are compared at a time, which bounds memory
_WORD = re.compile(r"\w+")
Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Longest:
    """The longest shared run of each generated text, in words: mean, 95th percentile and largest."""

    mean: float
    p95: float
    largest: int

    @classmethod
    def of(cls, lengths: Lengths) -> Longest:
        return cls(float(lengths.mean()), float(np.percentile(lengths, 95)), int(lengths.max()))


@dataclass(frozen=True)
class Copies:
    """Shared runs. training, held_out: with `compared` rows of each. all_training: with every training row; it has more
    rows to find runs in, so it stands beside nothing. only_in_training: the share of generated texts with a run of at
    least LONG words that some of the compared training rows has and none of the compared held-out rows;
    only_in_held_out: the same with the sides exchanged, which is what chance alone gives."""

    compared: int
    training: Longest
    held_out: Longest
    only_in_training: float
    only_in_held_out: float
    all_training: Longest


def copies(generated: Sequence[str], training: Sequence[str], held_out: Sequence[str]) -> Copies:
    """Compare the two sides, each of at least one text, with at least one generated text.

    Both sides are treated alike: of the larger one as many rows are drawn, by a public seed, as the smaller one has.
    A model that has learned no more than how such texts read shares runs with both sides alike. The figures are
    computed on training rows without noise: they are private.
    """
    compared = min(len(training), len(held_out))
    places = Places.of(generated)
    seen, unseen = (places.longest(_some(side, compared)) for side in (training, held_out))
    every = seen if compared == len(training) else places.longest(training)
    return Copies(
        compared,
        Longest.of(places.by_text(seen)),
        Longest.of(places.by_text(unseen)),
        float(places.by_text((seen >= LONG) & (seen > unseen)).mean()),
        float(places.by_text((unseen >= LONG) & (unseen > seen)).mean()),
        Longest.of(places.by_text(every)),
    )


def words(text: str) -> list[str]:
    """The words of a text, without punctuation and case, so that these do not hide a copy (Unicode NFC)."""
    return _WORD.findall(unicodedata.normalize("NFC", text).casefold())


@dataclass(frozen=True)
class Places:
    """The generated texts end to end. ids: (P,) the number of the word at each place, _END after each text. starts:
    (N,) the first place of each text. numbers: of the words."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    numbers: dict[str, int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Places:
        ids, starts = array("i"), array("q")
        numbers: dict[str, int] = {}
        for text in texts:
            starts.append(len(ids))
            ids.extend(numbers.setdefault(word, len(numbers) + _FIRST) for word in words(text))
            ids.append(_END)
        return cls(np.array(ids, np.int32), np.array(starts, np.int64), numbers)

    def by_text(self, values: NDArray[np.generic]) -> NDArray[np.int64]:
        """The largest value of each text: (P,) -> (N,)."""
        return np.maximum.reduceat(values.astype(np.int64), self.starts)

    def longest(self, texts: Iterable[str]) -> Lengths:
        """For each place, how many words from there on stand in one of `texts` in the same order, one after another."""
        found = np.zeros(len(self.ids), np.int64)
        for others in self._chunks(texts):
            found = np.maximum(found, _longest(self.ids, others))
        return found

    def _chunks(self, texts: Iterable[str]) -> Iterator[NDArray[np.int32]]:
        """The texts end to end, _OTHER after each, in chunks. Of several _OTHER on end one is kept."""
        chunk = array("i")
        for text in texts:
            chunk.extend(self.numbers.get(word, _OTHER) for word in words(text))
            chunk.append(_OTHER)
            if len(chunk) >= _CHUNK:
                yield _squeezed(chunk)
                chunk = array("i")
        if chunk:
            yield _squeezed(chunk)


def _some(texts: Sequence[str], count: int) -> Iterator[str]:
    """`count` texts, drawn; read in order, since they may be on disk."""
    wanted = set(drawn(len(texts), count).tolist())
    return (text for row, text in enumerate(texts) if row in wanted)


def _squeezed(chunk: array[int]) -> NDArray[np.int32]:
    ids = np.array(chunk, np.int32)
    followed = np.append(ids[1:] == _OTHER, False)
    kept: NDArray[np.int32] = ids[(ids != _OTHER) | ~followed]
    return kept


def _longest(own: NDArray[np.int32], others: NDArray[np.int32]) -> Lengths:
    """For each place of `own` the longest common run with a place of `others`: exact, by their suffixes in order.

    Among all suffixes in order, the one of `others` that agrees longest with a place stands next to it, before or after
    (Manber and Myers 1993).
    """
    levels = _levels(own, others)
    order = np.argsort(levels[-1], kind="stable")
    theirs = order >= len(own)
    at = np.arange(len(order))
    before = np.maximum.accumulate(np.where(theirs, at, -1))
    after = np.minimum.accumulate(np.where(theirs, at, len(order))[::-1])[::-1]
    found = np.zeros(len(own), np.int64)
    for near in (before, after):
        there = ~theirs & (near >= 0) & (near < len(order))
        place = order[there]
        found[place] = np.maximum(found[place], _common(levels, place, order[near[there]]))
    return found


def _levels(own: NDArray[np.int32], others: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """For k = 0, 1, … a number for each place: equal, and ordered, as the 2^k words from there on are (Karp, Miller and
    Rosenberg 1972). The last level is one where no run of `own` is in `others`.

    There is one, since _END is never in `others`. Past the end stands a word that is less than all.
    """
    level = np.concatenate([own, others])
    levels = [level]
    while _shared(level[: len(own)], level[len(own) :]):
        width = 1 << (len(levels) - 1)
        following = np.zeros(len(level), np.int64)
        following[:-width] = level[width:].astype(np.int64) + 1
        pairs = level.astype(np.int64) * (int(level.max()) + 2) + following
        level = np.unique(pairs, return_inverse=True)[1].astype(np.int32)
        levels.append(level)
    return levels


def _shared(own: NDArray[np.int32], others: NDArray[np.int32]) -> bool:
    there = np.zeros(int(max(own.max(), others.max())) + 1, np.bool_)
    there[others] = True
    return bool(there[own].any())


def _common(
    levels: Sequence[NDArray[np.int32]], left: NDArray[np.int64], right: NDArray[np.int64]
) -> NDArray[np.int64]:  # fmt: skip
    """How many words agree from each pair of places on."""
    agreed = np.zeros(len(left), np.int64)
    for k in reversed(range(len(levels))):
        agreed += (levels[k][left + agreed] == levels[k][right + agreed]).astype(np.int64) << k
    return agreed
