"""The location of a ledger: a file, or the URL of a PostgreSQL database. Passwords are never written or shown."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from dpft.privacy.ledger.storage.errors import refuse

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_DRIVER = "postgresql+psycopg"
_SECRET_KEYS = ("password", "sslpassword")  # libpq also reads them from the query of a URL


def default_ledger_place() -> Path | str:
    """DPFT_LEDGER, a path or a URL; else ledger.sqlite in the user's data folder."""
    chosen = os.environ.get("DPFT_LEDGER")
    if chosen and is_url(chosen):
        return chosen
    return Path(chosen).expanduser() if chosen else platformdirs.user_data_path("dpft") / "ledger.sqlite"


def is_url(place: object) -> bool:
    return isinstance(place, str) and "://" in place


def parsed(place: str) -> URL:
    """Parse a PostgreSQL URL. Raises LedgerError, which never quotes it, if it is not one."""
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
    """`place` in a form that may be stored: an absolute path, or a URL without its password."""
    if not (isinstance(place, str) and is_url(place)):
        return Path(place).expanduser().resolve()
    return shown(parsed(place))


def shown(url: URL) -> str:
    """The URL as text, without passwords."""
    bare = url._replace(password=None).difference_update_query(_SECRET_KEYS)
    return bare.render_as_string(hide_password=True)


def with_password(place: str) -> URL:
    """The URL, with the password of DPFT_LEDGER if that is the same URL. (libpq reads PGPASSWORD, ~/.pgpass.)"""
    url, chosen = parsed(place), default_ledger_place()
    if url.password is None and isinstance(chosen, str) and written(chosen) == shown(url):
        return parsed(chosen)
    return url


def ledger_exists(place: str | Path) -> bool:
    """False if the ledger's file is missing. True for a database, which can only be checked by opening it."""
    return is_url(place) or Path(place).is_file()
