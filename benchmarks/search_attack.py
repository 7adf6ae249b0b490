"""The privacy cost of publishing the number of the best trial of a search: an attack, computed exactly.

One trial is one release x of a sum of sensitivity 1 under Gaussian noise, at rate 1; its score is 1 where x exceeds a
threshold. K, the number of trials, is geometric; the score and release of the best trial are published. If its number
is published too, the bound of Papernot and Steinke (2022) does not hold. Printed are this attack, and the attack on
what dpft publishes. `python -m dpft.benchmarks.search_attack`
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr

from dpft.privacy.calibration.search_noise import calibrate_search
from dpft.spec import Budget

EPSILONS, MEANS, DELTA = (1.0, 3.0, 6.7), (2.0, 8.0, 64.0), 1e-6
_THRESHOLDS = np.linspace(-3.0, 7.0, 101)  # in units of the noise
_LEFT = 1e-18  # truncated mass of the distribution of K

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Attack:
    """A search at `noise` with geometric K of mean `mean`. `numbered`: the number of the best trial is published."""

    noise: float
    mean: float
    numbered: bool

    def delta(self, epsilon: float) -> float:
        """The largest delta over thresholds, for adding and removing a unit: no smaller delta holds."""
        return max(self._delta(epsilon, t * self.noise, swapped) for t in _THRESHOLDS for swapped in (False, True))

    def epsilon(self, delta: float) -> float:
        """The least epsilon that is consistent with the attack at `delta`."""
        if self.delta(0.0) <= delta:
            return 0.0
        return float(brentq(lambda e: math.log(max(self.delta(e), 1e-300) / delta), 0.0, 60.0, xtol=1e-3))

    def _delta(self, epsilon: float, threshold: float, swapped: bool) -> float:
        """The sum over outcomes of the positive part of P - e^epsilon Q; `swapped`: of Q - e^epsilon P."""
        (high1, low1), (high0, low0) = self._weights(threshold, 1.0), self._weights(threshold, 0.0)
        above = self._part(high1, high0, threshold, math.inf, epsilon, swapped)
        return above + self._part(low1, low0, -math.inf, threshold, epsilon, swapped)

    def _weights(self, threshold: float, centre: float) -> tuple[Weights, Weights]:
        """Weights of the density of a trial's release, for each outcome above the threshold and for the one below."""
        p = float(ndtr((centre - threshold) / self.noise))
        ends, miss = 1 / self.mean, 1 - p
        none = ends * miss / (1 - (1 - ends) * miss)  # E[miss^K]
        low = np.array([ends / (1 - (1 - ends) * miss)])
        if not self.numbered:
            return np.array([(1 - none) / p]), low
        most = math.ceil(math.log(_LEFT) / math.log1p(-ends)) if self.mean > 1 else 1
        each: Weights = np.power((1 - ends) * miss, np.arange(most))
        return each, low

    def _part(self, w1: Weights, w0: Weights, low: float, high: float, epsilon: float, swapped: bool) -> float:
        """The integral over x in (low, high) of the positive part of w1 f1 - e^epsilon w0 f0, or of the swapped one."""
        with np.errstate(divide="ignore", invalid="ignore"):
            edge = self.noise**2 * (np.log(w0 / w1) + (-epsilon if swapped else epsilon)) + 0.5
        edge = np.clip(np.nan_to_num(edge, nan=math.inf), low, high)
        start, end = (np.full_like(edge, low), edge) if swapped else (edge, np.full_like(edge, high))
        one, zero = (w * _mass(start, end, centre, self.noise) for w, centre in ((w1, 1.0), (w0, 0.0)))
        gained = zero - math.exp(epsilon) * one if swapped else one - math.exp(epsilon) * zero
        return float(np.maximum(gained, 0.0).sum())


def _mass(low: Weights, high: Weights, centre: float, noise: float) -> Weights:
    """Mass of a normal distribution between `low` and `high`, computed in the smaller tail."""
    a, b = (low - centre) / noise, (high - centre) / noise
    found: Weights = np.where(a > 0, ndtr(-a) - ndtr(-b), ndtr(b) - ndtr(a))
    return found


def main() -> None:
    """Print the table."""
    print("claimed at δ 1e-06 | mean K | σ | δ, number published | ε, number published | δ as now | ε as now")
    for epsilon in EPSILONS:
        for mean in MEANS:
            noise, claimed = calibrate_search(1.0, 1, Budget(epsilon, DELTA), mean)
            numbered, now = (Attack(noise, mean, published) for published in (True, False))
            published, ours = (f"{one.delta(claimed):.2g} | {one.epsilon(DELTA):.3g}" for one in (numbered, now))
            print(f"{claimed:.4g} | {mean:g} | {noise:.4f} | {published} | {ours}", flush=True)


if __name__ == "__main__":
    main()
