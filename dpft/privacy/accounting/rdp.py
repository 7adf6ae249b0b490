"""Upper bounds on epsilon by Renyi divergences (`dp-accounting`): loose, but they need no grid and no FFT."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant, compute_epsilon, rdp_privacy_accountant
from scipy.special import gammaln

from dpft.privacy.accounting.rounding import Part, quiet, round_up

# Beyond the default orders, for a tiny epsilon: its optimal order is near 2 log(1/delta) / epsilon.
ORDERS = (*rdp_privacy_accountant.DEFAULT_RDP_ORDERS, 2048, 4096, 8192, 16384)
# Few, for each costs `adaptive_rdp` a share of delta: each less one is about 1.6 times the last less one.
FILTER_ORDERS = (1.3, 1.5, 1.8, 2.2, 2.8, 3.6, 4.8, 6.6, 9.2, 13, 19, 28, 42, 63, 128, 256, 512, 1024, 2048)


def epsilon_rdp(noise: float, rate: float, steps: int, delta: float) -> float:
    """The best order's bound (Mironov et al. 2019; Canonne et al. 2020, proposition 12)."""
    return heterogeneous_rdp([(noise, rate, steps)], delta)


def heterogeneous_rdp(parts: Sequence[Part], delta: float) -> float:
    """epsilon_rdp of `parts` one after the other: Renyi divergences add (Mironov 2017, proposition 1)."""
    return epsilon_of_divergences(_sum(parts, ORDERS), delta, ORDERS)


def adaptive_rdp(parts: Sequence[Part], delta: float) -> float:
    """A bound for parts chosen one by one, each after seeing the releases before it: an RDP filter of several orders.

    With loss L so far and r_a the divergences' sum at order a, exp((a - 1) (L - r_a)) is a supermartingale whatever
    is chosen (Feldman and Zrnic 2021, theorem 3.1; Lecuyer 2021): that proves one order fixed beforehand. Which order
    is best depends here on what was seen, so each of the K orders gets delta / K: the sum of all K supermartingales
    is one of mean K at most, and bounds the one that is read off at the end. Stop before this passes epsilon, by
    whatever rule, and the whole is (epsilon, delta)-DP. (`heterogeneous_rdp` does not promise this.)
    """
    return epsilon_of_divergences(_sum(parts, FILTER_ORDERS), delta / len(FILTER_ORDERS), FILTER_ORDERS)


def rdp_over(noise: float, rate: float, grid: Sequence[int], delta: float) -> list[float]:
    """epsilon_rdp after each number of steps of `grid`, for the price of one."""
    one = one_step(noise, rate, ORDERS)
    return [epsilon_of_divergences(steps * one, delta, ORDERS) for steps in grid]


def _sum(parts: Sequence[Part], orders: tuple[float, ...]) -> Any:
    return np.sum([steps * one_step(noise, rate, orders) for noise, rate, steps in parts], axis=0)


@functools.lru_cache(maxsize=256)  # the runs of a ledger, and the cells of a comparison, ask for the same again
def one_step(noise: float, rate: float, orders: tuple[float, ...]) -> Any:
    """One step's divergence at each order, rounded up; infinite where the package found none that is positive."""
    accountant = RdpAccountant(orders)
    with quiet():
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
        # Its sums of binomial terms round: by a part of themselves, and absolutely by the binomials' logarithms.
        lost = 16 * np.finfo(np.float64).eps * (1 + gammaln(np.add(orders, 1))) / np.subtract(orders, 1)
        found = np.where(accountant.rdp > 0, accountant.rdp * (1 + 1e-12) + lost, np.inf)
    found.flags.writeable = False
    return found


def epsilon_of_divergences(divergences: Any, delta: float, orders: Sequence[float]) -> float:
    """The best order's. The package reads a divergence that is not positive as epsilon 0: such an order is dropped."""
    sound = [(a, r) for a, r in zip(orders, divergences, strict=True) if r > 0 and math.isfinite(r)]
    if not sound:
        raise ArithmeticError("no Renyi order gave a positive, finite divergence")
    with quiet():
        epsilon, _ = compute_epsilon([a for a, _ in sound], [r for _, r in sound], delta)
    return round_up(epsilon)
