"""Searches on a cell's own rows, charged as a whole, under the conditions of Papernot and Steinke (2022), theorem 2.

The theorem bounds the best of K independent runs of one mechanism. So K is drawn first and kept secret; every trial
draws its own learning rate and clip in secret; equal trials are run again with noise of their own; ties are broken by
secret coins; a trial that fails is the worst result and not repeated. Nothing that is published may depend on K or on
the winner's number: its files have the search's identity, its ledger head and its time, no times or memory of a trial,
and all searches of a comparison are reserved before the first trial of any.
"""

from __future__ import annotations

import dataclasses
import math
import os
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from dpft.compare.cells import Cell
from dpft.compare.events import How, Outcome
from dpft.compare.planning import plan_cell, terms
from dpft.compare.running.publishing import publish
from dpft.compare.running.work import Work
from dpft.compare.search_folder import Corner, OneTrial
from dpft.data.records import spelled
from dpft.errors import UserError
from dpft.inference.build import resolve_hardware
from dpft.inference.inputs import first_shared_row, load_task
from dpft.models.loading import identity
from dpft.privacy.accounting.accountants import epsilon_quick
from dpft.privacy.accounting.random_search import draw_runs
from dpft.privacy.ledger import Ledger, Search, StorageError
from dpft.privacy.ledger.summary import summarize
from dpft.privacy.mechanism.plan import Plan
from dpft.privacy.randomness import Secret
from dpft.progress import Progress
from dpft.runs import ledger_charges
from dpft.runs.folder import Run
from dpft.runs.result import Result
from dpft.spec import Spec
from dpft.training.train import Planner

Done = tuple[Result, str | None, How]


class Quiet(Progress):
    """How many trials there are must not be seen, so nothing of them is shown."""


def is_charged(cell: Cell) -> bool:
    """Whether a cell is the best of trials on its own rows."""
    return cell.trials is not None and cell.trials.public is None


def reserve_all(work: Work, cells: Sequence[Cell]) -> list[Outcome]:
    """Reserve every charged search of `cells`, before a trial's end can show in the time of an entry or of a file.

    Returns an outcome for each that cannot be reserved.
    """
    refused = []
    for cell in cells:
        if is_charged(cell) and cell.digest not in work.folder.found():
            try:
                _reserved(work, cell)
            except (UserError, OSError) as error:
                told = str(error) if isinstance(error, UserError) else f"unexpected {type(error).__name__}"
                refused.append(Outcome(cell, None, told, "failed"))
    return refused


def best_of_trials(work: Work, cell: Cell, progress: Progress) -> Done:
    """Run the trials of a search where nobody looks, publish the best alone. Taken up where it was broken off."""
    known = work.folder.found().get(cell.digest)
    how: How = "found"
    corner = Corner(work.folder.path, cell.digest)
    if known is None:
        progress.stage("searching: how many trials there are stays secret")
        corner = _reserved(work, cell)
        ledger, best = str(work.place.to_json()["ledger"]), _best(work, cell, corner)
        known, how = publish(work.folder.runs, ledger, cell, corner.state, best), "trained"
    corner.remove()
    return Result.from_json({**(Run.open(known).read_json("result") or {}), "path": known}), None, how


def _reserved(work: Work, cell: Cell) -> Corner:
    """The search's own corner, with its plan reserved in the ledger and K drawn, once; both are checked on return."""
    trials, task = cell.trials, load_task(cell.spec, work.memo)
    assert trials is not None
    if task.validation is None:
        raise UserError("a search needs rows to judge its trials by, got no validation rows; pass --validation FILE")
    shared = first_shared_row(cell.spec, task, work.memo)
    if shared is not None and cell.epsilon is not None:
        raise UserError(
            f"rows that trials are judged by must not be training rows, got such a one in validation row {shared}; "
            "remove what both have from the validation rows"
        )
    plan = plan_cell(cell, task.train.protected)
    corner = Corner(work.folder.path, cell.digest)
    corner.open(plan)
    state = corner.state
    asked = terms(cell, state.plan, state.id)
    if not isinstance(asked, Search):  # without privacy nothing is charged and nothing hidden
        if state.runs is None:
            corner.drawn(trials.count, "", "", None)
        return corner
    with Ledger(work.place.ledger) as book:
        if state.runs is None:
            if book.search(asked.run) is None:
                data_identity = book.data_identity(
                    task.train.texts, task.train.pairs, work.place.population, cell.spec.unit
                )
                book.reserve_search(
                    asked.run, rate=asked.rate, noise=asked.noise, steps=asked.steps, mean=asked.mean,
                    shape=asked.shape, data_identity=data_identity, data=book.keyed(spelled(task.train)),
                )  # fmt: skip
            _draw(book, corner, asked)
        same = ledger_charges.is_reserved_for(book, asked.run, task.train)
        _check_same(book, corner, asked, plan if same else None)
    return corner


def _draw(book: Ledger, corner: Corner, asked: Search) -> None:
    population, budget = book.view().holding(asked.run), corner.state.plan.budget
    assert population is not None
    assert budget is not None
    summary = summarize(population, budget.delta).to_json()
    time = next(run.time for run in population.runs if run.terms.run == asked.run)
    corner.drawn(draw_runs(asked.mean, asked.shape, Secret()), book.head(), time, summary)


def _check_same(book: Ledger, corner: Corner, asked: Search, plan: Plan | None) -> None:
    """A search that is taken up again has the terms and the people that it was reserved with.

    `plan`: as it would be made now; None where the rows are others.
    """
    if book.search(asked.run) != asked:
        raise UserError(
            f"a search goes on as it was reserved, got other terms or a ledger without it at {str(book.place)!r}; "
            "restore the comparison's folder and its ledger"
        )
    kept = corner.state.plan
    if plan is None or (plan.rate, plan.steps, plan.budget) != (kept.rate, kept.steps, kept.budget):
        raise UserError("a search goes on with the rows that it was reserved for, got others; restore its data")
    book.verify(corner.state.head)


def _best(work: Work, cell: Cell, corner: Corner) -> Run:
    """Run what is left of the trials. Only the best so far is kept, beside the number of those that are done."""
    settled, secret = resolve_hardware(cell.spec, work.place.machine), Secret()
    corner.check_runs_on(f"{identity(cell.spec.model)} {settled.precision} {settled.device.type}")
    assert cell.trials is not None
    assert corner.state.runs is not None
    while corner.state.done < corner.state.runs:
        trial = corner.state.begun
        if trial is None:
            trial = corner.begin(cell.trials.drawn_spec(cell.spec, secret), int(secret.words(1)[0]))
        corner.end(*_tried(work, cell, corner, trial))
    best = corner.state.best
    assert best is not None  # a geometric K is never 0
    if best.run is None:
        raise UserError(
            f"a search must have a trial that comes to its end, got none ({best.failure}); its budget is spent: plan "
            "another search with another --to"
        )
    return Run.open(corner.path / best.run)


def _tried(work: Work, cell: Cell, corner: Corner, trial: OneTrial) -> tuple[Path | None, float, str | None]:
    """The run of a trial and its merit; of one that fails no run, the least and why.

    That a trial fails may depend on its rows, so that it counts as a trial like all others. A kill, a full disk, too
    little memory, and whatever is refused before the first step end the search, which is taken up again.
    """
    place = corner.place(trial.number)
    there = work.elsewhere(str(place.relative_to(work.folder.path)), place / "ledger.sqlite").unseen()
    there.folder.recover()
    try:
        result = there.one(cell.spec.stating(**trial.changes), Quiet(), _planner(corner.state.plan))[0]
    except (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, StorageError):
        raise
    except Exception as error:
        if not there.folder.found():
            raise
        if os.environ.get("DPFT_DEBUG"):
            traceback.print_exc()
        return None, -math.inf, type(error).__name__  # its words may name the trial's folder, and so its number
    if math.isnan(result.merit):
        return None, -math.inf, "a value that is no number"
    return result.path, result.merit, None


def _planner(plan: Plan) -> Planner:
    """Every trial at the search's noise, which is more than one run alone would need."""

    def make(spec: Spec, units: int) -> Plan:
        if plan.budget is None:
            return plan
        upper, name = epsilon_quick(plan.noise, plan.rate, plan.steps, plan.budget.delta)
        return dataclasses.replace(plan, clip=spec.clip, epsilon_upper=upper, accountant=name)

    return make
