"""Open the database of a ledger."""

from __future__ import annotations

from pathlib import Path

from dpft.privacy.ledger.storage.database import Store
from dpft.privacy.ledger.storage.location import is_url


def open_store(place: Path | str) -> Store:
    """Open the ledger at a path (SQLite) or a URL (PostgreSQL, whose driver is imported only then)."""
    if isinstance(place, str) and is_url(place):
        from dpft.privacy.ledger.storage.postgres import PostgresStore

        return PostgresStore(place)
    from dpft.privacy.ledger.storage.sqlite import SqliteStore

    return SqliteStore(Path(place).expanduser())
