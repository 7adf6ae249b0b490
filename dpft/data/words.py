"""The words of texts as character spans, and their first tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Names keep inner hyphens, dots and at signs. What follows an apostrophe, as in "Anna's", is a separate word.
_WORD = re.compile(r"['’]\w+|\w+(?:[-.@&/]\w+)*|[^\w\s]")

IGNORED = -100  # the label of a token without a label, as in torch's losses


@dataclass(frozen=True)
class Words:
    """The words of N texts: those of text i are `spans[starts[i] : starts[i + 1]]`.

    spans: (W, 2) int32, first character and last character + 1. starts: (N + 1,) int64.
    """

    spans: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def of(cls, spans: Sequence[Sequence[tuple[int, int]]]) -> Words:
        """From the spans of each text."""
        starts = np.cumsum([0, *map(len, spans)], dtype=np.int64)
        flat = [span for text in spans for span in text]
        return cls(np.array(flat, np.int32).reshape(-1, 2), starts)

    def of_text(self, number: int) -> NDArray[np.int32]:
        return self.spans[self.starts[number] : self.starts[number + 1]]

    def first(self, count: int) -> Words:
        """The words of the first `count` texts."""
        starts = self.starts[: count + 1]
        return Words(self.spans[: starts[-1]], starts)


@dataclass(frozen=True)
class WordTokens:
    """The first token of each word. at: (total,) the number, over all rows, of the word that begins at each token, -1
    for other tokens. count: number of words; truncated ones, and those the tokenizer drops, have no token."""

    at: NDArray[np.int64]
    count: int


def join_words(sentences: Sequence[Sequence[str]]) -> tuple[list[str], Words]:
    """Join sentences of words to texts, with one space between words."""
    spans = []
    for words in sentences:
        ends = np.cumsum([len(word) + 1 for word in words], dtype=np.int64) - 1
        spans.append([(int(end) - len(word), int(end)) for word, end in zip(words, ends, strict=True)])
    return [" ".join(words) for words in sentences], Words.of(spans)


def split_words(texts: Sequence[str]) -> Words:
    """Split plain texts into words: letters and digits with inner joiners; every other sign is a word."""
    return Words.of([[match.span() for match in _WORD.finditer(text)] for text in texts])


def first_tokens(offsets: Sequence[tuple[int, int]], spans: NDArray[np.int32]) -> NDArray[np.int32]:
    """(T,): the number of the word that begins at each token, -1 for all other tokens.

    offsets: character spans of T tokens, ascending; a token may begin with the space before its word. spans: (n, 2). A
    word that the tokenizer drops has no first token, nor has one that begins inside another word's token.
    """
    found = np.full(len(offsets), -1, np.int32)
    places: list[list[int]] = spans.tolist()
    word, last = 0, -1
    for number, (start, end) in enumerate(offsets):
        while word < len(places) and places[word][1] <= start:
            word += 1
        if word < len(places) and word != last and places[word][0] < end and start < end:
            found[number] = last = word
    return found
