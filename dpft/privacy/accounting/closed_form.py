"""Exact epsilon of Gaussian steps at sampling rate 1: together they equal one Gaussian mechanism."""

from __future__ import annotations

import math

from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from scipy.optimize import brentq
from scipy.special import erfcx, ndtri

from dpft.privacy.accounting.rounding import quiet, round_up

_CANCELS = (1e-3, 1e4)  # outside this range of noise, float64 cancellation leaves delta with too few digits


def epsilon_gaussian(noise: float, steps: int, delta: float) -> float:
    """Exact at rate 1, where all steps equal one Gaussian with noise / sqrt(steps) (Balle and Wang 2018, eq. 6).

    At a rate below 1 it is an upper bound for adding and for removing. Replace the release of a full step, with
    probability 1 - rate, by a fresh release without the unit: this turns the full step's pair of distributions into
    the sampled step's pair. So each sampled step is a post-processing of the pair that dominates the full steps
    (Zhu et al. 2022, theorem 10).
    """
    one = noise / math.sqrt(steps)
    with quiet():
        if one < _CANCELS[0]:  # delta is below its first term, and the second is a part in 1 / noise of that
            epsilon = float(-ndtri(delta)) / one + 1 / (2 * one**2)
        else:
            epsilon = get_epsilon_gaussian(one, delta) if one < _CANCELS[1] else _epsilon_weak_gaussian(one, delta)
    return round_up(epsilon * (1 + 1e-9) + 1e-9)  # the root is found to 1e-12; stay on the safe side


def _epsilon_weak_gaussian(noise: float, delta: float) -> float:
    """An upper bound, above the exact epsilon by one part in `noise`; for noise at which the exact formula cancels.

    With a, b = epsilon noise -+ 1/(2 noise), the normal density f and Mills' ratio R, delta = f(a) (R(a) - R(b)),
    and R(a) - R(b) <= (b - a) (1 - a R(a)), for 1 - x R(x) = -R'(x) falls.
    """

    def log_delta(a: float) -> float:
        ratio = math.sqrt(math.pi / 2) * float(erfcx(a / math.sqrt(2)))
        return -a * a / 2 - math.log(math.sqrt(2 * math.pi) * noise) + math.log1p(-a * ratio)

    least = -1 / (2 * noise)  # epsilon 0
    if log_delta(least) <= math.log(delta):
        return 0.0
    return float(brentq(lambda a: log_delta(a) - math.log(delta), least, 40.0) + 1e-9 - least) / noise
