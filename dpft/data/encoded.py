"""Encoded rows as flat, ragged token arrays, and the template of special tokens of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.data.units import Units
from dpft.data.words import IGNORED, WordTokens
from dpft.errors import UserError


@dataclass(frozen=True)
class OutputPositions:
    """Output positions: where a model's outputs for some rows go in the array for all rows. One a row, or some a row.

    count: number of positions. tokens: (total,) the position of each token, -1 for none; None where each row has
    exactly one. starts: (N + 1,) where each row's tokens start. owners: (M,) the position of each window, where rows
    are windows of texts: the outputs of a text's windows are added.
    """

    count: int
    starts: NDArray[np.int64]
    tokens: NDArray[np.int64] | None = None
    owners: NDArray[np.int64] | None = None

    def put(self, out: NDArray[np.float32], rows: NDArray[np.int64], found: NDArray[np.float32]) -> None:
        """Write `found`, the outputs of `rows`, (B, width) or (B, T, width), into `out`, (count, width)."""
        if self.owners is not None:
            np.add.at(out, self.owners[rows], found)
            return
        if self.tokens is None:
            out[rows] = found
            return
        for row, values in zip(rows, found, strict=True):
            own = self.tokens[self.starts[row] : self.starts[row + 1]]
            out[own[own >= 0]] = values[: len(own)][own >= 0]


@dataclass(frozen=True)
class Encoded:
    """N encoded rows, their tokens end to end: row i is `ids[starts[i] : starts[i + 1]]`.

    Where texts are written, each of the N rows is a window of a text.

    ids: (total,) int32. starts: (N + 1,) int64. second: (N,) where the second segment starts (its length where
    there is none). read: (N,) index of the token that the head reads. labels: (N, ...), as defined by the objective.
    padding: id of the pad token. typed: whether the model takes segment ids. features: (N, D) float32, precomputed
    outputs of a frozen encoder; each row is then one unused token. units: the rows of each unit, None where each row is
    its own unit. words: the tokens that have labels, where words are labelled; labels are then (total,), IGNORED at
    other tokens, and features (total, D). owners: (N,) ascending, the text of each window, where texts are written;
    labels are then (total,), at each token the id of the next, IGNORED where that one is not judged.
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
    words: WordTokens | None = None
    owners: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def text_count(self) -> int:
        """Number of texts: of rows, unless rows are windows."""
        return len(self) if self.owners is None else int(self.owners.max(initial=-1)) + 1

    def with_features(self, features: NDArray[np.float32]) -> Encoded:
        """The same rows with `features` (N, D) instead of tokens; where words are labelled, (K, D) of `kept` ones."""
        assert self.owners is None, "a model that writes reads tokens"
        if self.words is not None:
            return self._with_features_of(self.words, features)
        rows = np.zeros(len(self), np.int32)
        return replace(self, ids=rows, starts=np.arange(len(self) + 1), second=rows + 1, read=rows, features=features)

    @property
    def judged(self) -> OutputPositions:
        """Positions of outputs: one a row; where words are labelled, one a word (some words have no token); where texts
        are written, one a text."""
        if self.words is None:
            return OutputPositions(self.text_count, self.starts, owners=self.owners)
        return OutputPositions(self.words.count, self.starts, self.words.at)

    @property
    def feature_positions(self) -> OutputPositions:
        """Positions of features for `with_features`: one a row; where words are labelled, one a `kept` token."""
        if self.words is None:
            return OutputPositions(len(self), self.starts)
        kept = self.kept
        return OutputPositions(int(kept.sum()), self.starts, np.where(kept, np.cumsum(kept) - 1, -1))

    def at_every_token(self) -> Encoded:
        """The same rows; where words are labelled, with an output at every token instead of every word's first."""
        if self.words is None:
            return self
        return replace(self, words=WordTokens(np.arange(len(self.ids)), len(self.ids)))

    def labels_of(self, rows: NDArray[np.int64], inside: NDArray[np.bool_], source: NDArray[np.int64]) -> NDArray[Any]:
        """Labels of padded rows: (B, ...), or (B, T) where words are labelled or texts written. inside: (B, T) true but
        at padding. source: (B, T) the index of each token."""
        at_rows = self.words is None and self.owners is None
        return self.labels[rows] if at_rows else np.where(inside, self.labels[source], IGNORED)

    @cached_property
    def shares(self) -> NDArray[np.float32] | None:
        """(N,) each window's share of its text's judged tokens; None where every row is a whole text."""
        if self.owners is None or self.text_count == len(self):
            return None
        judged = np.add.reduceat(self.labels != IGNORED, self.starts[:-1], dtype=np.int64)
        return (judged / np.bincount(self.owners, judged)[self.owners]).astype(np.float32)

    def frozen_features(self, rows: NDArray[np.int64], source: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Features of padded rows: (B, D), or (B, T, D) where words are labelled; None without features."""
        return None if self.features is None else self.features[rows if self.words is None else source]

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(total,) bool: tokens with a label, and the first token of rows without one, so that no row is empty."""
        assert self.words is not None
        kept = self.words.at >= 0
        judged = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        kept[self.starts[:-1][np.diff(judged) == 0]] = True
        return kept

    def _with_features_of(self, words: WordTokens, features: NDArray[np.float32]) -> Encoded:
        kept = self.kept
        starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]
        return replace(
            self, ids=np.zeros(len(features), np.int32), starts=starts, second=np.diff(starts).astype(np.int32),
            read=np.zeros(len(self), np.int32), labels=self.labels[kept], features=features,
            words=replace(words, at=words.at[kept]),
        )  # fmt: skip

    @property
    def unit_count(self) -> int:
        """Number of units: batches are sampled from these."""
        return len(self) if self.units is None else len(self.units)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.starts)

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All arrays that identify these rows, before features are computed."""
        units = [] if self.units is None else [self.units.rows, self.units.starts]
        owners = [] if self.owners is None else [self.owners]
        return [self.ids, self.starts, self.second, self.read, self.labels, *units, *owners]

    @property
    def tokens(self) -> NDArray[np.int64]:
        """Number of tokens in all rows of each unit: (U,)."""
        if self.units is None:
            return self.lengths
        return np.bincount(self.units.owners, self.lengths[self.units.rows], len(self.units)).astype(np.int64)


@dataclass(frozen=True)
class SpecialTokens:
    """The special tokens that a tokenizer puts around one text, or around and between two."""

    before: list[int]
    between: list[int]
    after: list[int]
    second_typed: int  # how many tokens of `between` belong to the second segment

    @classmethod
    def of(cls, tokenizer: Any, pair: bool) -> SpecialTokens:
        """Derive the template: encode a word with and without special tokens and compare."""
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
    """Texts with lone surrogates replaced, so that UTF-8 can encode them; lengths are unchanged."""
    return [t.encode("utf-8", "replace").decode("utf-8") if not t.isascii() else t for t in texts]


def tokens_of(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The token ids of each text, without special tokens; a lone surrogate becomes a question mark."""
    found: list[list[int]] = tokenizer(
        clean(texts), add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )["input_ids"]
    return found


def _find(ids: list[int], word: list[int], start: int) -> int:
    """The position of `word` in `ids`, from `start` on."""
    for at in range(start, len(ids) - len(word) + 1):
        if ids[at : at + len(word)] == word:
            return at
    raise UserError("the tokenizer must keep a word's tokens together, got one that does not; pass another --model")
