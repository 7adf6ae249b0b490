"""What the runs of a population have spent together, by composition: never the sum of their epsilons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from dpft.privacy.ledger.populations import Population
from dpft.privacy.ledger.storage.entries import SECRET, Limit, Reservation, Search

COMPOSITION = "all runs were planned before the first result was seen"
FILTER = "none: each run may have been chosen after seeing the results of those before it"
BROKEN = (
    "a search by an earlier version is among the runs: the hyper-parameters that it published tell the best trial's "
    "number, so its promise does not hold"
)
_FIRST = 0.05  # share of delta that pays for the choice to stop after the first run
Part = tuple[float, float, int]  # noise multiplier, sampling rate, steps


@dataclass(frozen=True)
class Spending:
    """Everything that a population's runs have spent, as needed to bound it.

    `releases`: (noise, rate, steps), sorted, equal ones merged. `searches`: random searches. `runs`: their number.
    `alone`: the (epsilon, delta) of the reservation if there is a single run and nothing else: already a bound.
    `units`: the units that the runs protect. `each`: every distinct run or search.
    """

    releases: tuple[tuple[float, float, int], ...] = ()
    searches: tuple[Search, ...] = ()
    runs: int = 0
    alone: tuple[float, float] | None = None
    units: frozenset[str] = frozenset()
    each: frozenset[Part | Search] = frozenset()

    @classmethod
    def of(cls, population: Population | None) -> Spending:
        """The spending of a population. Reserved steps count as spent until their run is settled."""
        spent = cls()
        for run in population.runs if population else ():
            if run.steps:
                spent = spent.plus(run.terms, run.unit, run.steps)
        return spent

    def plus(self, terms: Reservation | Search, unit: str, steps: int | None = None) -> Spending:
        """The spending with one more run or search. `steps`: how many of the run's steps count (None: all)."""
        runs, units = self.runs + 1, self.units | {unit}
        if isinstance(terms, Search):
            searches = tuple(sorted((*self.searches, terms), key=lambda s: s.run))
            return Spending(self.releases, searches, runs, None, units, self.each | {terms})
        added = (terms.noise, terms.rate, terms.steps if steps is None else steps)
        alone = (terms.epsilon, terms.delta) if runs == 1 else None
        return Spending(_merged([*self.releases, added]), self.searches, runs, alone, units, self.each | {added})

    def __bool__(self) -> bool:
        return self.runs > 0

    def composition(self, delta: float) -> tuple[float, str]:
        """An upper bound if all runs were planned beforehand, and the accountant that gave it. Takes seconds."""
        from dpft.privacy.accounting.accountants import RDP

        self._check_unit()
        if not self.runs:
            return 0.0, "nothing spent"
        if self.alone is not None and self.alone[1] == delta:
            return self.alone[0], "as planned"
        if self.searches:  # only RDP can account for searches
            return self._by_rdp(delta), RDP
        return self._by_all_accountants(delta)

    def filter(self, delta: float) -> float:
        """An upper bound even if runs were chosen after earlier results: `adaptive_rdp`, with searches."""
        from dpft.privacy.accounting.rdp import FILTER_ORDERS, epsilon_of_divergences

        self._check_unit()
        if not self.runs:
            return 0.0
        return epsilon_of_divergences(self._divergence(FILTER_ORDERS), delta / len(FILTER_ORDERS), FILTER_ORDERS)

    def quick(self, limit: Limit) -> float:
        """`bound`, or slightly more, within a second: for finding what would fit."""
        return self.bound(limit) if self.adaptive(limit) else self.composition_quickly(limit.delta)

    def composition_quickly(self, delta: float) -> float:
        """`composition`, or slightly more, in this process: by PLD, or by RDP if PLD fails or there are searches."""
        found = None if self.searches else _by_pld(self.releases, delta)
        return self._by_rdp(delta) if found is None else found

    def _by_all_accountants(self, delta: float) -> tuple[float, str]:
        from dpft.privacy.accounting.segments import Segment, epsilon_of

        bound = epsilon_of([Segment(*release) for release in self.releases], delta)
        return bound.epsilon, bound.accountant

    def _by_rdp(self, delta: float) -> float:
        from dpft.privacy.accounting.rdp import ORDERS, epsilon_of_divergences

        return epsilon_of_divergences(self._divergence(ORDERS), delta, ORDERS)

    def bound(self, limit: Limit) -> float:
        """The bound that is compared with `limit`: composition for a single run or for planned runs, else the filter.

        The first run is not chosen after a result, so composition suffices for it. Whoever then decides by its result
        whether to run again pays delta twice: once for stopping and once for going on. So from the second run on the
        filter gets 95 % of delta, and each run by itself, whichever was first, must stay within the limit at the rest.
        """
        if not self.adaptive(limit):
            return self.composition(limit.delta)[0]
        alone = [_alone(one, limit.delta * _FIRST) for one in self.each]
        return max(self.filter(limit.delta * (1 - _FIRST)), *alone)

    def adaptive(self, limit: Limit) -> bool:
        return self.runs > 1 and not limit.planned

    def _check_unit(self) -> None:
        """Raise ArithmeticError if units differ (their losses do not compose) or a search's promise does not hold."""
        if len(self.units) > 1:
            raise ArithmeticError(f"the runs protect different units: {', '.join(sorted(self.units))}")
        if any(search.draws != SECRET for search in self.searches):
            raise ArithmeticError(BROKEN)

    def _divergence(self, orders: Sequence[float]) -> Any:
        """Renyi divergences of everything spent, which add up (Mironov 2017, proposition 1)."""
        from dpft.privacy.accounting.random_search import search_rdp
        from dpft.privacy.accounting.rdp import one_step

        total = np.zeros(len(orders))
        for noise, rate, steps in self.releases:
            total = total + steps * one_step(noise, rate, tuple(orders))
        for search in self.searches:
            total = total + search_rdp(replace(search, run="any"), orders)
        return total


@lru_cache(maxsize=256)  # runs that ask for the same are refused with the same offer
def _by_pld(releases: tuple[Part, ...], delta: float) -> float | None:
    from dpft.privacy.accounting.pld import COARSE_CELLS, heterogeneous_pld
    from dpft.privacy.accounting.rounding import attempt

    return attempt(lambda: heterogeneous_pld(releases, delta, COARSE_CELLS))


@lru_cache(maxsize=256)  # finding what fits needs the same values again and again
def _alone(one: Part | Search, delta: float) -> float:
    """Epsilon of a single run or search."""
    searched = isinstance(one, Search)
    spent = Spending(searches=(one,), runs=1) if searched else Spending((one,), runs=1)  # type: ignore[arg-type]
    return spent.composition_quickly(delta)


def _merged(releases: Iterable[tuple[float, float, int]]) -> tuple[tuple[float, float, int], ...]:
    steps: dict[tuple[float, float], int] = {}
    for noise, rate, count in releases:
        steps[noise, rate] = steps.get((noise, rate), 0) + count
    return tuple((noise, rate, count) for (noise, rate), count in sorted(steps.items()))
