"""Epsilon of any sequence of segments: held against closed forms, integrals and certified lower bounds."""

from __future__ import annotations

import json
import math
import time
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import binom, norm

from dpft.errors import UserError
from dpft.privacy.accounting import isolated, segments
from dpft.privacy.accounting import pld as losses
from dpft.privacy.accounting import rdp as renyi
from dpft.privacy.accounting.accountants import CLOSED_FORM, PLD, PRV, RDP, epsilon_quick, heterogeneous_prv
from dpft.privacy.accounting.closed_form import epsilon_gaussian
from dpft.privacy.accounting.pld import epsilon_pld, heterogeneous_pld
from dpft.privacy.accounting.rdp import heterogeneous_rdp
from dpft.privacy.accounting.rounding import StepGroup
from dpft.privacy.accounting.segments import Bound, Segment, epsilon_filter, epsilon_of

PARTS: list[StepGroup] = [(0.9, 0.03, 200), (1.5, 0.1, 60), (6.0, 1.0, 1)]


REAL_ACCOUNTANTS = True


def gaussian_delta(noise: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8, as an integral of positive terms: nothing cancels."""

    def excess(loss: float) -> float:  # the loss is normal with mean 1/(2 noise^2) and deviation 1/noise
        return float(norm.pdf(loss, 1 / (2 * noise**2), 1 / noise) * -math.expm1(epsilon - loss))

    mean = 1 / (2 * noise**2)
    low = max(epsilon, mean - 40 / noise)
    return float(quad(excess, low, max(epsilon, mean) + 40 / noise, epsabs=0, epsrel=1e-9, limit=500)[0])


def one_step_epsilon(noise: float, rate: float, delta: float) -> float:
    """Integrate the hockey-stick divergence of (1 - q) N(0) + q N(1) from N(0), and of N(0) from it; invert by root."""

    def density(x: float) -> tuple[float, float]:
        without = float(norm.pdf(x, 0, noise))
        return (1 - rate) * without + rate * float(norm.pdf(x, 1, noise)), without

    def divergence(epsilon: float) -> float:
        places = np.linspace(-12 * noise, 1 + 12 * noise, 61)

        def positive(x: float, remove: bool) -> float:
            mixed, without = density(x)
            p, q = (mixed, without) if remove else (without, mixed)
            return max(p - math.exp(epsilon) * q, 0.0)

        def integral(remove: bool) -> float:
            return sum(quad(positive, a, b, (remove,), epsabs=0)[0] for a, b in pairwise(places))

        return max(integral(True), integral(False))

    return float(brentq(lambda epsilon: math.log(max(divergence(epsilon), 1e-300) / delta), 1e-4, 60, xtol=1e-6))


def certified(noise: float, rate: float, steps: int, delta: float) -> float:
    """A lower bound: tell the sum of all releases, a normal around a binomial count, from one without, by thresholds.

    Any threshold gives one (Dwork and Roth 2014, definition 2.4): epsilon >= log((P[sees] - delta) / Q[sees]).
    """
    scale, mean, spread = noise * math.sqrt(steps), steps * rate, math.sqrt(steps * rate * (1 - rate))
    low, high = max(0, math.floor(mean - 9 * spread - 5)), min(steps, math.ceil(mean + 9 * spread + 30))
    counts = np.unique(np.linspace(low, high, min(high - low, 4000) + 1).astype(int))
    weights = binom.pmf(counts, steps, rate)
    rest, slack, wide = max(0.0, 1 - float(weights.sum())), 1e-8, math.hypot(scale, spread)
    best = 0.0
    for x in [*(mean + wide * np.linspace(-3, 12, 31)), *(scale * np.linspace(-3, 12, 31) + 1)]:
        seen = (1 - slack) * float(weights @ norm.sf((x - counts) / scale))
        if seen > delta:
            best = max(best, math.log(seen - delta) - float(norm.logsf(x / scale)))
        seen = (1 - slack) * float(norm.cdf(x / scale))
        if seen > delta:
            missed = (1 + slack) * float(weights @ norm.cdf((x - counts) / scale)) + rest + 1e-300
            best = max(best, math.log(seen - delta) - math.log(missed))
    return best


def regimes(count: int, seed: int) -> list[tuple[float, float, int, float]]:
    """(noise, rate, steps, delta), logarithmically even over the box, with corners."""
    draw = Random(seed)
    return [
        (
            10 ** draw.uniform(math.log10(0.3), 2),
            draw.choice((10 ** draw.uniform(-6, 0), 10 ** draw.uniform(-6, 0), 1 - 10 ** draw.uniform(-6, -1))),
            draw.choice((1, round(10 ** draw.uniform(0, 6)), round(10 ** draw.uniform(0, 6)))),
            10 ** draw.uniform(-15, -2),
        )
        for _ in range(count)
    ]


def assert_sound(noise: float, rate: float, steps: int, delta: float) -> int:
    """Every bound that an accountant gives is a number at or above the certified lower bound; how many gave one."""
    lower, answers = certified(noise, rate, steps, delta), 0
    part = [(noise, rate, steps)]
    for bound in (
        lambda: heterogeneous_pld(part, delta),
        lambda: heterogeneous_rdp(part, delta),
        lambda: epsilon_filter([Segment(*each) for each in part], delta),
        lambda: epsilon_quick(noise, rate, steps, delta, losses.COARSE_CELLS)[0],
        lambda: epsilon_gaussian(noise, steps, delta),
    ):
        try:
            epsilon = bound()
        except (ArithmeticError, UserError):
            continue
        answers += 1
        assert epsilon > 0
        assert math.isfinite(epsilon)
        assert epsilon >= lower, f"{epsilon} below {lower} at {(noise, rate, steps, delta)}"
    return answers


@pytest.mark.parametrize("case", regimes(16, seed=4), ids=lambda case: "-".join(f"{x:.2g}" for x in case))
def test_no_bound_is_zero_nan_or_below_a_certified_lower_bound_in_any_regime(
    case: tuple[float, float, int, float],
) -> None:
    assert assert_sound(*case) >= 1


@pytest.mark.parametrize("rate", [1e-6, 1e-3, 0.5, 0.999999])
@pytest.mark.parametrize("noise", [0.3, 100.0])
@pytest.mark.parametrize(("steps", "delta"), [(1, 1e-15), (1, 1e-2), (10**6, 1e-15), (10**6, 1e-2)])
def test_no_bound_is_below_a_certified_lower_bound_in_any_corner(
    noise: float, rate: float, steps: int, delta: float
) -> None:
    assert assert_sound(noise, rate, steps, delta) >= 1


@pytest.mark.parametrize("noise", [0.3, 1.1, 100.0])
@pytest.mark.parametrize("rate", [2e-6, 1e-3, 0.5])
@pytest.mark.parametrize("steps", [999, 10**6])
def test_no_loss_distribution_outgrows_its_grid(noise: float, rate: float, steps: int) -> None:
    """All steps composed at once, or a grid from the chi-square deviation, grow to gigabytes at noise 0.3."""
    cells = losses.COARSE_CELLS
    one = losses._one_step(noise, rate, losses._interval([(noise, rate, steps)], cells))
    assert one._pmf_remove.size <= 2 * cells
    assert losses._power(one, steps)._pmf_remove.size <= 40 * cells


@pytest.mark.parametrize("steps", [1, 2, 300, 5000, 123_457])
def test_composing_in_stages_is_the_closed_form_at_rate_one_and_counts_every_step(steps: int) -> None:
    """Dropping the rest of the last stage, or its tail, fails: 123 457 is a multiple of no stage."""
    noise = 2 * math.sqrt(steps)
    exact = epsilon_gaussian(noise, steps, 1e-6)
    assert exact - 1e-6 <= epsilon_pld(noise, 1.0, steps, 1e-6) <= 1.005 * exact


def test_a_grid_loses_little_where_a_step_is_seldom_seen_and_seldom_small() -> None:
    """Oracle for one step: log(1 + q (exp(e) - 1)), e the Gaussian's at delta / q (amplification by sampling)."""
    for noise, rate, delta in ((0.3, 1e-3, 1e-15), (0.3, 1e-6, 1e-15), (5.0, 0.07, 1e-12)):
        exact = math.log1p(rate * math.expm1(epsilon_gaussian(noise, 1, delta / rate)))
        assert exact * (1 - 1e-6) <= epsilon_pld(noise, rate, 1, delta) <= 1.02 * exact


def test_an_optimistic_pld_estimate_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The injected bug: connect-the-dots without its pessimism, which puts mass at too small a loss."""
    honest = privacy_loss_distribution.from_gaussian_mechanism
    case = (10.0, 0.5, 2000, 1e-6)
    assert_sound(*case)

    def optimistic(noise: float, **options: object) -> object:
        wide = {"value_discretization_interval": 0.05, "pessimistic_estimate": False}
        return honest(noise, **{**options, **wide, "use_connect_dots": False})

    monkeypatch.setattr(privacy_loss_distribution, "from_gaussian_mechanism", optimistic)
    with pytest.raises(AssertionError, match="below"):
        assert_sound(*case)


def test_an_rdp_that_reads_a_negative_order_as_epsilon_zero_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The injected bug: one order's divergence comes out negative, and is not dropped."""
    case = (1.0, 0.01, 1000, 1e-6)
    honest, exact = renyi.one_step, heterogeneous_rdp([case[:3]], 1e-6)

    def spoilt(noise: float, rate: float, orders: tuple[float, ...]) -> np.ndarray:
        one = honest(noise, rate, orders).copy()
        one[5] = -1e-18
        return one

    monkeypatch.setattr(renyi, "one_step", spoilt)
    assert heterogeneous_rdp([case[:3]], 1e-6) == pytest.approx(exact, rel=0.05)
    assert_sound(*case)
    monkeypatch.setattr(
        renyi,
        "epsilon_of_divergences",
        lambda sums, delta, orders: max(renyi.compute_epsilon(orders, sums, delta)[0], 1e-6),
    )
    with pytest.raises(AssertionError, match="below"):
        assert_sound(*case)


def test_an_order_that_is_no_bound_in_one_segment_is_none_in_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The injected bug: an order is negative in one segment only, and its sum counts that segment for nothing."""

    class Spoilt(renyi.RdpAccountant):  # type: ignore[misc]
        @property
        def rdp(self) -> np.ndarray:
            return -np.asarray(super().rdp) if self.noise == 0.5 else np.asarray(super().rdp)

        def compose(self, event: object, count: int = 1) -> object:
            self.noise = event.event.noise_multiplier  # type: ignore[attr-defined]
            return super().compose(event, count)

    parts: list[StepGroup] = [(1.0, 0.01, 1000), (0.5, 0.02, 500)]
    exact = heterogeneous_rdp(parts, 1e-6)
    monkeypatch.setattr(renyi, "RdpAccountant", Spoilt)
    monkeypatch.setattr(renyi, "one_step", renyi.one_step.__wrapped__)  # what is kept was found without the bug
    assert heterogeneous_rdp(parts[:1], 1e-6) < exact
    with pytest.raises(ArithmeticError, match="Renyi"):
        heterogeneous_rdp(parts, 1e-6)


@pytest.mark.parametrize("noise", [1e-5, 1e-3, 0.05, 0.3, 5.0, 3e2, 9e3, 2e4, 1e6])
@pytest.mark.parametrize("delta", [1e-15, 1e-9, 1e-2])
def test_the_closed_form_holds_at_every_noise_and_is_tight(noise: float, delta: float) -> None:
    """Without care float64 cancels: at noise 1e6 and delta 1e-12 the package finds digits that are not there."""
    epsilon = epsilon_gaussian(noise, 1, delta)
    assert 0 < epsilon < math.inf
    assert gaussian_delta(noise, epsilon) <= delta * (1 + 1e-6)
    if epsilon > 2e-6:
        assert gaussian_delta(noise, 0.999 * epsilon - 2e-9) > delta


@pytest.mark.parametrize(("noise", "rate"), [(0.7, 0.01), (1.0, 0.1), (3.0, 0.5)])
def test_every_accountant_bounds_one_sampled_step_integrated_independently(noise: float, rate: float) -> None:
    exact = one_step_epsilon(noise, rate, 1e-6)
    part = [(noise, rate, 1)]
    lower, upper = heterogeneous_prv(part, 1e-6)
    assert lower <= exact + 1e-5
    assert exact - 1e-5 <= heterogeneous_pld(part, 1e-6) <= 1.005 * exact
    assert exact - 1e-5 <= upper <= 1.01 * exact
    assert exact - 1e-5 <= heterogeneous_rdp(part, 1e-6)
    assert exact - 1e-5 <= epsilon_gaussian(noise, 1, 1e-6)


def test_different_segments_agree_between_accountants_and_with_one_of_the_same_kind() -> None:
    pld = heterogeneous_pld(PARTS, 1e-6)
    lower, upper = heterogeneous_prv(PARTS, 1e-6)
    assert lower < pld < upper
    assert pld == pytest.approx(upper, rel=0.01)
    assert upper < heterogeneous_rdp(PARTS, 1e-6) < 1.5 * upper
    assert pld > max(heterogeneous_pld([part], 1e-6) for part in PARTS)
    nearly_split = heterogeneous_pld([(0.9, 0.03, 100), (0.9000001, 0.03, 100)], 1e-6)
    assert nearly_split == pytest.approx(epsilon_pld(0.9, 0.03, 200, 1e-6), rel=2e-3)


def test_gaussians_told_apart_by_their_noise_compose_to_the_closed_form() -> None:
    """An oracle for different segments: at rate 1 they equal one Gaussian, which PLD and PRV are not told."""
    parts: list[StepGroup] = [(20.0, 1.0, 40), (35.0, 1.0, 90)]
    exact = epsilon_gaussian(1 / math.sqrt(40 / 20**2 + 90 / 35**2), 1, 1e-6)
    assert exact <= heterogeneous_pld(parts, 1e-6) <= 1.005 * exact
    assert heterogeneous_prv(parts, 1e-6)[0] <= exact <= heterogeneous_prv(parts, 1e-6)[1]
    assert exact <= heterogeneous_rdp(parts, 1e-6)


def test_more_steps_or_segments_cost_more_and_more_noise_less() -> None:
    noise, rate, steps = PARTS[0]
    for bound in (heterogeneous_pld, heterogeneous_rdp):
        base = bound(PARTS, 1e-6)
        assert bound([(noise, rate, steps + 20), *PARTS[1:]], 1e-6) > base
        assert bound([(noise * 1.1, rate, steps), *PARTS[1:]], 1e-6) < base
        assert bound([(noise, rate * 1.1, steps), *PARTS[1:]], 1e-6) > base
        assert bound(PARTS, 1e-5) < base
        assert bound(PARTS[:2], 1e-6) < base


def of(*parts: StepGroup) -> list[Segment]:
    return [Segment(*part) for part in parts]


def test_rate_one_is_the_closed_form_of_the_total_noise() -> None:
    found = epsilon_of(of((2.0, 1.0, 3), (5.0, 1.0, 10)), 1e-6)
    assert found.accountant == CLOSED_FORM
    assert found.epsilon == epsilon_gaussian(1 / math.sqrt(3 / 4 + 10 / 25), 1, 1e-6)
    assert found.bounds == {CLOSED_FORM: found.epsilon}


def test_neither_order_nor_splitting_changes_what_the_accountants_are_asked() -> None:
    whole = segments._canonical(of(*PARTS, (6.0, 1.0, 1)))
    split = segments._canonical(of((6.0, 1.0, 2), (0.9, 0.03, 150), (1.5, 0.1, 60), (0.9, 0.03, 50)))
    assert whole == split
    assert whole[-1] == (pytest.approx(6 / math.sqrt(2)), 1.0, 1)


def test_the_least_sound_bound_is_taken_and_each_is_named_with_its_version() -> None:
    found = epsilon_of(of(*PARTS), 1e-6, seconds=200)
    assert set(found.bounds) == {PRV, PLD, RDP, CLOSED_FORM}
    assert all(any(c.isdigit() for c in name) for name in found.bounds)
    assert (found.epsilon, found.accountant) == (found.bounds[PLD], PLD)
    assert found.epsilon == pytest.approx(heterogeneous_pld(sorted(PARTS), 1e-6))
    assert json.loads(json.dumps(dict(found.bounds))) == found.bounds


@pytest.mark.parametrize(("noise", "delta"), [(0.5, 1e-5), (4.0, 1e-6), (60.0, 1e-12)])
def test_the_filter_pays_for_reading_off_its_order_after_the_fact(noise: float, delta: float) -> None:
    """Oracle: order a of a Gaussian is a / (2 noise^2); Canonne et al. 2020 at delta / K. Using delta itself fails."""
    orders = renyi.FILTER_ORDERS
    exact = min(
        a / (2 * noise**2) + (math.log(len(orders) / delta) - math.log(a)) / (a - 1) + math.log1p(-1 / a)
        for a in orders
    )
    assert epsilon_filter(of((2 * noise, 1.0, 3), (2 * noise, 1.0, 1)), delta) == pytest.approx(exact, rel=1e-9)


def test_what_may_be_chosen_late_costs_more_than_what_is_planned_but_not_much_more() -> None:
    for parts in ([(0.9, 0.03, 600)], [(5.0, 0.03, 600)], [(0.6, 0.005, 4000)], PARTS):
        planned, chosen = heterogeneous_rdp(parts, 1e-6), epsilon_filter(of(*parts), 1e-6)
        assert planned < chosen < 1.25 * planned
        assert epsilon_filter(of(*parts, (3.0, 0.01, 100)), 1e-6) > chosen
        assert epsilon_filter(of(*reversed(parts)), 1e-6) == chosen
    with pytest.raises(UserError, match="delta must lie"):
        epsilon_filter(of(*PARTS), 1.0)


def answers(monkeypatch: pytest.MonkeyPatch, prv: list[float] | None, pld: float | None, rdp: float | None) -> Bound:
    monkeypatch.setattr(isolated, "run", lambda *_: {PRV: prv, PLD: pld, RDP: rdp})
    return epsilon_of(of(*PARTS), 1e-6)


def test_prv_never_lowers_the_answer_and_refutes_what_is_below_its_lower_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """PRV looks at removal only: below PLD something is amiss, and alone it proves nothing."""
    assert answers(monkeypatch, [1.0, 1.5], 2.0, 2.5).epsilon == 2.0
    assert answers(monkeypatch, [1.0, 1.5], None, 2.5).accountant == RDP
    assert answers(monkeypatch, [2.2, 2.4], 2.0, 2.5).accountant == RDP
    assert answers(monkeypatch, [1.0, 1.5], None, None).accountant == RDP  # asked again, in this process
    assert answers(monkeypatch, None, 2.0, 1.9).accountant == RDP
    assert answers(monkeypatch, [1e9, 2e9], 2.0, 2.5).accountant == CLOSED_FORM


def test_an_accountant_that_hangs_or_crashes_is_skipped_and_never_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    real = isolated.run

    def sabotaged(calls: dict[str, isolated.Call], seconds: float) -> dict[str, object]:
        return real({**calls, PLD: ("time:sleep", [100]), PRV: ("os:abort", [])}, seconds)

    monkeypatch.setattr(isolated, "run", sabotaged)
    started = time.monotonic()
    found = epsilon_of(of(*PARTS), 1e-6, seconds=8)
    assert time.monotonic() - started < 40
    assert (found.bounds[PLD], found.bounds[PRV]) == (None, None)
    assert (found.epsilon, found.accountant) == (found.bounds[RDP], RDP)


def test_where_none_answers_in_time_rdp_still_does_and_else_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    found = epsilon_of(of(*PARTS), 1e-6, seconds=0)
    assert (found.epsilon, found.accountant) == (heterogeneous_rdp(sorted(PARTS), 1e-6), RDP)
    assert (found.bounds[PLD], found.bounds[PRV]) == (None, None)

    def fails(*_: object) -> float:
        raise ArithmeticError

    monkeypatch.setattr(segments, "heterogeneous_rdp", fails)
    found = epsilon_of(of(*PARTS), 1e-6, seconds=0)
    assert found.accountant == CLOSED_FORM
    assert list(found.bounds.values()).count(None) == 3


@pytest.mark.parametrize(
    "bad",
    [(0.0, 0.1, 1), (math.nan, 0.1, 1), (1e7, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, math.nan, 1), (1.0, 0.1, 0),
     (1.0, 0.1, 1.5), (1.0, 0.1, True), (1.0, 0.1, 10**13), ("1", 0.1, 1)],
)  # fmt: skip
def test_a_segment_that_is_none_is_refused(bad: tuple[float, float, int]) -> None:
    with pytest.raises(UserError, match=r"must .*, got .*; "):
        Segment(*bad)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan, -1e-6])
def test_a_delta_that_is_none_or_no_segment_at_all_is_refused(delta: float) -> None:
    with pytest.raises(UserError, match="delta must lie"):
        epsilon_of(of(*PARTS), delta)
    with pytest.raises(UserError, match="segments must hold one"):
        epsilon_of([], 1e-6)
