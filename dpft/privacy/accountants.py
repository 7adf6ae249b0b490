"""Upper bounds on the epsilon of Poisson-sampled Gaussian steps, from packages that prove theirs.

A bound is only ever raised, never averaged. Every accountant here answers for adding or removing one unit,
and raises ArithmeticError where float64 could not carry its proof.
"""

from __future__ import annotations

import bisect
import math
import warnings
from collections.abc import Callable, Iterator
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

from dpft.spec import UserError

T = TypeVar("T")

PRV = f"prv-accountant {version('prv-accountant')}"
PLD = f"dp-accounting {version('dp-accounting')} (PLD)"
RDP = f"dp-accounting {version('dp-accounting')} (RDP)"
CLOSED_FORM = f"dp-accounting {version('dp-accounting')} (closed form)"

EPSILON_FLOOR = 1e-6  # a smaller bound is rounded up to this: float64 resolves nothing below it
EPS_ERROR = 0.003  # PRV's error, relative to epsilon: costs under 0.3 % of noise and under a second
FINE_CELLS, COARSE_CELLS = 2**18, 2**14
_PRV_CELLS = 2**20  # about two seconds; a finer mesh is left to the PLD

# RDP beyond the default orders, for a tiny epsilon: its optimal order is near 2 log(1/delta) / epsilon.
_ORDERS = (*rdp_privacy_accountant.DEFAULT_RDP_ORDERS, 2048, 4096, 8192, 16384)


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
        composed = _one_step(noise, rate, cells).self_compose(steps)
        return _round_up(composed.get_epsilon_for_delta(delta))


def epsilon_rdp(noise: float, rate: float, steps: int, delta: float) -> float:
    """The best order's bound (Mironov et al. 2019; Canonne et al. 2020, proposition 12)."""
    return _rdp_epsilon(_rdp_one_step(noise, rate), steps, delta)


def epsilon_gaussian(noise: float, steps: int, delta: float) -> float:
    """Exact at rate 1, where steps Gaussians equal one of noise / sqrt(steps) (Balle, Wang 2018, eq. 6)."""
    with _quiet():
        epsilon = get_epsilon_gaussian(noise / math.sqrt(steps), delta)
    return _round_up(epsilon * (1 + 1e-9) + 1e-9)  # its root is found to 1e-12; stay on the safe side


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
    values = np.minimum(np.maximum.accumulate(_curve_values(noise, rate, grid, delta)), final).tolist()

    def epsilon_after(k: int) -> float:
        if not 0 <= k <= steps:
            raise UserError(f"charged steps must lie in 0 to {steps}, got {k!r}; make a new plan for more steps")
        return 0.0 if k == 0 else float(values[bisect.bisect_left(grid, k)])

    return epsilon_after


def _curve_values(noise: float, rate: float, grid: list[int], delta: float) -> list[float]:
    if rate == 1:
        return [epsilon_gaussian(noise, k, delta) for k in grid]

    def by_pld() -> list[float]:
        target = _less_rounding(delta, grid[-1])
        one = _one_step(noise, rate, COARSE_CELLS)
        return [_round_up(one.self_compose(k).get_epsilon_for_delta(target)) for k in grid]

    values = _attempt(by_pld)
    if values is None:
        one = _rdp_one_step(noise, rate)
        values = [_rdp_epsilon(one, k, delta) for k in grid]
    return values


def _one_step(noise: float, rate: float, cells: int) -> Any:
    """One step's privacy loss on a grid of a twentieth of its deviation, 1e-3 or so at most, and about `cells` cells.

    The loss is log(1 + rate (exp(x) - 1)), x normal: its deviation is about rate sqrt(exp(1/noise^2) - 1).
    """
    inverse = 1 / noise**2
    deviation = rate * math.sqrt(math.expm1(min(inverse, 50.0)))
    largest = 10 / noise + inverse / 2  # ten deviations of the noise; the package itself goes on to e^-50
    reach = largest if largest > 500 else math.log1p(rate * math.expm1(largest))
    interval = max(min(1e-3 * max(1, reach / 50), deviation / 20), reach / cells)
    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=interval, sampling_prob=rate, pessimistic_estimate=True
    )


def _rdp_one_step(noise: float, rate: float) -> Any:
    accountant = RdpAccountant(_ORDERS)
    with _quiet():
        accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)))
    return accountant.rdp


def _rdp_epsilon(one_step: Any, steps: int, delta: float) -> float:
    """`one_step` has a Renyi divergence per order. The package reads a negative one as epsilon 0: drop it."""
    sound = [(a, steps * r) for a, r in zip(_ORDERS, one_step, strict=True) if r > 0 and math.isfinite(r)]
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
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def _check(noise: float, rate: float, steps: int, delta: float) -> None:
    for name, ok, value in (
        ("noise must be a finite number above 0", math.isfinite(noise) and noise > 0, noise),
        ("rate must lie in (0, 1]", 0 < rate <= 1, rate),
        ("steps must be a whole number above 0", isinstance(steps, int) and steps >= 1, steps),
        ("delta must lie between 0 and 1", 0 < delta < 1, delta),
    ):
        if not ok:
            raise UserError(f"{name}, got {value!r}; make a new plan")
