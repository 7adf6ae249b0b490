"""Ledgers on both databases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import postgres_server


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    with postgres_server.running() as url:
        yield url


@pytest.fixture
def database(server: str) -> Iterator[str]:
    """The URL of an empty database."""
    import psycopg

    name = f"test_{os.urandom(4).hex()}"
    plain = server.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as raw:
        raw.execute(f"CREATE DATABASE {name}".encode())
    yield server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(plain, autocommit=True) as raw:
        raw.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new ledger may lie: a file, then a database."""
    if request.param == "sqlite":
        return str(tmp_path / "ledger.sqlite")
    url: str = request.getfixturevalue("database")
    return url


@pytest.fixture
def change(place: str) -> Callable[..., None]:
    """Change the tables of `place` behind the ledger's back, its triggers taken off."""

    def run(*statements: str) -> None:
        import sqlite3

        if "://" not in place:
            with sqlite3.connect(place) as raw:
                for table in ("entry", "secret", "sketch"):
                    for kind in ("update", "delete"):
                        raw.execute(f"DROP TRIGGER IF EXISTS {table}_no_{kind}")
                for statement in statements:
                    raw.execute(statement)
            raw.close()
            return
        import psycopg

        with psycopg.connect(place.replace("+psycopg", ""), autocommit=True) as server:
            server.execute("SET search_path = dpft")
            for table in ("entry", "secret", "sketch"):
                server.execute(f"DROP TRIGGER IF EXISTS {table}_append_only ON {table}".encode())
            for statement in statements:
                server.execute(statement.encode())

    return run
