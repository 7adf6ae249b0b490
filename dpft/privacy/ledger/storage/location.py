"""Where a ledger lies: a file, or a PostgreSQL database by its URL. No password is ever written or shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from dpft.privacy.ledger.storage.errors import refuse

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_DRIVER = "postgresql+psycopg"
_SECRET_KEYS = ("password", "sslpassword")  # libpq takes them from a URL's query too


def default_ledger_place() -> Path | str:
    """DPFT_LEDGER, a path or a URL; else ledger.sqlite in the user's data folder."""
    chosen = os.environ.get("DPFT_LEDGER")
    if chosen and is_url(chosen):
        return chosen
    return Path(chosen).expanduser() if chosen else platformdirs.user_data_path("dpft") / "ledger.sqlite"


def is_url(place: object) -> bool:
    return isinstance(place, str) and "://" in place


def parsed(place: str) -> URL:
    """The URL that `place` spells. Raises LedgerError, without quoting it, where it spells none for PostgreSQL."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    remedy = f"pass a file's path or {_DRIVER}://USER@HOST/DATABASE"
    try:
        url = make_url(place)
    except (ArgumentError, ValueError):
        refuse("a ledger's URL must be one that can be read", "another", remedy)
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername=_DRIVER)
    if url.drivername != _DRIVER:
        refuse(f"a ledger's URL must begin with {_DRIVER}://", url.drivername, remedy)
    return url


def written(place: str | Path) -> str | Path:
    """`place` as it may be written down: an absolute path, or a URL without its password."""
    if not (isinstance(place, str) and is_url(place)):
        return Path(place).expanduser().resolve()
    return shown(parsed(place))


def shown(url: URL) -> str:
    """The URL without anything that opens a door."""
    bare = url._replace(password=None).difference_update_query(_SECRET_KEYS)
    return bare.render_as_string(hide_password=True)


def with_password(place: str) -> URL:
    """`place`, or DPFT_LEDGER where it is the same but for the password. (libpq reads PGPASSWORD, ~/.pgpass itself.)"""
    url, chosen = parsed(place), default_ledger_place()
    if url.password is None and isinstance(chosen, str) and written(chosen) == shown(url):
        return parsed(chosen)
    return url


def is_there(place: str | Path) -> bool:
    """False where a ledger's file is missing. A database can only be asked by opening it."""
    return is_url(place) or Path(place).is_file()
