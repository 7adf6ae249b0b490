"""Alarms of audits of sound paths, which are allowed at a stated risk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from dpft.audit.mechanism import checks
from dpft.audit.mechanism.driver import Mechanism
from dpft.inference.trained_model import Trained
from tests.audit.conftest import EXAMPLES

Found = TypeVar("Found", bound=Collection[object])


def lasting(look: Callable[[], Found]) -> Found:
    """What the last of three audits found, none where one found nothing: a fault of the audit or of the mechanism
    alarms each time, chance three times in a row at the third power of the risk."""
    found = look()
    for _ in range(2):
        if found:
            found = look()
    return found


def of_the_shipped_path(trained: Trained) -> list[tuple[str, float, float]]:
    """What the last of three audits of it found, each at a risk of 1e-4: name, value, upper limit."""

    def look() -> list[tuple[str, float, float]]:
        found = checks.checks(trained, Mechanism(), EXAMPLES, 8, 1e-4)
        return [(check.name, check.value, check.high) for check in found if not check.passed]

    return lasting(look)
