"""Training on the ranks other than rank 0: no ledger, no secret, no run folder, no output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dpft import tasks
from dpft.inference.build import resolve_hardware
from dpft.machine.memo import Memo
from dpft.machine.team import Ranks
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.mechanism.step import NonPrivateStep, SharedStep
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
    message = ranks.receive()
    if "spec" in message:  # otherwise no step is left to train
        _take_part(ranks, machine, message)
        message = ranks.receive()
    return Result.from_json({**message["result"], "path": Path(message["result"]["path"])})


def _take_part(ranks: Ranks, machine: Machine, message: dict[str, Any]) -> None:
    """Prepare the same training as rank 0, load its state, and do this rank's share of each step."""
    spec, plan = Spec.from_json(message["spec"]), Plan.from_json(message["plan"])
    task = canary_rows.with_canary_rows(tasks.load(spec), spec)
    resolved = resolve_hardware(spec, replace(machine, precision=message["precision"]))
    ready = prepare(spec, plan.steps, task, resolved, Progress(), Memo(), ranks)
    spec = ready.spec
    optimizer = optimizers.make(spec, ready.adapted.updated)
    nowhere = Run(Path(), spec, plan, "", "", "")
    at = ranks.receive()
    Checkpoints(nowhere, ready.adapted, optimizer).take(ranks.receive_tensors())
    kind = NonPrivateStep if plan.budget is None else SharedStep
    step = kind(ready.adapted, plan, optimizer, ranks)
    nobody = np.empty(0, np.int64)
    dealt = ((number, ranks.scatter(nobody, nobody)) for number in range(int(at["start"]), plan.steps))
    for _ in steps(nowhere, ready, optimizer, step, dealt):
        pass
