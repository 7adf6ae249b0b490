"""What a population has spent, by both bounds, each with what it needs to be true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from dpft.privacy.ledger.composition import COMPOSITION, FILTER, Spending
from dpft.privacy.ledger.populations import Population
from dpft.privacy.ledger.storage.entries import Reservation

T = TypeVar("T")


@dataclass(frozen=True)
class Summary:
    """Epsilons at `delta` of all `runs` together; None where there is no bound, and `reason` says why."""

    id: str
    runs: int
    delta: float
    composition: float | None
    accountant: str
    filter: float | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict for privacy.json, each bound with its assumption; no names, for cards are made public."""
        return {
            "id": self.id,
            "runs": self.runs,
            "delta": self.delta,
            "composition": {"epsilon": self.composition, "assumes": COMPOSITION, "accountant": self.accountant},
            "filter": {"epsilon": self.filter, "assumes": FILTER},
            "reason": self.reason,
        }


def summarize(population: Population, delta: float) -> Summary:
    """All that is charged to `population`, at `delta`: reserved steps count until their run is settled."""
    spent = Spending.of(population)
    (composed, why), (filtered, why_not) = _bound(lambda: spent.composition(delta)), _bound(lambda: spent.filter(delta))
    epsilon, accountant = composed or (None, "none answered")
    return Summary(population.id, spent.runs, delta, epsilon, accountant, filtered, why or why_not)


def own_delta(population: Population) -> float | None:
    """The delta to show a population's spending at: its limit's, else the smallest of its runs'."""
    limits = [limit.delta for limit in population.limits]
    runs = [run.terms.delta for run in population.runs if isinstance(run.terms, Reservation)]
    return min(limits or runs, default=None)


def _bound(bound: Callable[[], T]) -> tuple[T | None, str | None]:
    """What `bound` says, or why it says nothing."""
    try:
        return bound(), None
    except ArithmeticError as error:
        return None, str(error)
