"""The bounds are bounds, the noise is enough and not too much, and no file can forge a label."""

from __future__ import annotations

import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant
from scipy.stats import norm

from dpft.errors import UserError
from dpft.privacy.accounting import accountants, pld, rdp
from dpft.privacy.accounting.accountants import CLOSED_FORM, PLD, PRV, RDP, epsilon_curve, epsilon_prv, epsilon_upper
from dpft.privacy.accounting.closed_form import epsilon_gaussian
from dpft.privacy.accounting.pld import epsilon_pld
from dpft.privacy.accounting.rdp import epsilon_rdp
from dpft.privacy.calibration import cache, calibrate
from dpft.spec import Budget

REAL_ACCOUNTANTS = True
SMALL = (0.8, 0.02, 100, 1e-5)  # noise, rate, steps, delta
BUDGET = Budget(2.0, 1e-5)
PAPER = [
    (392702, 0.643), (67349, 0.925),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in ((363846, 0.651), (104743, 0.831))),  # between these
]  # fmt: skip


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def prv_interval(noise: float, rate: float, steps: int, delta: float, eps_error: float) -> tuple[float, ...]:
    """PRV's lower bound, estimate and upper bound, straight from the package."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        accountant = PRVAccountant([PoissonSubsampledGaussianMechanism(rate, noise)], eps_error, delta / 1000, [steps])
        return tuple(accountant.compute_epsilon(delta, [steps]))


def gaussian_delta(noise: float, epsilon: float) -> float:
    """Balle and Wang 2018, theorem 8."""
    half = 1 / (2 * noise)
    return float(norm.cdf(half - epsilon * noise) - math.exp(epsilon) * norm.cdf(-half - epsilon * noise))


def one_step_epsilon(noise: float, rate: float, delta: float) -> float:
    """Exact for one sampled step: log(1 + rate (exp(e) - 1)), e the Gaussian's at delta / rate (amplification)."""
    return math.log1p(rate * math.expm1(epsilon_gaussian(noise, 1, delta / rate)))


@pytest.mark.parametrize("noise", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("steps", [1, 49])
def test_rate_one_is_the_closed_form_never_zero_and_rounded_up(noise: float, steps: int) -> None:
    epsilon, name = epsilon_upper(noise, 1.0, steps, 1e-6)
    assert name == CLOSED_FORM
    one = noise / math.sqrt(steps)
    assert gaussian_delta(one, epsilon) <= 1e-6 < gaussian_delta(one, epsilon - 1e-6 * max(1, epsilon))


@pytest.mark.parametrize(("steps", "delta"), [(10, 1e-6), (1000, 1e-9), (1000, 1e-12), (100_000, 1e-9)])
def test_pld_never_falls_below_the_closed_form_and_stays_within_one_percent(steps: int, delta: float) -> None:
    """Without the delta held back for FFT rounding, (1000, 1e-12) comes out below the exact value."""
    noise = 0.75 * math.sqrt(steps)
    exact = epsilon_gaussian(noise, steps, delta)
    assert exact <= epsilon_pld(noise, 1.0, steps, delta) <= 1.01 * exact


def test_a_delta_below_float64_is_left_to_rdp() -> None:
    with pytest.raises(ArithmeticError, match="too small for float64"):
        epsilon_pld(300.0, 0.5, 100_000, 1e-12)
    exact = epsilon_gaussian(300.0, 100_000, 1e-12)  # rate 0.5 is more private than rate 1
    epsilon, name = epsilon_upper(300.0, 0.5, 100_000, 1e-12)
    assert name == RDP
    assert 0.3 * exact < epsilon < exact


@pytest.mark.parametrize(("noise", "rate"), [(0.6, 0.003), (1.0, 0.1), (3.0, 0.5)])
def test_every_accountant_bounds_the_exact_epsilon_of_one_sampled_step(noise: float, rate: float) -> None:
    exact = one_step_epsilon(noise, rate, 1e-6)
    assert exact <= epsilon_pld(noise, rate, 1, 1e-6) <= 1.005 * exact
    assert exact <= epsilon_prv(noise, rate, 1, 1e-6, 0.003 * exact) <= 1.005 * exact
    assert exact <= epsilon_rdp(noise, rate, 1, 1e-6)


@pytest.mark.parametrize("case", [SMALL, (0.6407, 2048 / 392702, 3835, 1e-6), (0.9252, 2048 / 67349, 658, 1e-6)])
def test_the_accountants_agree_and_none_is_below_the_lower_bound(case: tuple[float, float, int, float]) -> None:
    """Returning PRV's estimate, or its lower end, fails the second line."""
    lower, estimate, upper = prv_interval(*case, eps_error=0.02)
    assert epsilon_prv(*case, eps_error=0.02) == pytest.approx(upper, abs=1e-3)
    assert lower < estimate < epsilon_pld(*case) < upper
    assert epsilon_pld(*case) == pytest.approx(estimate, abs=0.005)
    assert upper < epsilon_rdp(*case) < 1.5 * upper


def test_the_bound_grows_with_rate_and_steps_and_falls_with_noise_and_delta() -> None:
    noise, rate, steps, delta = SMALL
    base, _ = epsilon_upper(*SMALL)
    assert epsilon_upper(noise * 1.05, rate, steps, delta)[0] < base
    assert epsilon_upper(noise, rate * 1.05, steps, delta)[0] > base
    assert epsilon_upper(noise, rate, steps + 10, delta)[0] > base
    assert epsilon_upper(noise, rate, steps, delta * 2)[0] < base


def test_where_prv_fails_pld_answers_then_rdp_and_the_name_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert epsilon_upper(*SMALL)[1] == PRV
    for bad in (math.nan, math.inf, -1.0):
        monkeypatch.setattr(PRVAccountant, "compute_epsilon", lambda *_, bad=bad: (bad, bad, bad))
        assert epsilon_upper(*SMALL) == (epsilon_pld(*SMALL), PLD)

    def fail(*_: object) -> float:
        raise AssertionError("as the package does")

    monkeypatch.setattr(accountants, "epsilon_pld", fail)
    assert epsilon_upper(*SMALL) == (epsilon_rdp(*SMALL), RDP)
    monkeypatch.setattr(accountants, "epsilon_rdp", fail)
    with pytest.raises(UserError, match="within reach of an accountant"):
        epsilon_upper(*SMALL)


def test_where_prv_falls_below_pld_the_larger_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accountants, "epsilon_prv", lambda *_: 0.5 * epsilon_pld(*SMALL))
    assert epsilon_upper(*SMALL) == (epsilon_pld(*SMALL), PLD)


def test_a_negative_renyi_divergence_is_not_read_as_epsilon_zero() -> None:
    one = 100 * rdp.one_step(SMALL[0], SMALL[1], rdp.ORDERS)
    spoilt = one.copy()
    spoilt[5] = -1e-18
    assert rdp.epsilon_of_divergences(spoilt, 1e-5, rdp.ORDERS) == rdp.epsilon_of_divergences(one, 1e-5, rdp.ORDERS)
    with pytest.raises(ArithmeticError, match="Renyi"):
        rdp.epsilon_of_divergences(-one, 1e-5, rdp.ORDERS)


def test_no_warning_leaks_and_no_warning_filter_stays_changed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)
        epsilon_upper(0.3, 0.02, 100, 1e-5)
        assert warnings.filters == before


@pytest.mark.parametrize(
    "case",
    [
        (0.0, 0.1, 1, 1e-5), (math.nan, 0.1, 1, 1e-5), (1.0, 0.0, 1, 1e-5), (1.0, 1.1, 1, 1e-5),
        (1.0, 0.1, 0, 1e-5), (1.0, 0.1, 1, 0.0), (1.0, 0.1, 1, 1.0), (1.0, math.nan, 1, 1e-5),
    ],
)  # fmt: skip
def test_nonsense_is_refused(case: tuple[float, float, int, float]) -> None:
    with pytest.raises(UserError):
        epsilon_upper(*case)


@pytest.mark.parametrize("rate", [0.02, 1.0])
def test_the_curve_bounds_every_step_count_and_ends_at_the_plan(rate: float) -> None:
    """Rounding k down to the grid, or interpolating, would fall below the fine bound between grid points."""
    noise, _, steps, delta = SMALL
    final, _ = epsilon_upper(noise, rate, steps, delta)
    after = epsilon_curve(noise, rate, steps, delta, final)
    values = [after(k) for k in range(steps + 1)]
    assert values[0] == 0.0
    assert values == sorted(values)
    assert values[-1] <= final
    assert values[-1] == pytest.approx(final, rel=0.01)
    for k in (1, 2, 3, 17, 51, 98, 99):
        fine = epsilon_gaussian(noise, k, delta) if rate == 1 else prv_interval(noise, rate, k, delta, 0.01)[0]
        assert values[k] >= fine > 0
    for k in (-1, steps + 1):
        with pytest.raises(UserError, match="charged steps"):
            after(k)


def test_what_an_accountant_keeps_is_what_it_found_and_nobody_can_change_it() -> None:
    # Catches an array or a list handed out as it is kept: adding up in place would change every later bound.
    noise, rate, steps, delta = SMALL
    kept = rdp.one_step(noise, rate, rdp.ORDERS)
    with pytest.raises(ValueError, match="read-only"):
        kept *= 0
    np.testing.assert_array_equal(kept, rdp.one_step.__wrapped__(noise, rate, rdp.ORDERS))
    first = pld.pld_over(noise, rate, [1, steps], delta)
    first[:] = [0.0, 0.0]
    assert pld.pld_over(noise, rate, [1, steps], delta) == list(
        pld._pld_over.__wrapped__(noise, rate, (1, steps), delta, pld.FINE_CELLS)
    )


@pytest.mark.parametrize(("examples", "paper"), PAPER)
def test_the_papers_noise_is_reproduced_or_beaten_and_one_percent_less_is_too_little(
    examples: int, paper: float
) -> None:
    """The paper: rate 2048/N, 20 floor(N/2048) steps, PRV's upper bound, eps_error 0.1, three decimals.

    Solving with the estimate would fail the third line: no room would be left for PRV's own error.
    """
    rate, steps = 2048 / examples, 20 * (examples // 2048)
    noise, upper, name = calibrate.calibrate(rate, steps, Budget(6.7, 1e-6))
    assert 0.98 * paper < noise <= paper + 0.0005
    assert (name, 0.995 * 6.7 <= upper <= 6.7) == (PRV, True)
    assert (upper, name) == epsilon_upper(noise, rate, steps, 1e-6)
    assert prv_interval(0.99 * noise, rate, steps, 1e-6, 0.03)[0] > 6.7


def test_the_gaussian_limits_noise_is_rejected() -> None:
    """Gaussian-DP calibration gives 0.862 where about 0.92 is needed: it spends 8, and labels it 6.7."""
    rate, steps, budget = 2048 / 67349, 658, Budget(6.7, 1e-6)
    guess = calibrate._first_guess(rate, steps, budget)
    assert guess == pytest.approx(0.862, abs=0.01)
    assert prv_interval(guess, rate, steps, 1e-6, 0.05)[0] > 1.08 * 6.7
    assert epsilon_upper(guess, rate, steps, 1e-6)[0] > 1.08 * 6.7


@pytest.mark.parametrize(
    ("rate", "steps", "epsilon", "delta"),
    [
        (1.0, 100_000, 0.01, 1e-12), (0.5, 1000, 0.01, 1e-12), (0.999, 50, 8.0, 1e-6), (0.07, 6, 22.0, 2e-11),
        (0.005, 50_000, 0.3, 1e-9), (1e-4, 5, 100.0, 1e-5), (1.0, 1, 100.0, 1e-2),
    ],
)  # fmt: skip
def test_calibration_is_within_budget_and_one_percent_of_the_optimum_in_every_regime(
    rate: float, steps: int, epsilon: float, delta: float
) -> None:
    noise, upper, name = calibrate.calibrate(rate, steps, Budget(epsilon, delta))
    assert 0.99 * epsilon <= upper <= epsilon
    assert accountants.epsilon_quick(noise, rate, steps, delta)[0] <= upper
    assert accountants.epsilon_quick(0.99 * noise, rate, steps, delta)[0] > epsilon
    assert name in (PRV, PLD, CLOSED_FORM)


def test_an_epsilon_out_of_reach_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^epsilon must be reachable .* got 1e-09 .*; pass a larger --epsilon"):
        calibrate.calibrate(0.1, 100, Budget(1e-9, 1e-6))
    with pytest.raises(UserError, match="epsilon must be reachable"):
        calibrate.calibrate(1.0, 100_000, Budget(2e-6, 1e-12))


def test_a_delta_above_the_chance_of_being_drawn_is_refused() -> None:
    with pytest.raises(UserError, match="chance that a unit is ever drawn"):
        calibrate.calibrate(1e-5, 50, Budget(1.0, 1e-3))


def no_search(*_: object) -> tuple[float, float, str]:
    raise LookupError("searched")


def test_a_cached_calibration_is_not_searched_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first = calibrate.calibrate(0.02, 100, BUDGET)
    monkeypatch.setattr(calibrate, "_search", no_search)
    assert calibrate.calibrate(0.02, 100, BUDGET) == first
    for other in ((0.021, 100, BUDGET), (0.02, 101, BUDGET), (0.02, 100, Budget(2.0, 1.01e-5))):
        with pytest.raises(LookupError):
            calibrate.calibrate(*other)
    monkeypatch.setattr(cache, "version", lambda name: "another")
    with pytest.raises(LookupError):
        calibrate.calibrate(0.02, 100, BUDGET)


def test_a_poisoned_cache_cannot_forge_a_label(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trusting the file would under-noise (1), understate epsilon (2, 3), or waste accuracy (4)."""
    honest = calibrate.calibrate(0.02, 100, BUDGET)
    noise, upper, name = honest
    monkeypatch.setattr(calibrate, "_search", no_search)  # a disbelieved entry leads there
    file = cache_folder / "calibration.json"
    poison: list[object] = [
        [0.97 * noise, upper, name],
        [noise, 0.5 * upper, name],
        [0.9 * noise, 1.0, name],
        [2 * noise, upper, name],
        [noise, upper + 1, name],
        [noise, upper, "an accountant of mine"],
        [-noise, upper, name],
        [1e-300, upper, name],
        [math.nan, upper, name],
        [noise, upper],
        "noise",
        None,
    ]
    for entry in poison:
        file.write_text(json.dumps({cache.key(0.02, 100, BUDGET): entry}))
        with pytest.raises(LookupError):
            calibrate.calibrate(0.02, 100, BUDGET)
    file.write_text(json.dumps({cache.key(0.02, 100, BUDGET): honest}))
    assert calibrate.calibrate(0.02, 100, BUDGET) == honest


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"a": NaN}', "\x80"])
def test_a_corrupt_cache_is_ignored_and_replaced(cache_folder: Path, text: str) -> None:
    cache_folder.mkdir()
    (cache_folder / "calibration.json").write_bytes(text.encode("latin-1"))
    assert cache.read("k") is None
    cache.write("k", (1.0, 2.0, PRV))
    assert cache.read("k") == (1.0, 2.0, PRV)


def test_an_unwritable_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DPFT_CACHE", str(tmp_path / "file"))
    cache.write("k", (1.0, 2.0, PRV))
    assert cache.read("k") is None


def test_a_failed_write_leaves_the_old_cache_and_no_litter(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write("k", (1.0, 2.0, PRV))

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    cache.write("k", (3.0, 4.0, PRV))
    assert cache.read("k") == (1.0, 2.0, PRV)
    assert [file.name for file in cache_folder.iterdir()] == ["calibration.json"]
