"""What a comparison will cost: all its cells on one population together, never the sum of their epsilons."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dpft.data.examples import Rows
from dpft.errors import UserError
from dpft.privacy.ledger import Ledger, OverLimit, Reservation, Search
from dpft.privacy.ledger.composition import Spending
from dpft.privacy.ledger.populations import Population
from dpft.privacy.ledger.storage.fingerprints import Sketch

Terms = Reservation | Search


@dataclass(frozen=True)
class Bill:
    """What is to be charged for rows: `terms` of each private cell that has no run yet, its unit and least delta."""

    task: str
    rows: Rows
    unit: str
    delta: float
    terms: tuple[Terms, ...]


@dataclass(frozen=True)
class Charge:
    """Epsilons at `delta`: of `cells` alone, with what is spent already, and that whatever was chosen after what.

    The last two are None where the runs before have no bound together; `reason` says why.
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


def charges(bills: Sequence[Bill], book: Ledger | None, name: str | None) -> list[Charge]:
    """One charge for each population. Raises OverLimit where all of it together would exceed a limit.

    `book` None: there is no ledger yet, so that nothing is spent. `name`: the population that is named for all.
    """
    return [_charge(group, book, name) for group in _grouped([bill for bill in bills if bill.terms], name)]


def _grouped(bills: Iterable[Bill], name: str | None) -> list[list[Bill]]:
    """Bills for the same people together: by their name, else as far as their texts tell."""
    key = secrets.token_bytes(32)
    groups: list[tuple[list[Sketch], list[Bill]]] = []
    for bill in bills:
        own, apart = Sketch.of(key, bill.rows.texts, bill.rows.pairs), []
        merged = ([own], [bill])
        for sketches, others in groups:
            if name is not None or any(own.matches(known) for known in sketches):
                merged = ([*sketches, *merged[0]], [*others, *merged[1]])
            else:
                apart.append((sketches, others))
        groups = [*apart, merged]
    return [found for _, found in groups]


def _populations(bills: Sequence[Bill], book: Ledger, name: str | None) -> dict[str, Population]:
    """Those of the ledger that the rows are known to be of."""
    view = book.view()
    identities = [book.data_identity(bill.rows.texts, bill.rows.pairs, name, bill.unit) for bill in bills]
    return {one.id: one for data_identity in identities for one in data_identity.matched(view).populations(view)}


def _charge(bills: list[Bill], book: Ledger | None, name: str | None) -> Charge:
    populations = {} if book is None else _populations(bills, book, name)
    spent = Spending()
    for one in populations.values():
        for run in one.runs:
            spent = spent.plus(run.terms, run.unit, run.steps) if run.steps else spent
    alone, together, count = Spending(), spent, 0
    for bill in bills:
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
    delta = min(bill.delta for bill in bills)
    if len(together.units) > 1:
        found = " and ".join(sorted(together.units))
        raise UserError(
            f"all cells on the same data must protect the same unit, got {found}; pass the --unit of others"
        )
    epsilon = alone.composition(delta)[0]
    tasks = tuple(dict.fromkeys(bill.task for bill in bills))
    try:
        both = epsilon if not spent else together.composition(delta)[0]
        return Charge(tasks, title, count, delta, epsilon, both, together.filter(delta))
    except ArithmeticError as error:
        return Charge(tasks, title, count, delta, epsilon, None, None, str(error))
