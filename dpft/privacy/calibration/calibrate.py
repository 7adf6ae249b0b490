"""The smallest noise multiplier whose upper bound on epsilon is within the budget."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

from dp_accounting.gaussian_mechanism import get_sigma_gaussian
from scipy.optimize import brentq

from dpft.errors import UserError
from dpft.privacy.accounting.accountants import CLOSED_FORM, EPS_ERROR, PLD, PRV, RDP, epsilon_quick, epsilon_upper
from dpft.privacy.accounting.pld import COARSE_CELLS
from dpft.privacy.accounting.rounding import EPSILON_FLOOR
from dpft.privacy.calibration import cache
from dpft.spec import Budget

NOISE_LIMITS = (1e-2, 1e6)
MOST_STEPS = 10**7  # upper limit of the search for a number of steps
EPSILON_LIMIT = 1e4  # outcomes may then be e^10000 times as likely with a unit as without: no promise at all
_SECONDS = 30.0  # of CPU time of this thread; then the search gives up, or accepts what it has within the budget
_ROUNDS = 4
_GOOD_ENOUGH = 0.995  # share of the budget: 0.5 % of epsilon is worth at most 0.5 % of noise


def calibrate(rate: float, steps: int, budget: Budget) -> tuple[float, float, str]:
    """The noise multiplier, its upper bound on epsilon (at most budget.epsilon), and the accountant that gave it.

    rate: sampling rate. The noise is within 1 % of the optimum if PRV or PLD gives a bound. Results are cached on disk.
    Raises UserError if no noise within NOISE_LIMITS reaches the budget, or none was found in time.
    """
    if budget.epsilon > EPSILON_LIMIT:
        raise UserError(
            f"epsilon must be at most {EPSILON_LIMIT:g}, got {budget.epsilon!r}; pass --epsilon of 10 or less, or "
            f"train without a promise: --non-private"
        )
    drawn = -math.expm1(steps * math.log1p(-rate)) if rate < 1 else 1.0
    if budget.delta >= drawn:  # publishing every drawn unit would already be (0, delta)-DP
        raise UserError(
            f"delta must be below {drawn:.2g}, the chance that a unit is ever drawn, got {budget.delta!r}; pass --delta"
        )
    key = cache.key(rate, steps, budget)
    found = cache.read(key)
    if found is None or not _holds(*found, rate, steps, budget):
        found = _search(rate, steps, budget)
        cache.write(key, found)
    return found


def most_steps(noise: float, rate: float, budget: Budget) -> tuple[int, float, str]:
    """The most steps (to a thousandth) that `budget` allows at `noise` and `rate`, their bound and its accountant.

    The bound is that of `epsilon_upper`, as in a plan. Raises UserError if one step exceeds the budget, or if
    MOST_STEPS do not.
    """
    upper, name = epsilon_upper(noise, rate, 1, budget.delta)
    if upper > budget.epsilon:
        raise UserError(
            f"one step must fit into epsilon {budget.epsilon!r}, got {upper:.4g} at noise {noise!r} and rate "
            f"{rate:.3g}; raise --noise or --epsilon, or lower --batch-size"
        )
    low, high = (1, upper, name), _first_too_many(noise, rate, budget)
    while high - low[0] > max(1, low[0] / 1000):
        middle = (low[0] + high) // 2
        upper, name = epsilon_upper(noise, rate, middle, budget.delta)
        if upper <= budget.epsilon:
            low = (middle, upper, name)
        else:
            high = middle
    return low


def _first_too_many(noise: float, rate: float, budget: Budget) -> int:
    """A number of steps slightly above the most that `epsilon_upper` allows, found with the quick bound."""

    def excess(log_steps: float) -> float:
        return math.log(epsilon_quick(noise, rate, round(math.exp(log_steps)), budget.delta, COARSE_CELLS)[0] / target)

    target = budget.epsilon
    log_low, log_high, limit = 0.0, 2.0, math.log(MOST_STEPS)
    while excess(log_high) <= 0:
        if log_high >= limit:
            raise UserError(
                f"the most steps must be below {MOST_STEPS:.0e}, got more at noise {noise!r}; "
                f"lower --noise or --epsilon"
            )
        log_low, log_high = log_high, min(log_high + 2, limit)
    if excess(log_low) < 0:
        log_high = brentq(excess, log_low, log_high, xtol=1e-3)
    steps = round(math.exp(log_high)) + 1
    while epsilon_upper(noise, rate, steps, budget.delta)[0] <= target:
        steps = math.ceil(1.02 * steps)
    return steps


def _holds(noise: float, upper: float, name: str, rate: float, steps: int, budget: Budget) -> bool:
    """Verify a cached calibration with our own accounting: a forged file must not lead to a false label.

    The quick bound is itself proven, so any `upper` above it is a valid label. The last comparison refuses needless
    noise. Only a forged accountant name within these limits would pass.
    """
    if name not in (PRV, PLD, RDP, CLOSED_FORM) or not noise > 0:
        return False
    try:
        proven, _ = epsilon_quick(noise, rate, steps, budget.delta)
    except UserError:
        return False
    return proven <= upper <= budget.epsilon and proven >= 0.97 * budget.epsilon


def _search(rate: float, steps: int, budget: Budget) -> tuple[float, float, str]:
    """Solve with the quick bound slightly below the budget, check with epsilon_upper, correct the target, repeat."""
    target = budget.epsilon
    if target <= EPSILON_FLOOR:
        raise _unreachable(rate, steps, budget)

    deadline = time.thread_time() + _SECONDS

    def quick(noise: float, cells: int = COARSE_CELLS) -> float:
        if time.thread_time() > deadline:
            raise _OutOfTime
        try:
            return epsilon_quick(noise, rate, steps, budget.delta, cells)[0]
        except UserError:
            return math.inf

    noise = _first_guess(rate, steps, budget)
    aim = target if rate == 1 else target * (1 - EPS_ERROR) * (1 - EPS_ERROR / 10)
    best: tuple[float, float, str] | None = None
    for found in range(_ROUNDS):
        try:
            if found == 0:
                rough = _solve(lambda noise: quick(noise, COARSE_CELLS // 4), aim, noise, 3e-3)
                noise = min(rough, NOISE_LIMITS[1])
            noise = _solve(quick, aim, noise)
        except _OutOfTime:
            if best is None:
                raise _too_slow(rate, steps) from None
            break
        if noise > NOISE_LIMITS[1]:
            break
        upper, name = epsilon_upper(noise, rate, steps, budget.delta)
        if upper <= target and (best is None or noise < best[0]):
            best = (noise, upper, name)
        if _GOOD_ENOUGH * target <= upper <= target:
            break
        aim *= target / upper * (1 - EPS_ERROR / 10)
    if best is None:
        raise _unreachable(rate, steps, budget)
    return best


class _OutOfTime(Exception):
    """A search took longer than _SECONDS."""


def _too_slow(rate: float, steps: int) -> UserError:
    return UserError(
        f"noise for a budget must be found within {_SECONDS:g} seconds, got {steps} steps of rate {rate:.3g}; "
        f"pass fewer --epochs or a larger --batch-size"
    )


def _first_guess(rate: float, steps: int, budget: Budget) -> float:
    """Only a starting point for the search: the Gaussian limit (Bu et al. 2020) underestimates the noise.

    mu = rate sqrt(steps (exp(1/noise^2) - 1)), where 1/mu is the noise of one Gaussian release.
    """
    mu = 1 / get_sigma_gaussian(budget.epsilon, budget.delta)
    guess = 1 / math.sqrt(math.log1p((mu / rate) ** 2 / steps))
    return min(max(guess, NOISE_LIMITS[0]), NOISE_LIMITS[1])


def _solve(bound: Callable[[float], float], target: float, start: float, within: float = 5e-5) -> float:
    """The smallest noise with bound(noise) <= target, to 2 `within` in log; above NOISE_LIMITS[1] if there is none."""

    @functools.cache
    def excess(log_noise: float) -> float:
        return min(math.log(bound(math.exp(log_noise)) / target), 50.0)

    least, most = (math.log(limit) for limit in NOISE_LIMITS)
    low = high = math.log(start)
    stride = 0.03
    while excess(high) > 0:
        if high >= most:
            return math.inf
        low, high, stride = high, min(high + stride, most), 2 * stride
    while low == high or excess(low) <= 0:
        if low <= least:
            return math.exp(least)
        low, high, stride = max(low - stride, least), low, 2 * stride
    return math.exp(brentq(excess, low, high, xtol=within) + within)


def _unreachable(rate: float, steps: int, budget: Budget) -> UserError:
    return UserError(
        f"epsilon must be reachable with a noise of at most {NOISE_LIMITS[1]:g}, got {budget.epsilon!r} at "
        f"delta {budget.delta!r} over {steps} steps of rate {rate:.3g}; pass a larger --epsilon or --delta"
    )
