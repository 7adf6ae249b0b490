"""Upper bounds on epsilon by Renyi DP (`dp-accounting`): loose, but without grid and FFT."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant, compute_epsilon, rdp_privacy_accountant
from scipy.special import gammaln

from dpft.privacy.accounting.rounding import StepGroup, quiet, round_up

# More than the default orders, for a tiny epsilon: the optimal order is near 2 log(1/delta) / epsilon.
ORDERS = (*rdp_privacy_accountant.DEFAULT_RDP_ORDERS, 2048, 4096, 8192, 16384)
# Few, because each one costs `adaptive_rdp` a share of delta. order - 1 grows by a factor of about 1.6.
FILTER_ORDERS = (1.3, 1.5, 1.8, 2.2, 2.8, 3.6, 4.8, 6.6, 9.2, 13, 19, 28, 42, 63, 128, 256, 512, 1024, 2048)


def epsilon_rdp(noise: float, rate: float, steps: int, delta: float) -> float:
    """The bound of the best order (Mironov et al. 2019; Canonne et al. 2020, proposition 12)."""
    return heterogeneous_rdp([(noise, rate, steps)], delta)


def heterogeneous_rdp(parts: Sequence[StepGroup], delta: float) -> float:
    """epsilon_rdp of the composition of `parts`: Renyi divergences add up (Mironov 2017, proposition 1)."""
    return epsilon_of_divergences(_sum(parts, ORDERS), delta, ORDERS)


def adaptive_rdp(parts: Sequence[StepGroup], delta: float) -> float:
    """A bound for parts that are chosen one by one, after seeing earlier releases: an RDP filter over several orders.

    Let L be the privacy loss so far and r_a the sum of divergences at order a. Then exp((a - 1) (L - r_a)) is a
    supermartingale whatever is chosen (Feldman and Zrnic 2021, theorem 3.1; Lecuyer 2021). This proves the filter for
    one order that is fixed beforehand. Here the best order depends on the releases, so each of the K orders gets
    delta / K: the sum of the K supermartingales is a supermartingale of mean at most K, and bounds the one that is
    used in the end. If the runs stop, by any rule, before this bound passes epsilon, they are (epsilon, delta)-DP
    together. (`heterogeneous_rdp` does not promise this.)
    """
    return epsilon_of_divergences(_sum(parts, FILTER_ORDERS), delta / len(FILTER_ORDERS), FILTER_ORDERS)


def rdp_over(noise: float, rate: float, grid: Sequence[int], delta: float) -> list[float]:
    """epsilon_rdp after each number of steps in `grid`."""
    one = one_step(noise, rate, ORDERS)
    return [epsilon_of_divergences(steps * one, delta, ORDERS) for steps in grid]


def _sum(parts: Sequence[StepGroup], orders: tuple[float, ...]) -> Any:
    return np.sum([steps * one_step(noise, rate, orders) for noise, rate, steps in parts], axis=0)


@functools.lru_cache(maxsize=256)  # runs in a ledger and cells of a comparison often share these
def one_step(noise: float, rate: float, orders: tuple[float, ...]) -> Any:
    """Renyi divergence of one step at each order, rounded up; inf if the package found no positive one."""
    accountant = RdpAccountant(orders)
    with quiet():
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
        # Rounding of its sums of binomial terms: relative, and absolute through the logarithms of the binomials.
        lost = 16 * np.finfo(np.float64).eps * (1 + gammaln(np.add(orders, 1))) / np.subtract(orders, 1)
        found = np.where(accountant.rdp > 0, accountant.rdp * (1 + 1e-12) + lost, np.inf)
    found.flags.writeable = False
    return found


def epsilon_of_divergences(divergences: Any, delta: float, orders: Sequence[float]) -> float:
    """The epsilon of the best order. The package takes a divergence <= 0 for epsilon 0, so such orders are dropped."""
    sound = [(a, r) for a, r in zip(orders, divergences, strict=True) if r > 0 and math.isfinite(r)]
    if not sound:
        raise ArithmeticError("no Renyi order gave a positive, finite divergence")
    with quiet():
        epsilon, _ = compute_epsilon([a for a, _ in sound], [r for _, r in sound], delta)
    return round_up(epsilon)
