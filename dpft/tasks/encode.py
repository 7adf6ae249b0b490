"""Texts to token arrays: flat, ragged, with the mask token where the paper reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.spec import Representation, UserError
from dpft.tasks._task import Rows
from dpft.tasks.units import Units

_CHUNK = 4096


@dataclass(frozen=True)
class Encoded:
    """N rows of tokens end to end: row i is `ids[starts[i] : starts[i + 1]]`.

    ids: (total,) int32. starts: (N + 1,) int64. second: (N,) where the second segment starts (its length where
    there is none). read: (N,) the token that is read. labels: (N,). padding: the pad token's id. typed: whether
    the model takes segment ids. features: (N, D) float32, what a frozen encoder made of each row; a row is then one
    token that nobody looks at. units: whose rows they are, None where each row is its own unit.
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

    def __len__(self) -> int:
        return len(self.starts) - 1

    def with_features(self, features: NDArray[np.float32]) -> Encoded:
        """The same rows as `features` (N, D), without their tokens."""
        rows = np.zeros(len(self), np.int32)
        return replace(self, ids=rows, starts=np.arange(len(self) + 1), second=rows + 1, read=rows, features=features)

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


def encode(rows: Rows, tokenizer: Any, representation: Representation, max_length: int) -> Encoded:
    """Token arrays of `rows`, at most `max_length` each, special tokens included.

    With `mask` the mask token stands after a single sentence and between the two of a pair, before the
    separator, and is what is read (Hambardzumyan et al. 2021, section 3.1); it is never truncated. A pair is
    shortened longest first. Empty texts are rows of special tokens; a lone surrogate becomes a question mark.
    """
    template = Template.of(tokenizer, rows.pairs is not None)
    mask = _mask(tokenizer, representation)
    room = max_length - len(template.before) - len(template.between) - len(template.after) - len(mask)
    pieces: list[list[int]] = []
    second, read = [], []
    for start in range(0, len(rows), _CHUNK):
        texts = _tokens(rows.texts[start : start + _CHUNK], tokenizer)
        pairs = None if rows.pairs is None else _tokens(rows.pairs[start : start + _CHUNK], tokenizer)
        for i, text in enumerate(texts):
            a, b = _shorten(text, pairs[i] if pairs else [], room)
            head = template.before + a
            read.append(len(head) if mask else 0)
            middle = head + mask + template.between
            second.append(len(middle) - template.second_typed if pairs else len(middle) + len(template.after))
            pieces.append(middle + b + template.after)
    starts = np.cumsum([0] + [len(p) for p in pieces], dtype=np.int64)
    ids = np.fromiter((t for p in pieces for t in p), dtype=np.int32, count=int(starts[-1]))
    return Encoded(
        ids, starts, np.array(second, np.int32), np.array(read, np.int32), np.asarray(rows.labels),
        int(tokenizer.pad_token_id or 0), "token_type_ids" in tokenizer.model_input_names,
        units=None if rows.units is None else Units.of(rows.units),
    )  # fmt: skip


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
    clean = [t.encode("utf-8", "replace").decode("utf-8") if not t.isascii() else t for t in texts]
    found: list[list[int]] = tokenizer(
        clean, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )["input_ids"]
    return found


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
