"""The common workload of all variants with its flags, and our own variants: the private step and the same without."""

from __future__ import annotations

import functools
import itertools
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import nn

from dpft import models, tasks
from dpft.data.batch import Batch
from dpft.data.encoded import Encoded
from dpft.errors import UserError
from dpft.inference import outputs
from dpft.inference.build import build_model, resolve_hardware
from dpft.machine.hardware import Hardware
from dpft.machine.team import SINGLE_PROCESS, Team
from dpft.privacy.ledger import Ledger
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.step import NonPrivateStep, PrivateStep, SharedStep
from dpft.privacy.randomness import Secret
from dpft.spec import Budget, Machine, Precision, Representation, Spec
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import microbatches

BUDGET = Budget(8.0, 1e-6)
BATCH = 2048  # the paper's
CLIP = 1.0
NOISE = 0.8  # the cost of a step does not depend on it
STEPS = 1_000_000  # more than any benchmark takes

TaskFlag = Annotated[str, typer.Option(help="See dpft tasks.")]
DataFlag = Annotated[str | None, typer.Option(help="Folder with the task's parquet files.")]
ModelFlag = Annotated[str, typer.Option(help="Local folder or hub id.")]
MethodsFlag = Annotated[list[str] | None, typer.Option(metavar="NAME[:KEY=VALUE,...]", help="Only these.")]
BatchSizeFlag = Annotated[int, typer.Option(help="Expected rows of a step.")]
DeviceFlag = Annotated[str, typer.Option(help="A torch device, or auto.")]
PrecisionFlag = Annotated[str, typer.Option(help="Of the frozen encoder: auto, fp32 or bf16.")]
RepeatsFlag = Annotated[int, typer.Option(help="Timed rounds.", min=1)]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
JsonLinesFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


def start(name: str, main: Callable[..., Any]) -> None:
    """Run `main` with the flags of the command line. A user's mistake is one line and exit code 2."""
    try:
        typer.run(main)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(2)


class Variant(Protocol):
    """One implementation of a training step. `precision`: of its matrix products, bf16 or fp32."""

    @property
    def precision(self) -> str: ...
    @property
    def trained(self) -> Mapping[str, nn.Parameter]: ...
    def __call__(self, drawn: NDArray[np.int64]) -> int:
        """Take one step on the rows `drawn` (n,), or on rows of its own sampler; return their number."""
        ...


@dataclass(frozen=True, eq=False)
class Work:
    """The workload. `peer_rows`: expected batch size of the baseline, which is too slow for the full batch.

    `scratch`: folder of the ledger; it should be on the same disk as a real one, because a charge waits for the disk.
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
        return resolve_hardware(self.spec, Machine(device=self.device, precision=precision))

    @functools.cached_property
    def plan(self) -> Plan:
        """A plan as costly as a real one, but not calibrated: nothing is released here."""
        batch = self.batch
        rate = batch / len(self.task.train)
        return Plan(rate, STEPS, NOISE, CLIP, batch, BUDGET, BUDGET.epsilon, "none")

    @functools.cache  # noqa: B019 - one Work lives as long as the process
    def encoded(self, representation: Representation) -> Encoded:
        return encode(self.task.train, models.tokenizer(self.spec.model), representation, self.spec.max_length)


class DpftStep:
    """Our step as in training: sorted micro-batches, clipping, noise, one charge; scattered over `ranks`."""

    def __init__(self, work: Work, at: Hardware, private: bool, ranks: Team = SINGLE_PROCESS) -> None:
        self.ranks = ranks
        self.at, self.rows = at, work.encoded(work.spec.representation)
        self.adapted = build_model(work.spec, len(work.task.labels), work.task.train.pairs is not None, at).adapted
        if self.adapted.frozen:  # computed once, before the first step, as a run does
            self.rows = self.rows.with_features(outputs.features(self.adapted.model, self.rows, at))
        self.adapted.model.per_example = private
        optimizer = torch.optim.Adam(list(self.adapted.updated.values()), lr=1e-3)
        self.numbers = itertools.count()
        self.step: SharedStep[Batch] | NonPrivateStep[Batch]
        if not ranks.first:
            self.step = SharedStep(self.adapted, work.plan, optimizer, ranks)
        elif private:
            self.step = self._private(work, optimizer)
        else:
            self.step = NonPrivateStep(self.adapted, work.plan, optimizer)

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
        own = self.ranks.scatter(drawn, self.rows.tokens[drawn])
        self.step(next(self.numbers), microbatches(self.rows, own, self.at.tokens, self.at.device))
        return len(drawn)
