"""How a run uses the ledger: which population its data belong to, what may still be spent, and its reservation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpft.data.examples import Examples
from dpft.data.records import serialized
from dpft.errors import UserError
from dpft.privacy.ledger import DataIdentity, Ledger, Reservation
from dpft.privacy.ledger.summary import summarize
from dpft.privacy.mechanism.plan import Plan
from dpft.tasks import Task


@contextlib.contextmanager
def open_ledger(plan: Plan, place: str | Path) -> Iterator[Ledger | None]:
    """Open the ledger for a private plan; None for a plan without privacy."""
    if plan.budget is None:
        yield None
    else:
        with Ledger(place) as ledger:
            yield ledger


def data_identity(
    ledger: Ledger | None, plan: Plan, task: Task, population: str | None, unit: str
) -> tuple[DataIdentity | None, str | None]:
    """Match the data to their population. Returns the match and a warning for the user, each possibly None.

    Raises UserError if the run would exceed the population's limit, before anything costs time or privacy.
    """
    if ledger is None:
        if population is not None:
            raise UserError("only a private run is charged to a population, got --non-private; drop --population")
        return None, None
    found = ledger.data_identity(task.train.texts, task.train.pairs, population, unit)
    return found, ledger.check(reservation_terms(plan, "planned"), found)


def reservation_terms(plan: Plan, run: str) -> Reservation:
    """The reservation of `run`: everything that it may release."""
    assert plan.budget is not None
    assert plan.epsilon_upper is not None
    return Reservation(run, plan.rate, plan.noise, plan.steps, plan.budget.delta, plan.epsilon_upper)


def reserve(ledger: Ledger | None, plan: Plan, run: str, whose: DataIdentity | None, rows: Examples) -> str:
    """Reserve the steps of a new run on its data, `rows`. Returns the ledger's head; empty without privacy."""
    if ledger is None:
        return ""
    asked = asdict(reservation_terms(plan, run))
    ledger.reserve(asked.pop("run"), **asked, data_identity=whose, data=ledger.keyed(serialized(rows)))
    return ledger.head()


def is_reserved_for(ledger: Ledger, run: str, rows: Examples) -> bool:
    """Whether `run` was reserved for exactly these rows in this order.

    Raises UserError if the reservation does not record its rows.
    """
    known = ledger.data(run)
    if known is None:
        raise UserError(
            "a run's reservation must identify its rows, got one of an earlier version, which did not; "
            "finish it with that version, or train again"
        )
    return known == ledger.keyed(serialized(rows))


def spent_on_population(ledger: Ledger, plan: Plan, run: str) -> dict[str, Any] | None:
    """What all runs on the same population have spent so far; None if the run was reserved without a population."""
    assert plan.budget is not None
    population = ledger.view().holding(run)
    return None if population is None else summarize(population, plan.budget.delta).to_json()
