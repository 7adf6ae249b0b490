"""The examples of a task: texts, second texts of pairs, labels, and units of privacy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpft.data.documents import Documents
from dpft.data.words import Words

T = TypeVar("T")


@dataclass(frozen=True)
class Examples:
    """N examples: texts, second texts where the task is about pairs, and labels as defined by the objective.

    Texts may be on disk: iterate in order. units: (N,) the number of each row's unit, from 0; None where each row is
    its own unit. digest: identifies the texts and their order, as a cache key; None to cache nothing. words: the words
    of each text, where they are labelled; labels are then (W,), of the words of all texts end to end. documents: how
    texts are read, where the model writes them; `pairs` are then prompts, and labels (N,) the numbers of control codes.
    Use the methods instead of testing for words or documents.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: NDArray[Any]
    units: NDArray[np.int64] | None = None
    digest: str | None = None
    words: Words | None = None
    documents: Documents | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def unit_count(self) -> int:
        """Number of units: those whom privacy protects."""
        return len(self) if self.units is None else len(np.unique(self.units))

    @property
    def arrays(self) -> list[NDArray[Any] | None]:
        """All arrays beside the texts, in a fixed order; None for a missing one."""
        words = (None, None) if self.words is None else (self.words.spans, self.words.starts)
        return [self.labels, self.units, *words]

    def first(self, count: int) -> Examples:
        """The first `count` examples, or all where there are fewer."""
        pairs = None if self.pairs is None else self.pairs[:count]
        words = None if self.words is None else self.words.first(count)
        labels = self.labels[: count if words is None else len(words.spans)]
        return Examples(self.texts[:count], pairs, labels, words=words, documents=self.documents)

    def labelled(self, values: NDArray[Any]) -> Examples:
        """The same texts with `values` (N, ...) as labels; where words are labelled, at each word of a text."""
        return replace(self, labels=values if self.words is None else np.repeat(values, np.diff(self.words.starts)))

    def by_kind(
        self,
        texts: Callable[[Examples], T],
        words: Callable[[Examples, Words], T],
        documents: Callable[[Examples, Documents], T],
    ) -> T:
        """Call `texts(rows)` where texts are labelled, `words(rows, words)` where words are labelled, and
        `documents(rows, documents)` where texts are written."""
        if self.documents is not None:
            return documents(self, self.documents)
        return texts(self) if self.words is None else words(self, self.words)
