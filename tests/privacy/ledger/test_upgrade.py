"""A ledger of version 1 opens, is brought up to date in place, and keeps every row as it was written."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

from dpft.privacy.ledger import GENESIS, Event, Ledger, LedgerError
from dpft.privacy.ledger.populations import UNKNOWN
from dpft.spec import canonical_json

# The tables as version 1 made them.
VERSION_1 = (
    """CREATE TABLE entry (
        seq INTEGER PRIMARY KEY, body TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL,
        kind TEXT GENERATED ALWAYS AS (json_extract(body, '$.kind')) VIRTUAL,
        run TEXT GENERATED ALWAYS AS (json_extract(body, '$.run')) VIRTUAL,
        step INTEGER GENERATED ALWAYS AS (ifnull(json_extract(body, '$.step'), -1)) VIRTUAL)""",
    "CREATE UNIQUE INDEX entry_once ON entry (run, kind, step)",
    "CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'append only'); END",
    "CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'append only'); END",
    f"PRAGMA application_id = {int.from_bytes(b'dpft', 'big')}",
    "PRAGMA user_version = 1",
)
TERMS = {"run": "old", "rate": 0.1, "noise": 0.9, "steps": 10, "delta": 1e-5, "epsilon": 6.7}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A reservation and two charges, as version 1 wrote them."""
    path = tmp_path / "ledger.sqlite"
    bodies = [{**TERMS, "kind": "reserve"}]
    bodies += [{"run": "old", "step": step, "rate": 0.1, "noise": 0.9, "kind": "charge"} for step in range(2)]
    prev = GENESIS
    with sqlite3.connect(path) as raw:
        for statement in VERSION_1:
            raw.execute(statement)
        for seq, values in enumerate(bodies, 1):
            body = canonical_json({**values, "seq": seq, "time": "2025-01-01T00:00:00+00:00"})
            digest = hashlib.sha256(f"{prev}\n{body}".encode()).hexdigest()
            raw.execute("INSERT INTO entry (seq, body, prev, hash) VALUES (?, ?, ?, ?)", (seq, body, prev, digest))
            prev = digest
    raw.close()
    return path


def rows(path: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as raw:
        found = raw.execute("SELECT seq, body, prev, hash FROM entry ORDER BY seq").fetchall()
    raw.close()
    return found


def test_an_old_ledger_goes_on_without_a_row_rewritten(old: Path) -> None:
    before = rows(old)
    with Ledger(old) as book:
        book.verify(before[-1][3])
        assert (book.charged("old"), book.next_step("old"), book.rows()) == (2, 2, 3)
        assert list(book.view().populations) == [UNKNOWN]
        book.charge(Event("old", 2, 0.1, 0.9))
        book.settle("old")
        book.reserve(
            "new", **{k: v for k, v in TERMS.items() if k != "run"}, data_identity=book.data_identity(["a", "b", "c"])
        )
        book.verify(before[-1][3])
        assert [len(one.runs) for one in book.view().populations.values()] == [1, 1]
    assert rows(old)[:3] == before
    with Ledger(old) as book:
        book.verify(before[-1][3])


def test_an_old_ledger_is_upgraded_once_and_guards_its_new_tables(old: Path) -> None:
    Ledger(old).close()
    with sqlite3.connect(old) as raw:
        (key,) = raw.execute("SELECT value FROM secret WHERE name = 'hmac'").fetchone()
        assert raw.execute("PRAGMA user_version").fetchone() == (2,)
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            raw.execute("DELETE FROM secret")
    raw.close()
    Ledger(old).close()
    with sqlite3.connect(old) as raw:
        assert raw.execute("SELECT value FROM secret WHERE name = 'hmac'").fetchone() == (key,)
    raw.close()


def test_an_upgrade_that_fails_leaves_the_old_ledger(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a half-made upgrade, after which neither version opens it."""
    before = old.read_bytes()

    def fail(_self: object) -> None:
        raise OSError("no randomness")

    monkeypatch.setattr("dpft.privacy.ledger.storage.database.Store.make_key", fail)
    with pytest.raises(LedgerError):
        Ledger(old)
    monkeypatch.undo()
    assert old.read_bytes() == before
    with Ledger(old) as book:
        book.verify()
