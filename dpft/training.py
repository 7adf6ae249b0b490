"""train(), resume() and load(): the line from a spec to a trained model and back."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dpft import averages, charging, evaluate, models, optimizers, overlap, phases, recipe, recovery
from dpft import start as starts
from dpft.adapt import settle
from dpft.audit import planting
from dpft.audit.bookkeeping import adapter_digest
from dpft.card import Charge, card
from dpft.checkpoint import Checkpoints
from dpft.hardware import Hardware
from dpft.launch import launched, refuse_restart
from dpft.memory import forget_peak, peak_mib
from dpft.methods._method import Adapted
from dpft.preparing import Prepared, about_task, prepare, settled_spec
from dpft.privacy.accountants import epsilon_curve
from dpft.privacy.ledger import Ledger, default_ledger_place
from dpft.privacy.plan import Plan, make_plan
from dpft.privacy.ranks import ALONE, Team
from dpft.privacy.sampler import poisson_batches
from dpft.privacy.secret import Secret
from dpft.privacy.step import PlainStep, PrivateStep
from dpft.probe import kind, measure
from dpft.progress import Progress
from dpft.result import Result
from dpft.rows import rows_of
from dpft.run import Run
from dpft.seen import other_rows
from dpft.shelf import Shelf
from dpft.spec import Machine, Spec, UserError, canonical_json
from dpft.tasks import Task
from dpft.tasks.microbatch import microbatches

ENCODER = "encoder_sha256"  # in task.json
Planner = Callable[[Spec, int], Plan]


@dataclass(frozen=True)
class Cost:
    """What training took: seconds over all its parts, and the peak memory of the last (MiB)."""

    seconds: float
    memory_mib: int | None


def train(
    spec: Spec,
    *,
    runs: str | Path = "runs",
    ledger: str | Path | None = None,
    population: str | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
    shelf: Shelf | None = None,
    planner: Planner = make_plan,
    limit: float | None = None,
) -> Result:
    """Fine-tune `spec.model` on `spec.task` within `spec.budget`, into a new folder below `runs`.

    Everything that can be refused is refused with UserError before anything is written to the ledger. `ledger`, a
    path or a URL, defaults to DPFT_LEDGER or a file in the user's data folder. `population` names whose data these
    are: the run is charged to it, and to every population that the data are known to be of. `shelf` has what other
    runs of this process made already; `planner` makes the plan of the spec on so many units. `limit`: seconds that
    the steps may take; the recipe plans fewer of them where they would take longer, by the speed on made-up texts.
    """
    asked = functools.partial(
        _train, spec, Path(runs), ledger, population, progress or Progress(), shelf or Shelf(), planner, limit
    )  # fmt: skip
    return launched(asked, machine or Machine())


def _train(
    spec: Spec, runs: Path, ledger: str | Path | None, population: str | None, progress: Progress, shelf: Shelf,
    planner: Planner, limit: float | None, ranks: Team, machine: Machine,
) -> Result:  # fmt: skip
    refuse_restart()
    spec = settled_spec(spec)
    start = starts.read(spec)
    settled = settle(spec, machine)
    models.check(spec.model)
    progress.stage("reading the data")
    own = rows_of(spec, shelf)
    for note in own.notes:
        progress.note(note)
    task = planting.planted(own, spec)
    progress.stage("planning the noise")
    speed = _speed(spec, task, machine, limit)
    chosen = recipe.planned(spec, task.train.protected, speed=speed, limit=limit)
    spec = chosen.spec
    plan = planner(spec, task.train.protected)
    with charging.opened(plan, ledger or default_ledger_place()) as book:
        claim, warning = charging.claim(book, plan, own, population, spec.unit)
        for told in (None if book is None else book.note, warning):
            if told is not None:
                progress.note(told)
        if start is not None:
            starts.check_people(start, spec, book, own.train)
        _call(ranks, spec, plan, settled)
        ready = prepare(spec, plan.steps, task, settled, progress, shelf, ranks)
        spec, reasons = ready.spec, (*chosen.reasons, *ready.reasons)
        for reason in reasons:
            progress.note(reason)
        place = book.place if book else Path()
        run = Run.create(runs, spec, plan, place, lambda id: charging.reserve(book, plan, id, claim, own.train))
        starts.keep_seen(run, start, own.train)
        run.write_json("task", {**about_task(task), ENCODER: ready.adapted.model.digest})
        if reasons:
            run.write_json("recipe", {"reasons": list(reasons)})
        return _run(run, ready, book, progress, ranks)


def _speed(spec: Spec, task: Task, machine: Machine, limit: float | None) -> float | None:
    """Units a second, measured on made-up texts, where the time is limited."""
    if limit is None:
        return None
    if spec.unit != Spec.unit:
        raise UserError(
            "a time goes with examples as the unit, for how many examples a unit has is not public, got unit "
            f"{spec.unit!r}; pass --epochs instead"
        )
    cost = measure(kind(spec, task), task, machine)
    return 1 / max(cost.row, 1e-9)


def resume(
    path: str | Path, *, machine: Machine | None = None, progress: Progress | None = None, shelf: Shelf | None = None
) -> Result:
    """Finish a run that was broken off, with fresh randomness and only the steps still unspent.

    A finished run is left as it is. Raises UserError where the ledger does not know the run by its plan, was put
    back from an older copy, or where the training rows are not those that it began with, in their order.
    """
    asked = functools.partial(_resume, Path(path), progress or Progress(), shelf or Shelf())
    return launched(asked, machine or Machine())


def _resume(path: Path, progress: Progress, shelf: Shelf, ranks: Team, machine: Machine) -> Result:
    run = recovery.broken_off(path)
    done = run.read_json("result")
    if done is not None:
        return Result.from_json({**done, "path": run.path})
    progress.stage("reading the data")
    own = rows_of(run.spec, shelf)
    task = planting.planted(own, run.spec)
    if run.plan.rate != (run.spec.batch_size or 0) / task.train.protected:
        raise UserError(
            f"a run resumes on as many {run.spec.unit}s as it began with, got {task.train.protected}; "
            "restore the data of the run"
        )
    known = run.read_json("task") or {}
    if known and known | about_task(task) != known:
        raise UserError(
            "a run resumes with the labels it began with, got other label names or another kind; restore its data"
        )
    settled = settle(run.spec, machine)
    _call(ranks, run.spec, run.plan, settled)
    ready = prepare(run.spec, run.plan.steps, task, settled, progress, shelf, ranks)
    if known.get(ENCODER) not in (None, ready.adapted.model.digest):
        raise UserError(
            f"a run resumes with the encoder that it began with, got other weights at {run.spec.model!r}; restore them"
        )
    recovery.check_there(run)
    with charging.opened(run.plan, run.ledger) as book:
        if book is not None:
            if book.reservation(run.id) != charging.terms(run.plan, run.id):
                raise UserError(
                    f"a run resumes as it was reserved, got another plan or a ledger that does not know it at "
                    f"{str(run.ledger)!r}; restore the run's plan.json and its ledger"
                )
            book.verify(run.ledger_head)
            if ready.start is not None and run.read_json("start") is None:  # killed before it was written down
                starts.check_people(ready.start, run.spec, book, own.train)
            if not charging.is_reserved_for(book, run.id, own.train):
                raise other_rows()
        starts.resume_seen(run, ready.start, own.train)
        if not known:
            run.write_json("task", {**about_task(task), ENCODER: ready.adapted.model.digest})
        return _run(run, ready, book, progress, ranks)


def _call(ranks: Team, spec: Spec, plan: Plan, settled: Hardware) -> None:
    """Have the other ranks prepare for the same training."""
    ranks.tell({"spec": spec.to_json(), "plan": plan.to_json(), "precision": settled.precision})


def _run(run: Run, ready: Prepared, book: Ledger | None, progress: Progress, ranks: Team = ALONE) -> Result:
    """Train what is left of `run`, then judge and write it down."""
    plan, adapted, started = run.plan, ready.adapted, time.monotonic()
    optimizer = optimizers.make(run.spec, plan, adapted.updated)
    average = averages.make(run.spec.average, adapted.updated, plan.steps)
    checkpoints = Checkpoints(run, adapted, optimizer, average)
    if ready.start is not None:
        ready.start.keep(run, ready.head_taken)
    start, before, head = checkpoints.restore()
    secret, spent = Secret(), _spent(plan)
    present = planting.present(run, len(ready.train), secret)
    if book is not None:
        if head is not None:
            book.verify(head)
        start = max(start, book.next_step(run.id))
    step = stepping(ready, run, lambda part: _step(part, run, optimizer, book, secret, ranks))
    fresh = forget_peak(ready.hardware.device)
    progress.created(run.path)
    ranks.tell({"start": start, "averaged": average.taken})
    ranks.tell_tensors(checkpoints.tensors())
    tokens = ready.train.tokens
    own = (drawn[present[drawn]] for drawn in poisson_batches(ready.train.protected, plan, secret, start))
    dealt = (ranks.deal(drawn, tokens[drawn]) for drawn in own)
    progress.started(start, plan.steps)
    try:
        for done in steps(run, ready, optimizer, step, enumerate(dealt, start)):
            average.add(done - 1)
            seconds = before + time.monotonic() - started
            checkpoints.save_when_due(done, seconds, plan.steps, book.head() if book else "")
            progress.stepped(done, spent(done))
    finally:
        progress.ended()
    average.apply()
    memory = peak_mib(ready.hardware.device) if fresh else None
    return _finish(run, ready, book, Cost(before + time.monotonic() - started, memory), progress)


def _step(
    part: Adapted, run: Run, optimizer: torch.optim.Optimizer, book: Ledger | None, secret: Secret, ranks: Team
) -> phases.Step:
    """A step on `part` of what the run trains."""
    if book is None:
        return PlainStep(part, run.plan, optimizer, ranks)
    return PrivateStep(part, run.plan, optimizer, book, secret, run.id, ranks)


def stepping(ready: Prepared, run: Run, make: Callable[[Adapted], phases.Step]) -> phases.Phased:
    """The steps of `run`, of which `make` makes those of one phase."""
    return phases.Phased(ready.adapted, run.spec.probe_steps(run.plan.steps), make)


def steps(
    run: Run,
    ready: Prepared,
    optimizer: torch.optim.Optimizer,
    step: phases.Step,
    batches: Iterable[tuple[int, NDArray[np.int64]]],
) -> Iterator[int]:
    """Take a step on each of this rank's numbered `batches`. Yields how many steps are done."""
    ready.adapted.model.per_example = run.plan.budget is not None
    try:
        for number, units in batches:
            optimizers.set_rate(optimizer, run.spec, number, run.plan.steps)
            step(number, microbatches(ready.train, units, ready.hardware.tokens, ready.hardware.device))
            yield number + 1
    finally:
        step.close()


def _spent(plan: Plan) -> Callable[[int], float | None]:
    """An upper bound on the epsilon of the first k steps; None where nothing is private."""
    if plan.budget is None or plan.epsilon_upper is None:
        return lambda _steps: None
    return epsilon_curve(plan.noise, plan.rate, plan.steps, plan.budget.delta, plan.epsilon_upper)


def _finish(run: Run, ready: Prepared, book: Ledger | None, cost: Cost, progress: Progress) -> Result:
    progress.stage("judging on the validation rows")
    plan, adapted, settled, task = run.plan, ready.adapted, ready.hardware, ready.task
    judged = {
        part: (evaluate.logits(adapted.model, ready.judged[part], settled), rows) for part, rows in task.judged.items()
    }
    found = evaluate.judge(task.objective, task.metrics, task.labels, judged)
    classes = task.objective.by_class(*judged[""], task.labels) if judged else {}
    about = {
        "spec": canonical_json(run.spec.to_json()),
        "kind": canonical_json(task.objective.kind),
        "labels": canonical_json(list(task.labels)),
        "paired": canonical_json(task.paired),
        "backbone_sha256": adapted.model.digest,
    }
    run.save_tensors("adapter", adapted.state(), about)
    charge = Charge(plan.steps, "", None)
    if book is not None:
        book.settle(run.id)
        charge = Charge(book.charged(run.id), book.head(), charging.together(book, plan, run.id))
    told = overlap.NOTE if ready.shared else None
    promised = card(run.spec, plan, ready.train.protected, charge, settled.precision, task.taken, told)
    begun = {} if ready.start is None else {"start": ready.start.stated(charge.population, run.spec.start_public)}
    why = (run.read_json("recipe") or {}).get("reasons")
    chose = {} if why is None else {"recipe": why}
    run.write_json("privacy", {**promised, **begun, **chose, "adapter_sha256": adapter_digest(run)})
    result = Result(
        run.path, task.metric, found.pop(task.metric, None), plan.epsilon_upper,
        plan.budget.delta if plan.budget else None, plan.steps, sum(p.numel() for p in adapted.private),
        round(cost.seconds), settled.precision, settled.device.type, cost.memory_mib, found, classes,
        task.objective.metric(task.metric).higher_is_better,
    )  # fmt: skip
    run.write_json("result", result.to_json())
    return result
