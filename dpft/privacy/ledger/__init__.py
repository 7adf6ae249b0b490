"""The privacy ledger: what was reserved, released and may still be released, for all runs of a team."""

from __future__ import annotations

from dpft.privacy.ledger._errors import LedgerError, StorageError
from dpft.privacy.ledger.book import Ledger
from dpft.privacy.ledger.chain import GENESIS
from dpft.privacy.ledger.claim import Claim
from dpft.privacy.ledger.entries import Event, Limit, Reservation, Search
from dpft.privacy.ledger.limits import OverLimit
from dpft.privacy.ledger.place import default_ledger_place, is_there, written

__all__ = [
    "GENESIS", "Claim", "Event", "Ledger", "LedgerError", "Limit", "OverLimit", "Reservation", "Search", "StorageError",
    "default_ledger_place", "is_there", "written",
]  # fmt: skip
