"""Rows to judge by that are training rows: figures on them show no new text, and choosing by them looks at the data."""

from __future__ import annotations

import secrets

import numpy as np

from dpft.privacy.ledger.storage.fingerprints import record_keys
from dpft.tasks import Task

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
    known = record_keys(key, task.train.texts, task.train.pairs)
    for rows in task.judged.values():
        found = np.flatnonzero(np.isin(record_keys(key, rows.texts, rows.pairs), known))
        if len(found):
            return int(found[0]) + 1
    return None
