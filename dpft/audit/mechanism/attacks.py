"""The two attacks on the path: who was in the data, guessed from its releases by one who knows all but the coins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpft.audit.evidence import lower_bounds as bounds
from dpft.audit.evidence.report import Test, bound
from dpft.audit.mechanism.canary_scores import Readings
from dpft.audit.mechanism.driver import Drive
from dpft.privacy.randomness import Secret

GUESSED = 0.05  # the share of canaries that are called members, and that are called others: fixed beforehand
_ALARMS = 0.025  # the rate of false alarms that the threshold is set to, by the noise that is claimed
_TAIL = 1.959963984540054  # the standard normal's point with _ALARMS beyond it


@dataclass(frozen=True)
class Outcome:
    """Each trial's score, higher where the attacker believes in membership, and the truth. threshold: fixed before.

    attacked: the releases that one person meets. gaussian: they are one Gaussian release, where mu is exact.
    """

    scores: NDArray[np.float64]
    members: NDArray[np.bool_]
    threshold: float
    name: str
    attacked: str
    gaussian: bool


def full_batches(drive: Drive, readings: Readings, coins: Secret) -> Outcome:
    """Each step of the plan at rate 1 is a game of its own: new people behind the canaries, a new secret, one release.

    The people of different steps differ, so each of them meets one Gaussian release: mu = 1 / noise, exactly.
    """
    count, members = len(readings.canaries), []
    for step in range(drive.plan.steps):
        inside = coins.bernoulli(0.5, count)
        for release in drive.releases(np.flatnonzero(inside), step, step + 1):
            readings.add(release)
        members.append(inside)
    scores = np.stack(readings.scores[-drive.plan.steps :]).ravel()
    truth, threshold = np.stack(members).ravel(), _TAIL * drive.plan.noise
    return Outcome(scores, truth, threshold, "full batches", "one release at rate 1", True)


def sampled_batches(drive: Drive, readings: Readings, coins: Secret) -> Outcome:
    """One game over all steps at the sampled rate, broken off and resumed half way."""
    inside = coins.bernoulli(0.5, len(readings.canaries))
    half = drive.plan.steps // 2
    for start, stop in ((0, half), (half, None)):
        for release in drive.releases(np.flatnonzero(inside), start, stop):
            readings.add(release)
    plan = drive.plan
    scores = likelihoods(np.stack(readings.scores[-plan.steps :]), plan.rate, plan.noise)
    none = np.random.default_rng(0).normal(0, plan.noise, (plan.steps, 20_000))
    threshold = float(np.quantile(likelihoods(none, plan.rate, plan.noise), 1 - _ALARMS))
    attacked = f"{plan.steps} releases at rate {plan.rate:.4g}"
    return Outcome(scores, inside, threshold, "sampled batches", attacked, plan.rate == 1 and plan.steps == 1)


def likelihoods(coordinates: NDArray[np.float64], rate: float, noise: float) -> NDArray[np.float64]:
    """The log likelihood ratio of being in the data, sum over steps of log(1 - q + q exp((2 y - 1) / (2 noise^2))).

    coordinates: (steps, m), in clips -> (m,). The best attack on a sampled Gaussian (Neyman and Pearson).
    """
    gain = (2 * coordinates - 1) / (2 * noise**2)
    total: NDArray[np.float64] = np.logaddexp(np.log1p(-rate) if rate < 1 else -np.inf, np.log(rate) + gain).sum(0)
    return total


def tests(outcome: Outcome, claimed: float, delta: float) -> list[Test]:
    """The lower bounds on epsilon that an outcome supports, beside what is claimed for the releases attacked."""
    inside, outside = outcome.scores[outcome.members], outcome.scores[~outcome.members]
    hits = int((inside > outcome.threshold).sum()), len(inside)
    alarms = int((outside > outcome.threshold).sum()), len(outside)
    trials, (guesses, correct) = len(outcome.scores), guess(outcome.scores, outcome.members)
    name, where = outcome.name, outcome.attacked
    told = f"{where}: {correct} of {guesses} guesses right about {trials} canaries"
    found = [
        bound(f"ε, {name}: Clopper-Pearson", lambda risk: bounds.clopper_pearson(hits, alarms, delta, risk), claimed,
              f"{where}: caught {hits[0]} of {hits[1]}, false alarms {alarms[0]} of {alarms[1]}"),
        bound(f"ε, {name}: one run", lambda risk: bounds.one_run(trials, guesses, correct, delta, risk), claimed, told),
    ]  # fmt: skip
    if outcome.gaussian:
        found += [
            bound(f"ε, {name}: f-DP one run",
                  lambda risk: bounds.one_run_gaussian(trials, guesses, correct, delta, risk), claimed, told),
            bound(f"ε, {name}: Gaussian DP", lambda risk: bounds.gaussian(inside, outside, delta, risk), claimed,
                  f"{where}: {len(inside)} members, {len(outside)} others"),
        ]  # fmt: skip
    return found


def guess(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[int, int]:
    """How many canaries are guessed, the GUESSED highest and lowest scores, and how many of the guesses are right."""
    order = np.argsort(scores)
    share = max(1, round(GUESSED * len(order)))
    right = int((~members[order[:share]]).sum() + members[order[-share:]].sum())
    return 2 * share, right
