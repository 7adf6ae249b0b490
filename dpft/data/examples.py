"""The rows of a task: texts, their partners, their labels, and whose they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpft.data.words import Words

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """Texts, their partners where the task is about pairs, and labels, N of them, as the task's objective has them.

    Texts may lie on a disk: go through them in order. units: (N,) the number of the unit that each row belongs to, from
    0 on; None where each row is its own. digest: names the texts and their order, so that what is made of them may be
    kept; None where nothing is to be kept. words: where the words of each text stand, where they are labelled; labels
    are then (W,), of all texts' words end to end. Ask the methods instead of looking whether there are words.
    """

    texts: Sequence[str]
    pairs: Sequence[str] | None
    labels: NDArray[Any]
    units: NDArray[np.int64] | None = None
    digest: str | None = None
    words: Words | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def protected(self) -> int:
        """How many units there are: whom privacy is promised to."""
        return len(self) if self.units is None else len(np.unique(self.units))

    @property
    def arrays(self) -> list[NDArray[Any] | None]:
        """All that rows hold beside texts, in a fixed order; None where there is none."""
        words = (None, None) if self.words is None else (self.words.spans, self.words.starts)
        return [self.labels, self.units, *words]

    def first(self, count: int) -> Rows:
        """The first `count` texts with their partners and labels, or all where there are fewer."""
        pairs = None if self.pairs is None else self.pairs[:count]
        words = None if self.words is None else self.words.first(count)
        labels = self.labels[: count if words is None else len(words.spans)]
        return Rows(self.texts[:count], pairs, labels, words=words)

    def labelled(self, values: NDArray[Any]) -> Rows:
        """The same texts with one label each: (N, ...); at each of a text's words, where they are labelled."""
        return replace(self, labels=values if self.words is None else np.repeat(values, np.diff(self.words.starts)))

    def by_text_or_word(self, texts: Callable[[Rows], T], words: Callable[[Rows, Words], T]) -> T:
        """`texts` of these rows where each text has a label, `words` of them and their words where each word has."""
        return texts(self) if self.words is None else words(self, self.words)
