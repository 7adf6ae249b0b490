"""Upper bounds on the epsilon of Poisson-sampled Gaussian steps, from packages with proven bounds.

noise: noise multiplier; rate: sampling rate. A bound is only ever rounded up, never averaged. Every accountant bounds
adding or removing one unit, and raises ArithmeticError if its proof does not hold in float64.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
from prv_accountant.accountant import compute_safe_domain_size
from prv_accountant.privacy_random_variables import GaussianMechanism

from dpft.errors import UserError
from dpft.privacy.accounting.closed_form import epsilon_gaussian
from dpft.privacy.accounting.pld import COARSE_CELLS, FINE_CELLS, epsilon_pld, pld_over
from dpft.privacy.accounting.rdp import epsilon_rdp, heterogeneous_rdp, rdp_over
from dpft.privacy.accounting.rounding import StepGroup, attempt, delta_less_rounding, quiet, round_up

PRV = f"prv-accountant {version('prv-accountant')}"
PLD = f"dp-accounting {version('dp-accounting')} (PLD)"
RDP = f"dp-accounting {version('dp-accounting')} (RDP)"
CLOSED_FORM = f"dp-accounting {version('dp-accounting')} (closed form)"

EPS_ERROR = 0.003  # PRV's error, relative to epsilon: costs under 0.3 % of noise and under a second
_PRV_CELLS = 2**20  # takes about two seconds; beyond that PLD is used


def epsilon_prv(noise: float, rate: float, steps: int, delta: float, eps_error: float) -> float:
    """The upper end of PRV's interval, width about 2 eps_error (Gopi et al. 2021, theorem 5.5)."""
    delta = delta_less_rounding(delta, steps)
    delta_error = delta / 1000
    mechanism = PoissonSubsampledGaussianMechanism(sampling_probability=rate, noise_multiplier=noise)
    _refuse_long(steps, delta_error)
    with quiet():
        reach = float(compute_safe_domain_size([mechanism], [steps], eps_error, delta_error))
        mesh = eps_error / math.sqrt(steps / 2 * math.log(12 / delta_error))
        if not 2 * reach / mesh <= _PRV_CELLS:
            raise ArithmeticError(f"PRV needs {2 * reach / mesh:.0f} cells, above {_PRV_CELLS}")
        accountant = PRVAccountant(
            [mechanism], eps_error=eps_error, delta_error=delta_error, max_self_compositions=[steps]
        )
        _, _, upper = accountant.compute_epsilon(delta, [steps])
    return round_up(upper)


def heterogeneous_prv(parts: Sequence[StepGroup], delta: float) -> tuple[float, float]:
    """The lower and upper ends of PRV's interval for `parts` together, for removal only (Gopi et al. 2021)."""
    total = sum(steps for _, _, steps in parts)
    below = delta_less_rounding(delta, total)
    alone = parts[0] if len(parts) == 1 and parts[0][1] < 1 else None
    near = heterogeneous_rdp(parts, delta) if alone is None else epsilon_quick(*alone, delta)[0]  # as `epsilon_upper`
    eps_error, delta_error = EPS_ERROR * near, delta / 1000
    mechanisms = [
        GaussianMechanism(noise) if rate == 1 else PoissonSubsampledGaussianMechanism(rate, noise)
        for noise, rate, _ in parts
    ]
    counts = [steps for _, _, steps in parts]
    _refuse_long(total, delta_error)
    with quiet():
        reach = float(compute_safe_domain_size(mechanisms, counts, eps_error, delta_error))
        cells = len(parts) * 2 * reach * math.sqrt(total / 2 * math.log(12 / delta_error)) / eps_error
        if not cells <= _PRV_CELLS:
            raise ArithmeticError(f"PRV needs {cells:.0f} cells, above {_PRV_CELLS}")
        accountant = PRVAccountant(mechanisms, eps_error, delta_error, counts)
        composed = accountant.compute_composition(counts)
        lower, _, _ = composed.compute_epsilon(2 * delta - below, delta_error, eps_error)
        _, _, upper = composed.compute_epsilon(below, delta_error, eps_error)
    return max(float(lower), 0.0), round_up(upper)


def _refuse_long(steps: int, delta_error: float) -> None:
    """Raise ArithmeticError early if too many cells are needed even for the smallest possible domain."""
    least = 2 / EPS_ERROR * math.sqrt(steps / 2 * math.log(12 / delta_error))
    if not least <= _PRV_CELLS:
        raise ArithmeticError(f"PRV needs {least:.0f} cells at least, above {_PRV_CELLS}")


def epsilon_quick(noise: float, rate: float, steps: int, delta: float, cells: int = FINE_CELLS) -> tuple[float, str]:
    """A valid upper bound in tens of milliseconds, and its accountant: closed form at rate 1, else PLD, else RDP."""
    _check(noise, rate, steps, delta)
    if rate == 1:
        return epsilon_gaussian(noise, steps, delta), CLOSED_FORM
    pld = attempt(lambda: epsilon_pld(noise, rate, steps, delta, cells))
    if pld is not None:
        return pld, PLD
    rdp = attempt(lambda: epsilon_rdp(noise, rate, steps, delta))
    if rdp is not None:
        return rdp, RDP
    raise UserError(
        f"noise must be within reach of an accountant, got {noise!r} at rate {rate!r}, {steps} steps, "
        f"delta {delta!r}; raise the noise or --delta"
    )


def epsilon_upper(noise: float, rate: float, steps: int, delta: float) -> tuple[float, str]:
    """An upper bound on epsilon after `steps` releases, and the accountant that gave it.

    PRV's upper bound if it is valid, else PLD's, else RDP's. PRV covers removal only, PLD covers adding too. PRV's
    error term puts it above PLD; if it falls below, something is wrong, and the larger bound is returned.
    """
    quick, name = epsilon_quick(noise, rate, steps, delta)
    if name == CLOSED_FORM:
        return quick, name
    prv = attempt(lambda: epsilon_prv(noise, rate, steps, delta, EPS_ERROR * quick))
    if prv is None or name != PLD or prv < quick:
        return quick, name
    return prv, PRV


def epsilon_curve(
    noise: float, rate: float, steps: int, delta: float, final: float = math.inf
) -> Callable[[int], float]:
    """An upper bound on epsilon after k of `steps` charged steps, for display: cheap, monotone, 0 at k = 0.

    Computed once on a grid of step counts; k is rounded up to the next grid point. `final`: a bound known to hold
    after all steps (`Plan.epsilon_upper`), which caps the curve.
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
    """A quick upper bound on epsilon after each number of steps in `grid` (ascending)."""
    if rate == 1:
        return [epsilon_gaussian(noise, k, delta) for k in grid]

    values = attempt(lambda: pld_over(noise, rate, grid, delta, COARSE_CELLS))
    return rdp_over(noise, rate, grid, delta) if values is None else values


def _check(noise: float, rate: float, steps: int, delta: float) -> None:
    for name, ok, value in (
        ("noise must be a finite number above 0", math.isfinite(noise) and noise > 0, noise),
        ("rate must lie in (0, 1]", 0 < rate <= 1, rate),
        ("steps must be a whole number above 0", isinstance(steps, int) and steps >= 1, steps),
        ("delta must lie between 0 and 1", 0 < delta < 1, delta),
    ):
        if not ok:
            raise UserError(f"{name}, got {value!r}; make a new plan")
