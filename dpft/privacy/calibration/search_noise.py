"""The noise multiplier at which a whole random search stays within a budget."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

from scipy.optimize import brentq

from dpft.errors import UserError
from dpft.privacy.accounting.random_search import search_rdp
from dpft.privacy.accounting.rdp import ORDERS, epsilon_of_divergences
from dpft.privacy.calibration import cache
from dpft.privacy.calibration.calibrate import NOISE_LIMITS, calibrate
from dpft.privacy.ledger.storage.entries import Search
from dpft.spec import Budget

ACCOUNTANT = "RDP of a random search (Papernot and Steinke 2022)"
SHAPE = 1.0  # geometric K: never 0, and cheaper than a Poisson K from about six expected runs
_STRIDE, _WITHIN = 0.2, 5e-4  # in the logarithm of the noise


def calibrate_search(rate: float, steps: int, budget: Budget, mean: float, shape: float = SHAPE) -> tuple[float, float]:
    """The least noise (to about 0.2 %) at which releasing the best of K runs is within `budget`, and its bound.

    `mean` and `shape`: of the distribution of K (`Search`). Raises UserError if no noise within NOISE_LIMITS reaches
    the budget. A cached result is verified.
    """

    def bound(noise: float) -> float:
        search = Search("any", rate, noise, steps, float(mean), shape)
        return float(epsilon_of_divergences(search_rdp(search, ORDERS), budget.delta, ORDERS))

    key = f"{cache.key(rate, steps, budget)} best of {mean!r} {shape!r}"
    known = cache.read(key)
    if known is not None and known[0] > 0 and 0.98 * budget.epsilon <= bound(known[0]) <= budget.epsilon:
        return known[0], bound(known[0])
    noise = _least(bound, budget, calibrate(rate, steps, budget)[0])
    found = noise, bound(noise)
    if not 0 < found[1] <= budget.epsilon:
        raise _unreachable(budget)
    cache.write(key, (*found, ACCOUNTANT))
    return found


def _least(bound: Callable[[float], float], budget: Budget, start: float) -> float:
    """Raise the noise from that of one run until the bound is within the budget, then refine by root finding."""

    @functools.cache
    def excess(log_noise: float) -> float:
        return math.log(min(bound(math.exp(log_noise)), 1e9) / budget.epsilon)

    low = math.log(start)
    while excess(high := low + _STRIDE) > 0:
        low = high
        if low > math.log(NOISE_LIMITS[1]):
            raise _unreachable(budget)
    root = low if excess(low) <= 0 else brentq(excess, low, high, xtol=_WITHIN)
    return math.exp(root + 2 * _WITHIN)


def _unreachable(budget: Budget) -> UserError:
    return UserError(
        f"epsilon must be reachable by a search, got {budget.epsilon!r} at delta {budget.delta!r}; "
        "pass fewer --trials or a larger --epsilon"
    )
