"""A ledger in one file. Keep it on a local disk: SQLite's write-ahead log shares memory (sqlite.org/wal.html).

The file holds the key and the sketches by which data are recognised, so only its owner may read it, from its creation
on. SQLite gives its -wal and -shm files the permissions of the database.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from dpft.privacy.ledger.storage.database import APPEND_ONLY, BUSY_SECONDS, SCHEMA_VERSION, Store
from dpft.privacy.ledger.storage.errors import refuse

_MODE = 0o600
_APPLICATION = int.from_bytes(b"dpft", "big")  # PRAGMA application_id: distinguishes a ledger from other databases
_FIRST = (
    """CREATE TABLE entry (
        seq INTEGER PRIMARY KEY, body TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL,
        kind TEXT GENERATED ALWAYS AS (json_extract(body, '$.kind')) VIRTUAL,
        run TEXT GENERATED ALWAYS AS (json_extract(body, '$.run')) VIRTUAL,
        step INTEGER GENERATED ALWAYS AS (ifnull(json_extract(body, '$.step'), -1)) VIRTUAL)""",
    "CREATE UNIQUE INDEX entry_once ON entry (run, kind, step)",
)
# Version 2 adds tables for populations; rows of version 1 are not changed.
_SECOND = (
    "CREATE INDEX entry_declared ON entry (seq) WHERE kind <> 'charge'",
    "CREATE TABLE secret (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE sketch (digest TEXT PRIMARY KEY, keys BLOB NOT NULL)",
)
_TRIGGER = "CREATE TRIGGER {0}_no_{1} BEFORE {1} ON {0} BEGIN SELECT RAISE(ABORT, 'append only'); END"


def _make(path: Path) -> None:
    """Create the file, readable by its owner alone, if it does not exist."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE))


def _narrow(path: Path) -> bool:
    """Restrict a ledger and its logs to their owner. Returns whether one of them had wider permissions.

    A file of another owner is not changed.
    """
    wider = False
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm", "-journal"))):
        with suppress(FileNotFoundError, PermissionError):
            if file.is_file() and file.stat().st_uid == os.geteuid() and file.stat().st_mode & 0o077:
                file.chmod(_MODE)
                wider = True
    return wider


class SqliteStore(Store):
    begin = "BEGIN IMMEDIATE"

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = Path(os.path.realpath(path))  # SQLite keeps its log beside the target of a link
            _make(path)
        except OSError as error:
            refuse("a ledger needs a writable folder", error, "set DPFT_LEDGER to a file you may write")
        self.path = path

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)

        engine = create_engine("sqlite://", creator=connect, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        super().__init__(path, engine)

    def remedy(self) -> str:
        return f"check that {self.path} is a ledger, that it can be written, and that its disk has room"

    def prepare(self) -> None:
        with self.writing():
            application, version = (self.sql(f"PRAGMA {name}")[0] for name in ("application_id", "user_version"))
            blank = (application, version, self.sql("SELECT count(*) FROM sqlite_master")[0]) == (0, 0, 0)
            if not blank and application != _APPLICATION:
                refuse("a ledger must be a dpft ledger", f"another database, {self.path}", "set DPFT_LEDGER")
            self.check_version(version)
            if version < SCHEMA_VERSION:
                self._create(blank)
        self.narrowed = _narrow(self.path)  # only after the check that it is a ledger
        with self.plain_errors():
            mode = self.enter_wal()
            if mode != "wal":
                refuse("a ledger needs SQLite's write-ahead log", mode, "set DPFT_LEDGER to a local disk")
            self.sql("PRAGMA synchronous = FULL")  # in WAL mode: fsync at every commit
            self.sql("PRAGMA fullfsync = ON")  # macOS: fsync alone stops at the drive's cache
            # SQLite up to 3.51.2 may lose commits when one process checkpoints while another restarts the log
            # ("the WAL-reset bug", https://sqlite.org/wal.html). Its automatic checkpoints let writers go on;
            # the full ones of tidy() hold the write lock.
            self.sql("PRAGMA wal_autocheckpoint = 0")

    def _create(self, blank: bool) -> None:
        """Create the tables of this version; in a ledger of version 1 only those it lacks."""
        for statement in (*(_FIRST if blank else ()), *_SECOND):
            self.sql(statement)
        for table in APPEND_ONLY if blank else APPEND_ONLY[1:]:
            for change in ("update", "delete"):
                self.sql(_TRIGGER.format(table, change))
        self.make_key()
        self.sql(f"PRAGMA application_id = {_APPLICATION}")
        self.sql(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def enter_wal(self) -> object:
        """Switch to the write-ahead log. SQLite does not wait for another writer here, so retry until the timeout."""
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self.sql("PRAGMA journal_mode = WAL")[0]
            except OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise
            time.sleep(0.01)

    def tidy(self) -> None:
        with suppress(SQLAlchemyError):
            self.sql("PRAGMA wal_checkpoint(FULL)")
