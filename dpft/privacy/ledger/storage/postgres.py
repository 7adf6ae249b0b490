"""A ledger in the schema `dpft` of a PostgreSQL database, shared by people and machines."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from dpft.privacy.ledger.storage.database import APPEND_ONLY, BUSY_SECONDS, SCHEMA_VERSION, Store, secret
from dpft.privacy.ledger.storage.errors import refuse
from dpft.privacy.ledger.storage.location import shown, with_password

SCHEMA = "dpft"
_LOCK = int.from_bytes(b"dpft", "big")
_CREATE = (
    "CREATE SCHEMA IF NOT EXISTS dpft",
    """CREATE TABLE dpft.entry (
        seq BIGINT PRIMARY KEY, body TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL,
        kind TEXT GENERATED ALWAYS AS (body::json ->> 'kind') STORED,
        run TEXT GENERATED ALWAYS AS (body::json ->> 'run') STORED,
        step BIGINT GENERATED ALWAYS AS (coalesce((body::json ->> 'step')::bigint, -1)) STORED)""",
    "CREATE UNIQUE INDEX entry_once ON dpft.entry (run, kind, step)",
    "CREATE INDEX entry_declared ON dpft.entry (seq) WHERE kind <> 'charge'",
    "CREATE TABLE dpft.secret (name TEXT PRIMARY KEY, value BYTEA NOT NULL)",
    "CREATE TABLE dpft.sketch (digest TEXT PRIMARY KEY, keys BYTEA NOT NULL)",
    "CREATE FUNCTION dpft.append_only() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'append only'; END $$",
)
_TRIGGER = (
    "CREATE TRIGGER {0}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON dpft.{0} "
    "FOR EACH STATEMENT EXECUTE FUNCTION dpft.append_only()"
)


class PostgresStore(Store):
    """Writers take turns by an advisory lock, which needs no rights beyond INSERT and SELECT.

    Durable commits and the lock timeout are set in each transaction, so that they also hold behind a connection
    pooler.
    """

    begin = (
        "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on; "
        f"SET LOCAL lock_timeout = '{BUSY_SECONDS:.0f}s'; SELECT pg_advisory_xact_lock({_LOCK})"
    )

    def __init__(self, place: str) -> None:
        if importlib.util.find_spec("psycopg") is None:
            refuse("a ledger in PostgreSQL needs psycopg", "none installed", "pip install 'dpft[postgres]'")
        url = with_password(place)
        self._passwords = [str(word) for word in (url.password, *url.query.values()) if word]
        engine = create_engine(
            url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 10, "prepare_threshold": None},
            execution_options={"schema_translate_map": {None: SCHEMA}},
            hide_parameters=True,
        )
        super().__init__(shown(url), engine)

    def remedy(self) -> str:
        return f"check that {self.place} answers, and its user's rights and password (PGPASSWORD or ~/.pgpass)"

    def censored(self, words: str) -> str:
        for word in self._passwords:
            words = words.replace(word, "***")
        return words

    def prepare(self) -> None:
        with self.plain_errors():
            if self.sql("SHOW fsync")[0] != "on":
                refuse("a ledger needs a server that keeps what it commits", "fsync off", "set fsync = on")
            if self.sql("SELECT to_regclass('dpft.secret')")[0] is not None:
                self._check()
                return
        with self.writing():
            if self.sql("SELECT to_regclass('dpft.secret')")[0] is not None:  # another process was first
                return
            if self.sql("SELECT to_regclass('dpft.entry')")[0] is not None:
                refuse("a ledger must be a dpft ledger", f"another schema dpft in {self.place}", "set DPFT_LEDGER")
            for statement in (*_CREATE, *(_TRIGGER.format(table) for table in APPEND_ONLY)):
                self.sql(statement)
            self.insert(secret, name="version", value=str(SCHEMA_VERSION).encode())
            self.make_key()

    def _check(self) -> None:
        found = self.one(secret.select().where(secret.c.name == "version"))
        if found is None:
            refuse("a ledger must be a dpft ledger", f"another schema dpft in {self.place}", "set DPFT_LEDGER")
        self.check_version(int(bytes(found.value)))

    def lock(self) -> None:
        """Begin a transaction; reconnect first if the connection was lost between transactions."""
        try:
            super().lock()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            with suppress(Exception):
                self._connection.close()
            self._connection = self._engine.connect()
            super().lock()

    def commit(self) -> None:
        """Commit. PostgreSQL answers COMMIT of a failed transaction with ROLLBACK and no error, so check first."""
        driver: Any = self._connection.connection.driver_connection
        if driver.info.transaction_status.name != "INTRANS":
            rule = "the ledger must take what it is given"
            refuse(rule, f"a transaction {driver.info.transaction_status.name}", self.remedy())
        super().commit()

    def tidy(self) -> None:
        """Nothing to do: the server maintains its own log."""
