"""All checks of level two: noise, canaries, sampler, sensitivity, and lower bounds on epsilon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dpft.audit.evidence import noise_statistics as stats
from dpft.audit.evidence.report import Check, StatisticalTest, evaluate_tests
from dpft.audit.mechanism import attacks, sampler_checks, sensitivity, strategy
from dpft.audit.mechanism.attacks import Outcome
from dpft.audit.mechanism.canary_scores import Canaries, Observations
from dpft.audit.mechanism.driver import Mechanism, MechanismRun, audit_plan, ledger_for
from dpft.inference.trained_model import Trained
from dpft.privacy.accounting.accountants import epsilon_upper
from dpft.privacy.accounting.closed_form import epsilon_gaussian
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.randomness import Secret

Result = TypeVar("Result")

STEPS = 128
_ROUNDS = 16
_NOBODY = 1e-12  # a sampling rate
_COMPARED = 8192  # numbers among which equal pairs are counted
_LEAST_DRAWN = 4  # canaries sampled a step, on average


@dataclass(frozen=True)
class AttackResults:
    """Both attacks: observations, outcomes, the epsilon claimed for each, and the number of uncharged steps.

    silent: releases of no rows: nothing but noise, to the last bit.
    """

    observations: Observations
    silent: NDArray[np.float64]
    full: Outcome
    sampled: Outcome
    claimed: tuple[float, float]
    uncharged: int


def checks(trained: Trained, mechanism: Mechanism, examples: int, steps: int, risk: float) -> list[Check]:
    """All checks of level two, with the run's model, method, noise and clipping norm. `examples`: units of its plan."""
    plan = trained.run.plan
    assert plan.budget is not None
    delta = plan.budget.delta
    played = run_attacks(trained, mechanism, steps)
    full, sampled = played.claimed
    tests = [
        *noise_tests(played.observations, plan.noise, played.silent),
        *sampler_checks.tests(mechanism, plan, examples),
        *attacks.tests(played.full, full, delta),
        *attacks.tests(played.sampled, sampled, delta),
    ]
    charged = Check("path", "steps not charged", played.uncharged, 0, 0, "fact", f"of {steps + _ROUNDS}")
    return [*evaluate_tests("path", tests, risk), charged, *sensitivity.checks(trained, mechanism)]


def run_attacks(trained: Trained, mechanism: Mechanism, steps: int) -> AttackResults:
    """Run both attacks, with the auditor's own coins."""
    run, coins = trained.run, Secret()
    assert run.plan.budget is not None
    assert run.plan.clip is not None
    canaries = strategy.of(trained).canaries(trained, run.plan.clip)
    observations = Observations(canaries, list(trained.adapted.named), run.plan.clip, run.plan.noise)
    delta = run.plan.budget.delta
    rate = min(1.0, max(run.plan.rate, 2 * _LEAST_DRAWN / len(canaries)))
    claimed = epsilon_gaussian(run.plan.noise, 1, delta), epsilon_upper(run.plan.noise, rate, steps, delta)[0]
    half = max(1, len(canaries) // 2)
    full = audit_plan(run.plan, 1.0, _ROUNDS, half, claimed[0])
    sampled = audit_plan(run.plan, rate, steps, max(1, round(rate * half)), claimed[1])
    first, missing = _play(
        trained, mechanism, canaries, full, lambda drive: attacks.full_batches(drive, observations, coins)
    )
    second, more = _play(
        trained, mechanism, canaries, sampled, lambda drive: attacks.sampled_batches(drive, observations, coins)
    )
    few = -(-_COMPARED // sum(p.numel() for p in trained.adapted.private))
    none = audit_plan(run.plan, _NOBODY, few, half, claimed[0])
    silent, _ = _play(trained, mechanism, canaries, none, _silence)
    return AttackResults(observations, silent, first, second, claimed, missing + more)


def _silence(drive: MechanismRun) -> NDArray[np.float64]:
    """Releases at a rate at which no row is sampled, end to end, their first numbers alone."""
    found = [noisy.flatten() for release in drive.releases(np.arange(1)) for noisy in release.sums]
    return torch.cat(found)[:_COMPARED].numpy()


def _play(
    trained: Trained, mechanism: Mechanism, canaries: Canaries, plan: Plan, game: Callable[[MechanismRun], Result]
) -> tuple[Result, int]:
    """What a game gives, and how many of its steps the ledger did not charge."""
    assert plan.clip is not None
    with ledger_for(plan) as book, canaries.model(trained.adapted, plan.clip) as canary_model:
        drive = MechanismRun(mechanism, canary_model, canaries.data, plan, book, trained.run.spec)
        outcome = game(drive)
        book.verify()
        return outcome, plan.steps - drive.charged


def noise_tests(observations: Observations, noise: float, silent: NDArray[np.float64]) -> list[StatisticalTest]:
    """Tests of the deviation in each tensor, of a canary's contribution, and of independence over steps and tensors.

    silent: releases of no rows.
    """
    sample, parts = observations.sample, observations.parts
    drawn = np.stack(observations.drawn)
    steps, numbers = np.array(observations.steps), sum(observations.counts.values()) // len(observations.steps)
    total, count = float(np.stack(observations.scores)[drawn].sum()), int(drawn.sum())
    return [
        *(_deviation(name, observations.squares[name], observations.counts[name]) for name in observations.names),
        _deviation("all", sum(observations.squares.values()), sum(observations.counts.values())),
        StatisticalTest("σ of each step", lambda risk: stats.each_deviation(steps, numbers, risk),
             f"the furthest of {len(steps)} releases, over the allowed distance"),
        StatisticalTest("mean of included canaries", lambda risk: stats.amplitude(total, count, noise, risk),
             f"in clipping norms, over {count} draws"),
        StatisticalTest("correlation of steps and resumes", lambda risk: stats.between_steps(sample, risk),
             f"cosines of {len(sample)} releases by {_ROUNDS + 2} secrets, over the allowed value"),
        StatisticalTest("correlation of tensors", lambda risk: stats.between_tensors(parts, risk), "cosines, as above"),
        StatisticalTest("distance to the normal", lambda risk: stats.normality(sample, risk)),
        StatisticalTest("equal pairs of noise", lambda risk: stats.repetitions(silent, risk), "many in bf16"),
    ]  # fmt: skip


def _deviation(name: str, squares: float, count: int) -> StatisticalTest:
    return StatisticalTest(f"σ of {name}", lambda risk: stats.deviation(squares, count, risk), "over the plan")
