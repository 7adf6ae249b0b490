"""Upper bounds on epsilon by privacy loss distributions (`dp-accounting`, connect-the-dots), in bounded time and space.

Privacy loss distributions are discretised on a grid. The grid is chosen so that neither one step nor the composition of
all steps has too many cells. Very many steps are composed in stages, for which the package truncates tails correctly.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from scipy.optimize import brentq
from scipy.stats import norm

from dpft.privacy.accounting.rounding import StepGroup, delta_less_rounding, quiet, round_up

FINE_CELLS, COARSE_CELLS = 2**17, 2**14  # of one step; all steps together may have four times as many
_TAIL = 1e-15  # truncated probability mass, which counts as infinite loss
_FFT_LOSS = 1000  # rounding loss of one convolution of tails, in units of float64's epsilon


def epsilon_pld(noise: float, rate: float, steps: int, delta: float, cells: int = FINE_CELLS) -> float:
    """The pessimistic bound of connect-the-dots (Doroshenko et al. 2022), the worse of add and remove.

    `cells` limits the size of one step's grid: fewer are faster and looser, and still an upper bound.
    """
    return pld_over(noise, rate, [steps], delta, cells)[0]


def pld_over(noise: float, rate: float, grid: Sequence[int], delta: float, cells: int = FINE_CELLS) -> list[float]:
    """epsilon_pld after each number of steps in `grid` (ascending), all on one discretisation."""
    return list(_pld_over(noise, rate, tuple(grid), delta, cells))


@functools.lru_cache(maxsize=256)  # runs that differ only in their seeds need the same
def _pld_over(noise: float, rate: float, grid: tuple[int, ...], delta: float, cells: int) -> tuple[float, ...]:
    delta = delta_less_rounding(delta, grid[-1])
    with quiet():
        one = _one_step(noise, rate, _interval([(noise, rate, grid[-1])], cells))
        return tuple(round_up(_power(one, steps).get_epsilon_for_delta(delta)) for steps in grid)


def heterogeneous_pld(parts: Sequence[StepGroup], delta: float, cells: int = FINE_CELLS) -> float:
    """epsilon_pld of the composition of `parts`, all on one grid: each composed with itself, then with the others."""
    delta = delta_less_rounding(delta, sum(steps for _, _, steps in parts) + _FFT_LOSS * (len(parts) - 1))
    with quiet():
        interval = _interval(parts, max(cells // len(parts), COARSE_CELLS // 4))
        composed = [_power(_one_step(noise, rate, interval), steps) for noise, rate, steps in parts]
        whole = functools.reduce(lambda a, b: a.compose(b, tail_mass_truncation=0), composed)
        return round_up(whole.get_epsilon_for_delta(delta))


def _one_step(noise: float, rate: float, interval: float) -> Any:
    """One step's privacy loss distribution: connect-the-dots on a grid of `interval`, pessimistic."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=interval, sampling_prob=rate, pessimistic_estimate=True
    )


def _power(one: Any, steps: int, tail: float = _TAIL) -> Any:
    """Compose `one` with itself `steps` times, truncating a mass of about `tail`.

    In stages, because the package bounds the tails of long compositions badly and would keep gigabytes of empty cells.
    A sparse distribution is made dense first: the package would otherwise raise its size to the power `steps`.
    """
    if steps == 1:
        return one
    add = None if one._symmetric else one._pmf_add.to_dense_pmf()
    dense = privacy_loss_distribution.PrivacyLossDistribution(one._pmf_remove.to_dense_pmf(), add)
    stage = _stage(dense._pmf_remove._probs)
    if steps <= 2 * stage:
        return dense.self_compose(steps, tail)
    stages, rest = divmod(steps, stage)
    whole = _power(_power(dense, stage, tail / stages), stages, tail)
    return whole if rest == 0 else whole.compose(_power(dense, rest, tail), tail_mass_truncation=0)


def _stage(probs: Any) -> int:
    """The number of steps whose tails the package bounds well: it tries Chernoff orders from 1 to 20 / len(probs).

    The best order for n steps of deviation d is about 8 / (d sqrt(n)): here about 3 / len(probs).
    """
    cells = np.arange(len(probs))
    mean = np.average(cells, weights=probs)
    spread = math.sqrt(np.average((cells - mean) ** 2, weights=probs)) / len(probs)
    return max(10, round(min(3 / max(spread, 1e-9), 1e6) ** 2))


def _interval(parts: Sequence[StepGroup], cells: int) -> float:
    """The grid spacing for all `parts`.

    At most about 1e-3, and fine enough to add at most a thousandth to the variance of the composed loss. But not so
    fine that one step has more than `cells` cells, or sixteen deviations of the composition more than four times that.

    On a grid of spacing h, a step of deviation d gains a variance of about h^2 / 6, or h d / 2 if d is far below h.
    """
    spread = [(_deviation(noise, rate), steps) for noise, rate, steps in parts]
    variance = math.fsum(steps * d**2 for d, steps in spread)

    def excess(log_h: float) -> float:
        h = math.exp(log_h)
        return math.fsum(steps * min(h * h / 6, h * d / 2) for d, steps in spread) - variance / 1000

    deviation = math.sqrt(variance)
    fine = math.exp(brentq(excess, math.log(deviation) - 50, math.log(deviation) + 5, xtol=1e-3))
    reach = max(_reach(noise, rate) for noise, rate, _ in parts)
    return max(min(fine, 1e-3 * max(1, reach / 50)), reach / cells, 16 * deviation / (4 * cells))


def _deviation(noise: float, rate: float) -> float:
    """Root mean square of one step's privacy loss log(1 + rate (exp(z) - 1)), z = (x - 1/2) / noise^2, for removal."""
    x = np.linspace(-10 * noise, 1 + 10 * noise, 2001)
    mass = norm.pdf(x, 0, noise) * (1 - rate) + norm.pdf(x, 1, noise) * rate
    z = (x - 0.5) / noise**2
    loss = np.where(z > 500, z + math.log(rate), np.log1p(rate * np.expm1(np.minimum(z, 500))))
    return math.sqrt(float(np.average(loss**2, weights=mass)))


def _reach(noise: float, rate: float) -> float:
    """About the largest privacy loss of one step, at ten deviations of the noise; the package itself goes to e^-50."""
    largest = 10 / noise + 1 / (2 * noise**2)
    return largest if largest > 500 else math.log1p(rate * math.expm1(largest))
