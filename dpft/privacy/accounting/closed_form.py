"""Epsilon of Gaussian steps at rate 1, exact: they equal one Gaussian."""

from __future__ import annotations

import math

from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from scipy.optimize import brentq
from scipy.special import erfcx, ndtri

from dpft.privacy.accounting.rounding import quiet, round_up

_CANCELS = (1e-3, 1e4)  # noise of one Gaussian outside which its delta is left with too few digits in float64


def epsilon_gaussian(noise: float, steps: int, delta: float) -> float:
    """Exact at rate 1, where steps Gaussians equal one of noise / sqrt(steps) (Balle, Wang 2018, eq. 6).

    At a rate below 1 it is a bound for adding and for removing: to replace a full step's release, with chance
    1 - rate, by a fresh one without the unit turns the full step's pair of distributions into the sampled step's.
    That is post-processing, step by step, of the pair that dominates the full steps (Zhu et al. 2022, theorem 10).
    """
    one = noise / math.sqrt(steps)
    with quiet():
        if one < _CANCELS[0]:  # delta is below its first term, and the second is a part in 1 / noise of that
            epsilon = float(-ndtri(delta)) / one + 1 / (2 * one**2)
        else:
            epsilon = get_epsilon_gaussian(one, delta) if one < _CANCELS[1] else _epsilon_weak_gaussian(one, delta)
    return round_up(epsilon * (1 + 1e-9) + 1e-9)  # its root is found to 1e-12; stay on the safe side


def _epsilon_weak_gaussian(noise: float, delta: float) -> float:
    """Above the exact epsilon by a part in `noise`: for where the exact difference of two tails cancels.

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
