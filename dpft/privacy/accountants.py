"""Upper bounds on the epsilon of Poisson-sampled Gaussian steps, from packages that prove theirs.

A bound is only ever raised, never averaged. Every accountant here answers for adding or removing one unit,
and raises ArithmeticError where float64 could not carry its proof.
"""

from __future__ import annotations

import bisect
import functools
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, TypeVar

import numpy as np
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant, compute_epsilon, rdp_privacy_accountant
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
from prv_accountant.accountant import compute_safe_domain_size
from prv_accountant.privacy_random_variables import GaussianMechanism
from scipy.optimize import brentq
from scipy.special import erfcx, gammaln, ndtri

from dpft.spec import UserError

T = TypeVar("T")
Part = tuple[float, float, int]  # noise, rate, steps

PRV = f"prv-accountant {version('prv-accountant')}"
PLD = f"dp-accounting {version('dp-accounting')} (PLD)"
RDP = f"dp-accounting {version('dp-accounting')} (RDP)"
CLOSED_FORM = f"dp-accounting {version('dp-accounting')} (closed form)"

_CANCELS = (1e-3, 1e4)  # noise of one Gaussian outside which its delta is left with too few digits in float64
_FFT_LOSS = 1000  # in units of float64's spacing, what one convolution of tails may lose
EPSILON_FLOOR = 1e-6  # a smaller bound is rounded up to this: float64 resolves nothing below it
EPS_ERROR = 0.003  # PRV's error, relative to epsilon: costs under 0.3 % of noise and under a second
FINE_CELLS, COARSE_CELLS = 2**18, 2**14
_PRV_CELLS = 2**20  # about two seconds; a finer mesh is left to the PLD
_COMPOSED_CELLS = 2**18  # at most, of a composed PLD: so that a million steps and a billion take a few seconds

# RDP beyond the default orders, for a tiny epsilon: its optimal order is near 2 log(1/delta) / epsilon.
_ORDERS = (*rdp_privacy_accountant.DEFAULT_RDP_ORDERS, 2048, 4096, 8192, 16384)
# Few, for each costs `adaptive_rdp` a share of delta: each less one is about 1.6 times the last less one.
_FILTER_ORDERS = (1.3, 1.5, 1.8, 2.2, 2.8, 3.6, 4.8, 6.6, 9.2, 13, 19, 28, 42, 63, 128, 256, 512, 1024, 2048)


def epsilon_prv(noise: float, rate: float, steps: int, delta: float, eps_error: float) -> float:
    """The upper end of PRV's interval, width about 2 eps_error (Gopi et al. 2021, theorem 5.5)."""
    delta = _less_rounding(delta, steps)
    delta_error = delta / 1000
    mechanism = PoissonSubsampledGaussianMechanism(sampling_probability=rate, noise_multiplier=noise)
    with _quiet():
        reach = float(compute_safe_domain_size([mechanism], [steps], eps_error, delta_error))
        mesh = eps_error / math.sqrt(steps / 2 * math.log(12 / delta_error))
        if not 2 * reach / mesh <= _PRV_CELLS:
            raise ArithmeticError(f"PRV needs {2 * reach / mesh:.0f} cells, above {_PRV_CELLS}")
        accountant = PRVAccountant(
            [mechanism], eps_error=eps_error, delta_error=delta_error, max_self_compositions=[steps]
        )
        _, _, upper = accountant.compute_epsilon(delta, [steps])
    return _round_up(upper)


def epsilon_pld(noise: float, rate: float, steps: int, delta: float, cells: int = FINE_CELLS) -> float:
    """The pessimistic bound of connect-the-dots (Doroshenko et al. 2022), the worse of add and remove.

    `cells` limits the size of one step's grid: fewer are faster and looser, and still an upper bound.
    """
    delta = _less_rounding(delta, steps)
    with _quiet():
        composed = _self_compose(_one_step(noise, rate, _interval(noise, rate, steps, cells)), steps)
        return _round_up(composed.get_epsilon_for_delta(delta))


def epsilon_rdp(noise: float, rate: float, steps: int, delta: float) -> float:
    """The best order's bound (Mironov et al. 2019; Canonne et al. 2020, proposition 12)."""
    return _rdp_epsilon(_rdp_one_step(noise, rate), steps, delta)


def epsilon_gaussian(noise: float, steps: int, delta: float) -> float:
    """Exact at rate 1, where steps Gaussians equal one of noise / sqrt(steps) (Balle, Wang 2018, eq. 6)."""
    one = noise / math.sqrt(steps)
    with _quiet():
        if one < _CANCELS[0]:  # delta is below its first term, and the second is a part in 1 / noise of that
            epsilon = float(-ndtri(delta)) / one + 1 / (2 * one**2)
        else:
            epsilon = get_epsilon_gaussian(one, delta) if one < _CANCELS[1] else _epsilon_weak_gaussian(one, delta)
    return _round_up(epsilon * (1 + 1e-9) + 1e-9)  # its root is found to 1e-12; stay on the safe side


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


def heterogeneous_pld(parts: Sequence[Part], delta: float, cells: int = FINE_CELLS) -> float:
    """epsilon_pld of `parts` one after the other: all on one grid, each composed with itself, then with the rest."""
    delta = _less_rounding(delta, sum(steps for _, _, steps in parts) + _FFT_LOSS * len(parts))
    with _quiet():
        interval = _common_interval(parts, cells)
        composed = [_self_compose(_one_step(noise, rate, interval), steps) for noise, rate, steps in parts]
        whole = functools.reduce(lambda a, b: a.compose(b, tail_mass_truncation=0), composed)
        return _round_up(whole.get_epsilon_for_delta(delta))


def heterogeneous_prv(parts: Sequence[Part], delta: float) -> tuple[float, float]:
    """The lower and upper ends of PRV's interval for `parts` together, for removal only (Gopi et al. 2021)."""
    total = sum(steps for _, _, steps in parts)
    below = _less_rounding(delta, total)
    eps_error, delta_error = EPS_ERROR * heterogeneous_rdp(parts, delta), delta / 1000
    mechanisms = [
        GaussianMechanism(noise) if rate == 1 else PoissonSubsampledGaussianMechanism(rate, noise)
        for noise, rate, _ in parts
    ]
    counts = [steps for _, _, steps in parts]
    with _quiet():
        reach = float(compute_safe_domain_size(mechanisms, counts, eps_error, delta_error))
        cells = len(parts) * 2 * reach * math.sqrt(total / 2 * math.log(12 / delta_error)) / eps_error
        if not cells <= _PRV_CELLS:
            raise ArithmeticError(f"PRV needs {cells:.0f} cells, above {_PRV_CELLS}")
        accountant = PRVAccountant(mechanisms, eps_error, delta_error, counts)
        composed = accountant.compute_composition(counts)
        lower, _, _ = composed.compute_epsilon(2 * delta - below, delta_error, eps_error)
        _, _, upper = composed.compute_epsilon(below, delta_error, eps_error)
    return max(float(lower), 0.0), _round_up(upper)


def heterogeneous_rdp(parts: Sequence[Part], delta: float) -> float:
    """epsilon_rdp of `parts` one after the other: Renyi divergences add (Mironov 2017, proposition 1)."""
    sums = np.zeros(len(_ORDERS))
    for noise, rate, steps in parts:
        one = _rdp_one_step(noise, rate)
        sums += np.where(one > 0, steps * one, np.inf)  # one that is not positive is no bound, nor is its order's sum
    return _rdp_epsilon(sums, 1, delta)


def adaptive_rdp(parts: Sequence[Part], delta: float) -> float:
    """A bound for parts chosen one by one, each after seeing the releases before it: an RDP filter of several orders.

    With loss L so far and r_a the divergences' sum at order a, exp((a - 1) (L - r_a)) is a supermartingale whatever
    is chosen (Feldman and Zrnic 2021, theorem 3.1; Lecuyer 2021): that proves one order fixed beforehand. Which order
    is best depends here on what was seen, so each of the K orders gets delta / K: the sum of all K supermartingales
    is one of mean K at most, and bounds the one that is read off at the end. Stop before this passes epsilon, by
    whatever rule, and the whole is (epsilon, delta)-DP. (`heterogeneous_rdp` does not promise this.)
    """
    one_by_one = [(_rdp_one_step(noise, rate, _FILTER_ORDERS), steps) for noise, rate, steps in parts]
    sums = sum(np.where(one > 0, steps * one, np.inf) for one, steps in one_by_one)
    return _rdp_epsilon(sums, 1, delta / len(_FILTER_ORDERS), _FILTER_ORDERS)


def epsilon_quick(noise: float, rate: float, steps: int, delta: float, cells: int = FINE_CELLS) -> tuple[float, str]:
    """A valid upper bound in tens of milliseconds, and its name: closed form at rate 1, else PLD, else RDP."""
    _check(noise, rate, steps, delta)
    if rate == 1:
        return epsilon_gaussian(noise, steps, delta), CLOSED_FORM
    pld = _attempt(lambda: epsilon_pld(noise, rate, steps, delta, cells))
    if pld is not None:
        return pld, PLD
    rdp = _attempt(lambda: epsilon_rdp(noise, rate, steps, delta))
    if rdp is not None:
        return rdp, RDP
    raise UserError(
        f"noise must be in the reach of an accountant, got {noise!r} at rate {rate!r}, {steps} steps, "
        f"delta {delta!r}; raise the noise or --delta"
    )


def epsilon_upper(noise: float, rate: float, steps: int, delta: float) -> tuple[float, str]:
    """An upper bound on epsilon after `steps` releases, and the accountant that gave it.

    PRV's upper bound where it stands; else PLD's, else RDP's. PRV looks at removal only, PLD at adding too; and
    PRV's error puts it above PLD, so where it falls below, something is amiss and the larger is reported.
    """
    quick, name = epsilon_quick(noise, rate, steps, delta)
    if name == CLOSED_FORM:
        return quick, name
    prv = _attempt(lambda: epsilon_prv(noise, rate, steps, delta, EPS_ERROR * quick))
    if prv is None or name != PLD or prv < quick:
        return quick, name
    return prv, PRV


def epsilon_curve(
    noise: float, rate: float, steps: int, delta: float, final: float = math.inf
) -> Callable[[int], float]:
    """An upper bound on epsilon after k of `steps` charged steps, for display: cheap, monotone, 0 at k = 0.

    Computed once on a grid of step counts; k is rounded up to the next. `final` is a bound known to hold
    after all steps (`Plan.epsilon_upper`) and caps the curve.
    """
    _check(noise, rate, steps, delta)
    early = {4**i for i in range(steps.bit_length()) if 4**i <= steps}
    grid = sorted(early | {math.ceil(steps * i / 20) for i in range(1, 21)})
    values = np.minimum(np.maximum.accumulate(epsilon_over(noise, rate, grid, delta)), final).tolist()

    def epsilon_after(k: int) -> float:
        if not 0 <= k <= steps:
            raise UserError(f"charged steps must lie in 0 to {steps}, got {k!r}; make a new plan for more steps")
        return 0.0 if k == 0 else float(values[bisect.bisect_left(grid, k)])

    return epsilon_after


def epsilon_over(noise: float, rate: float, grid: list[int], delta: float) -> list[float]:
    """A quick upper bound on epsilon after each number of steps of `grid`, which rises."""
    if rate == 1:
        return [epsilon_gaussian(noise, k, delta) for k in grid]

    def by_pld() -> list[float]:
        target = _less_rounding(delta, grid[-1])
        one = _one_step(noise, rate, _interval(noise, rate, grid[-1], COARSE_CELLS))
        return [_round_up(_self_compose(one, k).get_epsilon_for_delta(target)) for k in grid]

    values = _attempt(by_pld)
    if values is None:
        one = _rdp_one_step(noise, rate)
        values = [_rdp_epsilon(one, k, delta) for k in grid]
    return values


def _deviation(noise: float, rate: float) -> float:
    """About the deviation of one step's loss log(1 + rate (exp(x) - 1)), x normal: rate sqrt(exp(1/noise^2) - 1)."""
    return rate * math.sqrt(math.expm1(min(1 / noise**2, 50.0)))


def _reach(noise: float, rate: float) -> float:
    """About the largest loss of one step: ten deviations of the noise; the package itself goes on to e^-50."""
    largest = 10 / noise + 1 / (2 * noise**2)
    return largest if largest > 500 else math.log1p(rate * math.expm1(largest))


def _interval(noise: float, rate: float, steps: int, cells: int) -> float:
    """The grid of one step's loss: a twentieth of its deviation, 1e-3 or so at most, and about `cells` cells.

    After very many steps wider, so that their sum, over sixteen deviations of it, keeps within 8 `cells`.
    """
    reach, deviation = _reach(noise, rate), _deviation(noise, rate)
    fine = max(min(1e-3 * max(1, reach / 50), deviation / 20), reach / cells)
    return max(fine, 16 * math.sqrt(steps) * min(deviation, fine * 20) / min(8 * cells, _COMPOSED_CELLS))


def _common_interval(parts: Sequence[Part], cells: int) -> float:
    """One grid for all of `parts`, so fine that it adds at most a thousandth to the variance of their sum.

    A step of deviation d gains a variance of about h^2 / 6 on a grid of h, and h d / 2 where d is far below h.
    """
    if len(parts) == 1:
        return _interval(*parts[0], cells)
    spread = [(_deviation(noise, rate) if rate < 1 else 1 / noise, steps) for noise, rate, steps in parts]
    variance = math.fsum(steps * d**2 for d, steps in spread)

    def excess(log_h: float) -> float:
        h = math.exp(log_h)
        return math.fsum(steps * min(h * h / 6, h * d / 2) for d, steps in spread) - variance / 1000

    deviation = math.sqrt(variance)
    fine = math.exp(brentq(excess, math.log(deviation) - 50, math.log(deviation) + 5, xtol=1e-3))
    reach = max(_reach(noise, rate) for noise, rate, _ in parts)
    widest = max(reach / cells, 16 * deviation / min(8 * cells, _COMPOSED_CELLS))
    return max(min(fine, 1e-3 * max(1, reach / 50)), widest)


def _one_step(noise: float, rate: float, interval: float) -> Any:
    """One step's privacy loss distribution: connect-the-dots on a grid of `interval`, pessimistic."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=interval, sampling_prob=rate, pessimistic_estimate=True
    )


def _self_compose(one: Any, steps: int) -> Any:
    """`steps` times `one`. A sparse one is made dense first: the package would take its size to the power `steps`."""
    if steps > 1000:
        add = None if one._symmetric else one._pmf_add.to_dense_pmf()
        one = privacy_loss_distribution.PrivacyLossDistribution(one._pmf_remove.to_dense_pmf(), add)
    return one.self_compose(steps)


def _rdp_one_step(noise: float, rate: float, orders: Sequence[float] = _ORDERS) -> Any:
    accountant = RdpAccountant(orders)
    with _quiet():
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
        # Its sums of binomial terms round: by a part of themselves, and absolutely by the binomials' logarithms.
        lost = 16 * np.finfo(np.float64).eps * (1 + gammaln(np.add(orders, 1))) / np.subtract(orders, 1)
        return np.where(accountant.rdp > 0, accountant.rdp * (1 + 1e-12) + lost, accountant.rdp)


def _rdp_epsilon(one_step: Any, steps: int, delta: float, orders: Sequence[float] = _ORDERS) -> float:
    """`one_step` has a Renyi divergence per order. The package reads a negative one as epsilon 0: drop it."""
    sound = [(a, steps * r) for a, r in zip(orders, one_step, strict=True) if r > 0 and math.isfinite(r)]
    if not sound:
        raise ArithmeticError("no Renyi order gave a positive, finite divergence")
    with _quiet():
        epsilon, _ = compute_epsilon([a for a, _ in sound], [r for _, r in sound], delta)
    return _round_up(epsilon)


def _less_rounding(delta: float, steps: int) -> float:
    """delta less what float64 FFTs may have lost: raising a spectrum to `steps` multiplies its rounding.

    Without it PLD falls below the closed form by 0.5 % of epsilon at delta 1e-12 and 1e5 steps; the loss seen
    was up to 3e-17 a step, a seventh of what is held back.
    """
    rest = delta - steps * float(np.finfo(np.float64).eps)
    if rest < delta / 2:
        raise ArithmeticError(f"delta {delta} is too small for float64 after {steps} steps")
    return rest


def _round_up(epsilon: float) -> float:
    if not (math.isfinite(epsilon) and epsilon >= 0):
        raise ArithmeticError(f"epsilon came out as {epsilon}")
    return max(float(epsilon), EPSILON_FLOOR)


def _attempt(bound: Callable[[], T]) -> T | None:
    """The bound, or None where the accountant failed, in whatever way: the next one then answers."""
    try:
        with _quiet():
            return bound()
    except Exception:  # the packages raise from AssertionError to MemoryError, and none of it is a bound
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Mute the packages' overflow warnings here only: infinities and NaN are refused by _round_up."""
    told = logging.getLogger("absl")  # dp-accounting's: a line for each Renyi order that it leaves out
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        told.setLevel(level)


def _check(noise: float, rate: float, steps: int, delta: float) -> None:
    for name, ok, value in (
        ("noise must be a finite number above 0", math.isfinite(noise) and noise > 0, noise),
        ("rate must lie in (0, 1]", 0 < rate <= 1, rate),
        ("steps must be a whole number above 0", isinstance(steps, int) and steps >= 1, steps),
        ("delta must lie between 0 and 1", 0 < delta < 1, delta),
    ):
        if not ok:
            raise UserError(f"{name}, got {value!r}; make a new plan")
