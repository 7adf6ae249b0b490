"""Lower bounds beside mechanisms whose epsilon is known: below the truth as often as stated, and not idle."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import pytest
from dp_accounting.gaussian_mechanism import get_epsilon_gaussian
from scipy import stats

from dpft.audit.evidence import lower_bounds
from dpft.audit.mechanism.attacks import Outcome, guess

DELTA, RISK, MU = 1e-5, 0.05, 1.0
TRUTH = get_epsilon_gaussian(1 / MU, DELTA)
THRESHOLD = 1.96


def played(scores: np.ndarray, members: np.ndarray) -> Outcome:
    return Outcome(scores, members, THRESHOLD, "test", "one Gaussian release", True)


def gaussian_game(rng: np.random.Generator, trials: int) -> Outcome:
    """`trials` people, each in by a fair coin, each with one release at MU."""
    members = rng.random(trials) < 0.5
    return played(MU * members + rng.standard_normal(trials), members)


def by_counts(outcome: Outcome) -> float:
    inside, outside = outcome.scores[outcome.members], outcome.scores[~outcome.members]
    return lower_bounds.clopper_pearson(
        (int((inside > THRESHOLD).sum()), len(inside)), (int((outside > THRESHOLD).sum()), len(outside)), DELTA, RISK
    )


def by_one_run(outcome: Outcome) -> float:
    return cached(lower_bounds.one_run, len(outcome.scores), *guess(outcome.scores, outcome.members))


def by_f_dp(outcome: Outcome) -> float:
    return cached(lower_bounds.one_run_gaussian, len(outcome.scores), *guess(outcome.scores, outcome.members))


@functools.cache
def cached(lower: Callable[..., float], members: int, guesses: int, correct: int) -> float:
    """The same counts come up again and again."""
    return lower(members, guesses, correct, DELTA, RISK)


def by_means(outcome: Outcome) -> float:
    return lower_bounds.gaussian(outcome.scores[outcome.members], outcome.scores[~outcome.members], DELTA, RISK)


@pytest.mark.parametrize(
    ("lower", "least"), [(by_counts, 0.15), (by_one_run, 0.15), (by_f_dp, 0.3), (by_means, 0.8)]
)  # fmt: skip
def test_a_bound_lies_below_the_truth_as_often_as_stated_and_not_far_below(
    lower: Callable[[Outcome], float], least: float
) -> None:
    # Catches a risk that is not halved, one-sided limits the wrong way round, a p-value of > v instead of >= v.
    rng = np.random.default_rng(1)
    found = np.array([lower(gaussian_game(rng, 2000)) for _ in range(1000)])
    above = int((found > TRUTH).sum())
    assert above <= stats.binom.ppf(0.9999, 1000, RISK)
    assert np.median(found) > least * TRUTH


def test_the_one_run_bound_is_randomised_responses_where_nothing_may_fail() -> None:
    # With delta 0 the p-value is a binomial tail: guesses of e^eps-randomised response reach exactly eps.
    epsilon = lower_bounds.one_run(1000, 1000, 731, 0.0, RISK)
    share = math.exp(epsilon) / (1 + math.exp(epsilon))
    assert stats.binom.sf(730, 1000, share) == pytest.approx(RISK, rel=1e-3)


def test_the_one_run_p_value_follows_the_published_loop() -> None:
    # The oracle is the sum written out, term by term, as theorem 5.2 has it.
    members, guesses, correct, epsilon, delta = 60, 40, 33, 0.9, 1e-3
    share = 1 / (1 + math.exp(-epsilon))
    tail = sum(stats.binom.pmf(k, guesses, share) for k in range(correct, guesses + 1))
    worst = max(
        sum(stats.binom.pmf(k, guesses, share) for k in range(correct - i, correct)) / i for i in range(1, correct + 1)
    )
    expected = min(1.0, tail + 2 * members * delta * worst)
    found = lower_bounds.one_run_p_value(members, guesses, correct, epsilon, delta)
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_perfect_attack_shows_no_more_than_its_number_of_guesses_can() -> None:
    # All of r guesses right has probability x^r under x-randomised response: x = 0.05^(1/1000), epsilon 5.81.
    share = RISK ** (1 / 1000)
    assert lower_bounds.one_run(1000, 1000, 1000, 0.0, RISK) == pytest.approx(math.log(share / (1 - share)), abs=1e-4)


def test_the_f_dp_bound_sees_more_than_the_other_in_the_same_guesses() -> None:
    outcome = gaussian_game(np.random.default_rng(3), 20_000)
    assert by_f_dp(outcome) > 1.1 * by_one_run(outcome)


def test_a_doubled_distance_is_found_out() -> None:
    # Noise halved: the bound must pass the epsilon that the larger noise would have had.
    outcome = gaussian_game(np.random.default_rng(4), 4000)
    doubled = played(outcome.scores + MU * outcome.members, outcome.members)
    assert by_means(doubled) > TRUTH


@pytest.mark.parametrize("lower", [by_counts, by_one_run, by_f_dp, by_means])
def test_coins_alone_prove_nothing(lower: Callable[[Outcome], float]) -> None:
    rng = np.random.default_rng(5)
    found = [lower(played(rng.standard_normal(400), rng.random(400) < 0.5)) for _ in range(200)]
    assert sum(value > 0 for value in found) <= stats.binom.ppf(0.9999, 200, RISK)


def test_no_noise_is_the_most_that_can_be_said() -> None:
    assert lower_bounds.gaussian(np.ones(9), np.zeros(9), DELTA, RISK) == lower_bounds.MAX_EPSILON
    assert lower_bounds.gaussian(np.ones(1), np.zeros(9), DELTA, RISK) == 0.0


@pytest.mark.parametrize(
    ("hits", "alarms", "sign"),
    [((0, 10), (0, 10), 0), ((10, 10), (10, 10), 0), ((1000, 1000), (0, 1000), 1), ((0, 0), (0, 0), 0)],
)
def test_counts_at_the_edges_give_a_number(hits: tuple[int, int], alarms: tuple[int, int], sign: int) -> None:
    assert np.sign(lower_bounds.clopper_pearson(hits, alarms, DELTA, RISK)) == sign
