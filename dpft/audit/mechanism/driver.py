"""The path under audit: the shipped sampler, micro-batches, step, secret and ledger, driven as in training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dpft.audit.mechanism.canary_gradients import Marked
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
TOKENS = 96  # of a micro-batch: small, so that even a small batch is cut into several


@dataclass(frozen=True)
class Path:
    """The parts of the path. The shipped ones, unless a test puts a faulty one in their place."""

    sampler: Callable[..., Iterator[NDArray[np.int64]]] = poisson_batches
    batches: Callable[..., Any] = microbatches
    step: Callable[..., PrivateStep[Any]] = PrivateStep
    secret: Callable[[], Secret] = Secret


@dataclass(frozen=True)
class Release:
    """One step: the rows drawn, the noisy sums as they were noised, and the scales of that space (None: all 1)."""

    rows: NDArray[np.int64]
    sums: list[Tensor]
    scales: list[Tensor] | None


@dataclass(frozen=True)
class Drive:
    """One drive along `path`: `marked` rows of `data`, by `plan`, charged to `ledger`, with the optimizer of `spec`."""

    path: Path
    marked: Marked
    data: Encoded
    plan: Plan
    ledger: Ledger
    spec: Spec

    def releases(self, present: NDArray[np.int64], start: int = 0, stop: int | None = None) -> Iterator[Release]:
        """Steps `start` to `stop` on the rows that are `present`: each batch drawn and the noisy sums it led to.

        These are the lines of training, with a fresh secret and a learning rate of 0. The sums are what the step
        released, times the declared batch, and times the scales that it was divided by after the noise:
        an attacker knows them, for they are made of earlier releases.
        """
        secret, plan = self.path.secret(), self.plan
        optimizer = optimizers.make(self.spec, self.marked.adapted.updated)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        step = self.path.step(self.marked, plan, optimizer, self.ledger, secret, _RUN)
        model = self.marked.adapted.model
        per_example, model.per_example = model.per_example, True
        device = model.head.weight.device
        drawn_rows = self.path.sampler(len(present), plan, secret, start)
        try:
            for number, drawn in enumerate(drawn_rows, start):
                if number == stop:
                    break
                rows = present[drawn]
                step(number, self.path.batches(self.data, rows, TOKENS, device))
                sums = [r.double().cpu() * plan.expected_batch for r in self.marked.released]
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
    """A real ledger in a temporary file, in which the audit has reserved `plan`."""
    assert plan.budget is not None
    assert plan.epsilon_upper is not None
    with tempfile.TemporaryDirectory(prefix="dpft-audit-") as folder, Ledger(File(folder) / "ledger.sqlite") as book:
        book.reserve(
            _RUN, rate=plan.rate, noise=plan.noise, steps=plan.steps, delta=plan.budget.delta,
            epsilon=plan.epsilon_upper,
        )  # fmt: skip
        yield book


def planned(plan: Plan, rate: float, steps: int, expected: int, epsilon: float) -> Plan:
    """A plan for the auditor's rows with the noise and the clip of `plan`."""
    assert plan.budget is not None
    budget = Budget(epsilon, plan.budget.delta)
    return Plan(rate, steps, plan.noise, plan.clip, expected, budget, epsilon, "audit", plan.clipping)


def silent(plan: Plan, rate: float, steps: int, expected: int) -> Plan:
    """The same with 1e-12 clips of noise: its sums are exact. For made-up rows only."""
    assert plan.budget is not None
    budget = Budget(1e9, plan.budget.delta)
    return Plan(rate, steps, 1e-12, plan.clip, expected, budget, 1e9, "none: made-up rows", plan.clipping)
