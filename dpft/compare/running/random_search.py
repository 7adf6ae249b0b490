"""Random searches on the cell's own rows, charged as a whole, by Papernot and Steinke (2022), theorem 2.

The theorem bounds the best of K independent runs of one mechanism. So K is drawn first and kept secret. Every trial
draws its own learning rate and clipping norm in secret. Equal trials are run again with fresh noise. Secret coins break
ties. A failed trial counts as the worst result and is not repeated. Nothing published may depend on K or on the
winner's number: the files have the search's identity, ledger head and time, and no time or memory of a trial. All
searches of a comparison are reserved before the first trial of any.
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
from dpft.compare.search_folder import OneTrial, SearchFolder
from dpft.data.records import serialized
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


class HiddenProgress(Progress):
    """Progress that shows no trial: the number of trials must stay secret."""


def is_charged(cell: Cell) -> bool:
    """Whether the cell is a random search on its own rows."""
    return cell.trials is not None and cell.trials.public is None


def reserve_all(work: Work, cells: Sequence[Cell]) -> list[Outcome]:
    """Reserve every charged search of `cells` before any trial, so that no timestamp reveals when a trial ended.

    Returns an outcome for each cell that cannot be reserved.
    """
    refused = []
    for cell in cells:
        if is_charged(cell) and cell.digest not in work.folder.found():
            try:
                _reserved(work, cell)
            except (UserError, OSError) as error:
                message = str(error) if isinstance(error, UserError) else f"unexpected {type(error).__name__}"
                refused.append(Outcome(cell, None, message, "failed"))
    return refused


def run_charged_search(work: Work, cell: Cell, progress: Progress) -> Done:
    """Run the trials of a search in `private/` and publish the best one. Resumes an interrupted search."""
    known = work.folder.found().get(cell.digest)
    how: How = "found"
    search_folder = SearchFolder(work.folder.path, cell.digest)
    if known is None:
        progress.stage("searching; the number of trials stays secret")
        search_folder = _reserved(work, cell)
        ledger, best = str(work.place.to_json()["ledger"]), _best(work, cell, search_folder)
        known, how = publish(work.folder.runs, ledger, cell, search_folder.state, best), "trained"
    search_folder.remove()
    return Result.from_json({**(Run.open(known).read_json("result") or {}), "path": known}), None, how


def _reserved(work: Work, cell: Cell) -> SearchFolder:
    """The search's folder, with its plan reserved in the ledger and K drawn once; both are checked on resume."""
    trials, task = cell.trials, load_task(cell.spec, work.memo)
    assert trials is not None
    if task.validation is None:
        raise UserError("a search needs a validation set to rank its trials, got none; pass --validation FILE")
    shared = first_shared_row(cell.spec, task, work.memo)
    if shared is not None and cell.epsilon is not None:
        raise UserError(
            f"validation rows of a search must not be training rows, got one in validation row {shared}; "
            "remove the shared rows from the validation set"
        )
    plan = plan_cell(cell, task.train.unit_count)
    search_folder = SearchFolder(work.folder.path, cell.digest)
    search_folder.open(plan)
    state = search_folder.state
    asked = terms(cell, state.plan, state.id)
    if not isinstance(asked, Search):  # without privacy nothing is charged or hidden
        if state.runs is None:
            search_folder.drawn(trials.count, "", "", None)
        return search_folder
    with Ledger(work.place.ledger) as book:
        if state.runs is None:
            if book.search(asked.run) is None:
                data_identity = book.data_identity(
                    task.train.texts, task.train.pairs, work.place.population, cell.spec.unit
                )
                book.reserve_search(
                    asked.run, rate=asked.rate, noise=asked.noise, steps=asked.steps, mean=asked.mean,
                    shape=asked.shape, data_identity=data_identity, data=book.keyed(serialized(task.train)),
                )  # fmt: skip
            _draw(book, search_folder, asked)
        same = ledger_charges.is_reserved_for(book, asked.run, task.train)
        _check_same(book, search_folder, asked, plan if same else None)
    return search_folder


def _draw(book: Ledger, search_folder: SearchFolder, asked: Search) -> None:
    population, budget = book.view().holding(asked.run), search_folder.state.plan.budget
    assert population is not None
    assert budget is not None
    summary = summarize(population, budget.delta).to_json()
    time = next(run.time for run in population.runs if run.terms.run == asked.run)
    search_folder.drawn(draw_runs(asked.mean, asked.shape, Secret()), book.head(), time, summary)


def _check_same(book: Ledger, search_folder: SearchFolder, asked: Search, plan: Plan | None) -> None:
    """Check that a resumed search has the terms and the population that it was reserved with.

    `plan`: the plan as it would be made now; None where the rows changed.
    """
    if book.search(asked.run) != asked:
        raise UserError(
            f"a search goes on as it was reserved, got other terms or a ledger without it at {str(book.place)!r}; "
            "restore the comparison's folder and its ledger"
        )
    kept = search_folder.state.plan
    if plan is None or (plan.rate, plan.steps, plan.budget) != (kept.rate, kept.steps, kept.budget):
        raise UserError("a search goes on with the rows that it was reserved for, got others; restore its data")
    book.verify(search_folder.state.head)


def _best(work: Work, cell: Cell, search_folder: SearchFolder) -> Run:
    """Run the remaining trials. Only the best so far and the number of finished trials are kept."""
    settled, secret = resolve_hardware(cell.spec, work.place.machine), Secret()
    search_folder.check_runs_on(f"{identity(cell.spec.model)} {settled.precision} {settled.device.type}")
    assert cell.trials is not None
    assert search_folder.state.runs is not None
    while search_folder.state.done < search_folder.state.runs:
        trial = search_folder.state.begun
        if trial is None:
            trial = search_folder.begin(cell.trials.drawn_spec(cell.spec, secret), int(secret.words(1)[0]))
        search_folder.end(*_tried(work, cell, search_folder, trial))
    best = search_folder.state.best
    assert best is not None  # a geometric K is never 0
    if best.run is None:
        raise UserError(
            f"a search must have a trial that finishes, got none ({best.failure}); its budget is spent: plan "
            "another search with another --to"
        )
    return Run.open(search_folder.path / best.run)


def _tried(
    work: Work, cell: Cell, search_folder: SearchFolder, trial: OneTrial
) -> tuple[Path | None, float, str | None]:
    """(run, merit, None) of a trial; (None, -inf, why) of one that failed.

    Whether a trial fails may depend on its rows, so a failed trial counts as a trial. A kill, a full disk, too little
    memory, and errors before the first step end the search, which can be resumed.
    """
    place = search_folder.place(trial.number)
    there = work.in_subfolder(str(place.relative_to(work.folder.path)), place / "ledger.sqlite").without_counts()
    there.folder.recover()
    try:
        result = there.one(cell.spec.stating(**trial.changes), HiddenProgress(), _planner(search_folder.state.plan))[0]
    except (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, StorageError):
        raise
    except Exception as error:
        if not there.folder.found():
            raise
        if os.environ.get("DPFT_DEBUG"):
            traceback.print_exc()
        return None, -math.inf, type(error).__name__  # its message may name the trial's folder, and so its number
    if math.isnan(result.merit):
        return None, -math.inf, "a metric that is not a number"
    return result.path, result.merit, None


def _planner(plan: Plan) -> Planner:
    """Plans every trial at the search's noise multiplier, which is larger than one run alone needs."""

    def make(spec: Spec, units: int) -> Plan:
        if plan.budget is None:
            return plan
        upper, name = epsilon_quick(plan.noise, plan.rate, plan.steps, plan.budget.delta)
        return dataclasses.replace(plan, clip=spec.clip, epsilon_upper=upper, accountant=name)

    return make
