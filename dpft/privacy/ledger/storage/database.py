"""The ledger's tables in SQLAlchemy: append-only, one writer at a time."""

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
BUSY_SECONDS = 30.0  # timeout of a writer for the lock; one charge holds it for milliseconds

_tables = MetaData()
# The database computes kind, run and step from the hashed body, so a lookup and the chain cannot disagree. The unique
# index on them stops two processes that resume the same run from both releasing the same step.
entry = Table(
    "entry", _tables,
    Column("seq", BigInteger, primary_key=True), Column("body", Text), Column("prev", Text), Column("hash", Text),
    Column("kind", Text), Column("run", Text), Column("step", Integer),
)  # fmt: skip
# Not in the chain, which refers to them by sha256: the key of the fingerprints, and the sketches made with it.
secret = Table("secret", _tables, Column("name", Text, primary_key=True), Column("value", LargeBinary))
sketch = Table("sketch", _tables, Column("digest", Text, primary_key=True), Column("keys", LargeBinary))
APPEND_ONLY = ("entry", "secret", "sketch")


class Store(ABC):
    """One connection to a ledger. What is written inside `writing` is durable if it exits without LedgerError."""

    narrowed = False  # whether other users could read the ledger until now
    begin: str  # SQL that begins an exclusive write transaction

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
        """Create the tables, or check and upgrade existing ones; make commits durable."""

    @abstractmethod
    def remedy(self) -> str:
        """Advice for the user if the database fails."""

    @abstractmethod
    def tidy(self) -> None:
        """Maintenance after many charges. Never raises, because they are already durable."""

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
        """Add a row. Raises sqlalchemy's IntegrityError if a unique value already exists."""
        self._connection.execute(table.insert(), values)

    def sql(self, text: str) -> Any:
        """Execute SQL text. Returns the first row, or None if it returns no rows."""
        result = self._connection.exec_driver_sql(text)
        return result.first() if result.returns_rows else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """An exclusive write transaction among all processes. Commits durably at the end; an error rolls it back."""
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
        """`words` without passwords."""
        return words

    def check_version(self, version: int) -> None:
        if version > SCHEMA_VERSION:
            rule = f"this dpft reads ledgers up to version {SCHEMA_VERSION}"
            refuse(rule, f"version {version}", "upgrade dpft")

    def make_key(self) -> None:
        """Create the key of the fingerprints, once: 256 bits from the operating system."""
        self.insert(secret, name="hmac", value=secrets.token_bytes(32))
