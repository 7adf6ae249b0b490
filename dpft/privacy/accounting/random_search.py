"""Random hyper-parameter search: the privacy cost of releasing the best of K runs, and the drawing of K.

Papernot and Steinke 2022, "Hyperparameter tuning with Renyi differential privacy": theorem 2 for negative binomial K,
theorem 6 for Poisson K, both through dp-accounting's RepeatAndSelectDpEvent.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
    ZCDpEvent,
)
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.special import gammaln

from dpft.errors import UserError
from dpft.privacy.accounting.rdp import ORDERS
from dpft.privacy.accounting.rounding import quiet
from dpft.privacy.ledger.storage.entries import Search
from dpft.privacy.randomness import Secret

_WORD = 2.0**-64
_MOST = 10_000_000  # largest K; a longer search would never end


def search_rdp(search: Search, orders: Sequence[float]) -> Any:
    """Renyi divergences of the whole search at `orders`, for adding or removing one unit; inf without a bound.

    More orders than requested are computed, because the theorems combine two orders.

    The package's sums of binomial terms have rounding errors. To cover them, the most that they may lose at any order
    is added to each run as a release with that zero-concentrated privacy loss rho (divergence rho a at order a), and
    the noise is lowered slightly.
    """
    every = tuple(sorted({*orders, *ORDERS}))
    rdp = _search_rdp(search.rate, search.noise, search.steps, search.mean, search.shape, every)
    found = rdp[[every.index(order) for order in orders]]
    return np.where(np.isfinite(found) & (found > 0), found, np.inf)


@functools.lru_cache(maxsize=256)  # calibration, ledger, card and audit of a search need the same
def _search_rdp(rate: float, noise: float, steps: int, mean: float, shape: float, orders: tuple[float, ...]) -> Any:
    at = np.asarray(orders, dtype=np.float64)
    lost = 16 * np.finfo(np.float64).eps * (1 + gammaln(at + 1)) / (at - 1)
    one = PoissonSampledDpEvent(rate, GaussianDpEvent(noise * (1 - 1e-12)))
    run = ComposedDpEvent([SelfComposedDpEvent(one, steps), ZCDpEvent(steps * float((lost / at).max()))])
    accountant = RdpAccountant(orders)
    with quiet():
        accountant.compose(RepeatAndSelectDpEvent(run, mean, shape))
    return accountant.rdp


def draw_runs(mean: float, shape: float, secret: Secret) -> int:
    """Draw K by inverting its distribution at a uniform number from `secret`. K must never be written or shown.

    A Poisson K may be 0: the search then releases nothing.
    """
    chance = (float(secret.words(1)[0]) + 0.5) * _WORD
    runs, log_mass, next_ratio = _first(mean, shape)
    while (chance := chance - math.exp(log_mass)) > 0 and runs < _MOST:
        log_mass += math.log(next_ratio(runs))
        runs += 1
    return runs


def _first(mean: float, shape: float) -> tuple[int, float, Any]:
    """The least K, its log probability, and a function k -> P(k + 1) / P(k)."""
    if not 1 <= mean < math.inf or not shape >= 0:
        raise UserError(
            f"a search needs a mean of at least 1 and a shape of 0 or more, got {mean}, {shape}; correct them"
        )
    if math.isinf(shape):
        return 0, -mean, lambda k: mean / (k + 1)
    if mean == 1:
        return 1, 0.0, lambda k: 1e-300
    gamma = _gamma(mean, shape)
    fall = 1 - gamma
    if shape == 0:
        return 1, math.log(fall / -math.log(gamma)), lambda k: fall * k / (k + 1)
    first = math.log(fall * shape) - math.log(math.expm1(-shape * math.log(gamma)))
    return 1, first, lambda k: fall * (k + shape) / (k + 1)


def _gamma(mean: float, shape: float) -> float:
    """The gamma at which the truncated negative binomial (definition 1) has this mean. It decreases with the mean."""

    def excess(log_gamma: float) -> float:
        gamma = math.exp(log_gamma)
        if shape == 0:
            return (1 / gamma - 1) / -log_gamma - mean
        return shape * (1 - gamma) / (gamma * -math.expm1(shape * log_gamma)) - mean

    return math.exp(brentq(excess, -700.0, -1e-9))
