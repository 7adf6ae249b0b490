"""Errors of the ledger. After any of them, nothing may be released."""

from __future__ import annotations

from typing import NoReturn

from dpft.errors import UserError


class LedgerError(UserError):
    """The ledger refused an entry or could not make it durable: the caller must not release."""


class StorageError(LedgerError):
    """The ledger's file or database failed: a full disk, a lost connection."""


def refuse(rule: str, found: object, remedy: str) -> NoReturn:
    raise LedgerError(f"{rule}, got {found}; {remedy}")


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
