"""The shipped path under attack: noise, canaries, sampler, sensitivity, and bounds on epsilon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dpft.audit.evidence import noise_statistics
from dpft.audit.evidence.report import Check, Test, judge
from dpft.audit.mechanism import attacks, gradient_canaries, sampler_checks, sensitivity
from dpft.audit.mechanism.attacks import Outcome
from dpft.audit.mechanism.canary_gradients import Marked
from dpft.audit.mechanism.canary_scores import Readings
from dpft.audit.mechanism.driver import Drive, Path, ledger_for, planned
from dpft.audit.mechanism.gradient_canaries import Canaries
from dpft.inference.trained_model import Trained
from dpft.privacy.accounting.accountants import epsilon_upper
from dpft.privacy.accounting.closed_form import epsilon_gaussian
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.randomness import Secret

STEPS = 128
_ROUNDS = 16
_COMPARED = 8192  # numbers among which equal ones are counted
_LEAST_DRAWN = 4  # canaries a step, on average


@dataclass(frozen=True)
class Games:
    """Both games played: all that was read, their outcomes, what was claimed for each, and the steps left uncharged."""

    readings: Readings
    full: Outcome
    sampled: Outcome
    claimed: tuple[float, float]
    uncharged: int


def checks(trained: Trained, path: Path, examples: int, steps: int, risk: float) -> list[Check]:
    """All of level two on a run's own model, method, noise and clip. `examples`: the rows its plan was made for."""
    plan = trained.run.plan
    assert plan.budget is not None
    delta = plan.budget.delta
    played = play(trained, path, steps)
    full, sampled = played.claimed
    tests = [
        *noise_tests(played.readings, plan.noise),
        *sampler_checks.tests(path, plan, examples),
        *attacks.tests(played.full, full, delta),
        *attacks.tests(played.sampled, sampled, delta),
    ]
    charged = Check("path", "steps that were not charged", played.uncharged, 0, 0, "fact", f"of {steps + _ROUNDS}")
    return [*judge("path", tests, risk), charged, *sensitivity.checks(trained, path)]


def play(trained: Trained, path: Path, steps: int) -> Games:
    """Both games, with coins of the auditor's own."""
    run, coins = trained.run, Secret()
    assert run.plan.budget is not None
    assert run.plan.clip is not None
    planted = gradient_canaries.plant(trained, run.plan.clip)
    readings = Readings(planted, list(trained.adapted.named), run.plan.clip, run.plan.noise)
    delta = run.plan.budget.delta
    rate = min(1.0, max(run.plan.rate, 2 * _LEAST_DRAWN / len(planted)))
    claimed = epsilon_gaussian(run.plan.noise, 1, delta), epsilon_upper(run.plan.noise, rate, steps, delta)[0]
    half = max(1, len(planted) // 2)
    full = planned(run.plan, 1.0, _ROUNDS, half, claimed[0])
    sampled = planned(run.plan, rate, steps, max(1, round(rate * half)), claimed[1])
    first, missing = _play(trained, path, planted, full, lambda drive: attacks.full_batches(drive, readings, coins))
    second, more = _play(trained, path, planted, sampled, lambda drive: attacks.sampled_batches(drive, readings, coins))
    return Games(readings, first, second, claimed, missing + more)


def _play(
    trained: Trained, path: Path, planted: Canaries, plan: Plan, game: Callable[[Drive], Outcome]
) -> tuple[Outcome, int]:
    """A game's outcome, and how many of its steps the ledger has not heard of."""
    assert plan.clip is not None
    with ledger_for(plan) as book, Marked(trained.adapted, planted.marks, plan.clip) as marked:
        drive = Drive(path, marked, planted.data, plan, book, trained.run.spec)
        outcome = game(drive)
        book.verify()
        return outcome, plan.steps - drive.charged


def noise_tests(readings: Readings, noise: float) -> list[Test]:
    """Deviation in each tensor, what a canary adds, and independence over steps, tensors and resumes."""
    sample, parts = readings.sample, readings.parts
    drawn = np.stack(readings.drawn)
    steps, numbers = np.array(readings.steps), sum(readings.counts.values()) // len(readings.steps)
    few = -(-_COMPARED // sample.shape[1])
    total, count = float(np.stack(readings.scores)[drawn].sum()), int(drawn.sum())
    return [
        *(_deviation(name, readings.squares[name], readings.counts[name]) for name in readings.names),
        _deviation("all", sum(readings.squares.values()), sum(readings.counts.values())),
        Test("σ of each step", lambda risk: noise_statistics.each_deviation(steps, numbers, risk),
             f"the furthest of {len(steps)} releases, over what is allowed"),
        Test("mean of included canaries", lambda risk: noise_statistics.amplitude(total, count, noise, risk),
             f"in clips, over {count} draws"),
        Test("likeness of steps and resumes", lambda risk: noise_statistics.between_steps(sample, risk),
             f"cosines of {len(sample)} releases by {_ROUNDS + 2} secrets, over what is allowed"),
        Test("likeness of tensors", lambda risk: noise_statistics.between_tensors(parts, risk), "cosines, as above"),
        Test("distance to the normal", lambda risk: noise_statistics.normality(sample, risk)),
        Test("equal pairs of noise", lambda risk: noise_statistics.repetitions(sample[:few], risk), "many in bf16"),
    ]  # fmt: skip


def _deviation(name: str, squares: float, count: int) -> Test:
    return Test(f"σ of {name}", lambda risk: noise_statistics.deviation(squares, count, risk), "over what is planned")
