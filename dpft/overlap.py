"""Rows to judge by that are training rows: figures on them show no new text, and choosing by them looks at the data."""

from __future__ import annotations

import secrets

import numpy as np
from numpy.typing import NDArray

from dpft.privacy.ledger.sketch import record_key
from dpft.tasks import Rows, Task

NOTE = (
    "some validation rows have the text of a training row: the figures on them are no measure of new texts, and depend "
    "on rows that the promise is for"
)


def shared_records(task: Task) -> int | None:
    """The number, from 1 on, of the first validation row whose record is a training row's too; None where none is.

    A record is a text, or both texts of a pair in any order, as populations are known by: blanks collapsed, Unicode's
    NFC. Looks at all rows. Whether both are of one person cannot be told where their texts differ.
    """
    if task.validation is None:
        return None
    key = secrets.token_bytes(32)
    known = _keys(key, task.train)
    for rows in task.judged.values():
        found = np.flatnonzero(np.isin(_keys(key, rows), known))
        if len(found):
            return int(found[0]) + 1
    return None


def _keys(key: bytes, rows: Rows) -> NDArray[np.uint64]:
    """(N,), eight bytes of HMAC-SHA256 of each record."""
    if rows.pairs is None:
        joined = b"".join(record_key(key, text) for text in rows.texts)
    else:
        joined = b"".join(record_key(key, text, pair) for text, pair in zip(rows.texts, rows.pairs, strict=True))
    return np.frombuffer(joined, "<u8").astype(np.uint64)
