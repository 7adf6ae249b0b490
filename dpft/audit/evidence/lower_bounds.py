"""Lower bounds on epsilon from an attacker's correct guesses. Each holds with probability 1 - risk.

They bound the epsilon, at a given delta, of the attacked mechanism. All are pure functions of counts or scores. The
guesses must be fixed before the attacker sees who was a member.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from numpy.typing import NDArray
from scipy import stats
from scipy.special import ndtr, ndtri

MAX_EPSILON = 100.0  # the largest bound reported: at epsilon 100 nothing is private


def one_run(members: int, guesses: int, correct: int, delta: float, risk: float) -> float:
    """Bound from `correct` of `guesses` on `members` canaries, each included by a fair coin.

    Source: Steinke et al. 2023, theorem 5.2.
    """
    return _largest(lambda epsilon: one_run_p_value(members, guesses, correct, epsilon, delta) < risk)


def one_run_p_value(members: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Largest probability of so many correct guesses under (epsilon, delta)-DP (Steinke et al. 2023, theorem 5.2).

    P[W >= v] + 2 m delta max_i P[v - i <= W < v] / i, where W is Binomial(r, e^epsilon / (e^epsilon + 1)).
    """
    right = stats.binom(guesses, 1 / (1 + np.exp(-epsilon)))
    steps = np.arange(1, correct + 1)
    below = right.cdf(correct - 1) - right.cdf(correct - 1 - steps)
    worst = float((below / steps).max()) if correct else 0.0
    return min(1.0, float(right.sf(correct - 1)) + 2 * members * delta * worst)


def one_run_gaussian(members: int, guesses: int, correct: int, delta: float, risk: float) -> float:
    """Bound from the same guesses by Gaussian trade-off curves (Mahloujifar et al. 2024, `audit_rh_with_cap`).

    Returns the epsilon of the largest mu that these guesses refute. Exact for a Gaussian mechanism at sampling rate 1,
    an approximation for a subsampled one, whose trade-off curve is not exactly Gaussian.
    """
    if correct == 0:
        return 0.0
    return epsilon_of(_largest(lambda mu: _refuted(members, guesses, correct, mu, risk)), delta)


def _refuted(members: int, guesses: int, correct: int, mu: float, risk: float) -> bool:
    """Whether `correct` of `guesses` have a probability below `risk` under mu-Gaussian DP.

    Let p_i be the probability of i correct guesses. Any tail sums r = sum i p_i / m and h = sum (c' - i) p_i / m obey
    h <= inverse blow-up of r; followed down from i = c to 0 they may not outgrow c' / m.
    """
    right, wrong = risk * correct / members, risk * (guesses - correct) / members
    for i in range(correct - 1, -1, -1):
        grown = max(wrong, float(ndtr(ndtri(right) - mu)))
        if grown == wrong:
            break
        right = min(1.0, right + i / (guesses - i) * (grown - wrong))
        wrong = grown
    return right + wrong > guesses / members


def gaussian(inside: NDArray[np.float64], outside: NDArray[np.float64], delta: float, risk: float) -> float:
    """Bound from scores of members and non-members, modelled as normal with one deviation s and means mu s apart.

    Half the risk goes to the deviation (chi-square), half to the distance of the means (normal). See Dong et al. 2022.
    """
    count = len(inside) + len(outside) - 2
    if min(len(inside), len(outside)) < 2:
        return 0.0
    squares = float(inside.var() * len(inside) + outside.var() * len(outside))
    spread = np.sqrt(squares / stats.chi2.ppf(risk / 2, count))
    distance = float(inside.mean() - outside.mean())
    if spread <= 1e-9 * abs(distance):
        return MAX_EPSILON
    margin = stats.norm.isf(risk / 2) * np.sqrt(1 / len(inside) + 1 / len(outside))
    return epsilon_of(float(distance / spread - margin), delta)


def clopper_pearson(hits: tuple[int, int], alarms: tuple[int, int], delta: float, risk: float) -> float:
    """log((TPR - delta) / FPR) with Clopper-Pearson limits for both rates (Jagielski et al. 2020, section 4).

    hits: (members guessed to be members, all members). alarms: (non-members guessed to be members, all non-members).
    """
    (caught, inside), (wrong, outside) = hits, alarms
    least = float(stats.beta.ppf(risk / 2, caught, inside - caught + 1)) if caught else 0.0
    most = float(stats.beta.isf(risk / 2, wrong + 1, outside - wrong)) if wrong < outside else 1.0
    return float(np.clip(np.log((least - delta) / most), 0, MAX_EPSILON)) if least > delta else 0.0


def epsilon_of(mu: float, delta: float) -> float:
    """The epsilon of mu-Gaussian DP at `delta` (Dong et al. 2022, corollary 2.13), at most MOST."""
    if mu <= 0:
        return 0.0
    return min(MAX_EPSILON, float(get_epsilon_gaussian(1 / mu, delta))) if mu < 50 else MAX_EPSILON


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest refuted value, to within 1e-6 from below; 0 where none is refuted, MOST where all are."""
    low, high = 0.0, MAX_EPSILON
    if not refuted(low):
        return 0.0
    if refuted(high):
        return MAX_EPSILON
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
