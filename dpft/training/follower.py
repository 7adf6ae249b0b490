"""Training on the ranks other than rank 0: no ledger, no secret, no run folder, no output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpft import tasks
from dpft.inference.build import settle
from dpft.machine.memo import Shelf
from dpft.machine.team import Ranks
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.step import PlainStep, SharedStep
from dpft.progress import Progress
from dpft.runs import canary_rows
from dpft.runs.folder import Run
from dpft.runs.result import Result
from dpft.spec import Machine, Spec
from dpft.training import optimizers
from dpft.training.checkpoints import Checkpoints
from dpft.training.loop import steps
from dpft.training.preparation import prepare


def follow(ranks: Ranks, machine: Machine) -> Result:
    """Take part in the training that rank 0 leads. Returns rank 0's Result."""
    told = ranks.hear()
    if "spec" in told:  # otherwise no step is left to train
        _take_part(ranks, machine, told)
        told = ranks.hear()
    return Result.from_json({**told["result"], "path": Path(told["result"]["path"])})


def _take_part(ranks: Ranks, machine: Machine, told: dict[str, Any]) -> None:
    """Prepare the same training as rank 0, load its state, and do this rank's share of each step."""
    spec, plan = Spec.from_json(told["spec"]), Plan.from_json(told["plan"])
    task = canary_rows.planted(tasks.load(spec), spec)
    settled = settle(spec, replace(machine, precision=told["precision"]))
    ready = prepare(spec, plan.steps, task, settled, Progress(), Shelf(), ranks)
    spec = ready.spec
    optimizer = optimizers.make(spec, ready.adapted.updated)
    nowhere = Run(Path(), spec, plan, "", "", "")
    at = ranks.hear()
    Checkpoints(nowhere, ready.adapted, optimizer).take(ranks.hear_tensors())
    kind = PlainStep if plan.budget is None else SharedStep
    step = kind(ready.adapted, plan, optimizer, ranks)
    nobody = np.empty(0, np.int64)
    dealt = ((number, ranks.deal(nobody, nobody)) for number in range(int(at["start"]), plan.steps))
    for _ in steps(nowhere, ready, optimizer, step, dealt):
        pass
