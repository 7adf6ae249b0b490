"""Rows spelled out in bytes, so that a keyed digest can tell whether they are the same, in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpft.data.examples import Rows


def spelled(rows: Rows) -> Iterator[bytes]:
    """Each text, then each pair, then labels, units and words: every part behind its length, so that none can stand in
    for another. Goes through the texts once and holds one at a time.
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
