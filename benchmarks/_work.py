"""What every variant works on, and our own: the private step and the same step without privacy."""

from __future__ import annotations

import functools
import itertools
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dpft import models, tasks
from dpft.data.batch import Batch
from dpft.data.encoded import Encoded
from dpft.inference import outputs
from dpft.inference.build import adapt, settle
from dpft.machine.hardware import Hardware
from dpft.machine.team import ALONE, Team
from dpft.privacy.ledger import Ledger
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.step import PlainStep, PrivateStep, SharedStep
from dpft.privacy.randomness import Secret
from dpft.spec import Budget, Machine, Precision, Representation, Spec
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import microbatches

BUDGET = Budget(8.0, 1e-6)
BATCH = 2048  # the paper's
CLIP = 1.0
NOISE = 0.8  # the cost of noise does not depend on how much there is
STEPS = 1_000_000  # more than anybody will time


class Variant(Protocol):
    """One way to take a step. `precision`: of its matrix products, bf16 or fp32."""

    @property
    def precision(self) -> str: ...
    @property
    def trained(self) -> Mapping[str, nn.Parameter]: ...
    def __call__(self, drawn: NDArray[np.int64]) -> int:
        """One step on a logical batch, rows `drawn` (n,) or rows of its own drawing; returns how many."""
        ...


@dataclass(frozen=True, eq=False)
class Work:
    """A task in declared batches. `peer_rows`: expected batch of a peer that is too slow for a whole one.

    `scratch`: where the ledger may lie; on the disk that a run's would, because a charge waits for the disk.
    """

    spec: Spec
    scratch: Path
    device: str = "auto"
    precision: Precision = "auto"
    peer_rows: int = 512

    @property
    def batch(self) -> int:
        return self.spec.batch_size or BATCH

    @functools.cached_property
    def task(self) -> tasks.Task:
        return tasks.load(self.spec)

    @functools.cached_property
    def hardware(self) -> Hardware:
        return self.at(self.precision)

    def at(self, precision: Precision) -> Hardware:
        return settle(self.spec, Machine(device=self.device, precision=precision))

    @functools.cached_property
    def plan(self) -> Plan:
        """As costly as a real plan, but never calibrated: nothing is released here."""
        batch = self.batch
        rate = batch / len(self.task.train)
        return Plan(rate, STEPS, NOISE, CLIP, batch, BUDGET, BUDGET.epsilon, "none")

    @functools.cache  # noqa: B019 - one Work lives as long as the process
    def encoded(self, representation: Representation) -> Encoded:
        return encode(self.task.train, models.tokenizer(self.spec.model), representation, self.spec.max_length)


class Ours:
    """A step as training joins it: sorted micro-batches, one clip, one noise, one charge; on `ranks` dealt too."""

    def __init__(self, work: Work, at: Hardware, private: bool, ranks: Team = ALONE) -> None:
        self.ranks = ranks
        self.at, self.rows = at, work.encoded(work.spec.representation)
        self.adapted = adapt(work.spec, len(work.task.labels), work.task.train.pairs is not None, at).adapted
        if self.adapted.frozen:  # computed once, before the first step, as a run does
            self.rows = self.rows.with_features(outputs.features(self.adapted.model, self.rows, at))
        self.adapted.model.per_example = private
        optimizer = torch.optim.Adam(list(self.adapted.updated.values()), lr=1e-3)
        self.numbers = itertools.count()
        self.step: SharedStep[Batch] | PlainStep[Batch]
        if not ranks.first:
            self.step = SharedStep(self.adapted, work.plan, optimizer, ranks)
        elif private:
            self.step = self._private(work, optimizer)
        else:
            self.step = PlainStep(self.adapted, work.plan, optimizer)

    def _private(self, work: Work, optimizer: torch.optim.Optimizer) -> PrivateStep[Batch]:
        run, plan = uuid.uuid4().hex, work.plan
        ledger = Ledger(work.scratch / f"{run}.sqlite")
        ledger.reserve(
            run, rate=plan.rate, noise=plan.noise, steps=plan.steps, delta=BUDGET.delta, epsilon=BUDGET.epsilon
        )
        return PrivateStep(self.adapted, plan, optimizer, ledger, Secret(), run, self.ranks)

    @property
    def precision(self) -> str:
        return self.at.precision

    @property
    def trained(self) -> Mapping[str, nn.Parameter]:
        return self.adapted.updated

    def __call__(self, drawn: NDArray[np.int64]) -> int:
        own = self.ranks.deal(drawn, self.rows.tokens[drawn])
        self.step(next(self.numbers), microbatches(self.rows, own, self.at.tokens, self.at.device))
        return len(drawn)
