"""The privacy cost of a comparison: all cells on one population composed, never the sum of their epsilons."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dpft.data.examples import Examples
from dpft.errors import UserError
from dpft.privacy.ledger import Ledger, OverLimit, Reservation, Search
from dpft.privacy.ledger.composition import Spending
from dpft.privacy.ledger.populations import Population
from dpft.privacy.ledger.storage.fingerprints import Sketch

Terms = Reservation | Search


@dataclass(frozen=True)
class PendingCharges:
    """What will be charged for `rows`: the `terms` of each private cell without a run, the unit, the smallest delta."""

    task: str
    rows: Examples
    unit: str
    delta: float
    terms: tuple[Terms, ...]


@dataclass(frozen=True)
class Charge:
    """The cost of `cells` on one population, as epsilons at `delta`.

    epsilon: the cells alone. together: with all earlier runs, by composition. filter: with all earlier runs, by the RDP
    filter, which holds also where runs were chosen after results. The last two are None where the earlier runs have no
    joint bound; `reason` says why.
    """

    tasks: tuple[str, ...]
    population: str | None
    cells: int
    delta: float
    epsilon: float
    together: float | None
    filter: float | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "tasks": list(self.tasks)}


def charges(pending: Sequence[PendingCharges], book: Ledger | None, name: str | None) -> list[Charge]:
    """One charge for each population. Raises OverLimit where all cells together would exceed a limit.

    `book`: None where there is no ledger yet, so nothing is spent. `name`: the population named for all cells.
    """
    return [_charge(group, book, name) for group in _grouped([bill for bill in pending if bill.terms], name)]


def _grouped(pending: Iterable[PendingCharges], name: str | None) -> list[list[PendingCharges]]:
    """Group bills by population: one group where it is named, else by matching texts."""
    key = secrets.token_bytes(32)
    groups: list[tuple[list[Sketch], list[PendingCharges]]] = []
    for bill in pending:
        own, apart = Sketch.of(key, bill.rows.texts, bill.rows.pairs), []
        merged = ([own], [bill])
        for sketches, others in groups:
            if name is not None or any(own.matches(known) for known in sketches):
                merged = ([*sketches, *merged[0]], [*others, *merged[1]])
            else:
                apart.append((sketches, others))
        groups = [*apart, merged]
    return [found for _, found in groups]


def _populations(pending: Sequence[PendingCharges], book: Ledger, name: str | None) -> dict[str, Population]:
    """The populations of the ledger that match the rows, by id."""
    view = book.view()
    identities = [book.data_identity(bill.rows.texts, bill.rows.pairs, name, bill.unit) for bill in pending]
    return {one.id: one for data_identity in identities for one in data_identity.matched(view).populations(view)}


def _charge(pending: list[PendingCharges], book: Ledger | None, name: str | None) -> Charge:
    populations = {} if book is None else _populations(pending, book, name)
    spent = Spending()
    for one in populations.values():
        for run in one.runs:
            spent = spent.plus(run.terms, run.unit, run.steps) if run.steps else spent
    alone, together, count = Spending(), spent, 0
    for bill in pending:
        for terms in bill.terms:
            alone, together, count = alone.plus(terms, bill.unit), together.plus(terms, bill.unit), count + 1
    title = " + ".join(one.title for one in populations.values()) or None
    for limit in (limit for one in populations.values() for limit in one.limits):
        bound = together.bound(limit)
        if bound > limit.epsilon:
            raise OverLimit(
                f"all runs on the population {title} must stay within its limit of ε {limit.epsilon:g} at δ "
                f"{limit.delta:g}, got ε {bound:.4g} with these {count} cells; pass fewer cells or smaller --epsilons "
                "(dpft ledger show)"
            )
    delta = min(bill.delta for bill in pending)
    if len(together.units) > 1:
        found = " and ".join(sorted(together.units))
        raise UserError(
            f"all cells on the same data must protect the same unit, got {found}; pass the --unit of others"
        )
    epsilon = alone.composition(delta)[0]
    tasks = tuple(dict.fromkeys(bill.task for bill in pending))
    try:
        both = epsilon if not spent else together.composition(delta)[0]
        return Charge(tasks, title, count, delta, epsilon, both, together.filter(delta))
    except ArithmeticError as error:
        return Charge(tasks, title, count, delta, epsilon, None, None, str(error))
