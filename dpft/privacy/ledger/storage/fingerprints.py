"""By what data are known again: keyed fingerprints of their records, and the smallest of them.

Whoever has no key learns nothing from them; whoever has the ledger can test whether a text that they know is among the
data, so a ledger is as private as the data's list of members.
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
LEAST_SHARE = 0.05  # less overlap than this is taken for stock phrases that strangers share, too
LEAST_SHARED = 3
_ALL = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Sketch:
    """The smallest keys of a data set's records and of their texts, sorted; all where there are fewer than SKETCH_KEYS.

    A bottom-k sketch (Cohen and Kaplan 2007): which records it keeps depends on their keys alone, so that two data
    sets keep the same ones of what they share, in whatever order, and whatever else each holds.
    """

    keys: NDArray[np.uint64]

    @classmethod
    def of(cls, key: bytes, texts: Sequence[str], pairs: Sequence[str] | None) -> Sketch:
        """The sketch of texts, or of pairs, under `key`. Labels, order and repeats make no difference.

        Of a pair both texts are keyed by themselves too: the same people are known with one column more or less. A few
        stock phrases in one column are far less than LEAST_SHARE of all keys.

        Goes through them once and holds few: the smallest of all are the smallest of those so far and of the next.
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
        """The key up to which every record is kept."""
        return _ALL if len(self.keys) < SKETCH_KEYS else self.keys[-1]

    def matches(self, other: Sketch) -> bool:
        """Whether both are of the same people, as far as can be told.

        Only keys that both would have kept can be compared. Of those, the smaller set must share 5 %, and three; or
        all, where it has fewer. The threshold errs on the side of charging together: that costs budget, where a
        missed match would cost privacy. Subsets, additions, and mixtures of what is known share far more than 5 %.
        """
        reach = min(self.reach, other.reach)
        mine, others = (one.keys[one.keys <= reach] for one in (self, other))
        fewest = min(len(mine), len(others))
        shared = len(np.intersect1d(mine, others, assume_unique=True))
        return fewest > 0 and (shared == fewest or shared >= max(LEAST_SHARED, LEAST_SHARE * fewest))

    def is_new_to(self, known: Sequence[Sketch]) -> bool:
        """Whether a record is in none of `known`, as far as they reach."""
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
    """8 bytes of HMAC-SHA256 of the text in Unicode's NFC, blanks collapsed; of both texts of a pair, in any order."""
    words = sorted(_plain(one) for one in (text, pair) if one is not None)
    return hmac.digest(key, "\n".join(words).encode("utf-8", "surrogatepass"), "sha256")[:8]


def record_keys(key: bytes, texts: Iterable[str], pairs: Iterable[str] | None) -> NDArray[np.uint64]:
    """(N,), the key of each record in order."""
    if pairs is None:
        found = b"".join(record_key(key, text) for text in texts)
    else:
        found = b"".join(record_key(key, text, pair) for text, pair in zip(texts, pairs, strict=True))
    return np.frombuffer(found, "<u8").astype(np.uint64)


def keyed_digest(key: bytes, parts: Iterable[bytes]) -> str:
    """HMAC-SHA256 of all parts, one after the other."""
    found = hmac.new(key, digestmod="sha256")
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
