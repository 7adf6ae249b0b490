"""The privacy ledger: what all runs of a team have reserved, released and may still release."""

from __future__ import annotations

from dpft.privacy.ledger.ledger import Ledger
from dpft.privacy.ledger.limits import OverLimit
from dpft.privacy.ledger.population_match import DataIdentity
from dpft.privacy.ledger.storage.entries import Event, Limit, Reservation, Search
from dpft.privacy.ledger.storage.errors import LedgerError, StorageError
from dpft.privacy.ledger.storage.hash_chain import GENESIS
from dpft.privacy.ledger.storage.location import default_ledger_place, ledger_exists, written

__all__ = [
    "GENESIS", "DataIdentity", "Event", "Ledger", "LedgerError", "Limit", "OverLimit", "Reservation", "Search",
    "StorageError", "default_ledger_place", "ledger_exists", "written",
]  # fmt: skip
