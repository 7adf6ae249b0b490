"""Searches on a cell's own rows, charged as a whole, under the conditions of Papernot and Steinke (2022), theorem 2.

The theorem bounds the best of K independent runs of one mechanism. So K is drawn first and kept secret; every trial
draws its own learning rate and clip in secret; equal trials are run again with noise of their own; ties are broken by
secret coins; a trial that fails is the worst result and not repeated. Nothing that is published may depend on K or on
the winner's number: its files have the search's identity, its ledger head and its time, no times or memory of a trial,
and all searches of a comparison are reserved before the first trial of any.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dpft import charging, overlap
from dpft.card import promise
from dpft.compare.cells import Cell
from dpft.compare.corner import Corner, OneTrial
from dpft.compare.planning import plan_cell, terms
from dpft.compare.trials import Trials
from dpft.compare.watch import How, Outcome
from dpft.privacy.accountants import epsilon_quick
from dpft.privacy.ledger import Ledger, Search, StorageError
from dpft.privacy.ledger.entries import SECRET
from dpft.privacy.ledger.summary import summarize
from dpft.privacy.plan import Plan
from dpft.privacy.search import draw_runs
from dpft.privacy.secret import Secret
from dpft.progress import Progress
from dpft.result import Result
from dpft.rows import rows_of
from dpft.run import Run, flush_folder, free, private_folder, write
from dpft.seen import Seen
from dpft.spec import Spec, UserError
from dpft.tasks.records import spelled
from dpft.training import Planner

if TYPE_CHECKING:
    from dpft.compare.work import Work

Done = tuple[Result, str | None, How]
_CARRIED = ("spec.json", "adapter.safetensors")


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
        known, how = _publish(work, cell, corner, _best(work, cell, corner)), "trained"
    corner.remove()
    return Result.from_json({**(Run.open(known).read_json("result") or {}), "path": known}), None, how


def _reserved(work: Work, cell: Cell) -> Corner:
    """The search's own corner, with its plan reserved in the ledger and K drawn, once; both are checked on return."""
    trials, task = cell.trials, rows_of(cell.spec, work.shelf)
    assert trials is not None
    if task.validation is None:
        raise UserError("a search needs rows to judge its trials by, got no validation rows; pass --validation FILE")
    shared = overlap.shared_records(task)
    if shared is not None and cell.epsilon is not None:
        raise UserError(
            f"rows that trials are judged by must not be training rows, got such a one in validation row {shared}; "
            "remove what both have from the validation rows"
        )
    plan = plan_cell(cell, task.train.protected)
    corner = Corner(work.folder.path, cell.digest)
    corner.open(plan)
    asked = terms(cell, corner.plan, corner.id)
    if not isinstance(asked, Search):  # without privacy nothing is charged and nothing hidden
        if corner.runs is None:
            corner.drawn(trials.count, "", "", None)
        return corner
    with Ledger(work.place.ledger) as book:
        if corner.runs is None:
            if book.search(asked.run) is None:
                claim = book.claim(task.train.texts, task.train.pairs, work.place.population, cell.spec.unit)
                book.reserve_search(
                    asked.run, rate=asked.rate, noise=asked.noise, steps=asked.steps, mean=asked.mean,
                    shape=asked.shape, claim=claim, data=book.keyed(spelled(task.train)),
                )  # fmt: skip
            _draw(book, corner, asked)
        same = charging.is_reserved_for(book, asked.run, task.train)
        _check_same(book, corner, asked, plan if same else None)
    return corner


def _draw(book: Ledger, corner: Corner, asked: Search) -> None:
    population = book.view().holding(asked.run)
    assert population is not None
    summary = summarize(population, corner.delta).to_json()
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
    if plan is None or (plan.rate, plan.steps, plan.budget) != (
        corner.plan.rate,
        corner.plan.steps,
        corner.plan.budget,
    ):
        raise UserError("a search goes on with the rows that it was reserved for, got others; restore its data")
    book.verify(corner.head)


def _best(work: Work, cell: Cell, corner: Corner) -> Run:
    """Run what is left of the trials. Only the best so far is kept, beside the number of those that are done."""
    assert cell.trials is not None
    assert corner.runs is not None
    secret = Secret()
    while corner.done < corner.runs:
        trial = corner.begun or corner.begin(cell.trials.drawn_spec(cell.spec, secret), int(secret.words(1)[0]))
        corner.end(_tried(work, cell, corner, trial))
    if corner.best is None:
        raise UserError(
            f"a search must have a trial that comes to its end, got none ({corner.failure}); its "
            "budget is spent: plan another search with another --to"
        )
    return Run.open(corner.best)


def _tried(work: Work, cell: Cell, corner: Corner, trial: OneTrial) -> tuple[Path | None, float, str]:
    """The run of a trial, its value and what it ran on; of one that fails no run, the least value and why.

    That a trial fails may depend on its rows, so that it counts as a trial like all others. A kill, a full disk, too
    little memory, and whatever is refused before the first step end the search, which is taken up again.
    """
    there = work.elsewhere(
        str(corner.place(trial).relative_to(work.folder.path)), corner.place(trial) / "ledger.sqlite"
    )
    there = there.unseen()
    spec = dataclasses.replace(cell.spec, **trial.changes)
    there.folder.recover()
    try:
        result = there.one(spec, Quiet(), _planner(corner.plan))[0]
    except (OSError, MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, StorageError):
        raise
    except Exception as error:
        if os.environ.get("DPFT_DEBUG") or not there.folder.found():
            raise
        return None, -math.inf, f"unexpected {type(error).__name__}"
    ran_on = f"{_backbone(result.path)} {result.precision} {result.device}"
    if result.value is None or math.isnan(result.value):
        return None, -math.inf, "a value that is no number"
    return result.path, result.value, ran_on


def _backbone(path: Path) -> str:
    found = Run.open(path).read_tensors("adapter")
    return "" if found is None else str(found[1].get("backbone_sha256"))


def _planner(plan: Plan) -> Planner:
    """Every trial at the search's noise, which is more than one run alone would need."""

    def make(spec: Spec, units: int) -> Plan:
        if plan.budget is None:
            return plan
        upper, name = epsilon_quick(plan.noise, plan.rate, plan.steps, plan.budget.delta)
        return dataclasses.replace(plan, clip=spec.clip, epsilon_upper=upper, accountant=name)

    return make


def _publish(work: Work, cell: Cell, corner: Corner, run: Run) -> Path:
    """The best trial as a run of its own, under the label of the whole search; all of it appears at once.

    Nothing of it tells which trial it was, how long it took or when the search was over.
    """
    assert cell.trials is not None
    target = free(work.folder.runs / run.path.name.rpartition("-")[0], corner.id)
    making = target.with_name(f".{target.name}")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    for name in _CARRIED:
        write(making / name, (run.path / name).read_bytes())
    private_folder(making / "private")
    seen = Seen.read(run)
    if seen is not None:
        seen.called(corner.id).keep(dataclasses.replace(run, path=making))
    found = Result.from_json({**(run.read_json("result") or {}), "path": run.path})
    plan = dataclasses.replace(corner.plan, clip=run.plan.clip)
    hidden: dict[str, Any] = {} if plan.budget is None else {"seconds": None, "memory_mib": None}
    result = dataclasses.replace(found, path=target, epsilon=plan.epsilon_upper, **hidden)
    ledger = work.place.to_json()["ledger"] if corner.head else ""
    about = {"format": 1, "id": corner.id, "ledger": ledger, "ledger_head": corner.head}
    search = {"cell": cell.digest, "ranges": cell.trials.to_json(), "law": "geometric"}
    card = _card(run, plan, cell.trials, corner)
    files = {"plan": plan.to_json(), "privacy": card, "run": about, "result": result.to_json(), "search": search}
    for name, content in files.items():
        write(making / f"{name}.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())
    if corner.time:
        _date(making, datetime.fromisoformat(corner.time).timestamp())
    os.replace(making, target)
    flush_folder(target.parent)  # before the only other copy is deleted
    return target


def _date(folder: Path, time: float) -> None:
    """Give `folder` and all in it the same time."""
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (time, time))


def _card(run: Run, plan: Plan, trials: Trials, corner: Corner) -> dict[str, Any]:
    """The trial's card, with the search's promise in the place of the trial's."""
    card: dict[str, Any] = run.read_json("privacy") or {}
    if plan.budget is None or plan.epsilon_upper is None:
        says = f"the best of {trials.count} runs by the validation rows; nothing is private"
        return {**card, "tuning": {"charged": False, "statement": says}}
    says = (
        f"the best of a random number of runs, geometric with mean {trials.count}, each at this noise and with a "
        "learning rate and clip that it drew in secret; the promise is of the whole search (Papernot and Steinke "
        "2022), and its other runs were deleted unseen"
    )
    return {
        **card, "statement": promise(run.spec, plan), "epsilon": plan.epsilon_upper,
        "accountant": plan.accountant, "ledger_head": corner.head, "population": corner.population,
        "does_not_cover": [*card["does_not_cover"], UNSEEN, *([STRANGERS] if run.spec.unit != Spec.unit else [])],
        "tuning": {
            "charged": True, "mean": trials.count, "law": "geometric", "draws": SECRET, "statement": says,
        },
    }  # fmt: skip


STRANGERS = (
    "that the validation rows, which chose the best run, are of other people than the training rows: only equal texts "
    "are looked for, and people with other texts in both are taken not to be there"
)
UNSEEN = (
    "how many runs the search had, for whoever watched the machine or its folder, or sees when the file system made "
    "this folder (ctime) and what was written after it: the duration tells; the files here have the time of the "
    "reservation, and `population` is as of then"
)
