"""Trade-offs of a budget: the longest plan at a given noise, a plan for several runs, other batch sizes, curves."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal, localcontext

from dpft.errors import UserError
from dpft.privacy.accounting.accountants import epsilon_over, epsilon_quick
from dpft.privacy.accounting.pld import COARSE_CELLS
from dpft.privacy.calibration.calibrate import NOISE_LIMITS, calibrate, most_steps
from dpft.privacy.mechanism.plan import Plan, make_plan
from dpft.recipe import choose_schedule
from dpft.spec import Budget, Spec, steps_of

_MOST_RUNS = 10_000
_POINTS = 60


def longest_plan(spec: Spec, examples: int, noise: float) -> tuple[Plan, float]:
    """The plan with the most steps that the budget allows at `noise`, and its epochs, rounded down to six digits."""
    low, high = NOISE_LIMITS
    if not low <= noise <= high:
        raise UserError(f"noise must lie in {low:g} to {high:g}, got {noise!r}; pass --noise within them")
    budget = _budget(spec)
    _check(spec, examples)
    spec = choose_schedule(spec, examples).spec
    assert spec.batch_size is not None
    assert spec.clip is not None
    rate = spec.batch_size / examples
    steps, upper, name = most_steps(noise, rate, budget)
    plan = Plan(rate, steps, float(noise), spec.clip, spec.batch_size, budget, upper, name)
    return plan, _down(steps * spec.batch_size / examples, 6)


def shared_plan(spec: Spec, examples: int, runs: int) -> tuple[Plan, float]:
    """The plan of each of `runs` runs of `spec` that share its budget, and the epsilon to ask for each run alone.

    `epsilon_upper` is that of all runs together: their steps compose, which is far less than their epsilons' sum.
    Calibrated to the second value, a run gets at least the plan's noise, so that all of them keep the promise.
    """
    if not 1 <= runs <= _MOST_RUNS:
        raise UserError(f"runs must be a whole number of 1 to {_MOST_RUNS}, got {runs!r}; pass --runs")
    budget = _budget(spec)
    alone = make_plan(spec, examples)  # raises UserError if no such run is possible
    noise, upper, name = calibrate(alone.rate, alone.steps * runs, budget)
    plan = dataclasses.replace(alone, noise=noise, epsilon_upper=upper, accountant=name)
    return plan, _each(plan, budget)


def _each(plan: Plan, budget: Budget) -> float:
    """An epsilon whose calibration for one run of `plan` gives its noise or a little more."""
    epsilon, _ = epsilon_quick(plan.noise, plan.rate, plan.steps, budget.delta)
    for _ in range(20):
        epsilon = _down(0.998 * epsilon, 4)
        if calibrate(plan.rate, plan.steps, Budget(epsilon, budget.delta))[0] >= plan.noise:
            return epsilon
    raise UserError(f"each run's epsilon must be found near {epsilon!r}, got none; pass fewer --runs")


def spent_over_steps(plan: Plan, steps: int) -> list[tuple[float, float]]:
    """Points (steps, upper bound on epsilon), ascending, from 0 to `steps`."""
    early = {2**i for i in range(steps.bit_length()) if 2**i <= steps / _POINTS}
    grid = sorted(early | {math.ceil(steps * i / _POINTS) for i in range(1, _POINTS + 1)})
    bounds = epsilon_over(plan.noise, plan.rate, grid, _budget_of(plan).delta)
    final = math.inf if plan.epsilon_upper is None else plan.epsilon_upper
    rising = itertools.accumulate((min(bound, final) for bound in bounds), max)
    return [(0.0, 0.0), *((float(k), epsilon) for k, epsilon in zip(grid, rising, strict=True))]


def noise_over_epsilon(plan: Plan, steps: int) -> list[tuple[float, float]]:
    """Points (upper bound on epsilon, noise) for `steps` steps, at half to three times the plan's noise."""
    delta, points = _budget_of(plan).delta, []
    for power in range(-5, 9):
        noise = plan.noise * 3 ** (power / 8)
        points.append((epsilon_quick(noise, plan.rate, steps, delta, COARSE_CELLS)[0], noise))
    return points


def _check(spec: Spec, examples: int) -> None:
    """Check examples, batch size and delta as `make_plan` does. Raises UserError."""
    make_plan(dataclasses.replace(spec, budget=None), examples)
    delta = _budget(spec).delta
    if delta >= 1 / examples:
        raise UserError(f"delta must be below 1/examples = {1 / examples:.2g}, got {delta!r}; pass --delta")


def _budget(spec: Spec) -> Budget:
    if spec.budget is None:
        raise UserError("a budget must be given, got none; pass --epsilon and --delta")
    return spec.budget


def _budget_of(plan: Plan) -> Budget:
    if plan.budget is None:
        raise UserError("a private plan must be given, got one without a budget; pass --epsilon and --delta")
    return plan.budget


def _down(value: float, digits: int) -> float:
    with localcontext(prec=digits, rounding=ROUND_FLOOR):
        return float(+Decimal(value))


@dataclass(frozen=True)
class Alternative:
    """Another plan for the same budget: what is changed, and the noise that its gradients would have.

    `noise` is approximate, not a bound. `share`: deviation of the noise on the mean gradient of one step, noise * clip
    / batch size. `whole`: on the mean over all steps, share / sqrt(steps). `time`: rows drawn, relative to the first
    offer.
    """

    change: str
    batch_size: int
    epochs: float
    steps: int
    noise: float
    share: float
    whole: float
    time: float


def offers(spec: Spec, examples: int) -> list[Alternative]:
    """The effect of larger batches, more epochs and more examples. The spec's own plan comes first.

    Loss follows the noise over the batch (Ponomareva et al. 2023, section 5; McKenna et al. 2025). Noise is found to
    three digits by PLD: for advice, not for a promise.
    """
    own = choose_schedule(spec, examples).spec
    assert own.batch_size is not None
    assert own.epochs is not None
    batch, epochs = own.batch_size, own.epochs
    asked = [("as planned", batch, epochs, examples)]
    if 2 * batch <= examples:
        asked.append(("twice the batch, as many steps", 2 * batch, 2 * epochs, examples))
        asked.append(("twice the batch, half the steps", 2 * batch, epochs, examples))
    if batch >= 2:
        asked.append(("half the batch, as many steps", batch // 2, epochs * (batch // 2) / batch, examples))
    asked.append(("twice the epochs", batch, 2 * epochs, examples))
    asked.append(("twice the examples, as many steps", batch, epochs / 2, 2 * examples))
    found: list[Alternative] = []
    for change, size, passes, count in asked:
        other = dataclasses.replace(own, batch_size=size, epochs=passes)
        steps = steps_of(other, count)
        noise = _about(size / count, steps, _budget(spec))
        share = noise * (own.clip or 1.0) / size
        time = steps * size / (found[0].steps * batch) if found else 1.0
        found.append(Alternative(change, size, passes, steps, noise, share, share / math.sqrt(steps), time))
    return found


def _about(rate: float, steps: int, budget: Budget) -> float:
    """The noise that a budget needs, to three digits."""
    low, high = (math.log(limit) for limit in NOISE_LIMITS)
    while high - low > 1e-3:
        middle = (low + high) / 2
        if epsilon_quick(math.exp(middle), rate, steps, budget.delta, COARSE_CELLS)[0] > budget.epsilon:
            low = middle
        else:
            high = middle
    return math.exp(high)
