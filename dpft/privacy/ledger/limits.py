"""Limits of populations: whether a run still fits, and if not, which run would."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from dpft.privacy.ledger.composition import Spending
from dpft.privacy.ledger.storage.entries import Limit, Reservation, Search
from dpft.privacy.ledger.storage.errors import LedgerError

_ROUNDS = 14  # of bisection: finds the noise to a thousandth
_MOST_NOISE = 1e4  # times the planned noise; a run that needs more does not fit


class OverLimit(LedgerError):
    """A run that would exceed a limit of its population."""


@dataclass(frozen=True)
class Decision:
    """All inputs of a decision: the same inputs give the same decision."""

    spent: Spending
    terms: Reservation | Search
    limits: tuple[Limit, ...]
    title: str
    unit: str

    @property
    def note(self) -> str | None:
        """A warning if the run would leave its population without a bound; None if not, or if a limit forbids it."""
        together = self.spent.plus(self.terms, self.unit)
        if self.limits or len(together.units) < 2:
            return None
        return (
            f"the runs on the population {self.title} protect different units, {' and '.join(sorted(together.units))}: "
            "their losses do not add up, so that the ledger will have no bound on what they spend together; pass the "
            "--unit of the others to keep one"
        )

    def check(self) -> None:
        """Raise OverLimit if a limit would be exceeded. Takes seconds if there is a limit."""
        together = self.spent.plus(self.terms, self.unit)
        if self.limits and len(together.units) > 1:
            rule = f"all runs on the population {self.title}, which has a limit, must protect the same unit"
            raise OverLimit(f"{rule}, got {' and '.join(sorted(together.units))}; pass the --unit of the others")
        for limit in self.limits:
            try:
                bound = together.bound(limit)
            except ArithmeticError as error:
                raise OverLimit(
                    f"all runs on the population {self.title}, which has a limit, must have a bound together, got none "
                    f"({error}); nothing more fits (dpft ledger show)"
                ) from None
            if bound > limit.epsilon:
                raise OverLimit(self._refusal(limit, together, bound))

    def _refusal(self, limit: Limit, together: Spending, bound: float) -> str:
        how = "the RDP filter, as runs may follow results" if together.adaptive(limit) else "composition"
        runs = f"{self.spent.runs} run{'' if self.spent.runs == 1 else 's'}"
        spent = f", of which ε {_up(self.spent.bound(limit))} is spent by {runs}" if self.spent else ""
        fits = self._what_fits(limit) if isinstance(self.terms, Reservation) else []
        remedy = f"pass {', or '.join(fits)}" if fits else "nothing more fits"
        return (
            f"all runs on the population {self.title} must stay within its limit of ε {limit.epsilon:g} at "
            f"δ {limit.delta:g}, got ε {_up(bound)} with this run by {how}{spent}; {remedy} (dpft ledger show)"
        )

    def _what_fits(self, limit: Limit) -> list[str]:
        """Flags that would fit: more noise for the same epochs, or fewer epochs at the same noise."""
        assert isinstance(self.terms, Reservation)
        terms, found = self.terms, []

        def fits(noise: float, steps: int) -> bool:
            asked = replace(terms, noise=noise, steps=steps, epsilon=_MOST_NOISE)  # epsilon: not known yet
            return self.spent.plus(asked, self.unit).quick(limit) <= limit.epsilon

        noise = _least(lambda n: fits(n, terms.steps), terms.noise, terms.noise * _MOST_NOISE)
        asked = noise and _asked(noise, terms, terms.steps)
        if asked:
            found.append(f"--epsilon {asked} (noise σ {noise:.3g} instead of {terms.noise:.3g})")
        steps = _most(lambda k: fits(terms.noise, k), terms.steps)
        epochs = _down(steps * terms.rate)
        asked = epochs and _asked(terms.noise, terms, max(1, math.ceil(float(epochs) / terms.rate)))
        if asked:
            found.append(f"--epochs {epochs} --epsilon {asked} (the same σ)")
        return found


def _asked(noise: float, terms: Reservation, steps: int) -> str:
    """An --epsilon that is certain to be calibrated to at least `noise`; empty if it would be almost 0."""
    from dpft.privacy.accounting.accountants import epsilon_quick

    epsilon, _ = epsilon_quick(noise, terms.rate, steps, terms.delta)
    return _down(epsilon * 0.999)


def _least(fits: Callable[[float], bool], low: float, high: float) -> float:
    """About the least noise that fits, from above; 0 if none fits."""
    if not fits(high):
        return 0.0
    for _ in range(_ROUNDS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _most(fits: Callable[[int], bool], steps: int) -> int:
    """The most steps below `steps` that fit; 0 if none fit."""
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _down(value: float) -> str:
    """Rounded down to three digits; empty below 0.01."""
    if value < 0.01:
        return ""
    scale = 10.0 ** (2 - math.floor(math.log10(value)))
    return f"{math.floor(value * scale) / scale:g}"


def _up(value: float) -> str:
    scale = 10.0 ** (3 - math.floor(math.log10(max(value, 1e-9))))
    return f"{math.ceil(value * scale) / scale:g}"
