"""Which database a ledger's place names."""

from __future__ import annotations

from pathlib import Path

from dpft.privacy.ledger.storage.database import Store
from dpft.privacy.ledger.storage.location import is_url


def opened(place: Path | str) -> Store:
    """The ledger at a path or a URL: SQLite or PostgreSQL, whose driver is loaded only then."""
    if isinstance(place, str) and is_url(place):
        from dpft.privacy.ledger.storage.postgres import PostgresStore

        return PostgresStore(place)
    from dpft.privacy.ledger.storage.sqlite import SqliteStore

    return SqliteStore(Path(place).expanduser())
