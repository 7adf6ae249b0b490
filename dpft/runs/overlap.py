"""Validation rows that are also training rows: figures on them do not measure new texts, and depend on private rows."""

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
    """The number, from 1, of the first validation row whose record is also a training record; None if there is none.

    A record is a text, or both texts of a pair in any order, with blanks collapsed and in Unicode NFC (as populations
    are recognised). All rows are compared. Different texts of the same person are not recognised.
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
