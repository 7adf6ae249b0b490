"""The audit fails every faulty mechanism, by the check that is meant for it, and lets sound ones pass."""

from __future__ import annotations

import dataclasses

import pytest
from scipy import stats

from dpft.audit.evidence.report import Check
from dpft.audit.mechanism import checks
from dpft.audit.mechanism.driver import Mechanism
from dpft.inference.trained_model import Trained
from tests.audit.conftest import EXAMPLES
from tests.audit.faults import MECHANISMS, MeanLoss

STEPS, RISK = 32, 0.01
# What is meant to catch each fault; other checks may fail beside it.
CAUGHT_BY = {
    "noise halved": {"σ of all", "ε, full batches: Gaussian DP"},
    "noise missing on one tensor": {"σ of z"},
    "noise repeated over steps": {"correlation of steps and resumes"},
    "noise shared by tensors": {"correlation of tensors"},
    "uniform noise": {"distance to the normal"},
    "bf16 noise": {"equal pairs of noise"},
    "no clipping": {"mean of included canaries", "sensitivity, huge row"},
    "clip per micro-batch": {"mean of included canaries", "sum beside gradients taken one at a time"},
    "clip per tensor": {"sensitivity, huge row"},
    "noise once per micro-batch": {"σ of all"},
    "divisor = drawn batch size": {"σ of each step"},
    "leftovers join the next step": {"next step's sum beside gradients taken one at a time"},
    "a step not charged": {"steps not charged"},
    "shuffled instead of Poisson": {"variance of batch sizes", "variance of a row's draws"},
    "fixed batch size": {"variance of batch sizes"},
    "rate taken from the loader": {"sampling rate"},
    "resumed noise equal to earlier noise": {"correlation of steps and resumes"},
}


LONGER = {"clip per micro-batch": 64}  # in 32 steps its check misses it once in 10,000 audits


def audit(trained: Trained, mechanism: Mechanism, steps: int = STEPS, risk: float = RISK) -> dict[str, Check]:
    """The checks that failed, by name."""
    found = checks.checks(trained, mechanism, EXAMPLES, steps, risk)
    return {check.name: check for check in found if not check.passed}


@pytest.mark.parametrize("fault", MECHANISMS)
def test_a_faulty_path_fails_by_the_check_that_is_meant_for_it(trained: Trained, fault: str) -> None:
    failed = audit(trained, MECHANISMS[fault], LONGER.get(fault, STEPS))
    assert CAUGHT_BY[fault] <= set(failed)


def test_a_batch_mean_loss_fails_beside_gradients_taken_one_at_a_time(trained: Trained) -> None:
    fields = {f.name: getattr(trained.adapted, f.name) for f in dataclasses.fields(trained.adapted)}
    faulty = dataclasses.replace(trained, adapted=MeanLoss(**fields))
    assert "sum beside gradients taken one at a time" in audit(faulty, Mechanism())


def test_a_sound_path_passes(trained: Trained) -> None:
    # At a risk of 0.1 % an audit: more than one alarm in three has a chance of 3e-6.
    assert sum(bool(audit(trained, Mechanism(), risk=1e-3)) for _ in range(3)) <= 1


@pytest.mark.slow
def test_fifty_sound_paths_alarm_no_more_often_than_stated(trained: Trained) -> None:
    alarms = sum(bool(audit(trained, Mechanism())) for _ in range(50))
    assert alarms <= stats.binom.ppf(0.999, 50, RISK)
