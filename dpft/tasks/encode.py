"""Texts to token arrays: flat, ragged, with the mask token where the paper reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.spec import Representation, UserError
from dpft.tasks._task import Rows
from dpft.tasks.units import Units
from dpft.tasks.words import Spoken

_CHUNK = 4096


@dataclass(frozen=True)
class Encoded:
    """N rows of tokens end to end: row i is `ids[starts[i] : starts[i + 1]]`.

    ids: (total,) int32. starts: (N + 1,) int64. second: (N,) where the second segment starts (its length where
    there is none). read: (N,) the token that is read. labels: (N, ...), as the task's answer has them.
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


@dataclass(frozen=True)
class Chunk:
    """Some rows' part of `Encoded`, in order: ids end to end, and of each row its length, `second` and `read`."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    second: NDArray[np.int32]
    read: NDArray[np.int32]


def encode(rows: Rows, tokenizer: Any, representation: Representation, max_length: int) -> Encoded:
    """Token arrays of `rows`, at most `max_length` each, special tokens included, in memory."""
    if rows.words is not None:
        from dpft.tasks.encode_words import encode_words

        return encode_words(rows, rows.words, tokenizer, max_length)
    parts = [_NO_ROWS, *chunks(rows, tokenizer, representation, max_length)]
    whole = Chunk(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Chunk)))
    return joined(rows, tokenizer, whole)


def joined(rows: Rows, tokenizer: Any, whole: Chunk) -> Encoded:
    """`rows` with their tokens."""
    starts = np.concatenate([[0], np.cumsum(whole.lengths)])
    return Encoded(
        whole.ids, starts, whole.second, whole.read, np.asarray(rows.labels), int(tokenizer.pad_token_id or 0),
        "token_type_ids" in tokenizer.model_input_names, units=None if rows.units is None else Units.of(rows.units),
    )  # fmt: skip


def chunks(rows: Rows, tokenizer: Any, representation: Representation, max_length: int) -> Iterator[Chunk]:
    """The tokens of `rows`, a few thousand at a time: no more texts than that are in memory.

    With `mask` the mask token stands after a single sentence and between the two of a pair, before the
    separator, and is what is read (Hambardzumyan et al. 2021, section 3.1); it is never truncated. A pair is
    shortened longest first. Empty texts are rows of special tokens; a lone surrogate becomes a question mark.
    """
    template = Template.of(tokenizer, rows.pairs is not None)
    mask = _mask(tokenizer, representation)
    room = max_length - len(template.before) - len(template.between) - len(template.after) - len(mask)
    texts, pairs = iter(rows.texts), None if rows.pairs is None else iter(rows.pairs)
    while some := list(islice(texts, _CHUNK)):
        others = None if pairs is None else _tokens(list(islice(pairs, len(some))), tokenizer)
        pieces: list[list[int]] = []
        second, read = [], []
        for i, text in enumerate(_tokens(some, tokenizer)):
            a, b = _shorten(text, others[i] if others else [], room)
            head = template.before + a
            read.append(len(head) if mask else 0)
            middle = head + mask + template.between
            second.append(len(middle) - template.second_typed if others else len(middle) + len(template.after))
            pieces.append(middle + b + template.after)
        yield Chunk(
            np.fromiter(chain.from_iterable(pieces), np.int32), np.array([len(p) for p in pieces], np.int64),
            np.array(second, np.int32), np.array(read, np.int32),
        )  # fmt: skip


_NO_ROWS = Chunk(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))


def _mask(tokenizer: Any, representation: Representation) -> list[int]:
    if representation != "mask":
        return []
    if tokenizer.mask_token_id is None:
        raise UserError(
            "representation mask needs a tokenizer with a mask token, got one without; "
            "pass --representation cls or mean"
        )
    return [int(tokenizer.mask_token_id)]


def _tokens(texts: Sequence[str], tokenizer: Any) -> list[list[int]]:
    found: list[list[int]] = tokenizer(
        clean(texts), add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )["input_ids"]
    return found


def clean(texts: Sequence[str]) -> list[str]:
    """Texts as UTF-8 can hold them, character for character."""
    return [t.encode("utf-8", "replace").decode("utf-8") if not t.isascii() else t for t in texts]


def _shorten(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut the longer of the two until both fit into `room` tokens, as Hugging Face's "longest_first" does.

    Of an odd room the spare token goes to the longer text, and to the second of two that are as long.
    """
    if len(a) + len(b) <= room:
        return a, b
    half = room // 2 if len(a) <= len(b) else (room + 1) // 2
    keep_a = max(room - len(b), half) if b else room
    a = a[:keep_a]
    return a, b[: room - len(a)]


def _find(ids: list[int], word: list[int], start: int) -> int:
    """Where `word` stands in `ids`, from `start` on."""
    for at in range(start, len(ids) - len(word) + 1):
        if ids[at : at + len(word)] == word:
            return at
    raise UserError("the tokenizer must keep a word's tokens together, got one that does not; pass another --model")
