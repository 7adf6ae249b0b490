"""Encodes texts as flat, ragged token arrays, with the mask token where the paper reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.data.encoded import Encoded, SpecialTokens, tokens_of
from dpft.data.examples import Examples
from dpft.data.units import Units
from dpft.errors import UserError
from dpft.spec import Representation
from dpft.tokens.encode_documents import encode_documents
from dpft.tokens.encode_words import encode_words

_CHUNK = 4096


@dataclass(frozen=True)
class Chunk:
    """The part of `Encoded` for consecutive rows: ids end to end, and length, `second` and `read` of each row."""

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    second: NDArray[np.int32]
    read: NDArray[np.int32]


def encode(rows: Examples, tokenizer: Any, representation: Representation, max_length: int) -> Encoded:
    """Encode `rows` in memory, each with at most `max_length` tokens, special tokens included."""
    return rows.by_kind(
        lambda _: _encode_texts(rows, tokenizer, representation, max_length),
        lambda _, words: encode_words(rows, words, tokenizer, max_length),
        lambda _, documents: encode_documents(rows, documents, tokenizer, max_length),
    )


def _encode_texts(rows: Examples, tokenizer: Any, representation: Representation, max_length: int) -> Encoded:
    parts = [_NO_ROWS, *chunks(rows, tokenizer, representation, max_length)]
    whole = Chunk(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Chunk)))
    return joined(rows, tokenizer, whole)


def joined(rows: Examples, tokenizer: Any, whole: Chunk) -> Encoded:
    """`Encoded` from `rows` and their tokens."""
    starts = np.concatenate([[0], np.cumsum(whole.lengths)])
    return Encoded(
        whole.ids, starts, whole.second, whole.read, np.asarray(rows.labels), int(tokenizer.pad_token_id or 0),
        "token_type_ids" in tokenizer.model_input_names, units=None if rows.units is None else Units.of(rows.units),
    )  # fmt: skip


def chunks(rows: Examples, tokenizer: Any, representation: Representation, max_length: int) -> Iterator[Chunk]:
    """Yield the tokens of `rows` in chunks of a few thousand, so that few texts are in memory.

    With `mask` the mask token follows a single text, or stands between the two of a pair, before the separator, and
    is the token that is read (Hambardzumyan et al. 2021, section 3.1). It is never truncated. A pair is truncated
    longest first. An empty text becomes special tokens alone; a lone surrogate becomes a question mark.
    """
    template = SpecialTokens.of(tokenizer, rows.pairs is not None)
    mask = _mask(tokenizer, representation)
    room = max_length - len(template.before) - len(template.between) - len(template.after) - len(mask)
    texts, pairs = iter(rows.texts), None if rows.pairs is None else iter(rows.pairs)
    while some := list(islice(texts, _CHUNK)):
        others = None if pairs is None else tokens_of(list(islice(pairs, len(some))), tokenizer)
        pieces: list[list[int]] = []
        second, read = [], []
        for i, text in enumerate(tokens_of(some, tokenizer)):
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


def _shorten(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut the longer of the two until both fit into `room` tokens, as Hugging Face's "longest_first" does.

    Of an odd `room` the spare token goes to the longer text, or to the second of two equally long ones.
    """
    if len(a) + len(b) <= room:
        return a, b
    half = room // 2 if len(a) <= len(b) else (room + 1) // 2
    keep_a = max(room - len(b), half) if b else room
    a = a[:keep_a]
    return a, b[: room - len(a)]
