"""Token arrays of rows: flat, ragged, with what is judged of them; and what a tokenizer puts around texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.data.units import Units
from dpft.data.words import IGNORED, Spoken
from dpft.errors import UserError


@dataclass(frozen=True)
class Places:
    """Where what a model gives for some rows goes among that of all: one place a row, or one for some of its tokens.

    count: how many places there are. tokens: (total,) the place of each token, -1 where it has none; None where each
    row has one place, its own. starts: (N + 1,) where each row's tokens start.
    """

    count: int
    starts: NDArray[np.int64]
    tokens: NDArray[np.int64] | None = None

    def put(self, out: NDArray[np.float32], rows: NDArray[np.int64], found: NDArray[np.float32]) -> None:
        """Write `found` of `rows`, (B, width) or (B, T, width), into `out`, (count, width)."""
        if self.tokens is None:
            out[rows] = found
            return
        for row, values in zip(rows, found, strict=True):
            own = self.tokens[self.starts[row] : self.starts[row + 1]]
            out[own[own >= 0]] = values[: len(own)][own >= 0]


@dataclass(frozen=True)
class Encoded:
    """N rows of tokens end to end: row i is `ids[starts[i] : starts[i + 1]]`.

    ids: (total,) int32. starts: (N + 1,) int64. second: (N,) where the second segment starts (its length where
    there is none). read: (N,) the token that is read. labels: (N, ...), as the task's objective has them.
    padding: the pad token's id. typed: whether the model takes segment ids. features: (N, D) float32, what a frozen
    encoder made of each row; a row is then one token that nobody looks at. units: whose rows they are, None where each
    row is its own unit. words: which tokens are judged, where words are; labels are then (total,), IGNORED at other
    tokens, and features (total, D).
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    second: NDArray[np.int32]
    read: NDArray[np.int32]
    labels: NDArray[Any]
    padding: int
    typed: bool
    features: NDArray[np.float32] | None = None
    units: Units | None = None
    words: Spoken | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    def with_features(self, features: NDArray[np.float32]) -> Encoded:
        """The same rows as `features` (N, D), without their tokens; (K, D) of the tokens that are `kept` of words."""
        if self.words is not None:
            return self._with_features_of(self.words, features)
        rows = np.zeros(len(self), np.int32)
        return replace(self, ids=rows, starts=np.arange(len(self) + 1), second=rows + 1, read=rows, features=features)

    @property
    def judged(self) -> Places:
        """Where outputs go: one place a row; where words are labelled, one a word, of which some have no token."""
        if self.words is None:
            return Places(len(self), self.starts)
        return Places(self.words.count, self.starts, self.words.at)

    @property
    def featured(self) -> Places:
        """Where `with_features` wants features: one place a row; where words are labelled, one a token that is kept."""
        if self.words is None:
            return Places(len(self), self.starts)
        kept = self.kept
        return Places(int(kept.sum()), self.starts, np.where(kept, np.cumsum(kept) - 1, -1))

    def at_every_token(self) -> Encoded:
        """Judged at every token instead of every word's first, where words are labelled; else the same rows."""
        if self.words is None:
            return self
        return replace(self, words=Spoken(np.arange(len(self.ids)), len(self.ids)))

    def labels_of(self, rows: NDArray[np.int64], inside: NDArray[np.bool_], source: NDArray[np.int64]) -> NDArray[Any]:
        """Of padded rows: (B, ...), or (B, T) where words are labelled. inside, source: (B, T) what is no padding, and
        the tokens that stand there."""
        return self.labels[rows] if self.words is None else np.where(inside, self.labels[source], IGNORED)

    def frozen_features(self, rows: NDArray[np.int64], source: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Of padded rows: (B, D), or (B, T, D) where words are labelled; None where none were computed."""
        return None if self.features is None else self.features[rows if self.words is None else source]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(total,) Tokens that are judged, and the first of each row without any: no row is left without a token."""
        assert self.words is not None
        kept = self.words.at >= 0
        judged = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        kept[self.starts[:-1][np.diff(judged) == 0]] = True
        return kept

    def _with_features_of(self, words: Spoken, features: NDArray[np.float32]) -> Encoded:
        kept = self.kept
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        return replace(
            self, ids=np.zeros(len(features), np.int32), starts=starts, second=np.diff(starts).astype(np.int32),
            read=np.zeros(len(self), np.int32), labels=self.labels[kept], features=features,
            words=replace(words, at=words.at[kept]),
        )  # fmt: skip

    @property
    def protected(self) -> int:
        """How many units there are: what batches are drawn from."""
        return len(self) if self.units is None else len(self.units)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All that tells these rows from others, before features are computed."""
        units = [] if self.units is None else [self.units.rows, self.units.starts]
        return [self.ids, self.starts, self.second, self.read, self.labels, *units]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Of each unit, in all its rows: (U,)."""
        if self.units is None:
            return self.lengths
        return np.bincount(self.units.owners, self.lengths[self.units.rows], len(self.units)).astype(np.int64)


@dataclass(frozen=True)
class Template:
    """The special tokens a tokenizer puts around one text, or around and between two."""

    before: list[int]
    between: list[int]
    after: list[int]
    second_typed: int  # how many tokens of `between` belong to the second segment

    @classmethod
    def of(cls, tokenizer: Any, pair: bool) -> Template:
        """Read it off the tokenizer: encode a word with and without special tokens and look around it."""
        word = tokenizer("a", add_special_tokens=False)["input_ids"]
        full = tokenizer("a", "a") if pair else tokenizer("a")
        ids = list(full["input_ids"])
        first = _find(ids, word, 0)
        if len(ids) == len(word):
            raise UserError("the tokenizer must add special tokens, got one that adds none; pass another --model")
        if not pair:
            return cls(ids[:first], [], ids[first + len(word) :], 0)
        second = _find(ids, word, first + len(word))
        types = full.get("token_type_ids", [0] * len(ids))
        return cls(
            ids[:first], ids[first + len(word) : second], ids[second + len(word) :],
            sum(types[first + len(word) : second]),
        )  # fmt: skip


def clean(texts: Sequence[str]) -> list[str]:
    """Texts as UTF-8 can hold them, character for character."""
    return [t.encode("utf-8", "replace").decode("utf-8") if not t.isascii() else t for t in texts]


def _find(ids: list[int], word: list[int], start: int) -> int:
    """Where `word` stands in `ids`, from `start` on."""
    for at in range(start, len(ids) - len(word) + 1):
        if ids[at : at + len(word)] == word:
            return at
    raise UserError("the tokenizer must keep a word's tokens together, got one that does not; pass another --model")
