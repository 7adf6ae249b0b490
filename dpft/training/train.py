"""train(): from a spec to a trained model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dpft import models, recipe
from dpft.errors import UserError
from dpft.inference.build import resolve_hardware
from dpft.inference.inputs import load_task
from dpft.inference.speed import kind, measure
from dpft.machine.launch import launch, refuse_restart
from dpft.machine.memo import Memo
from dpft.machine.team import Team
from dpft.privacy.ledger import default_ledger_place
from dpft.privacy.mechanism.plan import Plan, make_plan
from dpft.progress import Progress
from dpft.runs import canary_rows, ledger_charges
from dpft.runs.folder import Run
from dpft.runs.result import Result
from dpft.spec import Machine, Spec
from dpft.tasks import Task
from dpft.training import warm_start as starts
from dpft.training.complete import broadcast_run, complete
from dpft.training.follower import follow
from dpft.training.preparation import ENCODER, about_task, prepare, settled_spec

Planner = Callable[[Spec, int], Plan]


@dataclass(frozen=True)
class TrainingRequest:
    """The arguments of `train`, by name."""

    spec: Spec
    runs: Path
    ledger: str | Path | None
    population: str | None
    progress: Progress
    memo: Memo
    planner: Planner
    limit: float | None


def train(
    spec: Spec,
    *,
    runs: str | Path = "runs",
    ledger: str | Path | None = None,
    population: str | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
    memo: Memo | None = None,
    planner: Planner = make_plan,
    limit: float | None = None,
) -> Result:
    """Fine-tune `spec.model` on `spec.task` within `spec.budget`, into a new folder below `runs`.

    Returns the Result. Raises UserError, if possible before anything is written to the ledger.

    ledger: a path or a URL; by default DPFT_LEDGER or a file in the user's data folder.
    population: the population that the run is charged to, beside every population that the data are recognised as.
    memo: what other runs of this process have computed already.
    planner: makes the plan from a spec and the number of units.
    limit: seconds that the steps may take. The recipe plans fewer steps if they would take longer, at the speed
    measured on synthetic texts.
    """
    asked = TrainingRequest(
        spec, Path(runs), ledger, population, progress or Progress(), memo or Memo(), planner, limit
    )  # fmt: skip
    return launch(functools.partial(_train, asked), follow, machine or Machine())


def _train(asked: TrainingRequest, ranks: Team, machine: Machine) -> Result:
    refuse_restart()
    spec, progress = settled_spec(asked.spec), asked.progress
    start = starts.read(spec)
    resolved = resolve_hardware(spec, machine)
    models.check(spec.model, spec.representation)
    progress.stage("reading the data")
    own = load_task(spec, asked.memo)
    for note in own.notes:
        progress.note(note)
    task = canary_rows.with_canary_rows(own, spec)
    progress.stage("planning the noise")
    chosen = recipe.choose_schedule(spec, task.train.unit_count, speed=_speed(asked, task, machine), limit=asked.limit)
    plan = asked.planner(chosen.spec, task.train.unit_count)
    with ledger_charges.open_ledger(plan, asked.ledger or default_ledger_place()) as ledger:
        data_identity, warning = ledger_charges.data_identity(ledger, plan, own, asked.population, spec.unit)
        for remark in (None if ledger is None else ledger.note, warning):
            if remark is not None:
                progress.note(remark)
        if start is not None:
            starts.check_people(start, chosen.spec, ledger, own.train)
        broadcast_run(ranks, chosen.spec, plan, resolved)
        ready = prepare(chosen.spec, plan.steps, task, resolved, progress, asked.memo, ranks)
        reasons = (*chosen.reasons, *ready.reasons)
        for reason in reasons:
            progress.note(reason)
        place = ledger.place if ledger else Path()
        run = Run.create(
            asked.runs,
            ready.spec,
            plan,
            place,
            lambda id: ledger_charges.reserve(ledger, plan, id, data_identity, own.train),
        )
        starts.keep_past_data(run, start, own.train)
        run.write_json("task", {**about_task(task), ENCODER: ready.adapted.model.digest})
        if reasons:
            run.write_json("recipe", {"reasons": list(reasons)})
        return complete(run, ready, ledger, progress, ranks)


def _speed(asked: TrainingRequest, task: Task, machine: Machine) -> float | None:
    """Units per second, measured on synthetic texts. None if the time is not limited. Raises UserError."""
    if asked.limit is None:
        return None
    if asked.spec.unit != Spec.unit:
        raise UserError(
            "a time limit needs the unit example, as the number of examples of a unit is not public, got unit "
            f"{asked.spec.unit!r}; pass --epochs instead"
        )
    cost = measure(kind(settled_spec(asked.spec), task), task, machine)
    return 1 / max(cost.row, 1e-9)
