"""The mechanism under audit: the shipped sampler, micro-batches, step, secret and ledger, called as in training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.audit.mechanism.canary_gradients import CanaryModel
from dpft.data.encoded import Encoded
from dpft.privacy.ledger import Ledger
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.poisson_sampler import poisson_batches
from dpft.privacy.mechanism.step import PrivateStep
from dpft.privacy.randomness import Secret
from dpft.spec import Budget, Spec
from dpft.tokens.microbatch import microbatches
from dpft.training import optimizers

_RUN = "audit"
TOKENS = 96  # of a micro-batch: few, so that even a small batch needs several micro-batches


@dataclass(frozen=True)
class Mechanism:
    """The parts of the mechanism: the shipped ones by default; tests replace one by a faulty one."""

    sampler: Callable[..., Iterator[NDArray[np.int64]]] = poisson_batches
    batches: Callable[..., Any] = microbatches
    step: Callable[..., PrivateStep[Any]] = PrivateStep
    secret: Callable[[], Secret] = Secret


@dataclass(frozen=True)
class Release:
    """One step: the sampled rows, the noisy sums, and the scales that were applied before the noise (None: all 1)."""

    rows: NDArray[np.int64]
    sums: list[Tensor]
    scales: list[Tensor] | None


@dataclass(frozen=True)
class MechanismRun:
    """Runs the `mechanism` on `data` with canaries, by `plan`, charged to `ledger`, with `spec`'s optimizer."""

    mechanism: Mechanism
    canary_model: CanaryModel
    data: Encoded
    plan: Plan
    ledger: Ledger
    spec: Spec

    def releases(self, present: NDArray[np.int64], start: int = 0, stop: int | None = None) -> Iterator[Release]:
        """Run steps `start` to `stop` on the rows `present` and yield the release of each.

        This repeats the lines of training, with a fresh secret and a learning rate of 0. The sums are the step's
        release times the expected batch size, and times the scales it was divided by after the noise. An attacker knows
        these scales: they are computed from earlier releases.
        """
        secret, plan = self.mechanism.secret(), self.plan
        optimizer = optimizers.make(self.spec, self.canary_model.adapted.updated)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        self.canary_model.follow(optimizer)
        step = self.mechanism.step(self.canary_model, plan, optimizer, self.ledger, secret, _RUN)
        model = self.canary_model.adapted.model
        per_example, model.per_example = model.per_example, True
        device = model.device
        drawn_rows = self.mechanism.sampler(len(present), plan, secret, start)
        try:
            for number, drawn in enumerate(drawn_rows, start):
                if number == stop:
                    break
                rows = present[drawn]
                step(number, self.mechanism.batches(self.data, rows, TOKENS, device))
                sums = [r.double().cpu() * plan.expected_batch for r in self.canary_model.released]
                scales = None if step.scales is None else [scale.double().cpu() for scale in step.scales]
                yield Release(rows, sums if scales is None else list(map(torch.mul, sums, scales)), scales)
        finally:
            step.close()
            model.per_example = per_example

    @property
    def charged(self) -> int:
        return self.ledger.charged(_RUN)


@contextmanager
def ledger_for(plan: Plan) -> Iterator[Ledger]:
    """A real ledger in a temporary file, with a reservation for `plan`."""
    assert plan.budget is not None
    assert plan.epsilon_upper is not None
    with tempfile.TemporaryDirectory(prefix="dpft-audit-") as folder, Ledger(Path(folder) / "ledger.sqlite") as book:
        book.reserve(
            _RUN, rate=plan.rate, noise=plan.noise, steps=plan.steps, delta=plan.budget.delta,
            epsilon=plan.epsilon_upper,
        )  # fmt: skip
        yield book


def audit_plan(plan: Plan, rate: float, steps: int, expected: int, epsilon: float) -> Plan:
    """A plan for the auditor's rows with the noise multiplier and the clipping norm of `plan`."""
    assert plan.budget is not None
    budget = Budget(epsilon, plan.budget.delta)
    return Plan(rate, steps, plan.noise, plan.clip, expected, budget, epsilon, "audit", plan.clipping)


def noiseless_plan(plan: Plan, rate: float, steps: int, expected: int) -> Plan:
    """The same with a noise multiplier of 1e-12: sums are exact. For placeholder rows only."""
    assert plan.budget is not None
    budget = Budget(1e9, plan.budget.delta)
    return Plan(rate, steps, 1e-12, plan.clip, expected, budget, 1e9, "none: placeholder rows", plan.clipping)
