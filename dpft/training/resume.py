"""resume(): finish an interrupted run."""

from __future__ import annotations

import functools
from pathlib import Path

from dpft.errors import UserError
from dpft.inference.build import resolve_hardware
from dpft.inference.inputs import load_task
from dpft.machine.launch import launch
from dpft.machine.memo import Memo
from dpft.machine.team import Team
from dpft.progress import Progress
from dpft.runs import canary_rows, ledger_charges, recovery
from dpft.runs.past_data import wrong_rows
from dpft.runs.result import Result
from dpft.spec import Machine
from dpft.training import warm_start as starts
from dpft.training.complete import broadcast_run, complete
from dpft.training.follower import follow
from dpft.training.preparation import ENCODER, about_task, prepare


def resume(
    path: str | Path, *, machine: Machine | None = None, progress: Progress | None = None, memo: Memo | None = None
) -> Result:
    """Finish an interrupted run with fresh randomness, taking only the unspent steps. Returns its Result.

    A finished run is not changed. `memo`: a memo of what other runs of this process have computed. Raises UserError
    if the ledger does not hold this run with this plan, if the ledger was restored from an older copy, or if the
    training rows or their order differ from those that the run began with.
    """
    asked = functools.partial(_resume, Path(path), progress or Progress(), memo or Memo())
    return launch(asked, follow, machine or Machine())


def _resume(path: Path, progress: Progress, memo: Memo, ranks: Team, machine: Machine) -> Result:
    run = recovery.open_interrupted(path)
    done = run.read_json("result")
    if done is not None:
        return Result.from_json({**done, "path": run.path})
    progress.stage("reading the data")
    own = load_task(run.spec, memo)
    task = canary_rows.with_canary_rows(own, run.spec)
    if run.plan.rate != (run.spec.batch_size or 0) / task.train.unit_count:
        raise UserError(
            f"a run must resume on as many {run.spec.unit}s as it began with, got {task.train.unit_count}; "
            "restore the data of the run"
        )
    known = run.read_json("task") or {}
    if known and known | about_task(task) != known:
        raise UserError(
            "a run must resume with the labels it began with, got other label names or another kind; restore its data"
        )
    resolved = resolve_hardware(run.spec, machine)
    broadcast_run(ranks, run.spec, run.plan, resolved)
    ready = prepare(run.spec, run.plan.steps, task, resolved, progress, memo, ranks)
    if known.get(ENCODER) not in (None, ready.adapted.model.digest):
        raise UserError(
            f"a run must resume with the encoder it began with, got other weights at {run.spec.model!r}; restore them"
        )
    recovery.check_there(run)
    with ledger_charges.open_ledger(run.plan, run.ledger) as ledger:
        if ledger is not None:
            if ledger.reservation(run.id) != ledger_charges.reservation_terms(run.plan, run.id):
                raise UserError(
                    f"a run must resume as it was reserved, got another plan, or a ledger without it at "
                    f"{str(run.ledger)!r}; restore the run's plan.json and its ledger"
                )
            ledger.verify(run.ledger_head)
            if ready.start is not None and run.read_json("start") is None:  # killed before start.json was written
                starts.check_people(ready.start, run.spec, ledger, own.train)
            if not ledger_charges.is_reserved_for(ledger, run.id, own.train):
                raise wrong_rows()
        starts.check_past_data(run, ready.start, own.train)
        if not known:
            run.write_json("task", {**about_task(task), ENCODER: ready.adapted.model.digest})
        return complete(run, ready, ledger, progress, ranks)
