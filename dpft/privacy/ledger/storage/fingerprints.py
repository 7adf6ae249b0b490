"""Recognise data: keyed fingerprints of their records, and sketches of the smallest of them.

Without the key, the fingerprints reveal nothing. Whoever has the ledger can test whether a text that they know is among
the data, so a ledger is as private as the list of the data's members.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

SKETCH_KEYS = 65_536
LEAST_SHARE = 0.05  # a smaller overlap may be stock phrases, which different populations share
LEAST_SHARED = 3
_ALL = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Sketch:
    """The SKETCH_KEYS smallest keys of a data set's records and their texts, sorted; all keys if there are fewer.

    A bottom-k sketch (Cohen and Kaplan 2007). Which records it keeps depends on their keys alone, so two data sets keep
    the same shared records, in any order and whatever else each of them holds.
    """

    keys: NDArray[np.uint64]

    @classmethod
    def of(cls, key: bytes, texts: Sequence[str], pairs: Sequence[str] | None) -> Sketch:
        """The sketch of texts, or of pairs, under `key`. Labels, order and repetitions do not matter.

        Both texts of a pair also get their own keys, so that data are recognised with one column more or less. A few
        stock phrases in one column are far less than LEAST_SHARE of all keys. One pass, in bounded memory.
        """
        found = _keys(key, texts, pairs)
        keys = np.zeros(0, "<u8")
        while some := b"".join(islice(found, SKETCH_KEYS)):
            keys = np.union1d(keys, np.frombuffer(some, "<u8"))[:SKETCH_KEYS]
        return cls(keys.astype(np.uint64))

    @classmethod
    def from_bytes(cls, blob: bytes) -> Sketch:
        return cls(np.frombuffer(blob, "<u8").astype(np.uint64))

    @cached_property
    def blob(self) -> bytes:
        return self.keys.astype("<u8").tobytes()

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.blob).hexdigest()

    @property
    def reach(self) -> np.uint64:
        """The largest key up to which all records are kept."""
        return _ALL if len(self.keys) < SKETCH_KEYS else self.keys[-1]

    def matches(self, other: Sketch) -> bool:
        """Whether both sketches count as data of the same population.

        Only keys that both sketches would have kept are compared. Of these, the smaller set must share 5 % and at least
        three; or all, if it has fewer. The threshold errs towards charging together: that costs budget, while a missed
        match would cost privacy. Subsets, additions and mixtures of known data share far more than 5 %.
        """
        reach = min(self.reach, other.reach)
        mine, others = (one.keys[one.keys <= reach] for one in (self, other))
        fewest = min(len(mine), len(others))
        shared = len(np.intersect1d(mine, others, assume_unique=True))
        return fewest > 0 and (shared == fewest or shared >= max(LEAST_SHARED, LEAST_SHARE * fewest))

    def is_new_to(self, known: Sequence[Sketch]) -> bool:
        """Whether some key is in none of `known`, within their reach."""
        reach = max((one.reach for one in known), default=_ALL)
        mine = self.keys[self.keys <= reach]
        union = np.concatenate([one.keys for one in known]) if known else mine[:0]
        return not bool(np.isin(mine, union).all())


def _keys(key: bytes, texts: Sequence[str], pairs: Sequence[str] | None) -> Iterator[bytes]:
    if pairs is None:
        yield from (record_key(key, text) for text in texts)
        return
    for text, pair in zip(texts, pairs, strict=True):
        yield from (record_key(key, text, pair), record_key(key, text), record_key(key, pair))


def record_key(key: bytes, text: str, pair: str | None = None) -> bytes:
    """8 bytes of HMAC-SHA256 of the text (NFC, blanks collapsed), or of both texts of a pair in any order."""
    words = sorted(_plain(one) for one in (text, pair) if one is not None)
    return hmac.digest(key, "\n".join(words).encode("utf-8", "surrogatepass"), "sha256")[:8]


def record_keys(key: bytes, texts: Iterable[str], pairs: Iterable[str] | None) -> NDArray[np.uint64]:
    """The key of each record, in order: (N,) uint64."""
    if pairs is None:
        found = b"".join(record_key(key, text) for text in texts)
    else:
        found = b"".join(record_key(key, text, pair) for text, pair in zip(texts, pairs, strict=True))
    return np.frombuffer(found, "<u8").astype(np.uint64)


def keyed_digest(key: bytes, parts: Iterable[bytes]) -> str:
    """HMAC-SHA256 of the concatenated parts, in hex."""
    found = hmac.new(key, digestmod="sha256")
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
