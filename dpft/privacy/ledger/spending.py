"""What the runs of a population have spent together: never a sum of their epsilons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from dpft.privacy.ledger.entries import Limit, Reservation, Search
from dpft.privacy.ledger.populations import Population

COMPOSITION = "all runs were planned before the first result was seen"
FILTER = "none: each run may have been chosen after seeing the results of those before it"


@dataclass(frozen=True)
class Spending:
    """Releases as (noise, rate, steps), sorted, equal ones together; and searches. What a decision rests on.

    `alone` is the (epsilon, delta) that a single run was reserved with, where there is nothing else: a bound already.
    """

    releases: tuple[tuple[float, float, int], ...] = ()
    searches: tuple[Search, ...] = ()
    runs: int = 0
    alone: tuple[float, float] | None = None
    units: frozenset[str] = frozenset()

    @classmethod
    def of(cls, population: Population | None) -> Spending:
        """All of a population's: reserved steps count until their run is settled."""
        spent = cls()
        for run in population.runs if population else ():
            if run.steps:
                spent = spent.plus(run.terms, run.unit, run.steps)
        return spent

    def plus(self, terms: Reservation | Search, unit: str, steps: int | None = None) -> Spending:
        """With one more run or search; `steps`: of the run's, where not all of them count."""
        runs, units = self.runs + 1, self.units | {unit}
        if isinstance(terms, Search):
            searches = tuple(sorted((*self.searches, terms), key=lambda s: s.run))
            return Spending(self.releases, searches, runs, None, units)
        added = (terms.noise, terms.rate, terms.steps if steps is None else steps)
        alone = (terms.epsilon, terms.delta) if runs == 1 else None
        return Spending(_merged([*self.releases, added]), self.searches, runs, alone, units)

    def __bool__(self) -> bool:
        return self.runs > 0

    def composition(self, delta: float) -> tuple[float, str]:
        """An upper bound where all was planned beforehand, and the accountant that gave it. Takes seconds."""
        from dpft.privacy.accountants import RDP
        from dpft.privacy.renyi import _ORDERS, _epsilon
        from dpft.privacy.segments import Segment, epsilon_of

        self._check_unit()
        if not self.runs:
            return 0.0, "nothing spent"
        if self.alone is not None and self.alone[1] == delta:
            return self.alone[0], "as planned"
        if self.searches:  # of the accountants only this one knows them
            return _epsilon(self._divergence(_ORDERS), delta, _ORDERS), RDP
        bound = epsilon_of([Segment(*release) for release in self.releases], delta)
        return bound.epsilon, bound.accountant

    def filter(self, delta: float) -> float:
        """An upper bound whatever was chosen after what: `renyi.adaptive_rdp`, with searches."""
        from dpft.privacy.renyi import FILTER_ORDERS, _epsilon

        self._check_unit()
        if not self.runs:
            return 0.0
        return _epsilon(self._divergence(FILTER_ORDERS), delta / len(FILTER_ORDERS), FILTER_ORDERS)

    def quick(self, limit: Limit) -> float:
        """`bound`, or a little more, in a second: to look for what would fit."""
        from dpft.privacy.losses import COARSE_CELLS, heterogeneous_pld
        from dpft.privacy.renyi import heterogeneous_rdp
        from dpft.privacy.rounding import attempt

        if self.adaptive(limit) or self.searches:
            return self.bound(limit)
        found = attempt(lambda: heterogeneous_pld(self.releases, limit.delta, COARSE_CELLS))
        return heterogeneous_rdp(self.releases, limit.delta) if found is None else found

    def bound(self, limit: Limit) -> float:
        """What `limit` is held against: composition for one run alone or where all are planned, else the filter.

        The first run is nobody's choice after a result. Who decides by its result whether to run again is within
        (epsilon, 2 delta): delta where it stopped, and delta where it went on.
        """
        return self.filter(limit.delta) if self.adaptive(limit) else self.composition(limit.delta)[0]

    def adaptive(self, limit: Limit) -> bool:
        return self.runs > 1 and not limit.planned

    def _check_unit(self) -> None:
        """Losses of different units do not add up: what protects a person is no bound for an example alone."""
        if len(self.units) > 1:
            raise ArithmeticError(f"the runs protect different units: {', '.join(sorted(self.units))}")

    def _divergence(self, orders: Sequence[float]) -> Any:
        """Renyi divergences add (Mironov 2017, proposition 1); one that is not positive is no bound."""
        from dpft.privacy.search import search_rdp

        total = np.zeros(len(orders))
        for noise, rate, steps in self.releases:
            total = total + steps * _one_step_once(noise, rate, tuple(orders))
        for search in self.searches:
            total = total + search_rdp(replace(search, run="any"), orders)
        return total


@lru_cache(maxsize=256)  # a search for what fits asks again and again for the same
def _one_step_once(noise: float, rate: float, orders: tuple[float, ...]) -> Any:
    from dpft.privacy.renyi import _one_step

    return _one_step(noise, rate, orders)


def _merged(releases: Iterable[tuple[float, float, int]]) -> tuple[tuple[float, float, int], ...]:
    steps: dict[tuple[float, float], int] = {}
    for noise, rate, count in releases:
        steps[noise, rate] = steps.get((noise, rate), 0) + count
    return tuple((noise, rate, count) for (noise, rate), count in sorted(steps.items()))
