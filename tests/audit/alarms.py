"""Alarms of audits of sound paths, which are allowed at a stated risk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

Found = TypeVar("Found", bound=Collection[object])


def lasting(look: Callable[[], Found]) -> Found:
    """What the last of three audits found, none where one found nothing: a fault of the audit or of the path alarms
    each time, chance three times in a row at the third power of the risk."""
    found = look()
    for _ in range(2):
        if found:
            found = look()
    return found
