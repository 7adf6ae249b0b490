"""Encodes texts with word labels: the label is at a word's first token, all other tokens are ignored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.data.encoded import Encoded, SpecialTokens, clean
from dpft.data.examples import Examples
from dpft.data.units import Units
from dpft.data.words import IGNORED, Words, WordTokens, first_tokens
from dpft.errors import UserError

_CHUNK = 4096


def encode_words(rows: Examples, words: Words, tokenizer: Any, max_length: int) -> Encoded:
    """Encode `rows`, each with at most `max_length` tokens, special tokens included; truncated words are not evaluated.

    The whole text is tokenised at once, so prediction needs no splitting into words.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            "labels of words need a fast tokenizer, which knows where its tokens stand, got a slow one; "
            "save a tokenizer.json beside the encoder"
        )
    template = SpecialTokens.of(tokenizer, pair=False)
    room = max_length - len(template.before) - len(template.after)
    ids: list[int] = []
    firsts = [np.zeros(0, np.int32)]
    for start in range(0, len(rows), _CHUNK):
        found = tokenizer(
            clean(rows.texts[start : start + _CHUNK]), add_special_tokens=False, return_offsets_mapping=True,
            return_attention_mask=False, return_token_type_ids=False, verbose=False,
        )  # fmt: skip
        for number, (tokens, offsets) in enumerate(
            zip(found["input_ids"], found["offset_mapping"], strict=True), start
        ):
            own = first_tokens(offsets[:room], words.of_text(number))
            firsts.append(np.pad(own, (len(template.before), len(template.after)), constant_values=-1))
            ids += [*template.before, *tokens[:room], *template.after]
    lengths = np.array([len(first) for first in firsts[1:]], np.int32)
    first = _of_all(np.concatenate(firsts), words, lengths)
    labels = np.full(len(first), IGNORED, np.int64)
    labels[first >= 0] = rows.labels[first[first >= 0]]
    return Encoded(
        np.array(ids, np.int32), np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), lengths,
        np.zeros(len(rows), np.int32), labels, int(tokenizer.pad_token_id or 0),
        "token_type_ids" in tokenizer.model_input_names, units=None if rows.units is None else Units.of(rows.units),
        words=WordTokens(first, len(words.spans)),
    )  # fmt: skip


def _of_all(first: NDArray[np.int32], words: Words, lengths: NDArray[np.int32]) -> NDArray[np.int64]:
    """Word numbers over all rows instead of within each row."""
    before = np.repeat(words.starts[:-1], lengths)
    return np.where(first >= 0, before + first, -1)
