"""The hash chain: row n holds hash_n = sha256(hash_(n-1) + newline + body_n).

Editing, swapping or removing a row breaks it. The chain has no key: somebody who cuts off its end, or rewrites all rows
after an edit, passes `verify` without a head, but not with a head that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import bindparam, select

from dpft.privacy.ledger.storage.database import Store, entry, secret, sketch
from dpft.privacy.ledger.storage.errors import refuse
from dpft.spec import canonical_json

GENESIS = "0" * 64
_PAGE = 5_000
_LAST = select(entry.c.seq, entry.c.hash).order_by(entry.c.seq.desc()).limit(1)
_NEXT = select(entry).where(entry.c.seq > bindparam("after")).order_by(entry.c.seq).limit(_PAGE)
_SKETCH = select(sketch.c["keys"]).where(sketch.c.digest == bindparam("digest"))
_KEY = select(secret.c.value).where(secret.c.name == "hmac")


def link(prev: str, body: str) -> str:
    return hashlib.sha256(f"{prev}\n{body}".encode()).hexdigest()


def last(store: Store) -> tuple[int, str]:
    """Number and hash of the newest row; (0, GENESIS) if the ledger is empty."""
    row = store.one(_LAST)
    return (0, GENESIS) if row is None else (int(row.seq), str(row.hash))


def append(store: Store, kind: str, terms: Mapping[str, Any]) -> None:
    """Append a row, inside `store.writing()`. Raises sqlalchemy's IntegrityError if (kind, run, step) exists."""
    seq, prev = last(store)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    body = canonical_json({**terms, "kind": kind, "seq": seq + 1, "time": now})
    store.insert(entry, seq=seq + 1, body=body, prev=prev, hash=link(prev, body))


def rows(store: Store) -> Iterator[Any]:
    """Every row, in order, a page at a time."""
    after = -(2**62)
    while page := store.all(_NEXT, after=after):
        yield from page
        after = page[-1].seq


def key(store: Store) -> bytes:
    """The key of the fingerprints."""
    found = store.one(_KEY)
    if found is None:
        refuse("a ledger must hold its key", "none", f"restore {store.place} from a backup")
    return bytes(found.value)


def verify(store: Store, heads: set[str]) -> None:
    """Recompute the chain and check what it refers to. Raises LedgerError at a bad row, or if a head is missing."""
    restore = f"restore {store.place} from a backup"
    seq, prev, missing = 0, GENESIS, heads - {GENESIS}
    for row in rows(store):
        seq += 1
        if (row.seq, row.prev, row.hash) != (seq, prev, link(prev, row.body)):
            rule = f"row {seq} of the ledger must follow from the row before it"
            refuse(rule, "an edited, moved or missing row", restore)
        body = json.loads(row.body)
        if (row.kind, row.run, row.step) != (body["kind"], body.get("run"), body.get("step", -1)):
            rule = f"row {seq} of the ledger must be found by what its body says"
            refuse(rule, f"kind {row.kind!r}, run {row.run!r}, step {row.step!r}", restore)
        _check_named(store, seq, body, restore)
        prev = row.hash
        missing = missing - {prev}
    if missing:
        rule = f"the ledger's {seq} rows must contain the expected head {min(missing)}"
        refuse(rule, "a ledger cut short or rewritten", restore)


def _check_named(store: Store, seq: int, body: Mapping[str, Any], restore: str) -> None:
    """Raise LedgerError unless the sketch and the key that a row names by sha256 exist unchanged."""
    named = body.get("sketch") if body["kind"] in ("population", "sketch") else None
    if named is not None:
        found = store.one(_SKETCH, digest=named)
        if found is None or hashlib.sha256(bytes(found[0])).hexdigest() != named:
            refuse(f"row {seq} of the ledger must find its sketch", "another or none", restore)
        if hashlib.sha256(key(store)).hexdigest() != body["key"]:
            refuse(f"row {seq} of the ledger must find the key of its sketch", "another", restore)
