"""What a run asks of the ledger: whose data these are, what they may still spend, and that its steps are theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpft.data.examples import Rows
from dpft.data.records import spelled
from dpft.errors import UserError
from dpft.privacy.ledger import Claim, Ledger, Reservation
from dpft.privacy.ledger.summary import summarize
from dpft.privacy.mechanism.plan import Plan
from dpft.tasks import Task


@contextlib.contextmanager
def opened(plan: Plan, place: str | Path) -> Iterator[Ledger | None]:
    """The ledger of a private plan; None for one that charges nothing."""
    if plan.budget is None:
        yield None
    else:
        with Ledger(place) as book:
            yield book


def claim(
    book: Ledger | None, plan: Plan, task: Task, population: str | None, unit: str
) -> tuple[Claim | None, str | None]:
    """Whose data these are, and what should be known of that before anything is spent.

    Refuses what would exceed their limit, before anything costs time or privacy.
    """
    if book is None:
        if population is not None:
            raise UserError("only a private run is charged to a population, got --non-private; drop --population")
        return None, None
    found = book.claim(task.train.texts, task.train.pairs, population, unit)
    return found, book.check(terms(plan, "planned"), found)


def terms(plan: Plan, run: str) -> Reservation:
    """All that `run` may release, as the ledger holds it."""
    assert plan.budget is not None
    assert plan.epsilon_upper is not None
    return Reservation(run, plan.rate, plan.noise, plan.steps, plan.budget.delta, plan.epsilon_upper)


def reserve(book: Ledger | None, plan: Plan, run: str, whose: Claim | None, rows: Rows) -> str:
    """Reserve a new run's steps on its data, `rows`. Returns the ledger's head, empty where nothing is private."""
    if book is None:
        return ""
    asked = asdict(terms(plan, run))
    book.reserve(asked.pop("run"), **asked, claim=whose, data=book.keyed(spelled(rows)))
    return book.head()


def is_reserved_for(book: Ledger, run: str, rows: Rows) -> bool:
    """Whether these very rows, in this order, are those that `run` was reserved for. Raises UserError where the
    reservation does not say."""
    known = book.data(run)
    if known is None:
        raise UserError(
            "a run resumes on rows that its reservation names, got one of an earlier version, which kept nothing to "
            "know them by; finish it with that version, or train again"
        )
    return known == book.keyed(spelled(rows))


def together(book: Ledger, plan: Plan, run: str) -> dict[str, Any] | None:
    """What all runs on the same population have spent, as of now; None for a run that was reserved without one."""
    assert plan.budget is not None
    population = book.view().holding(run)
    return None if population is None else summarize(population, plan.budget.delta).to_json()
