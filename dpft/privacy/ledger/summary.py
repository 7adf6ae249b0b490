"""What a population has spent, by both bounds, each with its assumption."""

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
    """Epsilon of all `runs` together at `delta`, by both bounds; None without a bound, and `reason` says why."""

    id: str
    runs: int
    delta: float
    composition: float | None
    accountant: str
    filter: float | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A plain dict for privacy.json, each bound with its assumption. No names, because cards are published."""
        return {
            "id": self.id,
            "runs": self.runs,
            "delta": self.delta,
            "composition": {"epsilon": self.composition, "assumes": COMPOSITION, "accountant": self.accountant},
            "filter": {"epsilon": self.filter, "assumes": FILTER},
            "reason": self.reason,
        }


def summarize(population: Population, delta: float) -> Summary:
    """Everything charged to `population`, at `delta`. Reserved steps count until their run is settled."""
    spent = Spending.of(population)
    (composed, why), (filtered, why_not) = _bound(lambda: spent.composition(delta)), _bound(lambda: spent.filter(delta))
    epsilon, accountant = composed or (None, "none answered")
    return Summary(population.id, spent.runs, delta, epsilon, accountant, filtered, why or why_not)


def own_delta(population: Population) -> float | None:
    """The delta at which to show a population's spending: the least of its limits, else of its runs; None without."""
    limits = [limit.delta for limit in population.limits]
    runs = [run.terms.delta for run in population.runs if isinstance(run.terms, Reservation)]
    return min(limits or runs, default=None)


def _bound(bound: Callable[[], T]) -> tuple[T | None, str | None]:
    """The value of `bound`, or the reason why there is none."""
    try:
        return bound(), None
    except ArithmeticError as error:
        return None, str(error)
