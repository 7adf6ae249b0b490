"""The same promises on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from dpft.privacy.ledger import GENESIS, Event, Ledger, LedgerError, Reservation, ledger_exists, written
from dpft.privacy.ledger.export import lines
from dpft.privacy.ledger.storage.hash_chain import link
from tests.postgres_server import PASSWORD

TERMS: dict[str, Any] = {"rate": 0.1, "noise": 0.9, "steps": 10, "delta": 1e-5, "epsilon": 6.7}
EVENT = Event("a", 0, rate=0.1, noise=0.9)
TEXTS = [f"record number {i}" for i in range(200)]


@pytest.fixture
def filled(place: str) -> str:
    """A ledger of nine rows: population, reservation, six charges, settle."""
    with Ledger(place) as book:
        book.reserve("a", **TERMS, data_identity=book.data_identity(TEXTS))
        for step in range(6):
            book.charge(replace(EVENT, step=step))
        book.settle("a")
        return book.head()


def test_a_reopened_ledger_remembers_and_verifies(place: str) -> None:
    with Ledger(place) as book:
        assert (book.head(), book.rows(), book.reservation("a"), book.next_step("a")) == (GENESIS, 0, None, 0)
        book.reserve("a", **{**TERMS, "rate": 1 / 3, "noise": 0.1 + 0.2}, data_identity=book.data_identity(TEXTS))
        book.charge(Event("a", 4, 1 / 3, 0.1 + 0.2))
    with Ledger(place) as book:
        assert book.reservation("a") == Reservation("a", **{**TERMS, "rate": 1 / 3, "noise": 0.1 + 0.2})
        assert (book.charged("a"), book.next_step("a"), book.is_settled("a"), book.rows()) == (1, 5, False, 3)
        book.settle("a")
        book.settle("a")
        assert book.rows() == 4
        book.verify(book.head())


def test_what_was_not_reserved_or_is_charged_already_is_refused_and_leaves_no_trace(place: str) -> None:
    """Catches: a failed statement inside a transaction that PostgreSQL then ends by ROLLBACK as if all were well."""
    with Ledger(place) as book:
        book.reserve("a", **TERMS)
        book.charge(EVENT)
        for event, rule in (
            (EVENT, "a step is charged once"), (replace(EVENT, step=10), "from 0 to 9"),
            (replace(EVENT, noise=0.8), "as reserved"), (replace(EVENT, run="b"), "reserves before"),
            (replace(EVENT, run="\ud800"), "readable and writable"),
        ):  # fmt: skip
            with pytest.raises(LedgerError, match=rule):
                book.charge(event)
        with pytest.raises(LedgerError, match="a run reserves once"):
            book.reserve("a", **TERMS)
        book.charge(replace(EVENT, step=1))
        assert book.rows() == 3
        book.verify()


@pytest.mark.parametrize(
    ("statements", "rule"),
    [
        (["UPDATE entry SET body = replace(body, '0.9', '9.0') WHERE seq = 4"], "row 4 .* must follow"),
        (["UPDATE entry SET hash = 'x' WHERE seq = 9"], "row 9 .* must follow"),
        (["DELETE FROM entry WHERE seq = 4"], "row 4 .* must follow"),
        (["DELETE FROM entry WHERE seq = 1"], "row 1 .* must follow"),
        (["UPDATE entry SET seq = -4 WHERE seq = 4", "UPDATE entry SET seq = 4 WHERE seq = 5",
          "UPDATE entry SET seq = 5 WHERE seq = -4"], "row 4 .* must follow"),
        (["DELETE FROM entry WHERE seq > 7"], "must contain the expected head"),
        (["DELETE FROM sketch"], "row 1 .* must find its sketch"),
        (["UPDATE sketch SET keys = (SELECT value FROM secret WHERE name = 'hmac')"], "row 1 .* must find its sketch"),
        (["UPDATE secret SET value = (SELECT keys FROM sketch) WHERE name = 'hmac'"], "row 1 .* must find the key"),
        (["DELETE FROM secret WHERE name = 'hmac'"], "must hold its key"),
    ],
    ids=["edit", "hash", "removal", "first removed", "swap", "cut short", "no sketch", "sketch", "key", "no key"],
)  # fmt: skip
def test_a_change_behind_its_back_is_found(
    place: str, filled: str, change: Callable[..., None], statements: list[str], rule: str
) -> None:
    change(*statements)
    with Ledger(place) as book, pytest.raises(LedgerError, match=rule):
        book.verify(filled)


def test_columns_that_lie_about_their_row_are_found(place: str, filled: str, change: Callable[..., None]) -> None:
    """Catches: a table put in place of ours whose `run` is not its body's, so that no charge of the run is found."""
    columns = "seq, body, prev, hash, kind, run, step"
    change("CREATE TABLE other AS SELECT * FROM entry", "DROP TABLE entry", "ALTER TABLE other RENAME TO entry")
    with Ledger(place) as book:
        book.verify(filled)
    change("UPDATE entry SET run = 'b' WHERE seq = 5", f"CREATE TABLE again AS SELECT {columns} FROM entry")
    with Ledger(place) as book, pytest.raises(LedgerError, match=r"row 5 .* found by what its body says"):
        book.verify(filled)


@pytest.mark.parametrize(("table", "column"), [("entry", "body"), ("secret", "name"), ("sketch", "digest")])
def test_the_tables_refuse_changes_in_passing(place: str, filled: str, table: str, column: str) -> None:
    name = f"dpft.{table}" if "://" in place else table
    statements = [f"UPDATE {name} SET {column} = {column}", f"DELETE FROM {name}"]
    if "://" in place:  # SQLite has none
        statements.append(f"TRUNCATE {name}")
    with Ledger(place) as book:
        for statement in statements:
            with pytest.raises(Exception, match="append only"):
                book.store.sql(statement)
        book.verify(filled)


def test_the_export_is_verified_by_ten_lines_without_dpft(place: str, filled: str, tmp_path: Path) -> None:
    """The script is README's. Catches: a body re-spelled on export; the key or a sketch in it."""
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    script = readme.partition("```python\nimport hashlib")[2].partition("```")[0]
    file = tmp_path / "chain.jsonl"
    with Ledger(place) as book:
        found = list(lines(book))
    file.write_text("".join(f"{line}\n" for line in found))
    command = [sys.executable, "-I", "-c", "import hashlib" + script, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert filled in done.stdout
    assert all(set(json.loads(line)) == {"seq", "prev", "body", "hash"} for line in found)
    file.write_text(file.read_text().replace("0.9", "9.0", 1))
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_a_charge_takes_milliseconds(place: str) -> None:
    """Catches: a scan, or a View, at every charge, the fastest one too. Generous, for it is no benchmark."""
    with Ledger(place) as book:
        book.reserve("a", **{**TERMS, "steps": 1000}, data_identity=book.data_identity(TEXTS))
        seconds = []
        for step in range(60):
            started = time.perf_counter()
            book.charge(replace(EVENT, step=step))
            seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.1


# PostgreSQL alone


def test_postgres_commits_reach_the_disk_and_one_writes_at_a_time(database: str) -> None:
    """Catches: a role or server set to synchronous_commit = off; a transaction without the lock."""
    with Ledger(database) as book:
        book.store.sql("SET synchronous_commit = off")
        with book.store.writing():
            assert book.store.sql("SHOW synchronous_commit")[0] == "on"
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            assert book.store.sql(locks)[0] == 1
            with Ledger(database) as other:
                other.store.begin = other.store.begin.replace("'30s'", "'50ms'")
                with pytest.raises(LedgerError, match="lock timeout"):
                    other.reserve("b", **TERMS)
        assert book.store.sql("SHOW synchronous_commit")[0] == "off"


def test_postgres_lost_between_two_charges_is_found_again(database: str) -> None:
    with Ledger(database) as book:
        book.reserve("a", **TERMS)
        with Ledger(database) as other:
            killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            other.store.sql(killed + "AND datname = current_database()")
        book.charge(EVENT)
        assert book.charged("a") == 1
        book.verify()


def test_postgres_lost_within_a_charge_refuses_it(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: a charge taken for made whose commit never arrived."""
    with Ledger(database) as book, Ledger(database) as other:
        book.reserve("a", **TERMS)
        commit = book.store.commit

        def lose() -> None:
            killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            other.store.sql(killed + "AND datname = current_database()")
            commit()

        monkeypatch.setattr(book.store, "commit", lose)
        with pytest.raises(LedgerError, match="readable and writable"):
            book.charge(EVENT)
        assert other.charged("a") == 0


def test_a_failed_transaction_is_not_taken_for_committed(database: str) -> None:
    """Catches: COMMIT answered by ROLLBACK."""
    with Ledger(database) as book:
        with pytest.raises(LedgerError, match="a transaction INERROR"), book.store.writing(), suppress(DBAPIError):
            book.store.sql("SELECT 1 / 0")
        book.reserve("a", **TERMS)


def test_another_programs_schema_is_refused(database: str) -> None:
    import psycopg

    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as raw:
        raw.execute("CREATE SCHEMA dpft")
        raw.execute("CREATE TABLE dpft.entry (seq int)")
    with pytest.raises(LedgerError, match="must be a dpft ledger"):
        Ledger(database)


def test_a_password_is_neither_written_nor_shown(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches: str(url) in a message; libpq's ?password=; a driver that repeats the URL."""
    assert PASSWORD in database
    bare = str(written(database))
    assert PASSWORD not in bare
    assert PASSWORD not in str(written(f"{bare}&password={PASSWORD}"))
    assert ledger_exists(bare)
    with Ledger(database) as book:
        assert book.place == bare
    with pytest.raises(LedgerError) as refused:
        Ledger(database.replace(PASSWORD, "wrong-" + PASSWORD))
    assert PASSWORD not in str(refused.value)
    assert "\n" not in str(refused.value)
    for broken in (f"postgresql+psycopg://u:{PASSWORD}@h:port/d", f"mysql://u:{PASSWORD}@h/d"):
        with pytest.raises(LedgerError, match="pass a file's path or postgresql") as refused:
            Ledger(broken)
        assert PASSWORD not in str(refused.value)
    with pytest.raises(LedgerError, match="PGPASSWORD"):
        Ledger(bare)
    monkeypatch.setenv("DPFT_LEDGER", database)
    Ledger(bare).close()
    monkeypatch.delenv("DPFT_LEDGER")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    Ledger(bare).close()


def test_the_documented_link_is_the_ledgers(place: str, filled: str) -> None:
    with Ledger(place) as book:
        rows = [json.loads(line) for line in lines(book)]
    for before, row in zip([{"hash": GENESIS}, *rows], rows, strict=False):
        assert row["hash"] == link(before["hash"], row["body"])


def test_a_member_of_the_team_needs_no_right_but_to_read_and_to_add(database: str) -> None:
    """As README promises. Catches: a lock that asks for more; a schema made anew by each."""
    import psycopg

    Ledger(database).close()
    member = f"member_{os.urandom(4).hex()}"
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as raw:
        raw.execute(f"CREATE ROLE {member} LOGIN PASSWORD '{PASSWORD}'".encode())
        raw.execute(f"GRANT USAGE ON SCHEMA dpft TO {member}".encode())
        raw.execute(f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA dpft TO {member}".encode())
    with Ledger(database.replace("://dpft:", f"://{member}:")) as book:
        book.reserve("a", **TERMS, data_identity=book.data_identity(TEXTS))
        book.charge(EVENT)
        book.settle("a")
        book.verify()
        with pytest.raises(LedgerError, match="permission denied"), book.store.writing():
            book.store.sql("DELETE FROM dpft.entry")
