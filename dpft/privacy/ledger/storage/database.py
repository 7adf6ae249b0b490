"""The ledger's tables, through SQLAlchemy: one writer at a time, nothing changed once written."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, Connection, Engine, Integer, LargeBinary, MetaData, Table, Text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.sql import Executable

from dpft.privacy.ledger.storage.errors import StorageError, refuse

SCHEMA_VERSION = 2
BUSY_SECONDS = 30.0  # how long a writer waits for its turn; one charge holds the lock for milliseconds

_tables = MetaData()
# kind, run and step are computed by the database from the hashed body, so a lookup and the chain cannot disagree. The
# unique index on them is what stops two processes that resume one run from both releasing the same step.
entry = Table(
    "entry", _tables,
    Column("seq", BigInteger, primary_key=True), Column("body", Text), Column("prev", Text), Column("hash", Text),
    Column("kind", Text), Column("run", Text), Column("step", Integer),
)  # fmt: skip
# Outside the chain, which names them by their sha256: the key of the fingerprints, and the sketches made with it.
secret = Table("secret", _tables, Column("name", Text, primary_key=True), Column("value", LargeBinary))
sketch = Table("sketch", _tables, Column("digest", Text, primary_key=True), Column("keys", LargeBinary))
APPEND_ONLY = ("entry", "secret", "sketch")


class Store(ABC):
    """One connection to one ledger. Whatever leaves `writing` without LedgerError is on the disk."""

    narrowed = False  # whether others could read the ledger until now
    begin: str  # opens a transaction in which nobody else writes

    def __init__(self, place: Path | str, engine: Engine) -> None:
        self.place, self._engine = place, engine
        with self.plain_errors():
            self._connection: Connection = engine.connect()
        try:
            self.prepare()
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def prepare(self) -> None:
        """Create the tables, or check that they are ours and bring them up to date; make commits durable."""

    @abstractmethod
    def remedy(self) -> str:
        """What a person can do where the database fails."""

    @abstractmethod
    def tidy(self) -> None:
        """After many charges. Never raises: they are durable already."""

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def all(self, statement: Executable, **values: Any) -> list[Any]:
        with self.plain_errors():
            return list(self._connection.execute(statement, values).all())

    def one(self, statement: Executable, **values: Any) -> Any:
        """The first row, or None."""
        with self.plain_errors():
            return self._connection.execute(statement, values).first()

    def insert(self, table: Table, **values: Any) -> None:
        """Add a row. Raises sqlalchemy's IntegrityError where it must be unique and is not."""
        self._connection.execute(table.insert(), values)

    def sql(self, text: str) -> Any:
        """A statement in the database's own words: its first row where it has one."""
        result = self._connection.exec_driver_sql(text)
        return result.first() if result.returns_rows else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One writer among all processes. Leaving it commits, durably; an error undoes all of it."""
        with self.plain_errors():
            self.lock()
            try:
                yield
                self.commit()
            except BaseException:
                with suppress(SQLAlchemyError):
                    self.sql("ROLLBACK")
                raise

    def lock(self) -> None:
        self.sql(self.begin)

    def commit(self) -> None:
        self.sql("COMMIT")

    @contextmanager
    def plain_errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, UnicodeError, OSError) as error:
            found = error.orig if isinstance(error, DBAPIError) else error
            words = self.censored(" ".join(str(found).split()))
            rule = "the ledger must be readable and writable"
            raise StorageError(f"{rule}, got {words}; {self.remedy()}") from None

    def censored(self, words: str) -> str:
        """`words` without what must not be shown."""
        return words

    def check_version(self, version: int) -> None:
        if version > SCHEMA_VERSION:
            rule = f"this dpft reads ledgers up to version {SCHEMA_VERSION}"
            refuse(rule, f"version {version}", "upgrade dpft")

    def make_key(self) -> None:
        """The key of the fingerprints: 256 bits of the operating system's, once for all."""
        self.insert(secret, name="hmac", value=secrets.token_bytes(32))
