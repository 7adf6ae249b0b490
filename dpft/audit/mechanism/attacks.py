"""Two membership attacks on the mechanism. The attacker sees all releases and knows everything but the coins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpft.audit.evidence import lower_bounds as bounds
from dpft.audit.evidence.report import StatisticalTest, bound
from dpft.audit.mechanism.canary_scores import Observations
from dpft.audit.mechanism.driver import MechanismRun
from dpft.privacy.randomness import Secret

GUESSED_SHARE = 0.05  # share of canaries guessed to be members, and share guessed to be non-members; fixed beforehand
_ALARMS = 0.025  # false positive rate of the threshold, under the noise that is claimed
_TAIL = 1.959963984540054  # quantile of the standard normal with _ALARMS above it


@dataclass(frozen=True)
class Outcome:
    """Scores of all trials, higher where the attacker guesses membership, and the truth.

    threshold: fixed before the attack. attacked: the releases that one unit takes part in. gaussian: these are one
    Gaussian release, for which mu is exact.
    """

    scores: NDArray[np.float64]
    members: NDArray[np.bool_]
    threshold: float
    name: str
    attacked: str
    gaussian: bool


def full_batches(drive: MechanismRun, observations: Observations, coins: Secret) -> Outcome:
    """Attack full batches. Each step, at sampling rate 1, is one game: new coins, a new secret, one release.

    No unit takes part in two steps, so each takes part in one Gaussian release: mu = 1 / noise, exactly.
    """
    count, members = len(observations.canaries), []
    for step in range(drive.plan.steps):
        inside = coins.bernoulli(0.5, count)
        for release in drive.releases(np.flatnonzero(inside), step, step + 1):
            observations.add(release)
        members.append(inside)
    scores = np.stack(observations.scores[-drive.plan.steps :]).ravel()
    truth, threshold = np.stack(members).ravel(), _TAIL * drive.plan.noise
    return Outcome(scores, truth, threshold, "full batches", "one release at rate 1", True)


def sampled_batches(drive: MechanismRun, observations: Observations, coins: Secret) -> Outcome:
    """Attack with Poisson-sampled batches: one game over all steps, interrupted and resumed half way."""
    inside = coins.bernoulli(0.5, len(observations.canaries))
    half = drive.plan.steps // 2
    for start, stop in ((0, half), (half, None)):
        for release in drive.releases(np.flatnonzero(inside), start, stop):
            observations.add(release)
    plan = drive.plan
    scores = likelihoods(np.stack(observations.scores[-plan.steps :]), plan.rate, plan.noise)
    none = np.random.default_rng(0).normal(0, plan.noise, (plan.steps, 20_000))
    threshold = float(np.quantile(likelihoods(none, plan.rate, plan.noise), 1 - _ALARMS))
    attacked = f"{plan.steps} releases at rate {plan.rate:.4g}"
    return Outcome(scores, inside, threshold, "sampled batches", attacked, plan.rate == 1 and plan.steps == 1)


def likelihoods(coordinates: NDArray[np.float64], rate: float, noise: float) -> NDArray[np.float64]:
    """Log likelihood ratio of membership: sum over steps of log(1 - q + q exp((2 y - 1) / (2 noise^2))).

    coordinates: (steps, m), in clipping norms -> (m,). The optimal attack on a subsampled Gaussian (Neyman-Pearson).
    """
    gain = (2 * coordinates - 1) / (2 * noise**2)
    total: NDArray[np.float64] = np.logaddexp(np.log1p(-rate) if rate < 1 else -np.inf, np.log(rate) + gain).sum(0)
    return total


def tests(outcome: Outcome, claimed: float, delta: float) -> list[StatisticalTest]:
    """Lower bounds on epsilon from an attack's outcome, compared with the epsilon claimed for the attacked releases."""
    inside, outside = outcome.scores[outcome.members], outcome.scores[~outcome.members]
    hits = int((inside > outcome.threshold).sum()), len(inside)
    alarms = int((outside > outcome.threshold).sum()), len(outside)
    trials, (guesses, correct) = len(outcome.scores), guess(outcome.scores, outcome.members)
    name, where = outcome.name, outcome.attacked
    guessed = f"{where}: {correct} of {guesses} correct guesses on {trials} canaries"
    found = [
        bound(f"ε, {name}: Clopper-Pearson", lambda risk: bounds.clopper_pearson(hits, alarms, delta, risk), claimed,
              f"{where}: caught {hits[0]} of {hits[1]}, false alarms {alarms[0]} of {alarms[1]}"),
        bound(f"ε, {name}: one run", lambda risk: bounds.one_run(trials, guesses, correct, delta, risk), claimed,
              guessed),
    ]  # fmt: skip
    if outcome.gaussian:
        found += [
            bound(f"ε, {name}: f-DP one run",
                  lambda risk: bounds.one_run_gaussian(trials, guesses, correct, delta, risk), claimed, guessed),
            bound(f"ε, {name}: Gaussian DP", lambda risk: bounds.gaussian(inside, outside, delta, risk), claimed,
                  f"{where}: {len(inside)} members, {len(outside)} others"),
        ]  # fmt: skip
    return found


def guess(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[int, int]:
    """(guesses, correct guesses), where the highest and the lowest GUESSED share of scores are guessed."""
    order = np.argsort(scores)
    share = max(1, round(GUESSED_SHARE * len(order)))
    right = int((~members[order[:share]]).sum() + members[order[-share:]].sum())
    return 2 * share, right
