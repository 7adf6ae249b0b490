"""Serialisation of rows to bytes, so that a keyed digest can tell whether two data sets are equal, order included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.data.examples import Examples


def serialized(rows: Examples) -> Iterator[bytes]:
    """Yield each text, then each second text, then labels, units and words, each after its length, so that the encoding
    is unambiguous. Iterates the texts once and holds one at a time.
    """
    for column in (rows.texts, rows.pairs):
        yield _long(-1 if column is None else len(column))
        for text in column or ():
            spelt = text.encode("utf-8", "surrogatepass")
            yield _long(len(spelt))
            yield spelt
    for array in rows.arrays:
        yield from _array(array)


def _array(array: NDArray[Any] | None) -> Iterator[bytes]:
    if array is None:
        yield _long(-1)
        return
    about = f"{array.dtype.str} {array.shape}".encode()
    yield _long(len(about))
    yield about
    yield np.ascontiguousarray(array).tobytes()


def _long(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)
